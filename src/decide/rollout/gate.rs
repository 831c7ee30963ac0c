//! The health gate: how one host of the running wave stands, from its record and its seat.

use super::plan::{Gate, Member};
use super::progress::{Ask, CheckRecord, Seat};
use crate::decide::host::{ImageChoice, State};
use crate::decide::span::span;

/// A check that did not answer for so long has failed.
pub const CHECK_ANSWER_SECONDS: u64 = 2 * 60;
/// A host that passed is checked again after so long, until its wave is over: soaking means staying healthy.
pub const CHECK_EVERY_SECONDS: u64 = 60;
/// So often a check may fail after it had passed; a host that goes on and off would otherwise soak for ever.
pub const RELAPSES_MAX: u32 = 3;

/// What is known of one host at a step.
#[derive(Debug, Clone, Copy)]
pub struct HostFacts<'a> {
    pub state: &'a State,
    /// Unix seconds of the last change of `state`.
    pub since: u64,
    pub reported: Option<&'a ImageChoice>,
    pub reported_generation: u64,
    /// The newest order reached its end: what is reported is what is on the disk.
    pub whole: bool,
    /// This rollout's cause waits with the host, or the order that it led to is open.
    pub asking: bool,
    /// Why the brakes will never open an order for this host (the deny list), if they will not.
    pub denied: Option<&'a str>,
}

/// How a host stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Asked; the brakes have not opened its order yet.
    WaitsForOrder,
    /// An order is open, or the machine reboots into its result.
    Rebuilding,
    /// Ready with the image, not confirmed by the installed system yet.
    Unconfirmed {
        until: u64,
    },
    /// The check has not passed yet, or not since the host became Ready.
    Checking {
        until: u64,
    },
    /// All that the gate asks for, since then.
    Healthy {
        since: u64,
    },
    /// Not part of the wave any more.
    LeftOut,
    Failed {
        reason: String,
    },
}

/// Judges one member of the running wave.
#[must_use]
pub fn standing(member: &Member, seat: &Seat, gate: &Gate, facts: Option<&HostFacts<'_>>, now: u64) -> Standing {
    let before = match &seat.ask {
        Ask::LeftOut { .. } => return Standing::LeftOut,
        Ask::Failed { reason, .. } => return Standing::Failed { reason: reason.clone() },
        Ask::Asked { reported_generation } => Some(*reported_generation),
        Ask::Found => None,
    };
    let failed = |reason: String| Standing::Failed { reason };
    let Some(facts) = facts else { return failed("its record was removed".to_string()) };
    if let State::Held { .. } = facts.state {
        return failed(format!("held {}", facts.state.detail()));
    }
    if is_moving(facts.state) {
        return Standing::Rebuilding;
    }
    // A generation that was finished after the ask: also one of an order that was open then and that the ask joined.
    let is_new = before.is_none_or(|before| facts.reported_generation > before);
    let confirmed = match facts.state {
        State::Ready { confirmed } if is_new && runs(member, facts) => *confirmed,
        _ => return not_there(facts, is_new, before.is_some()),
    };
    let start = facts.since.max(seat.at);
    let until = start.saturating_add(gate.health_seconds);
    if gate.confirmed && !confirmed {
        if now <= until {
            return Standing::Unconfirmed { until };
        }
        return failed(format!("the installed system did not confirm the image within {}", span(gate.health_seconds)));
    }
    match &gate.check {
        None => Standing::Healthy { since: start },
        Some(_) => checked(&seat.check, start, gate, now),
    }
}

/// Whether the disk holds what the plan wants.
#[must_use]
pub fn runs(member: &Member, facts: &HostFacts<'_>) -> bool {
    facts.whole && facts.reported.is_some_and(|image| image.manifest == member.image.manifest)
}

/// Whether the state waits for the machine: its deadline ends it.
fn is_moving(state: &State) -> bool {
    match state {
        State::Queued | State::Netbooting | State::Deploying(_) | State::Verifying | State::Rebooting => true,
        State::Discovered | State::Enrolled | State::Ready { .. } | State::Failed { .. } | State::Held { .. } => false,
    }
}

/// A host that stands still and does not run the image: it waits for its order, or it will never get there. A Failed
/// host whose cause still waits failed under an earlier order; the one asked for is what repairs it.
fn not_there(facts: &HostFacts<'_>, is_new: bool, asked: bool) -> Standing {
    let reason = match (facts.state, facts.reported) {
        _ if facts.asking => match facts.denied {
            Some(reason) => format!("no order may be opened: {reason}"),
            None => return Standing::WaitsForOrder,
        },
        (State::Failed { .. }, _) => format!("failed {}", facts.state.detail()),
        (State::Ready { .. }, Some(image)) if is_new => format!("runs {} instead", image.name),
        _ if asked => "its order was taken back".to_string(),
        _ => format!("is {}", facts.state.word()),
    };
    Standing::Failed { reason }
}

fn checked(check: &CheckRecord, start: u64, gate: &Gate, now: u64) -> Standing {
    let complaint = || check.complaint.clone().unwrap_or_else(|| "no answer".to_string());
    if check.relapses > RELAPSES_MAX {
        return Standing::Failed { reason: format!("the check goes on and off: {}", complaint()) };
    }
    if let Some(since) = check.passed_since.filter(|since| *since >= start) {
        return Standing::Healthy { since };
    }
    let until = check.relapsed_at.map_or(start, |at| at.max(start)).saturating_add(gate.health_seconds);
    if now <= until {
        return Standing::Checking { until };
    }
    let within = span(gate.health_seconds);
    Standing::Failed { reason: format!("the check did not pass within {within}: {}", complaint()) }
}

/// Brings the check record of a host up to date, before it is judged: what was said before its last change of state
/// says nothing of it now, and a check that does not answer has failed.
pub(super) fn refresh(seat: &mut Seat, facts: Option<&HostFacts<'_>>, now: u64) {
    let start = facts.map_or(now, |facts| facts.since.max(seat.at));
    let check = &mut seat.check;
    check.passed_since = check.passed_since.filter(|since| *since >= start);
    check.requested_at = check.requested_at.filter(|at| *at >= start);
    check.answered_at = check.answered_at.filter(|at| *at >= start);
    if check.requested_at.is_some_and(|at| now.saturating_sub(at) > CHECK_ANSWER_SECONDS) {
        check.answer(Err("no answer"), now);
    }
}

/// Whether a check of this host is to be requested now.
pub(super) fn wants_check(check: &CheckRecord, standing: &Standing, now: u64) -> bool {
    matches!(standing, Standing::Checking { .. } | Standing::Healthy { .. })
        && check.requested_at.is_none()
        && check.answered_at.is_none_or(|answered_at| now.saturating_sub(answered_at) >= CHECK_EVERY_SECONDS)
}
