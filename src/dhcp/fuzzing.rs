//! A door for `fuzz/`, there only when cargo-fuzz builds: a packet's road without socket and registry.

use std::net::Ipv4Addr;

use super::Network;
use super::codec::Request;
use super::deliver::{Destination, destination};
use super::reply::{Reply, encode};
use crate::decide::lease::LeaseAnswer;

/// A reply as it would leave.
#[derive(Debug)]
pub struct Outgoing {
    pub bytes: Vec<u8>,
    /// `None`: broadcast.
    pub to: Option<Ipv4Addr>,
}

/// What `server::handle` sends for an answer, with this boot file for a client that netboots.
#[must_use]
pub fn outgoing(network: &Network, request: &Request, answer: &LeaseAnswer, boot_file: &str) -> Option<Outgoing> {
    let (mut reply, yiaddr) = Reply::to(answer, network)?;
    if let Some(place) = reply.boot_file_mut() {
        *place = Some(boot_file.to_owned());
    }
    let bytes = encode(network, request, &reply).expect("no reply of ours can be refused");
    let to = match destination(request, yiaddr) {
        Destination::Broadcast => None,
        Destination::InUse(ip) | Destination::Fresh(ip) => Some(ip),
    };
    Some(Outgoing { bytes, to })
}
