//! The brakes: what must hold before an order is opened. They only ever say no, and none of them has an "off".
//!
//! Everything that asks for a rebuild, a person included, passes [`admit`]; the caps count open orders and orders of
//! the last hour by fleet, group, rack and power feed; the fleet breaker looks at what asks and what fails.

mod looks;
mod usage;

#[cfg(test)]
mod tests;

pub use looks::UnderWay;
pub use usage::{Scope, Usage, scopes};

use super::group::{Group, Limits};
use super::host::{Host, State};
use super::labels::PROTECTED;
use super::mac::Mac;
use std::collections::BTreeSet;
use std::fmt;

/// The fleet's own limits. Groups have theirs (`Group::limits`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub fleet: Limits,
    /// Of each rack, by the label `rack`.
    pub rack: Limits,
    /// Of each power feed, by the label `feed`.
    pub feed: Limits,
    pub breaker: BreakerPolicy,
    /// More hosts than this in one request need a second person.
    pub confirm_above: u32,
    /// More hosts than this in one request need `--expect-count`.
    pub expect_above: u32,
    /// MACs that are never rebuilt: the server itself, members of its store, what a site lists.
    pub denied: BTreeSet<Mac>,
}

impl Default for Policy {
    /// Careful: a rack and a feed lose a few hosts at once, not all.
    fn default() -> Self {
        Policy {
            fleet: Limits::default(),
            rack: Limits { concurrent_max: 5, orders_per_hour_max: 20 },
            feed: Limits { concurrent_max: 10, orders_per_hour_max: 40 },
            breaker: BreakerPolicy::default(),
            confirm_above: 50,
            expect_above: 5,
            denied: BTreeSet::new(),
        }
    }
}

/// When the fleet breaker trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Of all approved hosts, within an hour: more than this share asks because of drift, or failed.
    pub percent_max: u32,
    /// In a small fleet one host is a large share: so many must ask or fail at least.
    pub hosts_min: u32,
}

impl Default for BreakerPolicy {
    /// faults.md C5: 5 % an hour.
    fn default() -> Self {
        BreakerPolicy { percent_max: 5, hosts_min: 3 }
    }
}

/// What stands in the way of every host: decided elsewhere, for all hosts at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// `regild stop` was pressed: by whom and why.
    pub stopped: Option<String>,
    /// The fleet breaker has tripped: why.
    pub tripped: Option<String>,
}

/// May automatic causes act for the host's group now (windows, blackout, pause, clock)? `Err` says why not.
pub type ScheduleVerdict = Result<(), String>;

/// Whether the waiting causes of a host become an order now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    Open,
    /// Not now. The causes keep waiting.
    Wait(Wait),
    /// Not ever, as things stand. A person's request is refused with this; automatic causes do not ask.
    Deny(Deny),
}

/// What a waiting cause waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    Stopped(String),
    Breaker(String),
    Schedule(String),
    Concurrent {
        scope: Scope,
        open: u32,
        max: u32,
    },
    Hourly {
        scope: Scope,
        opened: u32,
        max: u32,
    },
    /// An order is open; it ends first.
    OrderOpen(u64),
    /// Of a look from outside.
    UnderWay {
        scope: Scope,
        machines: u32,
        max: u32,
    },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Stopped(why) => write!(f, "everything is stopped ({why}); `regild resume` ends that"),
            Wait::Breaker(why) => write!(f, "the fleet breaker tripped ({why}); `regild breaker reset` closes it"),
            Wait::Schedule(why) => write!(f, "{why}"),
            Wait::Concurrent { scope, open, max } => write!(f, "{scope} has {open} of at most {max} open orders"),
            Wait::Hourly { scope, opened, max } => write!(f, "{scope} had {opened} of at most {max} orders in an hour"),
            Wait::OrderOpen(generation) => write!(f, "order {generation} is open"),
            Wait::UnderWay { scope, machines, max } => {
                write!(f, "{scope} has {machines} of at most {max} machines under an order or a look from outside")
            }
        }
    }
}

/// Why a host is never rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deny {
    /// The label `protected`.
    Label,
    Group,
    /// One of its MACs is on the deny list: the server itself, for one.
    Listed(Mac),
}

impl fmt::Display for Deny {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Deny::Label => write!(f, "the host is labelled {PROTECTED}; it is never rebuilt"),
            Deny::Group => write!(f, "the host's group is protected; its hosts are never rebuilt"),
            Deny::Listed(mac) => {
                write!(f, "{mac} is on the deny list (this server, its store, or the configuration's [brakes] denied)")
            }
        }
    }
}

/// The deny list, which holds whatever else is said (faults.md O2, R2).
///
/// # Errors
/// Why the host is never rebuilt.
pub fn allowed(host: &Host, group: &Group, policy: &Policy) -> Result<(), Deny> {
    if host.labels.get(PROTECTED).is_some() {
        return Err(Deny::Label);
    }
    if group.protected {
        return Err(Deny::Group);
    }
    host.macs.iter().find(|mac| policy.denied.contains(mac)).map_or(Ok(()), |mac| Err(Deny::Listed(*mac)))
}

/// Whether what asks for this host becomes an order now. Every check may only say no; their order is that of
/// what a person wants to know first.
#[must_use]
pub fn admit(
    host: &Host,
    group: &Group,
    policy: &Policy,
    standing: &Standing,
    usage: &Usage,
    schedule: &ScheduleVerdict,
    now: u64,
) -> Admission {
    if let Err(deny) = allowed(host, group, policy) {
        return Admission::Deny(deny);
    }
    if let Some(why) = &standing.stopped {
        return Admission::Wait(Wait::Stopped(why.clone()));
    }
    if let Some(why) = &standing.tripped {
        return Admission::Wait(Wait::Breaker(why.clone()));
    }
    if let Some(order) = &host.order {
        return Admission::Wait(Wait::OrderOpen(order.generation));
    }
    // One cause that need not wait takes the others with it: the host is rebuilt once for all of them.
    if host.asks.iter().all(|cause| cause.kind.is_automatic())
        && let Err(why) = schedule
    {
        return Admission::Wait(Wait::Schedule(why.clone()));
    }
    match full(host, group, policy, usage, now) {
        Some(wait) => Admission::Wait(wait),
        None => Admission::Open,
    }
}

/// The first cap that is reached, of all scopes that the host is in.
fn full(host: &Host, group: &Group, policy: &Policy, usage: &Usage, now: u64) -> Option<Wait> {
    scopes(host).into_iter().find_map(|scope| {
        let limits = limits(&scope, group, policy);
        let (open, opened) = (usage.open(&scope), usage.opened_within_hour(&scope, now));
        if open >= limits.concurrent_max {
            return Some(Wait::Concurrent { scope, open, max: limits.concurrent_max });
        }
        (opened >= limits.orders_per_hour_max).then_some(Wait::Hourly {
            scope,
            opened,
            max: limits.orders_per_hour_max,
        })
    })
}

fn limits(scope: &Scope, group: &Group, policy: &Policy) -> Limits {
    match scope {
        Scope::Fleet => policy.fleet,
        Scope::Group(_) => group.limits,
        Scope::Rack(_) => policy.rack,
        Scope::Feed(_) => policy.feed,
    }
}

/// Why the fleet breaker trips.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trip {
    pub reason: String,
    /// Too many hosts ask because of drift: what they have in common is worth saying.
    pub by_drift: bool,
}

/// Whether the fleet breaker trips now, and why. Once tripped it stays so until a person resets it; what was seen up
/// to `reset_at` was looked at then and counts no more.
#[must_use]
pub fn trips(usage: &Usage, policy: BreakerPolicy, reset_at: u64, now: u64) -> Option<Trip> {
    let approved = usage.approved();
    let exceeds = |count: u32| {
        count >= policy.hosts_min && u64::from(count) * 100 > u64::from(approved) * u64::from(policy.percent_max)
    };
    let (drifted, failed) = (usage.drifted(reset_at, now), usage.failed(reset_at, now));
    let share = |count: u32, what: &str| {
        format!("{count} of {approved} hosts {what} within an hour, more than {} %", policy.percent_max)
    };
    if exceeds(drifted) {
        return Some(Trip { reason: share(drifted, "ask for a rebuild because of drift"), by_drift: true });
    }
    exceeds(failed).then(|| Trip { reason: share(failed, "failed"), by_drift: false })
}

/// Whether a state counts as one of the fleet's own hosts.
fn is_approved(host: &Host) -> bool {
    host.state != State::Discovered
}
