//! The rules of one host, put together from all that speaks of it, the nearest first.
//!
//! ```text
//! exceptions (drift accept) > the host's policy > its group's > those of its image: NAME:VERSION, then NAME > defaults
//! ```
//!
//! A policy that is named twice counts once, at its first place. Within a policy its own rules come first and its
//! read-only places after them, so that its author can except something from those. How often the host is looked at,
//! and whose defaults hold, the first policy says alone.

use super::declared::{Declared, DriftPolicy, Pace, What};
use super::defaults::{self, Family};
use super::finding::Aspects;
use super::policy::{self, Action, Pattern, Rule};
use std::collections::BTreeMap;

/// All policies, by name.
pub type Policies = BTreeMap<String, DriftPolicy>;

/// What decides which policies are a host's: hosts of which all is the same have the same rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place<'a> {
    /// Names of policies.
    pub host: Option<&'a str>,
    pub group: Option<&'a str>,
    /// `NAME:VERSION` that it runs.
    pub image: Option<&'a str>,
}

/// Looks at a read-only place that must agree before it asks for a rebuild: one scan could have come in the middle of a
/// file system that is just being remounted or repaired.
const READ_ONLY_SCANS_MIN: u32 = 2;

/// The policies of a host, the nearest first. A name that no policy has means none (documents are checked).
#[must_use]
pub fn policies<'p>(policies: &'p Policies, place: &Place<'_>) -> Vec<&'p DriftPolicy> {
    let named = [place.host, place.group].into_iter().flatten().filter_map(|name| policies.get(name));
    let mut found: Vec<&DriftPolicy> = named.collect();
    if let Some(image) = place.image {
        let mut of_image: Vec<&DriftPolicy> = policies.values().filter(|policy| policy.closeness(image) > 0).collect();
        // Stable: of one closeness by name.
        of_image.sort_by_key(|policy| std::cmp::Reverse(policy.closeness(image)));
        found.extend(of_image);
    }
    let mut seen = Vec::new();
    found.retain(|policy| {
        let is_new = !seen.contains(&policy.name);
        seen.push(policy.name.clone());
        is_new
    });
    found
}

/// Whose defaults hold: the first policy's word, or the image's own distribution.
#[must_use]
pub fn family(of_host: &[&DriftPolicy], of_image: Family) -> Family {
    of_host.first().and_then(|policy| policy.defaults).unwrap_or(of_image)
}

/// How often the host is looked at.
#[must_use]
pub fn pace(of_host: &[&DriftPolicy]) -> Pace {
    of_host.first().map_or_else(Pace::default, |policy| policy.pace)
}

/// The rules in the order in which `policy::rule` reads them. Those that have ended are left out, so that a host whose
/// clock is wrong cannot go by them; those that will end keep their end.
///
/// An exception says nothing of content: whether that of an accepted path may leave the host is what it was before.
#[must_use]
pub fn rules(exceptions: &[Rule], of_host: &[&DriftPolicy], family: Family, now: u64) -> Vec<Rule> {
    let holds = |rule: &Rule| rule.until.is_none_or(|until| now < until);
    let declared = of_host.iter().flat_map(|policy| of_policy(policy));
    let lasting: Vec<Rule> = declared.chain(defaults::rules(family)).filter(holds).collect();
    let accepted = exceptions.iter().filter(|rule| holds(rule)).map(|exception| {
        let path = exception.pattern.bytes();
        let content = is_one_path(&exception.pattern) && policy::rule(&lasting, path, Aspects::ALL, now).content();
        Rule { content, ..exception.clone() }
    });
    accepted.chain(lasting.iter().cloned()).collect()
}

/// The same as an agent is told them. What is accepted is reported all the same where one path is meant, so that it can
/// be seen and brought back into the image (`drift export`); the server then allows it. An exception with wildcards may
/// mean any number of paths, and would leave no room for findings in a report.
#[must_use]
pub fn for_agent(rules: &[Rule]) -> Vec<Rule> {
    let told = |rule: &Rule| {
        let is_accepted = rule.from.starts_with(EXCEPTION) && is_one_path(&rule.pattern);
        Rule { action: if is_accepted { Action::Report } else { rule.action }, ..rule.clone() }
    };
    rules.iter().map(told).collect()
}

/// How the `from` of an exception begins.
pub const EXCEPTION: &str = "exception ";

fn is_one_path(pattern: &Pattern) -> bool {
    !pattern.bytes().iter().any(|byte| b"*?".contains(byte))
}

/// The rules of one policy.
#[must_use]
pub fn of_policy(policy: &DriftPolicy) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (at, declared) in policy.rules.iter().enumerate() {
        let from = format!("policy {}, rule {}", policy.name, at + 1);
        match &declared.what {
            What::Path(pattern) => rules.push(rule(declared, pattern.clone(), declared.aspects, from)),
            What::Class(class) => {
                let from = format!("{from}, class {}", class.name);
                // A class names ways to differ that may be; a rule that forbids is about all of its own.
                let narrow = |own: Aspects| {
                    if declared.action == Action::Allow { own.and(declared.aspects) } else { declared.aspects }
                };
                let members = defaults::of_members(class).map(|(pattern, own)| (pattern, narrow(own)));
                let members = members.filter(|(_, aspects)| !aspects.is_empty());
                rules.extend(members.map(|(pattern, aspects)| rule(declared, pattern, aspects, from.clone())));
            }
        }
    }
    rules.extend(policy.read_only.iter().map(|place| {
        let action = Action::Rebuild { grace_seconds: 0, scans_min: READ_ONLY_SCANS_MIN };
        let text = super::path::to_text(place.bytes());
        Rule {
            pattern: within(place),
            aspects: Aspects::ALL,
            action,
            content: false,
            why: "declared read-only: nothing writes there but a rebuild".to_string(),
            until: None,
            from: format!("policy {}, read_only {text}", policy.name),
        }
    }));
    rules
}

fn rule(declared: &Declared, pattern: Pattern, aspects: Aspects, from: String) -> Rule {
    let why = match &declared.what {
        What::Class(class) if declared.why.is_empty() => class.sentence.to_string(),
        _ => declared.why.clone(),
    };
    let Declared { action, content, until, .. } = *declared;
    Rule { pattern, aspects, action, content, why, until, from }
}

/// The directory and all in it. A place is checked to be shorter than a pattern may be by so much.
fn within(place: &Pattern) -> Pattern {
    let top = place.bytes().strip_suffix(b"/").unwrap_or(place.bytes());
    Pattern::new(&[top, b"/**"].concat()).unwrap_or_else(|_| place.clone())
}

#[cfg(test)]
mod tests;
