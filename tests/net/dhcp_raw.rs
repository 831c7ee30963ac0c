//! DHCP packet by packet: what no well-behaved client would send, and what the server may not answer.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dhcproto::v4::{Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder};
use regild::decide::lease::{LeaseAnswer, LeaseRequest, LeaseState};
use regild::decide::mac::Mac;
use regild::decide::netboot::NetbootClient;
use regild::dhcp::{Authority, LeaseError, NetbootAnswer};
use tokio::sync::Semaphore;

use crate::dhcp_client::{Ask, Client, SILENCE, kind};
use crate::lab::{CLIENT_LINK, Lab, SERVER_IP, SmallAuthority, ip};

/// D9: duplicated, reordered and replayed REQUESTs, wrong server-id, another's IP: the same ACK, silence, NAK, and
/// never two leases.
#[test]
fn d9_repeated_foreign_and_greedy_requests() {
    let lab = Lab::new();
    let authority = SmallAuthority::new();
    let server = lab.serve(authority.clone());
    let client = Client::new(&lab);
    let leases = || {
        let table = authority.table.lock().unwrap();
        table.iter().filter(|lease| lease.state == LeaseState::Bound).map(|lease| (lease.mac, lease.ip)).collect()
    };
    let own = client.bind(1);
    let before: Vec<(Mac, Ipv4Addr)> = leases();
    // The duplicate: the same ACK, but for the seconds of the lease that have passed meanwhile.
    let request = Ask::select(1, own).encode(77);
    let ack_without_times = || {
        let mut ack = Message::decode(&mut Decoder::new(&client.exchange(&request))).unwrap();
        let times = [OptionCode::AddressLeaseTime, OptionCode::Renewal, OptionCode::Rebinding];
        assert!(times.map(|time| ack.opts_mut().remove(time)).iter().all(Option::is_some));
        ack
    };
    let first = ack_without_times();
    assert_eq!((kind(&first), first.yiaddr()), (MessageType::Ack, own));
    for _ in 0..3 {
        assert_eq!(ack_without_times(), first);
    }
    // Reordered: it comes behind a DISCOVER that was sent after it.
    assert_eq!(client.ask(Ask::new(MessageType::Discover, 1)).yiaddr(), own);
    let late = client.ask(Ask::select(1, own));
    assert_eq!((kind(&late), late.yiaddr()), (MessageType::Ack, own));
    assert_eq!(leases(), before, "a repeated REQUEST made a second lease");
    // Meant for another server.
    client.ask_in_vain(Ask { server_id: Some([10, 77, 0, 3].into()), ..Ask::select(1, own) });
    // Another machine's address, an address from another subnet.
    let theirs = client.bind(2);
    assert_ne!(theirs, own);
    assert_eq!(kind(&client.ask(Ask::select(1, theirs))), MessageType::Nak);
    // Replayed after the address went to somebody else: machine 1 leaves, the pool runs once around, 9 has it now.
    client.ask_in_vain(Ask { ciaddr: Some(own), server_id: Some(SERVER_IP), ..Ask::new(MessageType::Release, 1) });
    let heir = (9..40).find(|mac| client.bind(*mac) == own).expect("a released address is given out again");
    let replayed = client.ask(Ask::select(1, own));
    assert_eq!((kind(&replayed), replayed.yiaddr()), (MessageType::Nak, Ipv4Addr::UNSPECIFIED));
    let holders: Vec<_> = leases().into_iter().filter(|(_, ip)| *ip == own).collect();
    assert_eq!(holders, [(Mac([0x52, 0x54, 0, 0, 9, heir]), own)]);
    let far = Ask { requested: Some([192, 168, 0, 9].into()), ..Ask::new(MessageType::Request, 1) };
    let nak = client.ask(far);
    assert_eq!((kind(&nak), nak.yiaddr()), (MessageType::Nak, Ipv4Addr::UNSPECIFIED));
    // D12, and the place of relays: silence with a reason.
    client.ask_in_vain(Ask { giaddr: Some([10, 99, 0, 1].into()), ..Ask::new(MessageType::Discover, 1) });
    assert_eq!(server.counters.silent()["relay_not_supported"], 1);
    assert_eq!(server.counters.silent()["other_server"], 1);
}

#[test]
fn renewals_and_informs_are_answered_by_unicast_to_the_address_in_use() {
    let lab = Lab::new();
    let _server = lab.serve(SmallAuthority::new());
    let client = Client::new(&lab);
    let own = client.bind(1);
    // Only now does our kernel take packets for it.
    ip(&["-n", &lab.client, "address", "add", &format!("{own}/24"), "dev", CLIENT_LINK]);
    let renewed = client.ask(Ask { ciaddr: Some(own), ..Ask::new(MessageType::Request, 1) });
    assert_eq!((kind(&renewed), renewed.yiaddr(), renewed.ciaddr()), (MessageType::Ack, own, own));
    let told = client.ask(Ask { ciaddr: Some([10, 77, 0, 2].into()), ..Ask::new(MessageType::Inform, 3) });
    assert_eq!((kind(&told), told.yiaddr()), (MessageType::Ack, Ipv4Addr::UNSPECIFIED));
    assert!(told.opts().get(OptionCode::Router).is_some());
    assert!(told.opts().get(OptionCode::AddressLeaseTime).is_none());
    // D13: a renewal of an address that no subnet of ours has.
    let lost = client.ask(Ask { ciaddr: Some([172, 16, 0, 9].into()), ..Ask::new(MessageType::Request, 1) });
    assert_eq!(kind(&lost), MessageType::Nak);
}

#[test]
fn d10_declined_addresses_rest_and_forged_releases_change_nothing() {
    let lab = Lab::new();
    let authority = SmallAuthority::new();
    let server = lab.serve(authority.clone());
    let client = Client::new(&lab);
    let own = client.bind(1);
    let state = |ip| authority.table.lock().unwrap().lookup(ip).map(|lease| (lease.state, lease.expires_at));
    let before = state(own);
    let give_back = Ask { ciaddr: Some(own), server_id: Some(SERVER_IP), ..Ask::new(MessageType::Release, 2) };
    client.ask_in_vain(give_back);
    let decline = Ask { kind: MessageType::Decline, ..Ask::select(2, own) };
    client.ask_in_vain(decline);
    assert_eq!(state(own), before);
    assert_eq!(server.counters.silent()["not_the_holder"], 2);
    // The owner's word counts.
    client.ask_in_vain(Ask { mac: 1, ..decline });
    assert_eq!(state(own).map(|(state, _)| state), Some(LeaseState::Declined));
    assert_ne!(client.bind(1), own);
    let second = client.bind(1);
    client.ask_in_vain(Ask { mac: 1, ciaddr: Some(second), ..give_back });
    assert!(state(second).is_some_and(|(_, expires_at)| expires_at <= regild::clock::now()));
}

/// D1, D2, D7: each packet is counted under its reason, none is answered, and the next machine is served.
#[test]
fn d1_d2_d7_bad_packets_are_counted_and_the_server_lives_on() {
    let lab = Lab::new();
    let server = lab.serve(SmallAuthority::new());
    let client = Client::new(&lab);
    let good = Ask::new(MessageType::Discover, 1).encode(7);
    let pads_only = [&good[..240], &[0; 60]].concat();
    let spoil = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        packet
    };
    let without_end = good[..good.len() - 1].to_vec();
    let with_long_option = [&without_end[..], &[12, 200, 1, 255]].concat();
    let short = (0..240).map(|length| (good[..length].to_vec(), "too_short"));
    let crooked = [
        ([&good[..], &[0; 5000]].concat(), "too_long"),
        ([&good[..], &vec![0; 60_000]].concat(), "too_long"),
        (spoil(0, 2), "not_a_request"),
        (spoil(1, 6), "not_ethernet"),
        (spoil(2, 20), "not_ethernet"),
        (spoil(2, 0), "not_ethernet"),
        (spoil(236, 0), "no_cookie"),
        (without_end, "no_end"),
        (pads_only, "no_end"),
        (with_long_option, "option_too_long"),
        ([&good[..240], &[255]].concat(), "no_message_type"),
        (spoil(28, 0xff), "bad_mac"),
    ];
    let cases: Vec<_> = short.chain(crooked).collect();
    for (packet, _) in &cases {
        client.send(packet);
    }
    assert!(client.receive(SILENCE).is_none());
    let counted = server.counters.malformed();
    for (_, name) in &cases {
        let wanted = cases.iter().filter(|(_, other)| other == name).count() as u64;
        assert_eq!(counted[name], wanted, "{name}");
    }
    client.bind(1);
}

/// Grants nothing before the test says so.
struct SlowAuthority {
    small: Arc<SmallAuthority>,
    gate: Semaphore,
}

impl Authority for SlowAuthority {
    async fn lease(&self, place: usize, request: LeaseRequest) -> Result<LeaseAnswer, LeaseError> {
        let pass = self.gate.acquire().await;
        if pass.is_err() {
            return Err(LeaseError::NotStored { reason: "disk full".into() });
        }
        self.small.lease(place, request).await
    }

    async fn netboot(&self, network: usize, mac: Mac, client: NetbootClient) -> NetbootAnswer {
        self.small.netboot(network, mac, client).await
    }
}

/// Rule 7, written down before it is said; rule 9, bounded; D8: a flood is dropped and counted, and passes.
#[test]
fn nothing_is_said_before_it_is_written_and_a_flood_is_bounded() {
    let lab = Lab::new();
    let authority = Arc::new(SlowAuthority { small: SmallAuthority::new(), gate: Semaphore::new(0) });
    let server = lab.serve(authority.clone());
    let client = Client::new(&lab);
    client.ask_in_vain(Ask::new(MessageType::Discover, 1));
    for _ in 0..1500 {
        client.post(Ask::new(MessageType::Discover, 2));
    }
    let overloaded = || server.counters.overloaded.load(Ordering::Relaxed);
    let flooded = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        server.counters.received.load(Ordering::Relaxed) == 1501
    });
    assert!(flooded, "the server stopped reading");
    assert_eq!(overloaded(), 1501 - 1024);
    authority.gate.add_permits(1);
    let mut answers = 0;
    while client.receive(SILENCE).is_some() {
        answers += 1;
    }
    assert!(answers > 0);
    client.bind(3);
    // Stable storage fails: no answer at all, and it is counted.
    authority.gate.close();
    client.ask_in_vain(Ask::new(MessageType::Discover, 4));
    assert_eq!(server.counters.lease_errors.load(Ordering::Relaxed), 1);
}
