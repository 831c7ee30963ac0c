//! What is known of one host.

use super::{Order, State, Verification};
use crate::decide::cause::Cause;
use crate::decide::disk::DiskId;
use crate::decide::labels::Labels;
use crate::decide::mac::Mac;

/// Addresses that one record keeps. NICs are replaced now and then; further ones are not remembered.
pub(super) const MACS_MAX: usize = 64;

/// A machine, as the registry keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Stable for the life of the record: `h-` and the first MAC that was seen, 12 hex digits.
    pub id: String,
    pub macs: Vec<Mac>,
    pub name: Option<String>,
    pub group: String,
    pub labels: Labels,
    /// Name of a drift policy that comes before its group's. Boxed: few of 100,000 hosts have one.
    pub drift: Option<Box<str>>,
    pub system_uuid: Option<String>,
    pub serial: Option<String>,
    pub state: State,
    /// Unix seconds of the last change of `state`.
    pub since: u64,
    /// What it should run.
    pub desired: Option<ImageChoice>,
    /// What it said it runs.
    pub reported: Option<ImageChoice>,
    /// Number of the newest order; 0 before the first.
    pub generation: u64,
    /// Generation of the order that put `reported` on the disk.
    pub reported_generation: u64,
    /// When the order of `reported_generation` was done: the age of the disk. 0 before the first.
    pub built_at: u64,
    /// `Some` while an order is open: the only thing that lets a disk be written.
    pub order: Option<Order>,
    /// What is known of looks at its disk from outside. Nothing in it lets a disk be written.
    pub verify: Verification,
    /// Causes that ask for a rebuild and wait for the brakes; they join the order when it is opened. Empty while
    /// an order is open.
    pub asks: Vec<Cause>,
    /// When orders were opened for it within the last hour: what the hourly caps count.
    pub ordered_at: Vec<u64>,
    /// When drift last asked for a rebuild, whatever became of it: what the breaker counts. 0: never.
    pub drift_asked_at: u64,
    /// Hashes of the keys of the latest requests: the same request again is no new one (faults.md H7). Not the keys, which
    /// may be long.
    pub request_keys: Vec<u64>,
    /// The disk that an order of ours began to write. Its content is ours to replace.
    pub own_disk: Option<DiskId>,
    /// Lines of history so far; the number of the next one.
    pub history_length: u64,
}

/// One immutable image version: the name for people, the manifest digest for machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageChoice {
    /// `NAME:VERSION`.
    pub name: String,
    /// Hex blake3 of the encoded manifest.
    pub manifest: String,
}

impl Host {
    /// The record of a machine that was seen for the first time: no order, nobody's.
    #[must_use]
    pub fn discovered(mac: Mac, group: &str, now: u64) -> Host {
        Host {
            id: Host::id_of(mac),
            macs: vec![mac],
            name: None,
            group: group.to_string(),
            labels: Labels::default(),
            drift: None,
            system_uuid: None,
            serial: None,
            state: State::Discovered,
            since: now,
            desired: None,
            reported: None,
            generation: 0,
            reported_generation: 0,
            built_at: 0,
            order: None,
            verify: Verification::default(),
            asks: Vec::new(),
            ordered_at: Vec::new(),
            drift_asked_at: 0,
            request_keys: Vec::new(),
            own_disk: None,
            history_length: 0,
        }
    }

    /// The id of the record that begins with this MAC.
    #[must_use]
    pub fn id_of(mac: Mac) -> String {
        format!("h-{}", mac.to_string().replace(':', ""))
    }

    /// What asks for a rebuild of it, and what its open order is for.
    pub fn causes(&self) -> impl Iterator<Item = &Cause> {
        self.asks.iter().chain(self.order.iter().flat_map(|order| &order.causes))
    }

    /// Whether the disk holds what the host last reported, for the newest generation.
    #[must_use]
    pub fn runs_desired(&self) -> bool {
        self.reported.is_some() && self.reported == self.desired && self.reported_generation == self.generation
    }
}
