//! How much a machine would fetch for an image: [`crate::transfer::forecast`] over what the store knows.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::rc::Rc;

use thiserror::Error;

use super::blocks::Blocks;
use super::reader::ImageReader;
use super::{ImageRef, ImageStore, StoreError};
use crate::gpt::GptError;
use crate::transfer::boot::{self, Fitted};
use crate::transfer::forecast::{Before, Fetch, forecast};
use crate::wire::manifest::{Extent, Manifest, WINDOW_BYTES};

/// No image's backup table needs more.
const ENDS_BYTES: u64 = boot::CLEAR_BYTES;

/// Why nothing was counted.
#[derive(Debug, Error)]
pub enum PlanError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{image} has {image_bytes} bytes and does not fit a disk of {disk_bytes}")]
    DoesNotFit { image: String, image_bytes: u64, disk_bytes: u64 },
    #[error("{image} cannot be read from the store")]
    Read { image: String, source: std::io::Error },
    #[error("{image} cannot be fitted to a disk of {disk_bytes} bytes")]
    Fit { image: String, disk_bytes: u64, source: GptError },
}

/// What a machine would fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPlan {
    pub disk_bytes: u64,
    pub manifest_bytes: u64,
    /// Onto a disk that holds nothing of the image.
    pub blank: Fetch,
    /// Onto a disk with the other image on it, by an agent that has its manifest, as orders give it (`decide::host::seed`).
    pub seeded: Option<Fetch>,
    /// The same by an agent that has not: an order where the manifest is not to be had, and a rebuild with the same image.
    pub unseeded: Option<Fetch>,
}

/// A version: what it is called in messages, and its manifest's digest.
#[derive(Debug, Clone, Copy)]
pub struct Version<'v> {
    pub name: &'v str,
    pub manifest: &'v str,
}

impl FetchPlan {
    /// What an order makes the agent fetch. `is_seeded`: it gives the agent the manifest of what is there.
    #[must_use]
    pub fn order(&self, is_seeded: bool) -> Fetch {
        let over = if is_seeded { self.seeded } else { self.unseeded };
        over.unwrap_or(self.blank)
    }
}

/// One image with all that is asked of it.
struct Side<'s> {
    image: &'s str,
    manifest: &'s Manifest,
    blocks: Rc<Blocks<'s>>,
    reader: ImageReader<'s>,
    fitted: Fitted,
}

impl ImageStore {
    /// Counts what a machine whose disk holds `from` as the agent wrote it would fetch to get `to`. `disk_bytes`: the length
    /// of its disk; `None`: one longer than both images, which are all alike.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn plan(
        &self,
        from: Option<&ImageRef>,
        to: &ImageRef,
        disk_bytes: Option<u64>,
    ) -> Result<FetchPlan, PlanError> {
        let digests = (self.show(to)?.manifest, from.map(|from| self.resolve(from)).transpose()?);
        let names = (to.to_string(), from.map(ToString::to_string));
        let from = names.1.as_deref().zip(digests.1.as_deref());
        let from = from.map(|(name, manifest)| Version { name, manifest });
        self.plan_of(from, Version { name: &names.0, manifest: &digests.0 }, disk_bytes)
    }

    /// [`ImageStore::plan`] by digest: a version that a host has may have lost its name.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn plan_of(&self, from: Option<Version>, to: Version, disk_bytes: Option<u64>) -> Result<FetchPlan, PlanError> {
        let manifest_bytes = self.manifest_bytes(to.manifest)?.len() as u64;
        let new = self.manifest(to.manifest)?;
        let old = from.map(|from| self.manifest(from.manifest)).transpose()?;
        let longest = old.as_ref().map_or(0, |old| old.image_bytes).max(new.image_bytes);
        // On whole MiB, as disks end in whole blocks of 4 KiB.
        let disk_bytes = disk_bytes.unwrap_or_else(|| longest.next_multiple_of(ENDS_BYTES) + 4 * ENDS_BYTES);
        let mut new_side = self.side(to.name, &new, disk_bytes)?;
        let blank = forecast(&new, &new_side.fitted, None, false);
        let (mut unseeded, mut seeded) = (None, None);
        if let (Some(old), Some(from)) = (&old, from) {
            let mut old_side = self.side(from.name, old, disk_bytes)?;
            let before = OnDisk::look(&mut old_side, &mut new_side, disk_bytes)?;
            unseeded = Some(forecast(&new, &new_side.fitted, Some(&before), false));
            seeded = Some(forecast(&new, &new_side.fitted, Some(&before), true));
        }
        Ok(FetchPlan { disk_bytes, manifest_bytes, blank, seeded, unseeded })
    }

    /// What a machine whose disk is blank fetches to get an image; where that cannot be counted, because an index or a pack
    /// is damaged, about that, from the manifest alone: the packed bytes of its frames.
    ///
    /// # Errors
    /// [`StoreError`]: the manifest cannot be read.
    pub fn blank_bytes(&self, to: Version) -> Result<u64, StoreError> {
        let error = match self.plan_of(None, to, None) {
            Ok(plan) => return Ok(plan.blank.bytes),
            Err(error) => error,
        };
        let reason = crate::causes::in_one_line(&error);
        tracing::warn!(image = to.name, reason, "what a machine fetches is not counted but taken from the manifest");
        let manifest = self.manifest(to.manifest)?;
        Ok(manifest.frames.iter().map(|frame| u64::from(frame.compressed_bytes)).sum())
    }

    fn side<'s>(&self, image: &'s str, manifest: &'s Manifest, disk_bytes: u64) -> Result<Side<'s>, PlanError> {
        let image_bytes = manifest.image_bytes;
        if disk_bytes < image_bytes {
            return Err(PlanError::DoesNotFit { image: image.to_owned(), image_bytes, disk_bytes });
        }
        let blocks = Rc::new(self.blocks(manifest)?);
        let mut reader = ImageReader::new(manifest, self.packs_of(manifest)?).checked_by(&blocks);
        let head = bytes(&mut reader, 0..WINDOW_BYTES.min(image_bytes));
        let head = head.map_err(|source| PlanError::Read { image: image.to_owned(), source })?;
        let fitted = boot::fit(head, image_bytes, disk_bytes);
        let fitted = fitted.map_err(|source| PlanError::Fit { image: image.to_owned(), disk_bytes, source })?;
        Ok(Side { image, manifest, blocks, reader, fitted })
    }
}

/// Bytes of an image, with zeros behind its end.
fn bytes(reader: &mut ImageReader, range: Range<u64>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
    reader.seek(SeekFrom::Start(range.start))?;
    reader.take(range.end - range.start).read_to_end(&mut bytes)?;
    bytes.resize((range.end - range.start) as usize, 0);
    Ok(bytes)
}

/// Whether the other image has the blocks of an extent at the same places.
fn is_same(blocks: &Blocks, extent: &Extent, other: &Blocks) -> Result<bool, StoreError> {
    for block in blocks.of(extent) {
        let (offset, digest) = block?;
        if other.at(offset)? != Some(digest) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A disk with the old image on it, against the new one.
struct OnDisk<'s> {
    old: &'s Manifest,
    has_boot_area: bool,
    has_holes: bool,
    /// By the new manifest's extents.
    held: Vec<Held>,
    /// Where the disk holds what the old manifest says, after both ends were cleared.
    whole: Range<u64>,
}

/// Whether the disk holds an extent at its place.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    before: bool,
    cleared: bool,
    whole: bool,
}

impl<'s> OnDisk<'s> {
    fn look(old: &mut Side<'s>, new: &mut Side, disk_bytes: u64) -> Result<OnDisk<'s>, PlanError> {
        let (old_blocks, new_blocks) = (Rc::clone(&old.blocks), Rc::clone(&new.blocks));
        let cleared_from = disk_bytes - ENDS_BYTES.min(disk_bytes);
        // What the digests of blocks decide: the old body, as far as the disk has all of it.
        let whole = boot::kept_body(old.manifest, disk_bytes);
        let new_end = new.fitted.body.end;
        let mut held = Vec::with_capacity(new.manifest.extents.len());
        for extent in &new.manifest.extents {
            let place = extent.target();
            held.push(if place.end <= whole.end && place.end <= new_end {
                let is_same = whole.start <= place.start && is_same(&new_blocks, extent, &old_blocks)?;
                Held { before: is_same, cleared: is_same, whole: is_same }
            } else if place.start < whole.end || place.start + ENDS_BYTES >= cleared_from {
                // Some at the ends: byte for byte.
                let wanted = bytes(&mut new.reader, place.clone());
                let wanted = wanted.map_err(|source| PlanError::Read { image: new.image.to_owned(), source })?;
                let body = (new_end.clamp(place.start, place.end) - place.start) as usize;
                let is = |got: Option<Vec<u8>>, len: usize| got.is_some_and(|got| got[..len] == wanted[..len]);
                let range = |len: usize| place.start..place.start + len as u64;
                let cleared = old.on_disk(range(wanted.len()), disk_bytes, true)?;
                let body_cleared = old.on_disk(range(body), disk_bytes, true)?;
                let body_before = old.on_disk(range(body), disk_bytes, false)?;
                Held {
                    before: is(body_before, body),
                    cleared: is(body_cleared, body),
                    whole: is(cleared, wanted.len()),
                }
            } else {
                Held::default()
            });
        }
        let boots = |side: &Side| (side.fitted.head.clone(), side.fitted.tail.clone());
        let has_boot_area = boots(old) == boots(new);
        let in_body = |offset: &u64| new.fitted.body.contains(offset);
        let has_holes = new.fitted.body.end <= old.fitted.body.end
            && old_blocks.offsets().filter(in_body).all(|offset| new_blocks.holds(offset));
        Ok(OnDisk { old: old.manifest, has_boot_area, has_holes, held, whole })
    }
}

impl Side<'_> {
    /// What a disk of this length has there when this image was written to it; `None` where nobody knows.
    /// `is_cleared`: its first and its last MiB were cleared since.
    fn on_disk(&mut self, range: Range<u64>, disk_bytes: u64, is_cleared: bool) -> Result<Option<Vec<u8>>, PlanError> {
        let end_zone = disk_bytes - ENDS_BYTES.min(disk_bytes);
        let body_end = self.fitted.body.end;
        // Between the image's end and the last MiB is what was there before.
        let unknown = range.start.max(body_end)..range.end.min(end_zone);
        if range.end > disk_bytes || !unknown.is_empty() {
            return Ok(None);
        }
        let inside = range.start..body_end.clamp(range.start, range.end);
        let read = bytes(&mut self.reader, inside);
        let mut bytes = read.map_err(|source| PlanError::Read { image: self.image.to_owned(), source })?;
        bytes.resize((range.end - range.start) as usize, 0);
        let mut put = |at: u64, source: &mut dyn Iterator<Item = u8>| {
            let from = at.clamp(range.start, range.end) - range.start;
            bytes[from as usize..]
                .iter_mut()
                .zip(source.skip(range.start.saturating_sub(at) as usize))
                .for_each(|(byte, put)| *byte = put);
        };
        if let Some((at, tail)) = &self.fitted.tail {
            put(*at, &mut tail.iter().copied());
        }
        if is_cleared {
            put(0, &mut std::iter::repeat_n(0, ENDS_BYTES as usize));
            put(end_zone, &mut std::iter::repeat_n(0, ENDS_BYTES as usize));
        }
        Ok(Some(bytes))
    }
}

impl Before for OnDisk<'_> {
    fn has_boot_area(&self) -> bool {
        self.has_boot_area
    }

    fn has_holes(&self) -> bool {
        self.has_holes
    }

    fn holds(&self, extent: usize, is_cleared: bool) -> bool {
        self.held.get(extent).is_some_and(|held| if is_cleared { held.cleared } else { held.before })
    }

    fn holds_whole(&self, extent: usize) -> bool {
        self.held.get(extent).is_some_and(|held| held.whole)
    }

    fn seed(&self) -> (&Manifest, Range<u64>) {
        (self.old, self.whole.clone())
    }
}
