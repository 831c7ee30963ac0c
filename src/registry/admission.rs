//! The brakes in the writer: what asks for a rebuild is let through here, one order after the other, or waits.
//!
//! Only the writer opens orders, and it counts each one before it looks at the next host, so a cap cannot be
//! overrun by requests that come together.

use super::RegistryError;
use super::history;
use super::writer::{Batch, Writer};
use crate::decide::brakes::{self, Admission, Deny, Standing};
use crate::decide::cause::{Cause, CauseKind};
use crate::decide::drift::effective::Policies;
use crate::decide::group::Group;
use crate::decide::host::{Event, Host};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const BREAKER_KEY: &str = "fleet/breaker";
/// Waiting hosts that one tick looks at: bounds how long the writer is busy with them.
const ADMISSIONS_MAX: usize = 20_000;
/// Hosts that are looked at before the stop switch is looked at again.
const STANDING_HOSTS: usize = 256;

/// The fleet breaker as stored: once it has tripped it stays so, over restarts, until a person resets it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Breaker {
    pub tripped: Option<Tripped>,
    /// When a person last reset it, Unix seconds.
    pub reset_at: u64,
}

/// Why and when the fleet breaker tripped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tripped {
    pub reason: String,
    /// Unix seconds.
    pub at: u64,
}

/// What is set for all hosts: groups and the fleet's own limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    pub policy: brakes::Policy,
    pub groups: BTreeMap<String, Group>,
    /// Behind an own `Arc`: views compare it by address to know whether what they keep of it still holds.
    pub drift: Arc<Policies>,
}

impl Fleet {
    /// A group by name; one that nobody wrote down has the careful defaults.
    #[must_use]
    pub fn group(&self, name: &str) -> Group {
        self.groups.get(name).cloned().unwrap_or_else(|| Group::new(name))
    }
}

/// What the brakes know beside the records.
#[derive(Debug, Default)]
pub(super) struct Brakes {
    pub fleet: Arc<Fleet>,
    pub breaker: Breaker,
    /// Whether automatic causes may act now, for each host that asks by itself; from the scheduler's last tick.
    pub schedule: BTreeMap<String, brakes::ScheduleVerdict>,
    pub usage: brakes::Usage,
    /// Hosts that ask, by when they began to: first come, first served.
    pub waiting: std::collections::BTreeSet<(u64, String)>,
}

impl Brakes {
    pub fn count(&mut self, host: &Host) {
        self.usage.count(host);
        self.waiting.extend(asks_since(host).map(|at| (at, host.id.clone())));
    }

    pub fn discount(&mut self, host: &Host) {
        self.usage.discount(host);
        if let Some(at) = asks_since(host) {
            self.waiting.remove(&(at, host.id.clone()));
        }
    }
}

fn asks_since(host: &Host) -> Option<u64> {
    host.asks.iter().map(|cause| cause.at).min()
}

impl Writer {
    /// A protected host that is removed would come back, when it next netboots, without its protection; one of a group whose
    /// orders need a second person, in a group that needs none.
    pub(super) fn unprotected(&self, id: &str) -> Result<(), RegistryError> {
        let host = &self.hosts[id].host;
        let group = self.brakes.fleet.group(&host.group);
        if group.confirm {
            return Err(RegistryError::NeedsSecond { group: group.name });
        }
        match brakes::allowed(host, &group, &self.brakes.fleet.policy) {
            Err(deny @ (Deny::Label | Deny::Group)) => Err(RegistryError::Protected(deny)),
            Err(Deny::Listed(_)) | Ok(()) => Ok(()),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            stopped: self.stop.pressed().map(|stop| stop.sentence()),
            tripped: self.brakes.breaker.tripped.as_ref().map(|tripped| tripped.reason.clone()),
        }
    }

    /// Opens the order that a host's causes ask for, or notes what they wait for.
    pub(super) fn try_admit(&mut self, id: &str, standing: &Standing, batch: &mut Batch, now: u64) {
        let Some(view) = self.hosts.get(id) else { return };
        if view.host.asks.is_empty() {
            return;
        }
        if let Some(waits) = self.rollout_stands_still(&view.host) {
            return self.set_waits(id, Some(waits), batch);
        }
        if let Some(waits) = self.wants_two(&view.host) {
            return self.set_waits(id, Some(waits), batch);
        }
        if let Some(waits) = self.image_is_blocked(&view.host) {
            return self.set_waits(id, Some(waits), batch);
        }
        let group = self.brakes.fleet.group(&view.host.group);
        let unknown: brakes::ScheduleVerdict = Err("the schedule has not been looked at yet".to_string());
        let schedule = self.brakes.schedule.get(id).unwrap_or(&unknown);
        let (policy, usage) = (&self.brakes.fleet.policy, &self.brakes.usage);
        let waits = match brakes::admit(&view.host, &group, policy, standing, usage, schedule, now) {
            Admission::Open => match self.apply(id, &Event::Admit, None, batch, now) {
                Ok(()) => None,
                Err(error) => Some(error.to_string()),
            },
            Admission::Wait(wait) => Some(wait.to_string()),
            Admission::Deny(deny) => Some(deny.to_string()),
        };
        self.set_waits(id, waits, batch);
    }

    /// Why the image that is asked for must not be written, if it must not: it may have been good when it was asked for.
    /// One person moves a channel or marks a version, and the whole group would be rebuilt: not where a group is marked so
    /// that a rebuild takes two.
    fn wants_two(&self, host: &Host) -> Option<String> {
        let by_one = |cause: &Cause| {
            matches!(cause.kind, CauseKind::Channel | CauseKind::ImageDeprecated | CauseKind::ImageBlocked)
        };
        let waits = host.asks.iter().all(by_one) && self.brakes.fleet.group(&host.group).confirm;
        waits
            .then(|| format!("group {} wants two persons: `regild rollout start`, and a second to confirm", host.group))
    }

    fn image_is_blocked(&self, host: &Host) -> Option<String> {
        let image = host.asked_image()?;
        let why = self.images.refused(&image.name)?;
        Some(format!("{why}; ask for another version"))
    }

    /// Lets through what the brakes allow now, the longest waiting first.
    pub(super) fn admit_waiting(&mut self, batch: &mut Batch, now: u64) {
        if self.brakes.waiting.is_empty() {
            return;
        }
        let mut standing = self.standing();
        let waiting: Vec<String> = self.brakes.waiting.iter().take(ADMISSIONS_MAX).map(|(_, id)| id.clone()).collect();
        for (number, id) in waiting.into_iter().enumerate() {
            // The next tick goes on where this commit is full.
            if batch.is_full() {
                return;
            }
            if number % STANDING_HOSTS == 0 {
                standing = self.standing();
            }
            self.try_admit(&id, &standing, batch, now);
        }
    }

    /// Trips the breaker when the counts say so. Called after every change, before anything else is admitted.
    pub(super) fn look_at_breaker(&mut self, batch: &mut Batch, now: u64) {
        let breaker = &self.brakes.breaker;
        if breaker.tripped.is_some() {
            return;
        }
        let trips = brakes::trips(&self.brakes.usage, self.brakes.fleet.policy.breaker, breaker.reset_at, now);
        if let Some(trip) = trips {
            let reason =
                if trip.by_drift { format!("{}; {}", trip.reason, self.drift_in_common()) } else { trip.reason };
            tracing::error!(%reason, "the fleet breaker tripped: no order is opened until `regild breaker reset`");
            self.brakes.breaker.tripped = Some(Tripped { reason, at: now });
            self.put_breaker(batch);
        }
    }

    fn put_breaker(&self, batch: &mut Batch) {
        // Strings and numbers: serialising them cannot fail.
        batch.put(BREAKER_KEY.to_string(), serde_json::to_vec(&self.brakes.breaker).ok());
    }

    /// Closes the breaker again; only what happens from now on counts for it.
    pub(super) fn reset_breaker(
        &mut self,
        by: &str,
        reason: &str,
        batch: &mut Batch,
        now: u64,
    ) -> Result<(), RegistryError> {
        let tripped = self.brakes.breaker.tripped.take().ok_or(RegistryError::NotTripped)?;
        self.brakes.breaker.reset_at = now;
        self.put_breaker(batch);
        let line = history::Line {
            number: now,
            at: now,
            generation: 0,
            from: "tripped".to_string(),
            to: "closed".to_string(),
            cause: format!("{reason} (tripped: {})", tripped.reason),
            actor: format!("operator {by}"),
        };
        batch.put(history::key("breaker", now), serde_json::to_vec(&line).ok());
        Ok(())
    }

    pub(super) fn load_breaker(&mut self) -> Result<(), crate::db::DbError> {
        // One that is not understood stays tripped: on doubt nothing is written.
        let unknown = Tripped { reason: "its record in the store is not understood".to_string(), at: 0 };
        if let Some(item) = self.db.get(BREAKER_KEY)? {
            let stored = serde_json::from_slice(&item.value);
            self.brakes.breaker = stored.unwrap_or(Breaker { tripped: Some(unknown), reset_at: 0 });
        }
        Ok(())
    }
}
