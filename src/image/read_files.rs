//! Files of the store as they are read here: by pread(2), a piece at a time.
//!
//! Not from a mapping: there a disk that fails, or a file that somebody cuts short, is the signal SIGBUS, which ends the
//! whole server, where pread says what is wrong. What was read from a mapping also counts as the process's memory.
//!
//! A store may have thousands of packs, and a process few files. So a file is open while it is among the last that were
//! read, and is opened again by its name when it is asked for later. All that the store does beside a reader is made for
//! that: a pack or an index is replaced by a rename with one in which everything that a version needs has its old place
//! (compact.rs, mend.rs). What is removed meanwhile stays readable while it is open.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::recent::Recent;
use super::{StoreError, io_error};

/// Packs, of all readers of the process together. An image that was imported over years may lie in hundreds.
static PACKS: Shelf = Shelf::new(256);
/// Indexes: an import looks into those of all packs, one after another when it begins, and mostly into few then.
static INDEXES: Shelf = Shelf::new(128);

/// Open files, by the key of their [`ReadFile`].
#[derive(Debug)]
struct Shelf(Mutex<Recent<u64, Arc<File>>>);

impl Shelf {
    const fn new(files_max: usize) -> Shelf {
        Shelf(Mutex::new(Recent::new(files_max)))
    }

    fn lock(&self) -> MutexGuard<'_, Recent<u64, Arc<File>>> {
        // Whoever panicked with the lock left a list that is at worst incomplete.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One file.
#[derive(Debug)]
pub(super) struct ReadFile {
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// By its path.
    Store { shelf: &'static Shelf, key: u64 },
    /// One that has no name of its own yet.
    Unnamed(File),
}

impl ReadFile {
    /// # Errors
    /// It cannot be opened, or is not there.
    pub fn pack(path: &Path) -> io::Result<ReadFile> {
        let file = File::open(path)?;
        Ok(ReadFile::on(&PACKS, path, file))
    }

    /// One that is open already.
    pub fn index(path: &Path, file: File) -> ReadFile {
        ReadFile::on(&INDEXES, path, file)
    }

    /// A file that nobody writes any more; `path` is for what is said about it.
    pub fn unnamed(path: &Path, file: File) -> ReadFile {
        ReadFile { path: path.to_owned(), place: Place::Unnamed(file) }
    }

    fn on(shelf: &'static Shelf, path: &Path, file: File) -> ReadFile {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let key = KEYS.fetch_add(1, Ordering::Relaxed);
        shelf.lock().put(key, Arc::new(file));
        ReadFile { path: path.to_owned(), place: Place::Store { shelf, key } }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `out`.
    ///
    /// # Errors
    /// What the disk says; a file that ends before.
    pub fn read_exact_at(&self, out: &mut [u8], offset_bytes: u64) -> io::Result<()> {
        let (shelf, key) = match &self.place {
            Place::Unnamed(file) => return file.read_exact_at(out, offset_bytes),
            Place::Store { shelf, key } => (shelf, *key),
        };
        // Not held while one is opened: a slow disk holds up nobody else.
        let known = shelf.lock().get(&key);
        let file = match known {
            Some(file) => file,
            None => {
                let file = Arc::new(File::open(&self.path)?);
                shelf.lock().put(key, file.clone());
                file
            }
        };
        file.read_exact_at(out, offset_bytes)
    }
}

impl Drop for ReadFile {
    fn drop(&mut self) {
        if let Place::Store { shelf, key } = &self.place {
            shelf.lock().remove(key);
        }
    }
}

/// The packs of one image, in the order of its manifest's list; several readers may have them.
#[derive(Debug, Clone)]
pub(super) struct Packs(Arc<[ReadFile]>);

impl Packs {
    pub fn get(&self, pack: u32) -> Option<&ReadFile> {
        self.0.get(pack as usize)
    }
}

impl FromIterator<ReadFile> for Packs {
    fn from_iter<I: IntoIterator<Item = ReadFile>>(files: I) -> Packs {
        Packs(files.into_iter().collect())
    }
}

/// Opens a pack; `Ok(None)` when there is none.
pub(super) fn open_pack(path: &Path) -> Result<Option<ReadFile>, StoreError> {
    match ReadFile::pack(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("open", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TWO: Shelf = Shelf::new(2);

    /// Promise: however many packs an image has, few are open, and all of them are read; one that was replaced by a rename
    /// while it was closed is read as it is now, one that is open stays as it was.
    #[test]
    fn few_are_open_and_all_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = |number: u8| {
            let path = dir.path().join(number.to_string());
            std::fs::write(&path, [number; 8]).unwrap();
            ReadFile::on(&TWO, &path, File::open(&path).unwrap())
        };
        let files: Vec<ReadFile> = (0..9).map(file).collect();
        for number in (0..9).chain([3, 8, 3]) {
            let mut out = [0; 4];
            files[number].read_exact_at(&mut out, 4).unwrap();
            assert_eq!(out, [number as u8; 4]);
            assert!(TWO.lock().len() <= 2);
        }
        for number in [3, 5] {
            std::fs::write(dir.path().join("new"), [99; 8]).unwrap();
            std::fs::rename(dir.path().join("new"), files[number].path()).unwrap();
        }
        let mut out = [0; 8];
        files[3].read_exact_at(&mut out, 0).unwrap();
        assert_eq!(out, [3; 8], "it was open");
        files[5].read_exact_at(&mut out, 0).unwrap();
        assert_eq!(out, [99; 8], "it was not");
        drop(files);
        assert!(TWO.lock().len() == 0, "what nobody reads is closed");
    }
}
