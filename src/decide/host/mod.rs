//! One host's life: its record, its states, and the one function that moves it.

mod ask;
mod blocked;
mod order;
mod record;
mod seed;
mod state;
mod transition;
mod verify;

pub use crate::decide::disk::DiskId;
pub use ask::Declared;
pub use order::{Claim, Order};
pub use record::{Host, ImageChoice};
pub use seed::{is_seed_of, seed};
pub use state::{State, Step};
pub use transition::{AgentWord, Entry, Event, Identity, Outcome, Refusal, transition};
pub use verify::{LastVerify, Verification, VerifyClaim, VerifyNumber, VerifyResult, VerifyWish, WISH_SECONDS};

#[cfg(test)]
mod tests;
