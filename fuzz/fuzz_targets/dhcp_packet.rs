//! One DHCP packet from a hostile machine: codec -> netboot -> lease -> reply, read back by a foreign decoder.
#![no_main]

use arbitrary::Arbitrary;
use dhcproto::v4::{DhcpOption, Message, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder};
use libfuzzer_sys::fuzz_target;
use regild::decide::lease::{LeaseTable, decide};
use regild::dhcp::codec::{Malformed, Request};
use regild::dhcp::fuzzing::{Outgoing, outgoing};
use regild_fuzz::machines::{Packet, SERVER_IP, network};
use regild_fuzz::{Patch, is_one_line, spoil};

#[derive(Debug, Arbitrary)]
enum Input {
    Raw(Vec<u8>),
    Built { packet: Packet, kind: u8, patches: Vec<Patch>, length: Option<u16>, boot_file: BootFile },
}

#[derive(Debug, Default, Arbitrary)]
enum BootFile {
    #[default]
    Tftp,
    Script,
    /// Longer than the `file` field.
    Long(u8),
}

fuzz_target!(|input: Input| {
    let (bytes, boot_file) = match input {
        Input::Raw(bytes) => (bytes, BootFile::default()),
        Input::Built { mut packet, kind, patches, length, boot_file } => {
            packet.options.push((53, vec![kind]));
            let mut bytes = packet.bytes();
            spoil(&mut bytes, &patches);
            bytes.truncate(length.map_or(usize::MAX, usize::from));
            (bytes, boot_file)
        }
    };
    let Ok(request) = Request::decode(&bytes) else { return };
    let facts = request.lease_request();
    assert!(facts.mac.is_unicast());
    if let Some(name) = &facts.hostname {
        assert!(is_one_line(name) && (1..=63).contains(&name.len()) && !name.contains(['.', ' ', '/']), "{name:?}");
    }
    let network = network();
    let boot_file = match boot_file {
        BootFile::Tftp => "ipxe.efi".to_owned(),
        BootFile::Script => "http://10.0.0.1:8080/boot/02-00-00-00-00-01/uefi".to_owned(),
        BootFile::Long(more) => "b".repeat(100 + usize::from(more) % 100),
    };
    let mut table = LeaseTable::new(network.subnet());
    // Twice: the second time the table knows the machine.
    for now in [1_000_000, 1_000_001] {
        let answer = decide(&table, &facts, now);
        if let Some(change) = answer.change() {
            table.apply(change);
        }
        if let Some(out) = outgoing(&network, &request, &answer, &boot_file) {
            check(&request, &out, &table);
        }
    }
});

fn check(request: &Request, out: &Outgoing, table: &LeaseTable) {
    let limit = usize::from(request.message_bytes_max.unwrap_or(576).clamp(576, 1500)) - 28;
    assert!((300..=limit).contains(&out.bytes.len()), "{} bytes, at most {limit}", out.bytes.len());
    assert_eq!(Request::decode(&out.bytes), Err(Malformed::NotARequest), "no server may answer an answer");
    let message = Message::decode(&mut Decoder::new(&out.bytes)).expect("others can read it");
    assert_eq!(
        (message.opcode(), message.xid(), message.chaddr()),
        (Opcode::BootReply, request.xid, &request.mac.0[..])
    );
    assert_eq!(message.opts().get(OptionCode::ServerIdentifier), Some(&DhcpOption::ServerIdentifier(SERVER_IP)));
    assert!(message.giaddr().is_unspecified(), "relays are not answered yet");
    for ip in [Some(message.yiaddr()), out.to].into_iter().flatten().filter(|ip| !ip.is_unspecified()) {
        assert!(table.subnet().contains(ip) && ip != SERVER_IP, "an answer to {ip}");
    }
    let gives = !message.yiaddr().is_unspecified();
    assert_eq!(gives, message.opts().get(OptionCode::AddressLeaseTime).is_some(), "an address comes with its time");
}
