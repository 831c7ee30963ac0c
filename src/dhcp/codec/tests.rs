use super::*;
use crate::decide::netboot::FirmwareArch;

/// A BOOTREQUEST from 52:54:00:00:00:01 with these option bytes.
fn packet(options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; OPTIONS_START];
    bytes[..8].copy_from_slice(&[1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
    bytes[28..34].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 1]);
    bytes[COOKIE].copy_from_slice(&MAGIC);
    bytes.extend_from_slice(options);
    bytes
}

fn spoilt(at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = packet(&[53, 1, 1, END]);
    bytes[at] = byte;
    bytes
}

fn option(code: u8, value: &[u8]) -> Vec<u8> {
    [&[code, u8::try_from(value.len()).unwrap()], value].concat()
}

#[test]
fn a_pxe_discover_becomes_facts() {
    let options = [
        option(53, &[1]),
        option(50, &[10, 0, 0, 9]),
        option(55, &[1, 3, 66, 67]),
        option(57, &[5, 192]),
        option(60, b"PXEClient:Arch:00007:UNDI:003016"),
        option(61, &[0, 1, 2]),
        option(93, &[0, 6, 0, 7]),
        option(94, &[1, 3, 16]),
        option(97, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
        vec![PAD, PAD, END, 77, 99],
    ];
    let mut bytes = packet(&options.concat());
    bytes[10] = 0x80;
    bytes[24..28].copy_from_slice(&[10, 0, 0, 254]);
    let request = Request::decode(&bytes).unwrap();
    assert_eq!(request.kind, MessageKind::Discover);
    assert_eq!((request.xid, request.wants_broadcast()), (0xdead_beef, true));
    assert_eq!(request.mac.to_string(), "52:54:00:00:00:01");
    assert_eq!(request.giaddr, Ipv4Addr::new(10, 0, 0, 254));
    assert_eq!(request.requested, Some(Ipv4Addr::new(10, 0, 0, 9)));
    assert_eq!(request.message_bytes_max, Some(1472));
    assert_eq!(request.architectures, [6, 7]);
    assert_eq!(request.network_interface, Some([1, 3, 16]));
    assert_eq!(request.uuid.map(|uuid| uuid[15]), Some(16));
    assert_eq!(request.user_class, None, "it stands behind the end");
    assert_eq!(request.netboot_client(), NetbootClient::Firmware { arch: FirmwareArch::UefiX64 });
}

#[test]
fn d1_what_is_no_dhcp_request_is_dropped_by_name() {
    for length in 0..OPTIONS_START {
        assert_eq!(Request::decode(&packet(&[])[..length]), Err(Malformed::TooShort), "{length} bytes");
    }
    assert_eq!(Request::decode(&spoilt(0, 2)), Err(Malformed::NotARequest));
    assert_eq!(Request::decode(&spoilt(1, 32)), Err(Malformed::NotEthernet));
    assert_eq!(Request::decode(&spoilt(2, 0)), Err(Malformed::NotEthernet));
    assert_eq!(Request::decode(&spoilt(2, 20)), Err(Malformed::NotEthernet));
    for at in COOKIE {
        assert_eq!(Request::decode(&spoilt(at, 0)), Err(Malformed::NoCookie));
    }
    for kind in [&[][..], &[0], &[2], &[5], &[6], &[13], &[255], &[1, 1]] {
        let bytes = packet(&[option(53, kind), vec![END]].concat());
        assert_eq!(Request::decode(&bytes), Err(Malformed::NoMessageType), "{kind:?}");
    }
}

#[test]
fn d2_crooked_framing_is_dropped_by_name() {
    let cases: &[(&[u8], Malformed)] = &[
        (&[], Malformed::NoEnd),
        (&[53, 1, 1], Malformed::NoEnd),
        (&[PAD; 60], Malformed::NoEnd),
        (&[53], Malformed::OptionTooLong),
        (&[53, 1], Malformed::OptionTooLong),
        (&[53, 1, 1, 12, 200, b'x', END], Malformed::OptionTooLong),
        (&[END], Malformed::NoMessageType),
    ];
    for (options, wanted) in cases {
        assert_eq!(Request::decode(&packet(options)), Err(*wanted), "{options:?}");
    }
    assert!(Request::decode(&packet(&[53, 1, 1, END, 12, 200])).is_ok(), "what follows the end is nothing");
    assert_eq!(Request::decode(&packet(&[PAD; 65_000])), Err(Malformed::TooLong));
}

#[test]
fn d3_a_bad_option_hides_nothing_that_stands_behind_it() {
    let options = [
        option(53, &[1]),
        option(12, b"\xff\xfe\0../$(x)"),
        option(57, &[5]),
        option(50, &[10, 0]),
        option(61, &[9]),
        option(94, &[1, 2]),
        option(60, b"PXEClient"),
        option(93, &[0, 7, 9]),
        option(97, &[0, 1]),
        option(80, &[1, 2, 3]),
        option(81, &[]),
        vec![END],
    ];
    let request = Request::decode(&packet(&options.concat())).unwrap();
    assert_eq!(request.message_bytes_max, None);
    assert_eq!(request.requested, None);
    assert_eq!(request.client_id, None);
    assert_eq!(request.network_interface, None);
    assert_eq!(request.uuid, None);
    assert_eq!(request.architectures, [7]);
    assert_eq!(request.lease_request().hostname, None);
    assert_eq!(request.netboot_client(), NetbootClient::Firmware { arch: FirmwareArch::UefiX64 });
    let long_id = [option(53, &[1]), option(61, &[7; 255]), option(12, &[b'a'; 255]), vec![END]];
    let request = Request::decode(&packet(&long_id.concat())).unwrap();
    assert_eq!(request.client_id.map(|id| id.len()), Some(255));
}

#[test]
fn d4_overload_is_followed_once_and_split_options_are_joined() {
    // The message type in `file`, the vendor class split over options, `file` and `sname`.
    let mut bytes = packet(&[option(52, &[3]), option(60, b"PXE"), vec![END]].concat());
    let in_file = [option(53, &[1]), option(60, b"Cli"), option(52, &[3]), vec![END]].concat();
    bytes[FILE][..in_file.len()].copy_from_slice(&in_file);
    let in_sname = [option(60, b"ent"), vec![END]].concat();
    bytes[SNAME][..in_sname.len()].copy_from_slice(&in_sname);
    let request = Request::decode(&bytes).unwrap();
    assert_eq!(request.vendor_class.as_deref(), Some(b"PXEClient".as_slice()));
    // 52 was met twice, so its value is nonsense in the end; it was followed as it stood in the options.
    bytes[FILE][1] = 200;
    assert_eq!(Request::decode(&bytes), Err(Malformed::OptionTooLong));

    let fifty = [option(53, &[1]), option(82, &[1, 2, 3, 4]).repeat(50), vec![END]].concat();
    assert_eq!(Request::decode(&packet(&fifty)).unwrap().relay_agent.map(|raw| raw.len()), Some(200));
}

#[test]
fn d5_nonsense_identities_are_none_and_unknown_machines_stay_unknown() {
    for uuid in [[0; 16], [0xff; 16]] {
        let bytes = packet(&[option(53, &[1]), option(97, &[&[0], &uuid[..]].concat()), vec![END]].concat());
        let request = Request::decode(&bytes).unwrap();
        assert_eq!(request.uuid, None);
        assert!(request.machine_id.is_some(), "the reply still repeats it");
    }
    let bytes = packet(&[option(53, &[1]), option(60, b"PXEClient"), option(93, &[0xff, 0xff]), vec![END]].concat());
    assert_eq!(Request::decode(&bytes).unwrap().netboot_client(), NetbootClient::UnknownArch(0xffff));
}

#[test]
fn d7_group_and_zero_addresses_are_dropped() {
    for mac in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        let mut bytes = packet(&[53, 1, 1, END]);
        bytes[28..34].copy_from_slice(&mac);
        assert_eq!(Request::decode(&bytes), Err(Malformed::BadMac));
    }
}

/// D2, D4: no bytes make the decoder panic. Every place of a real packet is spoilt in several ways, and cut.
#[test]
fn d2_no_spoilt_byte_and_no_cut_makes_it_panic() {
    let options = [option(52, &[3]), option(53, &[3]), option(60, b"PXEClient"), option(93, &[0, 7]), vec![END]];
    let whole = packet(&options.concat());
    for at in 0..whole.len() {
        let _ = Request::decode(&whole[..at]);
        for byte in [0, 1, 3, 52, 0x7f, 0x80, 0xfe, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            if let Ok(request) = Request::decode(&bytes) {
                let _ = (request.lease_request(), request.netboot_client());
            }
        }
    }
}
