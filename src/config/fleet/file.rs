//! A fleet document as written: TOML, YAML, and JSON between CLI and server, one form for all. Unknown keys are
//! refused, so that a typing error cannot silently leave a limit or a window out. [`super::Fleet`] is what all
//! documents together mean once checked. Every key is explained here; config/fleet/ shows whole documents.

use super::drift::Drift;
use super::settings::PowerSettings;
use super::words::{
    Cap, Channel, DAY, Days, DriftName, HOUR, HostId, HostName, LabelTable, MINUTE, NicMac, Percent, Span, Text, Word,
};
use crate::config::bandwidth::Bandwidth;
use crate::decide::{brakes, group};
use crate::wire::agent::DiskRule;
use crate::wire::reference::ImageRef;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

// Every brake has a floor of one and a ceiling, so that neither a typing error nor a generous mood switches it off.

/// As many agents as the server is tried with at once (faults.md, 5).
pub const CONCURRENT_CEILING: u32 = 500;
/// 100,000 hosts in 50 hours.
pub const ORDERS_PER_HOUR_CEILING: u32 = 2_000;
/// Hosts that one person alone may ever send into a rebuild by one request.
pub const CONFIRM_CEILING: u32 = 1_000;
/// Hosts that a selector may ever match without `--expect-count`.
pub const EXPECT_CEILING: u32 = 100;
/// A breaker that waits for more than half of the fleet is none, nor one that waits for more hosts than this.
pub const BREAKER_PERCENT_CEILING: u32 = 50;
pub const BREAKER_HOSTS_CEILING: u32 = 20;

/// One file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    /// At most one file of a fleet has it. Where it is, it is whole: what it leaves out has its default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// By name. A group that is written is written whole: what it leaves out has its default.
    #[serde(rename = "group", skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<Text<Word>, Group>,
    /// What may differ from the images, by name; whole, as a group is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub drift: BTreeMap<Text<Word>, Drift>,
    #[serde(rename = "host", skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Host>,
    #[serde(rename = "reservation", skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<Reservation>,
}

/// One host. What is left out stays as it is, since operators and rollouts change hosts too; a table that is there
/// is whole (`labels = {}` takes all labels away).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Host {
    /// Which host: one of its MACs, or its id, or (for a host that the server knows) its name alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Text<NicMac>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Text<HostId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<HostName>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Text<Word>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelTable>,
    /// `NAME:VERSION` that it should run. A wish: no order is opened for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Text<ImageRef>>,
    /// For the power driver; never a secret ([`super::settings`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerSettings>,
    /// A drift policy that comes before its group's; an empty text takes it away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<Text<DriftName>>,
}

/// A fixed address for a MAC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    pub mac: Text<NicMac>,
    pub address: Text<Ipv4Addr>,
}

/// See [`group::Group`] for what each means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Group {
    /// `NAME@CHANNEL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<Text<Channel>>,
    pub follow_channel: bool,
    pub protected: bool,
    pub confirm: bool,
    /// Driver of hosts that name none: one of [`super::check::POWER_DRIVERS`].
    pub power: String,
    /// The drift policy of its hosts; without one the defaults of their images' distribution hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<Text<Word>>,
    /// What its hosts together may take of image data, `500MB/s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Text<Bandwidth>>,
    pub disk: DiskRule,
    pub schedule: Schedule,
    pub limits: Limits,
    pub deadlines: Deadlines,
    pub health: Health,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Cron lines of five fields.
    pub rebuild: Vec<String>,
    pub time_zone: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Text<Span<HOUR, { 3660 * DAY }>>>,
    /// Ten minutes at least: a host that needs a rebuild more often has something else wrong.
    pub pause: Text<Span<{ 10 * MINUTE }, { 366 * DAY }>>,
    pub catch_up: bool,
    /// `2026-12-20..2027-01-03`, or one day.
    pub blackouts: Vec<Text<Days>>,
    pub windows: Vec<Window>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    pub cron: String,
    /// How long it stays open.
    pub open: Text<Span<MINUTE, { 7 * DAY }>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub concurrent_max: Cap<CONCURRENT_CEILING>,
    pub orders_per_hour_max: Cap<ORDERS_PER_HOUR_CEILING>,
}

/// How long each waiting state may last: a minute to a week, so that no state hangs for ever.
type Deadline = Text<Span<MINUTE, { 7 * DAY }>>;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deadlines {
    pub queued: Deadline,
    pub netbooting: Deadline,
    pub deploying: Deadline,
    pub rebooting: Deadline,
    pub power_cycles_max: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    pub confirmed: bool,
    pub soak: Text<Span<0, { 7 * DAY }>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
}

/// One of the two.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Check {
    /// A URL, in which `{address}` and `{name}` are the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Absolute path of a program on the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// See [`brakes::Policy`]. What the server forbids by itself (to rebuild the machine that it runs on) is not in here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// A request for more hosts needs a second person.
    pub confirm_above: Cap<CONFIRM_CEILING>,
    /// A request for more hosts needs `--expect-count`.
    pub expect_above: Cap<EXPECT_CEILING>,
    /// No order is ever opened for these: MACs or host ids. (A label `protected` does the same.)
    pub denied: Vec<String>,
    pub breaker: Breaker,
    pub fleet: Limits,
    /// Of each rack, by the label `rack`.
    #[serde(deserialize_with = "rack")]
    pub rack: Limits,
    /// Of each power feed, by the label `feed`.
    #[serde(deserialize_with = "feed")]
    pub feed: Limits,
}

/// A scope's limits as written: what is left out has the default of that scope, not that of the whole fleet, which is
/// wider.
macro_rules! limits_of_scope {
    ($read:ident, $Written:ident) => {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct $Written {
            concurrent_max: Cap<CONCURRENT_CEILING>,
            orders_per_hour_max: Cap<ORDERS_PER_HOUR_CEILING>,
        }

        impl Default for $Written {
            fn default() -> Self {
                let Limits { concurrent_max, orders_per_hour_max } = Policy::default().$read;
                $Written { concurrent_max, orders_per_hour_max }
            }
        }

        fn $read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Limits, D::Error> {
            let $Written { concurrent_max, orders_per_hour_max } = $Written::deserialize(deserializer)?;
            Ok(Limits { concurrent_max, orders_per_hour_max })
        }
    };
}
limits_of_scope!(rack, RackLimits);
limits_of_scope!(feed, FeedLimits);

/// See [`brakes::BreakerPolicy`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    pub percent_max: Text<Percent<BREAKER_PERCENT_CEILING>>,
    pub hosts_min: Cap<BREAKER_HOSTS_CEILING>,
}

impl Default for Group {
    fn default() -> Self {
        Group::from(&group::Group::new(group::DEFAULT_GROUP))
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule::from(&group::Schedule::default())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::from(&group::Limits::default())
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines::from(&group::Deadlines::default())
    }
}

impl Default for Health {
    fn default() -> Self {
        Health::from(&group::Health::default())
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker::from(&brakes::BreakerPolicy::default())
    }
}

impl Default for Policy {
    fn default() -> Self {
        Policy::from(&brakes::Policy::default())
    }
}
