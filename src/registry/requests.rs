//! Requests for many hosts at once, and those that need a second person.
//!
//! Where a request needs a second person it is kept as a proposal that names the
//! hosts by the digest of their ids: whoever confirms it confirms exactly the set that was meant, or is told that the
//! fleet has changed meanwhile.

use super::writer::{Batch, Writer};
use super::{HostView, RegistryError};
use crate::decide::cause::Cause;
use crate::decide::host::Event;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How long a proposal waits for its second person.
pub const PROPOSAL_SECONDS: u64 = 24 * 3600;
/// Proposals that wait at once.
const PROPOSALS_MAX: usize = 100;
const PREFIX: &str = "proposal/";

/// What became of each host of a request, in the order asked.
pub type Asked = Vec<(String, Result<Arc<HostView>, RegistryError>)>;

/// A request that waits for a second person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub number: u64,
    pub by: String,
    /// Unix seconds.
    pub at: u64,
    /// What to do with it once confirmed, as the API took it.
    pub request: String,
    /// One line for the second person.
    pub summary: String,
    pub hosts: u64,
    /// Of the sorted ids.
    pub hosts_digest: String,
}

/// Hex blake3 of the ids, sorted: two requests mean the same hosts when these are equal.
#[must_use]
pub fn digest_of(ids: &[String]) -> String {
    let mut sorted: Vec<&str> = ids.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    blake3::hash(sorted.join("\n").as_bytes()).to_hex().to_string()
}

impl Writer {
    pub(super) fn ask_many(&mut self, ids: Vec<String>, cause: &Cause, batch: &mut Batch, now: u64) -> Asked {
        let ask = |id: String| {
            let event = Event::Ask { cause: cause.clone() };
            let done = self.host_event(&id, &event, None, batch, now);
            (id, done)
        };
        ids.into_iter().map(ask).collect()
    }

    pub(super) fn propose(&mut self, proposal: Proposal, batch: &mut Batch, now: u64) -> Result<u64, RegistryError> {
        let known = self.proposals()?;
        for old in known.iter().filter(|old| old.at + PROPOSAL_SECONDS <= now) {
            batch.put(key(old.number), None);
        }
        if known.len() >= PROPOSALS_MAX {
            return Err(RegistryError::Busy);
        }
        let number = known.iter().map(|old| old.number).max().unwrap_or(0).max(self.last_proposal) + 1;
        self.last_proposal = number;
        // Strings and numbers: serialising them cannot fail.
        batch.put(key(number), serde_json::to_vec(&Proposal { number, at: now, ..proposal }).ok());
        Ok(number)
    }

    /// Takes a proposal for good: whoever confirmed it carries it out. A crash in between loses the request, which is
    /// the safe side.
    pub(super) fn take_proposal(
        &mut self,
        number: u64,
        by: &str,
        batch: &mut Batch,
        now: u64,
    ) -> Result<Proposal, RegistryError> {
        let known = self.proposals()?.into_iter().find(|known| known.number == number);
        let proposal = known.filter(|known| known.at + PROPOSAL_SECONDS > now);
        let proposal = proposal.ok_or(RegistryError::NoProposal(number))?;
        if proposal.by == by {
            return Err(RegistryError::SamePerson(by.to_string()));
        }
        batch.put(key(number), None);
        Ok(proposal)
    }

    pub(super) fn proposals(&self) -> Result<Vec<Proposal>, RegistryError> {
        let items = self.db.scan(PREFIX).map_err(|error| RegistryError::Store(error.to_string()))?;
        // One that is not understood cannot be confirmed; it is left where it is for whoever wants to look.
        Ok(items.iter().filter_map(|item| serde_json::from_slice(&item.value).ok()).collect())
    }
}

fn key(number: u64) -> String {
    format!("{PREFIX}{number:010}")
}
