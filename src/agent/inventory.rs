//! What this machine consists of, read from sysfs (kernel Documentation/ABI: class/dmi, class/net, class/block).

use crate::wire::agent::{Disk, Inventory};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// How much of each end of a disk is looked at to call it blank: partition tables, file system and RAID
/// superblocks lie within it.
const PROBE_BYTES: usize = 1 << 20;

/// Reads DMI, NICs and disks. What cannot be read is absent, not an error: the disk rule decides what
/// it can do without.
#[must_use]
pub fn take() -> Inventory {
    let dmi = |name: &str| text(&Path::new("/sys/class/dmi/id").join(name));
    Inventory {
        system_uuid: dmi("product_uuid").map(|uuid| uuid.to_lowercase()),
        serial: dmi("product_serial").filter(|serial| serial != "Not Specified"),
        product: dmi("product_name"),
        macs: macs(Path::new("/sys/class/net")),
        disks: disks(Path::new("/sys/block")),
    }
}

/// Whether the firmware that booted us is UEFI.
#[must_use]
pub fn booted_by_uefi() -> bool {
    Path::new("/sys/firmware/efi").is_dir()
}

fn macs(class: &Path) -> Vec<String> {
    let mut macs: Vec<String> = entries(class)
        .into_iter()
        // Only what hangs on a bus: not lo, bridges or bonds.
        .filter(|nic| class.join(nic).join("device").exists())
        .filter_map(|nic| text(&class.join(nic).join("address")))
        .collect();
    macs.sort();
    macs.dedup();
    macs
}

fn disks(block: &Path) -> Vec<Disk> {
    let mut names = entries(block);
    names.sort();
    names
        .into_iter()
        .filter(|name| block.join(name).join("device").exists())
        .filter_map(|name| disk(block, &name))
        .collect()
}

fn disk(block: &Path, name: &str) -> Option<Disk> {
    let skipped = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];
    if skipped.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let dir = block.join(name);
    let number = |file: &str| text(&dir.join(file)).and_then(|text| text.parse::<u64>().ok());
    // sysfs counts in 512-byte units whatever the disk's own sector size is.
    let size_bytes = number("size")?.checked_mul(512)?;
    if size_bytes == 0 {
        return None; // an empty card reader
    }
    let any = |files: &[&str]| files.iter().find_map(|file| text(&dir.join(file)));
    Some(Disk {
        name: name.to_string(),
        serial: any(&["serial", "device/serial"]).or_else(|| scsi_serial(&dir)),
        wwn: any(&["wwid", "device/wwid"]).filter(|wwid| !wwid.starts_with("t10.")),
        model: any(&["device/model"]),
        size_bytes,
        sector_bytes: number("queue/logical_block_size").and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(512),
        transport: transport(name, &fs::canonicalize(&dir).unwrap_or_default()),
        removable: number("removable") == Some(1),
        read_only: number("ro") == Some(1),
        content: content(&Path::new("/dev").join(name), size_bytes)
            .unwrap_or_else(|error| Some(format!("unreadable: {error}"))),
    })
}

/// SPC-4 section 7.8.15: VPD page 80h is a 4-byte head and the serial number in ASCII.
fn scsi_serial(dir: &Path) -> Option<String> {
    let page = fs::read(dir.join("device/vpd_pg80")).ok()?;
    let serial = String::from_utf8_lossy(page.get(4..)?).trim().to_string();
    (!serial.is_empty()).then_some(serial)
}

fn transport(name: &str, device: &Path) -> String {
    let path = device.to_string_lossy();
    let word = match name {
        _ if path.contains("/usb") => "usb",
        _ if name.starts_with("nvme") => "nvme",
        _ if name.starts_with("vd") => "virtio",
        _ if path.contains("/ata") => "ata",
        _ if name.starts_with("sd") => "scsi",
        _ => "other",
    };
    word.to_string()
}

/// What the ends of a disk show; `None` is blank.
fn content(device: &Path, size_bytes: u64) -> io::Result<Option<String>> {
    let mut file = File::open(device)?;
    let probe = usize::try_from(size_bytes).map_or(PROBE_BYTES, |size| size.min(PROBE_BYTES));
    let mut head = vec![0u8; probe];
    file.read_exact(&mut head)?;
    let mut tail = vec![0u8; probe];
    file.seek(SeekFrom::End(-i64::try_from(probe).unwrap_or(0)))?;
    file.read_exact(&mut tail)?;
    Ok(signature(&head, &tail))
}

/// Names the first signature found (offsets from each format's own documentation), or `data`.
fn signature(head: &[u8], tail: &[u8]) -> Option<String> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let found = [
        ("gpt", at(512, b"EFI PART") || at(4096, b"EFI PART")),
        ("lvm", at(512, b"LABELONE") || at(0, b"LABELONE")),
        ("luks", at(0, b"LUKS\xba\xbe")),
        ("xfs", at(0, b"XFSB")),
        ("btrfs", at(0x1_0040, b"_BHRfS_M")),
        ("ext", at(0x438, &[0x53, 0xef])),
        ("md raid", at(4096, &[0xfc, 0x4e, 0x2b, 0xa9]) || at(0, &[0xfc, 0x4e, 0x2b, 0xa9])),
        ("mbr", at(510, &[0x55, 0xaa])),
        ("backup gpt", tail.len() >= 512 && tail[tail.len() - 512..].starts_with(b"EFI PART")),
        ("data", head.iter().chain(tail).any(|byte| *byte != 0)),
    ];
    found.iter().find(|(_, found)| *found).map(|(word, _)| (*word).to_string())
}

fn entries(dir: &Path) -> Vec<String> {
    let list = fs::read_dir(dir).into_iter().flatten().flatten();
    list.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The trimmed text of a small file, inner runs of blanks made one; `None` when absent or empty.
fn text(path: &Path) -> Option<String> {
    let raw = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&raw).split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.trim_matches('\0').to_string();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_disk_is_blank_and_anything_else_is_named() {
        let blank = vec![0u8; PROBE_BYTES];
        assert_eq!(signature(&blank, &blank), None);
        let mut gpt = blank.clone();
        gpt[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(signature(&gpt, &blank).as_deref(), Some("gpt"));
        let mut tail = blank.clone();
        tail[PROBE_BYTES - 512..][..8].copy_from_slice(b"EFI PART");
        assert_eq!(signature(&blank, &tail).as_deref(), Some("backup gpt"));
        let mut data = blank.clone();
        data[700_000] = 1;
        assert_eq!(signature(&data, &blank).as_deref(), Some("data"));
    }

    #[test]
    fn usb_sticks_and_sas_disks_are_told_apart_by_their_path() {
        let path = Path::new("/sys/devices/pci0000:00/0000:00:1d.0/usb2/2-1/host6/target6:0:0/6:0:0:0/block/sdb");
        assert_eq!(transport("sdb", path), "usb");
        assert_eq!(transport("sda", Path::new("/sys/devices/pci0000:00/0000:00:1f.2/ata1/host0")), "ata");
        assert_eq!(transport("sda", Path::new("/sys/devices/pci0000:00/host0/target0:2:0")), "scsi");
        assert_eq!(transport("nvme0n1", Path::new("/sys/devices/pci0000:00/nvme/nvme0")), "nvme");
    }
}
