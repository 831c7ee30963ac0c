//! The pure core: every question of the road is answered here, from facts and `now`, and nowhere else.
//!
//! What is absent: IO, async, locks, clocks, randomness, logs, serde, every crate but `std`.
//! "Do nothing" is always a value with a reason.

pub mod boot;
pub mod brakes;
pub mod cause;
pub mod deadline;
pub mod disk;
pub mod drift;
pub mod group;
pub mod guesses;
pub mod host;
pub mod labels;
pub mod lease;
pub mod mac;
pub mod netboot;
pub mod rollout;
pub mod schedule;
pub mod select;
pub mod share;
pub mod span;
pub mod stable_hash;
pub mod standby;
pub mod version;
