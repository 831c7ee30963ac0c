//! What `decide` says to a DHCP packet, and what it wants written down.

use std::fmt;
use std::net::Ipv4Addr;

use super::{Lease, LeaseState};

/// The answer to one packet. "Nothing" is [`LeaseAnswer::Silent`] with a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// DHCPOFFER.
    Offer {
        /// The address on offer.
        ip: Ipv4Addr,
        /// What keeps others off it meanwhile; none where a lease of this machine already does.
        hold: Option<Lease>,
    },
    /// DHCPACK: the lease, which must be durable before the packet leaves.
    Ack {
        /// The lease as it now is.
        lease: Lease,
        /// What to tell the client; never more than what is left of the lease.
        lease_seconds: u32,
        /// The address that this machine had before and has no longer.
        frees: Option<Ipv4Addr>,
        /// This lease is in the table already (a repeated REQUEST): nothing to write.
        known: bool,
    },
    /// DHCPNAK: start again from DISCOVER.
    Nak {
        /// Why, for the log and option 56.
        reason: NakReason,
    },
    /// No packet; the machine gave its lease back.
    Release {
        /// The lease, ended.
        lease: Lease,
    },
    /// No packet; the machine found the address in use.
    Decline {
        /// The quarantine.
        lease: Lease,
        /// The limit is reached: the address may be given out again when all others are taken.
        quarantine_full: bool,
    },
    /// DHCPACK without an address or lease time.
    Inform {
        /// Where the answer goes.
        ip: Ipv4Addr,
    },
    /// No packet and no change.
    Silent {
        /// Why.
        reason: SilentReason,
    },
}

/// Something to write into the table, and (unless it is an offer) onto stable storage, keyed by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The new entry for its address.
    pub put: Lease,
    /// An address whose entry goes.
    pub frees: Option<Ipv4Addr>,
}

impl Change {
    /// Whether it must be on stable storage before anything is sent. Offers need not: forgetting one costs
    /// the machine a second DISCOVER at worst.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.put.state != LeaseState::Offered
    }
}

impl LeaseAnswer {
    /// What this answer changes, if anything.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        let (put, frees) = match self {
            LeaseAnswer::Offer { hold: Some(hold), .. } => (hold, None),
            LeaseAnswer::Ack { lease, frees, known: false, .. } => (lease, *frees),
            LeaseAnswer::Release { lease } | LeaseAnswer::Decline { lease, .. } => (lease, None),
            LeaseAnswer::Offer { hold: None, .. }
            | LeaseAnswer::Ack { known: true, .. }
            | LeaseAnswer::Nak { .. }
            | LeaseAnswer::Inform { .. }
            | LeaseAnswer::Silent { .. } => return None,
        };
        Some(Change { put: put.clone(), frees })
    }
}

/// Why a machine is told that it cannot have the address it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NakReason {
    /// It came from another network.
    WrongSubnet {
        /// What it asked for.
        ip: Ipv4Addr,
    },
    /// Another machine's, in quarantine, or not ours to give.
    NotYourAddress {
        /// What it asked for.
        ip: Ipv4Addr,
    },
    /// A reservation waits for it.
    ReservedElsewhere {
        /// The reserved address.
        ip: Ipv4Addr,
    },
}

/// Why a packet gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SilentReason {
    /// Sent through a relay agent.
    RelayNotSupported {
        /// The relay.
        giaddr: Ipv4Addr,
    },
    /// Meant for another DHCP server.
    OtherServer {
        /// That server.
        server_id: Ipv4Addr,
    },
    /// All pool addresses are taken.
    PoolFull,
    /// Another server may know this machine; we do not.
    NoRecord {
        /// What it asked for.
        ip: Ipv4Addr,
    },
    /// The message must name an address and does not.
    NoAddressAsked,
    /// It speaks for an address that it does not hold.
    NotTheHolder {
        /// That address.
        ip: Ipv4Addr,
    },
    /// It says that it has an address that no machine can have: ours, the network's, or the broadcast address.
    NoMachine {
        /// That address.
        ip: Ipv4Addr,
    },
    /// It has an address that is not of this subnet.
    OtherSubnet {
        /// That address.
        ip: Ipv4Addr,
    },
}

impl fmt::Display for NakReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NakReason::WrongSubnet { ip } => write!(f, "{ip} is not of this subnet"),
            NakReason::NotYourAddress { ip } => write!(f, "{ip} cannot be had by this machine"),
            NakReason::ReservedElsewhere { ip } => write!(f, "{ip} is reserved for this machine"),
        }
    }
}

impl fmt::Display for SilentReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SilentReason::RelayNotSupported { giaddr } => {
                write!(f, "came through the relay {giaddr}, and relays are not supported yet")
            }
            SilentReason::OtherServer { server_id } => {
                write!(f, "meant for the DHCP server {server_id}")
            }
            SilentReason::PoolFull => write!(f, "every address of the pools is taken"),
            SilentReason::NoRecord { ip } => {
                write!(f, "{ip} is free, but this machine never had it from us")
            }
            SilentReason::NoAddressAsked => write!(f, "it names no address"),
            SilentReason::NotTheHolder { ip } => write!(f, "{ip} is not leased to this machine"),
            SilentReason::NoMachine { ip } => write!(f, "{ip} is an address that no machine can have"),
            SilentReason::OtherSubnet { ip } => write!(f, "{ip} is not of this subnet"),
        }
    }
}
