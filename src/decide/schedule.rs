//! Schedules: which hosts come due by themselves ([`due`]), whether a cause may act now ([`may_act`]), and whether the
//! clock can be trusted at all ([`clock`]).
//!
//! What is absent: cron lines, time zones, dates. `scheduler::windows` turns them into a [`Calendar`] of plain numbers
//! (Unix seconds) for one group and one tick; everything in here is decided from those.
//!
//! The order of one tick:
//! 1. [`clock::LastTick::look`]: a jump of the clock holds every schedule until a person looked.
//! 2. [`due`]: hosts that are due get a cause. A cause only asks.
//! 3. [`may_act`], beside the other brakes: a cause that nobody watches keeps to windows, blackouts and the pause.

pub mod clock;
mod due;

pub use due::{Due, DueHost, HostFacts, Missed, age_due_at, due};

use super::cause::CauseKind;
use super::group::Schedule;
use std::fmt;

/// What a group's calendar says at one tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    pub window: Window,
    /// When the blackout that covers this moment ends; `None`: there is none now.
    pub blackout_until: Option<u64>,
    /// Every start of the group's `rebuild` lines after the last tick and up to this one, oldest first.
    pub rebuilds: Vec<u64>,
    /// Starts of windows that opened after the last tick and are closed again: nobody was there to use them.
    pub windows_missed: Vec<u64>,
}

/// The maintenance windows of a group, all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The group has no windows.
    Always,
    Open,
    /// `next` is `None` when no window ever opens again.
    Closed {
        next: Option<u64>,
    },
}

/// What [`may_act`] looks at.
#[derive(Debug, Clone, Copy)]
pub struct ActFacts<'a> {
    pub schedule: &'a Schedule,
    pub calendar: &'a Calendar,
    /// The clock jumped and nobody accepted the new time yet.
    pub clock_held: bool,
    /// When the host's reported generation was written.
    pub written_at: Option<u64>,
}

/// Whether a cause may act now, as far as schedules go. The caps and the breaker have their own say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayAct {
    Now,
    /// Not before `until`; `None`: until a person acts.
    Wait {
        reason: WaitReason,
        until: Option<u64>,
    },
}

/// What a cause waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    ClockJump,
    Blackout,
    OutsideWindow,
    Pause,
}

impl WaitReason {
    /// The word in JSON and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            WaitReason::ClockJump => "clock_jump",
            WaitReason::Blackout => "blackout",
            WaitReason::OutsideWindow => "outside_window",
            WaitReason::Pause => "pause",
        }
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WaitReason::ClockJump => "the clock jumped; schedules are held until an operator accepts the time",
            WaitReason::Blackout => "a blackout day of the group",
            WaitReason::OutsideWindow => "no maintenance window of the group is open",
            WaitReason::Pause => "the host was rebuilt too short a time ago",
        })
    }
}

/// Whether a cause of this kind may open an order now. A person's order and a rollout never wait here: somebody is
/// watching. Of several reasons the one that lasts longest is told, so that nobody waits for a window in vain.
#[must_use]
pub fn may_act(kind: CauseKind, facts: &ActFacts<'_>, now: u64) -> MayAct {
    if !kind.is_automatic() {
        return MayAct::Now;
    }
    let never = u64::MAX;
    let closed = match facts.calendar.window {
        Window::Always | Window::Open => None,
        Window::Closed { next } => Some(next.unwrap_or(never)),
    };
    let pause_over = facts.written_at.map(|written| written.saturating_add(facts.schedule.pause_seconds));
    let reasons = [
        (WaitReason::ClockJump, facts.clock_held.then_some(never)),
        (WaitReason::Blackout, facts.calendar.blackout_until),
        (WaitReason::OutsideWindow, closed),
        (WaitReason::Pause, pause_over.filter(|over| *over > now)),
    ];
    let mut longest: Option<(WaitReason, u64)> = None;
    for (reason, until) in reasons {
        if let Some(until) = until
            && longest.is_none_or(|(_, known)| until > known)
        {
            longest = Some((reason, until));
        }
    }
    match longest {
        None => MayAct::Now,
        Some((reason, until)) => MayAct::Wait { reason, until: (until != never).then_some(until) },
    }
}

#[cfg(test)]
mod tests;
