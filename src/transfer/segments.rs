//! Which ranges of which packs to ask for, so that every frame comes once and requests are few and large.
//!
//! Pure. The order is that of the packs, which is nearly the order on the target, because an import writes new
//! blocks in the order of the image.

use std::ops::Range;

use crate::wire::manifest::Manifest;

/// A request ends after this much, where no extent stands in the way: large enough that the round trip does not
/// count, small enough that four of them are in memory at once.
const REQUEST_BYTES: u64 = 4 << 20;
/// What the frames of one request unpack to.
const RAW_BYTES_SOFT: u64 = 6 << 20;
const RAW_BYTES_HARD: u64 = 10 << 20;
/// Frames that are not needed are fetched along when they are shorter than a round trip takes.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// Requests that are under way at once.
pub const FETCHERS: usize = 3;
/// So many of the requests that a write begins with are looked at to see whether an earlier write was cut: more
/// than are under way at once, so one of them was written if anything was.
const SAMPLE_REQUESTS: usize = FETCHERS + 2;

/// One range request and what comes out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Indexes into the manifest's frames.
    pub frames: Range<usize>,
    /// Indexes into the manifest's extents, which lie in these frames.
    pub extents: Vec<usize>,
}

impl Segment {
    /// The bytes of the pack to ask for.
    #[must_use]
    pub fn range(&self, manifest: &Manifest) -> Range<u64> {
        let last = &manifest.frames[self.frames.end - 1];
        manifest.frames[self.frames.start].offset_bytes..last.offset_bytes + u64::from(last.compressed_bytes)
    }
}

/// The requests that bring all these extents.
#[must_use]
pub fn segments(manifest: &Manifest, mut extents: Vec<usize>) -> Vec<Segment> {
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

/// The extents by which a write sees whether some of these are on the disk already.
///
/// Requests overtake one another, so the first of each of several is looked at; and some all over the image, for
/// a disk that lost what its cache held. By the same rule a write sees whether its seed is on the disk at all.
#[must_use]
pub fn samples(manifest: &Manifest, extents: Vec<usize>) -> Vec<usize> {
    let segments = segments(manifest, extents);
    let stride = segments.len().div_ceil(SAMPLE_REQUESTS).max(1);
    let sampled = segments.iter().enumerate().filter(|(at, _)| *at < SAMPLE_REQUESTS || at.is_multiple_of(stride));
    // A segment is made for an extent, so it has a first one.
    sampled.map(|(_, segment)| segment.extents[0]).collect()
}

fn belongs(manifest: &Manifest, segment: &Segment, frames: &Range<usize>) -> bool {
    let last = &manifest.frames[segment.frames.end - 1];
    let next = &manifest.frames[frames.start];
    let raw_bytes = |frames: Range<usize>| frames.map(|at| u64::from(manifest.frames[at].raw_bytes)).sum::<u64>();
    let merged = segment.frames.start..segment.frames.end.max(frames.end);
    if next.pack != last.pack || raw_bytes(merged) > RAW_BYTES_HARD {
        return false;
    }
    if frames.start < segment.frames.end {
        // It shares a frame with this request: another request would fetch that frame again.
        return true;
    }
    // Frames of the list that no extent here needs are skipped over only when they are short, too.
    let gap_bytes = next.offset_bytes - (last.offset_bytes + u64::from(last.compressed_bytes));
    let range = segment.range(manifest);
    gap_bytes <= GAP_BYTES_MAX
        && range.end - range.start < REQUEST_BYTES
        && raw_bytes(segment.frames.clone()) < RAW_BYTES_SOFT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::manifest::{BLOCK_BYTES, BootFacts, Extent, FRAME_BYTES, Frame};

    /// A manifest with frames of `compressed_bytes` each, one behind another from these offsets.
    fn manifest(offsets: &[(u32, u64)], compressed_bytes: u32, extents: &[(u32, u32, u32)]) -> Manifest {
        let frame = |&(pack, offset_bytes): &(u32, u64)| Frame {
            pack,
            offset_bytes,
            compressed_bytes,
            raw_bytes: FRAME_BYTES as u32,
        };
        let extent = |(index, &(frame, frame_block, blocks)): (u64, &(u32, u32, u32))| Extent {
            target_offset_bytes: index << 20,
            extent_bytes: blocks * BLOCK_BYTES as u32,
            frame,
            frame_block,
            digest: [0; 32],
        };
        Manifest {
            image_bytes: 1 << 30,
            sector_bytes: 512,
            content_digest: [0; 32],
            boot: BootFacts::default(),
            packs: vec![[1; 32], [2; 32]],
            frames: offsets.iter().map(frame).collect(),
            extents: (0..).zip(extents).map(extent).collect(),
        }
    }

    #[test]
    fn neighbouring_frames_come_with_one_request_and_packs_do_not_mix() {
        let near = manifest(&[(0, 16), (0, 116), (0, 216), (1, 16)], 100, &[(3, 0, 1), (1, 124, 10), (0, 0, 1)]);
        let all = segments(&near, vec![0, 1, 2]);
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].frames.clone(), all[0].extents.as_slice()), (0..3, [2, 1].as_slice()));
        assert_eq!(all[0].range(&near), 16..316);
        assert_eq!((all[1].frames.clone(), all[1].range(&near)), (3..4, 16..116));
        assert_eq!(segments(&near, Vec::new()), []);
    }

    #[test]
    fn a_long_gap_is_not_fetched_and_a_short_one_is() {
        let gap = |bytes: u64| {
            let manifest = manifest(&[(0, 16), (0, 116 + bytes)], 100, &[(0, 0, 1), (1, 0, 1)]);
            segments(&manifest, vec![0, 1]).len()
        };
        assert_eq!((gap(GAP_BYTES_MAX), gap(GAP_BYTES_MAX + 1)), (1, 2));
    }

    /// Rule 9: a request has a bound in bytes, packed and unpacked, however well the frames compress; and every frame
    /// comes once.
    #[test]
    fn requests_are_bounded_and_fetch_no_frame_twice() {
        for compressed_bytes in [20, FRAME_BYTES as u32] {
            let offsets: Vec<_> = (0..200).map(|i| (0, 16 + i * u64::from(compressed_bytes))).collect();
            let extents: Vec<_> = (0..200).map(|i| (i, 0, 128)).collect();
            let manifest = manifest(&offsets, compressed_bytes, &extents);
            let all = segments(&manifest, (0..200).collect());
            assert!(all.iter().all(|s| (s.frames.len() * FRAME_BYTES) as u64 <= RAW_BYTES_HARD));
            let longest = all.iter().map(|s| s.range(&manifest)).map(|r| r.end - r.start).max();
            assert!(longest <= Some(REQUEST_BYTES + FRAME_BYTES as u64), "{longest:?}");
            let frames: Vec<usize> = all.iter().flat_map(|s| s.frames.clone()).collect();
            assert_eq!(frames, (0..200).collect::<Vec<_>>());
        }
    }
}
