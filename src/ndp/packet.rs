//! The two packets as bytes (RFC 4861 sections 4.1 and 4.2, RFC 4443 section 2.3). Pure.

use std::net::Ipv6Addr;

use crate::decide::mac::Mac;

pub(super) const ICMPV6: u8 = 58;
pub(super) const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Neighbour discovery never crosses a router, and this shows that it has not.
const HOP_LIMIT: u8 = 255;
const ETHERNET_BYTES: usize = 14;
const IPV6_BYTES: usize = 40;
const SOLICITATION_BYTES_MIN: usize = 8;

/// Who asks for a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Solicitation {
    /// The frame's source.
    pub mac: Mac,
    /// Unspecified when it has no address yet.
    pub source: Ipv6Addr,
}

impl Solicitation {
    /// Reads an Ethernet frame; `None` for anything that RFC 4861 section 6.1.1 tells routers to drop.
    pub fn read(frame: &[u8]) -> Option<Solicitation> {
        let (ethernet, rest) = frame.split_at_checked(ETHERNET_BYTES)?;
        let (ip, payload) = rest.split_at_checked(IPV6_BYTES)?;
        let icmp = payload.get(..usize::from(u16::from_be_bytes([ip[4], ip[5]])))?;
        let is_ndp = ethernet[12..] == ETHERTYPE_IPV6 && ip[0] >> 4 == 6 && ip[6] == ICMPV6 && ip[7] == HOP_LIMIT;
        let is_solicitation = icmp.len() >= SOLICITATION_BYTES_MIN && icmp[..2] == [ROUTER_SOLICITATION, 0];
        if !is_ndp || !is_solicitation {
            return None;
        }
        let (source, target) = (address(&ip[8..24])?, address(&ip[24..40])?);
        let mac = Mac(ethernet[6..12].try_into().ok()?);
        (checksum(source, target, icmp) == 0 && mac.is_unicast()).then_some(Solicitation { mac, source })
    }
}

/// "I am here, and no router": lifetime 0, so nobody routes through us; no flags, so nobody asks for DHCPv6; no prefix,
/// so nobody makes an address. The frame goes to the asker alone.
pub(super) fn no_router(ours: Mac, to: Solicitation) -> Vec<u8> {
    let source = link_local(ours);
    // RFC 4861 section 6.2.6: to all nodes where the asker has no address to answer to.
    let target = if to.source.is_unspecified() { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) } else { to.source };
    // Hop limit, lifetime, reachable time and retransmission timer: all zero, "unspecified by this router".
    let mut icmp = vec![0; 16];
    icmp[0] = ROUTER_ADVERTISEMENT;
    // Our link-layer address, option 1 of one unit of eight bytes: saves the asker a question.
    icmp.extend([1, 1]);
    icmp.extend(ours.0);
    let sum = checksum(source, target, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::with_capacity(ETHERNET_BYTES + IPV6_BYTES + icmp.len());
    frame.extend(to.mac.0);
    frame.extend(ours.0);
    frame.extend(ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    // 24 bytes.
    frame.extend((icmp.len() as u16).to_be_bytes());
    frame.extend([ICMPV6, HOP_LIMIT]);
    frame.extend(source.octets());
    frame.extend(target.octets());
    frame.extend(icmp);
    frame
}

/// The link-local address that a MAC stands for (RFC 4291 appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
}

/// RFC 8200 section 8.1, over the pseudo-header and the message: what belongs into a checksum field that is zero, and
/// zero where the field is right.
fn checksum(source: Ipv6Addr, target: Ipv6Addr, icmp: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        bytes.chunks(2).map(word).sum()
    };
    // A frame's worth of words stays far from 2^32.
    let mut sum = words(&source.octets()) + words(&target.octets()) + words(icmp);
    sum += icmp.len() as u32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

    /// As iPXE (Debian's 1.0.0+git-20190125) sent it in QEMU, from 52:54:00:77:00:10.
    #[rustfmt::skip]
    const SOLICITATION: [u8; 70] = [
        0x33, 0x33, 0, 0, 0, 2, 0x52, 0x54, 0, 0x77, 0, 0x10, 0x86, 0xdd,
        0x60, 0, 0, 0, 0, 0x10, 0x3a, 0xff, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x50, 0x54, 0, 0xff, 0xfe, 0x77, 0, 0x10,
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
        0x85, 0, 0xd9, 0x77, 0, 0, 0, 0, 1, 1, 0x52, 0x54, 0, 0x77, 0, 0x10,
    ];

    #[test]
    fn a_good_solicitation_is_read_and_a_spoiled_one_is_not() {
        let good = SOLICITATION;
        let read = Solicitation::read(&good).unwrap();
        assert_eq!(read.mac, Mac([0x52, 0x54, 0, 0x77, 0, 0x10]));
        assert_eq!(read.source, "fe80::5054:ff:fe77:10".parse::<Ipv6Addr>().unwrap());
        // Every byte behind the frame's addresses counts, but for traffic class and flow label, which say nothing here.
        for at in (12..good.len()).filter(|at| !(15..18).contains(at)) {
            let mut spoiled = good;
            spoiled[at] ^= 0x41;
            assert_eq!(Solicitation::read(&spoiled), None, "byte {at}");
        }
        for length in 0..good.len() {
            assert_eq!(Solicitation::read(&good[..length]), None, "{length} bytes");
        }
    }

    /// Promise: whoever hears us routes nothing through us, makes no address and asks for no DHCPv6.
    #[test]
    fn the_answer_promises_nothing_and_goes_to_the_asker_alone() {
        let asker = Solicitation::read(&SOLICITATION).unwrap();
        let frame = no_router(OURS, asker);
        assert_eq!((&frame[..6], &frame[6..12]), (&asker.mac.0[..], &OURS.0[..]));
        assert_eq!(&frame[12..14], &[0x86, 0xdd]);
        assert_eq!((frame[20], frame[21]), (58, 255));
        let (source, target) = (address(&frame[22..38]).unwrap(), address(&frame[38..54]).unwrap());
        assert_eq!((source, target), ("fe80::5054:ff:fe00:1".parse().unwrap(), asker.source));
        let icmp = &frame[54..];
        assert_eq!(checksum(source, target, icmp), 0);
        assert_eq!((icmp[0], icmp[1]), (134, 0));
        assert_eq!(&icmp[4..16], &[0; 12], "hop limit, flags, lifetime, timers");
        assert_eq!(&icmp[16..], &[1, 1, 0x52, 0x54, 0, 0, 0, 1], "one option: our link-layer address");
        let nameless = no_router(OURS, Solicitation { source: Ipv6Addr::UNSPECIFIED, ..asker });
        assert_eq!(&nameless[..6], &asker.mac.0, "still to the asker alone");
        assert_eq!(address(&nameless[38..54]), Some("ff02::1".parse().unwrap()));
    }
}
