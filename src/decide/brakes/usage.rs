//! What the caps and the breaker count. Each host contributes by what its record says, so a record that changes is
//! taken out and counted again: counts cannot drift away from the records.

use super::is_approved;
use crate::decide::host::{Host, State};
use crate::decide::labels::{FEED, RACK};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

const HOUR_SECONDS: u64 = 3600;

/// What a cap is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Fleet,
    Group(String),
    Rack(String),
    Feed(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Fleet => write!(f, "the fleet"),
            Scope::Group(name) => write!(f, "group {name}"),
            Scope::Rack(name) => write!(f, "rack {name}"),
            Scope::Feed(name) => write!(f, "power feed {name}"),
        }
    }
}

/// The scopes whose caps a host counts in.
#[must_use]
pub fn scopes(host: &Host) -> Vec<Scope> {
    let mut scopes = vec![Scope::Fleet, Scope::Group(host.group.clone())];
    scopes.extend(host.labels.get(RACK).map(|rack| Scope::Rack(rack.to_string())));
    scopes.extend(host.labels.get(FEED).map(|feed| Scope::Feed(feed.to_string())));
    scopes
}

/// Counts over all hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    approved: u32,
    open: BTreeMap<Scope, u32>,
    /// Times at which orders were opened, and how many at each.
    opened: BTreeMap<Scope, BTreeMap<u64, u32>>,
    /// When a host began to ask because of drift.
    drifted: BTreeSet<(u64, String)>,
    failed: BTreeSet<(u64, String)>,
}

impl Usage {
    /// Adds what one record contributes.
    pub fn count(&mut self, host: &Host) {
        self.approved += u32::from(is_approved(host));
        for scope in scopes(host) {
            if host.order.is_some() {
                *self.open.entry(scope.clone()).or_default() += 1;
            }
            for at in &host.ordered_at {
                *self.opened.entry(scope.clone()).or_default().entry(*at).or_default() += 1;
            }
        }
        self.drifted.extend(drifted_at(host).map(|at| (at, host.id.clone())));
        self.failed.extend(failed_at(host).map(|at| (at, host.id.clone())));
    }

    /// Takes away what [`Usage::count`] added for this very record.
    pub fn discount(&mut self, host: &Host) {
        self.approved -= u32::from(is_approved(host));
        for scope in scopes(host) {
            if host.order.is_some()
                && let Some(open) = self.open.get_mut(&scope)
            {
                *open -= 1;
                if *open == 0 {
                    self.open.remove(&scope);
                }
            }
            if let Some(opened) = self.opened.get_mut(&scope) {
                for at in &host.ordered_at {
                    if let Some(count) = opened.get_mut(at) {
                        *count -= 1;
                        if *count == 0 {
                            opened.remove(at);
                        }
                    }
                }
                if opened.is_empty() {
                    self.opened.remove(&scope);
                }
            }
        }
        if let Some(at) = drifted_at(host) {
            self.drifted.remove(&(at, host.id.clone()));
        }
        if let Some(at) = failed_at(host) {
            self.failed.remove(&(at, host.id.clone()));
        }
    }

    /// Hosts that a person made ours.
    #[must_use]
    pub fn approved(&self) -> u32 {
        self.approved
    }

    #[must_use]
    pub fn open(&self, scope: &Scope) -> u32 {
        self.open.get(scope).copied().unwrap_or(0)
    }

    #[must_use]
    pub fn opened_within_hour(&self, scope: &Scope, now: u64) -> u32 {
        let since = now.saturating_sub(HOUR_SECONDS - 1);
        self.opened.get(scope).map_or(0, |opened| opened.range(since..).map(|(_, count)| count).sum())
    }

    /// Hosts that began to ask because of drift within the hour before `now`, and after `since`.
    #[must_use]
    pub fn drifted(&self, since: u64, now: u64) -> u32 {
        number(self.drifted.range(begin(since, now)..).count())
    }

    /// Hosts that failed within the hour before `now`, and after `since`.
    #[must_use]
    pub fn failed(&self, since: u64, now: u64) -> u32 {
        number(self.failed.range(begin(since, now)..).count())
    }
}

fn begin(since: u64, now: u64) -> (u64, String) {
    (now.saturating_sub(HOUR_SECONDS - 1).max(since + 1), String::new())
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// When drift last asked for this host. Also when it was rebuilt since, or asks no more: a bad baseline that sends hosts
/// into a rebuild one after the other shows only when those that are done still count (faults.md C5).
fn drifted_at(host: &Host) -> Option<u64> {
    Some(host.drift_asked_at).filter(|at| *at > 0)
}

fn failed_at(host: &Host) -> Option<u64> {
    matches!(host.state, State::Failed { .. }).then_some(host.since)
}
