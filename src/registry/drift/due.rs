//! What time alone brings: a grace that ends, a rule that ends, an agent that is late. One tick does a bounded part of it.

use crate::registry::writer::{Batch, Writer};

/// Findings that one tick judges, about: some 100 ms of the writer. A change of the policy for 10,000 hosts with five
/// each is through in as many seconds.
const FINDINGS_MAX: usize = 10_000;
/// Hosts in one tick: each may write its record and a line of history.
const HOSTS_MAX: usize = 1000;

impl Writer {
    /// One tick's part.
    pub(in crate::registry) fn drift_tick(&mut self, batch: &mut Batch, now: u64) {
        self.forget_exceptions(batch, now);
        self.judge_due(batch, now);
    }

    pub(super) fn is_clock_held(&self) -> bool {
        self.clock.is_some_and(|clock| clock.held.is_some())
    }

    pub(super) fn judge_due(&mut self, batch: &mut Batch, now: u64) {
        // A clock that jumped ends no grace and makes nobody late, until a person has looked at it.
        if self.is_clock_held() {
            return;
        }
        let mut findings = 0;
        for _ in 0..HOSTS_MAX {
            if findings >= FINDINGS_MAX || batch.is_full() {
                return;
            }
            let Some(id) = self.drift.take_due(now) else { return };
            findings += self.judge_drift(&id, batch, now);
        }
    }
}
