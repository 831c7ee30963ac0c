//! Random lives: hosts, operators and checks do anything in any order. The laws of every step are in `Fleet::step`;
//! here is how a life must end.

use super::super::make;
use super::super::plan::{Gate, Request, WaveSize};
use super::super::progress::{Action, Stage};
use super::fleet::Fleet;
use super::making::to;
use crate::decide::group::Check;
use proptest::prelude::*;

fn any_request() -> impl Strategy<Value = Request> {
    (0u32..3, 1u32..5, 1u32..100, 0u32..4, any::<bool>(), any::<bool>()).prop_map(
        |(canary, hosts, percent, failures_max, confirmed, checks)| {
            let check = checks.then(|| Check::Command { program: "/bin/check".into() });
            Request {
                canary,
                waves: vec![WaveSize::Hosts(hosts), WaveSize::Percent(percent)],
                spread_percent: 50,
                failures_max,
                gate: Gate { confirmed, check, soak_seconds: 300, health_seconds: 1200 },
                ..to("debian:12.5")
            }
        },
    )
}

/// One thing that happens, to one host where it is about one.
fn happen(fleet: &mut Fleet, kind: u8, host: &str, seconds: u64) {
    match kind {
        0..=2 => fleet.now += seconds,
        3..=5 => fleet.admit(2),
        6..=8 => fleet.write(host),
        9 | 10 => fleet.boot(host, true),
        11 => fleet.boot(host, false),
        12 => fleet.fail(host),
        13 if seconds > 400 => fleet.hold(host),
        14 => fleet.release(host),
        15 => fleet.reimage(host, if seconds.is_multiple_of(2) { "fedora:40" } else { "debian:12.5" }),
        16 | 17 => fleet.answer(host, Ok(())),
        18 => fleet.answer(host, Err("503")),
        19 => {
            if let Ok(paused) = fleet.progress.clone().pause("ann", "lunch", fleet.now) {
                fleet.progress = paused;
            }
        }
        20 | 21 => {
            if let Ok(resumed) = fleet.progress.clone().resume() {
                fleet.progress = resumed;
            }
        }
        22 if seconds > 550 => {
            let aborted = fleet.progress.clone().abort(&fleet.plan, "ann", "enough", fleet.now);
            if let Ok(aborted) = aborted {
                fleet.progress = aborted.progress;
                for action in aborted.actions {
                    let Action::Withdraw { host } = action else { panic!("an abort only withdraws: {action:?}") };
                    fleet.withdraw(&host);
                }
            }
        }
        23 if seconds > 500 => fleet.machines.get_mut(host).expect("it is one of them").denied = Some("protected"),
        _ => {}
    }
}

/// Everybody does what is expected, until the rollout ends or stands still.
fn settle(fleet: &mut Fleet) {
    for _ in 0..(fleet.machines.len() + 3) * 40 {
        if fleet.progress.stage.is_over() || matches!(fleet.progress.stage, Stage::Halted { .. }) {
            break;
        }
        fleet.settle_a_minute();
    }
    // What is left of open orders.
    fleet.settle_a_minute();
    fleet.settle_a_minute();
}

proptest! {
    #[test]
    fn every_life_keeps_the_laws_and_ends_done_halted_or_aborted(
        request in any_request(),
        hosts in 1usize..12,
        events in prop::collection::vec((0u8..24, any::<prop::sample::Index>(), 1u64..600), 0..200),
    ) {
        let mut fleet = Fleet::new(hosts, &request);
        let ids: Vec<String> = fleet.machines.keys().cloned().collect();
        for (kind, host, seconds) in events {
            happen(&mut fleet, kind, &ids[host.index(ids.len())], seconds);
            fleet.step();
        }
        // Only what waits for a person stays.
        if let Stage::Paused { .. } = fleet.progress.stage {
            fleet.progress = fleet.progress.clone().resume().unwrap();
        }
        settle(&mut fleet);
        let stage = &fleet.progress.stage;
        prop_assert!(stage.is_over() || matches!(stage, Stage::Halted { .. }), "{:?}", fleet.progress);
        let forgotten = fleet.machines.values().any(|machine| machine.cause.is_some());
        prop_assert!(!stage.is_over() || !forgotten, "an ask outlives its rollout");
    }

    /// Where nothing fails, the rollout is done, each host was rebuilt once, and planning again finds nothing to do.
    #[test]
    fn a_life_in_which_nothing_fails_ends_done_and_leaves_nothing_to_plan(
        request in any_request(),
        hosts in 1usize..12,
        events in prop::collection::vec((0u8..11, any::<prop::sample::Index>(), 1u64..600), 0..200),
    ) {
        let request = Request { gate: Gate { check: None, ..request.gate.clone() }, ..request };
        let mut fleet = Fleet::new(hosts, &request);
        let ids: Vec<String> = fleet.machines.keys().cloned().collect();
        for (kind, host, seconds) in events {
            happen(&mut fleet, kind, &ids[host.index(ids.len())], seconds);
            fleet.step();
        }
        settle(&mut fleet);
        prop_assert!(matches!(fleet.progress.stage, Stage::Done { .. }), "{:?}", fleet.progress);
        prop_assert!(fleet.machines.values().all(|machine| machine.rebuilt == 1));
        prop_assert!(make::plan(8, &request, &fleet.candidates(), None, fleet.now).unwrap().is_empty());
    }
}
