//! The lab itself: a machine of each firmware boots a golden image from its disk, tells so on its console,
//! gets an address from a foreign DHCP server and phones home. Nothing of regild takes part.
//!
//! When other integration tests fail, look here first: red here means the machine room is broken.

mod lab;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::{BootOrder, DiskSpec, Firmware, Lab, MachineSpec};

#[test]
fn tiny_image_boots_from_disk_on_bios() {
    boots_and_phones_home(Firmware::Bios);
}

#[test]
fn tiny_image_boots_from_disk_on_uefi() {
    boots_and_phones_home(Firmware::Uefi);
}

fn boots_and_phones_home(firmware: Firmware) {
    let image = lab::tiny_image("v1");
    let lab = Lab::new("selftest");
    let _dhcp = dhcp_server(&lab);
    let listener = TcpListener::bind((lab.server_ip(), 8080)).expect("binding the phone-home port");

    let disk = lab.dir().join("disk.raw");
    copy_sparse(&image, &disk);
    let mut machine = lab.machine(MachineSpec {
        disks: vec![DiskSpec::new(&disk, 0)],
        boot_order: BootOrder::DisksOnly,
        ..MachineSpec::new("m1", firmware, "52:54:00:77:00:01")
    });
    for _ in 0..2 {
        machine.power_on();
        let elapsed = machine.wait_console("regild golden image v1 up", Duration::from_secs(120)).unwrap();
        eprintln!("{firmware:?}: up {elapsed:?} after power-on");
        let request = answer_one_request(&listener);
        assert!(request.contains("POST /agent/v1/installed"), "{request}");
        assert!(request.contains(r#"{"mac":"52:54:00:77:00:01","image":"tiny:v1"}"#), "{request}");
        let elapsed = machine.wait_console("phone-home done", Duration::from_secs(30)).unwrap();
        eprintln!("{firmware:?}: phone-home done {elapsed:?} after its request");
        machine.power_off();
        assert!(!machine.is_running());
    }
    // The image mounts its root read-only: two boots and two power cuts leave no trace.
    assert_eq!(lab::sha256_file(&disk), lab::sha256_file(&image));
}

fn dhcp_server(lab: &Lab) -> lab::Process {
    let mut dnsmasq = Command::new("dnsmasq");
    dnsmasq.args([
        "--no-daemon",
        "--conf-file=/dev/null",
        "--port=0",
        "--log-dhcp",
        "--bind-interfaces",
        "--dhcp-range=10.77.0.100,10.77.0.150,1h",
        "--user=root",
    ]);
    dnsmasq.arg(format!("--interface={}", lab.bridge()));
    dnsmasq.arg(format!("--dhcp-leasefile={}/leases", lab.dir().display()));
    let mut process = lab.spawn(dnsmasq, "dnsmasq.log");
    process.wait_log("DHCP, IP range", Duration::from_secs(10)).unwrap();
    process
}

fn answer_one_request(listener: &TcpListener) -> String {
    // accept() has no time limit of its own; a machine that stays silent must fail the test, not hang it.
    listener.set_nonblocking(true).expect("a listener that does not block");
    let start = Instant::now();
    let (mut stream, _) = loop {
        match listener.accept() {
            Ok(connection) => break connection,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(start.elapsed() < Duration::from_secs(60), "nobody phoned home in 60 s");
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("accepting the phone-home: {error}"),
        }
    };
    stream.set_nonblocking(false).expect("a stream that blocks");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a read timeout");
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    // The body is one JSON object without nesting: it ends where the first brace closes.
    while !request.contains(&b'}') {
        let count = stream.read(&mut buffer).expect("reading the phone-home");
        assert_ne!(count, 0, "the request ended early");
        request.extend_from_slice(&buffer[..count]);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").expect("answering");
    String::from_utf8_lossy(&request).into_owned()
}

fn copy_sparse(from: &std::path::Path, to: &std::path::Path) {
    let status = Command::new("cp").arg("--sparse=always").args([from, to]).status().expect("running cp");
    assert!(status.success());
}
