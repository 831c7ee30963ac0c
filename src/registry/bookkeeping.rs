//! The writer keeps the ledger: whatever changes a record, or removes one, is read for facts here, and they are committed
//! together with it. And how others read the ledger: beside the writer, up to where it is on stable storage.

use super::RegistryError;
use super::ledger::{self, Entry, Kind, LedgerError, Tip};
use super::writer::{Batch, Writer};
use crate::db::{DbError, DbRead};
use crate::decide::host::Host;
use std::path::PathBuf;
use std::sync::Arc;

/// The ledger as it was on stable storage when it was asked for. Cheap to clone; reading takes what `ledger` says.
#[derive(Clone)]
pub struct LedgerReader {
    pub(super) db: Arc<dyn DbRead + Send + Sync>,
    pub tip: Tip,
}

impl std::fmt::Debug for LedgerReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LedgerReader").field("tip", &self.tip).finish_non_exhaustive()
    }
}

impl LedgerReader {
    /// What [`ledger`]'s functions read from.
    #[must_use]
    pub fn db(&self) -> &dyn DbRead {
        &*self.db
    }

    /// What every host ran at a time, in the order of their ids.
    ///
    /// # Errors
    /// [`LedgerError`]: a list with a gap is never given as the whole.
    pub fn at(&self, time: u64) -> Result<Vec<Entry>, LedgerError> {
        ledger::at(self.db(), self.tip, time)?.collect()
    }
}

/// The ledger as the writer needs it to start. A broken end is told, and stays where it is.
pub(super) fn open(db: &dyn DbRead) -> Result<ledger::Ledger, DbError> {
    let untrusted = |reason: String| DbError::Untrusted { dir: PathBuf::from("store"), reason };
    let (ledger, broken) = ledger::Ledger::open(db).map_err(|error| match error {
        LedgerError::Db(error) => error,
        other => untrusted(other.to_string()),
    })?;
    if let Some(broken) = broken {
        tracing::error!(%broken, "the ledger is not what was written; `regild ledger verify` looks at all of it");
    }
    Ok(ledger)
}

impl Writer {
    /// Notes what a change of a record means for the ledger. `after` is `None` when the record goes. The last thing of a
    /// change that can fail, so that the ledger never says what did not happen.
    pub(super) fn enter(&mut self, before: Option<&Host>, after: Option<&Host>, now: u64) -> Result<(), RegistryError> {
        for fact in ledger::facts(before, after) {
            let entered = self.ledger.append(&*self.db, &fact, now);
            entered.map_err(|error| RegistryError::Store(error.to_string()))?;
        }
        Ok(())
    }

    /// What the group's changes added, into the group.
    pub(super) fn put_ledger(&mut self, batch: &mut Batch) {
        for (key, value) in self.ledger.take_writes() {
            batch.put(key, value);
        }
    }

    /// A store from before the ledger: what each host runs by its record is where the ledger begins. In commits of a
    /// bounded size; cut in between, the rest is entered when a host is next rebuilt.
    pub(super) fn begin_ledger(&mut self, now: u64) {
        if self.ledger.tip().number > 0 {
            return;
        }
        let mut batch = Batch::default();
        let running: Vec<_> = self.hosts.values().filter(|view| view.host.reported.is_some()).cloned().collect();
        for view in running {
            for fact in ledger::facts(None, Some(&view.host)).into_iter().filter(|fact| fact.kind == Kind::Runs) {
                if let Err(error) = self.ledger.append(&*self.db, &fact, now) {
                    tracing::error!(host = view.host.id, %error, "the ledger does not begin with this host");
                }
            }
            if batch.is_full() {
                self.finish(std::mem::take(&mut batch));
            }
            self.put_ledger(&mut batch);
        }
        self.finish(batch);
    }
}
