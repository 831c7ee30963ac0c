//! regild: a bare-metal PXE boot and reimaging server.
//!
//! The modules in the order in which a machine meets them:
//!
//! 1. [`dhcp`] answers the firmware's DISCOVER and says which boot file to fetch; [`ndp`] tells iPXE not to wait for IPv6.
//! 2. [`tftp`] hands out that boot file: bootloaders only, from memory.
//! 3. [`http`] hands out the boot script, the deploy environment, manifests, image data; takes
//!    the agent's reports; on a Unix socket it is the operator's API.
//! 4. [`decide`] is what all of them ask. Pure: facts and time in, a decision out.
//! 5. [`image`] is the golden image store: import, manifests, packs, export, baselines, garbage collection, scrub,
//!    signatures; [`volume`] reads the file systems of an image, or of a disk that is not in use, without mounting them.
//! 6. [`agent`] runs on the machine: choose the disk, write, read back, report.
//! 7. [`registry`] is the one writer of leases, host records and orders; [`db`] is where it keeps them.
//! 8. [`scheduler`] turns a group's cron lines, windows and days into the plain numbers that `decide` judges.
//! 9. [`upkeep`] lets image store and registry agree on what is collected, damaged, trusted.
//! 10. [`power`] makes a machine boot now: Redfish, IPMI, Wake-on-LAN, or somebody who is told to.
//!
//! Invariants (ARCHITECTURE.md tells why; `tests/tidy.rs` keeps the layers):
//!
//! - `decide` reads no clock, socket, file or random number and imports nothing but `std`.
//! - `agent` never sees `db` or `registry`.
//! - Only `registry` writes state; only `clock` reads time and randomness.
//! - A disk is written only under an open order, and its head only after its body was read back.

pub mod causes;
#[cfg(any(feature = "agent", feature = "server"))]
pub mod clock;
pub mod decide;
pub mod gpt;
#[cfg(any(feature = "agent", feature = "server"))]
pub mod transfer;
#[cfg(any(feature = "agent", feature = "server"))]
pub mod volume;
pub mod wire;

#[cfg(feature = "agent")]
pub mod agent;

#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod db;
#[cfg(feature = "server")]
pub mod dhcp;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod image;
#[cfg(feature = "server")]
pub mod ndp;
#[cfg(feature = "server")]
pub mod power;
#[cfg(feature = "server")]
mod receive_buffer;
#[cfg(feature = "server")]
pub mod registry;
#[cfg(feature = "server")]
pub mod scheduler;
#[cfg(feature = "server")]
pub mod serve;
#[cfg(feature = "server")]
pub mod tftp;
#[cfg(feature = "server")]
pub mod upkeep;
