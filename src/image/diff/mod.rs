//! What differs between two images: blocks by the indexes of their packs, the partition table, and files, read out of both
//! images in place.
//!
//! Memory: 8 bytes for each block of the older image, the two manifests, 16 MiB of unpacked frames of each, some 50 MB of
//! what waits to be read or listed; and of each image the names of one directory and those above it (some KB in what people
//! make, 64 MiB at most) or all entries of a FAT (some 200 MB at most).

use std::collections::HashSet;
use std::rc::Rc;

use thiserror::Error;

use super::blocks::Blocks;
use super::reader::{DamagedFrame, ImageReader};
use super::{ImageRef, ImageStore, Record, StoreError};
use crate::decide::drift::path::to_text;
use crate::volume::layout::parts::{self, Part};
use crate::wire::manifest::{Digest, Manifest};
use crate::wire::operator_diff::{DiffedImage, FileCounts, ImageDiff};

mod files;
mod partitions;
mod sums;
#[cfg(test)]
mod tests;

/// Decompressed frames that are kept for each image: 16 MiB.
const FRAMES_KEPT: usize = 32;

/// Which of the files that differ are listed.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    pub skip: u64,
    pub limit: u64,
}

/// Why two images could not be compared.
#[derive(Debug, Error)]
pub enum DiffError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{image} cannot be read from the store")]
    Read { image: ImageRef, source: std::io::Error },
    #[error("{image} cannot be read from the store")]
    Damaged { image: ImageRef, source: DamagedFrame },
    #[error("nobody waits for the comparison any more, or the server stops")]
    Stopped,
}

/// One of the two.
struct Side<'m> {
    record: &'m Record,
    manifest: &'m Manifest,
    blocks: Rc<Blocks<'m>>,
    reader: ImageReader<'m>,
    parts: Vec<Part>,
}

impl ImageStore {
    /// Compares two images. Takes seconds for each GB of files that lie in partitions which differ.
    ///
    /// # Errors
    /// [`DiffError`]; what is wrong with a file system inside an image is no error, its partition says so.
    pub fn diff(
        &self,
        from: &ImageRef,
        to: &ImageRef,
        page: Page,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<ImageDiff, DiffError> {
        let (from, to) = (self.show(from)?, self.show(to)?);
        let (old, new) = (self.manifest(&from.manifest)?, self.manifest(&to.manifest)?);
        let is_stopped = || is_stopped() || self.wanted.is_stopping();
        let mut old = self.diffed(&from, &old, &is_stopped)?;
        let mut new = self.diffed(&to, &new, &is_stopped)?;
        let sums = sums::sums(&old, &new)?;
        let mut partitions = partitions::compare(&old, &new, &sums);
        let mut listing = files::Listing::new(page);
        for partition in &mut partitions {
            partition.mounted_at = self.mounted_at(&new.record.manifest, partition.number);
            files::compare(&mut old, &mut new, partition, &mut listing, &is_stopped)?;
        }
        let mut files = FileCounts::default();
        for part in &partitions {
            files.added += part.files.added;
            files.removed += part.files.removed;
            files.changed += part.files.changed;
        }
        Ok(ImageDiff {
            is_same: from.content_digest == to.content_digest,
            blocks: sums.whole,
            outside: sums.outside,
            new_compressed_bytes: new_compressed_bytes(old.manifest, new.manifest),
            from_table: old.table().to_owned(),
            to_table: new.table().to_owned(),
            partitions,
            files,
            skipped: listing.skipped,
            cut: listing.cut,
            file_list: listing.files,
            from: shown(&old),
            to: shown(&new),
        })
    }

    fn diffed<'m>(
        &self,
        record: &'m Record,
        manifest: &'m Manifest,
        is_stopped: &'m dyn Fn() -> bool,
    ) -> Result<Side<'m>, DiffError> {
        let blocks = Rc::new(self.blocks(manifest)?);
        let reader = ImageReader::new(manifest, self.packs_of(manifest)?);
        let mut reader = reader.keeping(FRAMES_KEPT).checked_by(&blocks).spending_by_data().until(is_stopped);
        let parts = parts::list(manifest, &mut reader).map_err(|source| match is_stopped() {
            true => DiffError::Stopped,
            false => DiffError::Read { image: record.image.clone(), source },
        })?;
        Ok(Side { record, manifest, blocks, reader, parts })
    }

    /// By the image's baseline, where there is one.
    fn mounted_at(&self, manifest: &str, partition: u32) -> Option<String> {
        let record = self.baseline_of(manifest).ok().flatten()?;
        let volume = record.volumes.into_iter().find(|volume| volume.partition == partition)?;
        volume.mounted_at.map(|at| to_text(at.as_bytes()))
    }
}

impl Side<'_> {
    fn table(&self) -> &'static str {
        match self.parts.first() {
            _ if self.manifest.boot.gpt => "gpt",
            Some(part) if part.number != 0 => "mbr",
            _ => "none",
        }
    }

    fn part(&self, number: u32) -> Option<&Part> {
        self.parts.iter().find(|part| part.number == number)
    }

    /// Whether no other part has a byte of this one. Nothing keeps the entries of a table from lying on each other.
    fn lies_alone(&self, number: u32) -> bool {
        let end = |part: &Part| part.offset_bytes.saturating_add(part.length_bytes);
        let overlaps = |part: &Part, other: &Part| part.offset_bytes < end(other) && other.offset_bytes < end(part);
        let others = || self.parts.iter().filter(|other| other.number != number);
        self.part(number).is_none_or(|part| !others().any(|other| overlaps(part, other)))
    }
}

fn shown(side: &Side) -> DiffedImage {
    DiffedImage {
        image: side.record.image.to_string(),
        manifest: side.record.manifest.clone(),
        image_bytes: side.manifest.image_bytes,
        data_bytes: side.manifest.data_bytes(),
    }
}

/// Frames are what a pack is made of and what is fetched at least.
fn new_compressed_bytes(old: &Manifest, new: &Manifest) -> u64 {
    fn places(manifest: &Manifest) -> impl Iterator<Item = ((&Digest, u64), u64)> {
        manifest.frames.iter().map(|frame| {
            let pack = &manifest.packs[frame.pack as usize];
            ((pack, frame.offset_bytes), u64::from(frame.compressed_bytes))
        })
    }
    let known: HashSet<(&Digest, u64)> = places(old).map(|(place, _)| place).collect();
    places(new).filter(|(place, _)| !known.contains(place)).map(|(_, bytes)| bytes).sum()
}
