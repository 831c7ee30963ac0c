//! The writer without its thread: a caller that holds it takes groups of commands by itself, at times that it names.
//!
//! This is how a simulation drives the registry (`tests/sim`): the same records, decisions, commits and answers, but
//! neither thread nor clock nor randomness.

use super::stop::StopSwitch;
use super::view::View;
use super::writer::{Batch, Writer};
use super::{Command, RegistryError, Reply, StoredClock, boot_policy, netboot};
use crate::config::Config;
use crate::db::{Db, DbError};
use crate::decide::boot::BootDecision;
use crate::decide::mac::Mac;
use crate::decide::netboot::NetbootClient;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::oneshot;

/// A registry in one hand.
pub struct Direct {
    writer: Writer,
    view: Arc<RwLock<View>>,
    attempts_max: u32,
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct").field("attempts_max", &self.attempts_max).finish_non_exhaustive()
    }
}

impl Direct {
    /// Loads all records.
    ///
    /// # Errors
    /// When the store cannot be read, or a record in it is not understood.
    pub fn load(db: Box<dyn Db>, config: &Config, stop: StopSwitch, now: u64) -> Result<Direct, DbError> {
        let view = Arc::new(RwLock::new(View::default()));
        let writer = Writer::load(db, config, stop, view.clone(), now)?;
        Ok(Direct { writer, view, attempts_max: config.deploy.attempts_max })
    }

    /// The published records.
    pub fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The clock as the last run of the server left it, or as it was stored since.
    #[must_use]
    pub fn stored_clock(&self) -> Option<StoredClock> {
        self.writer.clock
    }

    /// Commands that share one commit. Nothing of them is published or answered before [`Group::commit`].
    pub fn group(&mut self, now: u64) -> Group<'_> {
        Group { writer: &mut self.writer, batch: Batch::default(), now }
    }

    /// One command in a group of its own.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn ask<T>(&mut self, now: u64, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, RegistryError> {
        let mut group = self.group(now);
        let answer = group.take(command);
        group.commit();
        answer.get()
    }

    /// As [`super::Registry::netboot`].
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn netboot(&mut self, mac: Mac, client: NetbootClient, now: u64) -> Result<BootDecision, RegistryError> {
        let policy = boot_policy(self.attempts_max, &self.writer.stop);
        let (decision, news) = self.read(|view| netboot(view, mac, client, policy, now));
        if news {
            self.ask(now, |reply| Command::Netbooted { mac, client, reply })?;
        }
        Ok(decision)
    }
}

/// A group that is being taken. Dropped without a commit it leaves the writer ahead of the store: drop that, too.
pub struct Group<'w> {
    writer: &'w mut Writer,
    batch: Batch,
    now: u64,
}

impl std::fmt::Debug for Group<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Group<'_> {
    /// Decides one command; the answer is there after the commit.
    pub fn take<T>(&mut self, command: impl FnOnce(Reply<T>) -> Command) -> Pending<T> {
        let (reply, answer) = oneshot::channel();
        self.writer.take(command(reply), &mut self.batch, self.now);
        Pending(answer)
    }

    /// Commits, publishes, answers.
    pub fn commit(self) {
        self.writer.finish(self.batch);
    }
}

/// An answer that comes with the commit of its group.
#[derive(Debug)]
pub struct Pending<T>(oneshot::Receiver<Result<T, RegistryError>>);

impl<T> Pending<T> {
    /// The answer.
    ///
    /// # Errors
    /// [`RegistryError`], also when the group was not committed: then there is none, and never will be.
    pub fn get(mut self) -> Result<T, RegistryError> {
        self.0.try_recv().unwrap_or_else(|_| Err(RegistryError::Store("there is no answer".to_string())))
    }
}
