//! The one writer of leases, host records and orders: event in, durable record out.
//!
//! All changes go through one thread (`writer`), which takes what has queued up, decides each event with
//! `decide`, commits the group with one flush, publishes the new records, and only then answers (rule 7).
//! Readers see a [`View`] that holds nothing which is not on stable storage.

pub mod history;
mod leases;
mod nics;
pub mod stored;
mod view;
mod writer;

pub use view::{HostView, ProgressSeen, View};

use crate::clock;
use crate::config::Config;
use crate::db::watch::Watch;
use crate::db::{Db, DbError};
use crate::decide::boot::{BootDecision, BootPolicy, IgnoreReason, LocalReason, boot};
use crate::decide::host::{Event, Refusal, State};
use crate::decide::lease::{LeaseAnswer, LeaseRequest};
use crate::decide::mac::Mac;
use crate::decide::netboot::NetbootClient;
use crate::wire;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait for the writer; over it the asker is told to come again (rule 9).
const QUEUE_MAX: usize = 4096;
/// How often holds are looked at for their end.
const TICK: Duration = Duration::from_secs(5);

/// Why the registry did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("no host is called {0:?}; `regild host list` shows them")]
    UnknownHost(String),
    #[error("{0}")]
    Refused(Refusal),
    #[error("the store failed, nothing was changed: {0}")]
    Store(String),
    #[error("too many requests are waiting; try again in a moment")]
    Busy,
    #[error("the record is too large for the store: {0}")]
    TooLarge(String),
}

/// What a machine gets when it asks for its boot script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// The attempt is counted and on stable storage.
    Agent {
        host: String,
        generation: u64,
        token: String,
    },
    Local {
        reason: LocalReason,
    },
    Nothing {
        reason: IgnoreReason,
    },
}

pub(crate) enum Command {
    Host {
        name: String,
        event: Event,
        inventory: Option<Box<wire::agent::Inventory>>,
        reply: Reply<HostView>,
    },
    Script {
        mac: Mac,
        client: NetbootClient,
        token: String,
        reply: Reply<Script>,
    },
    /// Firmware was told to boot its disk, or a new machine was seen.
    Netbooted {
        mac: Mac,
        client: NetbootClient,
        reply: Reply<()>,
    },
    Lease {
        network: usize,
        request: LeaseRequest,
        reply: Reply<LeaseAnswer>,
    },
    Remove {
        name: String,
        reply: Reply<()>,
    },
    History {
        name: String,
        reply: Reply<Vec<history::Line>>,
    },
    Watch {
        host: Option<String>,
        reply: Reply<Watch>,
    },
    Tick,
}

type Reply<T> = oneshot::Sender<Result<T, RegistryError>>;

/// The handle that every protocol holds.
#[derive(Debug, Clone)]
pub struct Registry {
    commands: mpsc::Sender<Command>,
    view: Arc<RwLock<View>>,
    progress: Arc<Mutex<view::ProgressBoard>>,
    policy: BootPolicy,
}

impl Registry {
    /// Loads all records and starts the writer thread, which ends when the last handle is dropped.
    ///
    /// # Errors
    /// When the store cannot be read, or a record in it is not understood.
    pub fn start(db: Box<dyn Db>, config: &Config) -> Result<(Registry, std::thread::JoinHandle<()>), DbError> {
        let (commands, inbox) = mpsc::channel(QUEUE_MAX);
        let view = Arc::new(RwLock::new(View::default()));
        let writer = writer::Writer::load(db, config, view.clone())?;
        let policy = config.boot_policy();
        let thread = std::thread::Builder::new()
            .name("registry".to_string())
            .spawn(move || writer.run(inbox))
            .map_err(|source| DbError::Io { what: "starting the writer thread", source })?;
        let progress = Arc::new(Mutex::new(view::ProgressBoard::default()));
        Ok((Registry { commands, view, progress, policy }, thread))
    }

    /// Reads the published records. The closure must be quick: the writer publishes under the same lock.
    pub fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        // A poisoned lock means that a reader panicked; the records themselves are replaced whole, never half.
        look(&self.view.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Finds a host by id, MAC or name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<HostView>> {
        self.read(|view| view.find(name))
    }

    /// Applies one event to one host; the answer is the record after it, on stable storage.
    ///
    /// # Errors
    /// [`RegistryError`]; on any error nothing changed.
    pub async fn host_event(&self, name: &str, event: Event) -> Result<HostView, RegistryError> {
        self.ask(|reply| Command::Host { name: name.to_string(), event, inventory: None, reply }).await
    }

    /// As [`Self::host_event`], and keeps the inventory with the record.
    ///
    /// # Errors
    /// [`RegistryError`]; on any error nothing changed.
    pub async fn check_in(
        &self,
        name: &str,
        event: Event,
        inventory: wire::agent::Inventory,
    ) -> Result<HostView, RegistryError> {
        let inventory = Some(Box::new(inventory));
        self.ask(|reply| Command::Host { name: name.to_string(), event, inventory, reply }).await
    }

    /// The history of a host, oldest line first.
    ///
    /// # Errors
    /// [`RegistryError::UnknownHost`], or the store cannot be read.
    pub async fn history(&self, name: &str) -> Result<Vec<history::Line>, RegistryError> {
        self.ask(|reply| Command::History { name: name.to_string(), reply }).await
    }

    /// New lines of history of one host, or of all, from now on.
    ///
    /// # Errors
    /// [`RegistryError::UnknownHost`].
    pub async fn watch(&self, host: Option<&str>) -> Result<Watch, RegistryError> {
        self.ask(|reply| Command::Watch { host: host.map(str::to_string), reply }).await
    }

    /// Deletes a host record; its history stays.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] while an order is open.
    pub async fn remove(&self, name: &str) -> Result<(), RegistryError> {
        self.ask(|reply| Command::Remove { name: name.to_string(), reply }).await
    }

    /// Decides what iPXE boots; an attempt is counted, on stable storage, before this returns `Agent`.
    ///
    /// # Errors
    /// [`RegistryError`]: the caller then answers with a local boot.
    pub async fn script(&self, mac: Mac, client: NetbootClient) -> Result<Script, RegistryError> {
        let token = clock::random_hex::<32>();
        self.ask(|reply| Command::Script { mac, client, token, reply }).await
    }

    /// Decides what a netboot client on DHCP boots. Writes only when that tells something new: an unknown
    /// machine, or the end of an order.
    ///
    /// # Errors
    /// [`RegistryError`]: the caller then still has [`Self::peek`].
    pub async fn netboot(&self, mac: Mac, client: NetbootClient) -> Result<BootDecision, RegistryError> {
        let (decision, news) = self.read(|view| {
            let host = view.by_mac(mac);
            let decision = boot(client, host.as_ref().map(|host| &host.host), self.policy);
            let news = match (&decision, &host) {
                (BootDecision::Ignore { .. }, _) => false,
                (_, None) => true,
                // iPXE will ask for its script and be counted there.
                (BootDecision::BootLocal { .. }, Some(host)) if !matches!(client, NetbootClient::Ipxe { .. }) => {
                    host.host.state == State::Rebooting || host.host.order.is_some()
                }
                _ => false,
            };
            (decision, news)
        });
        if news {
            self.ask(|reply| Command::Netbooted { mac, client, reply }).await?;
        }
        Ok(decision)
    }

    /// Decides a lease; an ACK's lease is on stable storage before this returns.
    ///
    /// # Errors
    /// [`RegistryError`]: no answer must be sent then.
    pub async fn lease(&self, network: usize, request: LeaseRequest) -> Result<LeaseAnswer, RegistryError> {
        self.ask(|reply| Command::Lease { network, request, reply }).await
    }

    /// Notes where an agent's bytes stand. Kept in memory only: it is of no use after a restart, and a
    /// thousand agents would otherwise cost a thousand commits a second. Steps go through `host_event`.
    pub fn note_progress(&self, host: &str, progress: wire::agent::Progress) {
        let mut board = self.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        board.note(host, progress, clock::instant());
    }

    /// The last progress of a host that is being deployed.
    #[must_use]
    pub fn progress(&self, host: &str) -> Option<ProgressSeen> {
        let board = self.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        board.get(host)
    }

    /// Drives what depends on time until the registry stops.
    pub async fn tick_for_ever(&self) {
        let mut timer = tokio::time::interval(TICK);
        loop {
            timer.tick().await;
            if self.commands.send(Command::Tick).await.is_err() {
                return;
            }
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, RegistryError> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(command(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RegistryError::Busy,
            mpsc::error::TrySendError::Closed(_) => RegistryError::Store("the registry has stopped".to_string()),
        })?;
        answer.await.unwrap_or_else(|_| Err(RegistryError::Store("the registry has stopped".to_string())))
    }
}

#[cfg(test)]
pub(crate) mod tests;
