//! A host's disk, looked at from outside while the host's own system does not run. Only the deploy environment does this,
//! and it never writes: `disk` is all that the rest has of the disk, and it cannot.
//!
//! | module | what |
//! | --- | --- |
//! | `disk` | a disk that cannot be written |
//! | `table`, `blocks` | what lies outside of file systems, against the manifest |
//! | `tree`, `volumes`, `kernel` | the host's tree of files, off its disk; its file systems, opened; what only the kernel reads |
//! | `look` | all of it, into a report |
//! | `call`, `command` | one verification, from the kernel command line to its report; and by hand |

pub(in crate::agent) mod baseline;
mod blocks;
mod call;
pub mod command;
mod disk;
mod kernel;
mod look;
mod record;
mod table;
mod tree;
mod volumes;

pub use call::{VerifyError, run};
