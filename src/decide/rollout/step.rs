//! One step of a rollout: (plan, progress, facts, now) -> (progress, actions). Called as often as anybody likes: a step
//! advances by one wave at most, and a step that does not advance changes nothing when it is repeated on the same facts.

use super::gate::{HostFacts, Standing, refresh, runs, standing, wants_check};
use super::plan::{Member, Plan};
use super::progress::{Action, Ask, CheckRecord, HaltReason, Progress, Seat, Stage, Stepped};
use crate::decide::host::State;
use std::collections::BTreeSet;

/// Hosts that one step asks at most: bounds the commit that a step is. The next steps go on with the wave.
const ACTIONS_MAX: usize = 500;

/// The step. `facts` gives what is known of a host now; `None`: its record is gone.
///
/// The shell commits progress and actions together. It keeps the answer of [`Progress::admits`] for the brakes: an ask
/// of a rollout that stands still must not become an order.
#[must_use]
pub fn step<'a>(
    plan: &Plan,
    mut progress: Progress,
    facts: impl Fn(&str) -> Option<HostFacts<'a>>,
    now: u64,
) -> Stepped {
    let mut actions = Vec::new();
    let wave = match plan.waves.get(progress.wave) {
        Some(wave) if !progress.stage.is_over() => wave,
        _ => return Stepped { progress, actions },
    };
    // After the last step the running wave may not have had its turn yet: the rollout was paused, or has just begun.
    if progress.stage == Stage::Running {
        take_turns(wave, &mut progress, &facts, &mut actions, now);
    }
    let standings = observe(plan, wave, &mut progress, &facts, &mut actions, now);
    // A large wave gets its seats over several steps; it is not over before the last one has had its turn.
    let all_seated = standings.len() == wave.len();
    if let Some(reason) = halt(plan, &progress, &standings, all_seated) {
        if !matches!(progress.stage, Stage::Halted { .. }) {
            progress.stage = Stage::Halted { reason, at: now };
        }
    } else if progress.stage == Stage::Running && all_seated && soaked(plan, &progress, &standings, now) {
        progress.healthy += standings.iter().filter(|standing| is_healthy(standing)).count();
        actions.extend(still_asking(wave, &facts));
        if progress.wave + 1 < plan.waves.len() {
            progress.wave += 1;
            progress.wave_began_at = now;
            take_turns(&plan.waves[progress.wave], &mut progress, &facts, &mut actions, now);
        } else {
            progress.stage = Stage::Done { at: now };
        }
    }
    Stepped { progress, actions }
}

/// Gives every host of the wave its seat, once: that is what keeps it from being asked twice.
fn take_turns<'a>(
    wave: &[Member],
    progress: &mut Progress,
    facts: &impl Fn(&str) -> Option<HostFacts<'a>>,
    actions: &mut Vec<Action>,
    now: u64,
) {
    for member in wave {
        if progress.seats.contains_key(&member.id) {
            continue;
        }
        if actions.len() >= ACTIONS_MAX {
            return;
        }
        let ask = turn(member, facts(&member.id).as_ref());
        if let Ask::Asked { .. } = ask {
            actions.push(Action::Ask { host: member.id.clone(), image: member.image.clone() });
        }
        progress.seats.insert(member.id.clone(), Seat { at: now, ask, check: CheckRecord::default() });
    }
}

/// What to do with a host whose turn has come. Facts may have changed since the plan was made.
fn turn(member: &Member, facts: Option<&HostFacts<'_>>) -> Ask {
    let left_out = |reason: &str| Ask::LeftOut { reason: reason.to_string() };
    let Some(facts) = facts else { return left_out("its record was removed") };
    match facts.state {
        State::Held { .. } => left_out(&format!("held {}", facts.state.detail())),
        State::Discovered => left_out("not approved"),
        State::Ready { .. } | State::Rebooting if runs(member, facts) => Ask::Found,
        _ => match facts.denied {
            Some(reason) => left_out(reason),
            None => Ask::Asked { reported_generation: facts.reported_generation },
        },
    }
}

/// Judges every host of the wave, writes down failures for good, requests checks.
fn observe<'a>(
    plan: &Plan,
    wave: &[Member],
    progress: &mut Progress,
    facts: &impl Fn(&str) -> Option<HostFacts<'a>>,
    actions: &mut Vec<Action>,
    now: u64,
) -> Vec<Standing> {
    let gate = &plan.request.gate;
    // The facts are from before these asks: they do not show them yet.
    let fresh: BTreeSet<String> = actions.iter().map(|action| action.host().to_string()).collect();
    let mut standings = Vec::with_capacity(wave.len());
    for member in wave {
        let Some(seat) = progress.seats.get_mut(&member.id) else { continue };
        let host = facts(&member.id);
        refresh(seat, host.as_ref(), now);
        let standing = match fresh.contains(&member.id) {
            true => Standing::WaitsForOrder,
            false => standing(member, seat, gate, host.as_ref(), now),
        };
        match &standing {
            Standing::Failed { reason } if !matches!(seat.ask, Ask::Failed { .. }) => {
                seat.ask = Ask::Failed { reason: reason.clone(), at: now };
                seat.check.requested_at = None;
                // A held host that is released later must not be rebuilt by an ask that everybody forgot.
                if host.is_some_and(|host| host.asking) {
                    actions.push(Action::Withdraw { host: member.id.clone() });
                }
            }
            _ if gate.check.is_some() && wants_check(&seat.check, &standing, now) => {
                seat.check.requested_at = Some(now);
                actions.push(Action::Check { host: member.id.clone(), requested_at: now });
            }
            _ => {}
        }
        standings.push(standing);
    }
    standings
}

fn is_healthy(standing: &Standing) -> bool {
    matches!(standing, Standing::Healthy { .. })
}

/// Whether nothing more is to be expected of a host in this wave.
fn is_settled(standing: &Standing) -> bool {
    matches!(standing, Standing::Healthy { .. } | Standing::Failed { .. } | Standing::LeftOut)
}

/// Why the rollout must stand still, if it must.
fn halt(plan: &Plan, progress: &Progress, standings: &[Standing], all_seated: bool) -> Option<HaltReason> {
    let count = progress.failures();
    let max = plan.request.failures_max;
    if count > progress.forgiven + max as usize {
        return Some(HaltReason::Failures { count, max });
    }
    let ended = all_seated && !standings.is_empty() && standings.iter().all(is_settled);
    let any_failed = standings.iter().any(|standing| matches!(standing, Standing::Failed { .. }));
    // A wave that was left out as a whole proves nothing, but does no harm once another wave has proved the image.
    let proved = progress.healthy > 0 && !any_failed;
    if ended && !standings.iter().any(is_healthy) && !proved && progress.waived_wave != Some(progress.wave) {
        return Some(HaltReason::NobodyHealthy { wave: progress.wave });
    }
    None
}

/// Whether the gate of the running wave has held for its soak time. The time counts from the host that became healthy
/// last, so it begins anew whenever one leaves health and comes back.
fn soaked(plan: &Plan, progress: &Progress, standings: &[Standing], now: u64) -> bool {
    soak_until(plan, progress, standings).is_some_and(|until| now >= until)
}

/// When the soak time of the running wave ends; `None` while some host is not settled.
pub(super) fn soak_until(plan: &Plan, progress: &Progress, standings: &[Standing]) -> Option<u64> {
    if standings.is_empty() || !standings.iter().all(is_settled) {
        return None;
    }
    let healthy_since = standings.iter().filter_map(|standing| match standing {
        Standing::Healthy { since } => Some(*since),
        _ => None,
    });
    // Nobody healthy, and let pass all the same: there is nothing to wait for.
    let last = healthy_since.max().map(|since| since.max(progress.wave_began_at));
    Some(last.map_or(0, |last| last.saturating_add(plan.request.gate.soak_seconds)))
}

/// An ask that still stands although its host is healthy (another order did the work) would rebuild it once more.
fn still_asking<'a>(wave: &[Member], facts: &impl Fn(&str) -> Option<HostFacts<'a>>) -> Vec<Action> {
    let asking = wave.iter().filter(|member| facts(&member.id).is_some_and(|host| host.asking));
    asking.map(|member| Action::Withdraw { host: member.id.clone() }).collect()
}
