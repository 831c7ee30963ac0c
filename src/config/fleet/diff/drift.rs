//! Drift policies among the changes: what is added, changed and removed, who names one that is not there, and where
//! hosts would be watched less closely.

use super::super::drift::Moment;
use super::{All, Hosts, NowHost, Refusal, Removed, Write, fields};
use crate::config::fleet::HostEntry;
use crate::decide::drift::declared::{DriftPolicy, POLICIES_MAX, loosened};
use crate::wire::fleet::{Change, Field, Kind, Verb};
use std::collections::BTreeMap;

impl All<'_> {
    pub(super) fn drift(&mut self) {
        let (now, wanted) = (self.now, self.wanted);
        for (name, policy) in &wanted.drift {
            let old = now.drift.get(name);
            let plain = DriftPolicy::new(name);
            let mut fields = fields::changed(&fields::of_drift(old.unwrap_or(&plain)), &fields::of_drift(policy));
            // A new one that no group and no image names yet hides nothing; that it is named will be seen as such.
            mark(&mut fields, &loosened_alone(old, policy), old, policy);
            if old.is_none() {
                fields.iter_mut().for_each(|field| field.old = None);
            }
            for (at, rule) in policy.rules.iter().enumerate() {
                let is_new = old.is_none_or(|old| !old.rules.contains(rule));
                if let Some(until) = rule.until.filter(|until| *until <= now.at && is_new) {
                    let (policy, until) = (name.clone(), Moment(until).to_string());
                    self.refusals.push(Refusal::Ended { policy, rule: at + 1, until });
                }
            }
            self.put(Kind::Drift, name, None, old.is_none(), fields, Write::Drift(Box::new(policy.clone())));
        }
    }

    /// Another policy for a group, or for a host of its own.
    pub(super) fn mark_drift(&self, fields: &mut [Field], before: Option<&str>, after: Option<&str>) {
        let holds_less = before != after && !self.loosened_between(before, after).is_empty();
        fields.iter_mut().filter(|field| field.field == "drift").for_each(|field| field.loosens |= holds_less);
    }

    /// A host gets another policy by its own or by its group's.
    pub(super) fn mark_host_drift(&self, fields: &mut [Field], old: &NowHost, entry: &HostEntry) {
        let own = entry.drift.as_deref().or(old.drift.as_deref()).filter(|name| !name.is_empty());
        self.mark_drift(fields, old.drift.as_deref(), own);
        if let Some(group) = &entry.group
            && own.is_none()
        {
            let (before, after) = (self.now.groups.get(&old.group), self.wanted.groups.get(group));
            let after = after.or_else(|| self.now.groups.get(group));
            let name = |group: Option<&'_ crate::decide::group::Group>| group.and_then(|group| group.drift.clone());
            let (before, after) = (name(before), name(after));
            if before != after && !self.loosened_between(before.as_deref(), after.as_deref()).is_empty() {
                fields.iter_mut().filter(|field| field.field == "group").for_each(|field| field.loosens = true);
            }
        }
    }

    fn loosened_between(&self, before: Option<&str>, after: Option<&str>) -> Vec<&'static str> {
        let policy = |name: &str| self.wanted.drift.get(name).or_else(|| self.now.drift.get(name));
        loosened(before.and_then(|name| self.now.drift.get(name)), after.and_then(policy))
    }

    pub(super) fn prune_drift(&mut self, removed: &mut Removed) {
        let (now, wanted) = (self.now, self.wanted);
        if wanted.drift.is_empty() {
            return;
        }
        removed.drift.extend(now.drift.keys().filter(|name| !wanted.drift.contains_key(*name)).cloned());
        for name in &removed.drift {
            // Groups and hosts that name it forbid it (below); those of its images lose it without a word of theirs.
            let of_images = now.drift.get(name).filter(|policy| !policy.images.is_empty());
            let keys = of_images.map_or_else(Vec::new, |policy| loosened(Some(policy), None));
            let field = |key: &&str| Field { field: (*key).to_string(), old: None, new: None, loosens: true };
            let fields = keys.iter().map(field).collect();
            let shown = Change { verb: Verb::Removed, kind: Kind::Drift, id: name.clone(), name: None, fields };
            self.changes.push(super::Change { write: Write::RemoveDrift(name.clone()), shown });
        }
    }

    /// Every policy that a group or a host names must be there in the end.
    pub(super) fn check_drift(&mut self, hosts: &Hosts<'_>, removed: &Removed) {
        let (now, wanted) = (self.now, self.wanted);
        let mut users: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let kept = now.groups.iter().filter(|(name, _)| !wanted.groups.contains_key(*name));
        let kept = kept.filter(|(name, _)| !removed.groups.contains(*name));
        for (name, group) in kept.chain(&wanted.groups) {
            if let Some(policy) = &group.drift {
                users.entry(policy).or_default().push(format!("group {name}"));
            }
        }
        let known = now.hosts.iter().filter(|(id, _)| !removed.hosts.contains(*id));
        let own = known.map(|(id, host)| (id, hosts.get(id).and_then(|found| found.entry.drift.as_ref()), &host.drift));
        let of_known = own.map(|(id, new, old)| (id, new.or(old.as_ref())));
        let new = hosts.iter().filter(|(id, _)| !now.hosts.contains_key(*id));
        let of_new = new.map(|(id, found)| (id, found.entry.drift.as_ref()));
        for (id, policy) in of_known.chain(of_new) {
            if let Some(policy) = policy.filter(|name| !name.is_empty()) {
                users.entry(policy).or_default().push(format!("host {id}"));
            }
        }
        for (policy, users) in users {
            let is_there = wanted.drift.contains_key(policy) || now.drift.contains_key(policy);
            if !is_there || removed.drift.contains(policy) {
                self.refusals.push(Refusal::NoDrift { policy: policy.to_string(), users });
            }
        }
        let added = wanted.drift.keys().filter(|name| !now.drift.contains_key(*name)).count();
        let count = now.drift.len() + added - removed.drift.len();
        if count > POLICIES_MAX {
            self.refusals.push(Refusal::TooManyPolicies(count));
        }
    }
}

fn loosened_alone(old: Option<&DriftPolicy>, new: &DriftPolicy) -> Vec<&'static str> {
    if old.is_none() && new.images.is_empty() { Vec::new() } else { loosened(old, Some(new)) }
}

/// Of rules those that hide more; where what matters is that others went or moved, all that changed.
fn mark(fields: &mut [Field], keys: &[&str], old: Option<&DriftPolicy>, new: &DriftPolicy) {
    let before = old.map_or(&[][..], |old| &old.rules);
    let hiding = new.rules.iter().enumerate().filter(|(_, rule)| rule.loosens(before));
    let hiding: Vec<String> = hiding.map(|(at, _)| format!("rule[{}]", at + 1)).collect();
    for field in fields {
        let key = field.field.split('[').next().unwrap_or(&field.field);
        let is_meant = key != "rule" || hiding.is_empty() || hiding.contains(&field.field);
        field.loosens = keys.contains(&key) && is_meant;
    }
}
