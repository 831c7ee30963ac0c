//! The words about drift between server and operator (JSON over the Unix socket). All times are Unix seconds by the
//! server's clock, except where a field is a host's own.
//!
//! `GET /v1/drift` -> [`Line`]s; `GET /v1/drift/hosts/{id}` -> [`Shown`]; `GET /v1/drift/hosts/{id}/explain?path=TEXT` ->
//! [`Explained`]; `GET /v1/drift/top` -> [`Top`]s; `GET` and `POST /v1/drift/exceptions` ([`Accept`]) -> [`Exception`];
//! `DELETE /v1/drift/exceptions/{number}`; `POST /v1/drift/hosts/{id}/forget-key`: the next key is taken.

use super::drift::{Finding, Gap, Rule, Scan};
use serde::{Deserialize, Serialize};

/// One host in `drift list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub host: String,
    pub name: Option<String>,
    pub group: String,
    /// `NAME:VERSION` that it runs.
    pub image: Option<String>,
    /// `clean`; `drifted`; `silent`: it reported once and is late now, which is a finding by itself; `unwatched`: it never
    /// reported since it was built; `no_baseline`: nothing to compare with yet.
    pub standing: String,
    /// Differences that the policy does not allow, and how many of them ask for a rebuild by now.
    pub findings: u64,
    pub asking: u64,
    pub reported_at: Option<u64>,
    /// The end of the last look at the whole tree, by the host's clock.
    pub looked_at: Option<u64>,
    /// Every file's content was read after this, by the host's clock.
    pub content_since: Option<u64>,
    /// Places that were not looked at.
    pub gaps: u64,
    /// `agent` or `outside`.
    pub source: Option<String>,
}

/// `drift show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    #[serde(flatten)]
    pub line: Line,
    /// Why there is no baseline, or where it comes from.
    pub baseline: String,
    pub scan: Option<Scan>,
    pub gaps_listed: Vec<Gap>,
    pub found: Vec<Found>,
    /// What differs and was accepted (`drift accept`) by a path without wildcards: no finding, `aspects` is empty.
    #[serde(default)]
    pub accepted: Vec<Found>,
    /// How many findings the host has in all: more than are listed when it has too many to send.
    pub findings_total: u64,
}

/// One finding, judged by the policy of now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    #[serde(flatten)]
    pub finding: Finding,
    /// Words of `Aspect` that are not allowed.
    pub aspects: Vec<String>,
    /// `report`, `rebuild` or `rebuild_later` (grace or quorum not reached yet).
    pub action: String,
    /// The rule that decided, `policy web, rule 3`; `no rule`.
    pub rule: String,
    pub why: String,
    /// When the server first heard of it.
    pub known_since: u64,
    /// A unified diff from the image's file to the host's, where the policy lets its content leave the host.
    pub diff: Option<String>,
}

/// `drift explain HOST PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    pub path: String,
    /// Whether the path is in the image's baseline; `None`: there is no baseline.
    pub in_image: Option<bool>,
    /// The present finding at this path.
    pub finding: Option<Finding>,
    /// For each aspect the rule that decides it; `None`: no rule, so it is reported.
    pub decided: Vec<Decided>,
    /// A rule that keeps scans out of this path altogether.
    pub pruned_by: Option<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    pub aspect: String,
    pub rule: Option<Rule>,
}

/// One line of `drift top`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Top {
    pub path: String,
    pub aspects: Vec<String>,
    pub hosts: u64,
    /// How many of them have the very same content there now: what the next image should contain.
    pub same_content: u64,
    pub groups: Vec<String>,
}

/// `drift accept`: a difference that may be, for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    pub pattern: String,
    /// Empty: all but `privilege`.
    #[serde(default)]
    pub aspects: Vec<String>,
    pub scope: Scope,
    /// Every exception ends by itself.
    pub until: u64,
    pub why: String,
}

/// For which hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Group(String),
    Host(String),
    /// `NAME` or `NAME:VERSION`.
    Image(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    pub number: u64,
    #[serde(flatten)]
    pub accepted: Accept,
    pub by: String,
    pub at: u64,
    /// It has ended; kept a while to be explained.
    pub ended: bool,
}
