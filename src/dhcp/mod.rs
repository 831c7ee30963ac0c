//! DHCP on port 67: the first stop of a machine's road.
//!
//! One socket for each configured network. A packet goes through four hands: [`codec`] makes facts of it,
//! the [`Authority`] grants a lease (durable before it answers) and says what the machine boots,
//! `reply` makes bytes of the answers, `deliver` brings them to a machine that may not have an address yet.
//! No packet can end the loop; what gets no answer has a reason, which is counted and logged.
//!
//! What is absent: any decision. Who gets which address is [`crate::decide::lease`], which netboot client it
//! is [`crate::decide::netboot`], what it boots the registry's.

pub mod codec;
mod counters;
mod deliver;
#[cfg(fuzzing)]
pub mod fuzzing;
mod network;
mod reply;
mod server;

use std::future::Future;

pub use counters::DhcpCounters;
pub use network::{Network, NetworkError, check_networks};
pub use server::{BindError, DhcpServer};

use crate::decide::lease::{LeaseAnswer, LeaseRequest};
use crate::decide::mac::Mac;
use crate::decide::netboot::NetbootClient;

/// Who grants leases durably and says what a machine boots. The registry is one; tests have a small one.
pub trait Authority: Send + Sync + 'static {
    /// Runs [`crate::decide::lease::decide`] on the one table of this network (its place in the configuration),
    /// makes the change durable and applies it, and only then returns: the reply leaves after that.
    ///
    /// # Errors
    /// When the change could not be written down; the client then gets no reply and asks again.
    fn lease(
        &self,
        network: usize,
        request: LeaseRequest,
    ) -> impl Future<Output = Result<LeaseAnswer, LeaseError>> + Send;

    /// What this netboot client is told to boot. Reads only: a DISCOVER is no promise to boot.
    fn netboot(&self, network: usize, mac: Mac, client: NetbootClient) -> impl Future<Output = NetbootAnswer> + Send;

    /// The name that this machine is to give itself (option 12): one label, as [`crate::decide::lease::hostname`] takes it.
    fn host_name(&self, _mac: Mac) -> Option<String> {
        None
    }
}

/// Why no lease could be granted or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Stable storage did not take it.
    #[error("the lease could not be written down: {reason}")]
    NotStored {
        /// What the store said.
        reason: String,
    },
    /// The registry takes no more work.
    #[error("the server is stopping")]
    Stopping,
}

/// What a netboot client is told to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetbootAnswer {
    /// Nothing: it gets its address and no boot file.
    Silent {
        /// Why, for the log.
        reason: String,
    },
    /// The first or next thing to fetch.
    BootFile {
        /// A name on our TFTP server, or an `http://` URL where the client can use one.
        name: String,
    },
}
