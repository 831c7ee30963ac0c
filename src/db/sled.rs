//! sled 0.34.7 behind [`Db`], made durable.
//!
//! sled's `flush` on Linux calls `sync_file_range`, not fsync (its pagecache/iobuf.rs; spacejam/sled #1452):
//! acknowledged writes were lost in 8 of 10 power cuts, and in none with an fdatasync of the `db` file after
//! each flush. So every group ends with flush, fdatasync, and for guarded keys the watermark.

use super::watch::{Change, Watch, Watched};
use super::watermark::{GuardSum, Mark, Watermark};
use super::{Committed, Db, DbError, GUARDED_PREFIX, Item, Revision, Txn, VALUE_BYTES_MAX};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Version of keys and values; a store with another one is refused.
const FORM_VERSION: u64 = 1;
const LOCK_NAME: &str = "lock";
const META_KEY: &str = "meta/commit";

/// The store in `<state_dir>/store`, with its lock and watermark beside it.
pub struct SledDb {
    tree: ::sled::Db,
    /// A second descriptor on sled's log, for fdatasync.
    log: File,
    watermark: Watermark,
    meta: Meta,
    stopped: bool,
    watched: Watched,
    /// Held for the life of the store: one writer.
    lock: Lock,
}

/// The writer's lease: an flock on `<state_dir>/lock`, which the kernel takes back when the process ends.
#[derive(Debug)]
struct Lock {
    file: File,
    state_dir: PathBuf,
}

impl std::fmt::Debug for SledDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledDb").field("meta", &self.meta).finish_non_exhaustive()
    }
}

/// Kept in the store, in the same atomic batch as what it describes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Meta {
    revision: Revision,
    mark_number: u64,
    sum: GuardSum,
}

impl SledDb {
    /// Opens or creates the store under `state_dir`, and checks that it is what was last acknowledged.
    ///
    /// # Errors
    /// [`DbError::Locked`] when another process has it; [`DbError::Untrusted`] when it is damaged or older
    /// than the watermark; [`DbError::WrongVersion`]; IO errors.
    pub fn open(state_dir: &Path) -> Result<SledDb, DbError> {
        let lock = lock(state_dir)?;
        let dir = state_dir.join("store");
        let io = |what| move |source| DbError::Io { what, source };
        let (watermark, newest) = Watermark::open(&state_dir.join("watermark")).map_err(io("opening the watermark"))?;
        let untrusted = |reason: &str| DbError::Untrusted { dir: dir.clone(), reason: reason.to_string() };
        if !dir.exists() && newest.is_some() {
            return Err(untrusted("it is missing, but host records were acknowledged"));
        }
        let tree = open_tree(&dir)?;
        let log = File::open(dir.join("db")).map_err(io("opening the log"))?;
        let mut db = SledDb::of(tree, log, watermark, lock);
        // A first start that was cut before its first commit looks like this, and so does a blank disk: in
        // both no host is known, and an unknown host boots locally.
        if newest.is_none() && db.tree.is_empty() {
            db.begin()?;
            sync_dir(&dir).and_then(|()| sync_dir(state_dir)).map_err(io("syncing the directory"))?;
        } else {
            db.check(&dir, newest)?;
        }
        Ok(db)
    }

    /// Takes the store as it is: what `open` would call untrusted gets a fresh watermark, and a store that
    /// does not open at all is set aside as `store.broken-<now>`. The caller then closes all orders.
    ///
    /// # Errors
    /// As [`SledDb::open`], but for [`DbError::Untrusted`].
    pub fn accept(state_dir: &Path, now: u64) -> Result<(SledDb, String), DbError> {
        let io = |what| move |source| DbError::Io { what, source };
        let why = match SledDb::open(state_dir) {
            Ok(db) => return Ok((db, "the store is sound; nothing was changed".to_string())),
            Err(DbError::Untrusted { reason, .. }) => reason,
            Err(other) => return Err(other),
        };
        let lock = lock(state_dir)?;
        let dir = state_dir.join("store");
        let (watermark, _) = Watermark::open(&state_dir.join("watermark")).map_err(io("opening the watermark"))?;
        let opened = open_tree(&dir).and_then(|tree| Ok((sum_of(&tree)?, tree)));
        let (what, sum, tree) = match opened {
            Ok((sum, tree)) => (format!("{why}: taken as it is"), sum, tree),
            Err(_) => {
                let aside = state_dir.join(format!("store.broken-{now}"));
                std::fs::rename(&dir, &aside).map_err(io("setting the broken store aside"))?;
                (format!("{why}: set aside as {}, begun anew", aside.display()), GuardSum::default(), open_tree(&dir)?)
            }
        };
        let log = File::open(dir.join("db")).map_err(io("opening the log"))?;
        let mut db = SledDb::of(tree, log, watermark, lock);
        db.meta = read_meta(&db.tree)?.unwrap_or_default();
        db.meta.sum = sum;
        db.begin()?;
        sync_dir(&dir).and_then(|()| sync_dir(state_dir)).map_err(io("syncing the directory"))?;
        Ok((db, what))
    }

    fn of(tree: ::sled::Db, log: File, watermark: Watermark, lock: Lock) -> SledDb {
        SledDb { tree, log, watermark, meta: Meta::default(), stopped: false, watched: Watched::default(), lock }
    }

    /// Writes meta and watermark of a store that is new or newly accepted.
    fn begin(&mut self) -> Result<(), DbError> {
        let mut batch = ::sled::Batch::default();
        self.meta.mark_number += 1;
        batch.insert(META_KEY.as_bytes(), self.meta.encode());
        self.flush(batch, true)
    }

    fn check(&mut self, dir: &Path, newest: Option<Mark>) -> Result<(), DbError> {
        let untrusted = |reason: &str| DbError::Untrusted { dir: dir.to_path_buf(), reason: reason.to_string() };
        let mark = newest.ok_or_else(|| untrusted("its watermark file is missing or spoiled"))?;
        let raw = self.tree.get(META_KEY).map_err(|error| untrusted(&format!("it cannot be read: {error}")))?;
        let raw = raw.ok_or_else(|| untrusted("it is empty, but records were acknowledged"))?;
        let (version, meta) = Meta::decode(&raw).ok_or_else(|| untrusted("its commit record is spoiled"))?;
        if version != FORM_VERSION {
            return Err(DbError::WrongVersion { dir: dir.to_path_buf(), found: version, known: FORM_VERSION });
        }
        let sum = sum_of(&self.tree).map_err(|error| untrusted(&format!("it cannot be read: {error}")))?;
        if sum != meta.sum {
            return Err(untrusted("its host records do not add up to its own commit record"));
        }
        // One ahead is a crash between sled's fdatasync and the watermark's: written, never acknowledged.
        if meta.mark_number < mark.number || meta.mark_number > mark.number + 1 {
            return Err(untrusted(&format!(
                "it stands at commit {}, acknowledged was {}",
                meta.mark_number, mark.number
            )));
        }
        if meta.mark_number == mark.number && meta.sum != mark.sum {
            return Err(untrusted("its host records are not those that were acknowledged"));
        }
        self.meta = meta;
        let io = |source| DbError::Io { what: "writing the watermark", source };
        self.watermark.write(Mark { number: meta.mark_number, sum: meta.sum }).map_err(io)
    }

    fn flush(&mut self, batch: ::sled::Batch, guarded: bool) -> Result<(), DbError> {
        let sled = |what| move |source| DbError::Sled { what, source };
        let io = |what| move |source| DbError::Io { what, source };
        self.tree.apply_batch(batch).map_err(sled("writing"))?;
        self.tree.flush().map_err(sled("flushing"))?;
        self.log.sync_data().map_err(io("fdatasync of the log"))?;
        if guarded {
            let mark = Mark { number: self.meta.mark_number, sum: self.meta.sum };
            self.watermark.write(mark).map_err(io("writing the watermark"))?;
        }
        Ok(())
    }

    /// What the group writes in the end, on top of what is stored.
    fn stage(&self, group: &[Txn]) -> Result<(Vec<Committed>, Staged), DbError> {
        let mut staged = Staged { revision: self.meta.revision, keys: BTreeMap::new() };
        let mut outcomes = Vec::with_capacity(group.len());
        for txn in group {
            let mut holds = true;
            for (key, revision) in &txn.checks {
                let current = match staged.keys.get(key) {
                    Some(Some((_, revision))) => *revision,
                    Some(None) => 0,
                    None => self.get(key)?.map_or(0, |item| item.revision),
                };
                holds &= current == *revision;
            }
            if !holds {
                outcomes.push(Committed::Conflict);
                continue;
            }
            staged.revision += 1;
            for (key, value) in &txn.writes {
                if let Some(value) = value
                    && value.len() > VALUE_BYTES_MAX
                {
                    return Err(DbError::ValueTooLarge { key: key.clone(), bytes: value.len() });
                }
                staged.keys.insert(key.clone(), value.clone().map(|value| (value, staged.revision)));
            }
            outcomes.push(Committed::At(staged.revision));
        }
        Ok((outcomes, staged))
    }
}

struct Staged {
    revision: Revision,
    keys: BTreeMap<String, Option<(Vec<u8>, Revision)>>,
}

impl Staged {
    fn changes(self) -> Vec<Change> {
        let change = |(key, value): (String, Option<(Vec<u8>, Revision)>)| match value {
            Some((value, revision)) => Change { key, value: Some(value), revision },
            None => Change { key, value: None, revision: self.revision },
        };
        self.keys.into_iter().map(change).collect()
    }
}

impl Db for SledDb {
    fn get(&self, key: &str) -> Result<Option<Item>, DbError> {
        let raw = self.tree.get(key).map_err(|source| DbError::Sled { what: "reading", source })?;
        Ok(raw.map(|raw| item(key.to_string(), &raw)))
    }

    fn scan(&self, prefix: &str) -> Result<Vec<Item>, DbError> {
        let sled = |source| DbError::Sled { what: "scanning", source };
        self.tree
            .scan_prefix(prefix)
            .map(|pair| {
                let (key, raw) = pair.map_err(sled)?;
                Ok(item(String::from_utf8_lossy(&key).into_owned(), &raw))
            })
            .collect()
    }

    fn commit(&mut self, group: &[Txn]) -> Result<Vec<Committed>, DbError> {
        if self.stopped {
            return Err(DbError::Stopped);
        }
        self.lease()?;
        let (outcomes, staged) = self.stage(group)?;
        if staged.keys.is_empty() {
            return Ok(outcomes);
        }
        let mut batch = ::sled::Batch::default();
        let mut sum = self.meta.sum;
        let mut guarded = false;
        for (key, value) in &staged.keys {
            if key.starts_with(GUARDED_PREFIX) {
                guarded = true;
                if let Some(old) = self.get(key)? {
                    sum.remove(key, &old.value);
                }
                if let Some((value, _)) = value {
                    sum.add(key, value);
                }
            }
            match value {
                Some((value, revision)) => {
                    let mut raw = revision.to_le_bytes().to_vec();
                    raw.extend_from_slice(value);
                    batch.insert(key.as_bytes(), raw);
                }
                None => batch.remove(key.as_bytes()),
            }
        }
        self.meta.revision = staged.revision;
        self.meta.sum = sum;
        self.meta.mark_number += u64::from(guarded);
        batch.insert(META_KEY.as_bytes(), self.meta.encode());
        // Whether a failed flush reached the disk is unknown: from here on an error ends all writing.
        self.stopped = true;
        self.flush(batch, guarded)?;
        self.stopped = false;
        self.watched.tell(|| staged.changes());
        Ok(outcomes)
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.watched.watch(prefix)
    }

    /// An flock is on the file, not on its name: whoever removes the name and starts a second server gets a new file
    /// and a lock on it. Then the name no longer leads to the file that we hold.
    fn lease(&self) -> Result<(), DbError> {
        let ours = self.lock.file.metadata().map(|data| (data.dev(), data.ino()));
        let named = std::fs::metadata(self.lock.state_dir.join(LOCK_NAME)).map(|data| (data.dev(), data.ino()));
        match (ours, named) {
            (Ok(ours), Ok(named)) if ours == named => Ok(()),
            _ => Err(DbError::LeaseLost { dir: self.lock.state_dir.clone() }),
        }
    }
}

impl Meta {
    fn encode(self) -> Vec<u8> {
        let mut raw = self.revision.to_le_bytes().to_vec();
        raw.extend_from_slice(&FORM_VERSION.to_le_bytes());
        raw.extend_from_slice(&self.mark_number.to_le_bytes());
        raw.extend_from_slice(&self.sum.0.to_le_bytes());
        raw
    }

    fn decode(raw: &[u8]) -> Option<(u64, Meta)> {
        let number = |at: usize| Some(u64::from_le_bytes(raw.get(at..at + 8)?.try_into().ok()?));
        let sum = u128::from_le_bytes(raw.get(24..40)?.try_into().ok()?);
        Some((number(8)?, Meta { revision: number(0)?, mark_number: number(16)?, sum: GuardSum(sum) }))
    }
}

fn item(key: String, raw: &[u8]) -> Item {
    let (revision, value) = raw.split_at(raw.len().min(8));
    let revision = revision.try_into().map_or(0, u64::from_le_bytes);
    Item { key, value: value.to_vec(), revision }
}

fn read_meta(tree: &::sled::Db) -> Result<Option<Meta>, DbError> {
    let raw = tree.get(META_KEY).map_err(|source| DbError::Sled { what: "reading", source })?;
    Ok(raw.and_then(|raw| Meta::decode(&raw)).map(|(_, meta)| meta))
}

fn sum_of(tree: &::sled::Db) -> Result<GuardSum, DbError> {
    let mut sum = GuardSum::default();
    for pair in tree.scan_prefix(GUARDED_PREFIX) {
        let (key, raw) = pair.map_err(|source| DbError::Sled { what: "scanning", source })?;
        let item = item(String::from_utf8_lossy(&key).into_owned(), &raw);
        sum.add(&item.key, &item.value);
    }
    Ok(sum)
}

/// sled 0.34 panics on some damage instead of returning an error; both mean the same to us.
fn open_tree(dir: &Path) -> Result<::sled::Db, DbError> {
    let untrusted = |reason: String| DbError::Untrusted { dir: dir.to_path_buf(), reason };
    let config = ::sled::Config::new().path(dir).cache_capacity(8 << 20).flush_every_ms(None);
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(tree)) => Ok(tree),
        Ok(Err(error)) => Err(untrusted(format!("it does not open: {error}"))),
        Err(_) => Err(untrusted("it does not open: sled gave up on its files".to_string())),
    }
}

fn lock(state_dir: &Path) -> Result<Lock, DbError> {
    let io = |what| move |source| DbError::Io { what, source };
    std::fs::create_dir_all(state_dir).map_err(io("making the state directory"))?;
    let path = state_dir.join(LOCK_NAME);
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(io("opening the lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { file, state_dir: state_dir.to_path_buf() }),
        Err(TryLockError::WouldBlock) => Err(DbError::Locked { dir: state_dir.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(DbError::Io { what: "locking", source }),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
