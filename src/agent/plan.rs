//! Which ranges of which packs to ask for, so that every frame comes once and requests are few and large.
//!
//! Pure. The order is that of the packs, which is nearly the order on the target, because an import writes new
//! blocks in the order of the image.

use std::ops::Range;

use crate::wire::manifest::Manifest;

/// A request ends after this much, where no extent stands in the way: large enough that the round trip does not
/// count, small enough that four of them are in memory at once.
const REQUEST_BYTES: u64 = 4 << 20;
/// Unpacked frames of one request: 6 MiB of raw data at the soft end, 10 MiB at the hard one.
const FRAMES_SOFT: usize = 24;
const FRAMES_HARD: usize = 40;
/// Frames that are not needed are fetched along when they are shorter than a round trip takes.
const GAP_BYTES_MAX: u64 = 64 << 10;

/// One range request and what comes out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Indexes into the manifest's frames.
    pub frames: Range<usize>,
    /// Indexes into the manifest's extents, which lie in these frames.
    pub extents: Vec<usize>,
}

impl Segment {
    /// The bytes of the pack to ask for.
    pub fn range(&self, manifest: &Manifest) -> Range<u64> {
        let last = &manifest.frames[self.frames.end - 1];
        manifest.frames[self.frames.start].offset_bytes..last.offset_bytes + u64::from(last.compressed_bytes)
    }
}

/// The requests that bring all these extents.
pub(super) fn segments(manifest: &Manifest, mut extents: Vec<usize>) -> Vec<Segment> {
    extents.sort_unstable_by_key(|&i| (manifest.extents[i].frame, manifest.extents[i].frame_block));
    let mut segments: Vec<Segment> = Vec::new();
    for index in extents {
        let frames = manifest.frames_of(&manifest.extents[index]);
        match segments.last_mut() {
            Some(segment) if belongs(manifest, segment, &frames) => {
                segment.frames.end = segment.frames.end.max(frames.end);
                segment.extents.push(index);
            }
            _ => segments.push(Segment { frames, extents: vec![index] }),
        }
    }
    segments
}

fn belongs(manifest: &Manifest, segment: &Segment, frames: &Range<usize>) -> bool {
    let last = &manifest.frames[segment.frames.end - 1];
    let next = &manifest.frames[frames.start];
    let merged = segment.frames.start..segment.frames.end.max(frames.end);
    if next.pack != last.pack || merged.len() > FRAMES_HARD {
        return false;
    }
    if frames.start < segment.frames.end {
        // It shares a frame with this request: another request would fetch that frame again.
        return true;
    }
    // Frames of the list that no extent here needs are skipped over only when they are short, too.
    let gap_bytes = next.offset_bytes - (last.offset_bytes + u64::from(last.compressed_bytes));
    let range = segment.range(manifest);
    gap_bytes <= GAP_BYTES_MAX && range.end - range.start < REQUEST_BYTES && segment.frames.len() < FRAMES_SOFT
}
