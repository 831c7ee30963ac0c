//! From a cause to an order: causes ask, the brakes admit, and only then the next generation opens.

use super::transition::{Change, Refusal};
use super::{ImageChoice, Order, State, Step};
use crate::decide::cause::{CAUSES_MAX, Cause, CauseKind};

const HOUR_SECONDS: u64 = 3600;
/// Orders of one host that the hourly caps remember; the caps themselves are far below it.
const ORDERED_AT_MAX: usize = 64;

impl Change {
    pub(super) fn approve(&mut self, cause: &Cause) -> Result<(), Refusal> {
        if self.host.state != State::Discovered {
            return Err(Refusal::AlreadyApproved);
        }
        if cause.image.is_none() {
            return Err(Refusal::NothingDesired);
        }
        self.go(State::Enrolled, "approved", &format!("operator {}", cause.by));
        self.ask(cause)
    }

    /// Takes a cause: it waits for the brakes, or joins the order that is open.
    pub(super) fn ask(&mut self, cause: &Cause) -> Result<(), Refusal> {
        match &self.host.state {
            State::Discovered => return Err(Refusal::NotApproved),
            State::Held { by, .. } => return Err(Refusal::HeldBy { by: by.clone() }),
            // Whatever made it fail would make it fail again: a person looks first.
            State::Failed { .. } if cause.kind != CauseKind::Operator => return Err(Refusal::FailedBefore),
            _ => {}
        }
        if cause.image.is_none() && self.host.desired.is_none() {
            return Err(Refusal::NothingDesired);
        }
        if cause.key.is_some() && cause.key == self.host.last_key {
            return Ok(());
        }
        if let Some(order) = &mut self.host.order {
            if cause.kind == CauseKind::Operator {
                return Err(Refusal::OrderOpen { generation: order.generation });
            }
            let wants_other = cause.image.is_some() && cause.image != self.host.desired;
            if wants_other {
                // It would be lost in an order for another image; whoever asked asks again when that one is over.
                return Err(Refusal::OrderOpen { generation: order.generation });
            }
            if order.causes.iter().any(|known| known.kind == cause.kind) || order.causes.len() >= CAUSES_MAX {
                return Ok(());
            }
            order.causes.push(cause.clone());
            let text = format!("{} joins order {}: {}", cause.kind.word(), order.generation, cause.reason);
            self.note(text, &cause.by);
            return Ok(());
        }
        let asks = &mut self.host.asks;
        match asks.iter().position(|known| known.kind == cause.kind) {
            Some(at) if asks[at].image == cause.image && asks[at].releases_disk == cause.releases_disk => return Ok(()),
            Some(at) => asks[at] = cause.clone(),
            // There are fewer kinds than places, but for rollouts, of which the registry lets one at a time have a host.
            None if asks.len() >= CAUSES_MAX => return Err(Refusal::TooManyCauses),
            None => asks.push(cause.clone()),
        }
        let image = cause.image.as_ref().map_or(String::new(), |image| format!(" to {}", image.name));
        self.note(format!("{} asks for a rebuild{image}: {}", cause.kind.word(), cause.reason), &cause.by);
        Ok(())
    }

    /// The brakes let the waiting causes through: the next generation opens, once for all of them.
    pub(super) fn admit(&mut self) -> Result<(), Refusal> {
        if let Some(order) = &self.host.order {
            return Err(Refusal::OrderOpen { generation: order.generation });
        }
        if matches!(self.host.state, State::Discovered | State::Held { .. }) || self.host.asks.is_empty() {
            return Err(Refusal::NothingAsked);
        }
        let image = self.asked_image().ok_or(Refusal::NothingDesired)?;
        let causes = std::mem::take(&mut self.host.asks);
        self.host.generation += 1;
        self.host.desired = Some(image.clone());
        self.host.ordered_at.retain(|at| at + HOUR_SECONDS > self.now);
        self.host.ordered_at.truncate(ORDERED_AT_MAX - 1);
        self.host.ordered_at.push(self.now);
        let reasons: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.kind.word(), cause.reason)).collect();
        let by = causes.first().map_or(String::new(), |cause| cause.by.clone());
        let key = causes.iter().find_map(|cause| cause.key.clone());
        self.host.last_key = key.or_else(|| self.host.last_key.take());
        self.host.order = Some(Order {
            generation: self.host.generation,
            opened_at: self.now,
            attempts: 0,
            foreign_released: causes.iter().any(|cause| cause.releases_disk),
            power_cycles: 0,
            causes,
            claim: None,
        });
        let text = format!("order {} for {}: {}", self.host.generation, image.name, reasons.join("; "));
        self.go(State::Queued, text, &by);
        Ok(())
    }

    /// The image of the order: a person's word first, then a rollout's, then any other's, then what it should run.
    fn asked_image(&self) -> Option<ImageChoice> {
        let rank = |kind: CauseKind| match kind {
            CauseKind::Operator => 0,
            CauseKind::Rollout { .. } => 1,
            _ => 2,
        };
        let asked = self.host.asks.iter().filter(|cause| cause.image.is_some());
        let first = asked.min_by_key(|cause| rank(cause.kind)).and_then(|cause| cause.image.clone());
        first.or_else(|| self.host.desired.clone())
    }

    /// Takes back what one kind of cause asked for; an order that is open already goes on.
    pub(super) fn withdraw(&mut self, kind: CauseKind, by: &str) {
        let before = self.host.asks.len();
        self.host.asks.retain(|cause| cause.kind != kind);
        if self.host.asks.len() != before {
            self.note(format!("{} no longer asks for a rebuild", kind.word()), by);
        }
    }

    /// The machine is late and was power cycled.
    pub(super) fn power_cycled(&mut self, why: &str) -> Result<(), Refusal> {
        let order = self.host.order.as_mut().ok_or(Refusal::NoOpenOrder)?;
        order.power_cycles += 1;
        let text = format!("{why}; power cycle {} of order {}", order.power_cycles, order.generation);
        // The deadline of the state begins anew.
        self.host.since = self.now;
        self.note(text, "clock");
        Ok(())
    }

    /// A deadline passed and nothing is left to try.
    pub(super) fn expired(&mut self, step: Step, reason: &str) -> Result<(), Refusal> {
        if self.host.order.is_none() && self.host.state != State::Rebooting {
            return Err(Refusal::NoOpenOrder);
        }
        self.fail(step, reason, "clock");
        Ok(())
    }

    /// A line of history that changes no state.
    fn note(&mut self, text: String, by: &str) {
        let state = self.host.state.clone();
        self.go(state, text, by);
    }
}
