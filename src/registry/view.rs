//! What readers see: published records, and the progress of running deploys.

use super::admission::{Fleet, Tripped};
use super::drift;
use super::drift_rules::DriftMemory;
use super::image_uses::ImageUses;
use super::images::ImageFacts;
use super::inventory;
use super::ledger::Tip;
use super::rollouts::Rollouts;
use crate::decide::brakes;
use crate::decide::drift::effective::Policies;
use crate::decide::group::Group;
use crate::decide::host::Host;
use crate::decide::mac::Mac;
use crate::power::{Driver, Settings};
use crate::wire;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// One host as published: what lies in the store, no more.
#[derive(Debug, Clone)]
pub struct HostView {
    pub host: Host,
    pub inventory: Option<inventory::Packed>,
    /// What the causes that ask for it wait for. Found anew at each tick, not stored.
    pub waits: Option<String>,
    /// How its power is reached, when a document says so.
    pub power: Option<Arc<Settings>>,
}

impl HostView {
    /// Whether anybody but a person can switch the machine.
    #[must_use]
    pub fn can_be_switched(&self) -> bool {
        self.power.as_ref().is_some_and(|power| !matches!(**power, Settings::Manual | Settings::Agent))
    }
}

/// All published records.
#[derive(Debug, Default)]
pub struct View {
    hosts: BTreeMap<String, Arc<HostView>>,
    by_mac: HashMap<Mac, String>,
    by_name: HashMap<String, String>,
    breaker: Option<Tripped>,
    ledger_tip: Option<Tip>,
    images: Arc<ImageFacts>,
    fleet: Arc<Fleet>,
    rollouts: Arc<Rollouts>,
    drift: drift::Published,
    reservations: BTreeMap<Mac, std::net::Ipv4Addr>,
    /// Which MAC has which address now; bound leases only.
    lease_macs: HashMap<std::net::Ipv4Addr, Mac>,
    lease_addresses: HashMap<Mac, std::net::Ipv4Addr>,
    /// When the installed agent of a host last asked, Unix seconds. In memory only, an entry for each host at most.
    agents_heard: Mutex<HashMap<String, u64>>,
    drift_memory: Arc<DriftMemory>,
}

impl View {
    /// All hosts, by id.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<HostView>> {
        self.hosts.values()
    }

    #[must_use]
    pub fn by_mac(&self, mac: Mac) -> Option<Arc<HostView>> {
        self.by_mac.get(&mac).and_then(|id| self.hosts.get(id)).cloned()
    }

    /// Which way to a host's power: its own, or its group's.
    #[must_use]
    pub fn driver(&self, host: &HostView) -> Driver {
        let of_group = || self.fleet.groups.get(&host.host.group).and_then(|group| Driver::named(&group.power));
        host.power.as_ref().map(|power| power.driver()).or_else(of_group).unwrap_or_default()
    }

    /// The installed agent of a host asked.
    pub fn note_agent(&self, host: &HostView, now: u64) {
        self.agents_heard().insert(host.host.id.clone(), now);
    }

    /// When the installed agent of a host last asked, since the server started.
    #[must_use]
    pub fn agent_heard(&self, id: &str) -> Option<u64> {
        self.agents_heard().get(id).copied()
    }

    fn agents_heard(&self) -> std::sync::MutexGuard<'_, HashMap<String, u64>> {
        // Numbers that are valid at every moment: a panic elsewhere cannot have spoilt them.
        self.agents_heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host by id, MAC or name, in this order.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<HostView>> {
        if let Some(host) = self.hosts.get(name) {
            return Some(host.clone());
        }
        if let Ok(mac) = name.parse() {
            return self.by_mac(mac);
        }
        self.by_name.get(name).and_then(|id| self.hosts.get(id)).cloned()
    }

    /// The fleet breaker, when it has tripped.
    #[must_use]
    pub fn breaker(&self) -> Option<&Tripped> {
        self.breaker.as_ref()
    }

    /// All rollouts.
    #[must_use]
    pub fn rollouts(&self) -> &Arc<Rollouts> {
        &self.rollouts
    }

    pub(super) fn publish_rollouts(&mut self, rollouts: &Arc<Rollouts>) {
        self.rollouts = rollouts.clone();
    }

    /// What is known of drift.
    #[must_use]
    pub fn drift(&self) -> &drift::Published {
        &self.drift
    }

    pub(super) fn publish_drift(&mut self, drift: &drift::Drift, changed: &[String]) {
        self.drift.publish(drift, changed);
    }

    pub(super) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Groups and policy, as last applied.
    #[must_use]
    pub fn groups(&self) -> &BTreeMap<String, Group> {
        &self.fleet.groups
    }

    /// Why a look at this host does not begin yet (a walk over all hosts).
    #[must_use]
    pub fn look_waits(&self, host: &Host, now: u64) -> Option<brakes::Wait> {
        let under_way = brakes::UnderWay::count(self.hosts().map(|view| &view.host), now);
        under_way.look_waits(host, &self.group(&host.group), self.policy(), now)
    }

    /// Drift policies, as last applied.
    #[must_use]
    pub fn drift_policies(&self) -> &Policies {
        &self.fleet.drift
    }

    /// The rules of hosts as they were made last; the writer has the same.
    pub(super) fn drift_memory(&self) -> &Arc<DriftMemory> {
        &self.drift_memory
    }

    /// A group by name, or what holds where nobody wrote it down.
    #[must_use]
    pub fn group(&self, name: &str) -> Group {
        self.fleet.group(name)
    }

    #[must_use]
    pub fn policy(&self) -> &brakes::Policy {
        &self.fleet.policy
    }

    /// The deny list.
    ///
    /// # Errors
    /// Why the host is never rebuilt.
    pub fn allowed(&self, host: &Host) -> Result<(), brakes::Deny> {
        brakes::allowed(host, &self.fleet.group(&host.group), &self.fleet.policy)
    }

    /// Reservations of the documents.
    #[must_use]
    pub fn reservations(&self) -> &BTreeMap<Mac, std::net::Ipv4Addr> {
        &self.reservations
    }

    /// The address of a machine: reserved for it, or leased to it now.
    #[must_use]
    pub fn address_of(&self, mac: Mac) -> Option<std::net::Ipv4Addr> {
        self.reservations.get(&mac).or_else(|| self.lease_addresses.get(&mac)).copied()
    }

    pub(super) fn publish_fleet(&mut self, fleet: &Arc<Fleet>, reservations: &BTreeMap<Mac, std::net::Ipv4Addr>) {
        self.fleet = fleet.clone();
        if self.reservations != *reservations {
            self.reservations.clone_from(reservations);
        }
    }

    /// Channels and marks of images.
    #[must_use]
    pub fn images(&self) -> &Arc<ImageFacts> {
        &self.images
    }

    /// By whom each version is used now; a look at the whole fleet.
    #[must_use]
    pub fn image_uses(&self) -> ImageUses {
        ImageUses::of(self.hosts.values().map(|view| &view.host), &self.rollouts, &self.images)
    }

    /// Where the ledger ends on stable storage; `None` when the store failed.
    #[must_use]
    pub fn ledger_tip(&self) -> Option<Tip> {
        self.ledger_tip
    }

    pub(super) fn publish_tip(&mut self, tip: Tip) {
        self.ledger_tip = Some(tip);
    }

    pub(super) fn publish_images(&mut self, images: &Arc<ImageFacts>) {
        self.images = images.clone();
    }

    pub(super) fn publish_breaker(&mut self, breaker: Option<Tripped>) {
        self.breaker = breaker;
    }

    /// The MAC that holds a lease on `address`.
    #[must_use]
    pub fn lease_holder(&self, address: std::net::Ipv4Addr) -> Option<Mac> {
        self.lease_macs.get(&address).copied()
    }

    pub(super) fn publish(&mut self, host: Arc<HostView>) {
        for mac in &host.host.macs {
            // As in the writer: the first record that has a MAC keeps it, so that both ask the same host.
            self.by_mac.entry(*mac).or_insert_with(|| host.host.id.clone());
        }
        let id = host.host.id.clone();
        let former = self.hosts.get(&id).and_then(|former| former.host.name.clone());
        if former != host.host.name {
            // Two hosts may swap their names in one commit.
            let own = former.filter(|name| self.by_name.get(name) == Some(&id));
            own.map(|name| self.by_name.remove(&name));
            self.by_name.extend(host.host.name.clone().map(|name| (name, id.clone())));
        }
        self.hosts.insert(id, host);
    }

    pub(super) fn withdraw(&mut self, id: &str) {
        self.hosts.remove(id);
        self.agents_heard().remove(id);
        self.by_mac.retain(|_, known| known != id);
        self.by_name.retain(|_, known| known != id);
    }

    pub(super) fn publish_lease(&mut self, address: std::net::Ipv4Addr, holder: Option<Mac>) {
        let former = match holder {
            Some(mac) => self.lease_macs.insert(address, mac),
            None => self.lease_macs.remove(&address),
        };
        if let Some(former) = former.filter(|former| self.lease_addresses.get(former) == Some(&address)) {
            self.lease_addresses.remove(&former);
        }
        self.lease_addresses.extend(holder.map(|mac| (mac, address)));
    }
}

/// Where the bytes of one host stand, and how fast they move.
#[derive(Debug, Clone, Copy)]
pub struct ProgressSeen {
    pub progress: wire::agent::Progress,
    /// Mean rate of the current step, bytes a second.
    pub rate_bytes: u64,
    /// When the agent last got further, Unix seconds.
    pub moved_at: u64,
}

/// The latest progress of each host; entries are replaced, so it is bounded by the number of hosts.
#[derive(Debug, Default)]
pub struct ProgressBoard {
    lines: HashMap<String, Line>,
}

#[derive(Debug)]
struct Line {
    progress: wire::agent::Progress,
    /// When the step's first report came, and how far it was then.
    began: (Instant, u64),
    seen: Instant,
    moved_at: u64,
}

impl ProgressBoard {
    pub(super) fn note(&mut self, host: &str, progress: wire::agent::Progress, now: Instant, wall: u64) {
        let moved_at = match self.lines.get(host) {
            Some(line) if line.progress.step == progress.step && line.progress.done_bytes >= progress.done_bytes => {
                line.moved_at
            }
            _ => wall,
        };
        let began = match self.lines.get(host) {
            Some(line) if line.progress.step == progress.step && line.progress.done_bytes <= progress.done_bytes => {
                line.began
            }
            _ => (now, progress.done_bytes),
        };
        self.lines.insert(host.to_string(), Line { progress, began, seen: now, moved_at });
    }

    pub(super) fn get(&self, host: &str) -> Option<ProgressSeen> {
        let line = self.lines.get(host)?;
        let moved = line.progress.done_bytes.saturating_sub(line.began.1);
        let millis = u64::try_from(line.seen.duration_since(line.began.0).as_millis()).unwrap_or(u64::MAX);
        Some(ProgressSeen {
            progress: line.progress,
            rate_bytes: moved.saturating_mul(1000) / millis.max(1),
            moved_at: line.moved_at,
        })
    }
}
