//! The addresses that there are to give.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::decide::mac::Mac;

/// Never more addresses in quarantine than this, however large the pools.
const QUARANTINED_MAX: u32 = 256;

/// One subnet as the decision needs it, already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// Our address in it, the server identifier (option 54).
    pub server_id: Ipv4Addr,
    /// Length of the netmask; the subnet is the one that `server_id` lies in.
    pub prefix_len: u8,
    /// First and last address of each range that may go to anybody.
    pub pools: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Addresses that go to one machine only, inside or outside the pools.
    pub reservations: BTreeMap<Mac, Ipv4Addr>,
    /// How long a lease lasts.
    pub lease_seconds: u32,
}

impl Subnet {
    /// Whether the address belongs to this subnet.
    #[must_use]
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        let mask = netmask(self.prefix_len);
        u32::from(ip) & mask == u32::from(self.server_id) & mask
    }

    /// Whether a machine can have the address: it is of this subnet, and neither ours, nor the subnet's first
    /// (network) or last (broadcast) one.
    #[must_use]
    pub fn may_be_a_machine(&self, ip: Ipv4Addr) -> bool {
        let host = u32::from(ip) & !netmask(self.prefix_len);
        self.contains(ip) && ip != self.server_id && host != 0 && host != !netmask(self.prefix_len)
    }

    /// Whether one of the pools has the address.
    #[must_use]
    pub fn in_pool(&self, ip: Ipv4Addr) -> bool {
        self.pools.iter().any(|(first, last)| *first <= ip && ip <= *last)
    }

    /// A tenth of the pools, at least one address: a machine that declines everything cannot empty them.
    pub(super) fn quarantined_max(&self) -> usize {
        let size = |(first, last): &(Ipv4Addr, Ipv4Addr)| (u32::from(*last) - u32::from(*first)).saturating_add(1);
        let all = self.pools.iter().map(size).fold(0u32, u32::saturating_add);
        // At most 256: fits any usize.
        (all / 10).clamp(1, QUARANTINED_MAX) as usize
    }
}

/// The netmask of a prefix length, as a number; longer than 32 counts as 32.
#[must_use]
pub fn netmask(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0)
}
