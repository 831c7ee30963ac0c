//! What lies in a range of bytes, by the magic numbers of superblocks, and the names by which an fstab calls it.

use std::io::{self, Read, Seek, SeekFrom};

/// Enough for the superblock that lies farthest in: btrfs, 64 KiB and its label behind.
const PROBE_BYTES: usize = 0x10000 + 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Ext2,
    Ext3,
    Ext4,
    Vfat,
    Xfs,
    Btrfs,
    F2fs,
    Ntfs,
    Exfat,
    Squashfs,
    Erofs,
    Iso9660,
    Swap,
    Luks,
    LvmMember,
    RaidMember,
    /// A dm-verity superblock: the hash tree of another partition.
    Verity,
    /// Zeros only, as far as was looked.
    Blank,
    Unknown,
}

impl Format {
    /// As `blkid` names it, where it does.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Format::Ext2 => "ext2",
            Format::Ext3 => "ext3",
            Format::Ext4 => "ext4",
            Format::Vfat => "vfat",
            Format::Xfs => "xfs",
            Format::Btrfs => "btrfs",
            Format::F2fs => "f2fs",
            Format::Ntfs => "ntfs",
            Format::Exfat => "exfat",
            Format::Squashfs => "squashfs",
            Format::Erofs => "erofs",
            Format::Iso9660 => "iso9660",
            Format::Swap => "swap",
            Format::Luks => "crypto_LUKS",
            Format::LvmMember => "LVM2_member",
            Format::RaidMember => "linux_raid_member",
            Format::Verity => "DM_verity_hash",
            Format::Blank => "blank",
            Format::Unknown => "unknown",
        }
    }

    /// Whether [`super::open`] reads it.
    #[must_use]
    pub fn is_read_here(self) -> bool {
        matches!(self, Format::Ext2 | Format::Ext3 | Format::Ext4 | Format::Vfat)
    }

    /// Whether it is never written to in use.
    #[must_use]
    pub fn is_read_only(self) -> bool {
        matches!(self, Format::Squashfs | Format::Erofs | Format::Iso9660 | Format::Verity)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    pub format: Format,
    /// As in `UUID=`: lower case with hyphens; FAT's as `1A2B-3C4D`.
    pub uuid: Option<String>,
    /// As in `LABEL=`.
    pub label: Option<String>,
    /// Length of the file system by its own word, where it is one whose superblock says it plainly.
    pub bytes: Option<u64>,
}

/// Looks at the front of a device or section.
///
/// # Errors
/// It cannot be read.
pub fn detect(mut device: impl Read + Seek) -> io::Result<Detected> {
    device.seek(SeekFrom::Start(0))?;
    let mut head = Vec::with_capacity(PROBE_BYTES);
    device.take(PROBE_BYTES as u64).read_to_end(&mut head)?;
    Ok(detect_in(&head))
}

/// The same on the first bytes: 68 KiB show all that is known.
#[must_use]
pub fn detect_in(head: &[u8]) -> Detected {
    let format = format_of(head);
    let (uuid, label) = match format {
        Format::Ext2 | Format::Ext3 | Format::Ext4 => (uuid_at(head, 0x468), label_at(head, 0x478, 16)),
        Format::Xfs => (uuid_at(head, 32), label_at(head, 108, 12)),
        Format::Btrfs => (uuid_at(head, 0x10020), label_at(head, 0x1012b, 256)),
        Format::Erofs => (uuid_at(head, 1024 + 0x30), label_at(head, 1024 + 0x40, 16)),
        Format::Swap => (uuid_at(head, 0x40c), label_at(head, 0x41c, 16)),
        Format::Luks => (label_at(head, 0xa8, 40), None),
        Format::Vfat => fat_names(head),
        _ => (None, None),
    };
    Detected { format, uuid, label, bytes: bytes_of(format, head) }
}

/// Blocks times their length; the numbers are outside text.
fn bytes_of(format: Format, head: &[u8]) -> Option<u64> {
    let le16 = |at: usize| super::number::le16(head, at).ok().map(u64::from);
    let le32 = |at: usize| super::number::le32(head, at).ok().map(u64::from);
    let le64 = |at: usize| super::number::array(head, at).ok().map(u64::from_le_bytes);
    let times = |count: u64, log: u64| count.checked_mul(1u64.checked_shl(u32::try_from(log).ok()?)?);
    match format {
        Format::Ext2 | Format::Ext3 | Format::Ext4 => {
            // INCOMPAT_64BIT
            let high = if le32(0x460)? & 0x80 != 0 { le32(0x550)? } else { 0 };
            times(high << 32 | le32(0x404)?, le32(0x418)?.checked_add(10)?)
        }
        Format::Vfat => {
            let sectors = Some(le16(19)?).filter(|count| *count != 0).map_or_else(|| le32(32), Some)?;
            sectors.checked_mul(le16(11)?)
        }
        Format::Xfs => {
            let block_bytes = super::number::be32(head, 4).ok().map(u64::from)?;
            super::number::array(head, 8).ok().map(u64::from_be_bytes)?.checked_mul(block_bytes)
        }
        Format::Btrfs => le64(0x10070),
        Format::Squashfs => le64(40),
        Format::Erofs => times(le32(1024 + 36)?, u64::from(*head.get(1024 + 12)?)),
        _ => None,
    }
}

fn format_of(head: &[u8]) -> Format {
    let has = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let pages = [4096usize, 8192, 16384, 65536];
    let fixed: [(usize, &[u8], Format); 14] = [
        (0, b"LUKS\xba\xbe", Format::Luks),
        (0, b"XFSB", Format::Xfs),
        (0, b"hsqs", Format::Squashfs),
        (0, b"verity\0\0", Format::Verity),
        (0x10040, b"_BHRfS_M", Format::Btrfs),
        (1024, &0xe0f5_e1e2u32.to_le_bytes(), Format::Erofs),
        (1024, &0xf2f5_2010u32.to_le_bytes(), Format::F2fs),
        (0, &0xa92b_4efcu32.to_le_bytes(), Format::RaidMember),
        (4096, &0xa92b_4efcu32.to_le_bytes(), Format::RaidMember),
        (0x8001, b"CD001", Format::Iso9660),
        (3, b"NTFS    ", Format::Ntfs),
        (3, b"EXFAT   ", Format::Exfat),
        (512 + 24, b"LVM2 001", Format::LvmMember),
        (24, b"LVM2 001", Format::LvmMember),
    ];
    if let Some((_, _, format)) = fixed.iter().find(|(at, magic, _)| has(*at, magic)) {
        return *format;
    }
    if pages.iter().any(|page| has(page - 10, b"SWAPSPACE2") || has(page - 10, b"SWAP-SPACE")) {
        return Format::Swap;
    }
    if has(0x438, &[0x53, 0xef]) {
        return ext_of(head);
    }
    if is_fat(head) {
        return Format::Vfat;
    }
    if head.iter().all(|byte| *byte == 0) { Format::Blank } else { Format::Unknown }
}

/// By features, as libblkid tells them apart.
fn ext_of(head: &[u8]) -> Format {
    let word = |at: usize| super::number::le32(head, at).unwrap_or(0);
    let (compat, incompat, ro_compat) = (word(0x45c), word(0x460), word(0x464));
    // FILETYPE, RECOVER, META_BG; SPARSE_SUPER, LARGE_FILE, BTREE_DIR: all that ext3 knows.
    if incompat & 0x8 != 0 {
        return Format::Unknown;
    }
    if incompat & !(0x2 | 0x4 | 0x10) != 0 || ro_compat & !(0x1 | 0x2 | 0x4) != 0 {
        return Format::Ext4;
    }
    if compat & 0x4 != 0 { Format::Ext3 } else { Format::Ext2 }
}

/// A boot sector is also what GRUB and partition tables begin with: all its numbers must make sense.
fn is_fat(head: &[u8]) -> bool {
    let Some(boot) = head.get(..512) else {
        return false;
    };
    let sector_bytes = u16::from_le_bytes([boot[11], boot[12]]);
    let jumps = boot[0] == 0xe9 || (boot[0] == 0xeb && boot[2] == 0x90);
    jumps
        && boot[510..] == [0x55, 0xaa]
        && [512, 1024, 2048, 4096].contains(&sector_bytes)
        && boot[13].is_power_of_two()
        && (boot[14], boot[15]) != (0, 0)
        && (1..=2).contains(&boot[16])
        && (boot[21] == 0xf0 || boot[21] >= 0xf8)
}

fn fat_names(head: &[u8]) -> (Option<String>, Option<String>) {
    // FAT32 has no sectors in the 16-bit count of a FAT.
    let base = if head.get(22..24) == Some(&[0, 0]) { 67 } else { 39 };
    let serial = super::number::le32(head, base).unwrap_or(0);
    let uuid = format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff);
    let label = label_at(head, base + 4, 11).filter(|label| label != "NO NAME");
    (Some(uuid), label)
}

fn uuid_at(head: &[u8], at: usize) -> Option<String> {
    let bytes: [u8; 16] = super::number::array(head, at).ok()?;
    if bytes == [0; 16] {
        return None;
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// Text up to the first NUL, without the blanks that fill it up.
fn label_at(head: &[u8], at: usize, bytes: usize) -> Option<String> {
    let field = head.get(at..at.checked_add(bytes)?)?;
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}
