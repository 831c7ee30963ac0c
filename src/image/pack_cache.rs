//! Packs mapped into memory, so that a range request costs a slice and no read.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memmap2::Mmap;

use super::{StoreError, io_error};

/// Mappings kept at once. They cost address space and a file each, not memory.
const MAPPED_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct PackCache {
    mapped: Mutex<Mapped>,
}

#[derive(Debug, Default)]
struct Mapped {
    by_id: HashMap<String, (Bytes, u64)>,
    /// Counts requests, so that the longest unused mapping is known.
    tick: u64,
}

impl PackCache {
    /// `Ok(None)` when there is no such file.
    pub fn get(&self, id: &str, path: &Path) -> Result<Option<Bytes>, StoreError> {
        let mut mapped = self.lock();
        mapped.tick += 1;
        let tick = mapped.tick;
        if let Some((bytes, used)) = mapped.by_id.get_mut(id) {
            *used = tick;
            return Ok(Some(bytes.clone()));
        }
        let Some(bytes) = map(path)? else { return Ok(None) };
        if mapped.by_id.len() >= MAPPED_MAX {
            let oldest = mapped.by_id.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(id) = oldest.map(|(id, _)| id.clone()) {
                mapped.by_id.remove(&id);
            }
        }
        mapped.by_id.insert(id.to_owned(), (bytes.clone(), tick));
        Ok(Some(bytes))
    }

    /// Lets go of a pack that was removed or replaced, so that the disk gets its space back.
    pub fn forget(&self, id: &str) {
        self.lock().by_id.remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, Mapped> {
        // Whoever panicked with the lock left a cache that is at worst incomplete.
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maps a file that is never changed after it was renamed to its place. `Ok(None)` when there is none.
pub(super) fn map(path: &Path) -> Result<Option<Bytes>, StoreError> {
    match File::open(path) {
        Ok(file) => map_file(&file, path).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("open", path)(e)),
    }
}

/// Maps a file that its writer has finished.
pub(super) fn map_file(file: &File, path: &Path) -> Result<Bytes, StoreError> {
    // SAFETY: mmap(2) of a regular file. Packs and their indexes are written once under a temporary name and
    // neither changed nor truncated afterwards, only unlinked or replaced by a rename, which a mapping survives.
    let map = unsafe { Mmap::map(file) }.map_err(io_error("map", path))?;
    Ok(Bytes::from_owner(map))
}
