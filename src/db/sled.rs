//! sled 0.34.7 behind [`Db`], made durable.
//!
//! sled's `flush` on Linux calls `sync_file_range`, not fsync (its pagecache/iobuf.rs; spacejam/sled #1452):
//! acknowledged writes were lost in 8 of 10 power cuts, and in none with an fdatasync of the `db` file after
//! each flush. So every group ends with flush, fdatasync, and for guarded keys the watermark.

mod place;

use super::watch::{Change, Watch, Watched};
use super::watermark::{GuardSum, Mark};
use super::{Committed, Db, DbError, DbRead, GUARDED_PREFIX, Item, Revision, Txn, VALUE_BYTES_MAX};
use place::Place;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Version of keys and values; a store with another one is refused.
const FORM_VERSION: u64 = 1;
const META_KEY: &str = "meta/commit";

/// The store in `<state_dir>/store`, with its lock and watermark beside it.
pub struct SledDb {
    tree: ::sled::Db,
    /// A second descriptor on sled's log, for fdatasync.
    log: File,
    place: Place,
    meta: Meta,
    stopped: bool,
    /// Taken by `accept`: the next commit, whatever is in it, makes the store trusted.
    untrusted: bool,
    watched: Watched,
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
        let place = Place::take(state_dir)?;
        let tree = place.open_tree()?;
        let mut db = SledDb::on(place, tree)?;
        db.check()?;
        Ok(db)
    }

    /// Takes the store as it is, also one that `open` calls untrusted; one that does not open at all is set
    /// aside as `store.broken-<now>`. It stays untrusted until the first commit: the caller closes all orders
    /// in that one, so that a crash between the two cannot leave a trusted store with orders of the past.
    ///
    /// # Errors
    /// As [`SledDb::open`], but for [`DbError::Untrusted`].
    pub fn accept(state_dir: &Path, now: u64) -> Result<(SledDb, String), DbError> {
        let place = Place::take(state_dir)?;
        let (mut db, what) = match place.open_tree() {
            Ok(tree) => {
                let mut db = SledDb::on(place, tree)?;
                match (db.check(), db.guard_sum()) {
                    (Ok(()), _) => return Ok((db, "the store is sound".to_string())),
                    (Err(DbError::Untrusted { reason, .. }), Ok(_)) => (db, format!("{reason}: taken as it is")),
                    (Err(DbError::Untrusted { reason, .. }), Err(_)) => SledDb::anew(db.place, &reason, now)?,
                    (Err(other), _) => return Err(other),
                }
            }
            Err(DbError::Untrusted { reason, .. }) => SledDb::anew(place, &reason, now)?,
            Err(other) => return Err(other),
        };
        // A spoiled commit record is one of the things that are accepted.
        db.meta = db.stored_meta().ok().flatten().map_or(Meta::default(), |(_, meta)| meta);
        db.meta.sum = db.guard_sum()?;
        // Above both, so that the watermark of what was lost does not outlast this one.
        db.meta.mark_number = db.meta.mark_number.max(db.place.newest.map_or(0, |mark| mark.number));
        db.untrusted = true;
        db.place.sync()?;
        Ok((db, what))
    }

    /// An empty store where one was that cannot be read. What there is of it is kept.
    fn anew(place: Place, reason: &str, now: u64) -> Result<(SledDb, String), DbError> {
        let mut what = format!("{reason}: begun anew");
        if place.dir.exists() {
            let aside = place.dir.with_file_name(format!("store.broken-{now}"));
            let io = |source| DbError::Io { what: "setting the broken store aside", source };
            std::fs::rename(&place.dir, &aside).map_err(io)?;
            what = format!("{reason}: set aside as {}, begun anew", aside.display());
        }
        let tree = place.make_tree()?;
        Ok((SledDb::on(place, tree)?, what))
    }

    fn on(place: Place, tree: ::sled::Db) -> Result<SledDb, DbError> {
        let log = File::open(place.dir.join("db")).map_err(|source| DbError::Io { what: "opening the log", source })?;
        Ok(SledDb {
            tree,
            log,
            place,
            meta: Meta::default(),
            stopped: false,
            untrusted: false,
            watched: Watched::default(),
        })
    }

    /// Whether the store is what the watermark says, or a new one, which is then begun.
    fn check(&mut self) -> Result<(), DbError> {
        let untrusted = |reason: &str| self.place.untrusted(reason);
        let meta = match (self.stored_meta()?, self.place.newest) {
            (Some((version, _)), _) if version != FORM_VERSION => {
                let dir = self.place.dir.clone();
                return Err(DbError::WrongVersion { dir, found: version, known: FORM_VERSION });
            }
            (Some((_, meta)), _) => meta,
            // A first start that was cut before its first commit looks like this, and so does a blank disk: in
            // both no host is known, and an unknown host boots locally.
            (None, None) if self.tree.is_empty() => return self.begin(),
            (None, _) => return Err(untrusted("it is empty, but records were acknowledged")),
        };
        let sum = self.guard_sum()?;
        if sum != meta.sum {
            return Err(untrusted("its host records do not add up to its own commit record"));
        }
        let mark = match self.place.newest {
            Some(mark) => mark,
            // Cut between the two writes of `begin`: nothing was acknowledged yet.
            None if meta == Meta::FIRST => Mark { number: meta.mark_number, sum },
            None => return Err(untrusted("its watermark file is missing or spoiled")),
        };
        // One ahead is a crash between sled's fdatasync and the watermark's: written, never acknowledged.
        if meta.mark_number < mark.number || meta.mark_number > mark.number + 1 {
            let at = format!("it stands at commit {}, acknowledged was {}", meta.mark_number, mark.number);
            return Err(untrusted(&at));
        }
        if meta.mark_number == mark.number && meta.sum != mark.sum {
            return Err(untrusted("its host records are not those that were acknowledged"));
        }
        self.meta = meta;
        self.write_watermark()
    }

    /// Writes meta and watermark of a new store.
    fn begin(&mut self) -> Result<(), DbError> {
        let mut batch = ::sled::Batch::default();
        self.meta = Meta::FIRST;
        batch.insert(META_KEY.as_bytes(), self.meta.encode());
        self.flush(batch, true)?;
        self.place.sync()
    }

    /// The commit record with its version of the form; `None` when there is none.
    fn stored_meta(&self) -> Result<Option<(u64, Meta)>, DbError> {
        let unreadable = |error| self.place.untrusted(format!("it cannot be read: {error}"));
        let Some(raw) = (*self.tree).get(META_KEY).map_err(unreadable)? else { return Ok(None) };
        Meta::decode(&raw).map(Some).ok_or_else(|| self.place.untrusted("its commit record is spoiled"))
    }

    /// The sum over the guarded records as they lie in the store.
    fn guard_sum(&self) -> Result<GuardSum, DbError> {
        let mut sum = GuardSum::default();
        for pair in self.tree.scan_prefix(GUARDED_PREFIX) {
            let (key, raw) = pair.map_err(|error| self.place.untrusted(format!("it cannot be read: {error}")))?;
            let item = item(String::from_utf8_lossy(&key).into_owned(), &raw);
            sum.add(&item.key, &item.value);
        }
        Ok(sum)
    }

    fn write_watermark(&self) -> Result<(), DbError> {
        let mark = Mark { number: self.meta.mark_number, sum: self.meta.sum };
        self.place.watermark.write(mark).map_err(|source| DbError::Io { what: "writing the watermark", source })
    }

    fn flush(&mut self, batch: ::sled::Batch, guarded: bool) -> Result<(), DbError> {
        let sled = |what| move |source| DbError::Sled { what, source };
        let io = |what| move |source| DbError::Io { what, source };
        self.tree.apply_batch(batch).map_err(sled("writing"))?;
        self.tree.flush().map_err(sled("flushing"))?;
        self.log.sync_data().map_err(io("fdatasync of the log"))?;
        if guarded { self.write_watermark() } else { Ok(()) }
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

impl DbRead for ::sled::Db {
    fn get(&self, key: &str) -> Result<Option<Item>, DbError> {
        let raw = (**self).get(key).map_err(|source| DbError::Sled { what: "reading", source })?;
        Ok(raw.map(|raw| item(key.to_string(), &raw)))
    }

    fn scan(&self, prefix: &str) -> Result<Vec<Item>, DbError> {
        let mut items = Vec::new();
        self.each(prefix, &mut |item| {
            items.push(item);
            Ok(())
        })?;
        Ok(items)
    }

    fn each(&self, prefix: &str, each: &mut dyn FnMut(Item) -> Result<(), DbError>) -> Result<(), DbError> {
        for pair in self.scan_prefix(prefix) {
            let (key, raw) = pair.map_err(|source| DbError::Sled { what: "scanning", source })?;
            // sled pages out only what it was asked for again: it looks at its accesses when 64 have gathered in one of
            // 256 queues. Walked through once, up to 16,384 pages stay in memory (160 MB for the records of 100,000
            // hosts), whatever its cache is set to.
            self.contains_key(&key).map_err(|source| DbError::Sled { what: "scanning", source })?;
            each(item(String::from_utf8_lossy(&key).into_owned(), &raw))?;
        }
        Ok(())
    }
}

impl DbRead for SledDb {
    fn get(&self, key: &str) -> Result<Option<Item>, DbError> {
        DbRead::get(&self.tree, key)
    }

    fn scan(&self, prefix: &str) -> Result<Vec<Item>, DbError> {
        self.tree.scan(prefix)
    }

    fn each(&self, prefix: &str, each: &mut dyn FnMut(Item) -> Result<(), DbError>) -> Result<(), DbError> {
        self.tree.each(prefix, each)
    }
}

impl Db for SledDb {
    fn reader(&self) -> Arc<dyn DbRead + Send + Sync> {
        Arc::new(self.tree.clone())
    }

    fn commit(&mut self, group: &[Txn]) -> Result<Vec<Committed>, DbError> {
        if self.stopped {
            return Err(DbError::Stopped);
        }
        self.lease()?;
        let (outcomes, staged) = self.stage(group)?;
        if staged.keys.is_empty() && !self.untrusted {
            return Ok(outcomes);
        }
        let mut batch = ::sled::Batch::default();
        let mut sum = self.meta.sum;
        let mut guarded = self.untrusted;
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
        self.untrusted = false;
        self.watched.tell(|| staged.changes());
        Ok(outcomes)
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.watched.watch(prefix)
    }

    fn lease(&self) -> Result<(), DbError> {
        self.place.is_ours()
    }
}

impl Meta {
    /// Of a store that was begun and never used.
    const FIRST: Meta = Meta { revision: 0, mark_number: 1, sum: GuardSum(0) };

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

#[cfg(test)]
mod tests;
