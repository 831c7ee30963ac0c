use super::*;
use crate::decide::lease::MessageKind;
use crate::decide::mac::Mac;
use dhcproto::v4::DhcpOptions;
use dhcproto::{Decodable, Decoder};
use std::collections::BTreeMap;

fn network() -> Network {
    Network {
        interface: "eth0".into(),
        server_ip: [10, 0, 0, 1].into(),
        prefix_len: 24,
        router: Some([10, 0, 0, 254].into()),
        dns: vec![[9, 9, 9, 9].into(); 8],
        lease_seconds: 3600,
        pools: vec![],
        reservations: BTreeMap::new(),
    }
}

fn request(vendor_class: Option<&[u8]>, architectures: &[u16]) -> Request {
    Request {
        kind: MessageKind::Discover,
        xid: 7,
        flags: 0x8000,
        hops: 0,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        ciaddr: Ipv4Addr::UNSPECIFIED,
        giaddr: Ipv4Addr::UNSPECIFIED,
        hostname: None,
        requested: None,
        server_id: None,
        parameters: vec![],
        message_bytes_max: None,
        vendor_class: vendor_class.map(<[u8]>::to_vec),
        client_id: Some(vec![1, 2, 0, 0, 0, 0, 1]),
        user_class: None,
        relay_agent: None,
        architectures: architectures.to_vec(),
        network_interface: None,
        machine_id: Some([0; 17]),
        uuid: None,
        has_ipxe_options: false,
    }
}

fn offer(boot_file: Option<&str>) -> Reply {
    Reply::Lease {
        kind: LeaseReply::Offer,
        ip: [10, 0, 0, 9].into(),
        lease_seconds: 3600,
        boot_file: boot_file.map(str::to_owned),
        host_name: None,
    }
}

fn sent(request: &Request, reply: &Reply) -> (Vec<u8>, Message) {
    let bytes = encode(&network(), request, reply).unwrap();
    let message = Message::decode(&mut Decoder::new(&bytes)).unwrap();
    (bytes, message)
}

/// The `file` field up to its NUL (which dhcproto hands out too).
fn file_of(message: &Message) -> Option<&[u8]> {
    message.fname().map(|file| file.strip_suffix(&[0]).unwrap_or(file))
}

fn options(message: &Message) -> &DhcpOptions {
    message.opts()
}

#[test]
fn an_offer_says_all_that_a_client_needs_and_repeats_what_it_must() {
    let (bytes, message) = sent(&request(None, &[]), &offer(None));
    assert!(bytes.len() >= 300);
    assert_eq!(message.opcode(), Opcode::BootReply);
    assert_eq!((message.xid(), message.flags().broadcast()), (7, true));
    assert_eq!(message.yiaddr(), Ipv4Addr::new(10, 0, 0, 9));
    assert_eq!(message.siaddr(), Ipv4Addr::UNSPECIFIED);
    assert_eq!(message.chaddr(), [2, 0, 0, 0, 0, 1]);
    for wanted in [
        DhcpOption::MessageType(MessageType::Offer),
        DhcpOption::ServerIdentifier([10, 0, 0, 1].into()),
        DhcpOption::AddressLeaseTime(3600),
        DhcpOption::Renewal(1800),
        DhcpOption::Rebinding(3150),
        DhcpOption::SubnetMask([255, 255, 255, 0].into()),
        DhcpOption::Router(vec![[10, 0, 0, 254].into()]),
        DhcpOption::ClientIdentifier(vec![1, 2, 0, 0, 0, 0, 1]),
    ] {
        assert_eq!(options(&message).get(OptionCode::from(&wanted)), Some(&wanted));
    }
    assert_eq!(options(&message).get(OptionCode::BootfileName), None);
}

#[test]
fn a_pxe_rom_gets_the_boot_file_in_every_place_and_is_kept_from_port_4011() {
    let (_, message) = sent(&request(Some(b"PXEClient:Arch:00007"), &[7]), &offer(Some("ipxe.efi")));
    assert_eq!(message.siaddr(), Ipv4Addr::new(10, 0, 0, 1));
    assert_eq!(file_of(&message), Some(b"ipxe.efi".as_slice()));
    for wanted in [
        DhcpOption::TFTPServerName(b"10.0.0.1".to_vec()),
        DhcpOption::BootfileName(b"ipxe.efi\0".to_vec()),
        DhcpOption::ClassIdentifier(b"PXEClient".to_vec()),
        DhcpOption::VendorExtensions(vec![6, 1, 8, 255]),
        DhcpOption::ClientMachineIdentifier(vec![0; 17]),
    ] {
        assert_eq!(options(&message).get(OptionCode::from(&wanted)), Some(&wanted));
    }
    // Without a boot file nothing pretends to be a PXE offer.
    let (_, silent) = sent(&request(Some(b"PXEClient:Arch:00007"), &[7]), &offer(None));
    assert_eq!(options(&silent).get(OptionCode::ClassIdentifier), None);
    assert_eq!(options(&silent).get(OptionCode::VendorExtensions), None);
}

#[test]
fn ipxe_gets_its_url_and_no_pxe_class_and_does_not_wait_for_another_server() {
    let url = "http://10.0.0.1:8080/boot.ipxe";
    let ipxe = Request { has_ipxe_options: true, ..request(Some(b"PXEClient:Arch:00007"), &[7]) };
    let (_, message) = sent(&ipxe, &offer(Some(url)));
    assert_eq!(file_of(&message), Some(url.as_bytes()));
    assert_eq!(options(&message).get(OptionCode::ClassIdentifier), None);
    let of_ipxe = |message: &Message| match options(message).get(OptionCode::Unknown(175)) {
        Some(DhcpOption::Unknown(option)) => option.data().to_vec(),
        _ => Vec::new(),
    };
    assert_eq!(of_ipxe(&message), [176, 1, 1]);
    let (_, rom) = sent(&request(Some(b"PXEClient:Arch:00007"), &[7]), &offer(Some("ipxe.efi")));
    assert!(of_ipxe(&rom).is_empty(), "a ROM is not spoken to in iPXE's own options");
    let http = request(Some(b"HTTPClient:Arch:00016"), &[16]);
    let (_, message) = sent(&http, &offer(Some("http://10.0.0.1/ipxe.efi")));
    let class = DhcpOption::ClassIdentifier(b"HTTPClient".to_vec());
    assert_eq!(options(&message).get(OptionCode::ClassIdentifier), Some(&class));
}

#[test]
fn a_reply_never_outgrows_what_the_client_takes_and_keeps_the_boot_file_to_the_last() {
    let long_name = format!("http://10.0.0.1/{}", "x".repeat(180));
    let names = ["ipxe.efi", "a/name/of/one/hundred/and/twenty/seven/bytes/", &long_name];
    for name in names {
        for max in [None, Some(0), Some(576), Some(1024), Some(1500), Some(u16::MAX)] {
            let big = Request {
                message_bytes_max: max,
                client_id: Some(vec![1; 255]),
                ..request(Some(b"PXEClient:Arch:00007"), &[7])
            };
            let (bytes, message) = sent(&big, &offer(Some(name)));
            let limit = max.unwrap_or(576).clamp(576, 1500) - 28;
            assert!((300..=usize::from(limit)).contains(&bytes.len()), "{name} {max:?}: {} bytes", bytes.len());
            let in_option = options(&message).get(OptionCode::BootfileName).is_some();
            assert!(in_option || file_of(&message) == Some(name.as_bytes()), "{name} {max:?}");
            assert!(options(&message).get(OptionCode::AddressLeaseTime).is_some());
        }
    }
}

#[test]
fn an_offer_names_the_machine_and_drops_the_name_first_when_there_is_no_room() {
    let named = |reply: Reply| {
        let mut reply = reply;
        reply.set_host_name(Some("web-1".into()));
        reply
    };
    let name = |message: &Message| options(message).get(OptionCode::Hostname).cloned();
    let (_, message) = sent(&request(None, &[]), &named(offer(None)));
    assert_eq!(name(&message), Some(DhcpOption::Hostname("web-1".into())));
    let long = format!("http://10.0.0.1/{}", "x".repeat(100));
    let full = Request { client_id: Some(vec![1; 150]), ..request(Some(b"PXEClient:Arch:00007"), &[7]) };
    let (_, message) = sent(&full, &named(offer(Some(&long))));
    assert_eq!(name(&message), None);
    assert!(options(&message).get(OptionCode::AddressLeaseTime).is_some());
    // Who asks for parameters only, or is refused, is not renamed.
    let (_, informed) = sent(&request(None, &[]), &named(Reply::Parameters { boot_file: None }));
    assert_eq!(name(&informed), None);
}

#[test]
fn a_nak_gives_no_address_and_says_why() {
    let nak = Reply::Nak { message: "10.0.0.9 is not of this subnet".into() };
    let (_, message) = sent(&Request { ciaddr: [10, 0, 0, 9].into(), ..request(None, &[]) }, &nak);
    assert_eq!((message.yiaddr(), message.ciaddr()), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED));
    assert_eq!(options(&message).get(OptionCode::AddressLeaseTime), None);
    assert!(matches!(options(&message).get(OptionCode::Message), Some(DhcpOption::Message(_))));
}

#[test]
fn inform_is_answered_without_address_or_times() {
    let inform = Request { ciaddr: [10, 0, 0, 77].into(), ..request(None, &[]) };
    let (_, message) = sent(&inform, &Reply::Parameters { boot_file: None });
    assert_eq!(message.yiaddr(), Ipv4Addr::UNSPECIFIED);
    assert_eq!(message.ciaddr(), Ipv4Addr::new(10, 0, 0, 77));
    assert_eq!(options(&message).get(OptionCode::AddressLeaseTime), None);
    assert!(options(&message).get(OptionCode::SubnetMask).is_some());
}
