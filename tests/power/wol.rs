//! Promise: a machine that is off gets three magic packets, out of the interface that the settings name and no other.

use std::process::Command;
use std::time::{Duration, Instant};

use regild::power::{Action, Override, PowerError, PowerState};

use crate::desk::{Desk, MACS};
use crate::lab::{Lab, Process};

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// tcpdump at the far end of a cable, as a NIC that sleeps sees it.
fn listen(lab: &Lab, link: &str) -> Process {
    let mut tcpdump = Command::new("tcpdump");
    tcpdump.args(["-i", link, "-U", "-s", "0", "-w"]).arg(lab.dir().join(format!("{link}.pcap")));
    let mut process = lab.spawn(tcpdump, &format!("{link}.log"));
    process.wait_log("listening on", Duration::from_secs(20)).unwrap();
    process
}

fn magic_packets(lab: &Lab, link: &str) -> usize {
    let magic = [&[0xff; 6][..], &MACS[0].0.repeat(16)].concat();
    let frames = std::fs::read(lab.dir().join(format!("{link}.pcap"))).unwrap_or_default();
    frames.windows(magic.len()).filter(|window| *window == magic).count()
}

#[test]
fn three_magic_packets_leave_by_the_named_interface() {
    let lab = Lab::new("wol");
    for (near, far, net) in [("wol0", "wol1", 1), ("other0", "other1", 2)] {
        ip(&format!("link add {near} type veth peer name {far}"));
        ip(&format!("addr add 10.78.{net}.1/24 dev {near}"));
        ip(&format!("link set {near} up"));
        ip(&format!("link set {far} up"));
    }
    // Where a broadcast would go that is bound to no interface.
    ip("route add default via 10.78.2.254");
    let _listening = (listen(&lab, "wol1"), listen(&lab, "other1"));

    let desk = Desk::new();
    let settings = desk.settings("driver = \"wol\"\ninterface = \"wol0\"");
    let report = desk.done(&settings, Action::BootToNetwork);
    assert_eq!((report.state, report.boot_override), (PowerState::Unknown, None::<Override>));
    // By address as well: the subnet's broadcast finds its interface by itself.
    desk.done(&desk.settings("driver = \"wol\"\nbroadcast = \"10.78.1.255\""), Action::BootToNetwork);

    let start = Instant::now();
    while magic_packets(&lab, "wol1") < 6 && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(magic_packets(&lab, "wol1"), 6);
    assert_eq!(magic_packets(&lab, "other1"), 0, "it left by the default route");

    let (error, _) = desk.fails(&settings, Action::PowerOff);
    assert!(matches!(error, PowerError::CannotDo { .. }), "{error}");
    assert_eq!(desk.done(&settings, Action::Status).state, PowerState::Unknown);
    let absent = desk.settings("driver = \"wol\"\ninterface = \"absent0\"");
    assert!(matches!(desk.fails(&absent, Action::BootToNetwork).0, PowerError::NotSent { .. }));
}
