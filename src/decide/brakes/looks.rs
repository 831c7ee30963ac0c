//! How many machines may be looked at from outside at once. A look takes its machine out of service as a rebuild does, so
//! the caps on open orders bound both together. An order does not wait for looks: it heals, they only tell.

use super::{Policy, Scope, Wait, scopes};
use crate::decide::group::Group;
use crate::decide::host::Host;
use std::collections::BTreeMap;

/// Machines that are out of service for an order or a look, by scope.
#[derive(Debug, Clone, Default)]
pub struct UnderWay {
    by_scope: BTreeMap<Scope, u32>,
}

impl UnderWay {
    #[must_use]
    pub fn count<'h>(hosts: impl Iterator<Item = &'h Host>, now: u64) -> UnderWay {
        let mut counted = UnderWay::default();
        hosts.filter(|host| host.order.is_some() || host.is_look_under_way(now)).for_each(|host| counted.add(host));
        counted
    }

    pub fn add(&mut self, host: &Host) {
        for scope in scopes(host) {
            *self.by_scope.entry(scope).or_default() += 1;
        }
    }

    /// Why the look at this host does not begin yet. `None`: it may, or it has begun.
    #[must_use]
    pub fn look_waits(&self, host: &Host, group: &Group, policy: &Policy, now: u64) -> Option<Wait> {
        if host.order.is_some() || host.is_look_under_way(now) {
            return None;
        }
        scopes(host).into_iter().find_map(|scope| {
            let max = super::limits(&scope, group, policy).concurrent_max;
            let machines = self.by_scope.get(&scope).copied().unwrap_or(0);
            (machines >= max).then_some(Wait::UnderWay { scope, machines, max })
        })
    }
}
