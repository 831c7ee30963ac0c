//! The image store under faults: kill -9 in the middle of imports and collections, again and again on one store, and a
//! disk that is full at any write.
//!
//! ```text
//!   kills:  a child process imports, collects, scrubs and says what is done -->  the parent kills it, opens what is left,
//!           looks for lost versions and for leaks, and lets the next child go on from there
//!   full:   a tmpfs of this process's own, filled to a few KiB, then an import or a collection
//! ```
//!
//! Needs root for the tmpfs (a mount namespace of its own).

#[path = "store_cuts/dice.rs"]
#[allow(dead_code)]
mod dice;
#[path = "image_store/full.rs"]
mod full;
#[path = "image_store/kills.rs"]
mod kills;
#[path = "image_store/many.rs"]
mod many;
#[path = "image_store/shelf.rs"]
mod shelf;
