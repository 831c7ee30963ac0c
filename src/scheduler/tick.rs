//! One tick: a snapshot of the records and the time in, what is to be done out. No IO, no clock: a simulation runs it as
//! it is.

use super::windows;
use crate::decide::brakes::{ScheduleVerdict, UnderWay};
use crate::decide::cause::{Cause, CauseKind};
use crate::decide::deadline::{self, Verdict};
use crate::decide::group::{Group, Schedule};
use crate::decide::host::{Event, Host, State, WISH_SECONDS};
use crate::decide::schedule::clock::{Clock, DOWNTIME_MAX_SECONDS, LastTick, Now};
use crate::decide::schedule::{self, ActFacts, Calendar, HostFacts, MayAct};
use crate::decide::span::span;
use crate::power::Driver;
use crate::registry::images::MarkKind;
use crate::registry::{HostView, ProgressSeen, Steps, StoredClock, View};
use jiff::tz::TimeZoneDatabase;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often the evaluated time is stored when nothing is due: a commit each second would be work for nothing.
const STORE_CLOCK_SECONDS: u64 = 60;
/// Causes of one tick; the rest comes with the next ones. Bounds one commit of the store.
const ASKS_MAX: usize = 500;

/// What is remembered from tick to tick.
pub struct Scheduler {
    zones: TimeZoneDatabase,
    /// Each group's schedule as it was parsed, and what came of it.
    calendars: BTreeMap<String, (Schedule, Result<windows::Calendar, String>)>,
    last: Option<LastTick>,
    held: Option<i64>,
    stored_at: u64,
    /// Causes that did not fit into the last tick.
    backlog: Vec<(String, Cause)>,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("last", &self.last).field("held", &self.held).finish_non_exhaustive()
    }
}

impl Scheduler {
    /// `stored` is what the last run of the server left.
    #[must_use]
    pub fn new(zones: TimeZoneDatabase, stored: Option<StoredClock>) -> Scheduler {
        Scheduler {
            zones,
            calendars: BTreeMap::new(),
            last: stored.map(|stored| LastTick::restored(stored.evaluated_to)),
            held: stored.and_then(|stored| stored.held),
            stored_at: 0,
            backlog: Vec::new(),
        }
    }

    /// A person has looked at the clock: nothing before this moment is due.
    pub fn accept_clock(&mut self, now: Now) -> StoredClock {
        self.last = Some(LastTick::begin(now));
        self.held = None;
        self.stored_at = now.wall;
        StoredClock { evaluated_to: now.wall, held: None }
    }

    /// The jump that nobody accepted yet, in seconds.
    #[must_use]
    pub fn held(&self) -> Option<i64> {
        self.held
    }

    /// The tick. `progress` is the newest word of an agent.
    pub fn tick(&mut self, view: &View, now: Now, progress: impl Fn(&str) -> Option<ProgressSeen>) -> Steps {
        let mut steps = Steps::default();
        let last = self.look_at_clock(now);
        let calendars = self.calendars(view, last.evaluated_to, now.wall);
        let mut asks = std::mem::take(&mut self.backlog);
        if self.held.is_none() {
            asks.extend(due(view, &calendars, now.wall));
            asks.extend(of_images(view, now.wall));
            steps.late = late(view, &progress, now.wall);
            steps.late.extend(verifications_over(view, now.wall));
            let next = last.after(now);
            let is_due = !asks.is_empty() || now.wall >= self.stored_at + STORE_CLOCK_SECONDS;
            self.last = Some(next);
            if is_due {
                steps.clock = Some(StoredClock { evaluated_to: next.evaluated_to, held: None });
                self.stored_at = now.wall;
            }
        } else if self.stored_at != u64::MAX {
            // Once: the hold is over only when a person says so, and that resets this.
            self.stored_at = u64::MAX;
            steps.clock = Some(StoredClock { evaluated_to: last.evaluated_to, held: self.held });
        }
        steps.schedule = verdicts(view, &calendars, self.held.is_some(), now.wall);
        self.backlog = asks.split_off(asks.len().min(ASKS_MAX));
        steps.asks = asks;
        steps
    }

    fn look_at_clock(&mut self, now: Now) -> LastTick {
        let last = *self.last.get_or_insert_with(|| LastTick::begin(now));
        match last.look(now, DOWNTIME_MAX_SECONDS) {
            Clock::Jumped { by_seconds } if self.held.is_none() => {
                tracing::error!(by_seconds, "the clock jumped: all schedules are held until `regild clock accept`");
                self.held = Some(by_seconds);
            }
            Clock::Downtime { seconds } => tracing::info!(seconds, "the server was off; missed starts are looked at"),
            Clock::Jumped { .. } | Clock::Steady => {}
        }
        last
    }

    fn calendars(&mut self, view: &View, last_tick: u64, now: u64) -> BTreeMap<String, Calendar> {
        let mut all = BTreeMap::new();
        self.calendars.retain(|name, _| view.groups().contains_key(name));
        for (name, group) in view.groups() {
            let known = self.calendars.get(name).is_some_and(|(text, _)| *text == group.schedule);
            if !known {
                let parsed = windows::Calendar::parse(&group.schedule, &self.zones).map_err(|error| error.to_string());
                if let Err(why) = &parsed {
                    tracing::error!(group = name, why, "this group's schedule cannot be used: nothing acts by itself");
                }
                self.calendars.insert(name.clone(), (group.schedule.clone(), parsed));
            }
            if let Some((_, Ok(calendar))) = self.calendars.get_mut(name) {
                all.insert(name.clone(), calendar.at(last_tick, now));
            }
        }
        all
    }
}

/// Hosts that come due by cron line or age.
fn due(view: &View, calendars: &BTreeMap<String, Calendar>, now: u64) -> Vec<(String, Cause)> {
    let watched = |(name, group): (&String, &Group)| {
        let calendar = calendars.get(name)?;
        let by_itself = group.schedule.max_age_seconds.is_some() || !calendar.rebuilds.is_empty();
        by_itself.then(|| (name.clone(), Vec::new()))
    };
    let mut hosts: BTreeMap<String, Vec<&Arc<HostView>>> = view.groups().iter().filter_map(watched).collect();
    if hosts.is_empty() {
        return Vec::new();
    }
    for host in view.hosts() {
        if let Some(members) = hosts.get_mut(&host.host.group) {
            members.push(host);
        }
    }
    let mut asks = Vec::new();
    for (name, members) in hosts {
        let (group, calendar) = (view.group(&name), &calendars[&name]);
        let facts = members.iter().map(|view| HostFacts {
            id: &view.host.id,
            state: &view.host.state,
            written_at: written_at(&view.host),
            asked: view.host.order.is_some() || asks_by_itself(&view.host),
        });
        let due = schedule::due(&group.schedule, calendar, facts, now);
        if let Some(missed) = due.missed {
            tracing::warn!(group = name, ?missed, "starts of the schedule were missed");
        }
        let cause = |host: schedule::DueHost| (host.id, Cause::new(host.kind, &host.reason, "schedule", now));
        asks.extend(due.hosts.into_iter().map(cause));
    }
    asks
}

fn asks_by_itself(host: &Host) -> bool {
    host.asks.iter().any(|cause| matches!(cause.kind, CauseKind::Schedule | CauseKind::MaxAge))
}

fn written_at(host: &Host) -> Option<u64> {
    (host.built_at > 0).then_some(host.built_at)
}

/// Hosts whose channel moved on, or whose version was deprecated or blocked. Looked at anew in each tick, so that
/// neither a crash nor a host that was busy loses the cause.
fn of_images(view: &View, now: u64) -> Vec<(String, Cause)> {
    let facts = view.images();
    if facts.channels.is_empty() && facts.marks.is_empty() {
        return Vec::new();
    }
    let ask = |view_of: &Arc<HostView>| {
        let host = &view_of.host;
        if host.order.is_some() || !matches!(host.state, State::Ready { .. }) {
            return None;
        }
        let reported = host.reported.as_ref()?;
        let group = view.group(&host.group);
        let channel = group.channel.as_ref().and_then(|name| facts.channels.get(name));
        // A preview was given to this host by name, and stays there until somebody says otherwise.
        let mark = facts.marks.get(&reported.name).filter(|mark| mark.kind != MarkKind::Preview);
        let (kind, reason) = match (mark, channel) {
            (Some(mark), _) if mark.kind == MarkKind::Blocked => {
                (CauseKind::ImageBlocked, format!("{} is blocked: {}", mark.image, mark.reason))
            }
            // Retired, too: nobody gets it any more, and its data waits for its last host.
            (Some(mark), _) => {
                let stage = mark.kind.stage().word();
                (CauseKind::ImageDeprecated, format!("{} is {stage}: {}", mark.image, mark.reason))
            }
            (None, Some(channel)) if group.follow_channel && channel.choice() != *reported => {
                (CauseKind::Channel, format!("{} points to {}", channel.name, channel.image))
            }
            _ => return None,
        };
        // Where nothing else is to be run, asking would rebuild the same version again and again.
        let target = channel.map(|channel| channel.choice()).or_else(|| host.desired.clone())?;
        let asked = host.asks.iter().any(|cause| cause.kind == kind && cause.image.as_ref() == Some(&target));
        let is_refused = facts.marks.contains_key(&target.name) || facts.refused(&target.name).is_some();
        let useless = target == *reported || is_refused || asked;
        let cause = Cause { image: Some(target), ..Cause::new(kind, &reason, "images", now) };
        (!useless).then(|| (host.id.clone(), cause))
    };
    view.hosts().filter_map(ask).collect()
}

/// Whether what asks by itself may act now, for each host that asks.
fn verdicts(
    view: &View,
    calendars: &BTreeMap<String, Calendar>,
    clock_held: bool,
    now: u64,
) -> BTreeMap<String, ScheduleVerdict> {
    let verdict = |host: &Arc<HostView>| {
        let host = &host.host;
        let kind = host.asks.first()?.kind;
        let group = view.group(&host.group);
        let anytime = Calendar {
            window: schedule::Window::Always,
            blackout_until: None,
            rebuilds: Vec::new(),
            windows_missed: Vec::new(),
        };
        let known = view.groups().contains_key(&host.group);
        let calendar = match calendars.get(&host.group) {
            Some(calendar) => calendar,
            None if known => return Some((host.id.clone(), Err("the group's schedule cannot be used".to_string()))),
            None => &anytime,
        };
        let facts = ActFacts { schedule: &group.schedule, calendar, clock_held, written_at: written_at(host) };
        let said = match schedule::may_act(kind, &facts, now) {
            MayAct::Now => Ok(()),
            MayAct::Wait { reason, until } => Err(match until {
                Some(until) => {
                    format!("{reason}, for another {}", span(until.saturating_sub(now)))
                }
                None => reason.to_string(),
            }),
        };
        Some((host.id.clone(), said))
    };
    view.hosts().filter_map(verdict).collect()
}

/// Machines that are late.
fn late(view: &View, progress: &impl Fn(&str) -> Option<ProgressSeen>, now: u64) -> Vec<(String, Event)> {
    let event = |host: &Arc<HostView>| match lateness(view, host, progress, now) {
        Verdict::NoDeadline | Verdict::InTime { .. } => None,
        Verdict::PowerCycle { reason, .. } => Some((host.host.id.clone(), Event::PowerCycled { why: reason })),
        Verdict::Fail { step, reason, .. } => Some((host.host.id.clone(), Event::Expired { step, reason })),
    };
    view.hosts().filter_map(event).collect()
}

/// Verifications whose machine did not come within their day. The first ones of a tick: each is a line of history.
fn verifications_over(view: &View, now: u64) -> Vec<(String, Event)> {
    let mut under_way = None;
    let event = |host: &Arc<HostView>| {
        let wish = host.host.verify.wish.as_ref().filter(|wish| wish.ends_at() <= now)?;
        // A walk over all hosts, where one of them asks.
        let counted = || UnderWay::count(view.hosts().map(|view| &view.host), now);
        let under_way: &UnderWay = under_way.get_or_insert_with(counted);
        let full = under_way.look_waits(&host.host, &view.group(&host.host.group), view.policy(), now);
        let full = full.filter(|_| wish.begun_at.is_none());
        let is_held_back = full.is_some();
        let reason = match full {
            Some(wait) => format!("it had no turn within {}: {wait}", span(WISH_SECONDS)),
            None => format!("the machine did not come to be verified within {}", span(WISH_SECONDS)),
        };
        Some((host.host.id.clone(), Event::VerifyEnded { number: wish.number, reason, is_held_back }))
    };
    view.hosts().filter_map(event).take(ASKS_MAX).collect()
}

/// How late a host is. `regild host list --stuck` asks it, too: what is shown is what the tick acts on.
pub fn lateness(view: &View, view_of: &HostView, progress: impl Fn(&str) -> Option<ProgressSeen>, now: u64) -> Verdict {
    let host = &view_of.host;
    let waits_for_person = matches!(
        host.state,
        State::Discovered | State::Enrolled | State::Ready { .. } | State::Failed { .. } | State::Held { .. }
    );
    // Most of a large fleet, most of the time: their group need not be looked up.
    if waits_for_person {
        return Verdict::NoDeadline;
    }
    let seen = progress(&host.id);
    let line = seen.map(|seen| {
        let (done, total) = (seen.progress.done_bytes, seen.progress.total_bytes);
        (seen.moved_at, format!("{:?}: {done} of {total} bytes", seen.progress.step))
    });
    let left_to_agent = view.driver(view_of) == Driver::Agent;
    // While the order waits for its machine, the installed system is what speaks for it.
    let agent = || view.agent_heard(&host.id).map(|at| (at, "the installed agent asked".to_string()));
    let line = line.or_else(|| agent().filter(|_| left_to_agent && host.state == State::Queued));
    let order = host.order.as_ref();
    let facts = deadline::Facts {
        state: &host.state,
        since: host.since,
        progressed_at: seen.map(|seen| seen.moved_at),
        last_word: line.as_ref().map(|(at, line)| (*at, line.as_str())),
        power_cycles: order.map_or(0, |order| order.power_cycles),
        power_cycled_at: order.and_then(|order| order.powered_at),
        has_power_driver: order.is_some() && view_of.can_be_switched(),
        left_to_agent,
    };
    deadline::judge(&facts, &view.group(&host.group).deadlines, now)
}
