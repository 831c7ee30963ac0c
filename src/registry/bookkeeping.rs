//! The writer keeps the ledger: whatever changes a record, or removes one, is read for facts here, and they are committed
//! together with it. And how others read the ledger: beside the writer, up to where it is on stable storage.

use super::RegistryError;
use super::ledger::{self, Entry, Fact, LedgerError, Tip};
use super::writer::{Batch, Writer};
use crate::db::{DbError, DbRead};
use crate::decide::host::{Host, State};
use std::path::PathBuf;
use std::sync::Arc;

/// Set once every host that a record knew is in the ledger.
const BEGUN_KEY: &str = "ledger-begun";

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
    /// Notes what a change of a record means for the ledger: the last thing of a change that can fail.
    pub(super) fn enter(&mut self, before: Option<&Host>, after: &Host, now: u64) -> Result<(), RegistryError> {
        ledger::facts(before, Some(after)).into_iter().try_for_each(|fact| self.enter_fact(&fact, now))
    }

    /// The same for a record that goes.
    pub(super) fn enter_removal(&mut self, gone: &Host, by: &str, now: u64) -> Result<(), RegistryError> {
        let facts = ledger::facts(Some(gone), None).into_iter();
        facts.map(|fact| Fact { by: by.to_string(), ..fact }).try_for_each(|fact| self.enter_fact(&fact, now))
    }

    fn enter_fact(&mut self, fact: &Fact, now: u64) -> Result<(), RegistryError> {
        let entered = self.ledger.append(&*self.db, fact, now);
        entered.map(drop).map_err(|error| RegistryError::Store(error.to_string()))
    }

    /// What the group's changes added, into the group.
    pub(super) fn put_ledger(&mut self, batch: &mut Batch) {
        for (key, value) in self.ledger.take_writes() {
            batch.put(key, value);
        }
    }

    /// A store from before the ledger: what each host runs by its record is where the ledger begins. In commits of a
    /// bounded size; when all of them are done, that is written down, so a start that was cut goes on at the next one.
    pub(super) fn begin_ledger(&mut self, now: u64) -> Result<(), DbError> {
        if self.db.get(BEGUN_KEY)?.is_some() {
            return Ok(());
        }
        let mut batch = Batch::default();
        let hosts: Vec<_> = self.hosts.values().cloned().collect();
        for view in hosts {
            // A disk that is being rewritten holds nothing now, and its order is not what brought the former image.
            let is_whole = !matches!(view.host.state, State::Deploying(_) | State::Verifying);
            let ran = Host { order: None, ..view.host.clone() };
            if view.host.reported.is_some() && is_whole && !self.ledger.knows(&*self.db, &ran.id).unwrap_or(true) {
                let entered = self.enter(None, &ran, now);
                if let Err(error) = entered {
                    tracing::error!(host = ran.id, %error, "the ledger does not begin with this host");
                }
            }
            if batch.is_full() {
                self.finish(std::mem::take(&mut batch));
            }
            self.put_ledger(&mut batch);
        }
        batch.put(BEGUN_KEY.to_string(), Some(Vec::new()));
        self.finish(batch);
        Ok(())
    }
}
