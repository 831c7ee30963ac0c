//! One tick of the scheduler, as the writer takes it: what it found, and what the writer makes of that.

use super::fleet::parse;
use super::rollouts::CheckAsked;
use super::writer::{Batch, Writer};
use crate::db::DbError;
use crate::decide::brakes::ScheduleVerdict;
use crate::decide::cause::Cause;
use crate::decide::host::{Event, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const CLOCK_KEY: &str = "fleet/clock";

/// What the scheduler found. All of it is taken in one commit, so that a start is neither lost nor done twice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Steps {
    pub asks: Vec<(String, Cause)>,
    /// Machines that are late: power cycled, or failed.
    pub late: Vec<(String, Event)>,
    /// For each host that asks by itself: whether its schedule lets it now.
    pub schedule: BTreeMap<String, ScheduleVerdict>,
    pub clock: Option<StoredClock>,
}

/// Up to when schedules were evaluated, and whether the clock is held after a jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredClock {
    /// Unix seconds.
    pub evaluated_to: u64,
    /// The jump that nobody accepted yet, in seconds.
    pub held: Option<i64>,
}

impl Writer {
    pub(super) fn load_clock(&mut self) -> Result<(), DbError> {
        self.clock = self.db.get(CLOCK_KEY)?.map(|item| parse(&item)).transpose()?;
        Ok(())
    }

    pub(super) fn take_steps(&mut self, steps: Steps, batch: &mut Batch, now: u64) -> Vec<CheckAsked> {
        if self.failed.is_some() {
            return Vec::new();
        }
        self.brakes.schedule = steps.schedule;
        self.enforce_blocks(batch, now);
        for (host, cause) in steps.asks {
            let asked = self.host_event(&host, &Event::Ask { cause }, None, batch, now);
            // The record moved since the scheduler looked; the next tick looks again.
            if let Err(error) = asked {
                tracing::debug!(%host, %error, "a cause was not taken");
            }
        }
        for (host, event) in steps.late {
            if let Err(error) = self.apply(&host, &event, None, batch, now) {
                tracing::debug!(%host, %error, "a late machine has moved meanwhile");
            }
        }
        if let Some(clock) = steps.clock {
            self.put_clock(clock, batch);
        }
        self.forget_gone(batch, now);
        self.end_holds(batch, now);
        self.drift_tick(batch, now);
        let checks = self.step_rollouts(batch, now);
        self.look_at_breaker(batch, now);
        self.admit_waiting(batch, now);
        checks
    }

    pub(super) fn put_clock(&mut self, clock: StoredClock, batch: &mut Batch) {
        // Two numbers: serialising them cannot fail.
        batch.put(CLOCK_KEY.to_string(), serde_json::to_vec(&clock).ok());
        self.clock = Some(clock);
    }

    fn end_holds(&mut self, batch: &mut Batch, now: u64) {
        let held = |state: &State| matches!(state, State::Held { until: Some(until), .. } if *until <= now);
        let due: Vec<String> =
            self.hosts.values().filter(|view| held(&view.host.state)).map(|view| view.host.id.clone()).collect();
        for id in due {
            if let Err(error) = self.host_event(&id, &Event::HoldEnded, None, batch, now) {
                tracing::warn!(host = %id, %error, "cannot end the hold");
            }
        }
    }
}
