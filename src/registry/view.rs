//! What readers see: published records, and the progress of running deploys.

use crate::decide::host::Host;
use crate::decide::mac::Mac;
use crate::wire;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// One host as published: what lies in the store, no more.
#[derive(Debug, Clone)]
pub struct HostView {
    pub host: Host,
    pub inventory: Option<wire::agent::Inventory>,
}

/// All published records.
#[derive(Debug, Default)]
pub struct View {
    hosts: BTreeMap<String, Arc<HostView>>,
    by_mac: HashMap<Mac, String>,
    /// Which MAC has which address now; bound leases only.
    lease_macs: HashMap<std::net::Ipv4Addr, Mac>,
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

    /// A host by id, MAC or name, in this order.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<HostView>> {
        if let Some(host) = self.hosts.get(name) {
            return Some(host.clone());
        }
        if let Ok(mac) = name.parse() {
            return self.by_mac(mac);
        }
        self.hosts.values().find(|host| host.host.name.as_deref() == Some(name)).cloned()
    }

    /// The MAC that holds a lease on `address`.
    #[must_use]
    pub fn lease_holder(&self, address: std::net::Ipv4Addr) -> Option<Mac> {
        self.lease_macs.get(&address).copied()
    }

    pub(super) fn publish(&mut self, host: HostView) {
        for mac in &host.host.macs {
            // As in the writer: the first record that has a MAC keeps it, so that both ask the same host.
            self.by_mac.entry(*mac).or_insert_with(|| host.host.id.clone());
        }
        self.hosts.insert(host.host.id.clone(), Arc::new(host));
    }

    pub(super) fn withdraw(&mut self, id: &str) {
        self.hosts.remove(id);
        self.by_mac.retain(|_, known| known != id);
    }

    pub(super) fn publish_lease(&mut self, address: std::net::Ipv4Addr, holder: Option<Mac>) {
        match holder {
            Some(mac) => self.lease_macs.insert(address, mac),
            None => self.lease_macs.remove(&address),
        };
    }
}

/// Where the bytes of one host stand, and how fast they move.
#[derive(Debug, Clone, Copy)]
pub struct ProgressSeen {
    pub progress: wire::agent::Progress,
    /// Mean rate of the current step, bytes a second.
    pub rate_bytes: u64,
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
}

impl ProgressBoard {
    pub(super) fn note(&mut self, host: &str, progress: wire::agent::Progress, now: Instant) {
        let began = match self.lines.get(host) {
            Some(line) if line.progress.step == progress.step && line.progress.done_bytes <= progress.done_bytes => {
                line.began
            }
            _ => (now, progress.done_bytes),
        };
        self.lines.insert(host.to_string(), Line { progress, began, seen: now });
    }

    pub(super) fn get(&self, host: &str) -> Option<ProgressSeen> {
        let line = self.lines.get(host)?;
        let moved = line.progress.done_bytes.saturating_sub(line.began.1);
        let millis = u64::try_from(line.seen.duration_since(line.began.0).as_millis()).unwrap_or(u64::MAX);
        Some(ProgressSeen { progress: line.progress, rate_bytes: moved.saturating_mul(1000) / millis.max(1) })
    }
}
