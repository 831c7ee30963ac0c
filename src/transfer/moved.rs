//! Content that the disk already holds at another place, known from the manifest of the image that was on it.
//!
//! A rebuilt file system moves files about: between two builds of a Debian server image most blocks are the same
//! and many of them lie elsewhere. They are copied on the disk instead of fetched. The manifest of the seed is
//! only a hint: every extent is checked by digest after it was read, and what does not match is fetched.
//!
//! Writing in place destroys sources of later copies. So whatever a write would destroy is read first and kept
//! until its turn, as far as memory allows; beyond that it is fetched.
//!
//! A seed that is not what is on the disk costs reads that find nothing: [`Reading`] ends them. One that has little in
//! common with the new image costs a look at the whole disk for little: [`is_worth_a_look`] tells before.

use std::collections::HashMap;
use std::ops::Range;

use crate::wire::manifest::{BLOCK_BYTES, Extent, Manifest, WINDOW_BYTES};

/// Memory for what was read early.
const KEPT_BYTES_MAX: u64 = 128 << 20;
/// Blocks whose place on the disk is looked up: 7 GiB of what is not in its place, and about 50 MiB of memory (2^21 entries
/// of 25 bytes, filled to 7/8). Beyond that it is fetched.
const BLOCKS_MAX: usize = 7 << 18;
/// Blocks of the longest extent.
const EXTENT_BLOCKS_MAX: usize = WINDOW_BYTES as usize / BLOCK_BYTES;
/// So many ranges of the disk may be read in vain, and one more for each that was of use since: some seconds of a disk's
/// arm. Then the disk does not hold what the seed says, and the rest is fetched without a look.
const VAIN_RANGES_MAX: usize = 256;
/// A seed is used when one byte of so many of the new image's body is in it. With a seed the body is read whole before the
/// write, which takes 2 s for 1 GB on a disk of 500 MB/s and 7 s on one of 150 MB/s. A quarter in common saves, where it
/// lies in its place, its write (0.5 s and 1.7 s) and, packed to a half, 1.1 s of a gigabit link, times the machines that
/// share the link. So from there on the look pays with two machines at once on the fast disk and five on the slow one;
/// with much less in common it does with hardly any fleet. (Reckoned, not measured.)
const COMMON_SHARE: u64 = 4;

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
    /// Ranges that were read and did not match, less those that did since: what was of use early does not pay for reads
    /// in vain later, where a disk holds only the beginning of what the seed says.
    vain: usize,
}

impl<S: Surface> Reading<'_, S> {
    fn read(&mut self, extent: usize, sources: &[Range<u64>]) -> Result<Option<S::Held>, S::Error> {
        // The last read may go beyond it by the ranges of one extent.
        if self.vain >= VAIN_RANGES_MAX {
            return Ok(None);
        }
        let held = self.surface.read(extent, sources)?;
        self.vain = match held {
            Some(_) => self.vain.saturating_sub(sources.len()),
            None => self.vain + sources.len(),
        };
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
    let mut reading = Reading { surface, vain: 0 };
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

/// Whether the seed has enough in common with these extents of the new image to look for it on the disk. Both programs ask
/// this before anything is read; it takes 16 bytes of memory for each of the new image's frames.
#[must_use]
pub fn is_worth_a_look(manifest: &Manifest, seed: &Manifest, extents: &[usize]) -> bool {
    let all_bytes: u64 = extents.iter().map(|&extent| u64::from(manifest.extents[extent].extent_bytes)).sum();
    let common_bytes = common_bytes(manifest, seed, extents);
    common_bytes > 0 && common_bytes >= all_bytes / COMMON_SHARE
}

/// Bytes of these extents whose places in the store the seed has, too.
fn common_bytes(manifest: &Manifest, seed: &Manifest, extents: &[usize]) -> u64 {
    // A frame has at most 128 blocks, one bit each; a bit that does not exist is never set, and then never in common.
    let bit = |block: u32| 1u128.checked_shl(block).unwrap_or(0);
    let index_of = |id| manifest.packs.iter().position(|known| known == id);
    // A manifest lists fewer packs than 2^32.
    let packs: Vec<Option<u32>> = seed.packs.iter().map(|id| index_of(id).map(|index| index as u32)).collect();
    // Frames are listed by pack and offset.
    let frame_at = |pack, offset_bytes| {
        manifest.frames.binary_search_by_key(&(pack, offset_bytes), |frame| (frame.pack, frame.offset_bytes)).ok()
    };
    let frames: Vec<Option<usize>> =
        seed.frames.iter().map(|frame| frame_at(packs[frame.pack as usize]?, frame.offset_bytes)).collect();
    let mut held = vec![0u128; manifest.frames.len()];
    for (frame, block) in seed.extents.iter().flat_map(|extent| blocks(seed, extent)) {
        if let Some(frame) = frames[frame] {
            held[frame] |= bit(block);
        }
    }
    let wanted = extents.iter().flat_map(|&extent| blocks(manifest, &manifest.extents[extent]));
    wanted.filter(|&(frame, block)| held[frame] & bit(block) != 0).count() as u64 * BLOCK_BYTES as u64
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
        // One entry more than the bound would double the table.
        if wanted.len() + EXTENT_BLOCKS_MAX > BLOCKS_MAX {
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
    blocks(manifest, extent).map(move |(frame, block)| {
        let lies_in = &manifest.frames[frame];
        packs[lies_in.pack as usize].map(|pack| (pack, block, lies_in.offset_bytes))
    })
}

/// The blocks of an extent: the frame of each (index into the manifest's), and which block of it.
fn blocks<'m>(manifest: &'m Manifest, extent: &Extent) -> impl Iterator<Item = (usize, u32)> + use<'m> {
    let mut frame = extent.frame as usize;
    let mut block = extent.frame_block;
    (0..extent.extent_bytes / BLOCK_BYTES as u32).map(move |_| {
        if block * BLOCK_BYTES as u32 == manifest.frames[frame].raw_bytes {
            frame += 1;
            block = 0;
        }
        block += 1;
        (frame, block - 1)
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

#[cfg(test)]
mod tests;
