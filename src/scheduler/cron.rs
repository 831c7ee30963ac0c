//! One cron line in one time zone: when does it start next?
//!
//! Five fields as in crontab(5): minute, hour, day of month, month, day of week, with names (`MON`, `JAN`), lists, ranges
//! and steps, and croner's `L` (last), `W` (nearest weekday) and `#` (the n-th weekday of a month). When both days are
//! given, either one is enough, as in every cron.
//!
//! **Days on which clocks change.** croner searches in plain dates and times; the time zone comes after it. Every minute
//! of the wall clock has one instant: the first at which a clock on the wall shows it, or has passed it.
//!
//! - Spring: a start within the gap (02:30 where 02:00 becomes 03:00) is at the moment the clock goes forward. It is not
//!   lost, and it is not doubled with a start at 03:00.
//! - Autumn: a start within the hour that comes twice is at the first time only.
//!
//! croner can search in a time zone by itself, but then the rule depends on the line: `30 2 * * *` would move out of
//! the gap, `30 2,14 * * *` would lose its start, and in autumn the second would start twice.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::civil::{DateTime, date};
use jiff::tz::{AmbiguousOffset, TimeZone};
use thiserror::Error;

/// A line of a schedule starts no more often than this.
pub const PERIOD_SECONDS: u64 = 3_600;
/// Longer texts are no cron line that anybody wrote.
const TEXT_BYTES_MAX: usize = 200;
/// Starts that are looked at for the least period. Two starts of one line are less than an hour apart only by their
/// minutes, so a line that is too frequent is so within its first hour; a day's worth is more than enough.
const STARTS_LOOKED_AT: usize = 24;

/// Why a text is not taken as a cron line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CronError {
    #[error("it is longer than {TEXT_BYTES_MAX} bytes")]
    TooLong,
    #[error("it has {0} fields; write five: minute, hour, day of month, month, day of week, such as 0 3 * * SAT")]
    Fields(usize),
    #[error("{0}; write five fields such as 0 3 * * SAT")]
    Syntax(String),
    #[error("no such day ever comes")]
    Never,
    #[error(
        "it starts every {}, at least {} must lie between two starts; name one minute, such as 0 3 * * SAT",
        crate::decide::span::span(*period_seconds),
        crate::decide::span::span(PERIOD_SECONDS)
    )]
    TooOften { period_seconds: u64 },
}

/// A parsed line. Remembers the last answer, since the same question comes every second.
#[derive(Debug, Clone)]
pub struct Line {
    cron: Cron,
    zone: TimeZone,
    /// `(from, next)`: the first start after any time in `from..next` is `next`.
    known: Option<(u64, Option<u64>)>,
}

impl Line {
    /// # Errors
    /// [`CronError`].
    pub fn parse(text: &str, zone: &TimeZone) -> Result<Line, CronError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(CronError::TooLong);
        }
        match text.split_whitespace().count() {
            5 => {}
            fields => return Err(CronError::Fields(fields)),
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| CronError::Syntax(error.to_string()))?;
        // A leap year comes first, so that the 29th of February is found at once.
        if cron.find_next_occurrence(&first_of_2024(), true).is_err() {
            return Err(CronError::Never);
        }
        Ok(Line { cron, zone: zone.clone(), known: None })
    }

    /// # Errors
    /// When two starts are ever closer than `least_seconds`.
    pub fn at_most_every(self, least_seconds: u64) -> Result<Line, CronError> {
        let mut last: Option<DateTime> = None;
        for start in self.cron.iter_from(first_of_2024(), croner::Direction::Forward).take(STARTS_LOOKED_AT) {
            if let Some(last) = last {
                let period_seconds = u64::try_from(start.duration_since(last).as_secs()).unwrap_or(0);
                if period_seconds < least_seconds {
                    return Err(CronError::TooOften { period_seconds });
                }
            }
            last = Some(start);
        }
        Ok(self)
    }

    /// The first start after `after` (Unix seconds); `None`: none that a calendar knows.
    pub fn next_after(&mut self, after: u64) -> Option<u64> {
        if let Some((from, next)) = self.known
            && after >= from
            && next.is_none_or(|next| after < next)
        {
            return next;
        }
        let next = self.search(after);
        self.known = Some((after, next));
        next
    }

    fn search(&self, after: u64) -> Option<u64> {
        let after_time = Timestamp::from_second(i64::try_from(after).ok()?).ok()?;
        let mut civil = self.zone.to_datetime(after_time);
        // The instants of civil times never go back, so the first one past `after` is the one. More than one turn is
        // needed only within the doubled hour, and behind a gap.
        loop {
            civil = self.cron.find_next_occurrence(&civil, false).ok()?;
            let start = instant(&self.zone, civil)?;
            if start > after {
                return Some(start);
            }
        }
    }
}

fn first_of_2024() -> DateTime {
    date(2024, 1, 1).at(0, 0, 0, 0)
}

/// The first instant at which a clock on the wall shows `civil` or has passed it.
pub(super) fn instant(zone: &TimeZone, civil: DateTime) -> Option<u64> {
    let time = match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(civil).ok()?,
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(civil).ok()?,
        // Read with the offset that comes, it lies less than the gap before the change: the next change is the one.
        AmbiguousOffset::Gap { after, .. } => zone.following(after.to_timestamp(civil).ok()?).next()?.timestamp(),
    };
    u64::try_from(time.as_second()).ok()
}

#[cfg(test)]
mod tests;
