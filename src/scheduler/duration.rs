//! Lengths of time as people write them: `30d`, `12h`, `1h 30m`, `2 weeks`.

use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;
use thiserror::Error;

/// Longer ones are mistakes.
const SECONDS_MAX: u64 = 3650 * 86_400;

/// Why a text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DurationError {
    #[error("{0:?} is no length of time; write it with units, such as 90s, 15m, 12h, 30d or 1h 30m")]
    Text(String),
    #[error("{0:?} has no fixed length; write months and years in days, such as 30d")]
    Calendar(String),
    #[error("{0:?} must be at least one second, in whole seconds")]
    TooShort(String),
    #[error("{0:?} is longer than ten years")]
    TooLong(String),
}

/// Whole seconds of `text`. A day has 24 hours here, also on the days on which clocks change: ages and pauses are
/// lengths of time, not dates.
///
/// # Errors
/// [`DurationError`].
pub fn parse(text: &str) -> Result<u64, DurationError> {
    let quoted = || text.chars().take(40).collect::<String>();
    let span = SpanParser::new().parse_span(text).map_err(|_| DurationError::Text(quoted()))?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err(DurationError::Calendar(quoted()));
    }
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| DurationError::TooLong(quoted()))?;
    let seconds = u64::try_from(length.as_secs()).unwrap_or(0);
    if seconds == 0 || length.subsec_nanos() != 0 {
        return Err(DurationError::TooShort(quoted()));
    }
    if seconds > SECONDS_MAX {
        return Err(DurationError::TooLong(quoted()));
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::span::span;
    use proptest::prelude::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, seconds) in [
            ("30d", 30 * 86_400),
            ("12h", 43_200),
            ("15m", 900),
            ("90s", 90),
            ("1h 30m", 5_400),
            ("1d12h", 129_600),
            ("2 weeks", 14 * 86_400),
            ("1 day, 3 hours", 97_200),
        ] {
            assert_eq!(parse(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_length_of_time_is_refused_with_what_is_right() {
        for (text, says) in [
            ("", "no length of time"),
            ("30", "with units"),
            ("d", "no length of time"),
            ("30x", "no length of time"),
            ("P30D", "no length of time"),
            ("1mo", "in days"),
            ("1 year", "in days"),
            ("0s", "at least one second"),
            ("-1h", "at least one second"),
            ("1h ago", "at least one second"),
            ("1500ms", "whole seconds"),
            ("3651d", "ten years"),
            ("99999999999999999999d", "no length of time"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer(text in "\\PC{0,60}") {
            let _ = parse(&text);
        }

        /// What is shown can be typed again (as far as it is shown: two units).
        #[test]
        fn what_is_shown_can_be_typed_again(seconds in 1u64..SECONDS_MAX) {
            let shown = span(seconds);
            let again = parse(&shown);
            prop_assert!(again.is_ok(), "{}", shown);
            prop_assert_eq!(span(again.unwrap()), shown);
        }
    }
}
