//! Which hosts come due by themselves: by the group's `rebuild` lines and by the age of what is on their disk.

use super::Calendar;
use crate::decide::cause::CauseKind;
use crate::decide::group::Schedule;
use crate::decide::host::State;
use crate::decide::span::span;
use crate::decide::stable_hash::stable_hash;

/// A start that a tick sees later than this was missed: the server was off.
pub const ON_TIME_SECONDS: u64 = 5 * 60;
/// Due times by age are spread over this part of `max_age` (one tenth: three days of thirty), and over no more than
/// this many seconds.
const JITTER_PART: u64 = 10;
const JITTER_MAX_SECONDS: u64 = 7 * 86_400;

/// What is looked at of one host.
#[derive(Debug, Clone, Copy)]
pub struct HostFacts<'a> {
    pub id: &'a str,
    pub state: &'a State,
    /// When the reported generation was written.
    pub written_at: Option<u64>,
    /// A cause of a schedule or of age waits already, or an order is open: further ones add nothing (faults.md C4).
    pub asked: bool,
}

/// One host that is due, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueHost {
    pub id: String,
    /// `Schedule` or `MaxAge`.
    pub kind: CauseKind,
    pub due_at: u64,
    pub reason: String,
}

/// Starts that passed while the server was off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    pub count: usize,
    pub oldest: u64,
    pub newest: u64,
}

impl Missed {
    fn of(starts: &[u64]) -> Option<Missed> {
        let (oldest, newest) = (*starts.first()?, *starts.last()?);
        Some(Missed { count: starts.len(), oldest, newest })
    }
}

/// What comes due for one group at one tick.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Each host once. The order is the same on every server and after every restart.
    pub hosts: Vec<DueHost>,
    /// To be reported to people: missed starts of `rebuild`, all skipped but the newest one where it is caught up.
    pub missed: Option<Missed>,
    pub caught_up: bool,
    /// To be reported: maintenance windows that passed.
    pub windows_missed: Option<Missed>,
    /// To be reported: a start that is skipped because it lies on a blackout day. Its causes would wait for the end of
    /// the blackout and rebuild the whole group then, at no time that anybody chose.
    pub blacked_out: Option<u64>,
    /// Hosts that the start passes over because they were rebuilt within the group's pause. Asking them now would make
    /// them wait for the end of the pause and be rebuilt then, at no time that anybody chose.
    pub recent: Vec<String>,
}

/// Due hosts of one group. Only Ready hosts come due by themselves: a Failed or Held one waits for a person, and all
/// others are being rebuilt or were never built. Not to be called while the clock is held.
#[must_use]
pub fn due<'a>(
    schedule: &Schedule,
    calendar: &Calendar,
    hosts: impl IntoIterator<Item = HostFacts<'a>>,
    now: u64,
) -> Due {
    let (mut due, start) = starts(schedule, calendar, now);
    for host in hosts {
        let Some(written_at) = host.written_at else { continue };
        if host.asked || !matches!(host.state, State::Ready { .. }) {
            continue;
        }
        if let Some(start) = start {
            if written_at.saturating_add(schedule.pause_seconds) <= now {
                due.hosts.push(by_schedule(host.id, start, now));
                continue;
            }
            due.recent.push(host.id.to_string());
        }
        if let Some(max_age) = schedule.max_age_seconds
            && let Some(due_at) = due_by_age(host.id, written_at, max_age, now)
        {
            due.hosts.push(by_age(host.id, due_at, now.saturating_sub(written_at), max_age));
        }
    }
    due.hosts.sort_by_cached_key(|host| (host.due_at, stable_hash(&[&host.id]), host.id.clone()));
    due
}

/// The start that asks all hosts of the group now, if any, and what is to be reported of the others. However many were
/// missed, at most one is caught up (faults.md C2, rule R20).
fn starts(schedule: &Schedule, calendar: &Calendar, now: u64) -> (Due, Option<u64>) {
    let late = |start: &&u64| now.saturating_sub(**start) > ON_TIME_SECONDS;
    let on_time = calendar.rebuilds.iter().rfind(|start| !late(start)).copied();
    let missed: Vec<u64> = calendar.rebuilds.iter().filter(late).copied().collect();
    let catch_up = missed.last().filter(|_| schedule.catch_up && on_time.is_none()).copied();
    let start = on_time.or(catch_up);
    let blacked_out = start.filter(|_| calendar.blackout_until.is_some());
    let due = Due {
        missed: Missed::of(&missed),
        caught_up: catch_up.is_some() && blacked_out.is_none(),
        windows_missed: Missed::of(&calendar.windows_missed),
        blacked_out,
        ..Due::default()
    };
    (due, start.filter(|_| blacked_out.is_none()))
}

fn by_schedule(id: &str, due_at: u64, now: u64) -> DueHost {
    let late = now.saturating_sub(due_at);
    let reason = if late > ON_TIME_SECONDS {
        format!("scheduled rebuild, caught up {} late", span(late))
    } else {
        "scheduled rebuild".to_string()
    };
    DueHost { id: id.to_string(), kind: CauseKind::Schedule, due_at, reason }
}

fn by_age(id: &str, due_at: u64, age: u64, max_age: u64) -> DueHost {
    let reason = format!("written {} ago, max_age is {}", span(age), span(max_age));
    DueHost { id: id.to_string(), kind: CauseKind::MaxAge, due_at, reason }
}

/// When a host's disk is too old. Spread *before* the end of `max_age`, by a hash of the host: hosts that were built on
/// one day do not come due at once (faults.md C3), and no disk gets older than `max_age` before it is asked for.
#[must_use]
pub fn age_due_at(id: &str, written_at: u64, max_age_seconds: u64) -> u64 {
    let jitter = jitter(max_age_seconds);
    written_at.saturating_add(max_age_seconds - stable_hash(&[id]) % (jitter + 1))
}

fn jitter(max_age_seconds: u64) -> u64 {
    (max_age_seconds / JITTER_PART).min(JITTER_MAX_SECONDS)
}

/// The same with the hash left out for the many hosts that are far from due.
fn due_by_age(id: &str, written_at: u64, max_age_seconds: u64, now: u64) -> Option<u64> {
    if now < written_at.saturating_add(max_age_seconds - jitter(max_age_seconds)) {
        return None;
    }
    Some(age_due_at(id, written_at, max_age_seconds)).filter(|due_at| *due_at <= now)
}
