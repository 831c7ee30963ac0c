//! Where the store lies: its directory, and beside it the lock and the watermark.

use crate::clock;
use crate::db::DbError;
use crate::db::watermark::{Mark, Watermark};
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// sled writes whatever is longer than a quarter of a segment to a file of its own, which neither it nor we
/// sync: a power cut then loses acknowledged records. That counts whole pages, of up to 20 values, so that
/// with its own 512 KiB eight kilobytes a value are too much. It is also how much must be written before a
/// freed segment may be used again, about three times this: never within one commit (see the registry's
/// limit of a group), so that nothing acknowledged is overwritten before its new place is on the disk.
const SEGMENT_BYTES: usize = 4 << 20;

/// Waiting for sled's own lock: two seconds.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

pub(super) const LOCK_NAME: &str = "lock";

/// The store's directory with what lies beside it, locked: one writer.
pub(super) struct Place {
    pub(super) dir: PathBuf,
    pub(super) watermark: Watermark,
    /// What was acknowledged last.
    pub(super) newest: Option<Mark>,
    /// The writer's lease: an flock, which the kernel takes back when the process ends.
    lock: File,
}

impl Place {
    pub(super) fn take(state_dir: &Path) -> Result<Place, DbError> {
        let lock = lock(state_dir)?;
        let io = |source| DbError::Io { what: "opening the watermark", source };
        let (watermark, newest) = Watermark::open(&state_dir.join("watermark")).map_err(io)?;
        Ok(Place { dir: state_dir.join("store"), watermark, newest, lock })
    }

    pub(super) fn untrusted(&self, reason: impl Into<String>) -> DbError {
        DbError::Untrusted { dir: self.dir.clone(), reason: reason.into() }
    }

    /// sled 0.34 panics on some damage instead of returning an error; both mean the same to us.
    pub(super) fn open_tree(&self) -> Result<::sled::Db, DbError> {
        if !self.dir.exists() && self.newest.is_some() {
            return Err(self.untrusted("it is missing, but host records were acknowledged"));
        }
        self.make_tree()
    }

    pub(super) fn make_tree(&self) -> Result<::sled::Db, DbError> {
        let config = ::sled::Config::new().path(&self.dir).cache_capacity(8 << 20).flush_every_ms(None);
        let config = config.segment_size(SEGMENT_BYTES);
        let open = || catch_unwind(AssertUnwindSafe(|| config.open()));
        let mut opened = open();
        // Ours is the lock beside the store; sled's own outlives its last handle for a moment, in its threads and in a
        // child process between fork and exec. A server that starts right after another ended is no reason for alarm.
        for _ in 0..LOCK_TRIES {
            match &opened {
                Ok(Err(error)) if error.to_string().contains("could not acquire lock") => clock::sleep(LOCK_PAUSE),
                _ => break,
            }
            opened = open();
        }
        match opened {
            Ok(Ok(tree)) => Ok(tree),
            Ok(Err(error)) => Err(self.untrusted(format!("it does not open: {error}"))),
            Err(_) => Err(self.untrusted("it does not open: sled gave up on its files")),
        }
    }

    /// An flock is on the file, not on its name: whoever removes the name and starts a second server gets a new file
    /// and a lock on it. Then the name no longer leads to the file that we hold.
    pub(super) fn is_ours(&self) -> Result<(), DbError> {
        let identity = |data: Metadata| (data.dev(), data.ino());
        let state_dir = self.dir.parent().unwrap_or(&self.dir);
        match (self.lock.metadata().map(identity), std::fs::metadata(state_dir.join(LOCK_NAME)).map(identity)) {
            (Ok(ours), Ok(named)) if ours == named => Ok(()),
            _ => Err(DbError::LeaseLost { dir: state_dir.to_path_buf() }),
        }
    }

    pub(super) fn sync(&self) -> Result<(), DbError> {
        let sync = |dir: &Path| File::open(dir)?.sync_all();
        let beside = self.dir.parent().unwrap_or(&self.dir);
        let synced = sync(&self.dir).and_then(|()| sync(beside));
        synced.map_err(|source| DbError::Io { what: "syncing the directory", source })
    }
}

fn lock(state_dir: &Path) -> Result<File, DbError> {
    let io = |what| move |source| DbError::Io { what, source };
    std::fs::create_dir_all(state_dir).map_err(io("making the state directory"))?;
    let path = state_dir.join(LOCK_NAME);
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(io("opening the lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DbError::Locked { dir: state_dir.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(DbError::Io { what: "locking", source }),
    }
}
