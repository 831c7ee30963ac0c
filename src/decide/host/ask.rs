//! From a cause to an order: causes ask, the brakes admit, and only then the next generation opens.

use super::transition::{Change, Refusal};
use super::{Host, ImageChoice, Order, State, Step};
use crate::decide::cause::{CAUSES_MAX, Cause, CauseKind};
use crate::decide::labels::Labels;
use crate::decide::stable_hash::stable_hash;

/// What a document says of a host; `None` leaves a thing as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    pub name: Option<String>,
    pub group: Option<String>,
    pub labels: Option<Labels>,
    /// What it should run; no order comes of it.
    pub image: Option<ImageChoice>,
    /// Its own drift policy; an empty text takes it away.
    pub drift: Option<String>,
}

const HOUR_SECONDS: u64 = 3600;
/// Requests with a key that one host remembers. Who asks again does so long before so many others did.
const REQUEST_KEYS_MAX: usize = 16;
/// Orders of one host that the hourly caps remember; the caps themselves are far below it.
const ORDERED_AT_MAX: usize = 64;

impl Host {
    /// The image of the order: a person's word first, then a rollout's, then any other's, then what it should run.
    #[must_use]
    pub fn asked_image(&self) -> Option<ImageChoice> {
        let rank = |kind: CauseKind| match kind {
            CauseKind::Operator => 0,
            CauseKind::Rollout { .. } => 1,
            _ => 2,
        };
        let asked = self.asks.iter().filter(|cause| cause.image.is_some());
        let first = asked.min_by_key(|cause| rank(cause.kind)).and_then(|cause| cause.image.clone());
        first.or_else(|| self.desired.clone())
    }
}

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
        if !self.is_new_request(cause) {
            return Ok(());
        }
        let is_known = self.host.causes().any(|known| known.kind == CauseKind::Drift);
        if cause.kind == CauseKind::Drift && !is_known {
            self.host.drift_asked_at = self.now;
        }
        if let Some(order) = &mut self.host.order {
            if cause.kind == CauseKind::Operator {
                return Err(Refusal::OrderOpen { generation: order.generation });
            }
            let wants_other = cause.image.as_ref().is_some_and(|image| *image != order.image);
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
            Some(at) if asks[at].image == cause.image && asks[at].releases_disk == cause.releases_disk => {
                self.remember(cause);
                return Ok(());
            }
            Some(at) => asks[at] = cause.clone(),
            // There are fewer kinds than places, but for rollouts, of which the registry lets one at a time have a host.
            None if asks.len() >= CAUSES_MAX => return Err(Refusal::TooManyCauses),
            None => asks.push(cause.clone()),
        }
        self.remember(cause);
        let image = cause.image.as_ref().map_or(String::new(), |image| format!(" to {}", image.name));
        self.note(format!("{} asks for a rebuild{image}: {}", cause.kind.word(), cause.reason), &cause.by);
        Ok(())
    }

    /// Whether this is not what was asked before, said once more (faults.md H7).
    fn is_new_request(&self, cause: &Cause) -> bool {
        !cause.key.as_ref().is_some_and(|key| self.host.request_keys.contains(&stable_hash(&[key])))
    }

    /// A request was taken: with its key it will not be taken again, also when it only joined another one.
    fn remember(&mut self, cause: &Cause) {
        if let Some(key) = &cause.key {
            let keys = &mut self.host.request_keys;
            keys.drain(..keys.len().saturating_sub(REQUEST_KEYS_MAX - 1));
            keys.push(stable_hash(&[key]));
        }
    }

    /// The brakes let the waiting causes through: the next generation opens, once for all of them.
    pub(super) fn admit(&mut self) -> Result<(), Refusal> {
        if let Some(order) = &self.host.order {
            return Err(Refusal::OrderOpen { generation: order.generation });
        }
        if matches!(self.host.state, State::Discovered | State::Held { .. }) || self.host.asks.is_empty() {
            return Err(Refusal::NothingAsked);
        }
        let image = self.host.asked_image().ok_or(Refusal::NothingDesired)?;
        let causes = std::mem::take(&mut self.host.asks);
        self.host.generation += 1;
        self.host.desired = Some(image.clone());
        self.host.ordered_at.retain(|at| at + HOUR_SECONDS > self.now);
        self.host.ordered_at.truncate(ORDERED_AT_MAX - 1);
        self.host.ordered_at.push(self.now);
        let reasons: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.kind.word(), cause.reason)).collect();
        let by = causes.first().map_or(String::new(), |cause| cause.by.clone());
        self.host.order = Some(Order {
            generation: self.host.generation,
            image: image.clone(),
            powered_at: None,
            opened_at: self.now,
            attempts: 0,
            foreign_released: causes.iter().any(|cause| cause.releases_disk),
            power_cycles: 0,
            causes,
            from_ready: matches!(self.host.state, State::Ready { .. }),
            blocked: None,
            claim: None,
        });
        let dropped = self.drop_verify();
        let text = format!("order {} for {}: {}{dropped}", self.host.generation, image.name, reasons.join("; "));
        self.go(State::Queued, text, &by);
        Ok(())
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
        order.powered_at = Some(self.now);
        let text = format!("{why}; power cycle {} of order {}", order.power_cycles, order.generation);
        // The deadline of the state begins anew.
        self.host.since = self.now;
        self.note(text, "clock");
        Ok(())
    }

    /// The machine's power is about to be switched so that it netboots. Written down first: a server that dies now
    /// does not switch it again and again.
    pub(super) fn powered(&mut self, how: &str) -> Result<(), Refusal> {
        if let (None, Some(wish)) = (&self.host.order, &mut self.host.verify.wish) {
            wish.powered_at = Some(self.now);
            wish.begun_at = Some(self.now);
            let text = format!("{how}, for verification {}", wish.number);
            self.note(text, "power");
            return Ok(());
        }
        let order = self.host.order.as_mut().ok_or(Refusal::NoOpenOrder)?;
        order.powered_at = Some(self.now);
        let text = format!("{how}, for order {}", order.generation);
        self.note(text, "power");
        Ok(())
    }

    /// What came of switching the power: a line of history, no change.
    pub(super) fn power_reported(&mut self, said: &str) {
        self.note(said.to_string(), "power");
    }

    /// A person's document names this host: it is ours from then on. Opens nothing.
    pub(super) fn declared(&mut self, declared: &Declared, by: &str) -> Result<(), Refusal> {
        let actor = format!("operator {by}");
        let before = self.host.clone();
        let host = &mut self.host;
        if let Some(name) = &declared.name {
            host.name = Some(name.clone());
        }
        if let Some(group) = &declared.group {
            host.group.clone_from(group);
        }
        if let Some(labels) = &declared.labels {
            host.labels = labels.clone();
        }
        if let Some(image) = &declared.image {
            host.desired = Some(image.clone());
        }
        if let Some(drift) = &declared.drift {
            host.drift = Some(drift.as_str()).filter(|name| !name.is_empty()).map(Box::from);
        }
        let changed = [
            (before.name != host.name).then(|| format!("name {}", host.name.as_deref().unwrap_or("-"))),
            (before.group != host.group).then(|| format!("group {} -> {}", before.group, host.group)),
            (before.drift != host.drift).then(|| format!("drift policy {}", host.drift.as_deref().unwrap_or("-"))),
            (before.labels != host.labels).then(|| "labels".to_string()),
            (before.desired != host.desired)
                .then(|| format!("desired {}", host.desired.as_ref().map_or("-", |image| image.name.as_str()))),
        ];
        let changed: Vec<String> = changed.into_iter().flatten().collect();
        let text = if changed.is_empty() { "applied".to_string() } else { format!("applied: {}", changed.join(", ")) };
        if self.host.state == State::Discovered {
            self.go(State::Enrolled, text, &actor);
        } else if !changed.is_empty() {
            self.note(text, &actor);
        }
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
    pub(super) fn note(&mut self, text: String, by: &str) {
        let state = self.host.state.clone();
        self.go(state, text, by);
    }
}
