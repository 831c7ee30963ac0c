//! The words between the operator's CLI and the server (JSON over HTTP on the Unix socket, under `/v1`).
//!
//! Names in these types are an interface (design.md section 7): scripts read them through `-o json`.

use super::agent::{Disk, Progress};
use serde::{Deserialize, Serialize};

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
    pub progress: Option<ProgressView>,
    pub system_uuid: Option<String>,
    pub serial: Option<String>,
    /// Disks of the last inventory.
    pub disks: Vec<Disk>,
}

/// An open order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    pub generation: u64,
    pub reason: String,
    pub by: String,
    pub opened_at: u64,
    pub attempts: u32,
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
    pub by: String,
    /// Foreign content on the target disk may be overwritten.
    pub release_disk: bool,
}

/// `POST /v1/hosts/ID/reimage`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reimage {
    /// `None`: what is desired already.
    pub image: Option<String>,
    pub by: String,
    pub reason: String,
    pub release_disk: bool,
}

/// `POST /v1/hosts/ID/hold`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    pub by: String,
    pub reason: String,
    /// Unix seconds; `None`: until released.
    pub until: Option<u64>,
}

/// `POST /v1/hosts/ID/release`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
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
    /// Only in the answer to an import: true when this very content was there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub already_there: Option<bool>,
}

/// `POST /v1/images/NAME:VERSION/export`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Absolute; must not exist yet.
    pub path: std::path::PathBuf,
}
