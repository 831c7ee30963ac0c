//! The way back: a fleet as a document. Every key is written out, defaults too, so that an exported document means
//! the same under a later regild whose defaults differ. `parse(export(fleet)) == fleet` (tests/laws.rs).
//!
//! No secret can be in it: the types that it is made from hold none ([`super::settings`]).

use super::drift::Drift;
use super::file::{
    Breaker, Check, Deadlines, Document, Group, Health, Host, Limits, Policy, Reservation, Schedule, Window,
};
use super::words::{Cap, Channel, Days, DriftName, HostName, LabelTable, NicMac, Percent, Span, Text, Word};
use super::{Fleet, HostEntry, HostKey};
use crate::config::bandwidth::Bandwidth;
use crate::decide::{brakes, disk, group};
use crate::wire::agent::DiskRule;

/// Hosts and reservations that are written at once.
const PIECE: usize = 64;

/// Why a fleet cannot be written as text. None of the checked types gives a reason for it.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("the fleet cannot be written as TOML")]
    Toml(#[from] toml::ser::Error),
    #[error("the fleet cannot be written as YAML")]
    Yaml(#[from] serde_saphyr::SerializeError),
}

/// # Errors
/// [`ExportError`].
pub fn to_toml(fleet: &Fleet) -> Result<String, ExportError> {
    let Document { policy, groups, drift, hosts, reservations } = document(fleet);
    let mut text = toml::to_string(&Document { policy, groups, ..Document::default() })?;
    for (name, policy) in drift {
        let piece = Document { drift: [(name, policy)].into(), ..Document::default() };
        text += &format!("\n{}", toml::to_string(&piece)?);
    }
    // In pieces: toml's time grows with the square of an array of tables (40 s for 100,000 hosts, now 1 s), and pieces
    // of one array that follow each other are that array.
    for hosts in hosts.chunks(PIECE) {
        text += &format!("\n{}", toml::to_string(&Document { hosts: hosts.to_vec(), ..Document::default() })?);
    }
    for piece in reservations.chunks(PIECE) {
        let piece = Document { reservations: piece.to_vec(), ..Document::default() };
        text += &format!("\n{}", toml::to_string(&piece)?);
    }
    Ok(text)
}

/// # Errors
/// [`ExportError`].
pub fn to_yaml(fleet: &Fleet) -> Result<String, ExportError> {
    Ok(serde_saphyr::to_string(&document(fleet))?)
}

/// The fleet as one document.
#[must_use]
pub fn document(fleet: &Fleet) -> Document {
    let reservation = |(mac, address): (&_, &_)| Reservation { mac: Text(NicMac(*mac)), address: Text(*address) };
    Document {
        policy: fleet.policy.as_ref().map(Policy::from),
        groups: fleet.groups.iter().map(|(name, group)| (Text(Word(name.clone())), Group::from(group))).collect(),
        drift: fleet.drift.iter().map(|(name, policy)| (Text(Word(name.clone())), Drift::from(policy))).collect(),
        hosts: fleet.hosts.iter().map(|(key, entry)| host(key, entry)).collect(),
        reservations: fleet.reservations.iter().map(reservation).collect(),
    }
}

/// One entry as written.
#[must_use]
pub fn host(key: &HostKey, entry: &HostEntry) -> Host {
    let (mac, name) = match key {
        HostKey::Mac(mac) => (Some(Text(NicMac(*mac))), entry.name.clone()),
        HostKey::Name(name) => (None, Some(name.clone())),
    };
    let HostEntry { name: _, group, labels, image, power, drift } = entry;
    Host {
        mac,
        id: None,
        name: name.map(|name| Text(HostName(name))),
        group: group.clone().map(|group| Text(Word(group))),
        labels: labels.clone().map(LabelTable),
        image: image.clone().map(Text),
        power: power.clone(),
        drift: drift.clone().map(|name| Text(DriftName(name))),
    }
}

// Each of these takes its source apart without `..`: a field that is added to decide must find its place here.

impl From<&group::Group> for Group {
    fn from(group: &group::Group) -> Self {
        let group::Group {
            name: _,
            channel,
            follow_channel,
            disk,
            schedule,
            limits,
            deadlines,
            health,
            protected,
            confirm,
            power,
            drift,
            bandwidth,
        } = group;
        Group {
            channel: channel.clone().map(|channel| Text(Channel(channel))),
            follow_channel: *follow_channel,
            protected: *protected,
            confirm: *confirm,
            power: power.clone(),
            drift: drift.clone().map(|name| Text(Word(name))),
            bandwidth: bandwidth.map(|rate| Text(Bandwidth(rate))),
            disk: disk_rule(disk),
            schedule: schedule.into(),
            limits: limits.into(),
            deadlines: deadlines.into(),
            health: health.into(),
        }
    }
}

fn disk_rule(rule: &disk::Rule) -> DiskRule {
    let disk::Rule { serial, wwn, model, transport, min_bytes, max_bytes } = rule.clone();
    DiskRule { serial, wwn, model, transport, min_bytes, max_bytes }
}

impl From<&group::Schedule> for Schedule {
    fn from(schedule: &group::Schedule) -> Self {
        let group::Schedule { rebuild, windows, time_zone, blackouts, max_age_seconds, pause_seconds, catch_up } =
            schedule;
        let window =
            |window: &group::Window| Window { cron: window.cron.clone(), open: Text(Span(window.open_seconds)) };
        Schedule {
            rebuild: rebuild.clone(),
            time_zone: time_zone.clone(),
            max_age: max_age_seconds.map(|seconds| Text(Span(seconds))),
            pause: Text(Span(*pause_seconds)),
            catch_up: *catch_up,
            blackouts: blackouts.iter().map(|(first, last)| Text(Days(first.clone(), last.clone()))).collect(),
            windows: windows.iter().map(window).collect(),
        }
    }
}

impl From<&group::Limits> for Limits {
    fn from(limits: &group::Limits) -> Self {
        let group::Limits { concurrent_max, orders_per_hour_max } = limits;
        Limits { concurrent_max: Cap(*concurrent_max), orders_per_hour_max: Cap(*orders_per_hour_max) }
    }
}

impl From<&group::Deadlines> for Deadlines {
    fn from(deadlines: &group::Deadlines) -> Self {
        let group::Deadlines {
            queued_seconds,
            netbooting_seconds,
            deploying_seconds,
            rebooting_seconds,
            power_cycles_max,
        } = deadlines;
        Deadlines {
            queued: Text(Span(*queued_seconds)),
            netbooting: Text(Span(*netbooting_seconds)),
            deploying: Text(Span(*deploying_seconds)),
            rebooting: Text(Span(*rebooting_seconds)),
            power_cycles_max: *power_cycles_max,
        }
    }
}

impl From<&group::Health> for Health {
    fn from(health: &group::Health) -> Self {
        let group::Health { confirmed, check, soak_seconds } = health;
        let check = check.as_ref().map(|check| match check {
            group::Check::Http { url } => Check { http: Some(url.clone()), command: None },
            group::Check::Command { program } => Check { http: None, command: Some(program.clone()) },
        });
        Health { confirmed: *confirmed, soak: Text(Span(*soak_seconds)), check }
    }
}

impl From<&brakes::Policy> for Policy {
    fn from(policy: &brakes::Policy) -> Self {
        let brakes::Policy { fleet, rack, feed, breaker, confirm_above, expect_above, denied } = policy;
        Policy {
            confirm_above: Cap(*confirm_above),
            expect_above: Cap(*expect_above),
            denied: denied.iter().map(ToString::to_string).collect(),
            breaker: breaker.into(),
            fleet: fleet.into(),
            rack: rack.into(),
            feed: feed.into(),
        }
    }
}

impl From<&brakes::BreakerPolicy> for Breaker {
    fn from(breaker: &brakes::BreakerPolicy) -> Self {
        let brakes::BreakerPolicy { percent_max, hosts_min } = breaker;
        Breaker { percent_max: Text(Percent(*percent_max)), hosts_min: Cap(*hosts_min) }
    }
}
