//! A door for `fuzz/`, there only when cargo-fuzz builds: what the agent does with a server's bytes, without a server.

use std::ops::Range;

use super::fetch;
use crate::transfer::segments;
use crate::wire::manifest::Manifest;

/// Where an extent goes, and its bytes.
pub type Unpacked = Vec<(Range<u64>, Vec<u8>)>;

/// Every request that the agent makes for all extents of a manifest, answered from `packs` (in the manifest's
/// order): what it then takes for good, or `None` where it takes nothing. A pack that ends early is a server that
/// does not answer.
#[must_use]
pub fn unpack(manifest: &Manifest, packs: &[Vec<u8>]) -> Vec<Option<Unpacked>> {
    let segments = segments::segments(manifest, (0..manifest.extents.len()).collect());
    let answer = |segment: &segments::Segment| {
        let range = segment.range(manifest);
        let pack = &packs[manifest.frames[segment.frames.start].pack as usize];
        let bytes = pack.get(range.start as usize..range.end as usize)?;
        let extents = fetch::unpack(manifest, segment, bytes, range.start).ok()?;
        Some(extents.iter().map(|extent| (extent.target(), extent.bytes().to_vec())).collect())
    };
    segments.iter().map(answer).collect()
}
