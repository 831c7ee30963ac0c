//! Packs mapped into memory, so that a range request costs a slice and no read.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::mapped::MappedFile;
use super::recent::Recent;
use super::{StoreError, io_error};

/// Mappings kept at once. They cost address space and a file each, not memory.
const MAPPED_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct PackCache {
    /// By the packs' ids.
    mapped: Mutex<Recent<String, MappedFile>>,
}

impl Default for PackCache {
    fn default() -> PackCache {
        PackCache { mapped: Mutex::new(Recent::new(MAPPED_MAX)) }
    }
}

impl PackCache {
    /// One that is mapped already. Never waits: while another is being opened, which may take the disk's time, none is known.
    pub fn known(&self, id: &str) -> Option<MappedFile> {
        match self.mapped.try_lock() {
            Ok(mut mapped) => mapped.get(id),
            Err(TryLockError::Poisoned(mapped)) => mapped.into_inner().get(id),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// `Ok(None)` when there is no such file.
    pub fn get(&self, id: &str, path: &Path) -> Result<Option<MappedFile>, StoreError> {
        // Held while it is opened: whoever replaces the file meanwhile waits with `forget`, and the old one does not stay.
        let mut mapped = self.lock();
        if let Some(file) = mapped.get(id) {
            return Ok(Some(file));
        }
        let Some(file) = open_pack(id, path)? else { return Ok(None) };
        mapped.put(id.to_owned(), file.clone());
        Ok(Some(file))
    }

    /// Lets go of a pack that was removed or replaced, so that the disk gets its space back.
    pub fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, Recent<String, MappedFile>> {
        // Whoever panicked with the lock left a cache that is at worst incomplete.
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of a pack is the digest of the bytes that it was first written with; one that was thinned or mended has the
/// same name and in places other bytes (compact.rs). So its tag for HTTP says as well when the file was written.
fn open_pack(id: &str, path: &Path) -> Result<Option<MappedFile>, StoreError> {
    open(path, |file| {
        let written = file.metadata()?.modified()?;
        let nanos = written.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Ok(format!("{id}-{nanos:x}"))
    })
}

/// Opens a file that is served. `Ok(None)` when there is none.
pub(super) fn open(
    path: &Path,
    etag: impl FnOnce(&File) -> std::io::Result<String>,
) -> Result<Option<MappedFile>, StoreError> {
    let opened = File::open(path).and_then(|file| {
        let etag = etag(&file)?;
        MappedFile::new(file, &etag)
    });
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("open", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pack on a slow disk holds up those who wait for it, and no thread that serves others.
    #[test]
    fn whoever_only_asks_does_not_wait_for_one_that_is_being_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pack");
        std::fs::write(&path, "pack").unwrap();
        let cache = PackCache::default();
        assert!(cache.known("a").is_none());
        assert_eq!(cache.get("a", &path).unwrap().unwrap().piece(0..4, |_| ()), b"pack"[..]);
        assert!(cache.known("a").is_some());
        let opening = cache.lock();
        assert!(cache.known("a").is_none());
        drop(opening);
        assert!(cache.known("a").is_some() && cache.get("b", &dir.path().join("none")).unwrap().is_none());
    }
}
