//! What is there, as far as documents can change it. The registry lays it out from its records.

use crate::config::fleet::settings::PowerSettings;
use crate::config::fleet::words::HostId;
use crate::config::fleet::{Fleet, HostEntry, HostKey};
use crate::decide::brakes::Policy;
use crate::decide::drift::effective::Policies;
use crate::decide::group::{DEFAULT_GROUP, Group};
use crate::decide::host::{Host, State};
use crate::decide::labels::Labels;
use crate::decide::mac::Mac;
use crate::wire::reference::ImageRef;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// What the server has now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Now {
    /// [`DEFAULT_GROUP`] is always there.
    pub groups: BTreeMap<String, Group>,
    /// As documents set it, without what the server denies by itself (its own MACs): a document that does not list
    /// those must not look as if it took them off.
    pub policy: Policy,
    /// Every host record, by id.
    pub hosts: BTreeMap<String, NowHost>,
    pub reservations: BTreeMap<Mac, Ipv4Addr>,
    pub drift: Policies,
    /// When this was, Unix seconds: a rule that has ended by then is refused in a policy that does not have it yet.
    pub at: u64,
}

/// What a document could change of one host record, and what forbids to remove it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NowHost {
    pub macs: Vec<Mac>,
    pub name: Option<String>,
    pub group: String,
    pub labels: Labels,
    pub image: Option<ImageRef>,
    pub power: Option<PowerSettings>,
    pub drift: Option<String>,
    /// Generation of the open order, while one is open.
    pub order: Option<u64>,
    /// Approved by a person or named by a document. Only such a host is removed by `--prune`; one that was merely
    /// seen on the network belongs to no document.
    pub declared: bool,
}

impl NowHost {
    /// A record as documents see it. `declared` is read off what only a person or a document gives a host: a machine
    /// that was merely seen is in the default group, unlabelled, and should run nothing.
    #[must_use]
    pub fn of(host: &Host, power: Option<PowerSettings>) -> NowHost {
        let plain = host.group == DEFAULT_GROUP
            && host.labels.iter().next().is_none()
            && host.desired.is_none()
            && host.drift.is_none();
        NowHost {
            macs: host.macs.clone(),
            name: host.name.clone(),
            group: host.group.clone(),
            labels: host.labels.clone(),
            image: host.desired.as_ref().and_then(|image| image.name.parse().ok()),
            order: host.order.as_ref().map(|order| order.generation),
            declared: host.state != State::Discovered || !plain || power.is_some(),
            power,
            drift: host.drift.as_deref().map(String::from),
        }
    }
}

impl Now {
    /// What `regild export` writes: everything that documents can say, and no machine that was merely seen.
    #[must_use]
    pub fn fleet(&self) -> Fleet {
        let entry = |(id, host): (&String, &NowHost)| {
            // An id is the first MAC that was seen, so it names the host as well as any of its MACs.
            let key = id.parse().map(|id: HostId| HostKey::Mac(id.0));
            let entry = HostEntry {
                name: host.name.clone(),
                group: Some(host.group.clone()),
                labels: Some(host.labels.clone()),
                image: host.image.clone(),
                power: host.power.clone(),
                drift: host.drift.clone(),
            };
            host.declared.then_some(key.ok().map(|key| (key, entry))).flatten()
        };
        Fleet {
            groups: self.groups.clone(),
            hosts: self.hosts.iter().filter_map(entry).collect(),
            reservations: self.reservations.clone(),
            policy: Some(self.policy.clone()),
            drift: self.drift.clone(),
        }
    }
}
