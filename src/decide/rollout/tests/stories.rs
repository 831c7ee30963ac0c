//! Rollouts told one by one.

use super::super::gate::{CHECK_ANSWER_SECONDS, CHECK_EVERY_SECONDS, RELAPSES_MAX};
use super::super::make;
use super::super::plan::{Gate, Goal, Request, WaveSize};
use super::super::progress::{Action, Ask, CommandRefusal, HaltReason, Stage};
use super::super::waiting::{Waiting, waiting};
use super::fleet::{Fleet, Machine};
use super::making::{image, request, to};
use crate::decide::group::Check;
use crate::decide::host::State;

/// 8 hosts: a canary, then waves of 2 and 4.
fn eight() -> Request {
    Request { waves: vec![WaveSize::Hosts(2), WaveSize::Hosts(4)], spread_percent: 100, ..to("debian:12.5") }
}

fn with_check(request: Request) -> Request {
    let check = Some(Check::Http { url: "http://{address}/health".into() });
    Request { gate: Gate { check, ..request.gate.clone() }, ..request }
}

fn asks(actions: &[Action]) -> Vec<&str> {
    let asks = actions.iter().filter_map(|action| match action {
        Action::Ask { host, .. } => Some(host.as_str()),
        _ => None,
    });
    asks.collect()
}

fn waits(fleet: &Fleet) -> Vec<String> {
    let waits = waiting(&fleet.plan, &fleet.progress, |id| fleet.machines.get(id).map(Machine::facts), fleet.now);
    waits.iter().map(|wait| wait.line(fleet.now)).collect()
}

/// The canary of a fleet after its order ended well.
fn canary_ready(request: &Request) -> (Fleet, String) {
    let mut fleet = Fleet::new(8, request);
    let canary = fleet.ids_of_wave(0)[0].clone();
    fleet.step();
    fleet.admit(1);
    fleet.write(&canary);
    fleet.boot(&canary, true);
    fleet.step();
    (fleet, canary)
}

#[test]
fn a_rollout_goes_by_waves_and_says_at_each_moment_what_it_waits_for() {
    let mut fleet = Fleet::new(8, &eight());
    let canary = fleet.ids_of_wave(0)[0].clone();
    assert_eq!(waits(&fleet), ["1 host of the wave to be asked"]);
    assert_eq!(asks(&fleet.step()), [canary.as_str()]);
    assert_eq!(waits(&fleet), ["1 host for an order (limits, or a stop)"]);
    fleet.admit(1);
    assert_eq!(waits(&fleet), ["1 host being rebuilt"]);
    fleet.write(&canary);
    fleet.boot(&canary, false);
    assert_eq!(waits(&fleet), ["1 host for the word of the installed system, 20m left"]);
    fleet.boot(&canary, true);
    assert_eq!(waits(&fleet), ["soaking, 10m left"]);
    fleet.now += 599;
    assert_eq!(fleet.step(), []);
    fleet.now += 1;
    let second = fleet.ids_of_wave(1);
    assert_eq!(asks(&fleet.step()), second);
    for _ in 0..60 {
        fleet.settle_a_minute();
    }
    assert!(matches!(fleet.progress.stage, Stage::Done { .. }), "{:?}", fleet.progress.stage);
    assert_eq!((fleet.progress.healthy, waits(&fleet)), (8, Vec::<String>::new()));
    assert!(fleet.machines.values().all(|machine| machine.rebuilt == 1));
    // Planning again on the same facts: nothing to do.
    assert!(make::plan(8, &eight(), &fleet.candidates(), None, 0).unwrap().is_empty());
}

#[test]
fn a_canary_that_fails_halts_the_rollout_whatever_the_budget_is() {
    for failures_max in [0, 1, 5] {
        let mut fleet = Fleet::new(8, &Request { failures_max, ..eight() });
        fleet.step();
        fleet.admit(1);
        fleet.fail(&fleet.ids_of_wave(0)[0].clone());
        assert_eq!(fleet.step(), []);
        let reason = match failures_max {
            0 => HaltReason::Failures { count: 1, max: 0 },
            _ => HaltReason::NobodyHealthy { wave: 0 },
        };
        assert_eq!(fleet.progress.stage, Stage::Halted { reason, at: fleet.now });
        for _ in 0..100 {
            fleet.settle_a_minute();
        }
        assert_eq!(fleet.asked.len(), 1, "a halted rollout asks nobody");
    }
}

#[test]
fn the_budget_halts_with_the_failure_after_the_last_allowed_one_and_the_failed_are_named() {
    let (mut fleet, _) = canary_ready(&Request { failures_max: 1, ..eight() });
    fleet.now += 600;
    fleet.step();
    let second = fleet.ids_of_wave(1);
    fleet.admit(2);
    fleet.fail(&second[0]);
    fleet.step();
    assert_eq!(fleet.progress.stage, Stage::Running, "one failure is within the budget");
    fleet.hold(&second[1]);
    fleet.step();
    let reason = HaltReason::Failures { count: 2, max: 1 };
    assert_eq!(fleet.progress.stage, Stage::Halted { reason, at: fleet.now });
    let failed = |host: &str| match &fleet.progress.seats[host].ask {
        Ask::Failed { reason, .. } => reason.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(failed(&second[0]), "failed at write_body after 3: EIO");
    assert_eq!(failed(&second[1]), "held by bob: debugging");
    assert_eq!(waits(&fleet), ["halted: 2 failed, the budget is 1; `regild rollout resume` or `abort`"]);
}

/// What an operator forgave does not halt again; the next failure over the budget does.
#[test]
fn a_halted_rollout_that_is_resumed_counts_its_budget_anew() {
    let (mut fleet, _) = canary_ready(&eight());
    fleet.now += 600;
    fleet.step();
    let second = fleet.ids_of_wave(1);
    fleet.admit(2);
    fleet.fail(&second[0]);
    fleet.step();
    assert!(!fleet.progress.admits());
    fleet.progress = fleet.progress.clone().resume().unwrap();
    fleet.step();
    assert!(fleet.progress.admits());
    fleet.fail(&second[1]);
    fleet.step();
    let reason = HaltReason::Failures { count: 2, max: 0 };
    assert_eq!(fleet.progress.stage, Stage::Halted { reason, at: fleet.now });
    // Now nobody of the wave is left: that is said, too, before it may go on.
    fleet.progress = fleet.progress.clone().resume().unwrap();
    fleet.step();
    let reason = HaltReason::NobodyHealthy { wave: 1 };
    assert_eq!(fleet.progress.stage, Stage::Halted { reason, at: fleet.now });
    fleet.progress = fleet.progress.clone().resume().unwrap();
    fleet.step();
    assert_eq!((fleet.progress.wave, &fleet.progress.stage), (2, &Stage::Running));
}

#[test]
fn the_soak_time_begins_anew_when_a_host_leaves_health() {
    let (mut fleet, canary) = canary_ready(&eight());
    fleet.now += 500;
    fleet.reimage(&canary, "debian:12.5"); // drift, say
    fleet.step();
    fleet.now += 200;
    fleet.write(&canary);
    fleet.boot(&canary, true);
    assert_eq!(fleet.step(), []);
    assert_eq!(waits(&fleet), ["soaking, 10m left"]);
    fleet.now += 599;
    assert_eq!(fleet.step(), []);
    fleet.now += 1;
    assert_eq!(fleet.step().len(), 2);
}

#[test]
fn paused_nothing_new_is_asked_and_nothing_asked_becomes_an_order_until_it_is_resumed() {
    let (mut fleet, _) = canary_ready(&eight());
    fleet.progress = fleet.progress.clone().pause("ann", "lunch", fleet.now).unwrap();
    fleet.now += 6000;
    assert_eq!(fleet.step(), []);
    assert!(!fleet.progress.admits());
    assert_eq!(waits(&fleet), ["paused: by ann: lunch; `regild rollout resume` or `abort`"]);
    let again = fleet.progress.clone().pause("ann", "again", fleet.now);
    assert_eq!(again.map(|_| ()), Err(CommandRefusal::StandsStill("paused")));
    fleet.progress = fleet.progress.clone().resume().unwrap();
    assert_eq!(asks(&fleet.step()).len(), 2, "it soaked while it was paused");
}

#[test]
fn an_abort_withdraws_what_has_no_order_yet_and_is_final() {
    let (mut fleet, _) = canary_ready(&eight());
    fleet.now += 600;
    fleet.step();
    fleet.admit(1);
    let second = fleet.ids_of_wave(1);
    let aborted = fleet.progress.clone().abort(&fleet.plan, "ann", "wrong image", fleet.now).unwrap();
    let mut withdrawn: Vec<String> = second.clone();
    withdrawn.sort();
    let mut actions: Vec<String> = aborted
        .actions
        .iter()
        .map(|action| match action {
            Action::Withdraw { host } => host.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    actions.sort();
    assert_eq!(actions, withdrawn);
    fleet.progress = aborted.progress;
    for host in &second {
        fleet.withdraw(host);
    }
    assert_eq!(fleet.machines.values().filter(|machine| machine.cause.is_some()).count(), 1, "its order is open");
    for _ in 0..100 {
        fleet.settle_a_minute();
    }
    assert_eq!(fleet.asked.len(), 3);
    assert_eq!(fleet.progress.clone().resume().map(|_| ()), Err(CommandRefusal::Over("aborted")));
}

#[test]
fn a_host_that_never_confirms_fails_and_does_not_hold_the_rollout_for_ever() {
    let mut fleet = Fleet::new(8, &eight());
    let canary = fleet.ids_of_wave(0)[0].clone();
    fleet.step();
    fleet.admit(1);
    fleet.write(&canary);
    fleet.boot(&canary, false);
    fleet.now += 1200;
    fleet.step();
    assert_eq!(fleet.progress.failures(), 0);
    fleet.now += 1;
    fleet.step();
    assert_eq!(fleet.progress.failures(), 1);
    // Where the gate does not ask for it, Ready is enough.
    let gate = Gate { confirmed: false, ..eight().gate };
    let mut fleet = Fleet::new(8, &Request { gate, ..eight() });
    fleet.step();
    fleet.admit(1);
    fleet.write(&canary);
    fleet.boot(&canary, false);
    fleet.now += 600;
    assert_eq!(asks(&fleet.step()).len(), 2);
}

#[test]
fn what_counts_is_the_plans_image_at_a_generation_after_the_ask() {
    let mut fleet = Fleet::new(8, &eight());
    let canary = fleet.ids_of_wave(0)[0].clone();
    // An operator's order for another image is open when the canary is asked: it is waited for, and does not count.
    fleet.reimage(&canary, "fedora:40");
    fleet.step();
    fleet.write(&canary);
    fleet.boot(&canary, true);
    fleet.step();
    assert_eq!(waits(&fleet), ["1 host for an order (limits, or a stop)"]);
    fleet.admit(1);
    fleet.write(&canary);
    fleet.boot(&canary, true);
    fleet.step();
    assert_eq!(waits(&fleet), ["soaking, 10m left"]);
    // Then somebody gives it another image for good.
    fleet.reimage(&canary, "fedora:40");
    fleet.write(&canary);
    fleet.boot(&canary, true);
    fleet.step();
    let Ask::Failed { reason, .. } = &fleet.progress.seats[&canary].ask else { panic!("it does not run the image") };
    assert_eq!(reason, "runs fedora:40 instead");
}

/// The canary failed under an earlier order, yet holds the image: it was asked, so a disk written before does not count.
#[test]
fn a_disk_that_was_written_before_the_ask_does_not_count() {
    let mut fleet = Fleet::new(8, &eight());
    let canary = fleet.ids_of_wave(0)[0].clone();
    fleet.reimage(&canary, "debian:12.5");
    fleet.write(&canary);
    fleet.fail(&canary);
    fleet.step();
    fleet.release(&canary);
    fleet.boot(&canary, true);
    fleet.step();
    assert_eq!(waits(&fleet), ["1 host for an order (limits, or a stop)"]);
    fleet.withdraw(&canary);
    fleet.step();
    let Ask::Failed { reason, .. } = &fleet.progress.seats[&canary].ask else { panic!("nobody asks for it any more") };
    assert_eq!(reason, "its order was taken back");
}

/// Another order did the work: the ask that still stands would rebuild the host once more.
#[test]
fn what_is_still_asked_of_a_healthy_host_is_withdrawn_when_its_wave_is_over() {
    let (mut fleet, canary) = canary_ready(&eight());
    fleet.machines.get_mut(&canary).unwrap().cause = Some(image("debian:12.5"));
    fleet.now += 600;
    let actions = fleet.step();
    assert!(actions.contains(&Action::Withdraw { host: canary }), "{actions:?}");
    assert_eq!(asks(&actions).len(), 2);
}

#[test]
fn a_host_whose_facts_changed_since_the_plan_is_not_asked() {
    let mut fleet = Fleet::new(8, &Request { canary: 0, waves: vec![WaveSize::Hosts(5)], ..eight() });
    let wave = fleet.ids_of_wave(0);
    fleet.hold(&wave[0]);
    fleet.machines.get_mut(&wave[1]).unwrap().denied = Some("labelled protected");
    fleet.machines.remove(&wave[2]);
    let found = fleet.machines.get_mut(&wave[3]).unwrap();
    found.reported = Some(image("debian:12.5"));
    assert_eq!(asks(&fleet.step()), [wave[4].as_str()]);
    let left_out = |host: &str| match &fleet.progress.seats[host].ask {
        Ask::LeftOut { reason } => reason.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(left_out(&wave[0]), "held by bob: debugging");
    assert_eq!(left_out(&wave[1]), "labelled protected");
    assert_eq!(left_out(&wave[2]), "its record was removed");
    assert_eq!(fleet.progress.seats[&wave[3]].ask, Ask::Found);
    assert_eq!((fleet.progress.failures(), &fleet.progress.stage), (0, &Stage::Running));
    // Nobody healthy yet besides the one that was found, which soaks like all others.
    for _ in 0..60 {
        fleet.settle_a_minute();
    }
    assert!(matches!(fleet.progress.stage, Stage::Done { .. }));
    assert_eq!(fleet.machines[&wave[3]].rebuilt, 0);
}

/// A canary that somebody held proves nothing about the image.
#[test]
fn a_rollout_whose_first_wave_was_left_out_as_a_whole_halts() {
    let mut fleet = Fleet::new(8, &eight());
    fleet.hold(&fleet.ids_of_wave(0)[0].clone());
    fleet.step();
    let reason = HaltReason::NobodyHealthy { wave: 0 };
    assert_eq!(fleet.progress.stage, Stage::Halted { reason, at: fleet.now });
}

/// A host that is released later must not be rebuilt by an ask that everybody forgot.
#[test]
fn the_ask_of_a_host_that_failed_is_withdrawn() {
    let mut fleet = Fleet::new(8, &eight());
    let canary = fleet.ids_of_wave(0)[0].clone();
    fleet.step();
    fleet.hold(&canary);
    assert_eq!(fleet.step(), [Action::Withdraw { host: canary.clone() }]);
    fleet.release(&canary);
    fleet.progress = fleet.progress.clone().resume().unwrap();
    fleet.settle_a_minute();
    assert_eq!(fleet.machines[&canary].rebuilt, 0);
}

/// The order that the ask is for is what repairs a host that had failed before.
#[test]
fn a_host_that_had_failed_before_its_turn_gets_its_order() {
    let mut fleet = Fleet::new(8, &eight());
    let canary = fleet.ids_of_wave(0)[0].clone();
    fleet.reimage(&canary, "fedora:40");
    fleet.fail(&canary);
    fleet.step();
    fleet.step();
    assert_eq!((fleet.progress.failures(), waits(&fleet)), (0, vec!["1 host for an order (limits, or a stop)".into()]));
    fleet.settle_a_minute();
    assert_eq!(fleet.machines[&canary].state, State::Ready { confirmed: true });
    assert_eq!(fleet.progress.failures(), 0);
}

#[test]
fn a_check_is_asked_for_once_again_each_minute_and_holds_the_gate() {
    let (mut fleet, canary) = canary_ready(&with_check(eight()));
    assert!(fleet.checks.contains_key(&canary));
    assert_eq!(waits(&fleet), ["1 host for the check to pass, 20m left"]);
    fleet.answer(&canary, Err("503"));
    assert_eq!(fleet.step(), []);
    fleet.now += CHECK_EVERY_SECONDS;
    assert_eq!(fleet.step(), [Action::Check { host: canary.clone(), requested_at: fleet.now }]);
    fleet.answer(&canary, Ok(()));
    fleet.step();
    assert_eq!(waits(&fleet), ["soaking, 10m left"]);
    // It fails within the soak time, then passes: the time begins anew.
    fleet.now += CHECK_EVERY_SECONDS;
    fleet.step();
    fleet.answer(&canary, Err("503"));
    fleet.step();
    assert_eq!(waits(&fleet), ["1 host for the check to pass, 20m left"]);
    fleet.now += CHECK_EVERY_SECONDS;
    fleet.step();
    fleet.answer(&canary, Ok(()));
    fleet.step();
    assert_eq!(waits(&fleet), ["soaking, 10m left"]);
}

#[test]
fn a_check_that_never_passes_never_answers_or_goes_on_and_off_fails_the_host() {
    let failure = |fleet: &Fleet, host: &str| match &fleet.progress.seats[host].ask {
        Ask::Failed { reason, .. } => reason.clone(),
        other => panic!("{other:?}"),
    };
    let (mut fleet, canary) = canary_ready(&with_check(eight()));
    for _ in 0..21 {
        fleet.answer(&canary, Err("503 Service Unavailable"));
        fleet.now += 60;
        fleet.step();
    }
    assert_eq!(failure(&fleet, &canary), "the check did not pass within 20m: 503 Service Unavailable");

    let (mut fleet, canary) = canary_ready(&with_check(eight()));
    for _ in 0..25 {
        fleet.checks.clear();
        fleet.now += CHECK_ANSWER_SECONDS + 1;
        fleet.step();
    }
    assert_eq!(failure(&fleet, &canary), "the check did not pass within 20m: no answer");

    let (mut fleet, canary) = canary_ready(&with_check(eight()));
    for turn in 0..=2 * RELAPSES_MAX + 1 {
        fleet.answer(&canary, if turn % 2 == 0 { Ok(()) } else { Err("flapping") });
        fleet.now += 60;
        fleet.step();
    }
    assert_eq!(failure(&fleet, &canary), "the check goes on and off: flapping");
}

/// A host that stopped answering is not healthy because it once was.
#[test]
fn a_check_that_passed_and_then_never_answers_again_ends_the_soak() {
    let (mut fleet, canary) = canary_ready(&with_check(eight()));
    fleet.answer(&canary, Ok(()));
    fleet.step();
    assert_eq!(waits(&fleet), ["soaking, 10m left"]);
    fleet.now += CHECK_EVERY_SECONDS;
    fleet.step();
    fleet.now += CHECK_ANSWER_SECONDS + 1;
    fleet.step();
    assert_eq!(waits(&fleet), ["1 host for the check to pass, 20m left"]);
}

#[test]
fn a_host_that_was_rebuilt_while_it_soaked_is_healthy_again_when_the_check_passes_again() {
    let (mut fleet, canary) = canary_ready(&with_check(eight()));
    fleet.answer(&canary, Ok(()));
    fleet.now += 10;
    fleet.reimage(&canary, "debian:12.5");
    fleet.step();
    fleet.write(&canary);
    fleet.boot(&canary, true);
    fleet.step();
    assert_eq!(waits(&fleet), ["1 host for the check to pass, 20m left"]);
    fleet.answer(&canary, Ok(()));
    fleet.step();
    assert_eq!(waits(&fleet), ["soaking, 10m left"]);
}

/// What a check said of a system that was replaced since says nothing of the new one.
#[test]
fn an_answer_from_before_the_host_left_health_does_not_count() {
    let (mut fleet, canary) = canary_ready(&with_check(eight()));
    fleet.now += 10;
    fleet.reimage(&canary, "debian:12.5");
    fleet.step();
    fleet.write(&canary);
    fleet.boot(&canary, true);
    let late = fleet.checks[&canary];
    let actions = fleet.step();
    assert_eq!(actions, [Action::Check { host: canary.clone(), requested_at: fleet.now }], "it is checked again");
    // The first check was slow; its answer comes only now.
    fleet.progress = fleet.progress.clone().checked(&canary, late, Ok(()), fleet.now);
    fleet.step();
    assert_eq!(waits(&fleet), ["1 host for the check to pass, 20m left"]);
}

#[test]
fn a_rollback_is_a_rollout_to_each_hosts_former_image() {
    let (mut fleet, canary) = canary_ready(&eight());
    let aborted = fleet.progress.clone().abort(&fleet.plan, "ann", "it is slow", fleet.now).unwrap();
    fleet.progress = aborted.progress;
    let request = Request { selector: eight().selector, ..request(Goal::Former { of: 7 }) };
    let back = make::rollback(8, &request, &fleet.plan, &fleet.candidates(), |_| None, fleet.now).unwrap();
    assert_eq!(back.members().map(|member| member.id.as_str()).collect::<Vec<_>>(), [canary.as_str()]);
    assert_eq!(back.done_already.len(), 7);
    fleet.progress = super::super::progress::Progress::begin(&back, fleet.now);
    fleet.plan = back;
    fleet.asked.clear();
    for _ in 0..20 {
        fleet.settle_a_minute();
    }
    assert!(matches!(fleet.progress.stage, Stage::Done { .. }));
    assert!(fleet.machines.values().all(|machine| machine.reported == Some(image("debian:12.4"))));
}

#[test]
fn a_plan_without_waves_is_done_at_once() {
    let mut fleet = Fleet::new(8, &to("debian:12.4"));
    assert!(matches!(fleet.progress.stage, Stage::Done { .. }));
    assert_eq!(fleet.step(), []);
    let words: Vec<Waiting> =
        waiting(&fleet.plan, &fleet.progress, |id| fleet.machines.get(id).map(Machine::facts), fleet.now);
    assert_eq!(words, []);
}

/// A measurement, not a promise: `cargo test --release --lib measure -- --ignored --nocapture`.
#[test]
#[ignore = "prints how long a rollout over 100,000 hosts takes to plan and to step; asserts nothing about time"]
fn measure_a_rollout_over_a_hundred_thousand_hosts() {
    let clock = crate::clock::instant();
    let request = Request { canary: 100, waves: vec![WaveSize::Hosts(5_000)], ..eight() };
    let mut fleet = Fleet::new(100_000, &request);
    println!("records and plan: {:?}, {} waves", clock.elapsed(), fleet.plan.waves.len());
    let plan = || make::plan(7, &request, &fleet.candidates(), None, 0).map(|plan| plan.waves.len());
    let clock = crate::clock::instant();
    let waves = plan();
    println!("candidates and plan: {:?}, {waves:?}", clock.elapsed());
    for _ in 0..50 {
        fleet.settle_a_minute();
    }
    let mut progress = fleet.progress.clone();
    let facts = |id: &str| fleet.machines.get(id).map(Machine::facts);
    for _ in 0..3 {
        let clock = crate::clock::instant();
        let stepped = super::super::step::step(&fleet.plan, progress, facts, fleet.now);
        let asks = asks(&stepped.actions).len();
        progress = stepped.progress;
        println!("a step in wave {} of 5,000, {asks} asked now: {:?}", progress.wave, clock.elapsed());
    }
}

/// A step is one commit of the store, and that has a size: a large wave is asked over several steps, and is not over, nor
/// in vain, before its last host has had its turn.
#[test]
fn a_large_wave_is_asked_in_several_steps_and_is_not_over_before_the_last() {
    let request = Request { canary: 1_200, spread_percent: 100, ..to("debian:12.5") };
    let mut fleet = Fleet::new(1_200, &request);
    let mut asked = Vec::new();
    for _ in 0..4 {
        let machines = &fleet.machines;
        let facts = |id: &str| machines.get(id).map(Machine::facts);
        let stepped = super::super::step::step(&fleet.plan, fleet.progress.clone(), facts, fleet.now);
        asked.push(asks(&stepped.actions).len());
        fleet.progress = stepped.progress;
        assert_eq!((&fleet.progress.stage, fleet.progress.wave), (&Stage::Running, 0));
        for action in stepped.actions {
            fleet.machines.get_mut(action.host()).unwrap().cause = Some(image("debian:12.5"));
        }
    }
    assert_eq!(asked, [500, 500, 200, 0]);
}
