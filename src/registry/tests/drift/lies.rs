//! What a host, or a machine that says things twice, cannot bring about by what it says.

use super::*;
use crate::decide::drift::finding::Aspect;
use crate::registry::drift::FINDINGS_TOTAL_MAX;

/// A host that lies about how many findings it has makes neither itself clean nor a sum wrap: what was seen from outside
/// stays one finding more.
#[test]
fn a_count_without_bound_neither_clears_a_host_nor_wraps_a_sum() {
    let mut story = Story::new(1);
    story.enrol(0, KEY).unwrap();
    story.sees_outside(0, 1, vec![swapped("/usr/bin/ssh", "trojan")]);
    let lies = Report { findings_total: u64::MAX, ..story.report(0, 1, 1, Vec::new()) };
    story.takes(0, KEY, lies).unwrap();
    assert_eq!(story.standing(0), (Some(true), FINDINGS_TOTAL_MAX + 1, 0));
}

/// A quorum counts on when the agent lost its state and begins again at 1, or said any number once; one report is one look
/// at most.
#[test]
fn a_quorum_counts_on_whatever_numbers_the_agent_gives_its_looks() {
    let mut story = Story::new(1);
    story.rules(rebuild(0, 3));
    story.enrol(0, KEY).unwrap();
    story.reports(0, 1, 40, Vec::new()).unwrap();
    let found = || vec![swapped("/usr/bin/ssh", "trojan")];
    for (sequence, look, asking) in [(2, u64::MAX, 0), (3, u64::MAX, 0), (4, 1, 0), (5, 1, 0), (6, 2, 1)] {
        story.reports(0, sequence, look, found()).unwrap();
        assert_eq!(story.standing(0), (Some(true), 1, asking), "report {sequence}, look {look}");
    }
}

/// A look from outside that is said twice, because what follows it could not be written, is one look.
#[test]
fn one_verification_is_one_look_however_often_it_is_said() {
    let mut story = Story::new(1);
    story.rules(rebuild(0, 2));
    let found = || vec![swapped("/usr/bin/ssh", "trojan")];
    for (verification, asking) in [(1, 0), (1, 0), (2, 1)] {
        story.sees_outside(0, verification, found());
        assert_eq!(story.standing(0), (Some(true), 1, asking), "verification {verification}");
        story.restarts();
    }
}

/// While a clock that jumped is held a report is kept, and judged once a person has looked at the clock.
#[test]
fn a_report_ends_no_grace_while_a_clock_that_jumped_is_held() {
    let mut story = Story::new(1);
    story.rules(rebuild(HOUR, 1));
    story.enrol(0, KEY).unwrap();
    let found = || vec![swapped("/usr/bin/ssh", "trojan")];
    story.reports(0, 1, 1, found()).unwrap();
    let held = |held| StoredClock { evaluated_to: BEGAN, held };
    story.ask(|reply| Command::AcceptClock { clock: held(Some(86_400)), reply }).unwrap();
    story.now += 2 * HOUR;
    assert_eq!(story.reports(0, 2, 2, found()).unwrap(), 2);
    assert_eq!(story.standing(0), (Some(true), 1, 0), "a report has ended the grace");
    assert_eq!(story.listed(0).agent.found.len(), 1);
    story.pass(1);
    assert_eq!(story.standing(0), (Some(true), 1, 0));
    story.ask(|reply| Command::AcceptClock { clock: held(None), reply }).unwrap();
    story.pass(1);
    assert_eq!(story.standing(0), (Some(true), 1, 1));
}

/// What was seen from outside at a path is judged, counted and asked for whatever the agent lists there; the path counts
/// once, and its grace does not begin anew.
#[test]
fn an_agents_harmless_word_takes_nothing_from_what_was_seen_outside() {
    let mut story = Story::new(1);
    let mut policy = rebuild(HOUR, 1);
    policy.rules[0].aspects = Aspects::NONE.with(Aspect::Content);
    story.rules(policy);
    story.enrol(0, KEY).unwrap();
    story.sees_outside(0, 1, vec![swapped("/usr/bin/ssh", "trojan")]);
    let harmless = |mode: u16, uid: u32| {
        let seen = Node { mode, uid, ..file("of the image") };
        vec![Finding { seen: Some(seen), ..swapped("/usr/bin/ssh", "") }]
    };
    story.pass(HOUR / 2);
    story.reports(0, 1, 1, harmless(0o700, 0)).unwrap();
    assert_eq!(story.standing(0), (Some(true), 1, 0));
    story.pass(HOUR / 2);
    assert_eq!(story.standing(0), (Some(true), 1, 1), "the grace of what was seen outside is over");
    story.reports(0, 2, 2, harmless(0o755, 7)).unwrap();
    assert_eq!(story.standing(0), (Some(true), 1, 1));
    let listed = story.listed(0);
    let watched = story.registry.as_ref().unwrap().read(|view| view.drift().host(&id(0)).cloned());
    let rules = story.registry.as_ref().unwrap().read(|view| view.drift_rules(&story.host(0), story.now));
    let at = listed.paths().next().unwrap();
    let judged = at.judged(watched.as_deref(), &rules.rules, story.now).unwrap();
    assert_eq!(judged.judged.left, Aspects::NONE.with(Aspect::Content).with(Aspect::Owner));
    assert_eq!(judged.found, &listed.outside.found[0], "the heavier one is shown");
}

/// A host whose findings come and go with each report writes some lines an hour; its standing is shown at once, and what
/// holds still after the pause is in the history without another report.
#[test]
fn findings_that_come_and_go_do_not_fill_the_history() {
    let mut story = Story::new(1);
    story.rules(rebuild(0, 1));
    story.enrol(0, KEY).unwrap();
    let before = story.told(0).len();
    for sequence in 1..=200 {
        let found = if sequence % 2 == 1 { vec![swapped("/usr/bin/ssh", "trojan")] } else { Vec::new() };
        story.reports(0, sequence, sequence, found).unwrap();
        assert_eq!(story.standing(0).0, Some(sequence % 2 == 1), "it is shown at once");
    }
    let told = story.told(0);
    assert!(told.len() - before <= 4, "{told:?}");
    assert_eq!(told.last().unwrap(), "drift no longer asks for a rebuild");
    story.restarts();
    story.pass(600);
    assert_eq!(story.told(0).last().unwrap(), "clean: nothing differs that the policy does not allow");
    story.reports(0, 201, 201, vec![swapped("/usr/bin/ssh", "trojan")]).unwrap();
    assert_eq!(story.host(0).asks.len(), 1, "and it asks again after the pause");
}

/// Each report is a commit: one that comes in the same moment as the one before is put off, the very same one is not.
#[test]
fn a_report_right_after_another_is_put_off() {
    let mut story = Story::new(1);
    story.enrol(0, KEY).unwrap();
    let (first, second) = (story.report(0, 1, 1, Vec::new()), story.report(0, 2, 2, Vec::new()));
    story.takes(0, KEY, first.clone()).unwrap();
    assert!(matches!(refusal(story.takes_at_once(0, KEY, second.clone())), DriftRefusal::TooSoon { seconds: 2 }));
    assert_eq!(story.takes_at_once(0, KEY, first).unwrap(), 1, "its answer was lost");
    story.now += 2;
    assert_eq!(story.takes_at_once(0, KEY, second).unwrap(), 2);
}
