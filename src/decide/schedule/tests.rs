//! Schedules keep their promises: nothing fires because a clock was set (C1), a downtime is caught up at most once (C2,
//! R20), many hosts never come due in one second (C3), and automatic causes keep to their calendar.

use super::clock::{Clock, DOWNTIME_MAX_SECONDS, LastTick, Now, TOLERANCE_SECONDS};
use super::*;
use crate::decide::host::{State, Step};
use proptest::prelude::*;

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const NOON: u64 = 1_790_000_000;
const READY: State = State::Ready { confirmed: true };

fn quiet() -> Calendar {
    Calendar { window: Window::Always, blackout_until: None, rebuilds: Vec::new(), windows_missed: Vec::new() }
}

fn ready(id: &str, written_at: u64) -> HostFacts<'_> {
    HostFacts { id, state: &READY, written_at: Some(written_at), asked: false }
}

fn ids(due: &Due) -> Vec<&str> {
    due.hosts.iter().map(|host| host.id.as_str()).collect()
}

fn at(wall: u64, monotonic: u64) -> Now {
    Now { wall, monotonic }
}

fn look(last: LastTick, now: Now) -> Clock {
    last.look(now, DOWNTIME_MAX_SECONDS)
}

/// C1: +10 years, -10 years, to 1970, a step back of an hour; and what is no jump: NTP's small step, a leap second.
#[test]
fn a_clock_that_was_set_by_more_than_five_minutes_is_a_jump_either_way() {
    let last = LastTick::begin(at(NOON, 1000));
    let ten_years = 10 * 365 * DAY;
    for (wall, by_seconds) in [
        (NOON + 1 + ten_years, ten_years as i64),
        (NOON + 1 - ten_years, -(ten_years as i64)),
        (0, -(NOON as i64) - 1),
        (NOON + 1 - HOUR, -3600),
        (NOON + 1 + TOLERANCE_SECONDS + 1, 301),
        (NOON + 1 - TOLERANCE_SECONDS - 1, -301),
        (u64::MAX, i64::MAX / 3 - NOON as i64 - 1),
    ] {
        match look(last, at(wall, 1001)) {
            Clock::Jumped { by_seconds: by } => assert!((by - by_seconds).abs() <= 1, "{wall}: {by}"),
            other => panic!("{wall}: {other:?}"),
        }
    }
    for wall in [NOON, NOON + 1, NOON + 2, NOON + 1 + TOLERANCE_SECONDS, NOON + 1 - TOLERANCE_SECONDS] {
        assert_eq!(look(last, at(wall, 1001)), Clock::Steady, "{wall}");
    }
    // Time that really passed is no jump, however much it is (a tick that waited for a slow disk).
    assert_eq!(look(last, at(NOON + 3 * DAY, 1000 + 3 * DAY)), Clock::Steady);
}

/// A clock that is moved in steps, each within the tolerance, has still been moved.
#[test]
fn many_small_steps_are_seen_as_well_as_one_large_one() {
    for (step, direction) in [(240, 1i64), (240, -1)] {
        let mut last = LastTick::begin(at(NOON, 0));
        let jumped_at = (1..60u64).find(|tick| {
            let wall = (NOON as i64 + *tick as i64 + direction * (step * *tick as i64)) as u64;
            let now = at(wall, *tick);
            let jumped = matches!(look(last, now), Clock::Jumped { .. });
            last = last.after(now);
            jumped
        });
        assert_eq!(jumped_at, Some(2), "steps of {step} s, direction {direction}");
    }
}

#[test]
fn after_a_restart_the_stored_tick_alone_tells_downtime_from_a_jump() {
    let last = LastTick::restored(NOON);
    for (wall, clock) in [
        (NOON + 10, Clock::Steady),
        (NOON - 10, Clock::Steady),
        (NOON + 2 * HOUR, Clock::Downtime { seconds: 2 * HOUR }),
        (NOON + 7 * DAY, Clock::Downtime { seconds: 7 * DAY }),
        (NOON + 7 * DAY + 1, Clock::Jumped { by_seconds: 7 * 86_400 + 1 }),
        (NOON - 301, Clock::Jumped { by_seconds: -301 }),
        (0, Clock::Jumped { by_seconds: -(NOON as i64) }),
    ] {
        assert_eq!(look(last, at(wall, 5)), clock, "{wall}");
    }
    // The process's monotonic clock begins anew: the first tick after the restart becomes the reference.
    let next = last.after(at(NOON + 2 * HOUR, 5));
    assert_eq!(look(next, at(NOON + 2 * HOUR + 1, 6)), Clock::Steady);
    assert!(matches!(look(next, at(NOON + 4 * HOUR, 6)), Clock::Jumped { .. }));
}

/// What an operator accepts is the new time, not what the old one would have fired.
#[test]
fn accepting_a_jump_begins_anew_and_fires_nothing_that_lies_before() {
    let accepted = LastTick::begin(at(NOON + 300 * DAY, 77));
    assert_eq!(accepted.evaluated_to, NOON + 300 * DAY);
    assert_eq!(look(accepted, at(NOON + 300 * DAY + 5, 82)), Clock::Steady);
}

/// C2: off for 200 starts. Skipped and reported; caught up at most once, and only where the group says so.
#[test]
fn a_downtime_over_two_hundred_starts_rebuilds_nothing_or_once() {
    let now = NOON + 201 * HOUR - 60;
    let missed_starts: Vec<u64> = (1..=200).map(|hour| NOON + hour * HOUR).collect();
    let calendar = Calendar { rebuilds: missed_starts.clone(), ..quiet() };
    let host = ready("h-1", NOON - 30 * DAY);
    let skip = due(&Schedule::default(), &calendar, [host], now);
    let (oldest, newest) = (missed_starts[0], missed_starts[199]);
    assert_eq!((skip.missed, skip.caught_up), (Some(Missed { count: 200, oldest, newest }), false));
    assert_eq!(skip.hosts, []);

    let catch_up = Schedule { catch_up: true, ..Schedule::default() };
    let once = due(&catch_up, &calendar, [host], now);
    assert_eq!((once.missed, once.caught_up), (skip.missed, true));
    assert_eq!((ids(&once), once.hosts[0].due_at), (vec!["h-1"], newest));
    assert_eq!(once.hosts[0].reason, "scheduled rebuild, caught up 59m late");

    // A start that is due right now makes the catch-up needless.
    let both = Calendar { rebuilds: [missed_starts, vec![now - 10]].concat(), ..quiet() };
    let now_due = due(&catch_up, &both, [host], now);
    assert_eq!((now_due.missed, now_due.caught_up), (skip.missed, false));
    assert_eq!((ids(&now_due), now_due.hosts[0].due_at), (vec!["h-1"], now - 10));
}

#[test]
fn windows_that_passed_while_the_server_was_off_are_reported() {
    let calendar = Calendar { windows_missed: vec![NOON - 9 * DAY, NOON - 2 * DAY], ..quiet() };
    let due = due(&Schedule::default(), &calendar, [], NOON);
    assert_eq!(due.windows_missed, Some(Missed { count: 2, oldest: NOON - 9 * DAY, newest: NOON - 2 * DAY }));
}

/// Otherwise the end of the blackout would rebuild the whole group, at midnight.
#[test]
fn a_start_on_a_blackout_day_is_skipped_and_reported_and_age_goes_on_waiting() {
    let catch_up = Schedule { catch_up: true, max_age_seconds: Some(DAY), ..Schedule::default() };
    for start in [NOON, NOON - DAY] {
        let calendar = Calendar { rebuilds: vec![start], blackout_until: Some(NOON + DAY), ..quiet() };
        let due = due(&catch_up, &calendar, [ready("h-1", NOON - 9 * DAY)], NOON);
        assert_eq!((due.blacked_out, due.caught_up), (Some(start), false));
        assert_eq!(due.hosts.iter().map(|host| host.kind).collect::<Vec<_>>(), [CauseKind::MaxAge]);
    }
}

/// C3: 5,000 hosts built in one second. Due times spread, none over the maximum age, the order always the same.
#[test]
fn hosts_built_in_one_second_do_not_come_due_in_one_second() {
    let max_age = 30 * DAY;
    let names: Vec<String> = (0..5_000).map(|number| format!("h-5254{number:08x}")).collect();
    let due_at: Vec<u64> = names.iter().map(|id| age_due_at(id, NOON, max_age)).collect();
    assert!(due_at.iter().all(|due_at| (NOON + 27 * DAY..=NOON + 30 * DAY).contains(due_at)));
    let in_hour = |hour: u64| {
        let from = NOON + 27 * DAY + hour * HOUR;
        due_at.iter().filter(|due_at| (from..from + HOUR).contains(due_at)).count()
    };
    let busiest = (0..=72).map(in_hour).max().unwrap();
    assert!(busiest < 150, "{busiest} in one hour; 5,000 over 72 hours are 69");

    // All at once anyway: the group's cron line. The order does not depend on how the hosts are listed.
    let calendar = Calendar { rebuilds: vec![NOON + 40 * DAY], ..quiet() };
    let all = |names: Vec<&String>| {
        due(&Schedule::default(), &calendar, names.into_iter().map(|id| ready(id, NOON)), NOON + 40 * DAY)
    };
    let forward = all(names.iter().collect());
    let backward = all(names.iter().rev().collect());
    assert_eq!(forward, backward);
    assert_eq!(forward.hosts.len(), 5_000);
    assert_ne!(ids(&forward), names.iter().map(String::as_str).collect::<Vec<_>>(), "not in the order of the MACs");
}

#[test]
fn a_disk_is_asked_for_before_it_is_older_than_the_maximum_age_and_not_before_nine_tenths() {
    let schedule = Schedule { max_age_seconds: Some(30 * DAY), ..Schedule::default() };
    let day = |day: u64| ids(&due(&schedule, &quiet(), [ready("h-1", NOON)], NOON + day * DAY)).len();
    assert_eq!((day(0), day(26), day(30), day(400)), (0, 0, 1, 1));
    let due = due(&schedule, &quiet(), [ready("h-1", NOON)], NOON + 31 * DAY);
    assert_eq!(due.hosts[0].kind, CauseKind::MaxAge);
    assert_eq!(due.hosts[0].reason, "written 31d ago, max_age is 30d");
    // A disk from the future (the clock was ahead when it was written) is not old.
    assert_eq!(ids(&super::due(&schedule, &quiet(), [ready("h-1", NOON + DAY)], NOON)), Vec::<&str>::new());
}

#[test]
fn only_a_ready_host_that_nobody_asked_yet_comes_due() {
    let schedule = Schedule { max_age_seconds: Some(DAY), ..Schedule::default() };
    let calendar = Calendar { rebuilds: vec![NOON], ..quiet() };
    let step = Step::Netboot;
    for state in [
        State::Discovered,
        State::Enrolled,
        State::Queued,
        State::Netbooting,
        State::Deploying(step),
        State::Verifying,
        State::Rebooting,
        State::Failed { step, attempts: 3, reason: String::new() },
        State::Held { by: "ann".into(), reason: "debugging".into(), until: None },
    ] {
        let host = HostFacts { state: &state, ..ready("h-1", NOON - 90 * DAY) };
        assert_eq!(ids(&due(&schedule, &calendar, [host], NOON)), Vec::<&str>::new(), "{state:?}");
    }
    // C4: what waits or runs already is not asked again.
    let asked = HostFacts { asked: true, ..ready("h-1", NOON - 90 * DAY) };
    assert_eq!(ids(&due(&schedule, &calendar, [asked], NOON)), Vec::<&str>::new());
    // Due by both is due once.
    assert_eq!(ids(&due(&schedule, &calendar, [ready("h-1", NOON - 90 * DAY)], NOON)), ["h-1"]);
}

#[test]
fn a_start_passes_over_a_host_that_was_rebuilt_within_the_pause_and_says_so() {
    let calendar = Calendar { rebuilds: vec![NOON], ..quiet() };
    let hosts = [ready("h-fresh", NOON - DAY + 1), ready("h-old", NOON - DAY)];
    let due = due(&Schedule::default(), &calendar, hosts, NOON);
    assert_eq!((ids(&due), due.recent.clone()), (vec!["h-old"], vec!["h-fresh".to_string()]));
}

#[test]
fn a_cause_that_nobody_watches_waits_for_whatever_lasts_longest() {
    let schedule = Schedule::default();
    let wait = |window, blackout_until, clock_held, written_at| {
        let calendar = Calendar { window, blackout_until, ..quiet() };
        let facts = ActFacts { schedule: &schedule, calendar: &calendar, clock_held, written_at };
        // Somebody watches: never held up by a calendar.
        for kind in [CauseKind::Operator, CauseKind::Rollout { number: 7 }] {
            assert_eq!(may_act(kind, &facts, NOON), MayAct::Now);
        }
        match may_act(CauseKind::MaxAge, &facts, NOON) {
            MayAct::Now => None,
            MayAct::Wait { reason, until } => Some((reason, until)),
        }
    };
    let long_ago = Some(NOON - 90 * DAY);
    let closed = Window::Closed { next: Some(NOON + 8 * HOUR) };
    let open = Window::Open;
    assert_eq!(wait(Window::Always, None, false, long_ago), None);
    assert_eq!(wait(open, None, false, None), None);
    assert_eq!(wait(open, None, false, Some(NOON - DAY)), None);
    assert_eq!(wait(closed, None, false, long_ago), Some((WaitReason::OutsideWindow, Some(NOON + 8 * HOUR))));
    assert_eq!(wait(Window::Closed { next: None }, None, false, long_ago), Some((WaitReason::OutsideWindow, None)));
    assert_eq!(wait(open, Some(NOON + DAY), false, long_ago), Some((WaitReason::Blackout, Some(NOON + DAY))));
    assert_eq!(wait(closed, Some(NOON + HOUR), false, long_ago).map(|wait| wait.0), Some(WaitReason::OutsideWindow));
    let fresh = Some(NOON - DAY + 1);
    assert_eq!(wait(open, None, false, fresh), Some((WaitReason::Pause, Some(NOON + 1))));
    assert_eq!(wait(closed, Some(NOON + DAY), true, fresh), Some((WaitReason::ClockJump, None)));
}

/// A measurement, not a promise: `cargo test --release --lib measure -- --ignored --nocapture`.
#[test]
#[ignore = "prints how long a look at 100,000 hosts takes; asserts nothing about time"]
fn measure_what_comes_due_of_a_hundred_thousand_hosts() {
    let schedule = Schedule { max_age_seconds: Some(30 * DAY), ..Schedule::default() };
    let ids: Vec<String> = (0..100_000).map(|number| format!("h-5254{number:08x}")).collect();
    let measure = |what: &str, calendar: &Calendar, now: u64| {
        let clock = crate::clock::instant();
        // One in twenty is old.
        let hosts = ids.iter().enumerate();
        let written = |number: usize| if number.is_multiple_of(20) { NOON - 31 * DAY } else { NOON - 2 * DAY };
        let due = due(&schedule, calendar, hosts.map(|(number, id)| ready(id, written(number))), now);
        println!("{what}: {:?}, {} due", clock.elapsed(), due.hosts.len());
    };
    measure("nothing due", &quiet(), NOON - 5 * DAY);
    measure("5,000 due by age", &quiet(), NOON);
    measure("all due by one start", &Calendar { rebuilds: vec![NOON], ..quiet() }, NOON);
}

proptest! {
    /// Whatever the clock and the server do: no second is evaluated twice (unless an operator accepted a clock that
    /// went back), and while the server runs, a set clock never brings more than the tolerance either way.
    #[test]
    fn no_start_is_ever_evaluated_twice_and_none_fires_because_the_clock_was_set(
        ticks in prop::collection::vec((1u64..400, -900i64..900, 0u8..10), 1..60),
    ) {
        let (mut wall, mut monotonic) = (NOON, 0);
        let mut last = LastTick::begin(at(wall, monotonic));
        let mut evaluated_to = wall;
        for (passed, set, kind) in ticks {
            wall += passed;
            monotonic += passed;
            match kind {
                0..=2 => wall = wall.checked_add_signed(set).unwrap(),
                3 => {
                    monotonic = 0;
                    last = LastTick::restored(last.evaluated_to);
                }
                _ => {}
            }
            let now = at(wall, monotonic);
            if let Clock::Jumped { .. } = last.look(now, DOWNTIME_MAX_SECONDS) {
                last = LastTick::begin(now);
                evaluated_to = wall;
                continue;
            }
            let (from, to) = (last.evaluated_to, wall);
            prop_assert_eq!(from, evaluated_to, "nothing is left out");
            if kind != 3 {
                prop_assert!(to.saturating_sub(from) <= passed + 2 * TOLERANCE_SECONDS, "{} in {}", to - from, passed);
            }
            last = last.after(now);
            prop_assert!(last.evaluated_to >= from && last.evaluated_to >= to);
            evaluated_to = last.evaluated_to;
        }
    }
}
