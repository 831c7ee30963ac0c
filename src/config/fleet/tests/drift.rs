//! Drift policies among the changes: what is refused, what a second person must see, what `--prune` takes.

use super::super::diff::{Diff, Now, PRUNE_MAX, Prune, diff};
use super::fleet;
use super::laws::apply;

/// 2026-11-28.
const NOW: u64 = 1_795_824_000;
const ALLOW: &str = "[[drift.web.rule]]\npath = \"/etc/motd\"\naction = \"allow\"\nwhy = \"w\"\n";

fn now(text: &str) -> Now {
    let mut now = Now { at: NOW, ..Now::default() };
    let groups = ["default", "web"].map(|name| (name.to_string(), crate::decide::group::Group::new(name)));
    now.groups = groups.into();
    let writes = diff(&now, &fleet("a.toml", text), Prune::No).accept().unwrap();
    apply(&mut now, writes);
    now
}

fn to(now: &Now, text: &str) -> Diff {
    diff(now, &fleet("a.toml", text), Prune::No)
}

#[test]
fn a_policy_that_is_not_there_cannot_be_named() {
    let host = "[[host]]\nmac = \"52:54:00:00:00:01\"\ndrift = \"dbs\"\n";
    let text = to(&now(""), &format!("[group.web]\ndrift = \"wbe\"\n{host}")).text();
    assert!(text.contains("refused: there would be no drift policy wbe for group web\n"), "{text}");
    assert!(text.contains("refused: there would be no drift policy dbs for host h-525400000001\n"), "{text}");
    // It comes with the same documents, or was there before.
    assert!(to(&now(""), "[drift.wbe]\n[group.web]\ndrift = \"wbe\"\n").accept().is_ok());
    assert!(to(&now("[drift.wbe]\n"), "[group.web]\ndrift = \"wbe\"\n").accept().is_ok());
    // And it cannot go while somebody names it, nor does it go without --prune.
    let used = now("[drift.wbe]\n[group.web]\ndrift = \"wbe\"\n");
    let other = fleet("a.toml", "[drift.other]\n");
    assert!(!diff(&used, &other, Prune::No).text().contains("- drift"));
    let pruned = diff(&used, &other, Prune::UpTo(PRUNE_MAX)).text();
    assert!(pruned.contains("- drift policy wbe\n"), "{pruned}");
    assert!(pruned.contains("refused: there would be no drift policy wbe for group web"), "{pruned}");
    let free = now("[drift.wbe]\n");
    let mut after = free.clone();
    apply(&mut after, diff(&free, &other, Prune::UpTo(PRUNE_MAX)).accept().unwrap());
    assert_eq!(after.drift.keys().collect::<Vec<_>>(), ["other"]);
}

/// An exemption that is over when it is written is a mistyped year; one that ended since it was applied is no reason to
/// refuse all other documents of the repository.
#[test]
fn a_rule_that_is_over_when_it_comes_is_refused_and_one_that_has_ended_since_is_not() {
    let text = format!("[drift.web]\n{ALLOW}until = \"2026-11-28\"\n");
    let refused = to(&now(""), &text).text();
    let said = "refused: drift policy web, rule 1: its end 2026-11-28 has passed; give it a later one or take it out";
    assert!(refused.contains(said), "{refused}");
    let mut was = now(&text.replace("2026-11-28", "2026-11-29"));
    was.at = NOW + 10 * 86_400;
    assert!(to(&was, &text.replace("2026-11-28", "2026-11-29")).is_empty());
}

/// Who takes findings away for good is two persons; for a while one can, as with `drift accept`.
#[test]
fn what_hides_for_good_loosens_wherever_it_comes_into_force() {
    let policy = format!("[drift.web]\n{ALLOW}");
    // Named by nobody yet, it hides nothing.
    assert!(!to(&now(""), &policy).loosens());
    let images = policy.replace("[drift.web]\n", "[drift.web]\nimages = [\"debian\"]\n");
    assert!(to(&now(""), &images).loosens(), "in force at once for hosts of its image");
    assert!(to(&now(&policy), "[group.web]\ndrift = \"web\"\n").loosens(), "in force for a group");
    let a_while = format!("{policy}until = \"2027-03-01\"\n");
    assert!(!to(&now(&a_while), "[group.web]\ndrift = \"web\"\n").loosens());
    let in_use = now("[drift.web]\n[group.web]\ndrift = \"web\"\n");
    let diff = to(&in_use, &policy);
    assert!(diff.loosens() && diff.text().contains("(a second person must see this)"), "{}", diff.text());
    assert!(!to(&now(&format!("{policy}[group.web]\ndrift = \"web\"\n")), "[drift.web]\n").loosens(), "tighter");
    // A host that moves into such a group, or gets such a policy of its own.
    let host = "[[host]]\nmac = \"52:54:00:00:00:01\"\n";
    let there = now(&format!("{policy}[group.web]\ndrift = \"web\"\n{host}"));
    assert!(to(&there, &format!("{host}group = \"web\"\n")).loosens());
    assert!(to(&there, &format!("{host}drift = \"web\"\n")).loosens());
    assert!(!to(&there, &format!("{host}drift = \"\"\n")).loosens());
}
