//! Files that are there whole or not at all: temporary file, fsync, rename, fsync of the directory.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{StoreError, io_error};

/// A file under `tmp/` that vanishes when it is dropped before [`TempFile::publish`].
#[derive(Debug)]
pub(super) struct TempFile {
    pub file: File,
    path: PathBuf,
}

impl TempFile {
    /// A new empty file, readable too. `store` is the directory of the store.
    pub fn create(store: &Path) -> Result<TempFile, StoreError> {
        // The store is locked by this process, so a counter is enough for names of their own.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = store.join("tmp").join(format!("{}-{number}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(io_error("create", &path))?;
        Ok(TempFile { file, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the file at its place, on stable storage before this returns.
    pub fn publish(self, place: &Path) -> Result<(), StoreError> {
        self.file.sync_all().map_err(io_error("sync", &self.path))?;
        fs::rename(&self.path, place).map_err(io_error("rename to", place))?;
        // The temporary name is gone, so Drop finds nothing to remove.
        sync_dir(place.parent().unwrap_or(Path::new("/")))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the store is opened the next time.
        let _ = fs::remove_file(&self.path);
    }
}

/// Tells the system to begin with writing this part of a file to the disk, and does not wait for that. A sync that comes
/// later, and is needed all the same, then has less to wait for.
pub(super) fn begin_writeback(file: &File, offset_bytes: u64, bytes: u64) {
    let (Ok(offset), Ok(count)) = (i64::try_from(offset_bytes), i64::try_from(bytes)) else { return };
    // SAFETY: sync_file_range(2) takes numbers only, and the descriptor is open as long as `file` is borrowed.
    // Where it fails the sync does all the work.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, count, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Writes a small file at its place.
pub(super) fn write_whole(store: &Path, place: &Path, content: &[u8]) -> Result<(), StoreError> {
    let mut temp = TempFile::create(store)?;
    temp.file.write_all(content).map_err(io_error("write", temp.path()))?;
    temp.publish(place)
}

/// Removes a file; none is as good.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes a directory under a parent that is synced, so that it survives a power cut.
pub(super) fn create_dir(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(io_error("create", path))?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let sync = File::open(dir).and_then(|dir| dir.sync_all());
    sync.map_err(io_error("sync", dir))
}

/// The lock that keeps a second process from removing this one's temporary files.
pub(super) fn lock(path: &Path, store: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(io_error("open", path))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        rustix::io::Errno::WOULDBLOCK => StoreError::Locked(store.to_owned()),
        other => io_error("lock", path)(other.into()),
    })?;
    Ok(file)
}

/// Removes what a crash can leave: everything in `tmp/`, and an index whose pack was never renamed.
pub(super) fn remove_leftovers(store: &Path) -> Result<(), StoreError> {
    let tmp = store.join("tmp");
    for name in entries(&tmp)? {
        let path = tmp.join(name);
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
    }
    let packs = store.join("packs");
    for name in entries(&packs)? {
        let path = packs.join(&name);
        if name.ends_with(".idx") && !path.with_extension("pack").exists() {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Names in a directory, sorted; names that are not UTF-8 are not ours.
pub(super) fn entries(dir: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let entry = entry.map_err(io_error("list", dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}
