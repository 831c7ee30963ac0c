//! Days on which clocks change: told one by one, and against a clock on the wall that is read minute by minute.

use super::super::Line;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use proptest::prelude::*;

fn zone(name: &str) -> TimeZone {
    TimeZoneDatabase::bundled().get(name).expect("the bundled database has it")
}

fn unix(text: &str) -> u64 {
    let time: Timestamp = text.parse().expect("a test's time is one");
    u64::try_from(time.as_second()).expect("after 1970")
}

/// All starts in `(from, to]`, as UTC.
fn starts(text: &str, zone_name: &str, from: &str, to: &str) -> Vec<String> {
    let mut line = Line::parse(text, &zone(zone_name)).expect(text);
    let (mut after, to) = (unix(from), unix(to));
    let mut found = Vec::new();
    while let Some(start) = line.next_after(after).filter(|start| *start <= to) {
        found.push(Timestamp::from_second(start as i64).unwrap().to_string());
        after = start;
    }
    found
}

/// 29 March 2026 in Berlin: 02:00 CET becomes 03:00 CEST at 01:00 UTC.
#[test]
fn a_start_in_the_spring_gap_is_at_the_moment_the_clock_goes_forward() {
    let day = |text| starts(text, "Europe/Berlin", "2026-03-28T22:59:59Z", "2026-03-29T21:59:59Z");
    assert_eq!(day("30 2 * * *"), ["2026-03-29T01:00:00Z"]);
    // Not lost because the line has two hours, as croner alone would; not doubled with a start at 03:00.
    assert_eq!(day("30 2,14 * * *"), ["2026-03-29T01:00:00Z", "2026-03-29T12:30:00Z"]);
    assert_eq!(day("0 2,3 * * *"), ["2026-03-29T01:00:00Z"]);
    assert_eq!(day("15 1-3 * * *"), ["2026-03-29T00:15:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:15:00Z"]);
    assert_eq!(day("0 * * * *").len(), 23);
}

/// 25 October 2026 in Berlin: 03:00 CEST becomes 02:00 CET at 01:00 UTC.
#[test]
fn a_start_in_the_doubled_autumn_hour_is_at_the_first_time_only() {
    let day = |text| starts(text, "Europe/Berlin", "2026-10-24T21:59:59Z", "2026-10-25T22:59:59Z");
    assert_eq!(day("30 2 * * *"), ["2026-10-25T00:30:00Z"]);
    assert_eq!(day("30 2,14 * * *"), ["2026-10-25T00:30:00Z", "2026-10-25T13:30:00Z"]);
    assert_eq!(day("0 * * * *").len(), 24);
    // Asked within the second half of the hour, the next start is not in it.
    assert_eq!(starts("45 2 * * *", "Europe/Berlin", "2026-10-25T01:15:00Z", "2026-10-25T22:59:59Z"), [""; 0]);
}

#[test]
fn zones_that_do_it_differently_lose_and_double_nothing_either() {
    // Half an hour of gap, from 02:00 to 02:30.
    let lord_howe = starts("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "2026-10-04T13:00:00Z");
    assert_eq!(lord_howe, ["2026-10-03T15:30:00Z"]);
    // Midnight itself is skipped: Beirut goes from 00:00 to 01:00.
    let beirut = starts("0 0 * * *", "Asia/Beirut", "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z");
    assert_eq!(beirut, ["2026-03-28T22:00:00Z"]);
    // A whole day is skipped: Apia had no 30 December 2011.
    let apia = starts("0 3 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", "2012-01-01T00:00:00Z");
    assert_eq!(apia, ["2011-12-29T13:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T13:00:00Z", "2011-12-31T13:00:00Z"]);
}

/// The starts as a clock on the wall has them: read it every minute, and start whatever minute it shows, or has
/// skipped, for the first time.
fn by_the_clock_on_the_wall(text: &str, zone: &TimeZone, from: u64, to: u64) -> Vec<u64> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let cron = parser.parse(text).expect(text);
    let shows = |time: u64| zone.to_datetime(Timestamp::from_second(time as i64).unwrap());
    let begin = from - from % 60 - 2 * 86_400;
    let mut highest: DateTime = shows(begin);
    let mut found = Vec::new();
    for time in (begin + 60..=to).step_by(60) {
        let mut starts = false;
        while highest < shows(time) {
            highest = highest.checked_add(jiff::SignedDuration::from_secs(60)).unwrap();
            starts |= cron.is_time_matching(&highest).unwrap();
        }
        if starts && time > from {
            found.push(time);
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Around the changes of several zones, and far from them.
    #[test]
    fn every_start_is_the_one_that_a_clock_on_the_wall_has(
        text in prop::sample::select(vec![
            "0 * * * *", "*/20 * * * *", "30 2 * * *", "30 2,14 * * *", "0 0 * * *", "15 1-3 * * SUN", "59 23 L * *",
            "0 3 1,15 * MON", "45 */7 * * *", "* 2 * * *",
        ]),
        place in prop::sample::select(vec![
            ("Europe/Berlin", "2026-03-29T01:00:00Z"),
            ("Europe/Berlin", "2026-10-25T01:00:00Z"),
            ("America/New_York", "2026-11-01T06:00:00Z"),
            ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
            ("America/Havana", "2026-11-01T05:00:00Z"),
            ("Africa/Cairo", "2026-04-23T22:00:00Z"),
            ("Asia/Kathmandu", "2026-06-01T00:00:00Z"),
            ("UTC", "2026-06-01T00:00:00Z"),
        ]),
        around in -100_000i64..60_000,
        span in 1u64..100_000,
    ) {
        let zone = zone(place.0);
        let from = unix(place.1).saturating_add_signed(around);
        let mut line = Line::parse(text, &zone).unwrap();
        let (mut after, mut found) = (from, Vec::new());
        while let Some(start) = line.next_after(after).filter(|start| *start <= from + span) {
            found.push(start);
            after = start;
        }
        prop_assert_eq!(found, by_the_clock_on_the_wall(text, &zone, from, from + span), "{} in {}", text, place.0);
    }
}
