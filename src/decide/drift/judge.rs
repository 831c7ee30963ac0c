//! What the findings of one host come to, now: which ask for a rebuild, which will, which are only reported.
//!
//! A finding is as old as the server's own knowledge of it: a host's clock proves nothing. A quorum counts looks of the
//! whole tree by the server's own count of them, which only rises. Both are kept for each aspect, so that a
//! file whose mode has long been another does not make its content, swapped just now, a finding of old.

use super::finding::{Aspect, Aspects};
use super::path;
use super::policy::{Action, Rule, rule};
use std::collections::BTreeMap;

/// Three reports may be late or lost before a host is silent, and half an hour is none at all.
const REPORTS_LATE: u64 = 3;
const SILENT_SECONDS_MIN: u64 = 1800;
/// Raw bytes of a path in a sentence, and bytes of the text that it becomes.
const PATH_BYTES_MAX: usize = 120;
const PATH_TEXT_BYTES_MAX: usize = 160;
/// Paths that the breaker's message names.
const COMMON_MAX: usize = 3;

/// Since when some aspects of a finding are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub aspects: Aspects,
    /// Unix seconds by the server's clock.
    pub since: u64,
    /// The number of the last look at the whole tree when it was first heard of.
    pub look: u64,
}

/// What is known of a finding after another report: aspects that are gone are forgotten, new ones begin now.
#[must_use]
pub fn known(before: &[Known], aspects: Aspects, look: u64, now: u64) -> Vec<Known> {
    let kept = before.iter().map(|known| Known { aspects: known.aspects.and(aspects), ..*known });
    let mut after: Vec<Known> = kept.filter(|known| !known.aspects.is_empty()).collect();
    let new = after.iter().fold(aspects, |left, known| left.without(known.aspects));
    if !new.is_empty() {
        after.push(Known { aspects: new, since: now, look });
    }
    after
}

/// What becomes of a finding. The order is that of weight: of several aspects the heaviest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It may be so.
    Allowed,
    Reported,
    /// Asks for a rebuild at this time at the earliest (`None`: its grace is over), once it was seen in so many more looks.
    Later {
        at: Option<u64>,
        looks: u64,
    },
    Asks,
}

impl Verdict {
    /// The word in JSON and tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Allowed => "allow",
            Verdict::Reported => "report",
            Verdict::Later { .. } => "rebuild_later",
            Verdict::Asks => "rebuild",
        }
    }
}

/// One finding, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged<'r> {
    /// The aspects that are not allowed.
    pub left: Aspects,
    pub verdict: Verdict,
    /// What decided on the aspect that weighs most; `None`: no rule, so it is reported.
    pub rule: Option<&'r Rule>,
    /// Content of this path may leave the host.
    pub content: bool,
}

/// Judges one finding. `look` is the number of the last look at the whole tree.
#[must_use]
pub fn judge<'r>(rules: &'r [Rule], at: &[u8], known: &[Known], look: u64, now: u64) -> Judged<'r> {
    let aspects = known.iter().fold(Aspects::NONE, |all, known| known.aspects.iter().fold(all, Aspects::with));
    let ruling = rule(rules, at, aspects, now);
    let mut heaviest: (Verdict, Option<&Rule>) = (Verdict::Allowed, None);
    let mut is_first = true;
    for (aspect, rule) in &ruling.decided {
        let verdict = verdict(rule.map(|rule| rule.action), age_of(known, *aspect), look, now);
        if is_first || verdict > heaviest.0 {
            heaviest = (verdict, *rule);
        }
        is_first = false;
    }
    Judged { left: ruling.left(), verdict: heaviest.0, rule: heaviest.1, content: ruling.content() }
}

fn age_of(known: &[Known], aspect: Aspect) -> (u64, u64) {
    let its = known.iter().find(|known| known.aspects.has(aspect));
    // Every aspect that is judged comes out of `known`.
    its.map_or((u64::MAX, u64::MAX), |known| (known.since, known.look))
}

fn verdict(action: Option<Action>, (since, first_look): (u64, u64), look: u64, now: u64) -> Verdict {
    match action {
        Some(Action::Allow) => Verdict::Allowed,
        Some(Action::Report) | None => Verdict::Reported,
        Some(Action::Rebuild { grace_seconds, scans_min }) => {
            let grace_ends = since.saturating_add(grace_seconds);
            let seen = (look.saturating_add(1)).saturating_sub(first_look).max(1);
            let looks = u64::from(scans_min).saturating_sub(seen);
            if grace_ends <= now && looks == 0 {
                return Verdict::Asks;
            }
            Verdict::Later { at: Some(grace_ends).filter(|ends| *ends > now), looks }
        }
    }
}

/// When rules alone change what findings come to: the next end of one of them.
#[must_use]
pub fn next_end(rules: &[Rule], now: u64) -> Option<u64> {
    rules.iter().filter_map(|rule| rule.until).filter(|until| *until > now).min()
}

/// When a host that reported at this time is silent, if nothing comes until then.
#[must_use]
pub fn silent_at(reported_at: u64, report_seconds: u64) -> u64 {
    reported_at.saturating_add(report_seconds.saturating_mul(REPORTS_LATE).max(SILENT_SECONDS_MIN))
}

/// `/usr/bin/ssh: content; and 3 more`: one line of bounded length.
#[must_use]
pub fn sentence(first: &[u8], aspects: Aspects, more: u64) -> String {
    let first = format!("{}: {aspects}", path_text(first));
    if more == 0 { first } else { format!("{first}; and {more} more") }
}

/// A path as text, cut where it is too long for a line.
fn path_text(whole: &[u8]) -> String {
    let mut length = whole.len().min(PATH_BYTES_MAX);
    loop {
        let text = path::to_text(whole.get(..length).unwrap_or_default());
        if text.len() <= PATH_TEXT_BYTES_MAX {
            return if length < whole.len() { format!("{text}...") } else { text };
        }
        length -= length.min(8);
    }
}

/// The paths (or what stands for them, each once for each host) that more than half of the hosts share, and how many do:
/// the most common first.
#[must_use]
pub fn common<K: Ord + Copy>(hosts: impl IntoIterator<Item = impl IntoIterator<Item = K>>) -> Vec<(K, u64)> {
    let mut counts: BTreeMap<K, u64> = BTreeMap::new();
    let mut of = 0u64;
    for host in hosts {
        of += 1;
        for key in host {
            *counts.entry(key).or_default() += 1;
        }
    }
    let mut shared: Vec<(K, u64)> = counts.into_iter().filter(|(_, count)| count * 2 > of && *count > 1).collect();
    shared.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    shared.truncate(COMMON_MAX);
    shared
}

/// What the breaker says of the hosts that drift.
#[must_use]
pub fn common_sentence(paths: &[(Vec<u8>, u64)], hosts: u64) -> String {
    if paths.is_empty() {
        return "no path is common to them".to_string();
    }
    let each = paths.iter().map(|(path, count)| format!("{} ({count} of {hosts})", path_text(path)));
    format!("common to them: {}", each.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests;
