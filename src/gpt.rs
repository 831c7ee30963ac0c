//! GUID partition tables: read from an image's head, and fitted to the disk that the image lands on.
//!
//! The same bytes are judged at import and before a write. They are outside text, and gptman trusts the sizes
//! in a header whose checksum is right (it reserves what `number_of_partition_entries` says and asserts
//! others), so every number is checked here before gptman sees it.

use std::io::{self, Cursor, Seek, SeekFrom, Write};

use gptman::{GPTHeader, GPTPartitionEntry};
use thiserror::Error;

use crate::wire::manifest::Partition;

/// `EFI System` in mixed-endian bytes, as it stands on disk.
pub const ESP_TYPE: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

const SIGNATURE: &[u8] = b"EFI PART";
const ENTRY_BYTES: u32 = 128;
/// Linux makes 128; 1024 still lies in the first MiB.
const ENTRIES_MAX: u32 = 1024;
/// Keeps every LBA in bytes far from 2^64.
const LBA_MAX: u64 = 1 << 40;

/// Why a partition table cannot be used.
#[derive(Debug, Error)]
pub enum GptError {
    #[error("the image's GUID partition table is unusual and cannot be moved to another disk: {0}")]
    Unusual(String),
    #[error("the image's GUID partition table cannot be read")]
    Damaged(#[source] Box<gptman::Error>),
    #[error("the image's partitions end at sector {last_lba}, the disk can hold them up to sector {last_usable_lba}")]
    DoesNotFit { last_lba: u64, last_usable_lba: u64 },
}

/// A table that has been checked whole.
#[derive(Debug, Clone)]
pub struct Table {
    pub sector_bytes: u32,
    header: GPTHeader,
    entries: Vec<GPTPartitionEntry>,
}

/// The two ends of a disk that make it bootable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted {
    /// The image's head with the table fitted; as long as what was given.
    pub head: Vec<u8>,
    /// Backup entries and backup header, the very last sectors of the disk.
    pub tail: Vec<u8>,
    pub tail_offset_bytes: u64,
}

/// Reads the table at the front of an image. `head` is the image's first MiB (or all of a smaller image).
/// `Ok(None)` when there is no GUID partition table.
///
/// # Errors
/// [`GptError`] when there is one that is damaged or that this program cannot fit to another disk.
pub fn read(head: &[u8]) -> Result<Option<Table>, GptError> {
    let has_signature = |sector: &u32| head.get(*sector as usize..).is_some_and(|rest| rest.starts_with(SIGNATURE));
    let Some(sector_bytes) = [512, 4096].into_iter().find(has_signature) else {
        return Ok(None);
    };
    let sector = u64::from(sector_bytes);
    let damaged = |e| GptError::Damaged(Box::new(e));
    let mut reader = Cursor::new(head);
    reader.set_position(sector);
    let header = GPTHeader::read_from(&mut reader).map_err(damaged)?;
    check_header(&header, sector).map_err(GptError::Unusual)?;
    let entries = header.read_partitions(&mut reader, sector).map_err(damaged)?;
    check_entries(&header, &entries).map_err(GptError::Unusual)?;
    Ok(Some(Table { sector_bytes, header, entries }))
}

fn check_header(header: &GPTHeader, sector: u64) -> Result<(), String> {
    if header.primary_lba != 1 || header.partition_entry_lba != 2 {
        return Err("it does not stand in the second and third sector".to_owned());
    }
    let count = header.number_of_partition_entries;
    if header.size_of_partition_entry != ENTRY_BYTES || !(1..=ENTRIES_MAX).contains(&count) {
        return Err(format!("{count} entries of {} bytes", header.size_of_partition_entry));
    }
    let first_free = 2 + array_sectors(count, sector);
    if header.first_usable_lba < first_free || header.last_usable_lba > LBA_MAX {
        return Err(format!(
            "partitions may lie from sector {} to {}",
            header.first_usable_lba, header.last_usable_lba
        ));
    }
    Ok(())
}

fn check_entries(header: &GPTHeader, entries: &[GPTPartitionEntry]) -> Result<(), String> {
    let mut used: Vec<&GPTPartitionEntry> = entries.iter().filter(|e| e.is_used()).collect();
    used.sort_unstable_by_key(|e| e.starting_lba);
    let mut free_from = header.first_usable_lba;
    for entry in used {
        let (first, last) = (entry.starting_lba, entry.ending_lba);
        if first < free_from || last < first || last > header.last_usable_lba {
            return Err(format!("a partition from sector {first} to {last}"));
        }
        free_from = last + 1;
    }
    Ok(())
}

fn array_sectors(entries: u32, sector: u64) -> u64 {
    (u64::from(entries) * u64::from(ENTRY_BYTES)).div_ceil(sector)
}

impl Table {
    /// The partitions that exist, by number.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition> {
        let used = (1..).zip(&self.entries).filter(|(_, entry)| entry.is_used());
        used.map(|(number, entry)| Partition {
            number,
            name: entry.partition_name.as_str().to_owned(),
            type_guid: guid_text(&entry.partition_type_guid),
            unique_guid: guid_text(&entry.unique_partition_guid),
            first_lba: entry.starting_lba,
            last_lba: entry.ending_lba,
        })
        .collect()
    }

    /// How long its entries are on disk, used or not.
    #[must_use]
    pub fn entries_bytes(&self) -> usize {
        // Both were checked: at most 128 KiB.
        self.header.number_of_partition_entries as usize * ENTRY_BYTES as usize
    }

    /// Numbers of the partitions that are marked as not to be written to: bit 60 of their attributes, as in the
    /// Discoverable Partitions Specification.
    #[must_use]
    pub fn read_only(&self) -> Vec<u32> {
        self.attributes().into_iter().filter(|(_, bits)| bits >> 60 & 1 == 1).map(|(number, _)| number).collect()
    }

    /// The attribute bits of each partition, by number.
    #[must_use]
    pub fn attributes(&self) -> Vec<(u32, u64)> {
        let used = (1..).zip(&self.entries).filter(|(_, entry)| entry.is_used());
        used.map(|(number, entry)| (number, entry.attribute_bits)).collect()
    }

    /// The table for a disk of another size: the backup at the disk's very end, the last usable sector before
    /// it, the protective MBR over all of it, checksums anew. Partitions stay where they are.
    ///
    /// # Errors
    /// [`GptError::DoesNotFit`] when the disk ends too early.
    pub fn fit(&self, head: &[u8], disk_bytes: u64) -> Result<Fitted, GptError> {
        let sector = u64::from(self.sector_bytes);
        let array = array_sectors(self.header.number_of_partition_entries, sector);
        let last_lba = self.entries.iter().filter(|e| e.is_used()).map(|e| e.ending_lba).max();
        let last_lba = last_lba.unwrap_or(self.header.first_usable_lba);
        let last_usable_lba = (disk_bytes / sector).saturating_sub(array + 2);
        if last_lba > last_usable_lba || last_usable_lba * sector < head.len() as u64 {
            return Err(GptError::DoesNotFit { last_lba, last_usable_lba });
        }
        let mut primary = self.header.clone();
        primary.last_usable_lba = last_usable_lba;
        primary.backup_lba = last_usable_lba + array + 1;
        let mut backup = primary.clone();
        backup.primary_lba = primary.backup_lba;
        backup.backup_lba = primary.primary_lba;
        backup.partition_entry_lba = last_usable_lba + 1;

        let mut head = Section::new(0, head.to_vec());
        let tail_offset_bytes = backup.partition_entry_lba * sector;
        let mut tail = Section::new(tail_offset_bytes, vec![0; ((array + 1) * sector) as usize]);
        let damaged = |e| GptError::Damaged(Box::new(e));
        primary.write_into(&mut head, sector, &self.entries).map_err(damaged)?;
        backup.write_into(&mut tail, sector, &self.entries).map_err(damaged)?;
        protect(&mut head.bytes, backup.primary_lba);
        Ok(Fitted { head: head.bytes, tail: tail.bytes, tail_offset_bytes })
    }
}

/// Lets the protective MBR's entry (type 0xEE) reach to the end of the disk, as far as its 32 bits go. Other
/// entries of a hybrid MBR stay.
fn protect(head: &mut [u8], last_lba: u64) {
    for entry in (0..4).map(|i| 446 + i * 16) {
        if head[entry + 4] == 0xee {
            let first = u32::from_le_bytes([head[entry + 8], head[entry + 9], head[entry + 10], head[entry + 11]]);
            let sectors = (last_lba + 1).saturating_sub(u64::from(first));
            let sectors = u32::try_from(sectors).unwrap_or(u32::MAX);
            head[entry + 12..entry + 16].copy_from_slice(&sectors.to_le_bytes());
        }
    }
}

/// `c12a7328-f81f-...`: the first three groups stand little-endian on disk.
fn guid_text(bytes: &[u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (index, at) in order.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", bytes[at]));
    }
    text
}

/// A piece of a disk that can be written at the disk's own offsets.
struct Section {
    offset_bytes: u64,
    bytes: Vec<u8>,
    position: u64,
}

impl Section {
    fn new(offset_bytes: u64, bytes: Vec<u8>) -> Section {
        Section { offset_bytes, bytes, position: offset_bytes }
    }
}

impl Write for Section {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let start = self.position.checked_sub(self.offset_bytes).map(|at| at as usize);
        let place = start.and_then(|start| self.bytes.get_mut(start..start.checked_add(data.len())?));
        place.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(data);
        self.position += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(at) => self.position = at,
            SeekFrom::Current(_) | SeekFrom::End(_) => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests;
