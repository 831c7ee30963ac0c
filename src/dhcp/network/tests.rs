use super::*;

fn good() -> Network {
    Network {
        interface: "eth0".into(),
        server_ip: [10, 0, 0, 1].into(),
        prefix_len: 24,
        router: Some([10, 0, 0, 254].into()),
        dns: vec![[10, 0, 0, 1].into()],
        lease_seconds: 3600,
        pools: vec![([10, 0, 0, 10].into(), [10, 0, 0, 99].into())],
        reservations: BTreeMap::from([(Mac([2, 0, 0, 0, 0, 1]), [10, 0, 0, 50].into())]),
    }
}

type Spoil = fn(&mut Network);

/// What to spoil, and what the message must contain.
const MISTAKES: &[(Spoil, &str)] = &[
    (|n| n.interface = "a/b".into(), "\"a/b\""),
    (|n| n.interface = "sixteen-letters-".into(), "15 bytes"),
    (|n| n.prefix_len = 31, "/31"),
    (|n| n.prefix_len = 0, "/0"),
    (|n| n.lease_seconds = 5, "5 s"),
    (|n| n.lease_seconds = u32::MAX, "4294967295 s"),
    (|n| n.dns = vec![[1, 1, 1, 1].into(); 9], "9 name servers"),
    (|n| n.server_ip = [10, 0, 0, 0].into(), "10.0.0.0 cannot be used"),
    (|n| n.router = Some([10, 0, 1, 1].into()), "the router's address 10.0.1.1"),
    (|n| n.pools[0].1 = [10, 0, 0, 255].into(), "10.0.0.255 cannot be used"),
    (|n| n.pools[0].1 = [10, 0, 1, 9].into(), "subnet 10.0.0.0/24"),
    (|n| n.pools[0].1 = [10, 0, 0, 9].into(), "ends before it begins"),
    (|n| n.pools.push(([10, 0, 0, 99].into(), [10, 0, 0, 120].into())), "overlap"),
    (|n| n.server_ip = [10, 0, 0, 10].into(), "the server's address 10.0.0.10 lies in the pool"),
    (|n| n.router = Some([10, 0, 0, 99].into()), "the router's address 10.0.0.99 lies in the pool"),
    (|n| _ = n.reservations.insert(Mac([2, 0, 0, 0, 0, 2]), [10, 0, 0, 50].into()), "reserved for both"),
    (|n| _ = n.reservations.insert(Mac([2, 0, 0, 0, 0, 2]), [10, 0, 0, 1].into()), "the server's"),
    (|n| _ = n.reservations.insert(Mac([2, 0, 0, 0, 0, 2]), [10, 0, 0, 254].into()), "the router's"),
    (|n| _ = n.reservations.insert(Mac([2, 0, 0, 0, 0, 2]), [10, 0, 9, 9].into()), "10.0.9.9"),
    (|n| _ = n.reservations.insert(Mac([0xff; 6]), [10, 0, 0, 51].into()), "ff:ff:ff:ff:ff:ff"),
];

/// O5: a wrong network is refused with a message that names what is wrong.
#[test]
fn every_mistake_is_named() {
    assert_eq!(good().check(), Ok(()));
    for (spoil, wanted) in MISTAKES {
        let mut network = good();
        spoil(&mut network);
        let said = network.check().map_err(|error| error.to_string());
        assert!(said.as_ref().is_err_and(|text| text.contains(wanted)), "{wanted:?} not in {said:?}");
    }
}

#[test]
fn networks_must_not_share_an_interface_or_a_subnet() {
    let other = Network { interface: "eth1".into(), ..good() };
    assert!(matches!(check_networks(&[good(), good()]), Err(NetworkError::InterfaceTwice { .. })));
    assert!(matches!(check_networks(&[good(), other.clone()]), Err(NetworkError::SubnetTwice { .. })));
    let apart = Network {
        server_ip: [10, 0, 1, 1].into(),
        router: None,
        pools: vec![],
        reservations: BTreeMap::new(),
        ..other
    };
    assert_eq!(check_networks(&[good(), apart]), Ok(()));
}
