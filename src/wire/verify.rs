//! The words of a verification: the deploy environment looks at a host's disk, and the server hears what it saw.
//!
//! `POST /agent/v1/verify/checkin` [`VerifyCheckIn`] -> [`VerifyJob`]; then `POST /agent/v1/verify/report`
//! [`VerifyReport`] -> [`VerifyAnswer`], once. The protocol is that of [`super::agent`], and fields that one side does not
//! know are refused as there. No word of an order is among these: a job of this kind names no disk to write, and its
//! session may say nothing that an order's may.

use super::agent::{DiskId, Inventory};
use super::drift;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyCheckIn {
    pub protocol: u32,
    /// Host id and number as on the kernel command line.
    pub host: String,
    pub number: u64,
    /// The one-time token of the kernel command line, hex.
    pub token: String,
    /// A secret that the agent drew at start, hex, 32 bytes; as in an order's check-in.
    pub session: String,
    pub inventory: Inventory,
}

/// What to look at, and what with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyJob {
    pub protocol: u32,
    pub number: u64,
    /// The disk that regild wrote for this host, to be read. Another one is no finding but a failure.
    pub own_disk: DiskId,
    /// Image, manifest, baseline and rules, as the installed agent has them.
    pub terms: drift::Terms,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyReport {
    pub protocol: u32,
    pub host: String,
    pub number: u64,
    pub session: String,
    pub outcome: VerifyOutcome,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyOutcome {
    /// The disk was looked at; `scan.kind` is `outside`.
    Looked { report: drift::Report },
    /// It was not. `reason` is for people; `listing` is what was seen (disks).
    Failed { reason: String, listing: Vec<String> },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyAnswer {
    /// On stable storage. False: nobody waits for it any more (an order was opened meanwhile).
    pub taken: bool,
    pub reason: Option<String>,
}
