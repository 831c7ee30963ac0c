//! The store in memory, whose commits can be cut: by a crash before anything of a transaction is durable, or after all
//! of it is, when nobody was told yet.

use regild::db::watch::{Watch, Watched};
use regild::db::{Committed, Db, DbError, DbRead, Item, Txn, VALUE_BYTES_MAX};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// What becomes of the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Sound,
    /// Nothing of it is there after the crash.
    FailsBefore,
    /// All of it is there, but whoever asked was not told.
    FailsAfter,
}

/// Clones share their content: what is there after a crash is what was committed.
#[derive(Debug, Clone, Default)]
pub struct Store(Arc<Mutex<Content>>);

#[derive(Debug)]
struct Content {
    revision: u64,
    items: BTreeMap<String, (Vec<u8>, u64)>,
    fate: Fate,
    /// A commit failed: no later one is taken, as in the real store.
    failed: bool,
}

impl Default for Content {
    fn default() -> Self {
        Content { revision: 0, items: BTreeMap::new(), fate: Fate::Sound, failed: false }
    }
}

impl Store {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("one thread")
    }

    pub fn set_fate(&self, fate: Fate) {
        self.content().fate = fate;
    }

    /// Whether a commit failed since the last start.
    pub fn has_failed(&self) -> bool {
        self.content().failed
    }

    /// As a new process opens it.
    pub fn reopen(&self) -> Box<dyn Db> {
        let mut content = self.content();
        content.failed = false;
        content.fate = Fate::Sound;
        drop(content);
        Box::new(self.clone())
    }

    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.content().items.get(key).map(|(value, _)| value.clone())
    }

    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let content = self.content();
        let from = content.items.range(prefix.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, _)| key.clone()).collect()
    }
}

impl DbRead for Store {
    fn get(&self, key: &str) -> Result<Option<Item>, DbError> {
        let content = self.content();
        let item = content.items.get(key);
        Ok(item.map(|(value, revision)| Item { key: key.to_owned(), value: value.clone(), revision: *revision }))
    }

    fn scan(&self, prefix: &str) -> Result<Vec<Item>, DbError> {
        let content = self.content();
        let from = content.items.range(prefix.to_owned()..);
        let under = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(under
            .map(|(key, (value, revision))| Item { key: key.clone(), value: value.clone(), revision: *revision })
            .collect())
    }
}

impl Db for Store {
    fn reader(&self) -> Arc<dyn DbRead + Send + Sync> {
        Arc::new(self.clone())
    }

    fn commit(&mut self, group: &[Txn]) -> Result<Vec<Committed>, DbError> {
        let mut content = self.content();
        let fate = std::mem::replace(&mut content.fate, Fate::Sound);
        if content.failed || fate == Fate::FailsBefore {
            content.failed = true;
            return Err(DbError::Stopped);
        }
        let mut outcomes = Vec::new();
        for txn in group {
            assert!(txn.checks.is_empty(), "the registry's writer is alone and checks nothing");
            content.revision += 1;
            let revision = content.revision;
            for (key, value) in &txn.writes {
                match value {
                    Some(value) if value.len() > VALUE_BYTES_MAX => {
                        return Err(DbError::ValueTooLarge { key: key.clone(), bytes: value.len() });
                    }
                    Some(value) => content.items.insert(key.clone(), (value.clone(), revision)),
                    None => content.items.remove(key),
                };
            }
            outcomes.push(Committed::At(revision));
        }
        if fate == Fate::FailsAfter {
            content.failed = true;
            return Err(DbError::Stopped);
        }
        Ok(outcomes)
    }

    /// Nobody watches here.
    fn watch(&self, prefix: &str) -> Watch {
        Watched::default().watch(prefix)
    }

    fn lease(&self) -> Result<(), DbError> {
        Ok(())
    }
}
