//! What lies outside of file systems, against the manifest: boot code, partition table, boot sectors, the space between
//! partitions, and partitions that nothing writes to in use.
//!
//! It is reported under `/.regild/disk/`, as files that only the image and the disk know: with the length that was
//! compared, and a digest on either side. Nothing of a host's own tree is ever reported there (`tree`).

use std::io;
use std::ops::Range;

use super::disk::ReadOnlyDisk;
use super::table::{self, Part, Table, TableKind};
use crate::agent::boot_area::{BootArea, image_range};
use crate::agent::write::{Job, WriteError};
use crate::decide::drift::finding::{Digest, Finding, Kind, Node};
use crate::wire::baseline::{Known, Volume};
use crate::wire::manifest::{self, WINDOW_BYTES};

/// A directory that no host has: what a report says below it is said of the disk.
pub const OF_THE_DISK: &str = "/.regild/disk";
/// The MBR's boot code, and what boot loaders put in front of the first partition.
const BOOT_AREA: &str = "boot-area";
const PARTITION_TABLE: &str = "partition-table";
const BACKUP_TABLE: &str = "backup-partition-table";
const BETWEEN: &str = "between-partitions";
/// Byte of a FAT's first sector that says "not unmounted cleanly": FAT12 and 16, FAT32.
const FAT_DIRTY: [usize; 2] = [0x25, 0x41];

/// What was found, and where was not looked.
#[derive(Debug, Default)]
pub struct Looked {
    pub findings: Vec<Finding>,
    /// A path, and why.
    pub gaps: Vec<(Vec<u8>, String)>,
    pub read_bytes: u64,
}

/// Compares everything but the insides of file systems. `volumes` are the baseline's; without one nothing is known of
/// what lies in the partitions.
///
/// # Errors
/// The server does not give what is needed, or the disk is not one that this image was fitted to. What the disk does not
/// give is a gap.
pub(in crate::agent) fn look(job: &Job, disk: &ReadOnlyDisk, volumes: &[Volume]) -> Result<Looked, WriteError> {
    let boot = BootArea::prepare(job, disk.size_bytes())?;
    let mut look = Look { job, disk, boot, looked: Looked::default() };
    let image = look.image_table();
    let disk_parts = look.ends(&image);
    for part in &image.parts {
        let volume = volumes.iter().find(|volume| volume.partition == part.number);
        look.partition(part, volume)?;
    }
    look.between(&image.parts, &disk_parts)?;
    if disk.size_bytes() > look.job.manifest.image_bytes {
        look.gap("behind-image", "the disk is longer than the image: what lies behind it is not the image's");
    }
    Ok(look.looked)
}

struct Look<'a> {
    job: &'a Job<'a>,
    disk: &'a ReadOnlyDisk,
    boot: BootArea,
    looked: Looked,
}

impl Look<'_> {
    /// An image without a table is one volume.
    fn image_table(&self) -> Table {
        let whole = || Part { number: 0, identity: String::new(), range: 0..self.job.manifest.image_bytes };
        match table::read(&self.boot.head) {
            Ok(table) if table.kind != TableKind::None => table,
            // Import read the same bytes: a table that cannot be used did not come through it.
            _ => Table { kind: TableKind::None, parts: vec![whole()] },
        }
    }

    /// The first MiB, the tables, and where the disk has partitions now.
    fn ends(&mut self, image: &Table) -> Vec<Range<u64>> {
        let mut head = vec![0; self.boot.head.len()];
        if let Err(error) = self.read(0, &mut head) {
            self.gap(BOOT_AREA, &unreadable(&error));
            return Vec::new();
        }
        let wanted = self.boot.head.clone();
        let now = table::read(&head);
        self.boot_code(image, &wanted, &head);
        if image.kind == TableKind::None {
            return Vec::new();
        }
        let fate = now.as_ref().map(|now| (now, table::compare(image, now)));
        let is_right = fate.as_ref().is_ok_and(|(now, fate)| now.kind == image.kind && fate.changed.is_empty());
        if !is_right {
            self.differs(PARTITION_TABLE, table_bytes(image.kind, &wanted), table_bytes(image.kind, &head));
            return Vec::new();
        }
        self.backup(image.kind, &head);
        let Ok((now, fate)) = fate else { return Vec::new() };
        for part in &fate.added {
            let (number, start) = (part.number, part.range.start);
            self.gap(&format!("partition-{number}"), &format!("a partition from byte {start} that is not the image's"));
        }
        now.parts.iter().map(|part| part.range.clone()).collect()
    }

    /// Everything in the first MiB that is neither table nor partition.
    fn boot_code(&mut self, image: &Table, wanted: &[u8], head: &[u8]) {
        let level = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            table::level_mbr(&mut bytes, image.kind);
            if let TableKind::Gpt { header_at, entries_end, .. } = image.kind {
                blank(&mut bytes, header_at..entries_end);
            }
            for part in &image.parts {
                let (start, end) = (part.range.start.min(WINDOW_BYTES), part.range.end.min(WINDOW_BYTES));
                blank(&mut bytes, start as usize..end as usize);
            }
            bytes
        };
        self.differs(BOOT_AREA, &level(wanted), &level(head));
    }

    /// The table at the end of the disk says the same as the one at its front, as the disk has them.
    fn backup(&mut self, kind: TableKind, head: &[u8]) {
        let (TableKind::Gpt { entries_end, sector_bytes, .. }, Some((offset, tail))) = (kind, self.boot.tail.clone())
        else {
            return;
        };
        let mut now = vec![0; tail.len()];
        if let Err(error) = self.read(offset, &mut now) {
            return self.gap(BACKUP_TABLE, &unreadable(&error));
        }
        let sector = sector_bytes as usize;
        let primary = head.get(2 * sector..entries_end).unwrap_or_default();
        let backup = now.get(..primary.len()).unwrap_or_default();
        let header = now.len().checked_sub(sector).and_then(|at| now.get(at..)).unwrap_or_default();
        let (mut wanted, mut got) = (primary.to_vec(), backup.to_vec());
        wanted.extend_from_slice(b"EFI PART");
        got.extend_from_slice(header.get(..8).unwrap_or_default());
        self.differs(BACKUP_TABLE, &wanted, &got);
    }

    fn partition(&mut self, part: &Part, volume: Option<&Volume>) -> Result<(), WriteError> {
        let name = format!("partition-{}", part.number);
        match volume.map(|volume| (&volume.known, volume)) {
            // Without a baseline that is said once, of all of them.
            None if part.is_extended() => self.gap(&name, "partitions in an extended partition are not looked at"),
            None => self.gap(&name, "the baseline does not know what lies in it"),
            Some((Known::Files, volume)) => self.boot_sector(part, volume.format_word())?,
            Some((Known::Blocks { offset_bytes, length_bytes }, _)) => {
                let range = *offset_bytes..offset_bytes.saturating_add(*length_bytes);
                self.zone(&name, std::slice::from_ref(&range))?;
            }
            Some((Known::Not { reason }, volume)) => {
                let at = volume.mounted_at.as_ref().map(|at| format!("{} ({})", at, volume.format));
                let at = at.unwrap_or_else(|| volume.format.clone());
                self.gap(&name, &format!("{at}: {reason}"));
            }
        }
        Ok(())
    }

    /// What a file system leaves to boot loaders at its front.
    fn boot_sector(&mut self, part: &Part, format: &str) -> Result<(), WriteError> {
        let length = match format {
            "ext2" | "ext3" | "ext4" => 1024,
            "vfat" => 512,
            "btrfs" => 64 << 10,
            _ => return Ok(()),
        };
        let range = part.range.start..(part.range.start + length).min(part.range.end);
        let name = format!("partition-{}/boot-sector", part.number);
        let mut wanted = image_range(self.job, range.clone())?;
        let mut got = vec![0; wanted.len()];
        if let Err(error) = self.read(range.start, &mut got) {
            self.gap(&name, &unreadable(&error));
            return Ok(());
        }
        if format == "vfat" {
            let all = [&mut wanted, &mut got];
            all.into_iter().for_each(|bytes| FAT_DIRTY.iter().for_each(|at| blank(bytes, *at..at + 1)));
        }
        self.differs(&name, &wanted, &got);
        Ok(())
    }

    /// Between the image's partitions, where the disk has none of its own either.
    fn between(&mut self, image: &[Part], disk: &[Range<u64>]) -> Result<(), WriteError> {
        let end = self.boot.body.end.min(self.job.manifest.image_bytes);
        let mut taken: Vec<Range<u64>> = image.iter().map(|part| part.range.clone()).chain(disk.to_vec()).collect();
        taken.sort_unstable_by_key(|range| range.start);
        let (mut free_from, mut free) = (self.boot.head.len() as u64, Vec::new());
        taken.push(end..u64::MAX);
        for range in taken {
            let to = range.start.min(end);
            if free_from < to {
                free.push(free_from..to);
            }
            free_from = free_from.max(range.end);
        }
        self.zone(BETWEEN, &free)
    }

    /// Ranges of the image against the disk, extent by extent; all of them are one thing in the report. Its digests are
    /// those of the extents' digests one behind the other, so that neither side needs the other's bytes.
    fn zone(&mut self, name: &str, ranges: &[Range<u64>]) -> Result<(), WriteError> {
        let (mut wanted, mut got) = (blake3::Hasher::new(), blake3::Hasher::new());
        let mut bytes = 0;
        'compared: for range in ranges {
            for piece in pieces(self.job, range) {
                self.job.go_on()?;
                let expected = match piece.digest {
                    Some(digest) => digest,
                    None => manifest::digest(&image_range(self.job, piece.range.clone())?),
                };
                // At most a window.
                let mut seen = vec![0; (piece.range.end - piece.range.start) as usize];
                if let Err(error) = self.read(piece.range.start, &mut seen) {
                    self.gap(name, &format!("{} (at byte {})", unreadable(&error), piece.range.start));
                    // What differs in front of it is told all the same.
                    break 'compared;
                }
                bytes += piece.range.end - piece.range.start;
                wanted.update(&expected);
                got.update(&manifest::digest(&seen));
            }
        }
        self.push(name, bytes, *wanted.finalize().as_bytes(), *got.finalize().as_bytes());
        Ok(())
    }

    fn read(&mut self, offset_bytes: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset_bytes, out)?;
        self.looked.read_bytes += out.len() as u64;
        Ok(())
    }

    fn differs(&mut self, name: &str, wanted: &[u8], got: &[u8]) {
        self.push(name, wanted.len() as u64, manifest::digest(wanted), manifest::digest(got));
    }

    fn push(&mut self, name: &str, bytes: u64, wanted: Digest, got: Digest) {
        if wanted == got {
            return;
        }
        let node = |digest| {
            let kind = Kind::File { bytes, digest: Some(digest) };
            Node { kind, mode: 0, uid: 0, gid: 0, modified: 0, xattrs: Vec::new() }
        };
        let (expected, seen) = (Some(node(wanted)), Some(node(got)));
        self.looked.findings.push(Finding { path: path(name), expected, seen });
    }

    fn gap(&mut self, name: &str, reason: &str) {
        self.looked.gaps.push((path(name), reason.to_owned()));
    }
}

/// A part of a range that is compared at once.
struct Piece {
    range: Range<u64>,
    /// `None`: only a part of an extent, which its digest does not tell.
    digest: Option<Digest>,
}

/// A range of the image as its extents and holes cut it; none is longer than a window.
fn pieces(job: &Job, range: &Range<u64>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut free_from = range.start;
    for extent in &job.manifest.extents {
        let target = extent.target();
        let (start, end) = (target.start.max(range.start), target.end.min(range.end));
        if start < end {
            push_hole(&mut pieces, free_from..start);
            let is_whole = (start, end) == (target.start, target.end);
            pieces.push(Piece { range: start..end, digest: is_whole.then_some(extent.digest) });
            free_from = end;
        }
    }
    push_hole(&mut pieces, free_from..range.end);
    pieces
}

fn push_hole(pieces: &mut Vec<Piece>, hole: Range<u64>) {
    let mut from = hole.start;
    while from < hole.end {
        let end = hole.end.min(from + WINDOW_BYTES);
        let zeros = vec![0; (end - from) as usize];
        pieces.push(Piece { range: from..end, digest: Some(manifest::digest(&zeros)) });
        from = end;
    }
}

fn table_bytes(kind: TableKind, head: &[u8]) -> &[u8] {
    let range = match kind {
        TableKind::Gpt { header_at, entries_end, .. } => header_at..entries_end,
        TableKind::Mbr | TableKind::None => table::MBR_ENTRIES,
    };
    head.get(range).unwrap_or_default()
}

fn blank(bytes: &mut [u8], range: Range<usize>) {
    let end = range.end.min(bytes.len());
    if let Some(place) = bytes.get_mut(range.start.min(end)..end) {
        place.fill(0);
    }
}

fn path(name: &str) -> Vec<u8> {
    format!("{OF_THE_DISK}/{name}").into_bytes()
}

fn unreadable(error: &io::Error) -> String {
    format!("the disk cannot be read: {error}")
}
