//! What a fleet document would change, as the operator's CLI and scripts see it (`regild diff -o json`).
//!
//! The document itself travels as JSON of `config::fleet::file::Document`, the same form that people write as TOML
//! or YAML.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// All changes in the order in which they are made, and why they will not be made, if so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    pub changes: Vec<Change>,
    /// Empty: all of it can be applied. Otherwise nothing is.
    pub refusals: Vec<String>,
}

/// One thing that is added, changed or removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub verb: Verb,
    pub kind: Kind,
    /// Name of a group or of a drift policy, id of a host, MAC of a reservation; `policy` for the policy.
    pub id: String,
    /// Of a host, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub fields: Vec<Field>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    Added,
    Changed,
    Removed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Group,
    Drift,
    Policy,
    Host,
    Reservation,
}

/// One field of it, named as documents name it (`limits.concurrent_max`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Field {
    pub field: String,
    /// Null: it was not there.
    pub old: Option<Value>,
    /// Null: it is not there any more.
    pub new: Option<Value>,
    /// A brake would hold less than before: a cap goes up, a protection goes away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub loosens: bool,
}
