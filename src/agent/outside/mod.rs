//! A host's disk, looked at from outside while the host's own system does not run. Only the deploy environment does this,
//! and it never writes: `disk` is all that the rest has of the disk.
//!
//! | module | what |
//! | --- | --- |
//! | `disk` | a disk that cannot be written |
//! | `table`, `blocks` | what lies outside of file systems, against the manifest |

pub mod blocks;
pub mod disk;
mod table;
