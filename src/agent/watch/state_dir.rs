//! The service's directory: one process at a time, and files that are whole or not there.

use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    #[error("{0} cannot be used; it must lie on a file system of this host that can be written to (--state-dir)")]
    Unusable(PathBuf, #[source] io::Error),
    #[error("another regild-agent watch is at work in {0}; one for each host is enough")]
    Taken(PathBuf),
}

/// Held until the process ends: the kernel gives up the lock with it, however it ends.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// # Errors
    /// [`StateDirError`].
    pub(super) fn open(path: &Path) -> Result<StateDir, StateDirError> {
        let unusable = |error: io::Error| StateDirError::Unusable(path.to_path_buf(), error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        // Only its owner may look into it: the key of the host is here.
        let _ = rustix::fs::chmod(path, Mode::RWXU);
        let lock = lock_file(&path.join("lock")).map_err(unusable)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::AGAIN) => return Err(StateDirError::Taken(path.to_path_buf())),
            Err(error) => return Err(unusable(error.into())),
        }
        Ok(StateDir { path: path.to_path_buf(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Replaces a file; after a crash it is the old or the new one. Readable for its owner only.
    ///
    /// # Errors
    /// What the file system says; the old file is as it was.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let part = self.file(&format!("{name}.part"));
        let written = self.new_file(&part).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let done = written.and_then(|()| self.put_in_place(&part, name));
        if done.is_err() {
            // What a full disk took of it is given back.
            let _ = fs::remove_file(&part);
        }
        done
    }

    /// # Errors
    /// What the file system says.
    pub(super) fn new_file(&self, path: &Path) -> io::Result<File> {
        fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
    }

    /// Gives a finished and synced file its name.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn put_in_place(&self, part: &Path, name: &str) -> io::Result<()> {
        let to = self.file(name);
        fs::rename(part, &to)?;
        File::open(to.parent().unwrap_or(&self.path))?.sync_all()
    }

    /// A file of at most `bytes_max`; `None` where there is none.
    ///
    /// # Errors
    /// What the file system says; a longer file is no file of ours.
    pub(super) fn read(&self, name: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.file(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut bytes = Vec::new();
        file.take(bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Some(bytes))
    }

    /// As JSON; a file that is not understood is none: all of them can be had again.
    pub(super) fn read_json<T: serde::de::DeserializeOwned>(&self, name: &str, bytes_max: u64) -> Option<T> {
        let bytes = self.read(name, bytes_max).ok()??;
        serde_json::from_slice(&bytes).ok()
    }
}

/// To be written to where that can be; a disk that the kernel made read-only still has a lock.
fn lock_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let made = rustix::fs::open(path, flags | OFlags::CREATE | OFlags::RDWR, Mode::RUSR | Mode::WUSR);
    let opened = match made {
        Err(rustix::io::Errno::ROFS | rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
            rustix::fs::open(path, flags | OFlags::RDONLY, Mode::empty())
        }
        other => other,
    };
    Ok(File::from(opened?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_and_only_for_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/b");
        let first = StateDir::open(&path).unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateDirError::Taken(_))));
        first.write("x", b"1").unwrap();
        for name in ["", "x", "lock"] {
            let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{name} {mode:o}");
        }
        assert_eq!(first.read("x", 1).unwrap().unwrap(), b"1");
        assert!(first.read("x", 0).is_err() && first.read("y", 1).unwrap().is_none());
        drop(first);
        StateDir::open(&path).unwrap();
    }
}
