//! Laws, for any fleet. proptest prints the failing case with its seed and keeps it under proptest-regressions/.

use super::super::diff::{Diff, Now, NowHost, Prune, Write, diff};
use super::super::*;
use super::{any, fleet};
use crate::config::fleet::{export, read};
use crate::decide::drift::declared::DriftPolicy;
use crate::decide::group::DEFAULT_GROUP;
use proptest::prelude::*;
use std::path::Path;

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_is_exported_reads_back_as_the_same_fleet(wanted in any::fleet(true)) {
        let toml = export::to_toml(&wanted).unwrap();
        prop_assert_eq!(&fleet("a.toml", &toml), &wanted, "{}", toml);
        let yaml = export::to_yaml(&wanted).unwrap();
        prop_assert_eq!(&fleet("a.yaml", &yaml), &wanted, "{}", yaml);
        let json = serde_json::to_string(&export::document(&wanted)).unwrap();
        let document = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&read::of_document(Path::new("api"), document).unwrap(), &wanted);
    }

    /// Apply, then diff again: nothing. With prune, what is there then is what the documents say and no more.
    #[test]
    fn applying_the_same_documents_twice_changes_nothing(
        first in any::fleet(false), second in any::fleet(false), prune in any::<bool>()
    ) {
        let prune = if prune { Prune::UpTo(1_000) } else { Prune::No };
        let mut now = Now { groups: default_groups(), drift: default_policies(), ..Now::default() };
        for wanted in [first, second] {
            let Ok(writes) = diff(&now, &wanted, prune).accept() else { continue };
            apply(&mut now, writes);
            let again = diff(&now, &wanted, prune);
            prop_assert!(again.is_empty(), "{}", again.text());
            prop_assert_eq!(again, Diff::default());
        }
        // And what export writes is what is there.
        let exported = fleet("a.toml", &export::to_toml(&now.fleet()).unwrap());
        let again = diff(&now, &exported, Prune::UpTo(0));
        prop_assert!(again.is_empty(), "{}", again.text());
    }

    /// Whatever is wanted, nothing goes away that nobody asked to prune.
    #[test]
    fn without_prune_nothing_is_ever_removed(first in any::fleet(false), second in any::fleet(false)) {
        let mut now = Now { groups: default_groups(), drift: default_policies(), ..Now::default() };
        if let Ok(writes) = diff(&now, &first, Prune::No).accept() {
            apply(&mut now, writes);
        }
        let before = now.clone();
        if let Ok(writes) = diff(&now, &second, Prune::No).accept() {
            apply(&mut now, writes);
        }
        prop_assert!(before.groups.keys().all(|name| now.groups.contains_key(name)));
        prop_assert!(before.hosts.keys().all(|id| now.hosts.contains_key(id)));
        prop_assert!(before.drift.keys().all(|name| now.drift.contains_key(name)));
        prop_assert!(before.reservations.keys().all(|mac| now.reservations.contains_key(mac)));
    }
}

pub(super) fn default_groups() -> BTreeMap<String, Group> {
    // The three that `any` puts hosts into, of which two are free to be pruned.
    [DEFAULT_GROUP, "web", "012"].map(|name| (name.to_string(), Group::new(name))).into()
}

fn default_policies() -> Policies {
    ["web", "012"].map(|name| (name.to_string(), DriftPolicy::new(name))).into()
}

/// What the registry's writer does with writes, on records. There is no `_` here: a write of a new kind (one with an
/// order in it, say) does not compile until somebody looks at this test.
pub(super) fn apply(now: &mut Now, writes: Vec<Write>) {
    for write in writes {
        match write {
            Write::Group(group) => drop(now.groups.insert(group.name.clone(), *group)),
            Write::Policy(policy) => now.policy = policy,
            Write::Drift(policy) => drop(now.drift.insert(policy.name.clone(), *policy)),
            Write::RemoveDrift(name) => drop(now.drift.remove(&name)),
            Write::Host { id, new, entry } => {
                let fresh = NowHost { group: DEFAULT_GROUP.to_string(), ..NowHost::default() };
                let host = now.hosts.entry(id).or_insert(fresh);
                host.macs.extend(new);
                host.declared = true;
                let HostEntry { name, group, labels, image, power, drift } = entry;
                host.name = name.or(host.name.take());
                host.group = group.unwrap_or(host.group.clone());
                host.labels = labels.unwrap_or(host.labels.clone());
                host.image = image.or(host.image.take());
                host.power = power.or(host.power.take());
                host.drift = drift.or(host.drift.take()).filter(|name| !name.is_empty());
            }
            Write::Reservation { mac, address } => drop(now.reservations.insert(mac, address)),
            Write::RemoveReservation(mac) => drop(now.reservations.remove(&mac)),
            Write::RemoveHost(id) => drop(now.hosts.remove(&id)),
            Write::RemoveGroup(name) => drop(now.groups.remove(&name)),
        }
    }
}
