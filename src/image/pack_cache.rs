//! Packs mapped into memory, so that a range request costs a slice and no read.

use std::collections::HashMap;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memmap2::{Mmap, UncheckedAdvice};

use super::{StoreError, io_error};

/// Mappings kept at once. They cost address space and a file each, not memory.
const MAPPED_MAX: usize = 256;

const PAGE_BYTES: usize = 4096;

/// The bytes of a file, mapped.
#[derive(Debug, Clone)]
pub(super) struct Mapped {
    bytes: Bytes,
    /// None for bytes that come from elsewhere.
    map: Option<Arc<Mmap>>,
}

impl Mapped {
    /// The whole of it, for as long as somebody has it.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Pages that nobody here reads again soon. They stay in the page cache, but no longer count as this process's
    /// memory: who reads an image of 40 GiB from one end to the other would hold all of it otherwise.
    pub fn let_go(&self, range: Range<usize>) {
        let first = range.start.next_multiple_of(PAGE_BYTES);
        let end = range.end.min(self.bytes.len()) / PAGE_BYTES * PAGE_BYTES;
        if let Some(map) = self.map.as_ref().filter(|_| first < end) {
            // SAFETY: madvise(2): MADV_DONTNEED on the mapping of a file that nobody writes through it: the next read
            // brings the same bytes in from the file. A refusal changes nothing.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, first, end - first) };
        }
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Bytes> for Mapped {
    fn from(bytes: Bytes) -> Mapped {
        Mapped { bytes, map: None }
    }
}

/// What keeps a mapping while there are slices of it.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Debug, Default)]
pub(super) struct PackCache {
    mapped: Mutex<Mappings>,
}

#[derive(Debug, Default)]
struct Mappings {
    by_id: HashMap<String, (Mapped, u64)>,
    /// Counts requests, so that the longest unused mapping is known.
    tick: u64,
}

impl PackCache {
    /// `Ok(None)` when there is no such file.
    pub fn get(&self, id: &str, path: &Path) -> Result<Option<Mapped>, StoreError> {
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

    fn lock(&self) -> MutexGuard<'_, Mappings> {
        // Whoever panicked with the lock left a cache that is at worst incomplete.
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maps a file that is never changed after it was renamed to its place. `Ok(None)` when there is none.
pub(super) fn map(path: &Path) -> Result<Option<Mapped>, StoreError> {
    match File::open(path) {
        Ok(file) => map_file(&file, path).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("open", path)(e)),
    }
}

/// Maps a file that its writer has finished.
pub(super) fn map_file(file: &File, path: &Path) -> Result<Mapped, StoreError> {
    // SAFETY: mmap(2) of a regular file. Packs and their indexes are written once under a temporary name and
    // neither changed nor truncated afterwards, only unlinked or replaced by a rename, which a mapping survives.
    let map = unsafe { Mmap::map(file) }.map_err(io_error("map", path))?;
    let map = Arc::new(map);
    Ok(Mapped { bytes: Bytes::from_owner(Owner(map.clone())), map: Some(map) })
}
