//! Clock jumps: a schedule must never fire because the clock was set (faults.md C1).
//!
//! The wall clock is compared with the monotonic one. A tick is compared with a *reference* that is up to an hour old,
//! not with the tick before it: twenty steps of four minutes are seen as well as one of eighty. Slewing (at most 500 parts
//! per million, under two seconds an hour) and leap seconds stay far below the tolerance. A virtual machine that was
//! suspended comes back with a wall clock ahead of its monotonic one: a jump too, and rightly so, since what its schedules
//! missed is for a person to judge.
//!
//! A restart loses the monotonic clock. The stored time up to which schedules were evaluated is then the only fact:
//! behind it, time went back; far beyond it, either the server was off for long or the clock was set, and nobody but a
//! person can tell; in between it was downtime, and [`super::due`] deals with what was missed.

/// A difference above this, either way, is a jump.
pub const TOLERANCE_SECONDS: u64 = 5 * 60;
/// A restart after more than this (unless configured otherwise) is a jump, not a downtime.
pub const DOWNTIME_MAX_SECONDS: u64 = 7 * 86_400;
/// How old the reference may get.
const REFERENCE_SECONDS: u64 = 3_600;

/// What both clocks show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Unix seconds.
    pub wall: u64,
    /// Seconds of the process's monotonic clock, whatever it counts from.
    pub monotonic: u64,
}

/// What is remembered of the ticks so far. Only `evaluated_to` is stored, in the same commit as the causes that the
/// tick brought: a start is then never evaluated twice and never lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastTick {
    /// Every start up to here was dealt with. Never goes back.
    pub evaluated_to: u64,
    /// `None` right after a restart.
    reference: Option<Now>,
}

/// What to make of the time that a tick reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    Steady,
    /// The server was off for so long.
    Downtime {
        seconds: u64,
    },
    /// All schedules hold until an operator accepts the new time ([`LastTick::begin`] is what accepting does).
    Jumped {
        by_seconds: i64,
    },
}

impl LastTick {
    /// The first tick of an installation, and the tick at which an operator accepted the time after a jump: nothing
    /// before this moment is due.
    #[must_use]
    pub fn begin(now: Now) -> LastTick {
        LastTick { evaluated_to: now.wall, reference: Some(now) }
    }

    /// After a restart.
    #[must_use]
    pub fn restored(evaluated_to: u64) -> LastTick {
        LastTick { evaluated_to, reference: None }
    }

    /// Judges the time of a tick.
    #[must_use]
    pub fn look(&self, now: Now, downtime_max_seconds: u64) -> Clock {
        // Many small steps back, each within the tolerance, add up here.
        let back = self.evaluated_to.saturating_sub(now.wall);
        if back > TOLERANCE_SECONDS {
            return Clock::Jumped { by_seconds: -signed(back) };
        }
        match self.reference {
            Some(reference) => {
                let passed = now.monotonic.saturating_sub(reference.monotonic);
                let by_seconds = signed(now.wall) - signed(reference.wall.saturating_add(passed));
                if by_seconds.unsigned_abs() > TOLERANCE_SECONDS {
                    return Clock::Jumped { by_seconds };
                }
                Clock::Steady
            }
            None => {
                let seconds = now.wall.saturating_sub(self.evaluated_to);
                if seconds > downtime_max_seconds {
                    Clock::Jumped { by_seconds: signed(seconds) }
                } else if seconds > TOLERANCE_SECONDS {
                    Clock::Downtime { seconds }
                } else {
                    Clock::Steady
                }
            }
        }
    }

    /// What is remembered after a tick that was not a jump.
    #[must_use]
    pub fn after(&self, now: Now) -> LastTick {
        let reference = self
            .reference
            .filter(|reference| now.monotonic.saturating_sub(reference.monotonic) < REFERENCE_SECONDS)
            .unwrap_or(now);
        LastTick { evaluated_to: self.evaluated_to.max(now.wall), reference: Some(reference) }
    }
}

fn signed(seconds: u64) -> i64 {
    // A third of the range, so that the difference of two such numbers cannot overflow.
    i64::try_from(seconds).unwrap_or(i64::MAX).min(i64::MAX / 3)
}
