//! The whole road on real firmware: QEMU machines netboot, are written, boot what was written, and say so.
//!
//! Each test is one story with its own lab; the fast tests run first and elsewhere (`make test`).

mod lab;

use lab::road::{self, DEPLOY, DISK_BYTES, HOST, MAC, NETBOOT, attempts, is_ready, states};
use lab::{DiskSpec, Firmware, Lab, Server};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

fn server_with_images(lab: &Lab) -> Server {
    road::server_with_images(lab, env!("CARGO_BIN_EXE_regild"))
}

/// A disk that is not ours: bytes all over it, and nothing that looks like a partition table.
fn data_disk(path: &Path) {
    let text = "somebody's data, which no deploy may touch\n".repeat(3 << 20 >> 5);
    std::fs::write(path, text).unwrap();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(64 << 20).unwrap();
}

/// Promises: an unknown machine is never written; an order is carried out once; a finished machine boots its
/// own disk; a second disk does not change; `host list` says which image the MAC runs.
fn from_blank_to_v1_to_v2(firmware: Firmware) {
    let lab = Lab::new("road");
    let server = server_with_images(&lab);
    let (target, data) = (lab.dir().join("target.raw"), lab.dir().join("data.raw"));
    data_disk(&data);
    let disks = vec![
        DiskSpec { serial: Some("data-7".into()), ..DiskSpec::new(&data, 64 << 20) },
        DiskSpec { serial: Some("target-1".into()), ..DiskSpec::new(&target, DISK_BYTES) },
    ];
    let mut node = road::node(&lab, firmware, disks);
    let (blank, data_before) = (lab::sha256_file(&target), lab::sha256_file(&data));

    // Unknown: seen, sent to its (blank) disk, not written.
    node.power_on();
    node.expect_console("no bootable disk", NETBOOT).unwrap();
    assert_eq!(server.host(MAC)["state"], "discovered");
    assert_eq!(lab::sha256_file(&target), blank, "an unknown machine was written");

    // Approved: it finds its order by itself at its next try.
    server.regild(&["host", "approve", MAC, "--image", "tiny:v1"]);
    node.expect_console("regild golden image v1 up", DEPLOY).unwrap();
    let host = server.wait_host(HOST, "ready on v1", NETBOOT, is_ready("tiny:v1")).unwrap();
    assert_eq!((&host["generation"], &host["reported_generation"]), (&1.into(), &1.into()));
    assert_eq!(host["order"], Value::Null);
    node.power_off();
    let written = lab::sha256_file(&target);

    // Finished: its own disk, again and again, and nothing is written.
    node.power_on();
    node.expect_console("regild golden image v1 up", NETBOOT).unwrap();
    node.power_off();
    assert_eq!(lab::sha256_file(&target), written, "a finished machine was written");

    // Ordered anew: the next netboot rebuilds it.
    server.regild(&["host", "reimage", HOST, "--image", "tiny:v2", "--reason", "new version"]);
    node.power_on();
    node.expect_console("regild golden image v2 up", DEPLOY).unwrap();
    let host = server.wait_host(HOST, "ready on v2", NETBOOT, is_ready("tiny:v2")).unwrap();
    assert_eq!((&host["generation"], &host["reported_generation"]), (&2.into(), &2.into()));
    node.power_off();

    assert_eq!(lab::sha256_file(&data), data_before, "a disk that was not the target changed");
    let list: Vec<Value> = serde_json::from_str(&server.regild(&["host", "list", "-o", "json"])).unwrap();
    assert_eq!((list.len(), &list[0]["macs"][0], &list[0]["reported"]), (1, &MAC.into(), &"tiny:v2".into()));
    let states = states(&server);
    let road = [
        "discovered",
        "enrolled",
        "queued",
        "netbooting",
        "verifying",
        "rebooting",
        "ready:unconfirmed",
        "ready:confirmed",
    ];
    let mut places = road.iter().map(|state| states.iter().position(|seen| seen == state));
    assert!(places.all(|place| place.is_some()), "{states:?}");
    assert_eq!(attempts(&server), 2, "{states:?}");
}

#[test]
fn bios_from_blank_to_v1_to_v2() {
    from_blank_to_v1_to_v2(Firmware::Bios);
}

#[test]
fn uefi_from_blank_to_v1_to_v2() {
    from_blank_to_v1_to_v2(Firmware::Uefi);
}

/// Promises: half a disk never boots, the next attempt completes, a restart of the server in the middle of a
/// deploy costs nothing but time (faults.md P1, N3).
#[test]
fn a_power_cut_in_the_middle_of_the_write_and_then_a_server_that_dies() {
    let lab = Lab::new("cut");
    let mut server = server_with_images(&lab);
    let target = lab.dir().join("target.raw");
    let slow = lab::Throttle { write_bytes: 8 << 20, ..lab::Throttle::default() };
    let disk = DiskSpec { serial: Some("target-1".into()), throttle: Some(slow), ..DiskSpec::new(&target, DISK_BYTES) };
    let mut node = road::node(&lab, Firmware::Bios, vec![disk]);
    node.power_on();
    node.expect_console("no bootable disk", NETBOOT).unwrap();
    server.regild(&["host", "approve", MAC, "--image", "tiny:v1"]);

    let writing = |host: &Value| {
        host["progress"]["step"] == "write_body" && host["progress"]["done_bytes"].as_u64() > Some(8 << 20)
    };
    server.wait_host(HOST, "in the middle of its write", DEPLOY, writing).unwrap();
    node.power_off();
    assert!(road::head_of(&target, 1 << 20).iter().all(|byte| *byte == 0), "half a disk has a head that could boot");

    node.power_on();
    let second = |host: &Value| writing(host) && host["order"]["attempts"] == 2;
    server.wait_host(HOST, "in its second attempt", DEPLOY, second).unwrap();
    server.kill();
    std::thread::sleep(Duration::from_secs(3));
    server.start_again(&lab);
    node.expect_console("regild golden image v1 up", DEPLOY).unwrap();
    let host = server.wait_host(HOST, "ready on v1", NETBOOT, is_ready("tiny:v1")).unwrap();
    assert_eq!(host["generation"], 1);
    assert_eq!(attempts(&server), 2);
}
