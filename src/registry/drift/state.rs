//! What is kept of a host's drift in memory, and published.

use super::exceptions::Exceptions;
use super::stored::Listed;
use crate::decide::drift::finding::Aspects;
use crate::registry::View;
use crate::registry::drift_rules::DriftMemory;
use crate::wire::drift::Scan;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, RwLock};

/// Who looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The agent in the running system.
    Agent,
    /// The deploy environment, while that system did not run.
    Outside,
}

impl Source {
    pub const ALL: [Source; 2] = [Source::Agent, Source::Outside];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Source::Agent => "agent",
            Source::Outside => "outside",
        }
    }
}

/// One host, in one generation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    pub generation: u64,
    /// The public key of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex")]
    pub key: Option<[u8; 32]>,
    /// Of the agent's last report.
    pub sequence: u64,
    /// Of that report's bytes: whether it is the very same one that comes again.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex")]
    pub digest: Option<[u8; 32]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Heard>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<Heard>,
    /// Whether something differs that the policy does not allow; `None`: nobody has looked yet.
    pub drifted: Option<bool>,
    /// It reported once, and is late now.
    #[serde(default)]
    pub silent: bool,
    /// Findings that the policy does not allow, with those that are not listed; and how many ask for a rebuild.
    pub findings: u64,
    pub asking: u64,
    #[serde(default)]
    pub noted: Noted,
    /// One for each listed finding that the policy does not allow; found anew after a start.
    #[serde(skip)]
    pub marks: Box<[Mark]>,
}

impl Watched {
    #[must_use]
    pub fn heard(&self, source: Source) -> Option<&Heard> {
        match source {
            Source::Agent => self.agent.as_ref(),
            Source::Outside => self.outside.as_ref(),
        }
    }

    /// Whether what is stored of the judgement is the same.
    pub(super) fn stands_as(&self, other: &Watched) -> bool {
        let stored = |one: &Watched| (one.drifted, one.silent, one.findings, one.asking, one.noted);
        stored(self) == stored(other)
    }

    /// The later of the two looks.
    #[must_use]
    pub fn newest(&self) -> Option<(Source, &Heard)> {
        let heard = Source::ALL.into_iter().filter_map(|source| Some((source, self.heard(source)?)));
        heard.max_by_key(|(_, heard)| heard.at)
    }
}

/// What the host's history says of its standing, so that a host that changes it with each report writes no more than a few
/// lines an hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    pub drifted: Option<bool>,
    pub silent: bool,
    /// Unix seconds of the last line, and of the last ask; 0: none yet.
    pub at: u64,
    pub asked_at: u64,
}

/// The last report of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Unix seconds by the server's clock.
    pub at: u64,
    /// Number of the report that listed the findings.
    pub listed_in: u64,
    pub scan: Scan,
    /// Looks of the whole tree so far, as a quorum counts them: the server's own count, which only rises.
    pub look: u64,
    /// Number of the verification that it came with, of a look from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<u64>,
    pub gaps: u64,
    /// Findings in all, also those that were too many to be listed.
    pub total: u64,
    /// Values of the store that hold the list.
    pub chunks: u16,
}

/// A finding in 16 bytes: enough to count it over the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Of its path.
    pub path: u64,
    /// Of what is there now; 0: it was not read.
    pub content: u32,
    /// That are not allowed.
    pub aspects: Aspects,
    pub asks: bool,
}

/// 64 bits of a path: of five million, two are alike in one case of a million, and then a count is wrong by some.
pub(super) fn path_mark(path: &[u8]) -> u64 {
    let digest = blake3::hash(path);
    digest.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Drift in the writer.
#[derive(Debug, Default)]
pub struct Drift {
    pub hosts: BTreeMap<String, Arc<Watched>>,
    pub exceptions: Arc<Exceptions>,
    /// When a host is to be judged again though nothing comes from it: a grace ends, a rule ends, it is late.
    due: BTreeSet<(u64, String)>,
    due_at: HashMap<String, u64>,
    /// Lists of the group that is being taken, which the store does not have yet.
    pub staged: HashMap<(String, Source), Arc<Listed>>,
    /// Nobody can have reported while the server did not run.
    pub started_at: u64,
    /// Shared with the view.
    pub memory: Arc<DriftMemory>,
}

impl Drift {
    /// What is known of hosts is loaded later.
    pub fn sharing(view: &RwLock<View>) -> Drift {
        let view = view.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        Drift { memory: view.drift_memory().clone(), ..Drift::default() }
    }

    pub fn set_due(&mut self, id: &str, at: Option<u64>) {
        if let Some(former) = self.due_at.remove(id) {
            self.due.remove(&(former, id.to_string()));
        }
        if let Some(at) = at {
            self.due_at.insert(id.to_string(), at);
            self.due.insert((at, id.to_string()));
        }
    }

    /// Takes the host that is due first, if it is due now.
    pub fn take_due(&mut self, now: u64) -> Option<String> {
        let (at, id) = self.due.first().cloned()?;
        if at > now {
            return None;
        }
        self.set_due(&id, None);
        Some(id)
    }

    /// All hosts are judged again, one tick after the other.
    pub fn all_due(&mut self, now: u64) {
        let ids: Vec<String> = self.hosts.keys().cloned().collect();
        ids.iter().for_each(|id| self.set_due(id, Some(now)));
    }
}

/// 32 bytes as hexadecimal digits.
mod hex {
    use crate::wire::manifest::{from_hex, to_hex};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(bytes: &Option<[u8; 32]>, to: S) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(to_hex).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<[u8; 32]>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let bytes = text.map(|text| from_hex(&text).ok_or_else(|| serde::de::Error::custom("not 64 digits")));
        bytes.transpose()
    }
}
