//! Who gets which address: RFC 2131 section 4.3 as one pure function over one table.
//!
//! A machine is known by its MAC (chaddr), not by its client identifier (option 61). One machine sends a
//! different option 61 from its ROM (a UUID), from iPXE (none or the MAC), from the deploy environment and
//! from the installed system (an RFC 4361 DUID), and it must keep one address across all four.
//!
//! The order of preference: the reservation, the address it has or had, the one on offer to it, the one it
//! asks for, the pool address that was longest without an owner. We are authoritative for the subnet: a
//! machine that asks for an address it cannot have is told so (NAK) rather than left to time out.

mod answer;
mod request;
mod subnet;
mod table;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

pub use answer::{Change, LeaseAnswer, NakReason, SilentReason};
pub use request::{LeaseRequest, MessageKind, hostname};
pub use subnet::{Subnet, netmask};
pub use table::LeaseTable;

use crate::decide::mac::Mac;

/// How long an offered address is kept for the machine that it was offered to. PXE ROMs repeat their DISCOVER
/// after 4, 8, 16 and 32 s before they give up, so a REQUEST can come a minute after the first offer.
pub const OFFER_HOLD_SECONDS: u64 = 60;
/// How long an address that a machine found in use is given to nobody.
pub const QUARANTINE_SECONDS: u64 = 600;
/// What an entry of the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseState {
    /// Held for a machine that has not asked for it yet. In memory only.
    Offered,
    /// Granted; durable.
    Bound,
    /// In quarantine: the machine named in the lease found it in use. Durable.
    Declined,
}

/// An address and who has it until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address; at most one lease has it.
    pub ip: Ipv4Addr,
    /// Whose it is.
    pub mac: Mac,
    /// What the machine calls itself, made safe by [`hostname`].
    pub hostname: Option<String>,
    /// Offered, bound or in quarantine.
    pub state: LeaseState,
    /// Unix seconds; over from this second on.
    pub expires_at: u64,
}

/// Answers one packet. Changes nothing: the one writer makes `answer.change()` durable where it must be,
/// applies it to the table, and only then lets the answer out.
#[must_use]
pub fn decide(table: &LeaseTable, request: &LeaseRequest, now: u64) -> LeaseAnswer {
    if !request.giaddr.is_unspecified() {
        // The place where relay agents (RFC 3046, RFC 3527) get their answer once subnets behind them are known.
        return LeaseAnswer::Silent { reason: SilentReason::RelayNotSupported { giaddr: request.giaddr } };
    }
    if let Some(server_id) = request.server_id
        && server_id != table.subnet().server_id
    {
        return LeaseAnswer::Silent { reason: SilentReason::OtherServer { server_id } };
    }
    match request.kind {
        MessageKind::Discover => discover(table, request, now),
        MessageKind::Request => ask(table, request, now),
        MessageKind::Decline => decline(table, request, now),
        MessageKind::Release => release(table, request, now),
        MessageKind::Inform => inform(table, request),
    }
}

/// Section 4.3.1.
fn discover(table: &LeaseTable, request: &LeaseRequest, now: u64) -> LeaseAnswer {
    let mac = request.mac;
    let wished = [
        table.subnet().reservations.get(&mac).copied(),
        table.bound_to(mac).map(|lease| lease.ip),
        table.offered_to(mac).map(|lease| lease.ip),
        request.requested,
    ];
    let can_have = |ip: &Ipv4Addr| table.may_have(mac, *ip) && table.is_free_for(mac, *ip, now);
    let found = wished.into_iter().flatten().find(can_have).or_else(|| table.oldest_free(now));
    let Some(ip) = found else {
        return LeaseAnswer::Silent { reason: SilentReason::PoolFull };
    };
    let hold = Lease {
        ip,
        mac,
        hostname: request.hostname.clone(),
        state: LeaseState::Offered,
        expires_at: now.saturating_add(OFFER_HOLD_SECONDS),
    };
    // A lease that still runs holds the address already, and must not become a mere offer, however little is
    // left of it: the next offer would free an address that is in use.
    let is_bound = table
        .lookup(ip)
        .is_some_and(|lease| lease.mac == mac && lease.state == LeaseState::Bound && lease.expires_at > now);
    LeaseAnswer::Offer { ip, hold: (!is_bound).then_some(hold) }
}

/// Section 4.3.2: which of the four kinds of DHCPREQUEST it is, by what it carries.
fn ask(table: &LeaseTable, request: &LeaseRequest, now: u64) -> LeaseAnswer {
    let in_use = Some(request.ciaddr).filter(|ip| !ip.is_unspecified());
    match (request.server_id, request.requested, in_use) {
        // SELECTING. Granted without an offer too: a crash of ours may have forgotten it.
        (Some(_), Some(ip), None) => grant(table, request, ip, now),
        (None, Some(ip), None) => init_reboot(table, request, ip, now),
        // RENEWING and REBINDING. Without a record of ours the client is believed, where the address is free:
        // it is using it, and giving it to another would make two of one.
        (_, _, Some(ip)) => {
            if table.subnet().contains(ip) && !table.may_have(request.mac, ip) && table.lookup(ip).is_none() {
                return LeaseAnswer::Silent { reason: SilentReason::NoRecord { ip } };
            }
            grant(table, request, ip, now)
        }
        (_, None, None) => LeaseAnswer::Silent { reason: SilentReason::NoAddressAsked },
    }
}

/// INIT-REBOOT: "if the DHCP server has no record of this client, then it MUST remain silent", for the address
/// may have come from another server. Where we do know better, we say so.
fn init_reboot(table: &LeaseTable, request: &LeaseRequest, ip: Ipv4Addr, now: u64) -> LeaseAnswer {
    let mac = request.mac;
    let records = [
        table.bound_to(mac).map(|lease| lease.ip),
        table.offered_to(mac).map(|lease| lease.ip),
        table.subnet().reservations.get(&mac).copied(),
    ];
    let has_record = records.iter().any(Option::is_some);
    if !table.subnet().contains(ip) || records.contains(&Some(ip)) {
        return grant(table, request, ip, now);
    }
    if has_record || !table.is_free_for(mac, ip, now) {
        return LeaseAnswer::Nak { reason: NakReason::NotYourAddress { ip } };
    }
    LeaseAnswer::Silent { reason: SilentReason::NoRecord { ip } }
}

/// The address, if this machine can have it; else a NAK that says why.
fn grant(table: &LeaseTable, request: &LeaseRequest, ip: Ipv4Addr, now: u64) -> LeaseAnswer {
    let mac = request.mac;
    if !table.subnet().contains(ip) {
        return LeaseAnswer::Nak { reason: NakReason::WrongSubnet { ip } };
    }
    if !table.may_have(mac, ip) || !table.is_free_for(mac, ip, now) {
        return LeaseAnswer::Nak { reason: NakReason::NotYourAddress { ip } };
    }
    if let Some(reserved) = table.subnet().reservations.get(&mac).copied()
        && reserved != ip
        && table.is_free_for(mac, reserved, now)
    {
        return LeaseAnswer::Nak { reason: NakReason::ReservedElsewhere { ip: reserved } };
    }
    let lease_seconds = table.subnet().lease_seconds;
    let old = table.lookup(ip).filter(|old| old.mac == mac && old.state == LeaseState::Bound);
    // A ROM names no host; the name that the installed system gave stays.
    let hostname = request.hostname.clone().or_else(|| old.and_then(|old| old.hostname.clone()));
    if let Some(old) = old
        && old.hostname == hostname
        && let Some(left) = nearly_whole(old.expires_at, lease_seconds, now)
    {
        return LeaseAnswer::Ack { lease: old.clone(), lease_seconds: left, frees: None, known: true };
    }
    let expires_at = now.saturating_add(u64::from(lease_seconds));
    let lease = Lease { ip, mac, hostname, state: LeaseState::Bound, expires_at };
    let frees = table.bound_to(mac).map(|old| old.ip).filter(|old| *old != ip);
    LeaseAnswer::Ack { lease, lease_seconds, frees, known: false }
}

/// What is left of a lease of which at least 95% are left. Such a lease is repeated rather than renewed: a boot
/// asks three or four times within a minute (ROM, iPXE, deploy environment, duplicates), and only the first
/// then costs a write to stable storage.
fn nearly_whole(expires_at: u64, lease_seconds: u32, now: u64) -> Option<u32> {
    let left = u32::try_from(expires_at.checked_sub(now)?).ok()?;
    let least = lease_seconds - lease_seconds / 20;
    (least <= left && left <= lease_seconds).then_some(left)
}

/// Section 4.3.3. Only the machine that was given the address may call it used.
fn decline(table: &LeaseTable, request: &LeaseRequest, now: u64) -> LeaseAnswer {
    let Some(ip) = request.requested else {
        return LeaseAnswer::Silent { reason: SilentReason::NoAddressAsked };
    };
    let held = table
        .lookup(ip)
        .filter(|lease| lease.mac == request.mac && lease.state != LeaseState::Declined && lease.expires_at > now);
    let Some(lease) = held else {
        return LeaseAnswer::Silent { reason: SilentReason::NotTheHolder { ip } };
    };
    let max = table.subnet().quarantined_max();
    let quarantine_full = table.quarantined(now, max) >= max;
    // Over the limit the address goes to the end of the queue of free ones instead of out of it.
    let expires_at = if quarantine_full { now } else { now.saturating_add(QUARANTINE_SECONDS) };
    let declined = Lease { state: LeaseState::Declined, expires_at, ..lease.clone() };
    LeaseAnswer::Decline { lease: declined, quarantine_full }
}

/// Section 4.3.4. The lease stays as a memory, ended now: "retain a record of the client's parameters".
fn release(table: &LeaseTable, request: &LeaseRequest, now: u64) -> LeaseAnswer {
    let ip = request.ciaddr;
    let held = table
        .lookup(ip)
        .filter(|lease| lease.mac == request.mac && lease.state == LeaseState::Bound && lease.expires_at > now);
    match held {
        Some(lease) => LeaseAnswer::Release { lease: Lease { expires_at: now, ..lease.clone() } },
        None => LeaseAnswer::Silent { reason: SilentReason::NotTheHolder { ip } },
    }
}

/// Section 4.3.5: parameters only, for a machine that has its address from elsewhere.
fn inform(table: &LeaseTable, request: &LeaseRequest) -> LeaseAnswer {
    let ip = request.ciaddr;
    if ip.is_unspecified() {
        return LeaseAnswer::Silent { reason: SilentReason::NoAddressAsked };
    }
    if !table.subnet().contains(ip) {
        return LeaseAnswer::Silent { reason: SilentReason::OtherSubnet { ip } };
    }
    // The answer goes to this address: to ourselves, or as a broadcast to everybody, whoever asks for it.
    if !table.subnet().may_be_a_machine(ip) {
        return LeaseAnswer::Silent { reason: SilentReason::NoMachine { ip } };
    }
    LeaseAnswer::Inform { ip }
}
