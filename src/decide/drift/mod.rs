//! Drift: what of a running system no longer is its golden image, and what that means.
//!
//! [`finding`] compares what the image holds with what was seen, thing by thing. [`policy`] says of each difference
//! whether it may be, is to be reported, or asks for a rebuild. The agent asks both, to leave out what may be anyway;
//! the server asks them again and alone decides ([`judge`]).
//!
//! Which rules are a host's: [`declared`] are the policies of documents, [`classes`] and [`defaults`] what comes with
//! regild, and [`effective`] puts them together.

pub mod classes;
pub mod declared;
pub mod defaults;
pub mod effective;
pub mod finding;
pub mod judge;
pub mod path;
pub mod policy;
