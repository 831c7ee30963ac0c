//! Partition tables: the image's, and what a host may have made of its own.
//!
//! A table that was fitted to a larger disk, a last partition that was grown into it (cloud-init does that at the first
//! boot) and partitions that were added behind the image are no difference of the system; a partition that is gone, or
//! begins elsewhere, or became another one, is.

use std::ops::Range;

use crate::gpt;
use crate::wire::manifest::Partition;

/// A partition by what makes it the same one, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// As in `vda1`.
    pub number: u32,
    /// GUIDs of type and partition, or the type byte of an MBR.
    pub identity: String,
    pub range: Range<u64>,
}

/// The table of a disk or an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub kind: TableKind,
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// The bytes of its primary header and entries, from the first MiB's start.
    Gpt {
        header_at: usize,
        entries_end: usize,
        sector_bytes: u32,
    },
    Mbr,
    None,
}

/// Bytes of the MBR's four entries.
pub const MBR_ENTRIES: Range<usize> = 446..510;
const PROTECTIVE: u8 = 0xee;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// Reads the table in the first MiB.
///
/// # Errors
/// Why it is none that can be used, in one line.
pub fn read(head: &[u8]) -> Result<Table, String> {
    if let Some(table) = gpt::read(head).map_err(|error| crate::causes::in_one_line(&error))? {
        let sector = u64::from(table.sector_bytes);
        let part = |partition: Partition| Part {
            number: partition.number,
            identity: format!("{} {}", partition.type_guid, partition.unique_guid),
            range: partition.first_lba * sector..(partition.last_lba + 1) * sector,
        };
        let entries_end = 2 * sector as usize + table.entries_bytes();
        let kind = TableKind::Gpt { header_at: sector as usize, entries_end, sector_bytes: table.sector_bytes };
        return Ok(Table { kind, parts: table.partitions().into_iter().map(part).collect() });
    }
    let parts = mbr(head);
    let kind = if parts.is_empty() { TableKind::None } else { TableKind::Mbr };
    Ok(Table { kind, parts })
}

/// The four entries of an MBR whose sectors have 512 bytes; none where it is the boot sector of a file system.
fn mbr(head: &[u8]) -> Vec<Part> {
    let (Some(entries), Some([0x55, 0xaa])) = (head.get(MBR_ENTRIES), head.get(510..512)) else { return Vec::new() };
    let word = |entry: &[u8], at: usize| {
        u64::from(u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]))
    };
    let entry = |(number, entry): (u32, &[u8])| {
        let (kind, first, count) = (entry[4], word(entry, 8), word(entry, 12));
        (kind != 0 && first > 0 && count > 0).then(|| Part {
            number,
            identity: format!("{kind:02x}"),
            range: first * 512..(first + count) * 512,
        })
    };
    let status_is_right = entries.chunks(16).all(|entry| matches!(entry[0], 0 | 0x80));
    let parts: Vec<Part> = (1..).zip(entries.chunks(16)).filter_map(entry).collect();
    if status_is_right { parts } else { Vec::new() }
}

/// What became of the image's partitions on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fate {
    /// Sentences about those that are not as the image has them; empty: all of them are.
    pub changed: Vec<String>,
    /// Those that the image does not have.
    pub added: Vec<Part>,
}

#[must_use]
pub fn compare(image: &Table, disk: &Table) -> Fate {
    let mut fate = Fate::default();
    for part in &image.parts {
        let Some(now) = disk.parts.iter().find(|now| now.number == part.number) else {
            fate.changed.push(format!("partition {} is gone", part.number));
            continue;
        };
        if now.identity != part.identity || now.range.start != part.range.start {
            fate.changed.push(format!("partition {} is another one", part.number));
        } else if now.range.end < part.range.end {
            fate.changed.push(format!("partition {} is shorter", part.number));
        }
    }
    let is_known = |now: &Part| image.parts.iter().any(|part| part.number == now.number);
    fate.added = disk.parts.iter().filter(|now| !is_known(now)).cloned().collect();
    fate
}

/// Makes alike what any partitioning program may write into the MBR's entries of a disk with this table: how long the
/// protective entry is, and the cylinders, heads and sectors that nobody has used for decades. Of an MBR that is the table
/// itself, the lengths, which `compare` looks at.
pub fn level_mbr(sector: &mut [u8], kind: TableKind) {
    let Some(entries) = sector.get_mut(MBR_ENTRIES) else { return };
    for entry in entries.chunks_mut(16) {
        let is_protective = matches!(kind, TableKind::Gpt { .. }) && entry[4] == PROTECTIVE;
        if is_protective || matches!(kind, TableKind::Mbr) {
            entry[1..4].fill(0);
            entry[5..8].fill(0);
            entry[12..16].fill(0);
        }
    }
}

impl Part {
    /// One that holds further partitions, which are not looked for.
    #[must_use]
    pub fn is_extended(&self) -> bool {
        u8::from_str_radix(&self.identity, 16).is_ok_and(|kind| EXTENDED.contains(&kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32, identity: &str, range: Range<u64>) -> Part {
        Part { number, identity: identity.to_owned(), range }
    }

    fn table(parts: Vec<Part>) -> Table {
        Table { kind: TableKind::Mbr, parts }
    }

    #[test]
    fn a_partition_may_grow_and_others_may_come_and_none_may_go_or_change() {
        let image = table(vec![part(1, "83", 10..20), part(2, "83", 20..30)]);
        let grown = table(vec![part(1, "83", 10..20), part(2, "83", 20..90), part(3, "83", 90..100)]);
        let fate = compare(&image, &grown);
        assert_eq!((fate.changed, fate.added), (vec![], vec![part(3, "83", 90..100)]));
        for (changed, words) in [
            (vec![part(1, "83", 10..20)], "partition 2 is gone"),
            (vec![part(1, "82", 10..20), part(2, "83", 20..30)], "partition 1 is another one"),
            (vec![part(1, "83", 11..20), part(2, "83", 20..30)], "partition 1 is another one"),
            (vec![part(1, "83", 10..20), part(2, "83", 20..29)], "partition 2 is shorter"),
        ] {
            assert_eq!(compare(&image, &table(changed)).changed, [words]);
        }
    }

    #[test]
    fn an_mbr_is_read_where_there_is_one() {
        let mut head = vec![0u8; 1 << 20];
        assert_eq!(read(&head).unwrap(), Table { kind: TableKind::None, parts: vec![] });
        head[510..512].copy_from_slice(&[0x55, 0xaa]);
        head[446..462].copy_from_slice(&[0x80, 1, 2, 3, 0x83, 4, 5, 6, 0, 8, 0, 0, 0, 16, 0, 0]);
        let found = read(&head).unwrap();
        assert_eq!(found, Table { kind: TableKind::Mbr, parts: vec![part(1, "83", 2048 * 512..6144 * 512)] });
        let mut other = head.clone();
        other[458] = 17;
        other[447] = 9;
        level_mbr(&mut head, TableKind::Mbr);
        level_mbr(&mut other, TableKind::Mbr);
        assert_eq!(head, other);
        // The boot sector of a FAT ends like an MBR and has text where the entries would be.
        head[446] = b'N';
        assert_eq!(read(&head).unwrap().kind, TableKind::None);
    }
}
