//! The leases of all networks: decided by `decide::lease`, kept under `lease/<ip>`.

use super::writer::Batch;
use crate::config::Config;
use crate::db::{Db, DbError};
use crate::decide::lease::{self, Lease, LeaseAnswer, LeaseRequest, LeaseState, LeaseTable, Subnet};
use crate::decide::mac::Mac;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// One table for each configured network, in their order.
pub(super) struct Leases {
    tables: Vec<LeaseTable>,
    /// The subnets as configured, without the reservations of documents.
    configured: Vec<Subnet>,
}

#[derive(Serialize, Deserialize)]
struct StoredLease {
    ip: Ipv4Addr,
    mac: String,
    hostname: Option<String>,
    /// A quarantine, not a lease: the machine found the address in use.
    declined: bool,
    expires_at: u64,
}

impl Leases {
    pub(super) fn load(db: &dyn Db, config: &Config) -> Result<Leases, DbError> {
        let mut stored = Vec::new();
        for item in db.scan("lease/")? {
            match decode(&item.value) {
                Some(lease) => stored.push(lease),
                // A lease is no permission to write a disk; losing one costs a machine a new address at worst.
                None => tracing::warn!(key = item.key, "a stored lease is not understood and is left out"),
            }
        }
        let configured: Vec<Subnet> = config.networks.iter().map(|network| network.subnet()).collect();
        let load = |subnet: &Subnet| LeaseTable::load(subnet.clone(), stored.iter().cloned());
        Ok(Leases { tables: configured.iter().map(load).collect(), configured })
    }

    /// Takes the reservations of fleet documents beside those of the configuration, which come first. Leases stay.
    pub(super) fn reserve(&mut self, reservations: &BTreeMap<Mac, Ipv4Addr>) {
        for (table, configured) in self.tables.iter_mut().zip(&self.configured) {
            let mut subnet = configured.clone();
            for (mac, ip) in reservations.iter().filter(|(_, ip)| configured.contains(**ip)) {
                let is_taken = subnet.reservations.values().any(|taken| taken == ip) || *ip == configured.server_id;
                if !is_taken {
                    subnet.reservations.entry(*mac).or_insert(*ip);
                }
            }
            if subnet != *table.subnet() {
                *table = LeaseTable::load(subnet, table.iter().cloned().collect::<Vec<_>>());
            }
        }
    }

    /// Who holds which address now.
    pub(super) fn bound(&self, now: u64) -> impl Iterator<Item = (Ipv4Addr, Mac)> {
        let live = move |lease: &&Lease| lease.state == LeaseState::Bound && lease.expires_at > now;
        self.tables.iter().flat_map(LeaseTable::iter).filter(live).map(|lease| (lease.ip, lease.mac))
    }

    /// Decides one packet, applies the change to the table and puts what must last into the batch. The answer
    /// leaves only after the batch is on stable storage.
    pub(super) fn answer(
        &mut self,
        network: usize,
        request: &LeaseRequest,
        batch: &mut Batch,
        now: u64,
    ) -> LeaseAnswer {
        let table = &mut self.tables[network];
        let answer = lease::decide(table, request, now);
        if let Some(change) = answer.change() {
            if change.is_durable() {
                let holder =
                    (change.put.state == LeaseState::Bound && change.put.expires_at > now).then_some(change.put.mac);
                batch.put(key(change.put.ip), Some(encode(&change.put)));
                batch.leases.push((change.put.ip, holder));
                if let Some(freed) = change.frees {
                    batch.put(key(freed), None);
                    batch.leases.push((freed, None));
                }
            }
            table.apply(change);
        }
        answer
    }
}

fn key(ip: Ipv4Addr) -> String {
    format!("lease/{ip}")
}

fn encode(lease: &Lease) -> Vec<u8> {
    let stored = StoredLease {
        ip: lease.ip,
        mac: lease.mac.to_string(),
        hostname: lease.hostname.clone(),
        declined: lease.state == LeaseState::Declined,
        expires_at: lease.expires_at,
    };
    // Strings and numbers only: serde_json has no way to refuse them.
    serde_json::to_vec(&stored).unwrap_or_default()
}

fn decode(raw: &[u8]) -> Option<Lease> {
    let stored: StoredLease = serde_json::from_slice(raw).ok()?;
    Some(Lease {
        ip: stored.ip,
        mac: stored.mac.parse().ok()?,
        hostname: stored.hostname,
        state: if stored.declined { LeaseState::Declined } else { LeaseState::Bound },
        expires_at: stored.expires_at,
    })
}
