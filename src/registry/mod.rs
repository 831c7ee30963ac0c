//! The one writer of leases, host records and orders: event in, durable record out.
//!
//! All changes go through one thread (`writer`), which takes what has queued up, decides each event with
//! `decide`, commits the group with one flush, publishes the new records, and only then answers (rule 7).
//! Readers see a [`View`] that holds nothing which is not on stable storage.

mod admission;
mod bookkeeping;
pub mod direct;
pub mod drift;
pub mod drift_rules;
pub mod fleet;
mod gone;
pub mod history;
pub mod image_life;
pub mod image_uses;
pub mod images;
pub mod inventory;
mod leases;
pub mod ledger;
mod load;
mod nics;
pub mod requests;
mod rollout_form;
pub mod rollouts;
mod steps;
pub mod stop;
pub mod stored;
mod stored_verify;
mod view;
mod writer;

pub use admission::{Fleet, Tripped};
pub use bookkeeping::LedgerReader;
use images::{Channel, ImageFacts, Mark};
use requests::{Asked, Proposal};
use rollouts::{CheckAsked, RolloutCommand};
pub use steps::{Steps, StoredClock};
use stop::StopSwitch;
pub use view::{HostView, ProgressSeen, View};

use crate::clock;
use crate::config::Config;
use crate::config::fleet::diff::Write;
use crate::db::watch::Watch;
use crate::db::{Db, DbError, DbRead};
use crate::decide::boot::{BootDecision, BootPolicy, Halt, IgnoreReason, LocalReason, boot};
use crate::decide::brakes::{self, Deny};
use crate::decide::cause::Cause;
use crate::decide::group::Group;
use crate::decide::host::{Event, Host, Refusal, State, VerifyNumber};
use crate::decide::lease::{LeaseAnswer, LeaseRequest};
use crate::decide::mac::Mac;
use crate::decide::netboot::NetbootClient;
use crate::decide::rollout::plan::Plan;
use crate::power::Settings;
use crate::wire;
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait for the writer; over it the asker is told to come again (rule 9).
const QUEUE_MAX: usize = 4096;
/// Hosts of one request in one commit: about 1 MiB of records and history.
const ASKED_AT_ONCE: usize = 500;

/// Why the registry did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("no host is called {0:?}; `regild host list` shows them")]
    UnknownHost(String),
    #[error("{0}")]
    Refused(Refusal),
    #[error("{0}")]
    Denied(Deny),
    #[error("{0}; without its record it would come back without that. `regild apply` takes a protection away")]
    Protected(Deny),
    #[error(
        "group {group} wants a second person, and without its record the host would come back in a group that does not; \
         `regild apply` moves it, or prunes it with `--prune`"
    )]
    NeedsSecond { group: String },
    #[error("{image} is blocked: {reason}; choose another version")]
    ImageBlocked { image: String, reason: String },
    #[error("{0}")]
    ImageRefused(String),
    #[error("there is no image {0}; `regild image list` shows them")]
    UnknownImage(String),
    #[error("{host} is in rollout {rollout}, which is not over; wait for it or abort it")]
    InRollout { host: String, rollout: u64 },
    #[error("there is no rollout {0}; `regild rollout list` shows them")]
    NoRollout(u64),
    #[error("{0}")]
    RolloutCommand(String),
    #[error("no proposal {0} waits for a second person (they end after a day); `regild proposal list` shows them")]
    NoProposal(u64),
    #[error("{0} asked for this; a second person must confirm it: another user of this machine")]
    SamePerson(String),
    #[error("the fleet breaker has not tripped")]
    NotTripped,
    #[error(transparent)]
    Drift(#[from] drift::DriftRefusal),
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
    /// Likewise, for an agent that only reads. What it is given opens nothing that writes.
    Verify {
        host: String,
        number: VerifyNumber,
        token: String,
    },
    Local {
        reason: LocalReason,
    },
    Nothing {
        reason: IgnoreReason,
    },
}

/// What the writer is asked. [`Registry`]'s methods make these, and say what each is for.
#[derive(Debug)]
pub enum Command {
    Host {
        name: String,
        event: Event,
        inventory: Option<Box<wire::agent::Inventory>>,
        reply: Reply<Arc<HostView>>,
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
        by: String,
        reply: Reply<()>,
    },
    History {
        name: String,
        reply: Reply<Vec<history::Line>>,
    },
    Apply {
        writes: Vec<Write>,
        images: fleet::Images,
        by: String,
        reply: Reply<()>,
    },
    StartRollout {
        plan: Box<Plan>,
        reply: Reply<u64>,
    },
    Rollout {
        number: u64,
        command: RolloutCommand,
        reply: Reply<()>,
    },
    AskMany {
        ids: Vec<String>,
        cause: Cause,
        reply: Reply<Asked>,
    },
    Propose {
        proposal: Proposal,
        reply: Reply<u64>,
    },
    TakeProposal {
        number: u64,
        /// `None`: withdrawn.
        confirmed_by: Option<u32>,
        reply: Reply<Proposal>,
    },
    Proposals {
        reply: Reply<Vec<Proposal>>,
    },
    SetChannel {
        channel: Channel,
        reply: Reply<Channel>,
    },
    MarkImage {
        image: String,
        mark: Option<Mark>,
        by: String,
        reply: Reply<()>,
    },
    Image(image_life::ImageCommand),
    ResetBreaker {
        by: String,
        reason: String,
        reply: Reply<()>,
    },
    Watch {
        host: Option<String>,
        reply: Reply<Watch>,
    },
    Tick {
        steps: Box<Steps>,
        reply: Reply<Vec<CheckAsked>>,
    },
    AcceptClock {
        clock: StoredClock,
        reply: Reply<()>,
    },
    SetPower {
        name: String,
        settings: Box<Settings>,
        reply: Reply<()>,
    },
    Drift(drift::DriftCommand),
}

/// Where the answer to a [`Command`] goes, once it is durable.
pub type Reply<T> = oneshot::Sender<Result<T, RegistryError>>;

/// The handle that every protocol holds.
#[derive(Clone)]
pub struct Registry {
    commands: mpsc::Sender<Command>,
    view: Arc<RwLock<View>>,
    progress: Arc<Mutex<view::ProgressBoard>>,
    attempts_max: u32,
    stop: StopSwitch,
    stored_clock: Option<StoredClock>,
    /// For long reads beside the writer.
    reader: Arc<dyn DbRead + Send + Sync>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("attempts_max", &self.attempts_max).finish_non_exhaustive()
    }
}

impl Registry {
    /// Loads all records and starts the writer thread, which ends when the last handle is dropped.
    ///
    /// # Errors
    /// When the store cannot be read, or a record in it is not understood.
    pub fn start(db: Box<dyn Db>, config: &Config) -> Result<(Registry, std::thread::JoinHandle<()>), DbError> {
        let (commands, inbox) = mpsc::channel(QUEUE_MAX);
        let view = Arc::new(RwLock::new(View::default()));
        let stop = StopSwitch::new(&config.state_dir);
        let reader = db.reader();
        let writer = writer::Writer::load(db, config, stop.clone(), view.clone(), clock::now())?;
        let stored_clock = writer.clock;
        let thread = std::thread::Builder::new()
            .name("registry".to_string())
            .spawn(move || writer.run(inbox, clock::now))
            .map_err(|source| DbError::Io { what: "starting the writer thread", source })?;
        let progress = Arc::new(Mutex::new(view::ProgressBoard::default()));
        let attempts_max = config.deploy.attempts_max;
        Ok((Registry { commands, view, progress, attempts_max, stop, stored_clock, reader }, thread))
    }

    /// `regild stop`, which needs neither the store nor the writer.
    #[must_use]
    pub fn stop_switch(&self) -> &StopSwitch {
        &self.stop
    }

    /// What the boot decision takes from configuration and stop switch, now.
    #[must_use]
    pub fn boot_policy(&self) -> BootPolicy {
        boot_policy(self.attempts_max, &self.stop)
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
    pub async fn host_event(&self, name: &str, event: Event) -> Result<Arc<HostView>, RegistryError> {
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
    ) -> Result<Arc<HostView>, RegistryError> {
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

    /// Makes the changes of a diff, all or none, in one commit.
    ///
    /// # Errors
    /// What forbids one of them by now.
    pub async fn apply(&self, writes: Vec<Write>, images: fleet::Images, by: String) -> Result<(), RegistryError> {
        self.ask(|reply| Command::Apply { writes, images, by, reply }).await
    }

    /// Gives a plan its number and begins it.
    ///
    /// # Errors
    /// [`RegistryError::InRollout`].
    pub async fn start_rollout(&self, plan: Plan) -> Result<u64, RegistryError> {
        self.ask(|reply| Command::StartRollout { plan: Box::new(plan), reply }).await
    }

    /// Pauses, resumes or aborts a rollout, or takes in what a health check said.
    ///
    /// # Errors
    /// [`RegistryError::NoRollout`], [`RegistryError::RolloutCommand`].
    pub async fn command_rollout(&self, number: u64, command: RolloutCommand) -> Result<(), RegistryError> {
        self.ask(|reply| Command::Rollout { number, command, reply }).await
    }

    /// One cause for many hosts; what became of each.
    ///
    /// # Errors
    /// Only when the store failed, or the queue is full: hosts before that were asked all the same.
    pub async fn ask_many(&self, ids: Vec<String>, cause: Cause) -> Result<Asked, RegistryError> {
        let mut done = Vec::with_capacity(ids.len());
        // A commit of the store must stay far below the size of its segments (db/sled/place.rs).
        for chunk in ids.chunks(ASKED_AT_ONCE) {
            let (ids, cause) = (chunk.to_vec(), cause.clone());
            done.extend(self.ask(|reply| Command::AskMany { ids, cause, reply }).await?);
        }
        Ok(done)
    }

    /// Keeps a request for a second person; the answer is its number.
    ///
    /// # Errors
    /// [`RegistryError::Busy`] when a hundred wait already.
    pub async fn propose(&self, proposal: Proposal) -> Result<u64, RegistryError> {
        self.ask(|reply| Command::Propose { proposal, reply }).await
    }

    /// Takes a proposal, to be carried out by the caller when a user confirmed it; `None` withdraws it.
    ///
    /// # Errors
    /// [`RegistryError::NoProposal`], [`RegistryError::SamePerson`].
    pub async fn take_proposal(&self, number: u64, confirmed_by: Option<u32>) -> Result<Proposal, RegistryError> {
        self.ask(|reply| Command::TakeProposal { number, confirmed_by, reply }).await
    }

    /// Requests that wait for a second person.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn proposals(&self) -> Result<Vec<Proposal>, RegistryError> {
        self.ask(|reply| Command::Proposals { reply }).await
    }

    /// Points a channel to a version.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn set_channel(&self, channel: Channel) -> Result<Channel, RegistryError> {
        self.ask(|reply| Command::SetChannel { channel, reply }).await
    }

    /// Deprecates or blocks a version, or with `None` makes it good again.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn mark_image(&self, image: String, mark: Option<Mark>, by: String) -> Result<(), RegistryError> {
        self.ask(|reply| Command::MarkImage { image, mark, by, reply }).await
    }

    /// Closes the fleet breaker.
    ///
    /// # Errors
    /// [`RegistryError::NotTripped`].
    pub async fn reset_breaker(&self, by: String, reason: String) -> Result<(), RegistryError> {
        self.ask(|reply| Command::ResetBreaker { by, reason, reply }).await
    }

    /// The ledger, to be read beside the writer; it may take long, so not where others wait.
    ///
    /// # Errors
    /// When the store failed.
    pub fn ledger(&self) -> Result<LedgerReader, RegistryError> {
        let tip = self.read(View::ledger_tip);
        let tip = tip.ok_or_else(|| RegistryError::Store("the store failed earlier".to_string()))?;
        Ok(LedgerReader { db: self.reader.clone(), tip })
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
    pub async fn remove(&self, name: &str, by: &str) -> Result<(), RegistryError> {
        self.ask(|reply| Command::Remove { name: name.to_string(), by: by.to_string(), reply }).await
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
        let policy = self.boot_policy();
        let (decision, news) = self.read(|view| netboot(view, mac, client, policy, clock::now()));
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
        board.note(host, progress, clock::instant(), clock::now());
    }

    /// The last progress of a host that is being deployed.
    #[must_use]
    pub fn progress(&self, host: &str) -> Option<ProgressSeen> {
        let board = self.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        board.get(host)
    }

    /// Takes what one tick of the scheduler found; the answer is the health checks that rollouts ask for.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn tick(&self, steps: Steps) -> Result<Vec<CheckAsked>, RegistryError> {
        self.ask(|reply| Command::Tick { steps: Box::new(steps), reply }).await
    }

    /// Stores that a person accepted the clock.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn accept_clock(&self, clock: StoredClock) -> Result<(), RegistryError> {
        self.ask(|reply| Command::AcceptClock { clock, reply }).await
    }

    /// How a host's power is reached.
    ///
    /// # Errors
    /// [`RegistryError::UnknownHost`].
    pub async fn set_power(&self, name: &str, settings: Settings) -> Result<(), RegistryError> {
        self.ask(|reply| Command::SetPower { name: name.to_string(), settings: Box::new(settings), reply }).await
    }

    /// The clock as the last run of the server left it.
    #[must_use]
    pub fn stored_clock(&self) -> Option<StoredClock> {
        self.stored_clock
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

/// What a netboot client on DHCP boots, and whether that tells the writer something new.
fn netboot(view: &View, mac: Mac, client: NetbootClient, policy: BootPolicy, now: u64) -> (BootDecision, bool) {
    let host = view.by_mac(mac);
    let policy = host.as_ref().map_or(policy, |host| {
        let own = policy_of(policy, &host.host, view.policy(), &view.group(&host.host.group), view.images());
        with_looks(own, || view.look_waits(&host.host, now).is_some(), &host.host)
    });
    let decision = boot(client, host.as_ref().map(|host| &host.host), policy);
    let is_due = |host: &HostView| {
        policy.halt == Halt::Nothing && view.allowed(&host.host).is_ok() && view.is_verify_due(&host.host, now)
    };
    if let (BootDecision::BootLocal { .. }, NetbootClient::Firmware { arch }) = (&decision, client)
        && host.as_ref().is_some_and(|host| is_due(host))
    {
        // The writer asks for the look before this is said; iPXE then gets its script.
        return (BootDecision::Chainload { arch }, true);
    }
    let news = match (&decision, &host) {
        (BootDecision::Ignore { .. }, _) => false,
        (_, None) => true,
        // iPXE will ask for its script and be counted there.
        (BootDecision::BootLocal { .. }, Some(host)) if !matches!(client, NetbootClient::Ipxe { .. }) => {
            host.host.state == State::Rebooting || host.host.order.is_some() || host.host.verify.wish.is_some()
        }
        _ => false,
    };
    (decision, news)
}

/// The same for one host: what was protected, or of which the version was blocked, after its order was opened does not
/// begin (the brakes looked when it opened).
fn policy_of(
    policy: BootPolicy,
    host: &Host,
    brakes: &brakes::Policy,
    group: &Group,
    images: &ImageFacts,
) -> BootPolicy {
    let is_refused = host.order.as_ref().is_some_and(|order| images.refused(&order.image.name).is_some());
    let is_asked = host.order.is_some() || host.verify.wish.is_some();
    let barred = is_refused || is_asked && brakes::allowed(host, group, brakes).is_err();
    if barred && policy.halt == Halt::Nothing { BootPolicy { halt: Halt::Barred, ..policy } } else { policy }
}

/// The same where somebody wants the host looked at: counting who is away costs a walk over all hosts.
pub(crate) fn with_looks(policy: BootPolicy, is_full: impl FnOnce() -> bool, host: &Host) -> BootPolicy {
    let is_asked = host.order.is_none() && host.verify.wish.is_some() && policy.halt == Halt::Nothing;
    if is_asked && is_full() { BootPolicy { halt: Halt::LooksFull, ..policy } } else { policy }
}

/// What the boot decision takes from configuration and stop switch, now.
fn boot_policy(attempts_max: u32, stop: &StopSwitch) -> BootPolicy {
    let halt = match stop.pressed() {
        None => Halt::Nothing,
        Some(stop) if stop.running_too => Halt::Everything,
        Some(_) => Halt::NotBegun,
    };
    BootPolicy { attempts_max, halt }
}

#[cfg(test)]
pub(crate) mod tests;
