//! How much a machine would fetch for an image, by the steps of a deploy ([`crate::agent`], `stages`): boot area, a look
//! at what is there, the ends cleared, and then what is not right yet.
//!
//! What is absent: faults. A disk that loses what it was given makes the machine fetch more.

use std::convert::Infallible;
use std::ops::Range;

use super::boot::{self, Fitted};
use super::moved::{self, Surface};
use super::segments::{samples, segments};
use crate::wire::manifest::{Manifest, WINDOW_BYTES};

/// What is on the disk before the write.
pub trait Before {
    /// The boot area is already that of the new image.
    fn has_boot_area(&self) -> bool;
    /// All that the new image leaves empty in its body reads as zeros.
    fn has_holes(&self) -> bool;
    /// The body holds an extent of the new image at its place. `is_cleared`: after both ends were cleared.
    fn holds(&self, extent: usize, is_cleared: bool) -> bool;
    /// An extent as it lies on the disk in the look for a write that was cut: its bytes behind the body count, too.
    fn holds_whole(&self, extent: usize) -> bool;
    /// The manifest of what is there, and the part of the disk that holds what it says also after the clearing.
    fn seed(&self) -> (&Manifest, Range<u64>);
}

/// What comes from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fetch {
    /// Compressed bytes of packs. The manifest comes on top.
    pub bytes: u64,
    pub requests: u64,
    /// Bytes of extents that are right already.
    pub kept_bytes: u64,
    /// Bytes of extents that are copied from elsewhere on the disk.
    pub copied_bytes: u64,
}

/// What a write of `new` fetches onto a disk with `before` on it (`None`: nothing that the image could use), whose boot
/// area fits it as `fitted` says. `is_seeded`: the machine has the manifest of what is there, as orders
/// give it (`agent::seed`).
#[must_use]
pub fn forecast(new: &Manifest, fitted: &Fitted, before: Option<&dyn Before>, is_seeded: bool) -> Fetch {
    let mut fetch = Fetch::default();
    let head = 0..WINDOW_BYTES.min(new.image_bytes);
    fetch.add(new, boot::overlapping(new, &head));
    fetch.add(new, boot::overlapping(new, &(fitted.body.end..new.image_bytes)));
    let all = boot::overlapping(new, &fitted.body);
    let Some(before) = before else {
        fetch.add(new, all);
        return fetch;
    };
    let all_bytes = bytes_of(new, &all);
    let wrong = |is_cleared: bool| -> Vec<usize> {
        all.iter().copied().filter(|extent| !before.holds(*extent, is_cleared)).collect()
    };
    let is_surveyed = before.has_boot_area();
    if is_surveyed && before.has_holes() && wrong(false).is_empty() {
        // Deployed already: nothing is cleared and nothing counted as kept.
        return fetch;
    }
    // As the agent drops its seed (`stages`): where little is in common, and where nothing could show it on the disk.
    let is_seeded = is_seeded && {
        let (seed, whole) = before.seed();
        moved::is_worth_a_look(new, seed, &all) && !boot::inside(seed, &whole).is_empty()
    };
    let is_audited =
        is_surveyed || is_seeded || samples(new, all.clone()).iter().any(|extent| before.holds_whole(*extent));
    let wrong = if is_audited { wrong(true) } else { all };
    fetch.kept_bytes = all_bytes - bytes_of(new, &wrong);
    let missing = if is_seeded { copy(new, before, wrong.clone()) } else { wrong.clone() };
    fetch.copied_bytes = bytes_of(new, &wrong) - bytes_of(new, &missing);
    fetch.add(new, missing);
    fetch
}

impl Fetch {
    fn add(&mut self, manifest: &Manifest, extents: Vec<usize>) {
        for segment in segments(manifest, extents) {
            let range = segment.range(manifest);
            self.bytes += range.end - range.start;
            self.requests += 1;
        }
    }
}

fn bytes_of(manifest: &Manifest, extents: &[usize]) -> u64 {
    extents.iter().map(|&extent| u64::from(manifest.extents[extent].extent_bytes)).sum()
}

fn copy(new: &Manifest, before: &dyn Before, extents: Vec<usize>) -> Vec<usize> {
    let (seed, whole) = before.seed();
    match moved::copy(new, seed, extents, &mut Sketch { whole }) {
        Ok(missing) => missing,
        Err(never) => match never {},
    }
}

/// A disk without bytes: what its image says is where it says.
struct Sketch {
    whole: Range<u64>,
}

impl Surface for Sketch {
    type Held = ();
    type Error = Infallible;

    fn read(&mut self, _: usize, sources: &[Range<u64>]) -> Result<Option<()>, Infallible> {
        let is_there = |source: &Range<u64>| self.whole.start <= source.start && source.end <= self.whole.end;
        Ok(sources.iter().all(is_there).then_some(()))
    }

    fn write(&mut self, _: usize, (): ()) -> Result<(), Infallible> {
        Ok(())
    }
}
