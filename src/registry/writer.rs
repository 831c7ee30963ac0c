//! The writer thread: take what has queued up, decide, commit once, publish, answer.

use super::admission::Brakes;
use super::bookkeeping;
use super::drift::Drift;
use super::fleet::Reservations;
use super::gone::Gone;
use super::history;
use super::images::ImageFacts;
use super::inventory::Packed;
use super::leases::Leases;
use super::ledger::Ledger;
use super::load;
use super::nics;
use super::rollouts::Rollouts;
use super::steps::StoredClock;
use super::stop::StopSwitch;
use super::stored;
use super::view::{HostView, View};
use super::{Command, RegistryError, Script, boot_policy, policy_of, with_looks};
use crate::config::{Config, DEFAULT_GROUP};
use crate::db::{Committed, Db, DbError, Txn, VALUE_BYTES_MAX};
use crate::decide::boot::{BootDecision, BootPolicy, LocalReason, boot};
use crate::decide::brakes;
use crate::decide::host::{Entry, Event, Host, Outcome, State, transition};
use crate::decide::mac::Mac;
use crate::decide::netboot::NetbootClient;
use crate::wire::agent::Inventory;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, RwLock};
use tokio::sync::mpsc;

/// Commands that share one flush at most.
const GROUP_MAX: usize = 512;
/// Bytes that share one flush, about: a group takes no further command beyond it (db::sled::place says why).
const GROUP_BYTES_MAX: usize = 1 << 20;
/// Machines that were seen but never approved. Beyond it a new one still boots its disk, unrecorded.
const DISCOVERED_MAX: usize = 10_000;

pub(super) struct Writer {
    pub(super) db: Box<dyn Db>,
    attempts_max: u32,
    pub(super) stop: StopSwitch,
    pub(super) brakes: Brakes,
    names: BTreeMap<Mac, String>,
    /// The working records: ahead of the view by the group that is being committed.
    pub(super) hosts: BTreeMap<String, Arc<HostView>>,
    pub(super) by_mac: HashMap<Mac, String>,
    discovered: usize,
    pub(super) gone: Gone,
    pub(super) last_proposal: u64,
    pub(super) clock: Option<StoredClock>,
    /// The server's own NICs, which are on the deny list whatever a document says.
    pub(super) own_macs: BTreeSet<Mac>,
    pub(super) reservations: Reservations,
    pub(super) images: Arc<ImageFacts>,
    pub(super) rollouts: Arc<Rollouts>,
    pub(super) leases: Leases,
    pub(super) ledger: Ledger,
    pub(super) drift: Drift,
    view: Arc<RwLock<View>>,
    /// Set when a commit failed: the working records are ahead of the disk, so nothing is decided any more.
    pub(super) failed: Option<String>,
}

/// What one group of commands will write, publish and answer once it is durable.
#[derive(Default)]
pub(super) struct Batch {
    txn: Txn,
    bytes: usize,
    pub(super) hosts: Vec<String>,
    removed: Vec<String>,
    pub(super) leases: Vec<(std::net::Ipv4Addr, Option<Mac>)>,
    /// Hosts of which something else is known about drift.
    pub(super) drift: Vec<String>,
    answers: Vec<Answer>,
}

/// Sends one reply: the real one after a good commit, an error otherwise.
type Answer = Box<dyn FnOnce(Option<&RegistryErrorText>) + Send>;
pub(super) struct RegistryErrorText(String);

impl Batch {
    pub(super) fn put(&mut self, key: String, value: Option<Vec<u8>>) {
        self.bytes += value.as_ref().map_or(0, Vec::len);
        self.txn.writes.push((key, value));
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.txn.writes.iter().map(|(key, _)| key.as_str())
    }

    pub(super) fn deletes(&self, key: &str) -> bool {
        self.txn.writes.iter().any(|(written, value)| written == key && value.is_none())
    }

    /// Whether the group takes no further command.
    pub(super) fn is_full(&self) -> bool {
        self.bytes > GROUP_BYTES_MAX
    }

    fn put_host(&mut self, id: &str, record: Vec<u8>) {
        self.put(format!("host/{id}"), Some(record));
        self.hosts.push(id.to_string());
    }

    pub(super) fn answer<T: Send + 'static>(&mut self, reply: super::Reply<T>, answer: Result<T, RegistryError>) {
        self.answers.push(Box::new(move |failed| {
            let answer = match failed {
                None => answer,
                Some(text) => Err(RegistryError::Store(text.0.clone())),
            };
            // The asker may have gone; what it asked for is done all the same.
            let _ = reply.send(answer);
        }));
    }
}

impl Writer {
    /// The writer on what the store holds; `view` is what it publishes to from then on.
    pub(super) fn load(
        db: Box<dyn Db>,
        config: &Config,
        stop: StopSwitch,
        view: Arc<RwLock<View>>,
        now: u64,
    ) -> Result<Writer, DbError> {
        let mut writer = Writer {
            attempts_max: config.deploy.attempts_max,
            stop,
            brakes: Brakes::default(),
            names: config.names.clone(),
            hosts: BTreeMap::new(),
            by_mac: HashMap::new(),
            discovered: 0,
            gone: Gone::new(),
            last_proposal: 0,
            clock: None,
            own_macs: BTreeSet::new(),
            reservations: Reservations::new(),
            images: Arc::default(),
            rollouts: Arc::default(),
            leases: Leases::load(&*db, config)?,
            ledger: bookkeeping::open(&*db)?,
            drift: Drift::sharing(&view),
            db,
            view,
            failed: None,
        };
        let mut batch = Batch::default();
        for mut view in load::records(&*writer.db, &config.state_dir)? {
            let name = writer.name_of(&view.host);
            let renamed = name != view.host.name;
            if renamed {
                Arc::make_mut(&mut view).host.name = name;
            }
            let id = view.host.id.clone();
            writer.keep(view);
            batch.hosts.push(id.clone());
            if renamed && let Ok(record) = encoded(&writer.hosts[&id]) {
                batch.put_host(&id, record);
            }
        }
        writer.load_gone()?;
        writer.load_breaker()?;
        writer.load_fleet(&config.own_macs)?;
        writer.load_images()?;
        writer.load_clock()?;
        writer.load_proposals()?;
        writer.load_rollouts()?;
        writer.load_drift(now)?;
        batch.drift.extend(writer.drift.hosts.keys().cloned());
        for (address, mac) in writer.leases.bound(now) {
            batch.leases.push((address, Some(mac)));
        }
        writer.finish(batch);
        writer.begin_ledger(now)?;
        Ok(writer)
    }

    /// Until the last handle is dropped. `clock` is asked once for each group.
    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Command>, clock: impl Fn() -> u64) {
        while let Some(first) = inbox.blocking_recv() {
            let mut batch = Batch::default();
            let now = clock();
            self.take(first, &mut batch, now);
            for _ in 1..GROUP_MAX {
                if batch.is_full() {
                    break;
                }
                match inbox.try_recv() {
                    Ok(command) => self.take(command, &mut batch, now),
                    Err(_) => break,
                }
            }
            self.finish(batch);
        }
    }

    /// Decides one command. What comes of it is answered by [`Writer::finish`].
    pub(super) fn take(&mut self, command: Command, batch: &mut Batch, now: u64) {
        match command {
            Command::Host { name, event, inventory, reply } => {
                let answer = self.guard().and_then(|()| self.host_event(&name, &event, inventory, batch, now));
                batch.answer(reply, answer);
            }
            Command::Script { mac, client, token, reply } => {
                let answer = self.guard().and_then(|()| self.script(mac, client, token, batch, now));
                batch.answer(reply, answer);
            }
            Command::Netbooted { mac, client, reply } => {
                let answer = self.guard().and_then(|()| self.netbooted(mac, client, batch, now));
                batch.answer(reply, answer);
            }
            Command::Lease { network, request, reply } => {
                let answer = self.guard().map(|()| self.leases.answer(network, &request, batch, now));
                batch.answer(reply, answer);
            }
            Command::Remove { name, by, reply } => {
                let answer = self.guard().and_then(|()| self.remove(&name, &by, batch, now));
                batch.answer(reply, answer);
            }
            Command::History { name, reply } => {
                // Reads what is durable: a line of this very group is not yet.
                let _ = reply.send(self.history(&name));
            }
            Command::Drift(command) => self.take_drift(command, batch, now),
            other => self.take_operator(other, batch, now),
        }
    }

    /// What operators and the scheduler ask.
    fn take_operator(&mut self, command: Command, batch: &mut Batch, now: u64) {
        match command {
            Command::Apply { writes, images, by, reply } => {
                let answer = self.guard().and_then(|()| self.apply_fleet(writes, &images, &by, batch, now));
                batch.answer(reply, answer);
            }
            Command::StartRollout { plan, reply } => {
                let answer = self.guard().and_then(|()| self.start_rollout(*plan, batch, now));
                batch.answer(reply, answer);
            }
            Command::Rollout { number, command, reply } => {
                let answer = self.guard().and_then(|()| self.command_rollout(number, command, batch, now));
                batch.answer(reply, answer);
            }
            Command::AskMany { ids, cause, reply } => {
                let answer = self.guard().map(|()| self.ask_many(ids, &cause, batch, now));
                batch.answer(reply, answer);
            }
            Command::Propose { proposal, reply } => {
                let answer = self.guard().and_then(|()| self.propose(proposal, batch, now));
                batch.answer(reply, answer);
            }
            Command::TakeProposal { number, confirmed_by, reply } => {
                let answer = self.guard().and_then(|()| self.take_proposal(number, confirmed_by, batch, now));
                batch.answer(reply, answer);
            }
            Command::Proposals { reply } => {
                let _ = reply.send(self.proposals());
            }
            Command::SetChannel { channel, reply } => {
                let answer = self.guard().and_then(|()| self.set_channel(channel, batch, now));
                batch.answer(reply, answer);
            }
            Command::MarkImage { image, mark, by, reply } => {
                let answer = self.guard().and_then(|()| self.mark_image(&image, mark, &by, batch, now));
                batch.answer(reply, answer);
            }
            Command::Image(command) => self.take_image(command, batch, now),
            Command::ResetBreaker { by, reason, reply } => {
                let answer = self.guard().and_then(|()| self.reset_breaker(&by, &reason, batch, now));
                batch.answer(reply, answer);
            }
            Command::Watch { host, reply } => {
                let id = host.map(|name| self.id_of(&name)).transpose();
                let prefix = id.map(|id| id.map_or_else(|| "history/".to_string(), |id| history::prefix(&id)));
                let _ = reply.send(prefix.map(|prefix| self.db.watch(&prefix)));
            }
            Command::Tick { steps, reply } => {
                let checks = self.take_steps(*steps, batch, now);
                batch.answer(reply, Ok(checks));
            }
            Command::AcceptClock { clock, reply } => {
                let answer = self.guard().map(|()| self.put_clock(clock, batch));
                batch.answer(reply, answer);
            }
            Command::SetPower { name, settings, reply } => {
                let answer = self.guard().and_then(|()| self.set_power(&name, *settings, batch));
                batch.answer(reply, answer);
            }
            // All others were taken by `take`, the only caller.
            _ => {}
        }
    }

    pub(super) fn guard(&self) -> Result<(), RegistryError> {
        self.failed.as_ref().map_or(Ok(()), |text| Err(RegistryError::Store(text.clone())))
    }

    fn boot_policy(&self, id: &str, now: u64) -> BootPolicy {
        let (host, fleet) = (&self.hosts[id].host, &self.brakes.fleet);
        let policy = boot_policy(self.attempts_max, &self.stop);
        let policy = policy_of(policy, host, &fleet.policy, &fleet.group(&host.group), &self.images);
        with_looks(policy, || self.is_look_too_many(host, now), host)
    }

    /// As many machines as may be are away for an order or a look.
    pub(super) fn is_look_too_many(&self, host: &Host, now: u64) -> bool {
        let fleet = &self.brakes.fleet;
        let under_way = brakes::UnderWay::count(self.hosts.values().map(|view| &view.host), now);
        under_way.look_waits(host, &fleet.group(&host.group), &fleet.policy, now).is_some()
    }

    /// One event, and what the brakes make of it: a cause that need not wait is an order when this returns.
    pub(super) fn host_event(
        &mut self,
        name: &str,
        event: &Event,
        inventory: Option<Box<Inventory>>,
        batch: &mut Batch,
        now: u64,
    ) -> Result<Arc<HostView>, RegistryError> {
        let id = self.id_of(name)?;
        if let Event::Approve { cause } | Event::Ask { cause } = event {
            let view = &self.hosts[&id];
            let group = self.brakes.fleet.group(&view.host.group);
            brakes::allowed(&view.host, &group, &self.brakes.fleet.policy).map_err(RegistryError::Denied)?;
            let image = cause.image.as_ref().or(view.host.desired.as_ref());
            if let Some(mark) = image.and_then(|image| self.images.blocked(&image.name)) {
                return Err(RegistryError::ImageBlocked { image: mark.image.clone(), reason: mark.reason.clone() });
            }
            if let Some(why) = image.and_then(|image| self.images.refused(&image.name)) {
                return Err(RegistryError::ImageRefused(format!("{why}; choose another version")));
            }
        }
        self.apply(&id, event, inventory, batch, now)?;
        self.look_at_breaker(batch, now);
        let standing = self.standing();
        self.try_admit(&id, &standing, batch, now);
        Ok(self.hosts[&id].clone())
    }

    pub(super) fn apply(
        &mut self,
        id: &str,
        event: &Event,
        inventory: Option<Box<Inventory>>,
        batch: &mut Batch,
        now: u64,
    ) -> Result<(), RegistryError> {
        let (event, absorbed) = self.own_nics(id, event);
        let view = &self.hosts[id];
        match transition(&view.host, &event, self.boot_policy(id, now), now) {
            Outcome::Refused(refusal) => Err(RegistryError::Refused(refusal)),
            Outcome::Unchanged => Ok(()),
            Outcome::Moved(host, mut entries) => {
                entries.extend(nics::merged(&absorbed, &host.state));
                let inventory = inventory.map(|inventory| Packed::of(&inventory)).or_else(|| view.inventory.clone());
                let waits = view.waits.clone().filter(|_| !host.asks.is_empty());
                let power = view.power.clone();
                self.replace(HostView { host: *host, inventory, waits, power }, &entries, batch, now)?;
                self.absorb(id, &absorbed, batch, now)
            }
        }
    }

    /// Notes what a host's causes wait for. Not stored: after a restart it is found anew.
    pub(super) fn set_waits(&mut self, id: &str, waits: Option<String>, batch: &mut Batch) {
        if let Some(view) = self.hosts.get_mut(id)
            && view.waits != waits
        {
            Arc::make_mut(view).waits = waits;
            batch.hosts.push(id.to_string());
        }
    }

    /// Puts a new record into the working set and the batch, or leaves all as it was.
    pub(super) fn replace(
        &mut self,
        mut view: HostView,
        lines: &[Entry],
        batch: &mut Batch,
        now: u64,
    ) -> Result<(), RegistryError> {
        let id = view.host.id.clone();
        // As at the start of the server: a check-in may have brought the NIC that the reservation names.
        view.host.name = self.name_of(&view.host);
        let first = view.host.history_length;
        view.host.history_length += lines.len() as u64;
        let generation = view.host.generation;
        let record = encoded(&view)?;
        let mut puts = Vec::with_capacity(lines.len());
        for (line, number) in lines.iter().zip(first..) {
            let line = history::line(line, number, generation, now);
            // Plain strings and numbers: serialising them cannot fail.
            let raw = fitting(serde_json::to_vec(&line).unwrap_or_default())?;
            puts.push((line, raw));
        }
        let before = self.hosts.get(&id).cloned();
        self.enter(before.as_ref().map(|view| &view.host), &view.host, now)?;
        self.drift_follows(before.as_ref().map(|view| &view.host), &view.host, batch, now);
        self.keep(Arc::new(view));
        batch.put_host(&id, record);
        for (line, raw) in puts {
            tracing::info!(host = %id, generation, from = %line.from, to = %line.to, actor = %line.actor, cause = %line.cause, "host moved");
            batch.put(history::key(&id, line.number), Some(raw));
        }
        Ok(())
    }

    fn name_of(&self, host: &Host) -> Option<String> {
        // A name of the configuration stands before one of a document.
        host.macs.iter().find_map(|mac| self.names.get(mac)).or(host.name.as_ref()).cloned()
    }

    fn keep(&mut self, view: Arc<HostView>) {
        for mac in &view.host.macs {
            // The first record that has a MAC keeps it: a second machine cannot take a host over by saying so.
            self.by_mac.entry(*mac).or_insert_with(|| view.host.id.clone());
        }
        let is_new = |state: &State| usize::from(*state == State::Discovered);
        self.discovered += is_new(&view.host.state);
        if let Some(before) = self.hosts.get(&view.host.id) {
            self.discovered -= is_new(&before.host.state);
            self.brakes.discount(&before.host);
        }
        self.brakes.count(&view.host);
        self.hosts.insert(view.host.id.clone(), view);
    }

    pub(super) fn id_of(&self, name: &str) -> Result<String, RegistryError> {
        if self.hosts.contains_key(name) {
            return Ok(name.to_string());
        }
        if let Ok(mac) = name.parse::<Mac>()
            && let Some(id) = self.by_mac.get(&mac)
        {
            return Ok(id.clone());
        }
        let named = self.hosts.values().find(|view| view.host.name.as_deref() == Some(name));
        named.map(|view| view.host.id.clone()).ok_or_else(|| RegistryError::UnknownHost(name.to_string()))
    }

    fn discover(&mut self, mac: Mac, batch: &mut Batch, now: u64) -> Result<Option<String>, RegistryError> {
        if let Some(id) = self.by_mac.get(&mac) {
            return Ok(Some(id.clone()));
        }
        if self.discovered >= DISCOVERED_MAX {
            return Ok(None);
        }
        let mut host = Host::discovered(mac, DEFAULT_GROUP, now);
        host.name = self.names.get(&mac).cloned();
        let id = host.id.clone();
        host.history_length = self.history_length(&id, batch)?;
        let seen = Entry {
            from: State::Discovered,
            to: State::Discovered,
            cause: format!("{mac} asked to netboot for the first time"),
            actor: "machine".to_string(),
        };
        self.replace(HostView { host, inventory: None, waits: None, power: None }, &[seen], batch, now)?;
        Ok(Some(id))
    }

    fn script(
        &mut self,
        mac: Mac,
        client: NetbootClient,
        token: String,
        batch: &mut Batch,
        now: u64,
    ) -> Result<Script, RegistryError> {
        let Some(id) = self.discover(mac, batch, now)? else {
            return Ok(Script::Local { reason: LocalReason::UnknownHost });
        };
        self.ask_due_verification(&id, client, batch, now);
        // Decided on the record as it was: the attempt that this script is must not count against itself.
        let decision = boot(client, Some(&self.hosts[&id].host), self.boot_policy(&id, now));
        let token_digest = blake3::hash(token.as_bytes()).to_hex().to_string();
        self.host_event(&id, &Event::ScriptAsked { client, token_digest }, None, batch, now)?;
        Ok(match decision {
            BootDecision::BootAgent { generation } => Script::Agent { host: id, generation, token },
            BootDecision::BootVerify { number } => Script::Verify { host: id, number, token },
            BootDecision::BootLocal { reason } => Script::Local { reason },
            BootDecision::Ignore { reason } => Script::Nothing { reason },
            // Firmware never asks for a script; if it does, its own disk is the safe answer.
            BootDecision::Chainload { .. } => Script::Local { reason: LocalReason::NoOpenOrder },
        })
    }

    fn netbooted(&mut self, mac: Mac, client: NetbootClient, batch: &mut Batch, now: u64) -> Result<(), RegistryError> {
        let Some(id) = self.discover(mac, batch, now)? else { return Ok(()) };
        self.ask_due_verification(&id, client, batch, now);
        // Asked again here: the record may have moved since the reader looked.
        let decision = boot(client, Some(&self.hosts[&id].host), self.boot_policy(&id, now));
        if matches!((decision, client), (BootDecision::BootLocal { .. }, NetbootClient::Firmware { .. })) {
            self.host_event(&id, &Event::LocalBootServed, None, batch, now)?;
        }
        Ok(())
    }

    fn remove(&mut self, name: &str, by: &str, batch: &mut Batch, now: u64) -> Result<(), RegistryError> {
        let id = self.id_of(name)?;
        if let Some(order) = &self.hosts[&id].host.order {
            let open = crate::decide::host::Refusal::OrderOpen { generation: order.generation };
            return Err(RegistryError::Refused(open));
        }
        self.unprotected(&id)?;
        self.forget(&id, by, batch, now)
    }

    pub(super) fn forget(&mut self, id: &str, by: &str, batch: &mut Batch, now: u64) -> Result<(), RegistryError> {
        if let Some(view) = self.hosts.get(id).cloned() {
            self.enter_removal(&view.host, by, now)?;
        }
        batch.put(format!("host/{id}"), None);
        // A password of a machine that is nobody's any more.
        if self.hosts.get(id).is_some_and(|view| view.power.is_some()) {
            batch.put(format!("power/{id}"), None);
        }
        self.forget_drift(id, batch);
        self.by_mac.retain(|_, known| *known != id);
        if let Some(gone) = self.hosts.remove(id) {
            self.discovered -= usize::from(gone.host.state == State::Discovered);
            self.brakes.discount(&gone.host);
            self.keep_orders_of(&gone.host, batch);
        }
        batch.removed.push(id.to_string());
        Ok(())
    }

    /// Commits the batch, publishes it, answers everybody: in this order (rule 7).
    pub(super) fn finish(&mut self, mut batch: Batch) {
        self.put_ledger(&mut batch);
        self.drift.staged.clear();
        if self.failed.is_none() && !batch.txn.writes.is_empty() {
            match self.db.commit(std::slice::from_ref(&batch.txn)) {
                Ok(outcomes) if outcomes == [Committed::Conflict] => {
                    self.failed = Some("another writer changed the store".to_string());
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, source = ?std::error::Error::source(&error), "the store failed: every machine boots locally from now on");
                    self.failed = Some(error.to_string());
                }
            }
        }
        let failed = self.failed.clone().map(RegistryErrorText);
        if failed.is_none() {
            let mut view = self.view.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            // Removed ones first: a host of this very group may have taken over their MACs.
            for id in batch.removed.iter().filter(|id| !self.hosts.contains_key(*id)) {
                view.withdraw(id);
            }
            for id in &batch.hosts {
                if let Some(host) = self.hosts.get(id) {
                    view.publish(host.clone());
                }
            }
            view.publish_fleet(&self.brakes.fleet, &self.reservations);
            view.publish_rollouts(&self.rollouts);
            view.publish_images(&self.images);
            view.publish_tip(self.ledger.tip());
            view.publish_drift(&self.drift, &batch.drift);
            view.publish_breaker(self.brakes.breaker.tripped.clone());
            for (address, holder) in &batch.leases {
                view.publish_lease(*address, *holder);
            }
        } else {
            // A reader must not act on records that can no longer be counted on: no host, no order.
            *self.view.write().unwrap_or_else(std::sync::PoisonError::into_inner) = View::default();
        }
        for answer in batch.answers {
            answer(failed.as_ref());
        }
    }
}

/// A record as it goes into the store, if it fits.
fn encoded(view: &HostView) -> Result<Vec<u8>, RegistryError> {
    let raw = stored::encode(&view.host, view.inventory.as_ref().map(Packed::unpacked).as_ref());
    fitting(raw.map_err(|error| RegistryError::TooLarge(error.to_string()))?)
}

/// What does not fit must be refused before it is in a group: the store would refuse the whole group, which ends
/// all writing.
pub(super) fn fitting(raw: Vec<u8>) -> Result<Vec<u8>, RegistryError> {
    if raw.len() > VALUE_BYTES_MAX {
        return Err(RegistryError::TooLarge(format!("{} bytes of at most {VALUE_BYTES_MAX}", raw.len())));
    }
    Ok(raw)
}
