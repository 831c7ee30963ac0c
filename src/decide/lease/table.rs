//! The leases of one subnet, indexed so that no packet has to walk a pool.
//!
//! What is absent: IO, clock, and decisions about packets. Time is an argument; the one writer applies changes.
//!
//! Three ways to a free address, each logarithmic: addresses never given out, offers that nobody took,
//! and leases that ran out, oldest first. An expired lease stays in the table as the memory of "the address
//! it had" until somebody else gets it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::{Change, Lease, LeaseState, Subnet};
use crate::decide::mac::Mac;

/// An index by the second at which something ends, oldest first.
type ByExpiry = BTreeSet<(u64, Ipv4Addr)>;

/// All leases, offers and quarantined addresses of one [`Subnet`].
///
/// Promise: an address has at most one entry, and a MAC at most one bound and one offered address.
#[derive(Debug, Clone)]
pub struct LeaseTable {
    subnet: Subnet,
    reserved: BTreeMap<Ipv4Addr, Mac>,
    by_ip: BTreeMap<Ipv4Addr, Lease>,
    bound_by_mac: BTreeMap<Mac, Ipv4Addr>,
    offered_by_mac: BTreeMap<Mac, Ipv4Addr>,
    /// Pool addresses that may go to anybody, by what they are now.
    offers_by_expiry: ByExpiry,
    bound_by_expiry: ByExpiry,
    declined_by_expiry: ByExpiry,
    /// Behind the cursor, and without an entry again.
    given_back: BTreeSet<Ipv4Addr>,
    /// Everything before it in pool order was given out once (or is nobody's to give).
    cursor: Cursor,
}

/// A place in the pools, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    pool: usize,
    next: u32,
}

impl LeaseTable {
    /// A table of no leases. The subnet must have been checked (`dhcp::Network::check`).
    #[must_use]
    pub fn new(subnet: Subnet) -> Self {
        let reserved = subnet.reservations.iter().map(|(mac, ip)| (*ip, *mac)).collect();
        let next = subnet.pools.first().map_or(0, |(first, _)| u32::from(*first));
        let mut table = LeaseTable {
            subnet,
            reserved,
            by_ip: BTreeMap::new(),
            bound_by_mac: BTreeMap::new(),
            offered_by_mac: BTreeMap::new(),
            offers_by_expiry: BTreeSet::new(),
            bound_by_expiry: BTreeSet::new(),
            declined_by_expiry: BTreeSet::new(),
            given_back: BTreeSet::new(),
            cursor: Cursor { pool: 0, next },
        };
        table.advance_cursor();
        table
    }

    /// A table of the leases that were on stable storage. Where two of them name one MAC, the one that lasts
    /// longer stands (a crash between two writes can leave both); leases outside the subnet are left out.
    #[must_use]
    pub fn load(subnet: Subnet, leases: impl IntoIterator<Item = Lease>) -> Self {
        let mut table = LeaseTable::new(subnet);
        let mut leases: Vec<Lease> = leases.into_iter().filter(|lease| table.subnet.contains(lease.ip)).collect();
        leases.sort_by_key(|lease| (lease.expires_at, lease.ip));
        for lease in leases {
            table.apply(Change { put: lease, frees: None });
        }
        table
    }

    /// The subnet that this table is for.
    #[must_use]
    pub fn subnet(&self) -> &Subnet {
        &self.subnet
    }

    /// What is known about an address, expired or not.
    #[must_use]
    pub fn lookup(&self, ip: Ipv4Addr) -> Option<&Lease> {
        self.by_ip.get(&ip)
    }

    /// The lease that a machine has or last had.
    #[must_use]
    pub fn bound_to(&self, mac: Mac) -> Option<&Lease> {
        self.bound_by_mac.get(&mac).and_then(|ip| self.by_ip.get(ip))
    }

    /// The offer that a machine has not yet answered.
    #[must_use]
    pub fn offered_to(&self, mac: Mac) -> Option<&Lease> {
        self.offered_by_mac.get(&mac).and_then(|ip| self.by_ip.get(ip))
    }

    /// All entries in order of address, expired ones too.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.by_ip.values()
    }

    /// Addresses in quarantine at `now`, counted no further than `at_most`.
    #[must_use]
    pub fn quarantined(&self, now: u64, at_most: usize) -> usize {
        self.declined_by_expiry.range((now + 1, Ipv4Addr::UNSPECIFIED)..).take(at_most).count()
    }

    /// Whether this machine may get this address at all: its reservation, or a pool address reserved for nobody.
    #[must_use]
    pub fn may_have(&self, mac: Mac, ip: Ipv4Addr) -> bool {
        match self.reserved.get(&ip) {
            Some(owner) => *owner == mac,
            None => self.subnet.in_pool(ip),
        }
    }

    /// Whether nobody else holds the address now and it is not in quarantine.
    #[must_use]
    pub fn is_free_for(&self, mac: Mac, ip: Ipv4Addr, now: u64) -> bool {
        self.by_ip
            .get(&ip)
            .is_none_or(|lease| lease.expires_at <= now || (lease.mac == mac && lease.state != LeaseState::Declined))
    }

    /// The pool address that was longest without an owner.
    ///
    /// Forgotten offers come before expired leases, so that a flood of invented MACs (which never get further
    /// than an offer) does not make the real machines lose the addresses they had.
    #[must_use]
    pub fn oldest_free(&self, now: u64) -> Option<Ipv4Addr> {
        let expired =
            |index: &ByExpiry| index.first().filter(|(expires_at, _)| *expires_at <= now).map(|(at, ip)| (*at, *ip));
        if let Some(ip) = self.given_back.first().copied().or_else(|| self.at_cursor()) {
            return Some(ip);
        }
        if let Some((_, ip)) = expired(&self.offers_by_expiry) {
            return Some(ip);
        }
        let ended = [expired(&self.bound_by_expiry), expired(&self.declined_by_expiry)];
        ended.into_iter().flatten().min().map(|(_, ip)| ip)
    }

    /// Writes one decision into the table. Whatever the caller says, an address keeps one entry and a MAC one
    /// bound address: the older ones go.
    pub fn apply(&mut self, change: Change) {
        let Change { put, frees } = change;
        self.remove(put.ip);
        if let Some(ip) = frees {
            self.remove(ip);
        }
        let older = match put.state {
            // A machine that took its offer, or another address, no longer waits for the offer.
            LeaseState::Bound => {
                let bound = self.bound_by_mac.get(&put.mac).copied();
                let offered = self.offered_by_mac.get(&put.mac).copied();
                [bound, offered]
            }
            LeaseState::Offered => [self.offered_by_mac.get(&put.mac).copied(), None],
            LeaseState::Declined => [None, None],
        };
        for ip in older.into_iter().flatten() {
            self.remove(ip);
        }
        self.insert(put);
        self.advance_cursor();
    }

    fn insert(&mut self, lease: Lease) {
        let ip = lease.ip;
        match lease.state {
            LeaseState::Bound => {
                self.bound_by_mac.insert(lease.mac, ip);
            }
            LeaseState::Offered => {
                self.offered_by_mac.insert(lease.mac, ip);
            }
            LeaseState::Declined => {}
        }
        // Reserved addresses are never found by search, so a search must not meet them.
        if self.may_go_to_anybody(ip) {
            self.expiry_index(lease.state).insert((lease.expires_at, ip));
            self.given_back.remove(&ip);
        }
        self.by_ip.insert(ip, lease);
    }

    fn remove(&mut self, ip: Ipv4Addr) {
        let Some(lease) = self.by_ip.remove(&ip) else {
            return;
        };
        match lease.state {
            LeaseState::Bound => forget(&mut self.bound_by_mac, lease.mac, ip),
            LeaseState::Offered => forget(&mut self.offered_by_mac, lease.mac, ip),
            LeaseState::Declined => {}
        }
        self.expiry_index(lease.state).remove(&(lease.expires_at, ip));
        if self.may_go_to_anybody(ip) && self.is_behind_cursor(ip) {
            self.given_back.insert(ip);
        }
    }

    fn expiry_index(&mut self, state: LeaseState) -> &mut ByExpiry {
        match state {
            LeaseState::Offered => &mut self.offers_by_expiry,
            LeaseState::Bound => &mut self.bound_by_expiry,
            LeaseState::Declined => &mut self.declined_by_expiry,
        }
    }

    fn may_go_to_anybody(&self, ip: Ipv4Addr) -> bool {
        self.subnet.in_pool(ip) && !self.reserved.contains_key(&ip)
    }

    fn at_cursor(&self) -> Option<Ipv4Addr> {
        self.subnet.pools.get(self.cursor.pool).map(|_| Ipv4Addr::from(self.cursor.next))
    }

    /// Moves on to the first address that nobody ever had. Each address is passed once in the table's life.
    fn advance_cursor(&mut self) {
        while let Some((_, last)) = self.subnet.pools.get(self.cursor.pool).copied() {
            let ip = Ipv4Addr::from(self.cursor.next);
            if !self.by_ip.contains_key(&ip) && !self.reserved.contains_key(&ip) {
                return;
            }
            self.cursor = if ip < last {
                Cursor { next: self.cursor.next + 1, ..self.cursor }
            } else {
                let pool = self.cursor.pool + 1;
                let next = self.subnet.pools.get(pool).map_or(0, |(first, _)| u32::from(*first));
                Cursor { pool, next }
            };
        }
    }

    fn is_behind_cursor(&self, ip: Ipv4Addr) -> bool {
        let place = self.subnet.pools.iter().position(|(first, last)| *first <= ip && ip <= *last);
        place.is_some_and(|pool| {
            pool < self.cursor.pool || (pool == self.cursor.pool && u32::from(ip) < self.cursor.next)
        })
    }
}

/// Takes the MAC's entry out only where it still points at this address.
fn forget(index: &mut BTreeMap<Mac, Ipv4Addr>, mac: Mac, ip: Ipv4Addr) {
    if index.get(&mac) == Some(&ip) {
        index.remove(&mac);
    }
}
