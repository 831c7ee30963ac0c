//! Why documents are not applied, in words that name whom it is about.

use super::{Now, NowHost, Removed};
use crate::decide::drift::declared::POLICIES_MAX;
use crate::decide::mac::Mac;
use std::fmt;
use std::net::Ipv4Addr;

/// Names that a message gives before it only counts.
const NAMES_MAX: usize = 20;

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Prune with documents that say nothing: an empty selection matches nothing (faults.md R1).
    NothingWanted,
    TooManyRemoved {
        what: &'static str,
        names: Vec<String>,
        most: usize,
    },
    /// Hosts that would be removed while an order is open.
    OrderOpen {
        hosts: Vec<String>,
    },
    /// A group that would be removed while an order of its hosts is open: their limits and deadlines hang on it.
    GroupOrderOpen {
        group: String,
        hosts: Vec<String>,
    },
    /// Hosts that would be in a group that is not there.
    NoGroup {
        group: String,
        hosts: Vec<String>,
    },
    /// Named only by a name that no record has.
    UnknownHost(String),
    /// Two entries mean one record.
    SameHost {
        id: String,
        key: String,
    },
    NameTaken {
        name: String,
        first: String,
        second: String,
    },
    AddressTaken {
        address: Ipv4Addr,
        first: Mac,
        second: Mac,
    },
    /// Groups or hosts would name a drift policy that is not there.
    NoDrift {
        policy: String,
        users: Vec<String>,
    },
    /// A rule that is new and over already: a mistyped year, mostly.
    Ended {
        policy: String,
        /// From 1.
        rule: usize,
        until: String,
    },
    TooManyPolicies(usize),
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nothing was changed:{}", self.0.iter().map(|refusal| format!("\n  {refusal}")).collect::<String>())]
pub struct Refused(pub Vec<Refusal>);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NothingWanted => {
                f.write_str("the documents say nothing, so --prune would remove everything; nothing is removed")
            }
            Refusal::TooManyRemoved { what, names, most } => {
                let count = names.len();
                write!(f, "--prune would remove {count} {what}, at most {most} at once: {}", listed(names))
            }
            Refusal::OrderOpen { hosts } => {
                write!(f, "an order is open for hosts that would be removed: {}", listed(hosts))
            }
            Refusal::GroupOrderOpen { group, hosts } => {
                write!(f, "group {group} would be removed while an order is open for its hosts: {}", listed(hosts))
            }
            Refusal::NoGroup { group, hosts } => {
                write!(f, "there would be no group {group} for its hosts: {}", listed(hosts))
            }
            Refusal::UnknownHost(name) => write!(f, "no host is called {name}; a new host needs its MAC"),
            Refusal::SameHost { id, key } => write!(f, "two entries mean the host {id}, one of them as {key}"),
            Refusal::NameTaken { name, first, second } => {
                write!(f, "two hosts would be called {name}: {first} and {second}")
            }
            Refusal::AddressTaken { address, first, second } => {
                write!(f, "{address} would be reserved twice: for {first} and for {second}")
            }
            Refusal::NoDrift { policy, users } => {
                write!(f, "there would be no drift policy {policy} for {}", listed(users))
            }
            Refusal::Ended { policy, rule, until } => {
                write!(
                    f,
                    "drift policy {policy}, rule {rule}: its end {until} has passed; give it a later one or take it out"
                )
            }
            Refusal::TooManyPolicies(count) => {
                write!(
                    f,
                    "there would be {count} drift policies, at most {POLICIES_MAX}; --prune removes those that no document has"
                )
            }
        }
    }
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMES_MAX) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}

/// What forbids these removals. That no host loses its group is seen at the end of all changes.
pub(super) fn of_removal(now: &Now, removed: &Removed, most: usize) -> Vec<Refusal> {
    let name = |(id, host): (&String, &NowHost)| host.name.clone().unwrap_or_else(|| id.clone());
    let open = |(_, host): &(&String, &NowHost)| host.order.is_some();
    let gone = |(id, _): &(&String, &NowHost)| removed.hosts.contains(*id);
    let mut found = Vec::new();
    let macs = removed.reservations.iter().map(ToString::to_string).collect();
    let kinds: [(&'static str, Vec<String>); 4] = [
        ("hosts", now.hosts.iter().filter(gone).map(name).collect()),
        ("groups", removed.groups.iter().cloned().collect()),
        ("reservations", macs),
        ("drift policies", removed.drift.iter().cloned().collect()),
    ];
    for (what, names) in kinds {
        if names.len() > most {
            found.push(Refusal::TooManyRemoved { what, names, most });
        }
    }
    let hosts: Vec<String> = now.hosts.iter().filter(gone).filter(open).map(name).collect();
    if !hosts.is_empty() {
        found.push(Refusal::OrderOpen { hosts });
    }
    for group in &removed.groups {
        let inside = |(_, host): &(&String, &NowHost)| host.group == *group;
        let hosts: Vec<String> = now.hosts.iter().filter(inside).filter(open).map(name).collect();
        if !hosts.is_empty() {
            found.push(Refusal::GroupOrderOpen { group: group.clone(), hosts });
        }
    }
    found
}
