//! The parts of an image: its partitions by GPT or MBR, or the whole of it, and what lies in each.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

use crate::gpt;
use crate::volume::{Detected, Format, Section, detect};
use crate::wire::manifest::{Manifest, WINDOW_BYTES};

/// More partitions than anybody makes; a chain of logical ones can run in a circle.
const PARTS_MAX: usize = 256;
const MBR_SECTOR_BYTES: u64 = 512;

/// One partition, or the whole image (number 0).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub number: u32,
    pub offset_bytes: u64,
    pub length_bytes: u64,
    /// By its GUID partition table; empty elsewhere.
    pub type_guid: String,
    /// The type in an MBR, 0x83 for Linux.
    pub mbr_type: Option<u8>,
    pub part_uuid: Option<String>,
    pub part_label: Option<String>,
    /// Its table says that it is not written to (Discoverable Partitions Specification, bit 60).
    pub is_read_only: bool,
    /// All attribute bits of its entry; of an MBR's, 0x80: active.
    pub flags: u64,
    pub detected: Detected,
}

/// All parts of an image, by number.
pub fn list<I: Read + Seek>(manifest: &Manifest, image: &mut I) -> io::Result<Vec<Part>> {
    let mut parts = if manifest.boot.gpt { by_gpt(manifest, image)? } else { Vec::new() };
    if !manifest.boot.gpt {
        let whole = part(0, 0, manifest.image_bytes);
        let detected = detect::detect(&mut *image)?;
        if matches!(detected.format, Format::Unknown | Format::Blank) {
            parts = by_mbr(image, manifest.image_bytes)?;
        }
        if parts.is_empty() {
            return Ok(vec![Part { detected, ..whole }]);
        }
    }
    parts.truncate(PARTS_MAX);
    for part in &mut parts {
        part.detected = detect::detect(Section::new(&mut *image, part.offset_bytes, part.length_bytes))?;
    }
    Ok(parts)
}

fn part(number: u32, offset_bytes: u64, length_bytes: u64) -> Part {
    let detected = Detected { format: Format::Unknown, uuid: None, label: None, bytes: None };
    Part {
        number,
        offset_bytes,
        length_bytes,
        type_guid: String::new(),
        mbr_type: None,
        part_uuid: None,
        part_label: None,
        is_read_only: false,
        flags: 0,
        detected,
    }
}

fn by_gpt<I: Read + Seek>(manifest: &Manifest, image: &mut I) -> io::Result<Vec<Part>> {
    let mut head = vec![0; WINDOW_BYTES.min(manifest.image_bytes) as usize];
    image.seek(SeekFrom::Start(0))?;
    image.read_exact(&mut head)?;
    // The import has read the same bytes, so that an error here is not to be expected; then nothing is read-only.
    let table = gpt::read(&head).ok().flatten();
    let read_only = table.as_ref().map(|table| table.read_only()).unwrap_or_default();
    let flags: BTreeMap<u32, u64> = table.map(|table| table.attributes()).unwrap_or_default().into_iter().collect();
    let sector = u64::from(manifest.sector_bytes);
    let listed = manifest.boot.partitions.iter().map(|partition| Part {
        type_guid: partition.type_guid.to_ascii_lowercase(),
        part_uuid: Some(partition.unique_guid.to_ascii_lowercase()),
        part_label: Some(partition.name.clone()).filter(|name| !name.is_empty()),
        is_read_only: read_only.contains(&partition.number),
        flags: flags.get(&partition.number).copied().unwrap_or_default(),
        // Within 2^40 sectors, and in order: the import has checked it.
        ..part(
            partition.number,
            partition.first_lba * sector,
            (partition.last_lba.saturating_sub(partition.first_lba) + 1) * sector,
        )
    });
    Ok(listed.collect())
}

/// Primary partitions are 1 to 4; logical ones follow from 5 on, each in a table of its own that points to the next.
fn by_mbr<I: Read + Seek>(image: &mut I, image_bytes: u64) -> io::Result<Vec<Part>> {
    let Some(table) = mbr_sector(image, 0)? else {
        return Ok(Vec::new());
    };
    let disk_id = u32::from_le_bytes([table[440], table[441], table[442], table[443]]);
    let mut parts = Vec::new();
    let mut add = |number: u32, entry: &Entry, first: u64| {
        let (offset, length) = (first * MBR_SECTOR_BYTES, entry.count * MBR_SECTOR_BYTES);
        if entry.count > 0 && offset.saturating_add(length) <= image_bytes {
            parts.push(Part {
                part_uuid: Some(format!("{disk_id:08x}-{number:02x}")),
                flags: u64::from(entry.status),
                mbr_type: Some(entry.kind),
                ..part(number, offset, length)
            });
        }
    };
    let mut extended = None;
    for (number, entry) in (1..).zip(entries(&table)) {
        match entry.kind {
            0 => {}
            0x05 | 0x0f | 0x85 => extended = extended.or(Some(entry.first)),
            _ => add(number, &entry, entry.first),
        }
    }
    let (mut next, mut number) = (extended, 5);
    while let (Some(at), true) = (next.take(), number < PARTS_MAX as u32) {
        let Some(table) = mbr_sector(image, at)? else { break };
        for entry in entries(&table) {
            match entry.kind {
                0 => {}
                0x05 | 0x0f | 0x85 => next = extended.map(|base| base + entry.first),
                _ => {
                    add(number, &entry, at + entry.first);
                    number += 1;
                }
            }
        }
        // A chain of empty tables ends too.
        number += u32::from(entries(&table).iter().all(|entry| matches!(entry.kind, 0 | 5 | 0xf | 0x85)));
    }
    Ok(parts)
}

fn mbr_sector<I: Read + Seek>(image: &mut I, sector: u64) -> io::Result<Option<[u8; 512]>> {
    let mut bytes = [0; 512];
    image.seek(SeekFrom::Start(sector * MBR_SECTOR_BYTES))?;
    match image.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes).filter(|bytes| bytes[510..] == [0x55, 0xaa])),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

/// One of the four entries of a table.
struct Entry {
    status: u8,
    kind: u8,
    /// First sector, counted from where its table says.
    first: u64,
    /// Sectors.
    count: u64,
}

fn entries(table: &[u8; 512]) -> [Entry; 4] {
    [446, 462, 478, 494].map(|at| {
        let number =
            |at: usize| u64::from(u32::from_le_bytes([table[at], table[at + 1], table[at + 2], table[at + 3]]));
        Entry { status: table[at], kind: table[at + 4], first: number(at + 8), count: number(at + 12) }
    })
}
