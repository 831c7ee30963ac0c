//! Memory that O_DIRECT accepts: it must begin at a multiple of the device's sector.

use std::ops::{Deref, DerefMut};

/// Enough for every sector size there is.
pub(super) const ALIGNMENT_BYTES: usize = 4096;

/// Zeroed bytes that begin at a multiple of 4 KiB.
#[derive(Debug)]
pub(super) struct AlignedBuffer {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    pub fn new(len: usize) -> AlignedBuffer {
        let storage = vec![0; len + ALIGNMENT_BYTES];
        // The heap block does not move when the Vec does, so the offset stays right.
        let start = storage.as_ptr().align_offset(ALIGNMENT_BYTES);
        AlignedBuffer { storage, start, len }
    }

    pub fn copy_of(bytes: &[u8]) -> AlignedBuffer {
        let mut buffer = AlignedBuffer::new(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}
