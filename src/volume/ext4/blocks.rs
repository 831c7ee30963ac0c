//! Blocks of the device, with what the journal holds of them standing over it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use super::superblock::Superblock;
use crate::volume::Fault;

/// Metadata that is kept, by block number modulo the number of places.
const CACHE_BYTES: usize = 8 << 20;
/// Longest read of content at once.
pub(super) const READ_BYTES_MAX: usize = 256 << 10;

/// A block whose newest content stands in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Logged {
    pub block: u64,
    /// It begins with the journal's own magic number, which the log has as zeros.
    pub is_escaped: bool,
}

pub(super) struct Blocks<R> {
    device: R,
    block_bytes: u32,
    count: u64,
    pub logged: BTreeMap<u64, Logged>,
    cache: Vec<Option<(u64, Arc<[u8]>)>>,
    /// What may be read yet. An honest file system is read about once; one whose files share their blocks is not.
    budget_bytes: u64,
}

impl<R> fmt::Debug for Blocks<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<R: Read + Seek> Blocks<R> {
    pub fn new(device: R, superblock: &Superblock) -> Blocks<R> {
        let bytes = superblock.blocks * u64::from(superblock.block_bytes);
        Blocks {
            device,
            block_bytes: superblock.block_bytes,
            count: superblock.blocks,
            logged: BTreeMap::new(),
            cache: vec![None; CACHE_BYTES / superblock.block_bytes as usize],
            budget_bytes: bytes.saturating_mul(8).saturating_add(1 << 30),
        }
    }

    pub fn block_bytes(&self) -> u64 {
        u64::from(self.block_bytes)
    }

    /// How many blocks the file system has.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn charge(&mut self, bytes: u64) -> Result<(), Fault> {
        let left = self.budget_bytes.checked_sub(bytes);
        self.budget_bytes =
            left.ok_or_else(|| Fault::TooMuch("its files hold many times more than the whole of it".to_owned()))?;
        Ok(())
    }

    /// A block of metadata.
    pub fn block(&mut self, number: u64) -> Result<Arc<[u8]>, Fault> {
        let place = (number % self.cache.len() as u64) as usize;
        if let Some(Some((kept, block))) = self.cache.get(place)
            && *kept == number
        {
            return Ok(block.clone());
        }
        let mut bytes = vec![0; self.block_bytes as usize];
        self.read_at(number, 0, &mut bytes)?;
        let block: Arc<[u8]> = bytes.into();
        if let Some(kept) = self.cache.get_mut(place) {
            *kept = Some((number, block.clone()));
        }
        Ok(block)
    }

    /// The journal now stands over the device.
    pub fn forget_cache(&mut self) {
        self.cache.fill(None);
    }

    /// A block of the journal itself: never replaced by what the journal says.
    pub fn raw(&mut self, number: u64) -> Result<Vec<u8>, Fault> {
        self.check(number, 1)?;
        self.charge(self.block_bytes())?;
        let mut bytes = vec![0; self.block_bytes as usize];
        self.device.seek(SeekFrom::Start(number * self.block_bytes()))?;
        self.device.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Content from `skip` bytes into block `first` on, over as many blocks as it takes.
    pub fn read_at(&mut self, first: u64, skip: usize, out: &mut [u8]) -> Result<(), Fault> {
        let bytes = self.block_bytes();
        let start = skip as u64;
        let count = (start + out.len() as u64).div_ceil(bytes).max(1);
        self.check(first, count)?;
        self.charge(out.len() as u64)?;
        self.device.seek(SeekFrom::Start(first * bytes + start))?;
        self.device.read_exact(out)?;
        let replaced: Vec<(u64, Logged)> =
            self.logged.range(first..first + count).map(|(number, logged)| (*number, *logged)).collect();
        for (number, logged) in replaced {
            let mut newer = self.raw(logged.block)?;
            if logged.is_escaped {
                newer[..4].copy_from_slice(&super::journal::MAGIC.to_be_bytes());
            }
            // The part of this block that lies in `start .. start + out.len()`, both counted from `first`.
            let block_start = (number - first) * bytes;
            let from = block_start.max(start);
            let to = (block_start + bytes).min(start + out.len() as u64);
            if from < to {
                let part = &newer[(from - block_start) as usize..(to - block_start) as usize];
                out[(from - start) as usize..(to - start) as usize].copy_from_slice(part);
            }
        }
        Ok(())
    }

    fn check(&self, first: u64, count: u64) -> Result<(), Fault> {
        match first.checked_add(count) {
            Some(end) if end <= self.count => Ok(()),
            _ => Fault::damaged(format!("block {first} lies outside of {} blocks", self.count)),
        }
    }
}
