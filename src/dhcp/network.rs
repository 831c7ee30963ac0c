//! One network that we serve, as checked from the configuration.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::decide::lease::{Subnet, netmask};
use crate::decide::mac::Mac;

/// A network interface and what we hand out on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Name of the interface, at most 15 bytes (Linux's IFNAMSIZ).
    pub interface: String,
    /// Our address on it: server identifier, next-server.
    pub server_ip: Ipv4Addr,
    /// Length of the netmask.
    pub prefix_len: u8,
    /// Default route for the machines.
    pub router: Option<Ipv4Addr>,
    /// Name servers for the machines.
    pub dns: Vec<Ipv4Addr>,
    /// How long a lease lasts.
    pub lease_seconds: u32,
    /// First and last address of each range that may go to any machine.
    pub pools: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Addresses kept for one machine each.
    pub reservations: BTreeMap<Mac, Ipv4Addr>,
}

/// Leases shorter than this would have clients renewing all the time.
const LEASE_SECONDS_MIN: u32 = 60;
/// Neither client nor server could tell 0xffffffff, which means for ever (RFC 2131 section 3.3), from a lease.
const LEASE_SECONDS_MAX: u32 = 365 * 24 * 3600;
/// More would make the reply larger than every client must accept (576 bytes).
const DNS_MAX: usize = 8;

/// What is wrong with a configured network; the message names it so that it can be corrected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // Each field is what its message shows.
pub enum NetworkError {
    #[error("the interface name {interface:?} must have 1 to 15 bytes, without '/' or spaces")]
    InterfaceName { interface: String },
    #[error("the interface {interface} is configured twice; one network for each interface")]
    InterfaceTwice { interface: String },
    #[error("{first} on {first_interface} and {second} on {second_interface} are the same subnet")]
    SubnetTwice { first: Ipv4Addr, first_interface: String, second: Ipv4Addr, second_interface: String },
    #[error("the prefix length /{prefix_len} must be between /8 and /30")]
    PrefixLen { prefix_len: u8 },
    #[error("{what} {ip} cannot be used: it is not a host address of the subnet {subnet}")]
    NotAHost { what: &'static str, ip: Ipv4Addr, subnet: String },
    #[error("the pool {first} to {last} ends before it begins")]
    PoolReversed { first: Ipv4Addr, last: Ipv4Addr },
    #[error("the pools {first} to {last} and {other_first} to {other_last} overlap")]
    PoolsOverlap { first: Ipv4Addr, last: Ipv4Addr, other_first: Ipv4Addr, other_last: Ipv4Addr },
    #[error("{what} {ip} lies in the pool {first} to {last} and would be given to a machine")]
    InPool { what: &'static str, ip: Ipv4Addr, first: Ipv4Addr, last: Ipv4Addr },
    #[error("{ip} is reserved for both {mac} and {other}")]
    ReservedTwice { ip: Ipv4Addr, mac: Mac, other: Mac },
    #[error("{ip} cannot be reserved for {mac}: it is {what}")]
    ReservedInUse { ip: Ipv4Addr, mac: Mac, what: &'static str },
    #[error("{mac} cannot have a reservation: it is no machine's address (a group address, or zero)")]
    ReservedForNobody { mac: Mac },
    #[error("a lease of {lease_seconds} s is out of range: {min} s to {max} s", min = LEASE_SECONDS_MIN, max = LEASE_SECONDS_MAX)]
    LeaseSeconds { lease_seconds: u32 },
    #[error("{count} name servers are too many: at most {max}", max = DNS_MAX)]
    TooManyDns { count: usize },
}

impl Network {
    /// Checks everything that can be checked without looking at the machine.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), NetworkError> {
        let bad_byte = |byte: u8| byte == b'/' || byte <= b' ' || byte >= 0x7f;
        if self.interface.is_empty() || self.interface.len() > 15 || self.interface.bytes().any(bad_byte) {
            return Err(NetworkError::InterfaceName { interface: self.interface.clone() });
        }
        if !(8..=30).contains(&self.prefix_len) {
            return Err(NetworkError::PrefixLen { prefix_len: self.prefix_len });
        }
        if !(LEASE_SECONDS_MIN..=LEASE_SECONDS_MAX).contains(&self.lease_seconds) {
            return Err(NetworkError::LeaseSeconds { lease_seconds: self.lease_seconds });
        }
        if self.dns.len() > DNS_MAX {
            return Err(NetworkError::TooManyDns { count: self.dns.len() });
        }
        self.check_host("the server's address", self.server_ip)?;
        if let Some(router) = self.router {
            self.check_host("the router's address", router)?;
        }
        self.check_pools()?;
        self.check_reservations()
    }

    /// The part that the lease decision needs.
    #[must_use]
    pub fn subnet(&self) -> Subnet {
        Subnet {
            server_id: self.server_ip,
            prefix_len: self.prefix_len,
            pools: self.pools.clone(),
            reservations: self.reservations.clone(),
            lease_seconds: self.lease_seconds,
        }
    }

    /// The netmask, option 1.
    #[must_use]
    pub fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from(netmask(self.prefix_len))
    }

    /// The subnet's first address.
    #[must_use]
    fn base(&self) -> u32 {
        u32::from(self.server_ip) & netmask(self.prefix_len)
    }

    /// Inside the subnet, and neither its first (network) nor its last (broadcast) address.
    fn check_host(&self, what: &'static str, ip: Ipv4Addr) -> Result<(), NetworkError> {
        let mask = netmask(self.prefix_len);
        let number = u32::from(ip);
        if number & mask == self.base() && number & !mask != 0 && number & !mask != !mask {
            return Ok(());
        }
        let subnet = format!("{}/{}", Ipv4Addr::from(self.base()), self.prefix_len);
        Err(NetworkError::NotAHost { what, ip, subnet })
    }

    fn check_pools(&self) -> Result<(), NetworkError> {
        for (at, &(first, last)) in self.pools.iter().enumerate() {
            if first > last {
                return Err(NetworkError::PoolReversed { first, last });
            }
            self.check_host("the first address of a pool,", first)?;
            self.check_host("the last address of a pool,", last)?;
            let fixed = [("the server's address", Some(self.server_ip)), ("the router's address", self.router)];
            for (what, ip) in fixed {
                if let Some(ip) = ip.filter(|ip| first <= *ip && *ip <= last) {
                    return Err(NetworkError::InPool { what, ip, first, last });
                }
            }
            let overlapping = self.pools[..at].iter().find(|other| other.0 <= last && first <= other.1);
            if let Some(&(other_first, other_last)) = overlapping {
                return Err(NetworkError::PoolsOverlap { first, last, other_first, other_last });
            }
        }
        Ok(())
    }

    fn check_reservations(&self) -> Result<(), NetworkError> {
        let mut owners: BTreeMap<Ipv4Addr, Mac> = BTreeMap::new();
        for (&mac, &ip) in &self.reservations {
            if !mac.is_unicast() {
                return Err(NetworkError::ReservedForNobody { mac });
            }
            self.check_host("the reserved address", ip)?;
            if ip == self.server_ip {
                return Err(NetworkError::ReservedInUse { ip, mac, what: "the server's" });
            }
            if Some(ip) == self.router {
                return Err(NetworkError::ReservedInUse { ip, mac, what: "the router's" });
            }
            if let Some(other) = owners.insert(ip, mac) {
                return Err(NetworkError::ReservedTwice { ip, mac, other });
            }
        }
        Ok(())
    }
}

/// Checks each network and that no two share an interface or a subnet.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_networks(networks: &[Network]) -> Result<(), NetworkError> {
    for (at, network) in networks.iter().enumerate() {
        network.check()?;
        for earlier in &networks[..at] {
            if earlier.interface == network.interface {
                return Err(NetworkError::InterfaceTwice { interface: network.interface.clone() });
            }
            let shorter = netmask(earlier.prefix_len.min(network.prefix_len));
            if u32::from(earlier.server_ip) & shorter == u32::from(network.server_ip) & shorter {
                return Err(NetworkError::SubnetTwice {
                    first: earlier.server_ip,
                    first_interface: earlier.interface.clone(),
                    second: network.server_ip,
                    second_interface: network.interface.clone(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
