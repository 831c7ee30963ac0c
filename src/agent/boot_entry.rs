//! The UEFI boot entry of the system that was just written (UEFI 2.10 sections 3.1.3 and 3.3).
//!
//! The network entry that booted us stays first, so that the server keeps the machine; our entry for the
//! disk comes right behind it, so that the machine also boots when the server is away. Entries of other
//! disks keep their place and content.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where Linux shows the variables.
pub const EFIVARS: &str = "/sys/firmware/efi/efivars";
/// EFI_GLOBAL_VARIABLE.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Non-volatile, boot service and run-time access: what the specification asks of boot variables.
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];
const DESCRIPTION: &str = "regild disk";
const LOAD_OPTION_ACTIVE: u32 = 1;

/// Where the loader lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderPlace {
    /// Number of the ESP in the GPT, from 1.
    pub partition_number: u32,
    /// In logical blocks of the disk.
    pub first_lba: u64,
    pub blocks: u64,
    /// The partition's unique GUID in its GPT byte order.
    pub partition_guid: [u8; 16],
    /// `\EFI\BOOT\BOOTX64.EFI`.
    pub path: String,
}

/// Makes the entry for `place` and puts it behind the entry that booted us.
///
/// # Errors
/// What writing the variables gives: a full or read-only NVRAM. The disk is good all the same.
pub fn make_right(efivars: &Path, place: &LoaderPlace) -> io::Result<()> {
    let entries = boot_entries(efivars)?;
    let ours: Vec<u16> = entries.iter().filter(|(_, option)| is_ours(option)).map(|(number, _)| *number).collect();
    let option = load_option(place);
    let number = match ours.first() {
        Some(number) => *number,
        None => (0..=u16::MAX).find(|number| entries.iter().all(|(taken, _)| taken != number)).unwrap_or(0),
    };
    let current = read(&variable(efivars, &boot_name(number)))?;
    if current.as_deref() != Some(&option[..]) {
        write(&variable(efivars, &boot_name(number)), &option)?;
    }
    for double in ours.iter().skip(1) {
        fs::remove_file(variable(efivars, &boot_name(*double)))?;
    }
    let order = numbers(read(&variable(efivars, "BootOrder"))?.as_deref());
    let booted = numbers(read(&variable(efivars, "BootCurrent"))?.as_deref()).first().copied();
    let wanted = boot_order(&order, booted, number, &ours);
    if wanted != order {
        let raw: Vec<u8> = wanted.iter().flat_map(|number| number.to_le_bytes()).collect();
        write(&variable(efivars, "BootOrder"), &raw)?;
    }
    Ok(())
}

/// Makes the firmware boot over the network once, next time, whatever its order is. Of the network entries it takes the
/// one that booted us, else the first of the order; `None` where there is none, and then nothing is changed.
///
/// # Errors
/// What reading or writing the variables gives.
pub fn network_next(efivars: &Path) -> io::Result<Option<u16>> {
    let entries = boot_entries(efivars)?;
    let is_network = |number: &u16| {
        entries.iter().any(|(known, option)| known == number && is_active(option) && leads_to_network(option))
    };
    let booted = numbers(read(&variable(efivars, "BootCurrent"))?.as_deref());
    let order = numbers(read(&variable(efivars, "BootOrder"))?.as_deref());
    let Some(number) = booted.into_iter().chain(order).find(is_network) else { return Ok(None) };
    write(&variable(efivars, "BootNext"), &number.to_le_bytes())?;
    Ok(Some(number))
}

fn is_active(option: &[u8]) -> bool {
    option.first().is_some_and(|attributes| u32::from(*attributes) & LOAD_OPTION_ACTIVE != 0)
}

/// Whether the device path has a MAC address in it (section 10.3.4.9: messaging device, subtype 11).
fn leads_to_network(option: &[u8]) -> bool {
    let units = option.get(6..).unwrap_or_default().chunks_exact(2);
    // The path begins behind the description, which ends with a NUL.
    let description_bytes = (units.take_while(|unit| *unit != [0, 0]).count() + 1) * 2;
    let mut rest = option.get(6 + description_bytes..).unwrap_or_default();
    while let [kind, subtype, low, high, ..] = *rest {
        match (kind, subtype) {
            (3, 11) => return true,
            // Behind the path's end there is data of whoever made the entry.
            (0x7f, 0xff) => return false,
            _ => {}
        }
        // A node that has no length or a wrong one: nothing can be read behind it.
        rest = rest.get(usize::from(u16::from_le_bytes([low, high])).max(4)..).unwrap_or_default();
    }
    false
}

/// The order: what booted us, our entry, then everything else as it was.
fn boot_order(order: &[u16], booted: Option<u16>, ours: u16, old_ours: &[u16]) -> Vec<u16> {
    let mut wanted: Vec<u16> = booted.into_iter().filter(|number| order.contains(number) && *number != ours).collect();
    wanted.push(ours);
    let rest: Vec<u16> = order.iter().copied().filter(|n| !wanted.contains(n) && !old_ours.contains(n)).collect();
    wanted.extend(rest);
    wanted
}

fn boot_entries(efivars: &Path) -> io::Result<Vec<(u16, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(efivars)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(digits) = name.strip_prefix("Boot").and_then(|rest| rest.strip_suffix(&format!("-{GLOBAL}"))) else {
            continue;
        };
        // from_str_radix would take a sign, too.
        if digits.len() == 4
            && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
            && let Ok(number) = u16::from_str_radix(digits, 16)
            && let Some(option) = read(&efivars.join(&name))?
        {
            found.push((number, option));
        }
    }
    found.sort_unstable_by_key(|(number, _)| *number);
    Ok(found)
}

fn is_ours(option: &[u8]) -> bool {
    option.get(6..).is_some_and(|rest| rest.starts_with(&ucs2(DESCRIPTION)))
}

/// EFI_LOAD_OPTION: attributes, length of the path list, description, path list.
fn load_option(place: &LoaderPlace) -> Vec<u8> {
    let path = device_path(place);
    let mut option = LOAD_OPTION_ACTIVE.to_le_bytes().to_vec();
    // A path of at most a few hundred bytes; the file name length is bounded by the manifest.
    option.extend_from_slice(&u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
    option.extend_from_slice(&ucs2(DESCRIPTION));
    option.extend_from_slice(&path);
    option
}

/// HD() / File() / End: the short form that firmware expands by the partition's GUID (section 3.1.2).
fn device_path(place: &LoaderPlace) -> Vec<u8> {
    let mut path = vec![4, 1, 42, 0];
    path.extend_from_slice(&place.partition_number.to_le_bytes());
    path.extend_from_slice(&place.first_lba.to_le_bytes());
    path.extend_from_slice(&place.blocks.to_le_bytes());
    path.extend_from_slice(&place.partition_guid);
    path.extend_from_slice(&[2, 2]); // GPT; the signature is a GUID
    let file = ucs2(&place.path.replace('/', "\\"));
    path.extend_from_slice(&[4, 4]);
    path.extend_from_slice(&u16::try_from(file.len() + 4).unwrap_or(u16::MAX).to_le_bytes());
    path.extend_from_slice(&file);
    path.extend_from_slice(&[0x7f, 0xff, 4, 0]);
    path
}

/// A GUID's text in the byte order of GPT and device paths: the first three parts are little-endian (UEFI 2.10
/// appendix A).
#[must_use]
pub fn guid_bytes(text: &str) -> Option<[u8; 16]> {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let is_hex = hex.len() == 32 && hex.bytes().all(|digit| digit.is_ascii_hexdigit());
    let value = u128::from_str_radix(&hex, 16).ok().filter(|_| is_hex)?;
    let mut bytes = value.to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(bytes)
}

fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

fn numbers(raw: Option<&[u8]>) -> Vec<u16> {
    raw.unwrap_or_default().chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn boot_name(number: u16) -> String {
    format!("Boot{number:04X}")
}

fn variable(efivars: &Path, name: &str) -> PathBuf {
    efivars.join(format!("{name}-{GLOBAL}"))
}

/// A variable without the four bytes of attributes that efivarfs puts in front.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(raw) => Ok(Some(raw.get(4..).unwrap_or_default().to_vec())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// efivarfs takes attributes and value in one write.
fn write(path: &Path, value: &[u8]) -> io::Result<()> {
    fs::write(path, [&ATTRIBUTES[..], value].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> LoaderPlace {
        LoaderPlace {
            partition_number: 2,
            first_lba: 4096,
            blocks: 131_072,
            partition_guid: *b"0123456789abcdef",
            path: "\\EFI\\BOOT\\BOOTX64.EFI".to_string(),
        }
    }

    fn with_entries(entries: &[(u16, &[u8])], order: &[u16], booted: u16) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (number, option) in entries {
            write(&variable(dir.path(), &boot_name(*number)), option).unwrap();
        }
        let raw: Vec<u8> = order.iter().flat_map(|number| number.to_le_bytes()).collect();
        write(&variable(dir.path(), "BootOrder"), &raw).unwrap();
        write(&variable(dir.path(), "BootCurrent"), &booted.to_le_bytes()).unwrap();
        dir
    }

    fn order(dir: &Path) -> Vec<u16> {
        numbers(read(&variable(dir, "BootOrder")).unwrap().as_deref())
    }

    #[test]
    fn a_guid_is_turned_into_the_byte_order_of_the_disk() {
        // The type GUID of an EFI system partition, as it lies on every GPT disk.
        let esp = guid_bytes("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").unwrap();
        assert_eq!(esp, *b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b");
        for wrong in ["c12a7328", "+12a7328-f81f-11d2-ba4b-00a0c93ec93b", ""] {
            assert_eq!(guid_bytes(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_network_stays_first_and_the_new_disk_comes_second() {
        let dir = with_entries(&[(0, b"setup"), (1, b"other disk"), (2, b"network")], &[1, 2, 0], 2);
        make_right(dir.path(), &place()).unwrap();
        assert_eq!(order(dir.path()), [2, 3, 1, 0]);
        assert_eq!(read(&variable(dir.path(), "Boot0003")).unwrap().unwrap(), load_option(&place()));
        assert_eq!(read(&variable(dir.path(), "Boot0001")).unwrap().unwrap(), b"other disk");
    }

    #[test]
    fn a_rebuild_replaces_the_entry_of_the_former_image_and_adds_none() {
        let former = load_option(&LoaderPlace { partition_guid: [9; 16], ..place() });
        let dir = with_entries(&[(2, b"network"), (5, &former), (7, &former)], &[2, 5, 7], 2);
        for _ in 0..2 {
            make_right(dir.path(), &place()).unwrap();
            assert_eq!(order(dir.path()), [2, 5]);
            assert_eq!(boot_entries(dir.path()).unwrap().len(), 2);
        }
        assert_eq!(read(&variable(dir.path(), "Boot0005")).unwrap().unwrap(), load_option(&place()));
    }

    /// EFI_LOAD_OPTION with a PCI node and the given ones.
    fn option(active: bool, nodes: &[u8]) -> Vec<u8> {
        let path = [&[1, 1, 6, 0, 0, 3][..], nodes, &[0x7f, 0xff, 4, 0]].concat();
        let length = u16::try_from(path.len()).unwrap().to_le_bytes();
        [&[u8::from(active), 0, 0, 0][..], &length, &ucs2("UEFI PXEv4"), &path].concat()
    }

    #[test]
    fn the_next_boot_goes_over_the_network_entry_that_booted_us_or_the_first_that_is_active() {
        let mac = [&[3, 11, 37, 0][..], &[0; 33]].concat();
        let (network, asleep) = (option(true, &mac), option(false, &mac));
        // A MAC node behind the path's end is no network.
        let disk = [option(true, &[4, 1, 4, 0]), mac.clone()].concat();
        let entries: [(u16, &[u8]); 4] = [(1, &disk), (2, &asleep), (3, &network), (4, &network)];
        let next = |dir: &Path| read(&variable(dir, "BootNext")).unwrap().map(|raw| numbers(Some(&raw)));
        for (booted, wanted) in [(4, 4), (1, 3), (2, 3)] {
            let dir = with_entries(&entries, &[1, 2, 3, 4], booted);
            assert_eq!(network_next(dir.path()).unwrap(), Some(wanted), "booted by {booted}");
            assert_eq!(next(dir.path()), Some(vec![wanted]));
            assert_eq!(order(dir.path()), [1, 2, 3, 4], "the order is the machine's own");
        }
        let dir = with_entries(&[(1, &disk), (2, b""), (5, b"12345")], &[1, 2, 5], 1);
        assert_eq!(network_next(dir.path()).unwrap(), None);
        assert_eq!(next(dir.path()), None);
    }

    /// Byte for byte what `efibootmgr -c -d DISK -p 2 -l '\EFI\BOOT\BOOTX64.EFI'` writes, but for its label.
    #[test]
    fn the_load_option_has_the_form_of_the_specification() {
        let option = load_option(&place());
        assert_eq!(option[..4], [1, 0, 0, 0]);
        let list = usize::from(u16::from_le_bytes([option[4], option[5]]));
        let path = &option[option.len() - list..];
        assert_eq!(path[..4], [4, 1, 42, 0]);
        assert_eq!(path[4..8], 2u32.to_le_bytes());
        assert_eq!(path[40..42], [2, 2]);
        assert_eq!(path[42..46], [4, 4, 48, 0]);
        assert_eq!(path[path.len() - 4..], [0x7f, 0xff, 4, 0]);
        assert_eq!(option.len(), 6 + (DESCRIPTION.len() + 1) * 2 + list);
    }
}
