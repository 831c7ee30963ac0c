//! Content that the disk already holds at another place, known from the manifest of the image that was on it.
//!
//! A rebuilt file system moves files about: between two builds of a Debian server image most blocks are the same
//! and many of them lie elsewhere. They are copied on the disk instead of fetched. The manifest of the seed is
//! only a hint: every extent is checked by digest after it was read, and what does not match is fetched.
//!
//! Writing in place destroys sources of later copies. So whatever a write would destroy is read first and kept
//! until its turn, as far as memory allows; beyond that it is fetched.
//!
//! A seed that is not what is on the disk costs reads that find nothing: [`Reading`] ends them.

use std::collections::HashMap;
use std::ops::Range;

use crate::wire::manifest::{BLOCK_BYTES, Extent, Manifest, WINDOW_BYTES};

/// Memory for what was read early.
const KEPT_BYTES_MAX: u64 = 128 << 20;
/// Blocks whose place on the disk is looked up: 7 GiB of what is not in its place, and about 50 MiB of memory (2^21 entries
/// of 25 bytes, filled to 7/8). Beyond that it is fetched.
const BLOCKS_MAX: usize = 7 << 18;
/// So many more ranges of the disk may be read in vain than were of use: some seconds of a disk's arm. Then the disk does
/// not hold what the seed says, and the rest is fetched without a look.
const VAIN_RANGES_MAX: usize = 256;

/// Where a block lies in the store: pack (index into the new manifest's packs), block in its frame, offset of the
/// frame. In a store that keeps every content once, the same place means the same content.
type Place = (u32, u32, u64);
/// Not on the disk.
const NOWHERE: u64 = u64::MAX;

/// The disk, as far as copying is concerned.
pub trait Surface {
    /// The content of one extent.
    type Held;
    type Error;

    /// The content of an extent (its index) from these ranges of the disk, one behind another. `None`: it is not there.
    ///
    /// # Errors
    /// The disk failed, or the write is to end.
    fn read(&mut self, extent: usize, sources: &[Range<u64>]) -> Result<Option<Self::Held>, Self::Error>;

    /// Writes an extent to its place.
    ///
    /// # Errors
    /// The disk failed, or the write is to end.
    fn write(&mut self, extent: usize, held: Self::Held) -> Result<(), Self::Error>;
}

/// An extent whose whole content should be on the disk.
struct Copy<H> {
    extent: usize,
    /// Ranges of the disk that make it up, in order.
    sources: Vec<Range<u64>>,
    /// Read before it was destroyed.
    kept: Option<H>,
    /// Written, or not to be had from the disk.
    done: bool,
}

/// A surface that is read as long as that is worth it.
struct Reading<'s, S> {
    surface: &'s mut S,
    /// Ranges that were read and did not match, and those that did.
    vain: usize,
    useful: usize,
}

impl<S: Surface> Reading<'_, S> {
    fn read(&mut self, extent: usize, sources: &[Range<u64>]) -> Result<Option<S::Held>, S::Error> {
        if self.vain > self.useful + VAIN_RANGES_MAX {
            return Ok(None);
        }
        let held = self.surface.read(extent, sources)?;
        let count = if held.is_some() { &mut self.useful } else { &mut self.vain };
        *count += sources.len();
        Ok(held)
    }
}

/// Writes those of `extents` whose content is on the disk; returns the others, which must be fetched.
///
/// # Errors
/// The surface's.
pub fn copy<S: Surface>(
    manifest: &Manifest,
    seed: &Manifest,
    extents: Vec<usize>,
    surface: &mut S,
) -> Result<Vec<usize>, S::Error> {
    let (mut copies, mut missing) = find(manifest, seed, extents);
    // Sources by offset, to see which of them a write destroys.
    let mut sources: Vec<(Range<u64>, usize)> = Vec::new();
    for (index, copy) in copies.iter().enumerate() {
        sources.extend(copy.sources.iter().map(|source| (source.clone(), index)));
    }
    sources.sort_by_key(|(source, _)| source.start);
    let bytes_of = |extent: usize| u64::from(manifest.extents[extent].extent_bytes);
    let mut kept_bytes = 0;
    let mut reading = Reading { surface, vain: 0, useful: 0 };
    for index in 0..copies.len() {
        let extent = copies[index].extent;
        let held = match copies[index].kept.take() {
            Some(kept) => {
                kept_bytes -= bytes_of(extent);
                Some(kept)
            }
            None if copies[index].done => None,
            None => reading.read(extent, &copies[index].sources)?,
        };
        copies[index].done = true;
        let Some(held) = held else {
            missing.push(extent);
            continue;
        };
        for other in endangered(&sources, &manifest.extents[extent].target()) {
            let other = &mut copies[other];
            if other.done || other.kept.is_some() {
                continue;
            }
            let fits = kept_bytes + bytes_of(other.extent) <= KEPT_BYTES_MAX;
            other.kept = if fits { reading.read(other.extent, &other.sources)? } else { None };
            match &other.kept {
                Some(_) => kept_bytes += bytes_of(other.extent),
                None => other.done = true,
            }
        }
        reading.surface.write(extent, held)?;
    }
    Ok(missing)
}

/// Splits extents into those whose content the seed has, with where, and the others.
fn find<H>(manifest: &Manifest, seed: &Manifest, extents: Vec<usize>) -> (Vec<Copy<H>>, Vec<usize>) {
    // Only packs of both: what lies in another one is not on the disk, and need not be remembered.
    let index_of = |id| manifest.packs.iter().position(|known| known == id);
    // A manifest lists fewer packs than 2^32.
    let seed_packs: Vec<Option<u32>> = seed.packs.iter().map(|id| index_of(id).map(|index| index as u32)).collect();
    let is_shared = |pack: &u32| seed_packs.contains(&Some(*pack));
    let packs: Vec<Option<u32>> = (0..).zip(&manifest.packs).map(|(pack, _)| Some(pack).filter(is_shared)).collect();
    let places_of = |extent: usize| places(manifest, &packs, &manifest.extents[extent]);
    let mut wanted: HashMap<Place, u64> = HashMap::new();
    for &extent in &extents {
        // An extent has at most 256 blocks, so this goes hardly beyond the bound.
        if wanted.len() >= BLOCKS_MAX {
            break;
        }
        wanted.extend(places_of(extent).flatten().map(|place| (place, NOWHERE)));
    }
    for extent in &seed.extents {
        let offsets = (extent.target_offset_bytes..).step_by(BLOCK_BYTES);
        for (place, offset) in places(seed, &seed_packs, extent).zip(offsets) {
            if let Some(found) = place.and_then(|place| wanted.get_mut(&place)) {
                *found = offset.min(*found);
            }
        }
    }
    let (mut copies, mut missing) = (Vec::new(), Vec::new());
    for extent in extents {
        let offset_of = |place: Option<Place>| wanted.get(&place?).copied().filter(|offset| *offset != NOWHERE);
        let offsets = places_of(extent).map(offset_of);
        match merge(offsets) {
            Some(sources) => copies.push(Copy { extent, sources, kept: None, done: false }),
            None => missing.push(extent),
        }
    }
    (copies, missing)
}

/// Where each block of an extent lies; `None` for a pack that not both manifests have.
fn places<'m>(
    manifest: &'m Manifest,
    packs: &'m [Option<u32>],
    extent: &Extent,
) -> impl Iterator<Item = Option<Place>> + use<'m> {
    let blocks = extent.extent_bytes / BLOCK_BYTES as u32;
    let mut frame = extent.frame as usize;
    let mut block = extent.frame_block;
    (0..blocks).map(move |_| {
        if block * BLOCK_BYTES as u32 == manifest.frames[frame].raw_bytes {
            frame += 1;
            block = 0;
        }
        let lies_in = &manifest.frames[frame];
        let place = packs[lies_in.pack as usize].map(|pack| (pack, block, lies_in.offset_bytes));
        block += 1;
        place
    })
}

/// Blocks that follow one another on the disk become one range; `None` when one of them is not there.
fn merge(offsets: impl Iterator<Item = Option<u64>>) -> Option<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for offset in offsets {
        let offset = offset?;
        match ranges.last_mut() {
            Some(last) if last.end == offset => last.end += BLOCK_BYTES as u64,
            _ => ranges.push(offset..offset + BLOCK_BYTES as u64),
        }
    }
    Some(ranges)
}

/// Copies that read from what a write to `range` destroys. No source is longer than an extent.
fn endangered(sources: &[(Range<u64>, usize)], range: &Range<u64>) -> Vec<usize> {
    let first = range.start.saturating_sub(WINDOW_BYTES);
    let from = sources.partition_point(|(source, _)| source.start < first);
    let overlapping = sources[from..].iter().take_while(|(source, _)| source.start < range.end);
    overlapping.filter(|(source, _)| source.end > range.start).map(|(_, copy)| *copy).collect()
}
