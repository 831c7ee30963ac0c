//! A version is blocked while hosts ask for it, wait for it, or are being written with it.
//!
//! What has not begun does not begin: causes are withdrawn, an order that waits for its machine is closed. An attempt that
//! is under way goes on, since half a disk helps nobody, but it is the last one of its order.

use super::transition::Change;
use super::{Host, ImageChoice, State};

impl Host {
    /// Whether a blocked version still has to do with this host: something that waits wants it, or its order has not
    /// heard of it.
    #[must_use]
    pub fn is_concerned(&self, image: &str) -> bool {
        let order = self.order.as_ref();
        order.is_some_and(|order| order.image.name == image && order.blocked.is_none())
            || self.asks.iter().any(|cause| self.wants(cause.image.as_ref(), image))
    }

    /// A cause that names no image wants the desired one.
    fn wants(&self, asked: Option<&ImageChoice>, image: &str) -> bool {
        asked.or(self.desired.as_ref()).is_some_and(|wanted| wanted.name == image)
    }

    /// Whether nothing was written under the open order: its first script, if there was one, was never answered.
    fn is_untouched(&self) -> bool {
        match self.order.as_ref().map(|order| order.attempts) {
            Some(0) => true,
            Some(1) => self.state == State::Netbooting,
            _ => false,
        }
    }
}

impl Change {
    pub(super) fn image_blocked(&mut self, image: &str, reason: &str, by: &str) {
        let why = format!("{image} is blocked: {reason}");
        let actor = format!("operator {by}");
        let (gone, kept) = std::mem::take(&mut self.host.asks)
            .into_iter()
            .partition(|cause| self.host.wants(cause.image.as_ref(), image));
        self.host.asks = kept;
        for cause in gone {
            self.note(format!("{} no longer asks for a rebuild: {why}", cause.kind.word()), &actor);
        }
        let untouched = self.host.is_untouched();
        let Some(order) = self.host.order.as_mut().filter(|order| order.image.name == image) else { return };
        let generation = order.generation;
        if matches!(self.host.state, State::Deploying(_) | State::Verifying) {
            if order.blocked.is_none() {
                order.blocked = Some(why.clone());
                self.note(format!("{why}; this attempt of order {generation} is the last one"), &actor);
            }
        } else if untouched {
            let was_ready = order.from_ready;
            self.host.order = None;
            let text = format!("order {generation} closed: {why}");
            // What runs there runs on; and nobody wants the blocked version to be there.
            let reported = self.host.reported.clone().filter(|reported| reported.name != image);
            if self.host.desired.as_ref().is_some_and(|desired| desired.name == image) {
                self.host.desired.clone_from(&reported);
            }
            self.go(if was_ready { State::Ready { confirmed: false } } else { State::Enrolled }, text, &actor);
        } else {
            // An earlier attempt may have left half a disk: a person chooses what goes there instead.
            self.fail(self.step_reached(), &format!("{why}; order {generation} gets no further attempt"), &actor);
        }
    }

    /// The version is good again: an order that is still open goes on as any other.
    pub(super) fn image_unblocked(&mut self, image: &str, by: &str) {
        let order = self.host.order.as_mut().filter(|order| order.image.name == image);
        if order.is_some_and(|order| order.blocked.take().is_some()) {
            self.note(format!("{image} is good again"), &format!("operator {by}"));
        }
    }
}
