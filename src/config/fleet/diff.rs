//! What documents change: (what is, what is wanted, prune or not) -> an ordered list of changes. Pure.
//!
//! Two promises are kept by types. *No order*: a [`Write`] carries groups, wishes for hosts, addresses and policy,
//! and has no place for an order, a generation or an event of a host's life. *All or nothing*: writes are only
//! handed out by [`Diff::accept`], which gives none when anything was refused.
//!
//! Without `--prune` nothing is ever removed. With it, a host goes only when no order is open for it, a group only
//! when no host is left in it; the group `default` and the policy never go; a kind of which the documents name none
//! is left alone; and more than a few at once need a higher number from the operator.

mod drift;
mod fields;
mod now;
mod refusal;
mod text;

pub use text::of as text_of;

pub use now::{Now, NowHost};
pub use refusal::{Refusal, Refused};

use super::{Fleet, HostEntry, HostKey, file};
use crate::decide::brakes::Policy;
use crate::decide::drift::declared::DriftPolicy;
use crate::decide::group::{DEFAULT_GROUP, Group};
use crate::decide::labels::PROTECTED;
use crate::decide::mac::Mac;
use crate::wire::fleet as wire;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use wire::{Kind, Verb};

/// Hosts, groups and reservations, each, that one `--prune` removes without the operator giving a number.
pub const PRUNE_MAX: usize = 10;

/// Whether what is not in the documents goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    No,
    /// At most so many of each kind; see [`PRUNE_MAX`].
    UpTo(usize),
}

/// One change of desired state, for the registry's writer. There is no order in it, and no way to one.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    Group(Box<Group>),
    Policy(Policy),
    Drift(Box<DriftPolicy>),
    /// Only what changes is `Some`. `new`: there is no record yet; make one with this MAC.
    Host {
        id: String,
        new: Option<Mac>,
        entry: HostEntry,
    },
    Reservation {
        mac: Mac,
        address: Ipv4Addr,
    },
    RemoveReservation(Mac),
    RemoveHost(String),
    RemoveGroup(String),
    RemoveDrift(String),
}

#[derive(Debug, Clone, PartialEq)]
struct Change {
    write: Write,
    shown: wire::Change,
}

/// All changes, and all reasons not to make them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Diff {
    changes: Vec<Change>,
    refusals: Vec<Refusal>,
}

impl Diff {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.refusals.is_empty()
    }

    /// Whether a brake would hold less after it: what a second person should look at.
    #[must_use]
    pub fn loosens(&self) -> bool {
        self.changes.iter().flat_map(|change| &change.shown.fields).any(|field| field.loosens)
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        text::of(&self.shown())
    }

    /// For scripts.
    #[must_use]
    pub fn shown(&self) -> wire::Diff {
        wire::Diff {
            changes: self.changes.iter().map(|change| change.shown.clone()).collect(),
            refusals: self.refusals.iter().map(ToString::to_string).collect(),
        }
    }

    /// The writes, in order, to be made in one transaction.
    ///
    /// # Errors
    /// [`Refused`] when any part is refused: then nothing of it is done.
    pub fn accept(self) -> Result<Vec<Write>, Refused> {
        if !self.refusals.is_empty() {
            return Err(Refused(self.refusals));
        }
        Ok(self.changes.into_iter().map(|change| change.write).collect())
    }
}

/// Compares what is with what is wanted. Additions and changes come first (drift policies before the groups that name
/// them, groups before the hosts that are in them), removals last (hosts before their groups).
#[must_use]
pub fn diff(now: &Now, wanted: &Fleet, prune: Prune) -> Diff {
    let mut all = All { now, wanted, changes: Vec::new(), refusals: Vec::new() };
    let hosts = all.resolve();
    all.drift();
    all.groups();
    all.policy();
    all.hosts(&hosts);
    all.reservations();
    let removed = match prune {
        Prune::No => Removed::default(),
        Prune::UpTo(most) => all.prune(&hosts, most),
    };
    all.check_end(&hosts, &removed);
    Diff { changes: all.changes, refusals: all.refusals }
}

struct All<'a> {
    now: &'a Now,
    wanted: &'a Fleet,
    changes: Vec<Change>,
    refusals: Vec<Refusal>,
}

/// A host of the documents, found among the records.
struct Found<'a> {
    /// `Some`: there is no record yet.
    new: Option<Mac>,
    entry: &'a HostEntry,
}

type Hosts<'a> = BTreeMap<String, Found<'a>>;

#[derive(Default)]
struct Removed {
    groups: BTreeSet<String>,
    hosts: BTreeSet<String>,
    reservations: BTreeSet<Mac>,
    drift: BTreeSet<String>,
}

impl<'a> All<'a> {
    /// Which record each host of the documents is: several MACs, an id and a name may all mean the same one.
    fn resolve(&mut self) -> Hosts<'a> {
        let by_mac: BTreeMap<Mac, &str> =
            self.now.hosts.iter().flat_map(|(id, host)| host.macs.iter().map(move |mac| (*mac, id.as_str()))).collect();
        let named = |(id, host): (&'a String, &'a NowHost)| Some((host.name.as_deref()?, id.as_str()));
        let by_name: BTreeMap<&str, &str> = self.now.hosts.iter().filter_map(named).collect();
        let mut found = Hosts::new();
        for (key, entry) in &self.wanted.hosts {
            let (id, new) = match key {
                HostKey::Mac(mac) => match by_mac.get(mac) {
                    Some(id) => ((*id).to_string(), None),
                    None => (super::words::HostId(*mac).to_string(), Some(*mac)),
                },
                HostKey::Name(name) => match by_name.get(name.as_str()) {
                    Some(id) => ((*id).to_string(), None),
                    None => {
                        self.refusals.push(Refusal::UnknownHost(name.clone()));
                        continue;
                    }
                },
            };
            if found.insert(id.clone(), Found { new, entry }).is_some() {
                self.refusals.push(Refusal::SameHost { id, key: key.to_string() });
            }
        }
        found
    }

    fn groups(&mut self) {
        let (now, wanted) = (self.now, self.wanted);
        for (name, group) in &wanted.groups {
            let old = now.groups.get(name);
            // A new group is shown by what it has beside the defaults.
            let plain = Group::new(name);
            let mut fields = fields::changed(&fields::of_group(old.unwrap_or(&plain)), &fields::of_group(group));
            // A new group has no hosts; those that come into it are looked at by themselves.
            if let Some(old) = old {
                self.mark_drift(&mut fields, old.drift.as_deref(), group.drift.as_deref());
            }
            if old.is_none() {
                fields.iter_mut().for_each(|field| field.old = None);
            }
            self.put(Kind::Group, name, None, old.is_none(), fields, Write::Group(Box::new(group.clone())));
        }
    }

    fn policy(&mut self) {
        let Some(policy) = &self.wanted.policy else { return };
        let fields = fields::changed(&fields::of_policy(&self.now.policy), &fields::of_policy(policy));
        self.put(Kind::Policy, "policy", None, false, fields, Write::Policy(policy.clone()));
    }

    fn hosts(&mut self, hosts: &Hosts<'_>) {
        for (id, Found { new, entry }) in hosts {
            let none = NowHost { group: DEFAULT_GROUP.to_string(), ..NowHost::default() };
            let old = self.now.hosts.get(id).unwrap_or(&none);
            let mut fields = fields::changed(&fields::of_now(old, entry), &fields::of_entry(entry));
            if let Some(group) = &entry.group
                && self.is_guarded(&old.group) > self.is_guarded(group)
            {
                fields.iter_mut().filter(|field| field.field == "group").for_each(|field| field.loosens = true);
            }
            if new.is_some() {
                fields.iter_mut().for_each(|field| field.old = None);
            } else {
                self.mark_host_drift(&mut fields, old, entry);
            }
            let name = entry.name.clone().or_else(|| old.name.clone());
            let write = Write::Host { id: id.clone(), new: *new, entry: only_changes(old, entry) };
            self.put(Kind::Host, id, name, new.is_some(), fields, write);
        }
    }

    /// Whether orders for hosts of this group are forbidden or need a second person.
    fn is_guarded(&self, group: &str) -> (bool, bool) {
        let group = self.wanted.groups.get(group).or_else(|| self.now.groups.get(group));
        group.map_or((false, false), |group| (group.protected, group.confirm))
    }

    fn is_guarded_now(&self, group: &str) -> bool {
        self.now.groups.get(group).is_some_and(|group| group.protected || group.confirm)
    }

    fn reservations(&mut self) {
        let (now, wanted) = (self.now, self.wanted);
        for (mac, address) in &wanted.reservations {
            let old = now.reservations.get(mac);
            let fields = fields::changed(&fields::of_address(old), &fields::of_address(Some(address)));
            let write = Write::Reservation { mac: *mac, address: *address };
            self.put(Kind::Reservation, &mac.to_string(), None, old.is_none(), fields, write);
        }
    }

    fn put(
        &mut self,
        kind: Kind,
        id: &str,
        name: Option<String>,
        is_new: bool,
        fields: Vec<wire::Field>,
        write: Write,
    ) {
        if is_new || !fields.is_empty() {
            let verb = if is_new { Verb::Added } else { Verb::Changed };
            self.changes.push(Change { write, shown: wire::Change { verb, kind, id: id.to_string(), name, fields } });
        }
    }

    fn remove(&mut self, kind: Kind, id: &str, host: Option<&NowHost>, write: Write) {
        // Once gone, a protected host could come back without its protection.
        let protected = host.filter(|host| host.labels.get(PROTECTED).is_some());
        let mut fields = protected.map_or_else(Vec::new, |host| {
            let label = HostEntry { labels: Some(host.labels.clone()), ..HostEntry::default() };
            let mut fields = fields::changed(&fields::of_entry(&label), &fields::Flat::new());
            fields.retain(|field| field.loosens);
            fields
        });
        // So could one of a group that is protected, or whose orders need a second person.
        if let Some(host) = host.filter(|host| self.is_guarded_now(&host.group)) {
            let old = Some(host.group.clone().into());
            fields.push(wire::Field { field: "group".to_string(), old, new: None, loosens: true });
        }
        let name = host.and_then(|host| host.name.clone());
        let shown = wire::Change { verb: Verb::Removed, kind, id: id.to_string(), name, fields };
        self.changes.push(Change { write, shown });
    }

    fn prune(&mut self, hosts: &Hosts<'_>, most: usize) -> Removed {
        let (now, wanted) = (self.now, self.wanted);
        if *wanted == Fleet::default() {
            self.refusals.push(Refusal::NothingWanted);
            return Removed::default();
        }
        let mut removed = Removed::default();
        if !wanted.reservations.is_empty() {
            removed.reservations.extend(now.reservations.keys().filter(|mac| !wanted.reservations.contains_key(mac)));
        }
        if !wanted.hosts.is_empty() {
            let gone = |(id, host): &(&String, &NowHost)| host.declared && !hosts.contains_key(*id);
            removed.hosts.extend(now.hosts.iter().filter(gone).map(|(id, _)| id.clone()));
        }
        if !wanted.groups.is_empty() {
            let gone = |name: &&String| *name != DEFAULT_GROUP && !wanted.groups.contains_key(*name);
            removed.groups.extend(now.groups.keys().filter(gone).cloned());
        }
        for mac in &removed.reservations {
            self.remove(Kind::Reservation, &mac.to_string(), None, Write::RemoveReservation(*mac));
        }
        for id in &removed.hosts {
            self.remove(Kind::Host, id, now.hosts.get(id), Write::RemoveHost(id.clone()));
        }
        self.prune_drift(&mut removed);
        for name in &removed.groups {
            self.remove(Kind::Group, name, None, Write::RemoveGroup(name.clone()));
        }
        self.refusals.extend(refusal::of_removal(now, &removed, most));
        removed
    }

    /// The end that all changes together lead to must be sound, whatever the way there.
    fn check_end(&mut self, hosts: &Hosts<'_>, removed: &Removed) {
        let (now, wanted) = (self.now, self.wanted);
        let ids: BTreeSet<&String> = now.hosts.keys().chain(hosts.keys()).collect();
        let mut names = BTreeMap::new();
        let mut homeless: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for id in ids.into_iter().filter(|id| !removed.hosts.contains(*id)) {
            let (old, entry) = (now.hosts.get(id), hosts.get(id).map(|found| found.entry));
            let name = entry.and_then(|entry| entry.name.clone()).or_else(|| old.and_then(|old| old.name.clone()));
            let group = entry.and_then(|entry| entry.group.as_deref()).or(old.map(|old| old.group.as_str()));
            let group = group.unwrap_or(DEFAULT_GROUP);
            let is_there = now.groups.contains_key(group) || wanted.groups.contains_key(group);
            if !is_there || removed.groups.contains(group) {
                homeless.entry(group.to_string()).or_default().push(name.clone().unwrap_or_else(|| id.clone()));
            }
            if let Some(name) = name
                && let Some(first) = names.insert(name.clone(), id)
            {
                self.refusals.push(Refusal::NameTaken { name, first: first.clone(), second: id.clone() });
            }
        }
        self.check_drift(hosts, removed);
        for (group, hosts) in homeless {
            self.refusals.push(Refusal::NoGroup { group, hosts });
        }
        let mut addresses = BTreeMap::new();
        let kept = now.reservations.iter().filter(|(mac, _)| !wanted.reservations.contains_key(mac));
        let kept = kept.filter(|(mac, _)| !removed.reservations.contains(mac));
        for (mac, address) in kept.chain(&wanted.reservations) {
            if let Some(first) = addresses.insert(*address, *mac) {
                self.refusals.push(Refusal::AddressTaken { address: *address, first, second: *mac });
            }
        }
    }
}

/// The entry without what is so already.
fn only_changes(old: &NowHost, entry: &HostEntry) -> HostEntry {
    let HostEntry { name, group, labels, image, power, drift } = entry.clone();
    HostEntry {
        name: name.filter(|name| old.name.as_ref() != Some(name)),
        group: group.filter(|group| old.group != *group),
        labels: labels.filter(|labels| old.labels != *labels),
        image: image.filter(|image| old.image.as_ref() != Some(image)),
        power: power.filter(|power| old.power.as_ref() != Some(power)),
        drift: drift.filter(|name| old.drift.as_deref().unwrap_or("") != name),
    }
}
