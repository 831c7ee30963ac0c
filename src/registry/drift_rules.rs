//! The rules of hosts, kept: 10,000 hosts of one group and one image have one list of 150 rules between them.

use crate::decide::drift::declared::Pace;
use crate::decide::drift::defaults::Family;
use crate::decide::drift::effective::{self, Place, Policies};
use crate::decide::drift::policy::Rule;
use crate::wire::drift as wire;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lists that are kept. A fleet has some for each of its policies and images; one that has more makes them anew.
const LISTS_MAX: usize = 1_000;
/// Images of which the distribution is known.
const FAMILIES_MAX: usize = 10_000;

/// What a host is compared by.
#[derive(Debug, PartialEq)]
pub struct DriftRules {
    /// In the order in which `decide::drift::policy::rule` reads them.
    pub rules: Vec<Rule>,
    /// As an agent is told them (`effective::for_agent`): it reports what is accepted, and the server allows it.
    pub words: Vec<wire::Rule>,
    /// Hex blake3 of `words` and `pace`: two lists of one digest mean the same.
    pub digest: String,
    pub pace: Pace,
    pub family: Family,
}

/// All that decides a list, and from when to when it holds.
type Key = (Option<String>, Option<String>, Option<String>, Family, Vec<String>);

#[derive(Debug, Default)]
pub(super) struct DriftMemory {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The policies that the lists were made of.
    policies: Arc<Policies>,
    lists: BTreeMap<Key, Held>,
    families: HashMap<String, Family>,
}

#[derive(Debug)]
struct Held {
    list: Arc<DriftRules>,
    /// From when it was made until the first of its rules ends.
    from: u64,
    until: u64,
}

impl DriftMemory {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Complete at every moment: a list is made before it is put in.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Debian's until the image's own os-release was read: `note_family`.
    pub fn family_of(&self, manifest: &str) -> Family {
        self.kept().families.get(manifest).copied().unwrap_or(Family::Debian)
    }

    /// Whether the image's os-release was read already.
    pub fn knows(&self, manifest: &str) -> bool {
        self.kept().families.contains_key(manifest)
    }

    pub fn note_family(&self, manifest: &str, family: Family) {
        let mut kept = self.kept();
        if kept.families.len() >= FAMILIES_MAX {
            kept.families.clear();
        }
        kept.families.insert(manifest.to_string(), family);
    }

    pub fn rules(
        &self,
        policies: &Arc<Policies>,
        place: &Place<'_>,
        of_image: Family,
        exceptions: &[Rule],
        now: u64,
    ) -> Arc<DriftRules> {
        let text = |name: Option<&str>| name.map(String::from);
        // An exception has its number in `from`, and what has a number never changes.
        let exempt = exceptions.iter().map(|rule| rule.from.clone()).collect();
        let key = (text(place.host), text(place.group), text(place.image), of_image, exempt);
        let mut kept = self.kept();
        if !Arc::ptr_eq(&kept.policies, policies) {
            kept.lists.clear();
            kept.policies = policies.clone();
        }
        if let Some(held) = kept.lists.get(&key).filter(|held| (held.from..held.until).contains(&now)) {
            return held.list.clone();
        }
        let list = Arc::new(made(policies, place, of_image, exceptions, now));
        let until = list.rules.iter().filter_map(|rule| rule.until).min().unwrap_or(u64::MAX);
        if kept.lists.len() >= LISTS_MAX {
            kept.lists.clear();
        }
        kept.lists.insert(key, Held { list: list.clone(), from: now, until });
        list
    }
}

fn made(policies: &Policies, place: &Place<'_>, of_image: Family, exceptions: &[Rule], now: u64) -> DriftRules {
    let of_host = effective::policies(policies, place);
    let (family, pace) = (effective::family(&of_host, of_image), effective::pace(&of_host));
    let rules = effective::rules(exceptions, &of_host, family, now);
    let words: Vec<wire::Rule> = effective::for_agent(&rules).iter().map(wire::Rule::from).collect();
    let Pace { scan_seconds, cycle_seconds, report_seconds, verify_every_seconds } = pace;
    let paces = (scan_seconds, cycle_seconds, report_seconds, verify_every_seconds);
    // Texts and numbers: serialising them cannot fail.
    let bytes = serde_json::to_vec(&(&words, paces)).unwrap_or_default();
    let digest = blake3::hash(&bytes).to_hex().to_string();
    DriftRules { rules, words, digest, pace, family }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::drift::declared::DriftPolicy;
    use crate::decide::drift::finding::Aspects;
    use crate::decide::drift::policy::{Action, Pattern};

    fn exception(number: u64, until: u64) -> Rule {
        Rule {
            pattern: Pattern::new(b"/etc/motd").unwrap(),
            aspects: Aspects::ALL,
            action: Action::Allow,
            content: false,
            why: "w".into(),
            until: Some(until),
            from: format!("exception {number}"),
        }
    }

    #[test]
    fn hosts_of_one_place_share_one_list_until_something_of_it_changes() {
        let memory = DriftMemory::default();
        let policies = Arc::new(Policies::from([("web".to_string(), DriftPolicy::new("web"))]));
        let place = Place { group: Some("web"), image: Some("debian:12"), ..Place::default() };
        let first = memory.rules(&policies, &place, Family::Debian, &[], 5);
        assert!(Arc::ptr_eq(&first, &memory.rules(&policies, &place, Family::Debian, &[], 500)));
        let exempt = memory.rules(&policies, &place, Family::Debian, &[exception(7, 100)], 5);
        assert_eq!(exempt.rules[0].from, "exception 7");
        assert!(Arc::ptr_eq(&exempt, &memory.rules(&policies, &place, Family::Debian, &[exception(7, 100)], 99)));
        let ended = memory.rules(&policies, &place, Family::Debian, &[exception(7, 100)], 100);
        assert_eq!((&ended.rules, &ended.digest), (&first.rules, &first.digest), "it ended by itself");
        assert_ne!(exempt.digest, first.digest);
        // Applied anew: the same name, other content.
        let slower = Pace { scan_seconds: 7_200, ..Pace::default() };
        let applied = DriftPolicy { pace: slower, ..DriftPolicy::new("web") };
        let policies = Arc::new(Policies::from([("web".to_string(), applied)]));
        let changed = memory.rules(&policies, &place, Family::Debian, &[], 5);
        assert_eq!(changed.pace, slower);
        assert_ne!(changed.digest, first.digest);
    }

    #[test]
    fn the_distribution_of_an_image_is_what_its_os_release_says() {
        let memory = DriftMemory::default();
        memory.note_family("ab", Family::of_os_release("NAME=Rocky\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"));
        assert_eq!((memory.family_of("ab"), memory.family_of("cd")), (Family::Rhel, Family::Debian));
    }
}
