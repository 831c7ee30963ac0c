//! DHCP with a real client: busybox's udhcpc, which asks for unicast replies and so needs the neighbour entry.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use regild::dhcp::BindError;
use rustix::process::{Pid, Signal};

use crate::lab::{CLIENT_LINK, Lab, RESERVED_IP, RESERVED_MAC, SmallAuthority, ip};

/// udhcpc's event script: writes what it was told into a file, and takes the address (it releases from it).
struct Told {
    directory: tempfile::TempDir,
}

impl Told {
    fn new() -> Told {
        let told = Told { directory: tempfile::tempdir().unwrap() };
        let path = told.directory.path().join("told");
        let body = format!(
            "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip address replace $ip/$mask dev $interface\nenv > {0}.new\nmv {0}.new {0}\n",
            path.display()
        );
        std::fs::write(told.script(), body).unwrap();
        std::fs::set_permissions(told.script(), std::fs::Permissions::from_mode(0o755)).unwrap();
        told
    }

    fn script(&self) -> String {
        self.directory.path().join("script").display().to_string()
    }

    fn read(&self) -> BTreeMap<String, String> {
        let text = std::fs::read_to_string(self.directory.path().join("told")).unwrap_or_default();
        text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }
}

/// Runs udhcpc until it has a lease (or gives up) and returns what it was told.
fn udhcpc(lab: &Lab, more: &[&str]) -> BTreeMap<String, String> {
    let told = Told::new();
    let script = told.script();
    let common = ["udhcpc", "-i", CLIENT_LINK, "-f", "-n", "-q", "-t", "3", "-T", "1", "-s", &script];
    let wished = ["-O", "bootfile", "-O", "tftp", "-O", "bootsize"];
    let output = lab.run_client("busybox", &[&common[..], &wished, more].concat());
    assert!(output.status.success(), "udhcpc: {}", String::from_utf8_lossy(&output.stderr));
    told.read()
}

fn get<'a>(told: &'a BTreeMap<String, String>, key: &str) -> &'a str {
    told.get(key).map_or("", String::as_str)
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let came = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        is_there()
    });
    assert!(came, "{what} did not come");
}

#[test]
fn udhcpc_gets_an_address_by_unicast_keeps_it_and_gives_it_back() {
    let lab = Lab::new();
    let authority = SmallAuthority::new();
    let server = lab.serve(authority.clone());
    let told = udhcpc(&lab, &["-x", "hostname:Web-01"]);
    assert_eq!(get(&told, "ip"), "10.77.0.100");
    assert_eq!(get(&told, "serverid"), "10.77.0.1");
    assert_eq!(get(&told, "mask"), "24");
    assert_eq!(get(&told, "router"), "10.77.0.254");
    assert_eq!(get(&told, "dns"), "10.77.0.1");
    assert_eq!(get(&told, "lease"), "3600");
    assert_eq!(get(&told, "bootfile"), "", "an OS is told nothing about booting");
    assert_eq!(server.counters.broadcast_fallbacks.load(Ordering::Relaxed), 0, "the neighbour entry was made");
    let name = |authority: &SmallAuthority| {
        let table = authority.table.lock().unwrap();
        table.lookup([10, 77, 0, 100].into()).map(|lease| (lease.hostname.clone(), lease.expires_at))
    };
    let (hostname, expires_at) = name(&authority).unwrap();
    assert_eq!(hostname.as_deref(), Some("web-01"));
    // The same machine again, and this time it releases as it goes: the lease is over, its memory is not.
    let told = Told::new();
    let script = told.script();
    let arguments = ["netns", "exec", &lab.client, "busybox", "udhcpc", "-i", CLIENT_LINK, "-f", "-R", "-s", &script];
    let mut client = Command::new("ip").args(arguments).stderr(Stdio::null()).spawn().unwrap();
    wait_for("a lease", || get(&told.read(), "ip") == "10.77.0.100");
    // `ip netns exec` has become udhcpc.
    rustix::process::kill_process(Pid::from_child(&client), Signal::TERM).unwrap();
    client.wait().unwrap();
    wait_for("the release", || name(&authority).unwrap().1 < expires_at);
    assert_eq!(server.counters.releases.load(Ordering::Relaxed), 1);
    assert_eq!(get(&udhcpc(&lab, &[]), "ip"), "10.77.0.100");
}

#[test]
fn a_reserved_machine_gets_its_reservation_outside_the_pool() {
    let lab = Lab::new();
    let _server = lab.serve(SmallAuthority::new());
    ip(&["-n", &lab.client, "link", "set", CLIENT_LINK, "address", &RESERVED_MAC.to_string()]);
    assert_eq!(get(&udhcpc(&lab, &[]), "ip"), RESERVED_IP.to_string());
    // -B: it asks for broadcast replies instead.
    assert_eq!(get(&udhcpc(&lab, &["-B"]), "ip"), RESERVED_IP.to_string());
}

#[test]
fn every_netboot_client_is_told_its_own_boot_file() {
    let lab = Lab::new();
    let _server = lab.serve(SmallAuthority::new());
    let bios = ["-V", "PXEClient:Arch:00000:UNDI:002001", "-x", "0x5d:0000"];
    let uefi = ["-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007"];
    let ipxe = [&uefi[..], &["-x", "0x4d:69505845"]].concat();
    let arm = ["-V", "PXEClient:Arch:00011:UNDI:003016", "-x", "0x5d:000b"];
    let table = [
        (&bios[..], "undionly.kpxe"),
        (&uefi[..], "ipxe.efi"),
        (&ipxe[..], "http://10.77.0.1/boot.ipxe"),
        (&arm[..], ""),
    ];
    for (options, wanted) in table {
        let told = udhcpc(&lab, options);
        assert_eq!(get(&told, "ip"), "10.77.0.100", "{options:?}");
        assert_eq!(get(&told, "bootfile"), wanted, "option 67, {options:?}");
        assert_eq!(get(&told, "boot_file"), wanted, "the file field, {options:?}");
        let server = if wanted.is_empty() { "" } else { "10.77.0.1" };
        assert_eq!(get(&told, "siaddr"), server, "{options:?}");
        assert_eq!(get(&told, "tftp"), server, "{options:?}");
    }
}

/// Two servers on one interface would each get some of the packets, each with a table of its own: one address for
/// two machines. The second is turned away by name; once the first has gone, the port is free.
#[test]
fn a_second_server_on_the_same_interface_does_not_start() {
    let lab = Lab::new();
    let server = lab.serve(SmallAuthority::new());
    let error = lab.bind_again().expect_err("two servers share port 67");
    assert!(matches!(error, BindError::PortTaken { .. }), "{error}");
    drop(server);
    // The runtime lets go of the socket when its task has ended, which takes a moment on a busy machine.
    let free = (0..100).any(|_| {
        let again = lab.bind_again();
        std::thread::sleep(std::time::Duration::from_millis(50));
        again.is_ok()
    });
    assert!(free, "the port is free again");
}
