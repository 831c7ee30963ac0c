//! The words about drift between the installed agent, the deploy environment and the server (JSON over HTTP).
//!
//! `GET /agent/v1/drift/terms` -> [`Terms`]: what to compare with, by which rules, how often.
//! `POST /agent/v1/drift/key` [`NewKey`] -> [`KeyTaken`]: once for each generation, from the host's leased address.
//! `POST /agent/v1/drift/report` [`Signed`] -> [`Received`].
//! `GET /images/baselines/DIGEST`: the baseline (`wire::baseline`).
//!
//! Like `wire::standby` these have no version: the agent lies in golden images and outlives servers. A field that one
//! side does not know is passed over, a new one has a default.

pub mod convert;

use crate::decide::drift::path;
use serde::{Deserialize, Serialize};

/// Bytes of a report's payload. A longer one is refused.
pub const REPORT_BYTES_MAX: usize = 192 << 10;
/// Findings in one report; the rest is counted.
pub const FINDINGS_MAX: usize = 500;
/// Content of one side of one file.
pub const CONTENT_BYTES_MAX: usize = 8 << 10;
/// Of all files in one report.
pub const CONTENTS_BYTES_MAX: usize = 64 << 10;

/// What the server tells an agent of its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub host: String,
    pub generation: u64,
    /// `NAME:VERSION` that the host runs, and its manifest's digest.
    pub image: String,
    pub manifest: String,
    /// Digest of its baseline; `None`: there is none yet, and why stands in `reason`.
    pub baseline: Option<String>,
    #[serde(default)]
    pub reason: String,
    /// The public key that the server has for this generation, hex; `None`: it waits for one.
    pub key: Option<String>,
    /// Number of the last report that was taken; the next one is larger.
    pub sequence: u64,
    /// Digest of the rules, so that they need not be compared.
    pub policy: String,
    pub rules: Vec<Rule>,
    /// Between two looks at all metadata.
    pub scan_seconds: u64,
    /// Within which every byte is read once.
    pub cycle_seconds: u64,
    /// Between two reports when nothing changes.
    pub report_seconds: u64,
}

/// One rule of the policy, as `decide::drift::policy::Rule` means it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub pattern: PathText,
    /// Words of `Aspect`; empty: all, of a rule that allows all but `privilege`.
    #[serde(default)]
    pub aspects: Vec<String>,
    /// `allow`, `report` or `rebuild`.
    pub action: String,
    #[serde(default)]
    pub grace_seconds: u64,
    #[serde(default)]
    pub scans_min: u32,
    #[serde(default)]
    pub content: bool,
    #[serde(default)]
    pub why: String,
    #[serde(default)]
    pub until: Option<u64>,
    #[serde(default)]
    pub from: String,
}

/// A path in the form of `decide::drift::path::to_text`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathText(pub Vec<u8>);

impl Serialize for PathText {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&path::to_text(&self.0))
    }
}

impl<'de> Deserialize<'de> for PathText {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<PathText, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = path::from_text(&text);
        bytes.map(PathText).ok_or_else(|| serde::de::Error::custom(format!("{text:?}: a backslash is \\\\ or \\xNN")))
    }
}

/// The key that the agent drew for this generation: ed25519.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    pub host: String,
    pub generation: u64,
    /// 32 bytes, hex.
    pub public_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyTaken {
    pub sequence: u64,
}

/// A report and the host's signature over the bytes of `payload` after [`SIGNED_FOR`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// A [`Report`] as JSON text.
    pub payload: String,
    /// 64 bytes, hex.
    pub signature: String,
}

/// Put in front of what is signed: a signature for one purpose is none for another.
pub const SIGNED_FOR: &[u8] = b"regild drift report 1\n";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub host: String,
    pub generation: u64,
    /// Larger than every one before it within the generation.
    pub sequence: u64,
    /// Digests of what it was compared with, and by which rules.
    pub baseline: String,
    pub policy: String,
    pub scan: Scan,
    /// What was not looked at, and why.
    pub gaps: Vec<Gap>,
    /// `Some(n)`: all findings are those of report n, and `findings` is empty.
    pub same_as: Option<u64>,
    /// All that differ now and are not allowed, in the order of their paths; at most [`FINDINGS_MAX`]. Where there is no room
    /// for all, those that the terms would have rebuilt come in before the others.
    pub findings: Vec<Finding>,
    /// How many there are in all.
    pub findings_total: u64,
}

/// The look at the host that a report is of. Times are Unix seconds by the host's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scan {
    /// `full`, `metadata`, `events`, or `outside` (from the deploy environment).
    pub kind: String,
    /// Looks of the whole tree so far in this generation. Another number than before is another look; it is the server that
    /// counts them for a quorum.
    pub number: u64,
    pub began: u64,
    pub ended: u64,
    pub paths: u64,
    pub read_bytes: u64,
    /// Every file's content was read after this; 0: not yet all of them once.
    pub content_since: u64,
    /// The kernel lost count of changes so often since the start: each time all was looked at.
    pub overflows: u64,
}

/// A place that was not looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gap {
    pub path: PathText,
    pub reason: String,
    /// Unix seconds by the host's clock.
    pub since: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub path: PathText,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Node>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Node>,
    /// When it was first seen, by the host's clock, and in how many looks since.
    pub first_seen: u64,
    pub scans: u32,
    /// What the host's file holds now, where the policy lets it leave the host: small, and UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// `decide::drift::finding::Node` as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// A word of `Kind`.
    pub kind: String,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub modified: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Hex blake3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Of a symlink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PathText>,
    /// Major and minor of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
    /// Names and values, both as [`PathText`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(PathText, PathText)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Number of the last report that was taken.
    pub sequence: u64,
    /// The terms changed: ask for them.
    #[serde(default)]
    pub terms_changed: bool,
}
