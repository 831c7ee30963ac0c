//! D3, D6, D9, T1, T2 on the real server, with its registry behind DHCP.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};

use crate::cable::{SERVER_IP, inside};
use crate::dhcp_client::{Ask, Client, kind, mac};
use crate::lab::{Lab, Machine, STRANGER};
use crate::process::Process;

type Options = &'static [(u8, &'static [u8])];

const BIOS: Options = &[(60, b"PXEClient:Arch:00000:UNDI:002001"), (93, &[0, 0])];
const UEFI: Options = &[(60, b"PXEClient:Arch:00007:UNDI:003016"), (93, &[0, 7])];
const IPXE: Options = &[(60, b"PXEClient:Arch:00000:UNDI:002001"), (77, b"iPXE"), (93, &[0, 0])];
const ARM: Options = &[(60, b"PXEClient:Arch:00011:UNDI:003016"), (93, &[0, 11])];
const NO_ARCH: Options = &[(60, b"PXEClient")];

/// Option 67 and the `file` field, which must agree.
fn boot_file(message: &Message) -> String {
    // With a NUL at its end, which some ROMs want.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let option = match message.opts().get(OptionCode::BootfileName) {
        Some(DhcpOption::BootfileName(name)) => text(name),
        _ => String::new(),
    };
    let field = message.fname().map(text).unwrap_or_default();
    assert_eq!(option, field);
    option
}

/// DISCOVER and REQUEST as this client; what OFFER and ACK tell it to boot.
fn netboot(client: &Client, number: u8, options: Options) -> (Ipv4Addr, String) {
    let offer = client.ask(Ask { options, ..Ask::new(MessageType::Discover, number) });
    let ack = client.ask(Ask { options, ..Ask::select(number, offer.yiaddr()) });
    assert_eq!((kind(&offer), kind(&ack)), (MessageType::Offer, MessageType::Ack));
    assert_eq!(boot_file(&offer), boot_file(&ack));
    (ack.yiaddr(), boot_file(&ack))
}

/// D6: an unknown machine that wants to netboot is sent to its own disk and noted as seen, no more: no script that
/// writes, no order, no attempt, and again and again. What does not netboot, or is no machine that we have a loader
/// for, gets an address and is not even noted.
#[test]
fn d6_an_unknown_machine_is_seen_and_boots_its_own_disk() {
    let lab = Lab::new();
    let client = Client::new(&lab.cable);
    let script = |number: u8| format!("http://10.77.0.1:8080/boot/52-54-00-00-09-{number:02x}/bios");
    let table: [(Options, String); 6] = [
        (BIOS, String::new()),
        (UEFI, "local-boot.efi".into()),
        (IPXE, script(3)),
        (ARM, String::new()),
        (NO_ARCH, String::new()),
        (&[], String::new()),
    ];
    for _ in 0..3 {
        for (number, (options, wanted)) in (1..).zip(&table) {
            assert_eq!(netboot(&client, number, options).1, *wanted, "machine {number}");
        }
    }
    drop(client);
    for number in 1..=table.len() as u8 {
        // A lease it has already; now it takes the address and asks for a script, whether it was sent there or not.
        let machine = Machine::plug_in(&lab, number);
        for firmware in ["bios", "uefi"] {
            let path = format!("/boot/{}/{firmware}", machine.mac.replace(':', "-"));
            let script = lab.from(machine.address).get(&path).text();
            assert!(script.contains("booting the local disk"), "{script}");
            assert!(!["regild.token", "vmlinuz", "kernel"].iter().any(|word| script.contains(word)), "{script}");
        }
    }
    // Asking for a script is netbooting, so now all of them were seen.
    let hosts = lab.json(&["host", "list"]);
    assert_eq!(hosts.as_array().unwrap().len(), table.len());
    for host in hosts.as_array().unwrap() {
        assert_eq!((&host["state"], &host["generation"]), (&"discovered".into(), &0.into()), "{host}");
        for nothing in ["order", "desired", "reported", "progress"] {
            assert!(host[nothing].is_null(), "{nothing}: {host}");
        }
        let history = lab.json(&["host", "history", host["id"].as_str().unwrap()]);
        assert_eq!(history.as_array().unwrap().len(), 1, "seen once, however often it comes: {history}");
    }

    // By DHCP alone, these are the first three.
    let lab = Lab::new();
    let client = Client::new(&lab.cable);
    for (number, (options, _)) in (1..).zip(&table) {
        netboot(&client, number, options);
    }
    let hosts = lab.json(&["host", "list"]);
    let seen: Vec<_> = hosts.as_array().unwrap().iter().map(|host| host["macs"][0].as_str().unwrap()).collect();
    assert_eq!(seen, ["52:54:00:00:09:01", "52:54:00:00:09:02", "52:54:00:00:09:03"]);
}

/// D3: names and identifiers of any shape get their lease; a name that is none is escaped in the log and reaches
/// neither the lease nor a script.
#[test]
fn d3_hostile_names_get_a_lease_and_go_no_further() {
    const NAMES: [(Options, bool); 8] = [
        (&[(12, b"x;reboot\0y")], false),
        (&[(12, b"..")], false),
        (&[(12, b"../../etc/passwd")], false),
        (&[(12, "b\u{fc}ro".as_bytes())], false),
        (&[(12, b"a\r\n#!ipxe\nshell")], false),
        (&[(12, &[b'a'; 255])], false),
        (&[(12, b"${net0/mac}"), (61, &[7])], false),
        (&[(12, b"web-01"), (61, &[7; 255])], true),
    ];
    let lab = Lab::new();
    for (number, (options, is_name)) in (1..).zip(NAMES) {
        let (address, _) = netboot(&Client::new(&lab.cable), number, options);
        let machine = Machine::plug_in(&lab, number);
        assert_eq!(machine.address, address, "one machine, one address");
        let script = machine.script(&lab);
        assert!(!["shell", "passwd", "web-01", "${net0", "x;"].iter().any(|word| script.contains(word)), "{script}");
        let log = lab.log();
        let name = options[0].1.escape_ascii().to_string();
        let line = format!("ignoring the host name \"{name}\"");
        assert_eq!(log.contains(&line), !is_name, "{name} in the log");
    }
    let log = lab.log();
    assert!(log.lines().all(|line| line.starts_with("20")), "a name broke a line of the log");
    assert!(!log.bytes().any(|byte| byte.is_ascii_control() && byte != b'\n'), "a control character in the log");
}

/// D9 with the real registry: the same REQUEST again, also after a crash, is the same ACK and the same one lease.
#[test]
fn d9_a_repeated_request_is_the_same_ack_also_after_a_crash() {
    let mut lab = Lab::new();
    let address = Client::new(&lab.cable).bind(1);
    let ask = Ask::select(1, address);
    for _ in 0..3 {
        let client = Client::new(&lab.cable);
        for _ in 0..3 {
            let again = client.ask(ask);
            assert_eq!((kind(&again), again.yiaddr()), (MessageType::Ack, address));
        }
        // Nobody else gets it meanwhile.
        assert_ne!(client.bind(2), address);
        let greedy = client.ask(Ask::select(2, address));
        assert_eq!((kind(&greedy), greedy.yiaddr()), (MessageType::Nak, Ipv4Addr::UNSPECIFIED));
        client.ask_in_vain(Ask { server_id: Some([10, 77, 0, 9].into()), ..ask });
        lab.kill();
        lab.start();
    }
}

/// T1, T2: whatever is asked for by TFTP, read or write, the server opens no file. strace sees every call that
/// takes a file's name.
#[test]
fn t1_t2_no_request_by_tftp_opens_or_makes_a_file() {
    let lab = Lab::new();
    let trace = lab.path("strace.log");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=%file", "-o"]).arg(&trace).args(["-p", &lab.pid().to_string()]);
    let mut strace = Process::spawn(strace, &lab.path("strace.err"));
    strace.wait_log("attached", Duration::from_secs(20)).expect("strace must be installed");
    let socket = inside(&lab.cable.client, || UdpSocket::bind((STRANGER, 0)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let names = [
        "../regild.toml",
        "/etc/shadow",
        "..%2fregild.toml",
        "\\..\\regild.toml",
        "regild.toml",
        "boot-assets/vmlinuz",
        "vmlinuz",
    ];
    for opcode in [1u8, 2] {
        for name in names {
            let request = [&[0, opcode], name.as_bytes(), b"\0octet\0"].concat();
            // A port of its own for each: async-tftp takes one request at a time from a port.
            let socket = inside(&lab.cable.client, || UdpSocket::bind((STRANGER, 0)).unwrap());
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket.send_to(&request, (SERVER_IP, 69)).unwrap();
            let mut buffer = [0; 1024];
            let length = socket.recv(&mut buffer).expect("an ERROR");
            assert_eq!((length > 4, &buffer[..4]), (true, &[0, 5, 0, opcode][..]), "{name}");
        }
    }
    // A name of the table is served from memory.
    socket.send_to(b"\0\x01ipxe.efi\0octet\0", (SERVER_IP, 69)).unwrap();
    let mut buffer = [0; 1024];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"\0\x03\0\x01not really ipxe.efi");
    // The control: what does open a file is seen. The operators' list reads the image store.
    lab.json(&["image", "list"]);
    let seen = || std::fs::read_to_string(&trace).unwrap();
    for _ in 0..500 {
        if seen().contains("images/names") {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let opened = seen();
    assert!(opened.contains("images/names"), "strace sees nothing: {opened}");
    for word in ["regild.toml", "shadow", "vmlinuz", "ipxe.efi"] {
        assert!(!opened.contains(word), "{word} was opened: {opened}");
    }
}

/// Rule 9: whoever asks for scripts in a loop gets each time an answer, and ten lines in the log.
#[test]
fn a_client_that_asks_for_scripts_in_a_loop_does_not_fill_the_log() {
    let lab = Lab::new();
    let machine = Machine::plug_in(&lab, 1);
    for _ in 0..100 {
        assert!(lab.from(STRANGER).get(&machine.script_path()).text().contains("not leased to its MAC"));
        assert!(machine.script(&lab).contains("sanboot"));
    }
    let log = lab.log();
    for line in ["not leased to this MAC", "local boot served"] {
        let lines = log.lines().filter(|seen| seen.contains(line)).count();
        // A minute may pass while the test runs; then there are ten more.
        assert!((1..=30).contains(&lines), "{lines} lines of {line:?}");
    }
    assert!(log.contains("the next ones are left out"), "nobody is told that lines are missing");
}

/// RFC 2132 section 3.14: an installed system takes its name from the lease, the one of its reservation or document.
#[test]
fn a_lease_tells_a_machine_its_name() {
    let reserved = mac(1).map(|byte| format!("{byte:02x}")).join(":");
    let text = format!("[[reservation]]\nmac = \"{reserved}\"\naddress = \"10.77.0.10\"\nname = \"web-1.site\"\n");
    let lab = Lab::with(&text);
    let documented = mac(2).map(|byte| format!("{byte:02x}")).join(":");
    lab.apply(&format!("[[host]]\nmac = \"{documented}\"\nname = \"db-1\"\n"), &[]);
    let client = Client::new(&lab.cable);
    for (number, name) in [(1, Some("web-1")), (2, Some("db-1")), (3, None)] {
        let offer = client.ask(Ask::new(MessageType::Discover, number));
        let ack = client.ask(Ask::select(number, offer.yiaddr()));
        assert_eq!(kind(&ack), MessageType::Ack);
        for message in [offer, ack] {
            let wanted = name.map(|name| DhcpOption::Hostname(name.to_owned()));
            assert_eq!(message.opts().get(OptionCode::Hostname), wanted.as_ref(), "machine {number}");
        }
    }
}
