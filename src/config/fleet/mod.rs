//! Fleet documents: groups, hosts, reservations and policy as text that lies in a repository.
//!
//! ```text
//! fleet/*.toml, *.yaml --read--> file::Document --check--> Fleet --diff against what is--> changes --> registry
//!        ^                                                   |
//!        +--------------------- export ----------------------+
//! ```
//!
//! The house of this is `config`: two types for two jobs, as written and as meant, just as for the server's own file.
//! Nothing in here writes state, and nothing in here can open an order: a document changes what is desired, and a
//! change ([`diff::Write`]) has no place for an order. A rollout, a schedule or a person does the rest.

pub mod ansible;
pub mod check;
pub mod csv;
pub mod diff;
pub mod drift;
pub mod export;
pub mod file;
pub mod read;
pub mod settings;
pub mod words;

use crate::decide::brakes::Policy;
use crate::decide::drift::effective::Policies;
use crate::decide::group::Group;
use crate::decide::labels::Labels;
use crate::decide::mac::Mac;
use crate::wire::reference::ImageRef;
use settings::PowerSettings;
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

/// All documents together, checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fleet {
    pub groups: BTreeMap<String, Group>,
    pub hosts: BTreeMap<HostKey, HostEntry>,
    pub reservations: BTreeMap<Mac, Ipv4Addr>,
    /// `None`: no document speaks of it, and it stays as it is.
    pub policy: Option<Policy>,
    pub drift: Policies,
}

/// How a document points at a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostKey {
    /// One of its MACs. A host id is written as the MAC that it holds.
    Mac(Mac),
    /// A host that the server knows already.
    Name(String),
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostKey::Mac(mac) => write!(f, "{mac}"),
            HostKey::Name(name) => f.write_str(name),
        }
    }
}

/// What a document wants of one host; `None` leaves a thing as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostEntry {
    pub name: Option<String>,
    pub group: Option<String>,
    pub labels: Option<Labels>,
    /// What it should run: a wish, for which no order is opened.
    pub image: Option<ImageRef>,
    pub power: Option<PowerSettings>,
    /// Its own drift policy; an empty text takes it away.
    pub drift: Option<String>,
}

#[cfg(test)]
mod tests;
