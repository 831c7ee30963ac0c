//! Bytes that are known to be what the manifest says.

use std::ops::Range;
use std::sync::Arc;

use super::aligned::AlignedBuffer;
use crate::wire::manifest::{self, Extent};

/// The bytes of one extent, checked against its digest. There is no other way to make one than
/// [`VerifiedExtent::check`], and nothing else can be written to a target's body (rule 5).
#[derive(Debug, Clone)]
pub(super) struct VerifiedExtent {
    extent: Extent,
    /// Shared by the extents that were unpacked together.
    buffer: Arc<AlignedBuffer>,
    start: usize,
}

impl VerifiedExtent {
    /// `None` when the bytes at `start` of the buffer are not this extent.
    pub fn check(extent: &Extent, buffer: &Arc<AlignedBuffer>, start: usize) -> Option<VerifiedExtent> {
        let bytes = buffer.get(start..start + extent.extent_bytes as usize)?;
        (manifest::digest(bytes) == extent.digest).then(|| VerifiedExtent {
            extent: *extent,
            buffer: Arc::clone(buffer),
            start,
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.extent.extent_bytes as usize]
    }

    pub fn target(&self) -> Range<u64> {
        self.extent.target()
    }

    /// The bytes of this extent and of the next one lie behind one another here and on the target.
    pub fn is_followed_by(&self, next: &VerifiedExtent) -> bool {
        Arc::ptr_eq(&self.buffer, &next.buffer)
            && self.start + self.extent.extent_bytes as usize == next.start
            && self.target().end == next.target().start
    }

    /// The bytes of this and of the extents up to `last`, each followed by the next.
    pub fn bytes_through(&self, last: &VerifiedExtent) -> &[u8] {
        &self.buffer[self.start..last.start + last.extent.extent_bytes as usize]
    }
}
