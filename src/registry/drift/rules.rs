//! The one place where the rules of a host come together: exceptions, the policies of documents, and what is kept of them.

use super::exceptions::Exceptions;
use crate::decide::drift::defaults::Family;
use crate::decide::drift::effective::Place;
use crate::decide::drift::policy::Rule;
use crate::decide::host::Host;
use crate::registry::drift_rules::{DriftMemory, DriftRules};
use crate::registry::writer::Writer;
use crate::registry::{Fleet, View};
use std::sync::Arc;

fn rules_of(memory: &DriftMemory, fleet: &Fleet, exceptions: &Exceptions, host: &Host, now: u64) -> Arc<DriftRules> {
    let group = fleet.groups.get(&host.group);
    let place = Place {
        host: host.drift.as_deref(),
        group: group.and_then(|group| group.drift.as_deref()),
        image: host.reported.as_ref().map(|image| image.name.as_str()),
    };
    let family = host.reported.as_ref().map_or(Family::Debian, |image| memory.family_of(&image.manifest));
    let exceptions: Vec<Rule> = exceptions.of(host, now).cloned().collect();
    memory.rules(&fleet.drift, &place, family, &exceptions, now)
}

impl View {
    /// The rules by which a host is compared with its image, and how often. Hosts with the same policies, exceptions and
    /// family share one list.
    #[must_use]
    pub fn drift_rules(&self, host: &Host, now: u64) -> Arc<DriftRules> {
        rules_of(self.drift_memory(), self.fleet(), self.drift().exceptions(), host, now)
    }

    /// Whether [`View::note_os_release`] was told of this image.
    #[must_use]
    pub fn knows_os_release(&self, manifest: &str) -> bool {
        self.drift_memory().knows(manifest)
    }

    /// What an image's /etc/os-release says, read when its baseline is made or opened (by the manifest's digest).
    pub fn note_os_release(&self, manifest: &str, os_release: &str) {
        self.drift_memory().note_family(manifest, Family::of_os_release(os_release));
    }
}

impl Writer {
    pub(super) fn drift_rules(&self, host: &Host, now: u64) -> Arc<DriftRules> {
        rules_of(&self.drift.memory, &self.brakes.fleet, &self.drift.exceptions, host, now)
    }
}
