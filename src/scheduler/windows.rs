//! A group's calendar: its cron lines, windows and blackout days, parsed once, asked at every tick.
//!
//! A window opens by its line and is open for a length of time: `start <= now < start + open_seconds`, also across
//! midnight. The length is real time: a window of eight hours from 22:00 closes at 07:00 on the night the clock goes
//! forward and at 05:00 on the night it goes back. A start in the gap or in the doubled hour: see [`super::cron`].

use super::cron::{CronError, Line, PERIOD_SECONDS, instant};
use crate::decide::group::Schedule;
use crate::decide::schedule;
use jiff::ToSpan;
use jiff::civil::Date;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use thiserror::Error;

/// Lines, windows and blackouts of one group at most.
const ENTRIES_MAX: usize = 64;
const OPEN_SECONDS_MIN: u64 = 60;
const OPEN_SECONDS_MAX: u64 = 7 * 86_400;
/// Starts further back than this are not listed as missed: a downtime of that length is held as a clock jump unless an
/// operator set the limit higher ([`schedule::clock`]).
const LOOK_BACK_SECONDS: u64 = 60 * 86_400;

/// What is wrong with a group's schedule. `key` is the key as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key} = {text:?}: {why}")]
pub struct CalendarError {
    pub key: String,
    /// As written, cut.
    pub text: String,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Why {
    #[error(transparent)]
    Cron(#[from] CronError),
    #[error("there is no such time zone; write an IANA name such as Europe/Berlin, or UTC")]
    TimeZone,
    #[error("it is no day; write it like 2026-12-24")]
    Day,
    #[error("the last day lies before the first one, {first}")]
    Backwards { first: String },
    #[error("a window is open for 1m to 7d")]
    Open,
    #[error("more than {ENTRIES_MAX} entries")]
    TooMany,
}

/// A group's schedule, ready to be asked.
#[derive(Debug, Clone)]
pub struct Calendar {
    rebuild: Vec<Line>,
    windows: Vec<OpenFor>,
    /// `(from, until)` in Unix seconds, sorted, without overlap, `until` outside.
    blackouts: Vec<(u64, u64)>,
}

#[derive(Debug, Clone)]
struct OpenFor {
    /// Asked for the first start that could still be open, and for the next one: each remembers its own answer.
    since: Line,
    next: Line,
    open_seconds: u64,
}

impl Calendar {
    /// # Errors
    /// [`CalendarError`], which names the key and what would be right.
    pub fn parse(schedule: &Schedule, zones: &TimeZoneDatabase) -> Result<Calendar, CalendarError> {
        let zone = time_zone(&schedule.time_zone, zones)?;
        for (key, entries) in [
            ("schedule.rebuild", schedule.rebuild.len()),
            ("schedule.windows", schedule.windows.len()),
            ("schedule.blackouts", schedule.blackouts.len()),
        ] {
            if entries > ENTRIES_MAX {
                return Err(wrong(key, &entries.to_string(), Why::TooMany));
            }
        }
        let rebuild = schedule.rebuild.iter().enumerate().map(|(number, text)| {
            Line::parse(text, &zone)
                .and_then(|line| line.at_most_every(PERIOD_SECONDS))
                .map_err(|error| wrong(&format!("schedule.rebuild[{number}]"), text, error.into()))
        });
        let windows = schedule.windows.iter().enumerate().map(|(number, window)| {
            let key = |field: &str| format!("schedule.windows[{number}].{field}");
            let line = Line::parse(&window.cron, &zone)
                .and_then(|line| line.at_most_every(PERIOD_SECONDS))
                .map_err(|error| wrong(&key("cron"), &window.cron, error.into()))?;
            if !(OPEN_SECONDS_MIN..=OPEN_SECONDS_MAX).contains(&window.open_seconds) {
                let open = crate::decide::span::span(window.open_seconds);
                return Err(wrong(&key("open"), &open, Why::Open));
            }
            Ok(OpenFor { since: line.clone(), next: line, open_seconds: window.open_seconds })
        });
        let (rebuild, windows) = (rebuild.collect::<Result<_, _>>()?, windows.collect::<Result<_, _>>()?);
        Ok(Calendar { rebuild, windows, blackouts: blackouts(&schedule.blackouts, &zone)? })
    }

    /// What the calendar says at `now`, with the starts of `rebuild` in `(last_tick, now]`.
    pub fn at(&mut self, last_tick: u64, now: u64) -> schedule::Calendar {
        let blackout = self.blackouts.iter().find(|(from, until)| (*from..*until).contains(&now));
        let blackout_until = blackout.map(|(_, until)| *until);
        // In order of time: each line remembers one answer.
        let rebuilds = self.rebuilds(last_tick, now);
        let windows_missed = self.windows_missed(last_tick, now);
        schedule::Calendar { window: self.window(now), blackout_until, rebuilds, windows_missed }
    }

    fn window(&mut self, now: u64) -> schedule::Window {
        if self.windows.is_empty() {
            return schedule::Window::Always;
        }
        // Open when it started in (now - open_seconds, now].
        let is_open = |window: &mut OpenFor| {
            let since = now.saturating_sub(window.open_seconds);
            window.since.next_after(since).is_some_and(|start| start <= now)
        };
        if self.windows.iter_mut().any(is_open) {
            return schedule::Window::Open;
        }
        schedule::Window::Closed {
            next: self.windows.iter_mut().filter_map(|window| window.next.next_after(now)).min(),
        }
    }

    fn rebuilds(&mut self, last_tick: u64, now: u64) -> Vec<u64> {
        sorted(self.rebuild.iter_mut().flat_map(|line| starts(line, last_tick, now)).collect())
    }

    /// Windows that opened and closed again between two ticks.
    fn windows_missed(&mut self, last_tick: u64, now: u64) -> Vec<u64> {
        let missed = self.windows.iter_mut().flat_map(|window| {
            let open_seconds = window.open_seconds;
            starts(&mut window.next, last_tick, now).into_iter().filter(move |start| start + open_seconds <= now)
        });
        sorted(missed.collect())
    }
}

/// The starts of one line in `(last_tick, now]`, as far as one looks back.
fn starts(line: &mut Line, last_tick: u64, now: u64) -> Vec<u64> {
    let mut starts = Vec::new();
    let mut after = last_tick.max(now.saturating_sub(LOOK_BACK_SECONDS));
    while let Some(start) = line.next_after(after).filter(|start| *start <= now) {
        starts.push(start);
        after = start;
    }
    starts
}

fn sorted(mut starts: Vec<u64>) -> Vec<u64> {
    starts.sort_unstable();
    starts.dedup();
    starts
}

fn wrong(key: &str, text: &str, why: Why) -> CalendarError {
    CalendarError { key: key.to_string(), text: text.chars().take(80).collect(), why }
}

fn time_zone(name: &str, zones: &TimeZoneDatabase) -> Result<TimeZone, CalendarError> {
    let known = zones.get(name).ok().filter(|zone| !zone.is_unknown());
    known.ok_or_else(|| wrong("schedule.time_zone", name, Why::TimeZone))
}

/// Blackout days as spans of real time. A day begins at midnight in the group's zone, or, where clocks skip midnight,
/// at the first moment of that day.
fn blackouts(days: &[(String, String)], zone: &TimeZone) -> Result<Vec<(u64, u64)>, CalendarError> {
    let mut spans = Vec::new();
    for (number, (first_text, last_text)) in days.iter().enumerate() {
        let key = format!("schedule.blackouts[{number}]");
        let read = |text: &str| day(text).ok_or_else(|| wrong(&key, text, Why::Day));
        let (first, last) = (read(first_text)?, read(last_text)?);
        if last < first {
            return Err(wrong(&key, last_text, Why::Backwards { first: first_text.clone() }));
        }
        let begin = |day: Date| instant(zone, day.at(0, 0, 0, 0));
        let after = last.checked_add(1.day()).ok();
        let span = begin(first).zip(after.and_then(begin));
        spans.push(span.ok_or_else(|| wrong(&key, last_text, Why::Day))?);
    }
    spans.sort_unstable();
    // Neighbouring days become one span, so that its end is the end of the wait.
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (from, until) in spans {
        match merged.last_mut() {
            Some((_, last)) if from <= *last => *last = until.max(*last),
            _ => merged.push((from, until)),
        }
    }
    Ok(merged)
}

/// Only `YYYY-MM-DD`: jiff reads more forms, and people confuse them.
fn day(text: &str) -> Option<Date> {
    let day: Date = text.parse().ok()?;
    (day.to_string() == text && day.year() >= 1970).then_some(day)
}

#[cfg(test)]
mod tests;
