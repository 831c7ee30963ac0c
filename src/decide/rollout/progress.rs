//! How far a rollout is: plain data, and what an operator may do to it.
//!
//! ```text
//!                    +--+ gate held: the next wave
//!                    |  v
//! begin -------->   Running   -------- gate of the last wave held -------> Done
//!                  ^ |   ^ |
//!           resume | |   | | over the budget, or nobody of a wave healthy
//!                  | |   | |
//!                  | |   | +---------------------+
//!                  | |   +----- resume --------+ |
//!            pause | v                         | v
//!                 Paused -- over the budget --> Halted
//!
//! Running, Paused, Halted -------- abort --------> Aborted
//! ```
//!
//! - begin -> Running: the first wave is asked; a plan without waves is Done at once.
//! - Running -> Running: the gate of a wave holds for its whole soak time, the next wave is asked.
//! - Running -> Paused: an operator paused it. What was asked stays asked, but no order is opened for it
//!   ([`Progress::admits`]); orders that are open go on; hosts are watched on.
//! - Running, Paused -> Halted: more hosts failed than the budget allows, or a wave ended without one healthy host.
//!   The same standstill as Paused, with a reason.
//! - Paused, Halted -> Running: an operator resumed it. After a halt, the failures so far are forgiven and the budget
//!   counts anew; a wave of which nobody is healthy may pass when that was the reason.
//! - Running, Paused, Halted -> Aborted: an operator ended it. Asks without an order are withdrawn.
//! - Running -> Done: the gate of the last wave held.
//!
//! Done and Aborted are final. Whoever wants the former versions back starts a rollback, which is a rollout of its own.

use super::plan::Plan;
use crate::decide::host::ImageChoice;
use std::collections::BTreeMap;
use std::fmt;

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    Running,
    Paused { by: String, reason: String, at: u64 },
    Halted { reason: HaltReason, at: u64 },
    Done { at: u64 },
    Aborted { by: String, reason: String, at: u64 },
}

impl Stage {
    /// The word for tables and JSON.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Stage::Running => "running",
            Stage::Paused { .. } => "paused",
            Stage::Halted { .. } => "halted",
            Stage::Done { .. } => "done",
            Stage::Aborted { .. } => "aborted",
        }
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Stage::Done { .. } | Stage::Aborted { .. })
    }
}

/// Why a rollout stands still by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HaltReason {
    Failures {
        count: usize,
        max: u32,
    },
    /// `wave` counts from 0. A canary that failed halts the rollout whatever the budget is.
    NobodyHealthy {
        wave: usize,
    },
}

impl fmt::Display for HaltReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HaltReason::Failures { count, max } => write!(f, "{count} failed, the budget is {max}"),
            HaltReason::NobodyHealthy { wave } => write!(f, "no host of wave {} became healthy", wave + 1),
        }
    }
}

/// All that is remembered of a rollout beside its plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The plan's.
    pub number: u64,
    pub stage: Stage,
    /// The running wave, from 0.
    pub wave: usize,
    pub wave_began_at: u64,
    /// Every host whose turn has come, by its id.
    pub seats: BTreeMap<String, Seat>,
    /// Hosts that were healthy when the gate of their wave held.
    pub healthy: usize,
    /// Failures that an operator knew of when he resumed.
    pub forgiven: usize,
    /// The wave that an operator let pass although nobody of it is healthy.
    pub waived_wave: Option<usize>,
}

/// One host, from the moment its turn came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// When its turn came.
    pub at: u64,
    pub ask: Ask,
    pub check: CheckRecord,
}

/// What was asked of a host. A host that failed or was left out stays so for this rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Asked, when it reported this generation: a later one must come.
    Asked {
        reported_generation: u64,
    },
    /// It ran the image already when its turn came; it must pass the gate all the same.
    Found,
    /// It was held or denied when its turn came. Nothing was tried on it, so it is no failure.
    LeftOut {
        reason: String,
    },
    Failed {
        reason: String,
        at: u64,
    },
}

/// What the optional check of one host said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckRecord {
    /// A check is under way since then.
    pub requested_at: Option<u64>,
    /// When the last answer came.
    pub answered_at: Option<u64>,
    /// When the first of the passed checks was requested, since the host last left health or failed one.
    pub passed_since: Option<u64>,
    /// When a check failed after one had passed.
    pub relapsed_at: Option<u64>,
    pub relapses: u32,
    /// What the last failed check said.
    pub complaint: Option<String>,
}

/// What the shell does after a step, in the same commit as the new progress: so nothing is asked twice or lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put the cause `Rollout { number }` on the host.
    Ask { host: String, image: ImageChoice },
    /// Take that cause back, unless its order is open or over.
    Withdraw { host: String },
    /// Run the gate's check on the host, instead of one that may still be under way; the answer goes into
    /// [`Progress::checked`]. After a restart the shell runs those again that are under way
    /// ([`CheckRecord::requested_at`]).
    Check { host: String, requested_at: u64 },
}

impl Action {
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Action::Ask { host, .. } | Action::Withdraw { host } | Action::Check { host, .. } => host,
        }
    }
}

/// What came of a step or a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stepped {
    pub progress: Progress,
    pub actions: Vec<Action>,
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandRefusal {
    Over(&'static str),
    StandsStill(&'static str),
    Running,
}

impl fmt::Display for CommandRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandRefusal::Over(stage) => write!(f, "the rollout is {stage}; start another one"),
            CommandRefusal::StandsStill(stage) => write!(f, "the rollout is {stage} already"),
            CommandRefusal::Running => write!(f, "the rollout is running already"),
        }
    }
}

impl std::error::Error for CommandRefusal {}

impl Progress {
    #[must_use]
    pub fn begin(plan: &Plan, now: u64) -> Progress {
        let stage = if plan.is_empty() { Stage::Done { at: now } } else { Stage::Running };
        let seats = BTreeMap::new();
        let number = plan.number;
        Progress { number, stage, wave: 0, wave_began_at: now, seats, healthy: 0, forgiven: 0, waived_wave: None }
    }

    /// Whether causes of this rollout may be given orders now. Everything but Running stands still.
    #[must_use]
    pub fn admits(&self) -> bool {
        self.stage == Stage::Running
    }

    #[must_use]
    pub fn failures(&self) -> usize {
        self.seats.values().filter(|seat| matches!(seat.ask, Ask::Failed { .. })).count()
    }

    fn not_over(&self) -> Result<(), CommandRefusal> {
        if self.stage.is_over() { Err(CommandRefusal::Over(self.stage.word())) } else { Ok(()) }
    }

    /// # Errors
    /// When it is over or stands still already.
    pub fn pause(mut self, by: &str, reason: &str, now: u64) -> Result<Progress, CommandRefusal> {
        self.not_over()?;
        if self.stage != Stage::Running {
            return Err(CommandRefusal::StandsStill(self.stage.word()));
        }
        self.stage = Stage::Paused { by: by.to_string(), reason: reason.to_string(), at: now };
        Ok(self)
    }

    /// # Errors
    /// When it is over or runs already.
    pub fn resume(mut self) -> Result<Progress, CommandRefusal> {
        self.not_over()?;
        match &self.stage {
            Stage::Halted { reason, .. } => {
                self.forgiven = self.failures();
                // Only who was told that nobody is healthy has said that it may go on like that.
                if let HaltReason::NobodyHealthy { wave } = reason {
                    self.waived_wave = Some(*wave);
                }
            }
            Stage::Paused { .. } => {}
            _ => return Err(CommandRefusal::Running),
        }
        self.stage = Stage::Running;
        Ok(self)
    }

    /// # Errors
    /// When it is over.
    pub fn abort(mut self, plan: &Plan, by: &str, reason: &str, now: u64) -> Result<Stepped, CommandRefusal> {
        self.not_over()?;
        self.stage = Stage::Aborted { by: by.to_string(), reason: reason.to_string(), at: now };
        let asked = |id: &&String| matches!(self.seats.get(*id).map(|seat| &seat.ask), Some(Ask::Asked { .. }));
        // Asks of earlier waves are over.
        let running = plan.waves.get(self.wave).into_iter().flatten().map(|member| &member.id);
        let actions = running.filter(asked).map(|id| Action::Withdraw { host: id.clone() }).collect();
        Ok(Stepped { progress: self, actions })
    }

    /// Takes in what a check said: `Err` is its complaint. An answer to anything but the newest request changes nothing.
    #[must_use]
    pub fn checked(mut self, host: &str, requested_at: u64, answer: Result<(), &str>, now: u64) -> Progress {
        if let Some(seat) = self.seats.get_mut(host)
            && seat.check.requested_at == Some(requested_at)
        {
            seat.check.answer(answer, now);
        }
        self
    }
}

impl CheckRecord {
    pub(super) fn answer(&mut self, answer: Result<(), &str>, now: u64) {
        let Some(requested_at) = self.requested_at.take() else { return };
        self.answered_at = Some(now);
        match answer {
            // What counts is when it was asked: what it saw is no newer than that.
            Ok(()) => self.passed_since = self.passed_since.or(Some(requested_at)),
            Err(complaint) => {
                if self.passed_since.take().is_some() {
                    self.relapsed_at = Some(now);
                    self.relapses += 1;
                }
                self.complaint = Some(complaint.to_string());
            }
        }
    }
}
