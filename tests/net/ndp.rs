//! Router solicitations, by the kernel at the client's end: it asks when its link comes up, and counts what it hears.

use std::sync::Arc;
use std::time::{Duration, Instant};

use regild::decide::mac::Mac;
use regild::ndp::RecentMacs;

use crate::lab::{CLIENT_LINK, Lab, ip};

/// The kernel asks up to three times, four seconds apart, and first makes sure of its own address.
const PATIENCE: Duration = Duration::from_secs(20);

/// Promises: only a machine that asked as iPXE just now is told; what it is told makes no route and no address.
#[test]
fn a_machine_that_netboots_is_told_that_there_is_no_router_and_nobody_else_is() {
    let lab = Lab::new();
    let recent = Arc::new(RecentMacs::default());
    let _answers = lab.answer_solicitations(recent.clone());
    let mac = shown(&lab, "link").split("link/ether ").nth(1).unwrap()[..17].parse::<Mac>().unwrap();

    // Nobody: it asks in vain.
    plug_in_again(&lab);
    let heard = || counter(&lab, "Icmp6InRouterAdvertisements");
    wait_until(|| counter(&lab, "Icmp6OutRouterSolicits") >= 2 || heard() > 0);
    assert_eq!(heard(), 0, "a machine that we do not netboot was told something");

    recent.note(mac, regild::clock::instant());
    plug_in_again(&lab);
    wait_until(|| heard() > 0);
    assert_eq!(counter(&lab, "Icmp6InErrors"), 0);
    assert_eq!(shown(&lab, "-6 route show default").trim(), "", "a default route through us");
    let addresses = shown(&lab, "-6 address show scope global");
    assert_eq!(addresses.trim(), "", "an address by a prefix of ours");
}

fn plug_in_again(lab: &Lab) {
    for state in ["down", "up"] {
        ip(&["-n", &lab.client, "link", "set", CLIENT_LINK, state]);
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A line of /proc/net/snmp6 at the client's end.
fn counter(lab: &Lab, name: &str) -> u64 {
    let output = lab.run_client("cat", &["/proc/net/snmp6"]);
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = lines.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("this kernel counts no {name}: the test needs IPv6 in it"))
}

fn shown(lab: &Lab, what: &str) -> String {
    let words: Vec<&str> = what.split(' ').chain(["dev", CLIENT_LINK]).collect();
    let words = if what == "link" { vec!["link", "show", CLIENT_LINK] } else { words };
    String::from_utf8_lossy(&lab.run_client("ip", &words).stdout).into_owned()
}
