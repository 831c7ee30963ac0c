//! What a rollout waits for, for people: a step that waits names its reason.

use super::gate::{HostFacts, Standing, standing};
use super::plan::Plan;
use super::progress::{Progress, Stage};
use super::step::soak_until;
use crate::decide::span::{hosts, span};

/// One thing that a rollout waits for. Counts are hosts of the running wave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// Paused or halted: a person resumes or aborts it.
    Person { stage: &'static str, why: String },
    /// The hosts' turn has not come: the next step asks them.
    Turn { hosts: usize },
    /// The brakes (caps, breaker, stop) have not opened these orders yet.
    Order { hosts: usize },
    /// Machines that are being rebuilt; their deadlines end it.
    Rebuild { hosts: usize },
    /// The word of the installed system; from `until` on the first host counts as failed.
    Confirmation { hosts: usize, until: u64 },
    /// The check; likewise.
    Check { hosts: usize, until: u64 },
    /// All settled: staying healthy.
    Soak { until: u64 },
}

/// Everything that the next step waits for, the most telling first. Empty: it is over, or the next step moves it.
#[must_use]
pub fn waiting<'a>(
    plan: &Plan,
    progress: &Progress,
    facts: impl Fn(&str) -> Option<HostFacts<'a>>,
    now: u64,
) -> Vec<Waiting> {
    let mut waits = match &progress.stage {
        Stage::Done { .. } | Stage::Aborted { .. } => return Vec::new(),
        Stage::Running => Vec::new(),
        Stage::Paused { by, reason, .. } => {
            vec![Waiting::Person { stage: "paused", why: format!("by {by}: {reason}") }]
        }
        Stage::Halted { reason, .. } => vec![Waiting::Person { stage: "halted", why: reason.to_string() }],
    };
    let Some(wave) = plan.waves.get(progress.wave) else { return waits };
    let (mut turn, mut order, mut rebuild) = (0, 0, 0);
    let (mut confirmation, mut check) = (Vec::new(), Vec::new());
    let mut standings = Vec::new();
    for member in wave {
        let Some(seat) = progress.seats.get(&member.id) else {
            turn += 1;
            continue;
        };
        let standing = standing(member, seat, &plan.request.gate, facts(&member.id).as_ref(), now);
        match &standing {
            Standing::WaitsForOrder => order += 1,
            Standing::Rebuilding => rebuild += 1,
            Standing::Unconfirmed { until } => confirmation.push(*until),
            Standing::Checking { until } => check.push(*until),
            Standing::Healthy { .. } | Standing::LeftOut | Standing::Failed { .. } => {}
        }
        standings.push(standing);
    }
    let first = |until: &[u64]| until.iter().min().copied();
    waits.extend((turn > 0).then_some(Waiting::Turn { hosts: turn }));
    waits.extend((order > 0).then_some(Waiting::Order { hosts: order }));
    waits.extend((rebuild > 0).then_some(Waiting::Rebuild { hosts: rebuild }));
    waits.extend(first(&confirmation).map(|until| Waiting::Confirmation { hosts: confirmation.len(), until }));
    waits.extend(first(&check).map(|until| Waiting::Check { hosts: check.len(), until }));
    if turn == 0 {
        let until = soak_until(plan, progress, &standings).filter(|until| *until > now);
        waits.extend(until.map(|until| Waiting::Soak { until }));
    }
    waits
}

impl Waiting {
    /// The word in JSON.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Waiting::Person { .. } => "person",
            Waiting::Turn { .. } => "turn",
            Waiting::Order { .. } => "order",
            Waiting::Rebuild { .. } => "rebuild",
            Waiting::Confirmation { .. } => "confirmation",
            Waiting::Check { .. } => "check",
            Waiting::Soak { .. } => "soak",
        }
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self, now: u64) -> String {
        let left = |until: u64| span(until.saturating_sub(now));
        match self {
            Waiting::Person { stage, why } => format!("{stage}: {why}; `regild rollout resume` or `abort`"),
            Waiting::Turn { hosts: count } => format!("{} of the wave to be asked", hosts(*count)),
            Waiting::Order { hosts: count } => format!("{} for an order (limits, or a stop)", hosts(*count)),
            Waiting::Rebuild { hosts: count } => format!("{} being rebuilt", hosts(*count)),
            Waiting::Confirmation { hosts: count, until } => {
                format!("{} for the word of the installed system, {} left", hosts(*count), left(*until))
            }
            Waiting::Check { hosts: count, until } => {
                format!("{} for the check to pass, {} left", hosts(*count), left(*until))
            }
            Waiting::Soak { until } => format!("soaking, {} left", left(*until)),
        }
    }
}
