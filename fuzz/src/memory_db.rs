//! A store in memory that keeps what the real one keeps: order of keys, revisions, and the longest value.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use regild::db::watch::{Watch, Watched};
use regild::db::{Committed, Db, DbError, DbRead, Item, Txn, VALUE_BYTES_MAX};

/// Clones share their content, so that a registry can be started anew on the same store.
#[derive(Debug, Clone, Default)]
pub struct MemoryDb(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    revision: u64,
    items: BTreeMap<String, (Vec<u8>, u64)>,
}

impl DbRead for MemoryDb {
    fn get(&self, key: &str) -> Result<Option<Item>, DbError> {
        let content = self.0.lock().expect("nobody panics with the lock");
        let item = content.items.get(key);
        Ok(item.map(|(value, revision)| Item { key: key.to_owned(), value: value.clone(), revision: *revision }))
    }

    fn scan(&self, prefix: &str) -> Result<Vec<Item>, DbError> {
        let content = self.0.lock().expect("nobody panics with the lock");
        let from = content.items.range(prefix.to_owned()..);
        let under = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(under
            .map(|(key, (value, revision))| Item { key: key.clone(), value: value.clone(), revision: *revision })
            .collect())
    }
}

impl Db for MemoryDb {
    fn reader(&self) -> Arc<dyn DbRead + Send + Sync> {
        Arc::new(self.clone())
    }

    fn commit(&mut self, group: &[Txn]) -> Result<Vec<Committed>, DbError> {
        let mut content = self.0.lock().expect("nobody panics with the lock");
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
