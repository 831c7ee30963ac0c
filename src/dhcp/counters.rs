//! Counts of what came in and what became of it, for whoever wants to read them while the server runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::codec::Malformed;
use crate::decide::lease::{LeaseAnswer, SilentReason};

/// One counter for each fate of a packet. All only ever grow; reading one does not stop the others.
#[derive(Debug, Default)]
pub struct DhcpCounters {
    /// Packets read from the sockets.
    pub received: AtomicU64,
    /// DHCPOFFERs sent.
    pub offers: AtomicU64,
    /// DHCPACKs sent, those to DHCPINFORM too.
    pub acks: AtomicU64,
    /// DHCPNAKs sent.
    pub naks: AtomicU64,
    /// Leases given back.
    pub releases: AtomicU64,
    /// Addresses that a machine found in use.
    pub declines: AtomicU64,
    /// Dropped because too many packets were in work already.
    pub overloaded: AtomicU64,
    /// The authority could not write a lease down.
    pub lease_errors: AtomicU64,
    /// Replies that could not be sent.
    pub send_errors: AtomicU64,
    /// Replies that had to be broadcast because the neighbour entry could not be made.
    pub broadcast_fallbacks: AtomicU64,
    /// Offers and ACKs that named a boot file.
    pub boot_files: AtomicU64,
    malformed: [AtomicU64; Malformed::ALL.len()],
    silent: [AtomicU64; SILENT_NAMES.len()],
}

const SILENT_NAMES: [&str; 8] = [
    "relay_not_supported",
    "other_server",
    "pool_full",
    "no_record",
    "no_address_asked",
    "not_the_holder",
    "other_subnet",
    "no_machine",
];

fn silent_place(reason: &SilentReason) -> usize {
    match reason {
        SilentReason::RelayNotSupported { .. } => 0,
        SilentReason::OtherServer { .. } => 1,
        SilentReason::PoolFull => 2,
        SilentReason::NoRecord { .. } => 3,
        SilentReason::NoAddressAsked => 4,
        SilentReason::NotTheHolder { .. } => 5,
        SilentReason::OtherSubnet { .. } => 6,
        SilentReason::NoMachine { .. } => 7,
    }
}

impl DhcpCounters {
    /// Packets dropped by the codec, by reason (`dhcp_malformed{reason}`), zeros too.
    #[must_use]
    pub fn malformed(&self) -> BTreeMap<&'static str, u64> {
        Malformed::ALL.iter().map(|why| (why.name(), read(&self.malformed[*why as usize]))).collect()
    }

    /// Well-formed packets that got no answer, by reason, zeros too.
    #[must_use]
    pub fn silent(&self) -> BTreeMap<&'static str, u64> {
        SILENT_NAMES.iter().zip(&self.silent).map(|(name, count)| (*name, read(count))).collect()
    }

    pub(super) fn count_malformed(&self, why: Malformed) {
        add(&self.malformed[why as usize]);
    }

    pub(super) fn count_answer(&self, answer: &LeaseAnswer) {
        match answer {
            LeaseAnswer::Offer { .. } => add(&self.offers),
            LeaseAnswer::Ack { .. } | LeaseAnswer::Inform { .. } => add(&self.acks),
            LeaseAnswer::Nak { .. } => add(&self.naks),
            LeaseAnswer::Release { .. } => add(&self.releases),
            LeaseAnswer::Decline { .. } => add(&self.declines),
            LeaseAnswer::Silent { reason } => add(&self.silent[silent_place(reason)]),
        }
    }
}

/// Counters order nothing, so relaxed is enough.
pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
