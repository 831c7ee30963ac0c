//! By whom each image version is used: what must not be collected, and what may not be removed.

use super::images::ImageFacts;
use super::rollouts::Rollouts;
use crate::decide::host::{Host, ImageChoice};
use crate::decide::version::Use;
use std::collections::BTreeMap;

/// All of it at one moment.
#[derive(Debug, Default)]
pub struct ImageUses {
    /// By `NAME:VERSION`.
    pub by_image: BTreeMap<String, Vec<Use>>,
    /// Hex digests of manifests, each with one of its uses as a sentence: a host may refer to a manifest whose name is gone.
    pub manifests: BTreeMap<String, String>,
}

impl ImageUses {
    #[must_use]
    pub fn of<'a>(
        hosts: impl Iterator<Item = &'a Host> + Clone,
        rollouts: &Rollouts,
        images: &ImageFacts,
    ) -> ImageUses {
        let mut uses = ImageUses::default();
        for channel in images.channels.values() {
            uses.add(&channel.choice(), Use::Channel { channel: channel.name.clone() });
        }
        for host in hosts.clone() {
            uses.add_host(host);
        }
        uses.add_rollouts(hosts, rollouts);
        uses
    }

    fn add(&mut self, image: &ImageChoice, one: Use) {
        self.manifests.entry(image.manifest.clone()).or_insert_with(|| one.to_string());
        self.by_image.entry(image.name.clone()).or_default().push(one);
    }

    fn add_host(&mut self, host: &Host) {
        let called = || called(host);
        if let Some(order) = &host.order {
            self.add(&order.image, Use::Ordered { host: called() });
        }
        if let Some(image) = &host.reported {
            self.add(image, Use::Reported { host: called() });
        }
        if let Some(image) = host.desired.as_ref().filter(|desired| host.reported.as_ref() != Some(desired)) {
            self.add(image, Use::Desired { host: called() });
        }
        for image in host.asks.iter().filter_map(|cause| cause.image.as_ref()) {
            self.add(image, Use::Asked { host: called() });
        }
    }

    fn add_rollouts<'a>(&mut self, hosts: impl Iterator<Item = &'a Host>, rollouts: &Rollouts) {
        if rollouts.is_empty() {
            return;
        }
        let hosts: BTreeMap<&str, &Host> = hosts.map(|host| (host.id.as_str(), host)).collect();
        for rollout in rollouts.values() {
            let number = rollout.plan.number;
            let is_over = rollout.progress.stage.is_over();
            for member in rollout.plan.members() {
                let host = hosts.get(member.id.as_str()).copied();
                let called = || host.map_or_else(|| member.id.clone(), called);
                if !is_over {
                    self.add(&member.image, Use::RollingOut { host: called(), rollout: number });
                }
                // As `rollout undo` plans it (decide::rollout::make): a host whose disk is whole and that runs something
                // else by now is left alone.
                let may_go_back = host.is_some_and(|host| {
                    let whole = host.order.is_none() && host.reported_generation == host.generation;
                    !whole || host.reported.as_ref() == Some(&member.image)
                });
                if let Some(former) = member.former.as_ref().filter(|_| may_go_back) {
                    self.add(former, Use::WayBack { host: called(), rollout: number });
                }
            }
        }
    }

    /// Of one version.
    #[must_use]
    pub fn image(&self, name: &str) -> &[Use] {
        self.by_image.get(name).map_or(&[], Vec::as_slice)
    }
}

fn called(host: &Host) -> String {
    host.name.clone().unwrap_or_else(|| host.id.clone())
}
