//! The agent's scan of a tree of files, on real trees: what it finds, what it reads, what it does not enter, and what
//! happens when the tree, the clock, the disk or its own life does not hold still.
//!
//! Needs root (mount namespaces, owners, extended attributes, another user); what is missing fails.

#[path = "drift/differences.rs"]
mod differences;
#[path = "drift/faults.rs"]
mod faults;
#[path = "drift/incremental.rs"]
mod incremental;
#[path = "drift/large.rs"]
mod large;
#[path = "drift/meddled.rs"]
mod meddled;
#[path = "drift/mounts.rs"]
mod mounts;
#[path = "drift/place.rs"]
mod place;
#[path = "drift/privilege.rs"]
mod privilege;
