//! The words between the operator's CLI and the server (JSON over HTTP on the Unix socket, under `/v1`).
//!
//! Names in these types are an interface (design.md section 7): scripts read them through `-o json`.

use super::agent::{Disk, Progress};
use super::image_facts::{Facts, Provenance};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A host as listed and shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    pub id: String,
    pub macs: Vec<String>,
    pub name: Option<String>,
    pub state: String,
    /// What a person wants to know beside the state: the step, `confirmed`, the reason of a failure.
    pub detail: String,
    pub group: String,
    /// `NAME:VERSION`; null before the first order.
    pub desired: Option<String>,
    pub reported: Option<String>,
    pub generation: u64,
    pub reported_generation: u64,
    /// Unix seconds of the last change of state.
    pub since: u64,
    pub order: Option<Order>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Causes that ask for a rebuild and wait; empty while an order is open.
    #[serde(default)]
    pub asks: Vec<Cause>,
    /// What they wait for.
    #[serde(default)]
    pub waits: Option<String>,
    /// Unix seconds: when the reported image was written; 0 before the first.
    #[serde(default)]
    pub built_at: u64,
    pub progress: Option<ProgressView>,
    pub system_uuid: Option<String>,
    pub serial: Option<String>,
    /// The power driver: its own, or its group's.
    #[serde(default)]
    pub power: String,
    /// Unix seconds: when the agent of its installed system last asked, since the server started.
    #[serde(default)]
    pub agent_heard_at: Option<u64>,
    /// Disks of the last inventory.
    pub disks: Vec<Disk>,
    /// Looks at its disk from outside; null before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verification>,
    /// That it does not get further, and why; null when all is in time.
    #[serde(default)]
    pub stuck: Option<Stuck>,
}

/// A host that does not get further.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    /// Unix seconds: since when the state, or the oldest cause, waits.
    pub since: u64,
    /// Seconds after the deadline of its state; null where only a cause waits, which has none.
    pub late_seconds: Option<u64>,
    /// What is missing, for people.
    pub missing: String,
}

/// An open order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    pub generation: u64,
    pub reason: String,
    pub by: String,
    pub opened_at: u64,
    pub attempts: u32,
    pub power_cycles: u32,
    /// Why the attempt that is under way is the last one: the version was blocked.
    #[serde(default)]
    pub blocked: Option<String>,
    pub causes: Vec<Cause>,
}

/// What asks, or asked, for a rebuild.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cause {
    /// `operator`, `rollout`, `schedule`, `max_age`, `drift`, `channel`, `image_deprecated`, `image_blocked`.
    pub kind: String,
    pub reason: String,
    pub by: String,
    pub at: u64,
    pub image: Option<String>,
}

/// `POST /v1/reimage`: hosts by id, MAC or name, or by selector.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReimageMany {
    #[serde(default)]
    pub select: Option<String>,
    #[serde(default)]
    pub ids: Vec<String>,
    /// `None`: what each desires already.
    #[serde(default)]
    pub image: Option<String>,
    /// On whose behalf; see [`Release::by`].
    #[serde(default)]
    pub by: String,
    pub reason: String,
    #[serde(default)]
    pub release_disk: bool,
    /// How many hosts are meant; needed above the fleet's threshold.
    #[serde(default)]
    pub expect_count: Option<usize>,
    /// Two requests with one key are one request.
    #[serde(default)]
    pub key: Option<String>,
}

/// `POST /v1/verify`: the disks of these hosts are to be compared with their image from outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyMany {
    pub ids: Vec<String>,
    /// On whose behalf; see [`Release::by`].
    #[serde(default)]
    pub by: String,
    pub reason: String,
    /// Make the machines netboot for it, now.
    #[serde(default)]
    pub power: bool,
    /// How many machines are to be rebooted; needed above the fleet's threshold.
    #[serde(default)]
    pub expect_count: Option<usize>,
}

/// What became of it, for one host.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct VerifyAsked {
    pub id: String,
    pub name: Option<String>,
    pub number: Option<u64>,
    /// Its power driver; empty where it was refused.
    #[serde(default)]
    pub power: String,
    pub refused: Option<String>,
}

/// What is known of looks at a host's disk from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// One that waits for its machine, or is under way.
    pub asked: Option<VerifyWish>,
    pub last: Option<LastVerify>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyWish {
    pub number: u64,
    pub reason: String,
    pub by: String,
    pub asked_at: u64,
    pub attempts: u32,
    pub power: bool,
    /// Why it does not begin yet; in `host show`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastVerify {
    pub number: u64,
    pub at: u64,
    /// `clean`, `3 findings`, `failed: ...`.
    pub result: String,
}

/// What became of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// It waits for a second person under this number, and nothing was asked yet.
    pub proposal: Option<u64>,
    pub hosts: Vec<AskedHost>,
}

/// One host of a request: an order is open, or it waits, or it was refused.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AskedHost {
    pub id: String,
    pub name: Option<String>,
    pub order: Option<u64>,
    pub image: Option<String>,
    pub waits: Option<String>,
    pub refused: Option<String>,
    /// Its power driver, which makes the machine come; empty where it was refused.
    #[serde(default)]
    pub power: String,
}

/// The answer to `POST /v1/fleet/apply`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApplyDone {
    pub changes: usize,
    /// It waits for a second person under this number, and nothing was changed yet.
    #[serde(default)]
    pub proposal: Option<u64>,
    /// What was changed, or is to be, for people.
    pub text: String,
}

/// A request that waits for a second person.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Proposal {
    pub number: u64,
    /// `reimage`, `rollout` or `apply`.
    pub kind: String,
    pub by: String,
    pub at: u64,
    pub summary: String,
    pub hosts: u64,
}

/// What a confirmed proposal became: one of the two.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Confirmed {
    pub asked: Option<Asked>,
    pub rollout: Option<RolloutStarted>,
}

/// `POST /v1/rollouts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRollout {
    pub select: String,
    /// `None` with `undo`.
    pub image: Option<String>,
    /// A rollout whose hosts go back to what they ran before.
    pub undo: Option<u64>,
    /// On whose behalf; see [`Release::by`].
    #[serde(default)]
    pub by: String,
    pub reason: String,
    pub canary: u32,
    /// Counts (`5`) or percents (`20%`), the last one repeated.
    pub waves: Vec<String>,
    pub spread: String,
    pub spread_percent: u32,
    pub failures_max: u32,
    /// `None`: as the group of the hosts says.
    pub soak_seconds: Option<u64>,
    /// Until when a host that is Ready must be confirmed and pass its check; `None`: 20 minutes.
    #[serde(default)]
    pub health_seconds: Option<u64>,
    pub check_url: Option<String>,
    pub expect_count: Option<usize>,
    /// Show the plan, start nothing.
    pub dry_run: bool,
}

/// The answer: the plan in words, and its number when it was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolloutStarted {
    pub number: Option<u64>,
    /// It waits for a second person under this number, and nothing was started yet.
    #[serde(default)]
    pub proposal: Option<u64>,
    pub hosts: usize,
    pub text: String,
}

/// A rollout as listed and shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rollout {
    pub number: u64,
    pub stage: String,
    /// Why it stands still.
    pub detail: String,
    pub selector: String,
    /// `NAME:VERSION`, or `undoes N`.
    pub goal: String,
    pub by: String,
    pub reason: String,
    pub made_at: u64,
    /// From 1.
    pub wave: usize,
    pub waves: usize,
    pub hosts: usize,
    pub asked: usize,
    pub healthy: usize,
    pub failed: usize,
    /// What the next step waits for, one line each.
    pub waits: Vec<String>,
    /// Hosts that failed or were left out, and why, in the plan's order; only where one rollout is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcomes: Vec<HostOutcome>,
    /// The plan in words; only where one rollout is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

/// What became of a host that did not get through its wave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostOutcome {
    pub id: String,
    pub name: Option<String>,
    /// `failed` or `left out`.
    pub outcome: String,
    pub reason: String,
}

/// A channel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Channel {
    /// `NAME@CHANNEL`.
    pub name: String,
    /// `NAME:VERSION`.
    pub image: String,
    pub by: String,
    pub reason: String,
    pub at: u64,
}

/// One line of `GET /v1/channels/NAME@CHANNEL/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelMove {
    /// Unix seconds.
    pub at: u64,
    pub by: String,
    /// `NAME:VERSION`; null for the first.
    pub from: Option<String>,
    pub to: String,
    pub reason: String,
}

/// `PUT /v1/channels/NAME@CHANNEL`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetChannel {
    pub version: String,
    /// On whose behalf; see [`Release::by`].
    #[serde(default)]
    pub by: String,
    pub reason: String,
}

/// `POST /v1/images/NAME:VERSION/mark`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkImage {
    /// `preview`, `active`, `deprecated`, `blocked` or `retired`.
    pub mark: String,
    /// On whose behalf; see [`Release::by`].
    #[serde(default)]
    pub by: String,
    pub reason: String,
}

/// `GET /v1/brakes`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Brakes {
    pub stopped: Option<Stopped>,
    /// Seconds by which the clock jumped; schedules are held until `regild clock accept`.
    pub clock_held: Option<i64>,
    pub tripped: Option<Tripped>,
    /// Hosts that ask for a rebuild and wait.
    pub waiting: usize,
    /// Open orders.
    pub open: usize,
}

/// `regild stop` was pressed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stopped {
    pub by: String,
    pub reason: String,
    pub at: u64,
    pub running_too: bool,
}

/// The fleet breaker has tripped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tripped {
    pub reason: String,
    pub at: u64,
}

/// `POST /v1/stop`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopAsked {
    /// On whose behalf; see [`Release::by`].
    #[serde(default)]
    pub by: String,
    pub reason: String,
    pub running_too: bool,
}

/// `POST /v1/resume`, `POST /v1/breaker/reset`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByAndWhy {
    /// On whose behalf; see [`Release::by`].
    #[serde(default)]
    pub by: String,
    pub reason: String,
}

/// Where a running deploy stands.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ProgressView {
    #[serde(flatten)]
    pub progress: Progress,
    /// Mean rate of the current step, bytes a second.
    pub rate_bytes: u64,
}

/// `POST /v1/hosts/ID/approve`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    pub image: String,
    /// On whose behalf; see [`Release::by`].
    #[serde(default)]
    pub by: String,
    /// Foreign content on the target disk may be overwritten.
    pub release_disk: bool,
}

/// `POST /v1/hosts/ID/hold`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// On whose behalf; see [`Release::by`].
    #[serde(default)]
    pub by: String,
    pub reason: String,
    /// Unix seconds; `None`: until released.
    pub until: Option<u64>,
}

/// `POST /v1/hosts/ID/release`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// On whose behalf: a remark, and heeded from root only. Who asks is the user who opened the socket.
    #[serde(default)]
    pub by: String,
}

/// One line of history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryLine {
    pub number: u64,
    pub at: u64,
    pub generation: u64,
    pub from: String,
    pub to: String,
    pub cause: String,
    pub actor: String,
}

/// One line of `GET /v1/watch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WatchLine {
    /// Host id.
    pub host: String,
    #[serde(flatten)]
    pub line: HistoryLine,
}

/// Any answer that is not 2xx, on every listener: what was wrong, in words for the person who must act.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    pub error: String,
}

/// A golden image version as listed and shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// `NAME:VERSION`.
    pub image: String,
    /// Hex blake3 of the encoded manifest: what orders refer to.
    pub manifest: String,
    /// Hex digest of the content, equal for equal images however they are packed.
    pub content_digest: String,
    pub image_bytes: u64,
    /// Bytes that are no holes.
    pub data_bytes: u64,
    /// Compressed bytes that this import added to the store.
    pub added_bytes: u64,
    /// Unix seconds.
    pub imported_at: u64,
    /// Where it came from, for people.
    pub source: String,
    /// Hosts whose desired or reported image this is.
    pub hosts: usize,
    /// `preview`, `active`, `deprecated`, `blocked` or `retired`.
    #[serde(default)]
    pub stage: String,
    /// Why no host gets it, for what the store knows of it: it is damaged, or no trusted key has signed it.
    #[serde(default)]
    pub refused: Option<String>,
    /// Trusted keys that signed it.
    #[serde(default)]
    pub signed_by: Vec<String>,
    /// What its maker said of it.
    #[serde(default, skip_serializing_if = "Provenance::is_empty")]
    pub provenance: Provenance,
    /// What it says of itself; not in a list of versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Box<Facts>>,
    /// Only in the answer to an import: true when this very content was there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub already_there: Option<bool>,
}

/// `POST /v1/images/NAME:VERSION/export`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Absolute; must not exist yet, unless `force` is set.
    pub path: std::path::PathBuf,
    /// `raw` (the default) or `qcow2`.
    #[serde(default)]
    pub format: Option<String>,
    /// Put it in the place of a file that is there.
    #[serde(default)]
    pub force: bool,
}
