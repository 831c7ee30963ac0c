//! One entry of the ledger, as listed (`-o json`), as exported (JSON lines) and as CSV columns.

use serde::{Deserialize, Serialize};

/// All of an entry, flat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub number: u64,
    /// Unix seconds.
    pub at: u64,
    /// The same for people, UTC.
    pub time: String,
    /// `ordered` or `runs`.
    pub kind: String,
    pub host: String,
    pub macs: Vec<String>,
    /// `NAME:VERSION`; null: nothing of ours.
    pub image: Option<String>,
    /// Hex digest of its manifest.
    pub manifest: Option<String>,
    pub generation: u64,
    /// Words of the causes; the first one opened the order. `rollout 7` names its number.
    pub causes: Vec<String>,
    pub reason: String,
    pub by: String,
    pub former: Option<String>,
    pub former_manifest: Option<String>,
    /// Hex digest of the entry before this one, and of this one: a copy kept elsewhere shows by the last of them
    /// whether the ledger still is what it was.
    pub previous: String,
    pub digest: String,
}

/// Where the ledger ends: number and digest of its last entry, to be noted elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    pub tip: String,
}

/// What a host ran at the time that was asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAt {
    pub id: String,
    /// As they were known then.
    pub macs: Vec<String>,
    /// Its name of today.
    pub name: Option<String>,
    /// `NAME:VERSION`.
    pub reported: String,
    /// Hex digest of its manifest.
    pub manifest: String,
    /// Of the order that wrote it.
    pub generation: u64,
    /// Unix seconds.
    pub since: u64,
    pub causes: Vec<String>,
    pub reason: String,
    pub by: String,
    /// What it ran before.
    pub former: Option<String>,
    /// Of the entry that says so.
    pub number: u64,
}
