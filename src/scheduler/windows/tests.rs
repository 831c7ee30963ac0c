//! A group's calendar: windows that are open, days that are blacked out, starts that were missed.

use super::*;
use crate::decide::group::Window;
use crate::decide::schedule::Window as Now;
use jiff::Timestamp;

const HOUR: u64 = 3_600;

fn unix(text: &str) -> u64 {
    let time: Timestamp = text.parse().expect("a test's time is one");
    u64::try_from(time.as_second()).expect("after 1970")
}

fn window(cron: &str, open_seconds: u64) -> Window {
    Window { cron: cron.to_string(), open_seconds }
}

fn berlin() -> Schedule {
    Schedule { time_zone: "Europe/Berlin".to_string(), ..Schedule::default() }
}

fn calendar(schedule: &Schedule) -> Calendar {
    Calendar::parse(schedule, &TimeZoneDatabase::bundled()).expect("a test's schedule is one")
}

fn at(schedule: &Schedule, time: &str) -> schedule::Calendar {
    let now = unix(time);
    calendar(schedule).at(now - 1, now)
}

fn is_open(schedule: &Schedule, time: &str) -> bool {
    at(schedule, time).window == Now::Open
}

#[test]
fn a_window_is_open_from_its_start_to_just_before_its_end_also_across_midnight() {
    let nights = Schedule { windows: vec![window("0 22 * * SAT", 8 * HOUR)], ..berlin() };
    // Saturday, 6 June 2026, 22:00 CEST is 20:00 UTC.
    for (time, open) in [
        ("2026-06-06T19:59:59Z", false),
        ("2026-06-06T20:00:00Z", true),
        ("2026-06-06T22:30:00Z", true),
        ("2026-06-07T03:59:59Z", true),
        ("2026-06-07T04:00:00Z", false),
        ("2026-06-07T20:00:00Z", false),
    ] {
        assert_eq!(is_open(&nights, time), open, "{time}");
    }
    let closed = at(&nights, "2026-06-07T04:00:00Z").window;
    assert_eq!(closed, Now::Closed { next: Some(unix("2026-06-13T20:00:00Z")) });
    assert_eq!(at(&berlin(), "2026-06-07T04:00:00Z").window, Now::Always);
}

/// The length of a window is real time: 29 March has 23 hours in Berlin, 25 October has 25.
#[test]
fn a_window_over_a_night_on_which_the_clock_changes_has_its_full_length() {
    let nights = Schedule { windows: vec![window("0 22 * * *", 8 * HOUR)], ..berlin() };
    for (time, open) in [
        ("2026-03-28T21:00:00Z", true),  // 22:00 CET
        ("2026-03-29T04:59:59Z", true),  // 06:59:59 CEST
        ("2026-03-29T05:00:00Z", false), // 07:00 CEST
        ("2026-10-24T20:00:00Z", true),  // 22:00 CEST
        ("2026-10-25T03:59:59Z", true),  // 04:59:59 CET
        ("2026-10-25T04:00:00Z", false), // 05:00 CET
    ] {
        assert_eq!(is_open(&nights, time), open, "{time}");
    }
    // Opens within the gap: at the moment the clock goes forward, once.
    let gap = Schedule { windows: vec![window("30 2 * * *", HOUR)], ..berlin() };
    for (time, open) in
        [("2026-03-29T00:59:59Z", false), ("2026-03-29T01:00:00Z", true), ("2026-03-29T02:00:00Z", false)]
    {
        assert_eq!(is_open(&gap, time), open, "{time}");
    }
    // Opens within the doubled hour: the first time, not again.
    for (time, open) in [
        ("2026-10-25T00:29:59Z", false),
        ("2026-10-25T00:30:00Z", true),
        ("2026-10-25T01:29:59Z", true),
        ("2026-10-25T01:30:00Z", false),
    ] {
        assert_eq!(is_open(&gap, time), open, "{time}");
    }
}

#[test]
fn of_several_windows_one_is_enough_and_the_first_to_open_is_next() {
    let two = Schedule { windows: vec![window("0 22 * * FRI", 2 * HOUR), window("0 4 * * *", HOUR)], ..berlin() };
    assert!(is_open(&two, "2026-06-05T20:30:00Z"));
    assert!(is_open(&two, "2026-06-06T02:30:00Z"));
    assert_eq!(at(&two, "2026-06-05T22:30:00Z").window, Now::Closed { next: Some(unix("2026-06-06T02:00:00Z")) });
}

/// C2: nobody was there while they were open.
#[test]
fn windows_that_opened_and_closed_since_the_last_tick_are_missed_and_one_that_is_open_is_not() {
    let nights = Schedule { windows: vec![window("0 22 * * *", 8 * HOUR)], ..berlin() };
    let missed = |from: &str, to: &str| calendar(&nights).at(unix(from), unix(to)).windows_missed;
    let start = unix("2026-06-01T20:00:00Z");
    assert_eq!(missed("2026-06-01T12:00:00Z", "2026-06-04T23:00:00Z"), [0, 1, 2].map(|day| start + day * 24 * HOUR));
    assert_eq!(missed("2026-06-01T12:00:00Z", "2026-06-02T03:59:59Z"), [0u64; 0]);
    assert_eq!(missed("2026-06-01T12:00:00Z", "2026-06-02T04:00:00Z"), [start]);
    // It was open at the last tick: used, not missed.
    assert_eq!(missed("2026-06-01T20:00:00Z", "2026-06-02T12:00:00Z"), [0u64; 0]);
}

#[test]
fn blackout_days_are_whole_days_of_the_groups_zone_and_neighbours_are_one() {
    let day = |first: &str, last: &str| (first.to_string(), last.to_string());
    let blackouts = vec![
        day("2026-12-27", "2026-12-31"),
        day("2026-12-24", "2026-12-26"),
        day("2026-12-25", "2026-12-25"),
        day("2026-03-29", "2026-03-29"),
    ];
    let holidays = Schedule { blackouts, ..berlin() };
    let until = |time: &str| at(&holidays, time).blackout_until;
    assert_eq!(until("2026-12-23T22:59:59Z"), None);
    let end = Some(unix("2026-12-31T23:00:00Z"));
    assert_eq!((until("2026-12-23T23:00:00Z"), until("2026-12-31T22:59:59Z")), (end, end));
    assert_eq!(until("2026-12-31T23:00:00Z"), None);
    // A day of 23 hours.
    assert_eq!(until("2026-03-29T21:59:59Z"), Some(unix("2026-03-29T22:00:00Z")));
}

/// C2: the starts that a downtime missed are all there, once each, oldest first, however many lines there are.
#[test]
fn every_start_since_the_last_tick_is_listed_once() {
    let rebuild = vec!["0 3 * * *".to_string(), "0 3 * * SUN".to_string(), "30 */6 * * *".to_string()];
    let schedule = Schedule { rebuild, ..berlin() };
    let (from, to) = (unix("2026-06-01T00:00:00Z"), unix("2026-06-08T00:00:00Z"));
    let starts = calendar(&schedule).at(from, to).rebuilds;
    assert_eq!(starts.len(), 7 + 28);
    assert!(starts.is_sorted() && starts.iter().all(|start| (from + 1..=to).contains(start)));
    // Tick by tick it is the same, and nothing twice.
    let mut by_ticks = Vec::new();
    let mut calendar = calendar(&schedule);
    for tick in (from..to).step_by(7) {
        by_ticks.extend(calendar.at(tick, (tick + 7).min(to)).rebuilds);
    }
    assert_eq!(by_ticks, starts);
    // A clock that went back lists nothing, one that is years ahead lists no more than it looks back.
    assert_eq!(calendar.at(to, from).rebuilds, [0u64; 0]);
    let far = calendar.at(0, to).rebuilds;
    assert!((290..=310).contains(&far.len()), "{}", far.len());
}

/// C6: what is wrong is told with its key and with what is right.
#[test]
fn a_schedule_that_is_wrong_names_the_key_and_what_is_right() {
    let day = |first: &str, last: &str| vec![(first.to_string(), last.to_string())];
    let cases: Vec<(Schedule, &str)> = vec![
        (
            Schedule { time_zone: "Europe/Berln".into(), ..berlin() },
            "schedule.time_zone = \"Europe/Berln\": there is no such time zone; write an IANA name such as \
             Europe/Berlin, or UTC",
        ),
        (
            Schedule { rebuild: vec!["0 3 * * *".into(), "* * * * *".into()], ..berlin() },
            "schedule.rebuild[1] = \"* * * * *\": it starts every 1m, at least 1h must lie between two starts; name \
             one minute, such as 0 3 * * SAT",
        ),
        (
            Schedule { rebuild: vec!["0 0 31 2 *".into()], ..berlin() },
            "schedule.rebuild[0] = \"0 0 31 2 *\": no such day ever comes",
        ),
        (
            Schedule { windows: vec![window("*/30 * * * *", HOUR)], ..berlin() },
            "schedule.windows[0].cron = \"*/30 * * * *\": it starts every 30m, at least 1h must lie between two starts; \
             name one minute, such as 0 3 * * SAT",
        ),
        (
            Schedule { windows: vec![window("0 22 * *", HOUR)], ..berlin() },
            "schedule.windows[0].cron = \"0 22 * *\": it has 4 fields; write five: minute, hour, day of month, month, \
             day of week, such as 0 3 * * SAT",
        ),
        (
            Schedule { windows: vec![window("0 22 * * *", 30 * 24 * HOUR)], ..berlin() },
            "schedule.windows[0].open = \"30d\": a window is open for 1m to 7d",
        ),
        (
            Schedule { blackouts: day("24.12.2026", "2026-12-26"), ..berlin() },
            "schedule.blackouts[0] = \"24.12.2026\": it is no day; write it like 2026-12-24",
        ),
        (
            Schedule { blackouts: day("2026-12-26", "2026-12-24"), ..berlin() },
            "schedule.blackouts[0] = \"2026-12-24\": the last day lies before the first one, 2026-12-26",
        ),
    ];
    for (schedule, says) in cases {
        let error = Calendar::parse(&schedule, &TimeZoneDatabase::bundled()).expect_err(says);
        assert_eq!(error.to_string(), says);
    }
    for zone in ["", "Mars/Olympus", "../../etc/passwd", "Etc/Unknown", &"x".repeat(1 << 20)] {
        let schedule = Schedule { time_zone: zone.to_string(), ..berlin() };
        let error = Calendar::parse(&schedule, &TimeZoneDatabase::bundled()).expect_err(zone);
        assert!(error.why == Why::TimeZone && error.to_string().len() < 300, "{error}");
    }
    let many = Schedule { rebuild: vec!["0 3 * * *".into(); ENTRIES_MAX + 1], ..berlin() };
    let error = Calendar::parse(&many, &TimeZoneDatabase::bundled()).expect_err("too many");
    assert_eq!((error.key.as_str(), error.why), ("schedule.rebuild", Why::TooMany));
}

/// A measurement, not a promise: `cargo test --release --lib thousand_groups -- --ignored --nocapture`.
#[test]
#[ignore = "prints how long a tick takes; asserts nothing about time"]
fn measure_a_tick_of_a_thousand_groups() {
    let zones = ["Europe/Berlin", "America/New_York", "Asia/Tokyo", "UTC"];
    let zones_known = TimeZoneDatabase::bundled();
    let schedule = |number: usize| Schedule {
        rebuild: vec![format!("{} 3 * * SAT", number % 60)],
        windows: vec![window(&format!("{} 22 * * *", number % 60), 6 * HOUR), window("0 4 * * SUN", HOUR)],
        time_zone: zones[number % 4].to_string(),
        blackouts: vec![("2026-12-24".into(), "2027-01-01".into())],
        ..Schedule::default()
    };
    let clock = crate::clock::instant();
    let mut calendars: Vec<Calendar> =
        (0..1_000).map(|number| Calendar::parse(&schedule(number), &zones_known).expect("a schedule")).collect();
    println!("parse 1,000 groups: {:?}", clock.elapsed());
    let mut now = unix("2026-06-05T12:00:00Z");
    for (what, step) in [("first tick", 1), ("next second", 1), ("an hour later", HOUR), ("next second", 1)] {
        let clock = crate::clock::instant();
        let mut seen = 0;
        for calendar in &mut calendars {
            let at = calendar.at(now, now + step);
            seen += at.rebuilds.len() + usize::from(at.window == Now::Open);
        }
        println!("{what}: {:?} ({seen} open or due)", clock.elapsed());
        now += step;
    }
    let clock = crate::clock::instant();
    let starts: usize = calendars.iter_mut().map(|calendar| calendar.at(now, now + 7 * 24 * HOUR).rebuilds.len()).sum();
    println!("after a week's downtime: {:?} ({starts} starts)", clock.elapsed());
}
