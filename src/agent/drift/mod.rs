//! Drift on a host: the tree of files as it is, compared with the image's baseline by the rules of the policy.
//!
//! | module | what |
//! | --- | --- |
//! | `tree` | what a scan asks of a tree of files, whoever reads it |
//! | `live`, `mounts` | the mounted tree, by descriptors; which mounts are not the image's |
//! | `walk` | a tree in the order of `path::order`, with what was not entered |
//! | `content` | digests, whole or in slices; when it is a content's turn to be read |
//! | `state` | what was found the last time, one small record a path |
//! | `scan`, `rows`, `judge` | the three in step: baseline, last time, tree; what differs, and what was not looked at |
//! | `fitting` | which findings a report has room for |
//! | `record` | a baseline of a tree |
//! | `priority` | behind everything else on the host |
//! | `command` | `regild-agent scan` and `regild-agent baseline` |
//!
//! Memory does not grow with the tree: every one of the three comes as a stream, in the same order.

pub mod command;
pub mod content;
pub mod fitting;
pub mod live;
pub mod priority;
pub mod record;
pub mod scan;
pub mod state;
pub mod tree;

mod judge;
mod mounts;
mod rows;
mod walk;

pub use live::LiveTree;
pub use scan::{Found, Look, Reach, Scan, ScanError, Spots, Summary, more_gaps};
pub use tree::{Content, Identity, Names, Seen, Tree};
