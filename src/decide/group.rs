//! Groups: what hosts share. All of it is desired state; nothing in here opens an order by itself.

use super::disk;

/// The group of every host that nobody put into another one.
pub const DEFAULT_GROUP: &str = "default";

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// One group, checked. Defaults are careful: no schedule, few at once, limits always on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// A word (`labels::is_word`).
    pub name: String,
    /// `NAME@CHANNEL`; `None`: hosts change their image only by an order that names one.
    pub channel: Option<String>,
    /// A channel that moves asks for a rebuild of this group's hosts.
    pub follow_channel: bool,
    pub disk: disk::Rule,
    pub schedule: Schedule,
    pub limits: Limits,
    pub deadlines: Deadlines,
    pub health: Health,
    /// On the deny list: no order is ever opened for its hosts.
    pub protected: bool,
    /// Every order for hosts of this group needs a second person.
    pub confirm: bool,
    /// Default power driver of its hosts, as `power::Driver` names them; `manual` where unset.
    pub power: String,
    /// Name of its drift policy.
    pub drift: Option<String>,
    /// What its hosts together may take of image data, bytes a second.
    pub bandwidth: Option<u64>,
}

impl Group {
    #[must_use]
    pub fn new(name: &str) -> Group {
        Group {
            name: name.to_string(),
            channel: None,
            follow_channel: false,
            disk: disk::Rule::default(),
            schedule: Schedule::default(),
            limits: Limits::default(),
            deadlines: Deadlines::default(),
            health: Health::default(),
            protected: false,
            confirm: false,
            power: "manual".to_string(),
            drift: None,
            bandwidth: None,
        }
    }
}

/// When hosts are rebuilt by themselves, and when that must not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Cron lines (5 fields) at which every host of the group is asked to be rebuilt.
    pub rebuild: Vec<String>,
    /// When orders of automatic causes may be opened; empty: at any time.
    pub windows: Vec<Window>,
    /// Of all cron lines and blackout days: an IANA name such as `Europe/Berlin`.
    pub time_zone: String,
    /// Days `(first, last)` as `YYYY-MM-DD`, both inside, on which no order of an automatic cause is opened.
    pub blackouts: Vec<(String, String)>,
    /// Rebuild when the disk was written longer ago than this.
    pub max_age_seconds: Option<u64>,
    /// The least time between two rebuilds of one host by automatic causes.
    pub pause_seconds: u64,
    /// After a downtime of the server, do the newest missed `rebuild` once. Otherwise it is skipped and reported.
    pub catch_up: bool,
}

/// A maintenance window: opens by cron, stays open so long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub cron: String,
    pub open_seconds: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule {
            rebuild: Vec::new(),
            windows: Vec::new(),
            time_zone: "UTC".to_string(),
            blackouts: Vec::new(),
            max_age_seconds: None,
            pause_seconds: 24 * HOUR,
            catch_up: false,
        }
    }
}

/// Caps of one scope (the fleet, a group, a rack, a power feed). There is no value for "no limit".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Hosts with an open order at once.
    pub concurrent_max: u32,
    /// Orders opened within any 60 minutes.
    pub orders_per_hour_max: u32,
}

impl Default for Limits {
    /// 20 at once is what Metal3 and we found careful (peers.md, Ironic's cap is 250); three times as many an hour.
    fn default() -> Self {
        Limits { concurrent_max: 20, orders_per_hour_max: 60 }
    }
}

/// How long a host may stay in a state that waits for the machine, and what is done when it is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Order open, but the machine did not ask for its script. Long: without a power driver it is a person's turn.
    pub queued_seconds: u64,
    /// Script served, no word of the agent.
    pub netbooting_seconds: u64,
    /// Since the agent's last report or progress.
    pub deploying_seconds: u64,
    /// Written and read back, but the machine did not come back.
    pub rebooting_seconds: u64,
    /// Power cycles under one order before the host is Failed.
    pub power_cycles_max: u32,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            queued_seconds: 24 * HOUR,
            // A server's firmware takes up to ten minutes (memory training) before it asks for anything.
            netbooting_seconds: 15 * MINUTE,
            deploying_seconds: 10 * MINUTE,
            rebooting_seconds: 20 * MINUTE,
            power_cycles_max: 2,
        }
    }
}

/// What makes a rebuilt host count as healthy in a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The installed system must have said which image it runs. Off only for images without agent or phone-home.
    pub confirmed: bool,
    pub check: Option<Check>,
    /// How long all of a wave must stay healthy before the next one begins.
    pub soak_seconds: u64,
}

/// A check from the server's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// GET of this URL answers 2xx; `{address}` and `{name}` are the host's.
    Http { url: String },
    /// This program exits 0; the host is in its environment (`REGILD_HOST`, `REGILD_ADDRESS`, `REGILD_NAME`).
    Command { program: String },
}

impl Default for Health {
    fn default() -> Self {
        Health { confirmed: true, check: None, soak_seconds: 10 * MINUTE }
    }
}
