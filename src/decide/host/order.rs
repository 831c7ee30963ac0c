//! An order: the permission to write one host's disk, once.

use super::ImageChoice;
use crate::decide::cause::Cause;

/// An open generation. It exists only inside a host record; closing it is dropping it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub generation: u64,
    /// What is written. Fixed when the order was opened, whatever is desired later (faults.md O7).
    pub image: ImageChoice,
    /// What asked for it; the first one opened it, later ones joined. Never empty.
    pub causes: Vec<Cause>,
    pub opened_at: u64,
    /// Boot scripts served under this order. Counted on stable storage before each script leaves.
    pub attempts: u32,
    /// The operator released foreign content on the target disk for this order.
    pub foreign_released: bool,
    /// When the machine's power was last switched for this order, Unix seconds.
    pub powered_at: Option<u64>,
    /// Power cycles because the machine was late, under this order.
    pub power_cycles: u32,
    /// The host was Ready when it was opened: until an attempt begins to write, its disk holds what it reported.
    pub from_ready: bool,
    /// Its version was blocked while an attempt was under way: why there is no further one.
    pub blocked: Option<String>,
    /// Who may act in the latest attempt; `None` until its script was served.
    pub claim: Option<Claim>,
}

/// The latest attempt's one-time token, and the session that claimed it. Only digests are kept: a reader of
/// the store cannot act as the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub token_digest: String,
    /// Set by the first check-in; the token is dead for any other session from then on.
    pub session_digest: Option<String>,
}

impl Order {
    /// Why, in one line.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.causes.first().map_or("", |cause| &cause.reason)
    }

    /// Who asked for it first.
    #[must_use]
    pub fn by(&self) -> &str {
        self.causes.first().map_or("", |cause| &cause.by)
    }

    /// Whether `session_digest` is the session that claimed the latest attempt.
    #[must_use]
    pub fn is_claimed_by(&self, session_digest: &str) -> bool {
        self.claim.as_ref().and_then(|claim| claim.session_digest.as_deref()) == Some(session_digest)
    }
}
