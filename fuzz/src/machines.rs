//! Machines on a small network, as DHCP packets.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use arbitrary::Arbitrary;
use regild::decide::mac::Mac;
use regild::dhcp::Network;

pub const SERVER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 30);
/// Inside the pool, and kept for [`mac`] 1.
pub const RESERVED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 12);

/// 10.0.0.0/27 with eight addresses for anybody: small, so that machines get in each other's way.
#[must_use]
pub fn network() -> Network {
    let network = Network {
        interface: "eth0".to_owned(),
        server_ip: SERVER_IP,
        prefix_len: 27,
        router: Some(ROUTER),
        dns: vec![ROUTER; 8],
        lease_seconds: 3600,
        pools: vec![(ip(10), ip(14)), (ip(20), ip(23))],
        reservations: BTreeMap::from([(mac(1), RESERVED), (mac(2), ip(17))]),
    };
    network.check().expect("the targets' own network is right");
    network
}

#[must_use]
pub fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

#[must_use]
pub fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

/// A packet with a right frame: header fields, options, and what lies in `sname` and `file`.
#[derive(Debug, Clone, Default, Arbitrary)]
pub struct Packet {
    pub xid: u32,
    pub flags: u16,
    pub ciaddr: [u8; 4],
    pub giaddr: [u8; 4],
    pub chaddr: [u8; 6],
    pub options: Vec<(u8, Vec<u8>)>,
    pub sname: Vec<u8>,
    pub file: Vec<u8>,
}

impl Packet {
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut packet = vec![0; 240];
        packet[..3].copy_from_slice(&[1, 1, 6]);
        packet[4..8].copy_from_slice(&self.xid.to_be_bytes());
        packet[10..12].copy_from_slice(&self.flags.to_be_bytes());
        packet[12..16].copy_from_slice(&self.ciaddr);
        packet[24..28].copy_from_slice(&self.giaddr);
        packet[28..34].copy_from_slice(&self.chaddr);
        for (place, field) in [(44..108, &self.sname), (108..236, &self.file)] {
            packet[place].iter_mut().zip(field).for_each(|(byte, said)| *byte = *said);
        }
        packet[236..240].copy_from_slice(&[99, 130, 83, 99]);
        for (code, value) in &self.options {
            let value = &value[..value.len().min(255)];
            packet.extend([*code, value.len() as u8]);
            packet.extend(value);
        }
        packet.push(255);
        packet
    }
}
