//! The digests of the blocks of a pack that is being written, in order: in a temporary file, not in memory.
//!
//! In memory they were 32 bytes a block, and once more when the index was written: a third of what an import of new
//! data needed.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::files::TempFile;
use super::{StoreError, io_error};
use crate::wire::manifest::Digest;

const DIGEST_BYTES: usize = 32;
/// Digests that wait for the next write: 8 KiB, for 1 MiB of the image.
const TAIL_MAX: usize = 256;
/// Digests that are read at once when all are wanted.
const PIECE: u32 = 16_384;

#[derive(Debug)]
pub(super) struct DigestLog {
    temp: TempFile,
    written: u32,
    tail: Vec<Digest>,
}

impl DigestLog {
    pub fn create(store: &Path) -> Result<DigestLog, StoreError> {
        Ok(DigestLog { temp: TempFile::create(store)?, written: 0, tail: Vec::with_capacity(TAIL_MAX) })
    }

    pub fn count(&self) -> u32 {
        // Whoever pushes keeps it below 2^30; the tail has 256 at most.
        self.written + self.tail.len() as u32
    }

    pub fn push(&mut self, digest: Digest) -> Result<(), StoreError> {
        self.tail.push(digest);
        if self.tail.len() == TAIL_MAX {
            self.temp.file.write_all(self.tail.as_flattened()).map_err(io_error("write", self.temp.path()))?;
            self.written += TAIL_MAX as u32;
            self.tail.clear();
        }
        Ok(())
    }

    pub fn get(&self, block: u32) -> Result<Option<Digest>, StoreError> {
        if block >= self.written {
            return Ok(self.tail.get((block - self.written) as usize).copied());
        }
        let mut digest = [0; DIGEST_BYTES];
        self.read_at(block, &mut digest)?;
        Ok(Some(digest))
    }

    /// Gives all digests in order, as bytes, in pieces.
    pub fn for_each_piece(&self, mut take: impl FnMut(&[u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut buffer = vec![0; PIECE as usize * DIGEST_BYTES];
        for first in (0..self.written).step_by(PIECE as usize) {
            let piece = &mut buffer[..(self.written - first).min(PIECE) as usize * DIGEST_BYTES];
            self.read_at(first, piece)?;
            take(piece)?;
        }
        take(self.tail.as_flattened())
    }

    fn read_at(&self, block: u32, out: &mut [u8]) -> Result<(), StoreError> {
        let offset = u64::from(block) * DIGEST_BYTES as u64;
        self.temp.file.read_exact_at(out, offset).map_err(io_error("read", self.temp.path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::manifest::digest;

    #[test]
    fn digests_are_found_again_in_the_file_and_in_memory() {
        let store = tempfile::tempdir().unwrap();
        std::fs::create_dir(store.path().join("tmp")).unwrap();
        for count in [0, 1, 255, 256, 257, 16_384, 16_385, 40_000] {
            let mut log = DigestLog::create(store.path()).unwrap();
            let pushed: Vec<Digest> = (0..count).map(|number: u32| digest(&number.to_le_bytes())).collect();
            for digest in &pushed {
                log.push(*digest).unwrap();
            }
            assert_eq!(log.count(), count);
            assert!(log.tail.len() < TAIL_MAX);
            for block in [0, 1, 254, 255, 256, 257, count.saturating_sub(1), count] {
                assert_eq!(log.get(block).unwrap(), pushed.get(block as usize).copied(), "block {block} of {count}");
            }
            let mut all = Vec::new();
            log.for_each_piece(|piece| {
                all.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
            assert_eq!(all, pushed.as_flattened(), "{count}");
        }
        assert_eq!(std::fs::read_dir(store.path().join("tmp")).unwrap().count(), 0, "they leave nothing behind");
    }
}
