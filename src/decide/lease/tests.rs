mod sequences;

use std::collections::BTreeMap;

use super::*;

const NOW: u64 = 1_800_000_000;
const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn mac(last: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, last])
}

/// 10.0.0.0/24, we are .1, pool .10 to .19; machine 7 has .15 reserved, machine 8 has .200.
fn subnet() -> Subnet {
    Subnet {
        server_id: ip(1),
        prefix_len: 24,
        pools: vec![(ip(10), ip(14)), (ip(15), ip(19))],
        reservations: BTreeMap::from([(mac(7), ip(15)), (mac(8), ip(200))]),
        lease_seconds: 3600,
    }
}

fn packet(kind: MessageKind, from: Mac) -> LeaseRequest {
    LeaseRequest { kind, mac: from, ciaddr: NONE, requested: None, server_id: None, giaddr: NONE, hostname: None }
}

fn discover_from(from: Mac) -> LeaseRequest {
    packet(MessageKind::Discover, from)
}

fn select(from: Mac, ip_asked: Ipv4Addr) -> LeaseRequest {
    LeaseRequest { requested: Some(ip_asked), server_id: Some(ip(1)), ..packet(MessageKind::Request, from) }
}

fn init_reboot(from: Mac, ip_asked: Ipv4Addr) -> LeaseRequest {
    LeaseRequest { requested: Some(ip_asked), ..packet(MessageKind::Request, from) }
}

fn renew(from: Mac, ciaddr: Ipv4Addr) -> LeaseRequest {
    LeaseRequest { ciaddr, ..packet(MessageKind::Request, from) }
}

fn decline_of(from: Mac, ip_asked: Ipv4Addr) -> LeaseRequest {
    LeaseRequest { requested: Some(ip_asked), server_id: Some(ip(1)), ..packet(MessageKind::Decline, from) }
}

fn release_of(from: Mac, ciaddr: Ipv4Addr) -> LeaseRequest {
    LeaseRequest { ciaddr, server_id: Some(ip(1)), ..packet(MessageKind::Release, from) }
}

/// Decides and applies, as the one writer does.
fn say(table: &mut LeaseTable, request: &LeaseRequest, now: u64) -> LeaseAnswer {
    let answer = decide(table, request, now);
    if let Some(change) = answer.change() {
        table.apply(change);
    }
    answer
}

fn offered(answer: &LeaseAnswer) -> Ipv4Addr {
    match answer {
        LeaseAnswer::Offer { ip, .. } => *ip,
        other => panic!("no offer: {other:?}"),
    }
}

fn acked(answer: &LeaseAnswer) -> Ipv4Addr {
    match answer {
        LeaseAnswer::Ack { lease, .. } => lease.ip,
        other => panic!("no ack: {other:?}"),
    }
}

fn naked(answer: &LeaseAnswer) -> NakReason {
    match answer {
        LeaseAnswer::Nak { reason } => *reason,
        other => panic!("no nak: {other:?}"),
    }
}

fn silent(answer: &LeaseAnswer) -> SilentReason {
    match answer {
        LeaseAnswer::Silent { reason } => *reason,
        other => panic!("not silent: {other:?}"),
    }
}

fn bind(table: &mut LeaseTable, from: Mac, now: u64) -> Ipv4Addr {
    let ip = offered(&say(table, &discover_from(from), now));
    acked(&say(table, &select(from, ip), now))
}

#[test]
fn two_machines_that_discover_at_once_are_offered_two_addresses() {
    let mut table = LeaseTable::new(subnet());
    let first = offered(&say(&mut table, &discover_from(mac(1)), NOW));
    let second = offered(&say(&mut table, &discover_from(mac(2)), NOW));
    assert_ne!(first, second);
    // A repeated DISCOVER gets the same offer.
    assert_eq!(offered(&say(&mut table, &discover_from(mac(1)), NOW + 4)), first);
}

#[test]
fn a_machine_keeps_its_address_across_firmware_ipxe_agent_and_os() {
    let mut table = LeaseTable::new(subnet());
    let first = bind(&mut table, mac(1), NOW);
    bind(&mut table, mac(2), NOW);
    // Each stage discovers anew, wishing for something else, and still gets the machine's address.
    for later in [5, 20, 40, 4000, 100_000] {
        let wish = LeaseRequest { requested: Some(ip(18)), ..discover_from(mac(1)) };
        assert_eq!(offered(&say(&mut table, &wish, NOW + later)), first);
        assert_eq!(acked(&say(&mut table, &select(mac(1), first), NOW + later)), first);
    }
}

#[test]
fn a_boot_costs_one_write_and_every_stage_hears_the_time_that_is_left() {
    let mut table = LeaseTable::new(subnet());
    let ip = bind(&mut table, mac(1), NOW);
    match say(&mut table, &select(mac(1), ip), NOW + 30) {
        LeaseAnswer::Ack { lease_seconds: 3570, known: true, lease, .. } => assert_eq!(lease.expires_at, NOW + 3600),
        other => panic!("{other:?}"),
    }
    // Past 5% of the lease it is a renewal; so it is after the clock was set back.
    for now in [NOW + 181, NOW - 1000] {
        match decide(&table, &renew(mac(1), ip), now) {
            LeaseAnswer::Ack { lease_seconds: 3600, known: false, lease, .. } => {
                assert_eq!(lease.expires_at, now + 3600);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn reservations_come_first_and_nobody_else_gets_them() {
    let mut table = LeaseTable::new(subnet());
    let wish = LeaseRequest { requested: Some(ip(15)), ..discover_from(mac(1)) };
    assert_ne!(offered(&say(&mut table, &wish, NOW)), ip(15));
    assert_eq!(naked(&say(&mut table, &select(mac(1), ip(15)), NOW)), NakReason::NotYourAddress { ip: ip(15) });
    assert_eq!(bind(&mut table, mac(7), NOW), ip(15));
    assert_eq!(bind(&mut table, mac(8), NOW), ip(200));
    // The pool of ten holds eight for the others: one is reserved, one on offer to machine 1.
    let others: Vec<_> = (20..28).map(|n| bind(&mut table, mac(n), NOW)).collect();
    assert!(!others.contains(&ip(15)) && others.iter().collect::<std::collections::BTreeSet<_>>().len() == 8);
    assert_eq!(silent(&say(&mut table, &discover_from(mac(30)), NOW)), SilentReason::PoolFull);
}

#[test]
fn a_new_reservation_is_moved_to_at_the_next_renewal() {
    let mut table = LeaseTable::new(subnet());
    let old = bind(&mut table, mac(1), NOW);
    let mut changed = subnet();
    changed.reservations.insert(mac(1), ip(201));
    let mut table = LeaseTable::load(changed, table.iter().cloned().collect::<Vec<_>>());
    assert_eq!(naked(&say(&mut table, &renew(mac(1), old), NOW + 9)), NakReason::ReservedElsewhere { ip: ip(201) });
    assert_eq!(offered(&say(&mut table, &discover_from(mac(1)), NOW + 9)), ip(201));
    assert_eq!(table.bound_to(mac(1)).map(|lease| lease.ip), Some(old), "the offer alone takes nothing away");
    match say(&mut table, &select(mac(1), ip(201)), NOW + 9) {
        LeaseAnswer::Ack { lease, frees, .. } => {
            assert_eq!((lease.ip, frees), (ip(201), Some(old)))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(table.lookup(old), None);
}

#[test]
fn the_address_longest_without_an_owner_goes_first_and_forgotten_offers_before_old_leases() {
    let mut table = LeaseTable::new(subnet());
    let early = bind(&mut table, mac(1), NOW);
    let late = bind(&mut table, mac(2), NOW + 10);
    for n in 0..7 {
        say(&mut table, &discover_from(mac(100 + n)), NOW + 20);
    }
    assert_eq!(silent(&say(&mut table, &discover_from(mac(3)), NOW + 21)), SilentReason::PoolFull);
    // Offers are forgotten after a minute and are used up first, all seven.
    let after = NOW + 4000;
    let taken: Vec<_> = (3..10).filter(|n| *n != 7 && *n != 8).map(|n| bind(&mut table, mac(n), after)).collect();
    assert!(!taken.contains(&early) && !taken.contains(&late));
    bind(&mut table, mac(10), after);
    bind(&mut table, mac(11), after);
    assert_eq!(bind(&mut table, mac(12), after), early);
    assert_eq!(bind(&mut table, mac(13), after), late);
}

#[test]
fn d9_a_duplicate_request_gets_the_same_ack_and_writes_nothing() {
    let mut table = LeaseTable::new(subnet());
    let ip = bind(&mut table, mac(1), NOW);
    let again = decide(&table, &select(mac(1), ip), NOW);
    assert_eq!(acked(&again), ip);
    assert_eq!(again.change(), None);
}

#[test]
fn d9_another_servers_packets_are_not_ours_to_answer() {
    let mut table = LeaseTable::new(subnet());
    let ip_own = bind(&mut table, mac(1), NOW);
    for kind in [MessageKind::Request, MessageKind::Decline, MessageKind::Release] {
        let request = LeaseRequest {
            server_id: Some(ip(2)),
            requested: Some(ip_own),
            ciaddr: if kind == MessageKind::Release { ip_own } else { NONE },
            ..packet(kind, mac(1))
        };
        assert_eq!(silent(&say(&mut table, &request, NOW)), SilentReason::OtherServer { server_id: ip(2) });
    }
    assert_eq!(table.bound_to(mac(1)).map(|lease| lease.ip), Some(ip_own));
}

#[test]
fn d9_an_address_of_another_machine_is_refused_in_every_kind_of_request() {
    let mut table = LeaseTable::new(subnet());
    let theirs = bind(&mut table, mac(1), NOW);
    let before = table.lookup(theirs).cloned();
    for request in [select(mac(2), theirs), init_reboot(mac(2), theirs), renew(mac(2), theirs)] {
        assert_eq!(naked(&say(&mut table, &request, NOW)), NakReason::NotYourAddress { ip: theirs });
    }
    let wish = LeaseRequest { requested: Some(theirs), ..discover_from(mac(2)) };
    assert_ne!(offered(&say(&mut table, &wish, NOW)), theirs);
    assert_eq!(table.lookup(theirs).cloned(), before);
}

#[test]
fn d13_a_machine_from_another_subnet_is_told_to_start_again() {
    let mut table = LeaseTable::new(subnet());
    let far = Ipv4Addr::new(192, 168, 1, 5);
    for request in [select(mac(1), far), init_reboot(mac(1), far), renew(mac(1), far)] {
        assert_eq!(naked(&say(&mut table, &request, NOW)), NakReason::WrongSubnet { ip: far });
    }
}

#[test]
fn after_a_reboot_the_own_address_is_confirmed_a_wrong_one_refused_and_an_unknown_one_passed_over() {
    let mut table = LeaseTable::new(subnet());
    let own = bind(&mut table, mac(1), NOW);
    assert_eq!(acked(&say(&mut table, &init_reboot(mac(1), own), NOW + 9)), own);
    assert_eq!(naked(&say(&mut table, &init_reboot(mac(1), ip(19)), NOW)), NakReason::NotYourAddress { ip: ip(19) });
    assert_eq!(silent(&say(&mut table, &init_reboot(mac(2), ip(19)), NOW)), SilentReason::NoRecord { ip: ip(19) });
    // A reservation is a record, even when the lease itself was lost.
    assert_eq!(acked(&say(&mut table, &init_reboot(mac(8), ip(200)), NOW)), ip(200));
}

#[test]
fn after_a_lost_store_a_machine_keeps_what_it_is_using() {
    let mut table = LeaseTable::new(subnet());
    assert_eq!(acked(&say(&mut table, &renew(mac(1), ip(12)), NOW)), ip(12));
    // Outside the pools it is another server's business.
    assert_eq!(silent(&say(&mut table, &renew(mac(1), ip(99)), NOW)), SilentReason::NoRecord { ip: ip(99) });
}

#[test]
fn d10_declined_addresses_rest_but_never_more_than_a_tenth_of_the_pool() {
    let mut table = LeaseTable::new(subnet());
    let bad = bind(&mut table, mac(1), NOW);
    match say(&mut table, &decline_of(mac(1), bad), NOW) {
        LeaseAnswer::Decline { lease, quarantine_full: false } => {
            assert_eq!((lease.state, lease.expires_at), (LeaseState::Declined, NOW + QUARANTINE_SECONDS));
        }
        other => panic!("{other:?}"),
    }
    let wish = LeaseRequest { requested: Some(bad), ..discover_from(mac(1)) };
    let next = offered(&say(&mut table, &wish, NOW));
    assert_ne!(next, bad);
    assert_eq!(naked(&say(&mut table, &select(mac(1), bad), NOW)), NakReason::NotYourAddress { ip: bad });
    // The flood: whatever is offered is declined. The pool of ten lends one address to quarantine, no more.
    for step in 0..50 {
        let ip = offered(&say(&mut table, &discover_from(mac(1)), NOW + step));
        assert!(matches!(
            say(&mut table, &decline_of(mac(1), ip), NOW + step),
            LeaseAnswer::Decline { quarantine_full: true, .. }
        ));
        assert_eq!(table.quarantined(NOW + step, 100), 1);
    }
    assert_eq!(acked(&say(&mut table, &renew(mac(2), bad), NOW + QUARANTINE_SECONDS)), bad);
}

#[test]
fn d10_only_the_holder_can_decline_or_release_an_address() {
    let mut table = LeaseTable::new(subnet());
    let theirs = bind(&mut table, mac(1), NOW);
    let before = table.clone().iter().cloned().collect::<Vec<_>>();
    for request in [decline_of(mac(2), theirs), release_of(mac(2), theirs), release_of(mac(2), ip(19))] {
        assert!(matches!(silent(&say(&mut table, &request, NOW)), SilentReason::NotTheHolder { .. }));
    }
    assert_eq!(before, table.iter().cloned().collect::<Vec<_>>());
    assert!(matches!(say(&mut table, &release_of(mac(1), theirs), NOW), LeaseAnswer::Release { .. }));
    assert!(table.is_free_for(mac(2), theirs, NOW));
    assert!(matches!(silent(&say(&mut table, &release_of(mac(1), theirs), NOW)), SilentReason::NotTheHolder { .. }));
    // It is remembered all the same.
    assert_eq!(offered(&say(&mut table, &discover_from(mac(1)), NOW)), theirs);
}

#[test]
fn inform_gets_parameters_and_relayed_packets_get_nothing_yet() {
    let mut table = LeaseTable::new(subnet());
    let inform = LeaseRequest { ciaddr: ip(99), ..packet(MessageKind::Inform, mac(1)) };
    assert_eq!(say(&mut table, &inform, NOW), LeaseAnswer::Inform { ip: ip(99) });
    // A law of fuzz/dhcp_sequence: the answer went to the subnet's broadcast address, or to ourselves.
    for nobody in [0, 1, 255] {
        let inform = LeaseRequest { ciaddr: ip(nobody), ..packet(MessageKind::Inform, mac(1)) };
        assert_eq!(silent(&say(&mut table, &inform, NOW)), SilentReason::NoMachine { ip: ip(nobody) });
    }
    let relayed = LeaseRequest { giaddr: ip(254), ..discover_from(mac(1)) };
    assert_eq!(silent(&say(&mut table, &relayed, NOW)), SilentReason::RelayNotSupported { giaddr: ip(254) });
    assert_eq!(table.iter().count(), 0);
}

#[test]
fn d3_hostile_host_names_are_dropped_and_plain_ones_kept() {
    let table: &[(&[u8], Option<&str>)] = &[
        (b"web-01", Some("web-01")),
        (b"WEB", Some("web")),
        (b"old-rom\0\0", Some("old-rom")),
        (b"", None),
        (b"\0", None),
        (b"a\0b", None),
        (b"host.example.com", None),
        (b"-x", None),
        (b"x-", None),
        ("b\u{fc}ro".as_bytes(), None),
        (b"a b", None),
        (b"$(reboot)", None),
        (b"x\nkernel http://evil", None),
        (&[b'a'; 63], Some("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")),
        (&[b'a'; 64], None),
        (&[b'a'; 255], None),
    ];
    for (raw, wanted) in table {
        assert_eq!(hostname(raw).as_deref(), *wanted, "{}", raw.escape_ascii());
    }
}

#[test]
fn what_was_stored_twice_for_one_machine_is_loaded_once() {
    let lease = |last: u8, expires_at: u64| Lease {
        ip: ip(last),
        mac: mac(1),
        hostname: None,
        state: LeaseState::Bound,
        expires_at,
    };
    let elsewhere = Lease { ip: Ipv4Addr::new(10, 9, 9, 9), ..lease(11, NOW + 99) };
    let table = LeaseTable::load(subnet(), [lease(12, NOW + 50), lease(11, NOW + 10), elsewhere]);
    assert_eq!(table.iter().map(|lease| lease.ip).collect::<Vec<_>>(), [ip(12)]);
}

/// D8 in small: the search must not walk the pool. A walk of 65,000 addresses for each of 60,000 packets would
/// take minutes; this is seconds even unoptimised.
#[test]
fn d8_sixty_thousand_machines_are_bound_without_walking_the_pool() {
    let wide = Subnet {
        server_id: Ipv4Addr::new(10, 1, 0, 1),
        prefix_len: 16,
        pools: vec![(Ipv4Addr::new(10, 1, 1, 0), Ipv4Addr::new(10, 1, 255, 250))],
        reservations: BTreeMap::new(),
        lease_seconds: 3600,
    };
    let mut table = LeaseTable::new(wide);
    for n in 0..60_000u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let from = Mac([2, 0, 0, a, b, c]);
        let ip = offered(&say(&mut table, &discover_from(from), NOW));
        let request = LeaseRequest {
            requested: Some(ip),
            server_id: Some(Ipv4Addr::new(10, 1, 0, 1)),
            ..packet(MessageKind::Request, from)
        };
        assert_eq!(acked(&say(&mut table, &request, NOW)), ip);
    }
    assert_eq!(table.iter().count(), 60_000);
}
