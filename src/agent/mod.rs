//! The agent: it runs on the machine whose disk becomes the golden image.
//!
//! The write path, in the order in which it happens; each step is a type that only the step before can make
//! (`stages`), so that no code can write the head of a disk whose body was not read back:
//!
//! ```text
//! OpenTarget --survey--> Deployed            the disk already holds the image: not one write
//!     |
//!     +--clear--> Cleared --write_body--> BodyWritten --verify_body--> BodyVerified --write_head--> Deployed
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | `device`, `aligned`, `holders` | a disk or a file, past the page cache; who keeps a busy disk |
//! | `target` | the only writes to it: checked extents, zeros, and the head against proof |
//! | `source`, `http_source` | where manifests and packs come from |
//! | `fetch`, `extent` | threads that fetch, unpack and check; which ranges they ask for says [`crate::transfer`] |
//! | `seed`, `moved` | the manifest of what the disk holds; content that is already there at another place |
//! | `readback` | the body as the device has it, against the manifest: the proof |
//! | `boot_area` | the image's head, fitted to this disk |
//! | `stages`, `write` | the order of steps, as types and as one call |
//! | `orders`, `inventory`, `session`, `deploy` | one order: from the kernel command line to the report |
//! | `boot_entry` | the UEFI boot entry of what was written |
//! | `standby`, `restart`, `kexec` | in the installed system: asks for orders, and comes back over the network |
//! | `drift` | in the installed system: the tree of files against the image's baseline |
//!
//! What is absent: the server's store and registry. The agent believes nothing but digests.

pub mod boot_entry;
pub mod cli;
pub mod deploy;
pub mod device;
pub mod drift;
pub mod http_source;
pub mod inventory;
pub mod orders;
pub mod outside;
pub mod session;
pub mod source;
pub mod standby;
pub mod watch;
pub mod write;

mod aligned;
mod boot_area;
mod extent;
mod fetch;
#[cfg(fuzzing)]
pub mod fuzzing;
mod holders;
mod kexec;
mod moved;
mod readback;
mod restart;
mod seed;
mod stages;
mod target;

pub use source::{ImageSource, SourceError};
pub use write::{Expected, Observer, Outcome, Verified, WriteError, WriteOptions, verify_image, write_image};
