//! Machines that speak DHCP in any order, through crashes of the server, against what they themselves believe.
#![no_main]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use regild::decide::lease::{Lease, LeaseAnswer, LeaseState, LeaseTable, decide};
use regild::decide::mac::Mac;
use regild::dhcp::codec::Request;
use regild::dhcp::fuzzing::outgoing;
use regild_fuzz::machines::{Packet, RESERVED, ROUTER, SERVER_IP, ip, mac, network};

#[derive(Debug, Arbitrary)]
enum Step {
    Says {
        machine: u8,
        kind: Kind,
        address: Address,
        names_us: bool,
        hostname: Vec<u8>,
    },
    Waits {
        seconds: u16,
    },
    /// What was only in memory is lost.
    ServerDies,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Kind {
    Discover,
    Select,
    InitReboot,
    Renew,
    Decline,
    Release,
    Inform,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Address {
    Own,
    Last(u8),
    Any([u8; 4]),
}

/// What a machine was told is its own, and until when.
type Believed = BTreeMap<Ipv4Addr, (Mac, u64)>;

fuzz_target!(|steps: Vec<Step>| {
    let network = network();
    let mut table = LeaseTable::new(network.subnet());
    let mut stored: BTreeMap<Ipv4Addr, Lease> = BTreeMap::new();
    let mut believed = Believed::new();
    let mut now = 1_000_000;
    for step in steps {
        let (packet, from) = match step {
            Step::Waits { seconds } => {
                now += u64::from(seconds);
                continue;
            }
            Step::ServerDies => {
                table = LeaseTable::load(network.subnet(), stored.values().cloned());
                continue;
            }
            Step::Says { machine, kind, address, names_us, hostname } => {
                let from = mac(1 + machine % 16);
                let own = table.bound_to(from).or(table.offered_to(from)).map_or(ip(10), |lease| lease.ip);
                let address = match address {
                    Address::Own => own,
                    Address::Last(last) => ip(last),
                    Address::Any(octets) => octets.into(),
                };
                (said(from, kind, address, names_us, hostname), from)
            }
        };
        let request = Request::decode(&packet).expect("machines here speak well");
        let answer = decide(&table, &request.lease_request(), now);
        if let Some(change) = answer.change() {
            if change.is_durable() {
                change.frees.map(|ip| stored.remove(&ip));
                stored.insert(change.put.ip, change.put.clone());
            }
            table.apply(change);
        }
        heard(&answer, from, &mut believed, now);
        check(&table);
        if let Some(to) = outgoing(&network, &request, &answer, "ipxe.efi").and_then(|out| out.to) {
            let is_host = table.subnet().contains(to) && ![ip(0), SERVER_IP, ip(31)].contains(&to);
            assert!(is_host, "an answer to {to}, where no machine can be");
        }
    }
});

fn said(from: Mac, kind: Kind, address: Ipv4Addr, names_us: bool, hostname: Vec<u8>) -> Vec<u8> {
    let mut packet = Packet { chaddr: from.0, ..Packet::default() };
    let (code, uses, asks) = match kind {
        Kind::Discover => (1, false, true),
        Kind::Select | Kind::InitReboot => (3, false, true),
        Kind::Renew => (3, true, false),
        Kind::Decline => (4, false, true),
        Kind::Release => (7, true, false),
        Kind::Inform => (8, true, false),
    };
    packet.options.push((53, vec![code]));
    if uses {
        packet.ciaddr = address.octets();
    }
    if asks {
        packet.options.push((50, address.octets().to_vec()));
    }
    if names_us || matches!(kind, Kind::Select) {
        packet.options.push((54, SERVER_IP.octets().to_vec()));
    }
    packet.options.push((12, hostname));
    packet.bytes()
}

/// The law: whoever was told that an address is its own is alone with it until then.
fn heard(answer: &LeaseAnswer, from: Mac, believed: &mut Believed, now: u64) {
    let others = |ip: &Ipv4Addr| believed.get(ip).filter(|(owner, until)| *owner != from && *until > now);
    match answer {
        LeaseAnswer::Ack { lease, lease_seconds, frees, .. } => {
            assert_eq!(others(&lease.ip), None, "{} was given to {from} too", lease.ip);
            assert_eq!(lease.mac, from);
            assert!(lease.ip != RESERVED || from == mac(1), "a reservation went to {from}");
            assert!(![SERVER_IP, ROUTER].contains(&lease.ip));
            let until = now + u64::from(*lease_seconds);
            assert!(until <= lease.expires_at, "the machine was told more than is written down");
            if let Some(freed) = frees {
                believed.remove(freed);
            }
            believed.insert(lease.ip, (from, until));
        }
        LeaseAnswer::Offer { ip, .. } => assert_eq!(others(ip), None, "{ip} was offered to {from} too"),
        LeaseAnswer::Release { lease } | LeaseAnswer::Decline { lease, .. } => {
            assert_eq!(others(&lease.ip), None, "{from} took {} from its owner", lease.ip);
            believed.remove(&lease.ip);
        }
        LeaseAnswer::Nak { .. } | LeaseAnswer::Inform { .. } | LeaseAnswer::Silent { .. } => {}
    }
}

/// The table's own promises, by a full walk.
fn check(table: &LeaseTable) {
    let mut bound = BTreeMap::new();
    for lease in table.iter() {
        assert!(table.subnet().contains(lease.ip));
        if lease.state == LeaseState::Bound {
            assert_eq!(bound.insert(lease.mac, lease.ip), None, "{} has two addresses", lease.mac);
            assert_eq!(table.bound_to(lease.mac), Some(lease));
        }
    }
}
