//! What is taken as a cron line, and what is refused with which words (faults.md C6).

mod dst;

use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<Line, CronError> {
    Line::parse(text, &TimeZone::UTC)
}

#[test]
fn lines_that_people_write_are_taken_and_start_when_they_say() {
    // From Thursday, 1 January 2026, 00:00 UTC.
    let new_year = 1_767_225_600;
    let at = |day: u64, hour: u64, minute: u64| Some(new_year + (day - 1) * 86_400 + hour * 3_600 + minute * 60);
    for (text, next) in [
        ("0 3 * * *", at(1, 3, 0)),
        ("0 3 * * SAT", at(3, 3, 0)),
        ("0 3 * * 6", at(3, 3, 0)),
        ("30 22 * * mon-fri", at(1, 22, 30)),
        ("0 */6 * * *", at(1, 6, 0)),
        ("15 2 L * *", at(31, 2, 15)),
        ("0 3 * * SUN#2", at(11, 3, 0)),
        ("0 0 29 2 *", Some(1_835_395_200)), // 29 February 2028
        ("0 3 13 * FRI", at(2, 3, 0)),       // the 13th or a Friday
        ("* * * * *", at(1, 0, 1)),
    ] {
        assert_eq!(parse(text).expect(text).next_after(new_year), next, "{text}");
    }
}

/// C6: every minute, an impossible date, a megabyte, and what is no cron line at all.
#[test]
fn what_is_no_line_is_refused_with_what_is_right() {
    for (text, says) in [
        ("", "it has 0 fields; write five"),
        ("@daily", "it has 1 fields"),
        ("0 3 * *", "it has 4 fields"),
        ("0 0 3 * * *", "it has 6 fields"),
        ("0 0 31 2 *", "no such day ever comes"),
        ("0 0 30 2 *", "no such day ever comes"),
        ("0 0 31 4,6,9,11 *", "no such day ever comes"),
        ("60 3 * * *", "write five fields such as"),
        ("0 24 * * *", "write five fields such as"),
        ("0 3 * * FUNDAY", "write five fields such as"),
        ("0 3 * * \u{1f600}", "write five fields such as"),
        ("a b c d e", "write five fields such as"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.to_string().contains(says), "{text}: {error}");
    }
    assert_eq!(parse(&"* ".repeat(1 << 19)).expect_err("a megabyte"), CronError::TooLong);
}

#[test]
fn a_line_that_would_rebuild_more_than_once_an_hour_is_refused() {
    let too_often = |text: &str| match parse(text).expect(text).at_most_every(PERIOD_SECONDS) {
        Err(CronError::TooOften { period_seconds }) => Some(period_seconds),
        _ => None,
    };
    for (text, period_seconds) in [
        ("* * * * *", Some(60)),
        ("*/5 * * * *", Some(300)),
        ("0,59 3 * * *", Some(59 * 60)),
        ("0-1 3 1 1 *", Some(60)),
        ("* 3 29 2 *", Some(60)),
        ("0 * * * *", None),
        ("59 23 * * *", None),
        ("0 3 29 2 *", None),
    ] {
        assert_eq!(too_often(text), period_seconds, "{text}");
    }
    let error = parse("* * * * *").unwrap().at_most_every(PERIOD_SECONDS).expect_err("every minute");
    assert_eq!(
        error.to_string(),
        "it starts every 1m, at least 1h must lie between two starts; name one minute, such as 0 3 * * SAT"
    );
}

/// A clock that is wrong beyond every calendar starts nothing and breaks nothing.
#[test]
fn a_time_that_no_calendar_knows_has_no_next_start() {
    let mut line = parse("0 3 * * *").unwrap();
    for after in [u64::MAX, i64::MAX as u64, 253_402_207_200, 400_000_000_000] {
        assert_eq!(line.next_after(after), None, "{after}");
    }
    assert_eq!(line.next_after(0), Some(3 * 3_600));
}

proptest! {
    /// Whatever is typed gets an answer, and in no time that anybody notices.
    #[test]
    fn any_text_gets_an_answer(text in "[0-9*/,LW#?+ A-Z@-]{0,40}|\\PC{0,60}") {
        if let Ok(line) = parse(&text) {
            let _ = line.at_most_every(PERIOD_SECONDS).map(|mut line| line.next_after(1_767_225_600));
        }
    }

    /// What is remembered is what a new search finds.
    #[test]
    fn the_remembered_answer_is_the_right_one(steps in prop::collection::vec(-100_000i64..200_000, 1..40)) {
        let mut remembering = parse("30 2,14 * * *").unwrap();
        let mut now = 1_767_225_600u64;
        for step in steps {
            now = now.saturating_add_signed(step);
            prop_assert_eq!(remembering.next_after(now), parse("30 2,14 * * *").unwrap().next_after(now));
        }
    }
}
