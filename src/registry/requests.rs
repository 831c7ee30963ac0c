//! Requests for many hosts at once, and those that need a second person.
//!
//! Where a request needs a second person it is kept as a proposal with the digest of what it means (hosts, a plan, the
//! changes of a document): whoever confirms it confirms exactly that, or is told that the fleet has changed meanwhile,
//! and then the proposal stays. Two persons are two users of this machine (`http::peer`), whatever they are called.

use super::writer::{Batch, Writer, fitting};
use super::{HostView, RegistryError};
use crate::db::DbError;
use crate::decide::cause::Cause;
use crate::decide::host::Event;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How long a proposal waits for its second person.
pub const PROPOSAL_SECONDS: u64 = 24 * 3600;
/// Proposals that wait at once.
const PROPOSALS_MAX: usize = 100;
const PREFIX: &str = "proposal/";
const LAST_KEY: &str = "fleet/last-proposal";

/// What became of each host of a request, in the order asked.
pub type Asked = Vec<(String, Result<Arc<HostView>, RegistryError>)>;

/// What is to be done once a second person has confirmed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProposalKind {
    Reimage,
    Rollout,
    /// The documents themselves are not kept: they may be larger than any record, and the second person is to have them
    /// before his eyes.
    Apply,
}

impl ProposalKind {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            ProposalKind::Reimage => "reimage",
            ProposalKind::Rollout => "rollout",
            ProposalKind::Apply => "apply",
        }
    }
}

/// A request that waits for a second person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub number: u64,
    /// For people; who it is, `by_uid` says.
    pub by: String,
    pub by_uid: u32,
    /// Unix seconds.
    pub at: u64,
    pub kind: ProposalKind,
    /// As the API took it; empty for documents.
    pub request: String,
    /// One line for the second person.
    pub summary: String,
    pub hosts: u64,
    /// Of what it means.
    pub digest: String,
}

impl Proposal {
    /// Whether this user may confirm it now.
    ///
    /// # Errors
    /// [`RegistryError::NoProposal`] when its day is over, [`RegistryError::SamePerson`].
    pub fn confirmable_by(&self, uid: u32, now: u64) -> Result<(), RegistryError> {
        if self.is_over(now) {
            return Err(RegistryError::NoProposal(self.number));
        }
        if self.by_uid == uid {
            return Err(RegistryError::SamePerson(self.by.clone()));
        }
        Ok(())
    }

    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        self.at + PROPOSAL_SECONDS <= now
    }
}

/// Hex blake3 of the ids, sorted: two requests mean the same hosts when these are equal.
#[must_use]
pub fn digest_of(ids: &[String]) -> String {
    let mut sorted: Vec<&str> = ids.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    blake3::hash(sorted.join("\n").as_bytes()).to_hex().to_string()
}

impl Writer {
    /// A number is never given twice: who looked at 7 yesterday must not confirm another 7 today.
    pub(super) fn load_proposals(&mut self) -> Result<(), DbError> {
        let last = self.db.get(LAST_KEY)?.and_then(|item| String::from_utf8(item.value).ok());
        self.last_proposal = last.and_then(|last| last.parse().ok()).unwrap_or(0);
        Ok(())
    }

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
        let (over, known): (Vec<_>, Vec<_>) = known.into_iter().partition(|old| old.is_over(now));
        // A script that tries again: one request is one proposal.
        let same =
            |old: &&Proposal| (old.by_uid, old.kind, &old.digest) == (proposal.by_uid, proposal.kind, &proposal.digest);
        if let Some(old) = known.iter().filter(same).find(|old| old.request == proposal.request) {
            return Ok(old.number);
        }
        if known.len() >= PROPOSALS_MAX {
            return Err(RegistryError::Busy);
        }
        let newest = known.iter().chain(&over).map(|old| old.number).max();
        let number = newest.unwrap_or(0).max(self.last_proposal) + 1;
        // Strings and numbers: serialising them cannot fail.
        let record = fitting(serde_json::to_vec(&Proposal { number, at: now, ..proposal }).unwrap_or_default())?;
        self.last_proposal = number;
        batch.put(LAST_KEY.to_string(), Some(number.to_string().into_bytes()));
        over.iter().for_each(|old| batch.put(key(old.number), None));
        batch.put(key(number), Some(record));
        Ok(number)
    }

    /// Takes a proposal for good. Whoever confirmed it (`Some` user) carries it out; a crash in between loses the
    /// request, which is the safe side. `None`: it is withdrawn, which anybody may do.
    pub(super) fn take_proposal(
        &mut self,
        number: u64,
        confirmed_by: Option<u32>,
        batch: &mut Batch,
        now: u64,
    ) -> Result<Proposal, RegistryError> {
        let known = self.proposals()?.into_iter().find(|known| known.number == number);
        // One that this very group took already lies in the store still.
        let known = known.filter(|known| !batch.deletes(&key(known.number)));
        let proposal = known.ok_or(RegistryError::NoProposal(number))?;
        if let Some(uid) = confirmed_by {
            proposal.confirmable_by(uid, now)?;
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
