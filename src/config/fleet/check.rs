//! From a document as written to the types of `decide`: what one word alone cannot say, two keys together must not
//! contradict. An error names the key; [`super::read`] adds the file.

use super::file;
use super::settings::has_password;
use super::words::{HostId, HostName, NicMac, Text, short};
use super::{HostEntry, HostKey};
use crate::decide::brakes::{BreakerPolicy, Policy};
use crate::decide::disk;
use crate::decide::group::{Check, Deadlines, Group, Health, Limits, Schedule, Window};
use crate::decide::mac::Mac;
use crate::scheduler::windows::{Calendar, CalendarError};
use crate::wire::agent::DiskRule;
use std::str::FromStr;

/// The drivers that a group may name (`power::Driver`).
pub const POWER_DRIVERS: [&str; 6] = ["redfish", "ipmi", "wol", "agent", "command", "manual"];
/// Buses that a disk rule may name, as the agent reports them.
const TRANSPORTS: [&str; 6] = ["virtio", "nvme", "ata", "scsi", "usb", "other"];
/// Under one order a machine that does not come up after this many power cycles is a case for a person.
const POWER_CYCLES_CEILING: u32 = 10;
const TEXT_BYTES_MAX: usize = 512;

/// The key, and what is wrong with its value.
pub type Wrong = (String, String);

fn wrong<T>(key: impl Into<String>, message: impl Into<String>) -> Result<T, Wrong> {
    Err((key.into(), message.into()))
}

/// # Errors
/// [`Wrong`]: the first key that cannot stand.
pub fn group(name: &str, written: file::Group) -> Result<Group, Wrong> {
    let file::Group {
        channel,
        follow_channel,
        protected,
        confirm,
        power,
        drift,
        bandwidth,
        disk,
        schedule,
        limits,
        deadlines,
        health,
    } = written;
    if follow_channel && channel.is_none() {
        return wrong("follow_channel", "there is no channel to follow; name one with channel");
    }
    if !POWER_DRIVERS.contains(&power.as_str()) {
        return wrong("power", format!("{power:?} is no power driver; there are {}", POWER_DRIVERS.join(", ")));
    }
    if deadlines.power_cycles_max > POWER_CYCLES_CEILING {
        return wrong("deadlines.power_cycles_max", format!("must be 0 to {POWER_CYCLES_CEILING}"));
    }
    Ok(Group {
        name: name.to_string(),
        channel: channel.map(|channel| channel.0.0),
        follow_channel,
        disk: checked_disk(disk)?,
        schedule: checked_schedule(schedule)?,
        limits: limits.into(),
        deadlines: Deadlines {
            queued_seconds: deadlines.queued.0.0,
            netbooting_seconds: deadlines.netbooting.0.0,
            deploying_seconds: deadlines.deploying.0.0,
            rebooting_seconds: deadlines.rebooting.0.0,
            power_cycles_max: deadlines.power_cycles_max,
        },
        health: checked_health(health)?,
        protected,
        confirm,
        power,
        drift: drift.map(|name| name.0.0),
        bandwidth: bandwidth.map(|rate| rate.0.0),
    })
}

impl From<file::Limits> for Limits {
    fn from(written: file::Limits) -> Self {
        Limits { concurrent_max: written.concurrent_max.0, orders_per_hour_max: written.orders_per_hour_max.0 }
    }
}

fn checked_disk(rule: DiskRule) -> Result<disk::Rule, Wrong> {
    let texts = [("serial", &rule.serial), ("wwn", &rule.wwn), ("model", &rule.model), ("transport", &rule.transport)];
    for (key, text) in texts {
        let Some(text) = text else { continue };
        // An empty text would count as "not set" where disks are chosen, and let any disk through.
        if text.trim().is_empty() || text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
            return wrong(format!("disk.{key}"), "must be one line that is not empty");
        }
    }
    if let Some(transport) = &rule.transport
        && !TRANSPORTS.contains(&transport.as_str())
    {
        return wrong("disk.transport", format!("{transport:?} is none of {}", TRANSPORTS.join(", ")));
    }
    if let (Some(min), Some(max)) = (rule.min_bytes, rule.max_bytes)
        && min > max
    {
        return wrong("disk.min_bytes", "is above max_bytes: no disk could be the target");
    }
    let DiskRule { serial, wwn, model, transport, min_bytes, max_bytes } = rule;
    Ok(disk::Rule { serial, wwn, model, transport, min_bytes, max_bytes })
}

fn checked_schedule(written: file::Schedule) -> Result<Schedule, Wrong> {
    let file::Schedule { rebuild, time_zone, max_age, pause, catch_up, blackouts, windows } = written;
    let (max_age_seconds, pause_seconds) = (max_age.map(|age| age.0.0), pause.0.0);
    if let Some(age) = max_age_seconds
        && age < pause_seconds
    {
        let message = format!("{} is shorter than the pause between rebuilds, {}", short(age), short(pause_seconds));
        return wrong("schedule.max_age", message);
    }
    let window = |window: file::Window| Window { cron: window.cron, open_seconds: window.open.0.0 };
    let schedule = Schedule {
        rebuild,
        windows: windows.into_iter().map(window).collect(),
        time_zone,
        blackouts: blackouts.into_iter().map(|days| (days.0.0, days.0.1)).collect(),
        max_age_seconds,
        pause_seconds,
        catch_up,
    };
    // The scheduler's own reading: what it could not keep to must not become a group's schedule.
    match Calendar::parse(&schedule, jiff::tz::db()) {
        Ok(_) => Ok(schedule),
        Err(CalendarError { key, text, why }) => wrong(key, format!("{text:?}: {why}")),
    }
}

fn checked_health(written: file::Health) -> Result<Health, Wrong> {
    let check = match written.check {
        None => None,
        Some(file::Check { http: Some(url), command: None }) => {
            if has_password(&url) {
                return wrong("health.check.http", "carries a user or a password; documents hold no secrets");
            }
            let scheme = url.starts_with("http://") || url.starts_with("https://");
            let plain = url.bytes().all(|byte| byte.is_ascii_graphic());
            if !scheme || !plain || url.len() > TEXT_BYTES_MAX {
                return wrong("health.check.http", format!("{url:?} is no URL like http://{{address}}/health"));
            }
            Some(Check::Http { url })
        }
        Some(file::Check { http: None, command: Some(program) }) => {
            let plain = program.len() <= TEXT_BYTES_MAX && !program.chars().any(char::is_control);
            if !program.starts_with('/') || !plain {
                return wrong("health.check.command", format!("{program:?} is no absolute path of a program"));
            }
            Some(Check::Command { program })
        }
        Some(_) => return wrong("health.check", "is either http or command"),
    };
    Ok(Health { confirmed: written.confirmed, check, soak_seconds: written.soak.0.0 })
}

/// # Errors
/// As [`group`].
pub fn policy(written: file::Policy) -> Result<Policy, Wrong> {
    let file::Policy { confirm_above, expect_above, denied, breaker, fleet, rack, feed } = written;
    Ok(Policy {
        fleet: fleet.into(),
        rack: rack.into(),
        feed: feed.into(),
        breaker: BreakerPolicy { percent_max: breaker.percent_max.0.0, hosts_min: breaker.hosts_min.0 },
        confirm_above: confirm_above.0,
        expect_above: expect_above.0,
        denied: denied.iter().map(|line| denied_mac(line)).collect::<Result<_, _>>()?,
    })
}

/// A line that means no machine would protect none, so it is refused.
fn denied_mac(line: &str) -> Result<Mac, Wrong> {
    let mac = NicMac::from_str(line).map(|mac| mac.0).or_else(|_| HostId::from_str(line).map(|id| id.0));
    mac.map_err(|_| {
        let start: String = line.chars().take(80).collect();
        ("policy.denied".to_string(), format!("{start:?} is no MAC and no host id; for more, label hosts protected"))
    })
}

/// # Errors
/// As [`group`].
pub fn host(written: file::Host) -> Result<(HostKey, HostEntry), Wrong> {
    let file::Host { mac, id, name, group, labels, image, power, drift } = written;
    let key = match (mac, id, &name) {
        (Some(_), Some(_), _) => return wrong("id", "says the same as mac; keep one of them"),
        (Some(Text(NicMac(mac))), None, _) | (None, Some(Text(HostId(mac))), _) => HostKey::Mac(mac),
        (None, None, Some(Text(HostName(name)))) => HostKey::Name(name.clone()),
        (None, None, None) => return wrong("mac", "is missing: a host is known by mac, id or name"),
    };
    let entry = HostEntry {
        name: name.map(|name| name.0.0),
        group: group.map(|group| group.0.0),
        labels: labels.map(|labels| labels.0),
        image: image.map(|image| image.0),
        power,
        drift: drift.map(|name| name.0.0),
    };
    Ok((key, entry))
}
