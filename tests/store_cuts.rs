//! What was acknowledged survives: kill -9 of the real server under load (faults.md S1), power cuts of a QEMU guest
//! that runs the registry (S2), and what `regild serve` says to a store that it must not use (S5, S6).
//!
//! ```text
//!   a client for some hosts each       the server                    after the kill
//!   life::Life says what is next --->  regild serve, or the    --->  records::read opens what is there,
//!   Life::apply once it is answered <- Registry in the guest         Life::lost compares it with the answers
//! ```
//!
//! Needs root (a network namespace of its own), and for the power cuts qemu-system-x86, e2fsprogs, busybox-static.

#[path = "store_cuts/brakes.rs"]
mod brakes;
#[path = "store_cuts/client.rs"]
mod client;
#[path = "store_cuts/dice.rs"]
mod dice;
#[path = "store_cuts/direct.rs"]
mod direct;
#[path = "store_cuts/guest.rs"]
mod guest;
#[path = "store_cuts/kills.rs"]
mod kills;
#[path = "store_cuts/life.rs"]
mod life;
#[path = "store_cuts/power.rs"]
mod power;
// The lab's; this binary uses half of it.
#[allow(dead_code)]
#[path = "lab/process.rs"]
mod process;
#[path = "store_cuts/records.rs"]
mod records;
#[path = "store_cuts/refusals.rs"]
mod refusals;
#[path = "store_cuts/site.rs"]
mod site;
#[path = "store_cuts/wire.rs"]
mod wire;
