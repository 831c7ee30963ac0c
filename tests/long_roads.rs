//! Further roads on real firmware, of some minutes each: a UEFI machine without its server, power cuts at the points
//! that `boot_path.rs` leaves out, machines on which no disk is the right one.

mod lab;

use lab::road::{self, DEPLOY, HOST, MAC, NETBOOT, attempts, is_ready};
use lab::{BootEntries, BootOrder, DiskSpec, Firmware, Lab, Machine, Server, Throttle, sha256_file};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How the agent names its boot entry.
const ENTRY: &str = "regild disk";
/// The firmware tries each of its network entries before it comes to the disk.
const WITHOUT_SERVER: Duration = Duration::from_secs(400);

fn server_with_images(lab: &Lab) -> Server {
    road::server_with_images(lab, env!("CARGO_BIN_EXE_regild"))
}

/// Powered on once, seen by the server, not written; off again. Where QEMU says the order, OVMF has it in its
/// variables from here on.
fn discover(node: &mut Machine, server: &Server) {
    node.power_on();
    server.wait_host(MAC, "discovered", NETBOOT, |host| host["state"] == "discovered").unwrap();
    node.power_off();
}

/// Network first, our entry second, and no other of its kind.
fn assert_network_then_ours(entries: &BootEntries) {
    let order = entries.order();
    assert!(entries.in_order[0].is_network(), "not the network first: {order}");
    assert_eq!(entries.in_order[1].description, ENTRY, "not our disk second: {order}");
    assert!(entries.in_order[1].is_partition(), "our entry does not begin with a partition: {:?}", entries.in_order[1]);
    assert_eq!(entries.named(ENTRY).len(), 1, "our entry is there more than once: {:?}", entries.all);
}

/// Promises: after a deploy a UEFI machine asks the network first, so that the server keeps it; it boots its disk by
/// our entry when the server is away; a rebuild leaves one such entry and not two.
#[test]
#[ignore = "minutes; make test-full"]
fn a_uefi_machine_boots_its_disk_while_the_server_is_away() {
    let lab = Lab::new("away");
    let mut server = server_with_images(&lab);
    let mut node = road::node(&lab, Firmware::Uefi, vec![road::blank_disk(&lab, "target-1")]);
    discover(&mut node, &server);
    assert!(node.boot_entries().in_order[0].is_network(), "{}", node.boot_entries().order());
    // QEMU's own boot order would put the network first again at each power-on, whatever the agent wrote.
    node.spec_mut().boot_order = BootOrder::AsInNvram;

    server.regild(&["host", "approve", MAC, "--image", "tiny:v1"]);
    node.power_on();
    node.expect_console("regild golden image v1 up", DEPLOY).unwrap();
    server.wait_host(HOST, "ready on v1", NETBOOT, is_ready("tiny:v1")).unwrap();
    node.power_off();
    assert_network_then_ours(&node.boot_entries());

    server.kill();
    node.power_on();
    let began = Instant::now();
    node.expect_console(&format!("\"{ENTRY}\" from HD("), WITHOUT_SERVER).unwrap();
    eprintln!("the firmware came to its disk {:.0} s after power-on", began.elapsed().as_secs_f32());
    node.expect_console("regild golden image v1 up", NETBOOT).unwrap();
    eprintln!("without the server v1 was up {:.0} s after power-on", began.elapsed().as_secs_f32());
    node.power_off();

    server.start_again(&lab);
    server.regild(&["host", "reimage", HOST, "--image", "tiny:v2", "--reason", "new version"]);
    node.power_on();
    node.expect_console("regild golden image v2 up", DEPLOY).unwrap();
    server.wait_host(HOST, "ready on v2", NETBOOT, is_ready("tiny:v2")).unwrap();
    node.power_off();
    assert_network_then_ours(&node.boot_entries());
}

/// Promises: whatever point a power cut comes at, half a disk never boots, the next attempt takes up what is right
/// already, and a machine that was cut after its order was closed boots its disk and is not written again
/// (faults.md P1, P2).
#[test]
#[ignore = "minutes; make test-full"]
fn power_cuts_while_reading_back_in_the_head_and_after_the_order_was_closed() {
    let lab = Lab::new("cuts");
    let server = server_with_images(&lab);
    let disk = DiskSpec { throttle: Some(Throttle::default()), ..road::blank_disk(&lab, "target-1") };
    let target = disk.path.clone();
    let mut node = road::node(&lab, Firmware::Uefi, vec![disk]);
    discover(&mut node, &server);
    server.regild(&["host", "approve", MAC, "--image", "tiny:v1"]);

    // The first attempt ends while the body is read back.
    let reading_back = |host: &Value| host["state"] == "verifying" && host["progress"]["step"] == "verify_body";
    node.power_on();
    server.wait_host(HOST, "reading back", DEPLOY, reading_back).unwrap();
    node.power_off();
    assert!(road::head_of(&target, 1 << 20).iter().all(|byte| *byte == 0), "the head came before the proof");

    // The second ends inside the head: loaders and entries are there, the two sectors that make them count are not.
    node.power_on();
    let second = |host: &Value| reading_back(host) && host["order"]["attempts"] == 2;
    server.wait_host(HOST, "reading back again", DEPLOY, second).unwrap();
    // The MiB of the head takes a slow disk's tokens for half a minute, and what follows has to wait for them.
    node.set_throttle(0, Throttle { write_bytes: 32 << 10, ..Throttle::default() });
    wait_for("the head but its first sectors", || {
        road::head_of(&target, 1 << 20)[1024..].iter().any(|byte| *byte != 0)
    });
    node.power_off();
    assert!(road::head_of(&target, 1024).iter().all(|byte| *byte == 0), "the head's beginning was not written last");

    // The third completes, from what the first two left on the disk, and is cut before the machine has rebooted.
    node.power_on();
    let fetched = "tiny:v1 written and read back";
    node.expect_console(fetched, DEPLOY).unwrap();
    server.wait_host(HOST, "rebooting", NETBOOT, |host| host["state"] == "rebooting").unwrap();
    node.power_off();
    let host = server.host(HOST);
    assert_eq!((&host["state"], &host["order"]), (&"rebooting".into(), &Value::Null), "{host:#}");
    let console = node.console();
    let line = console.lines().rev().find(|line| line.contains(fetched)).unwrap();
    let fetched_bytes: u64 = line.split_whitespace().rev().nth(2).unwrap().parse().unwrap();
    assert!(fetched_bytes < 4 << 20, "what was right already was fetched again: {line}");
    let written = sha256_file(&target);

    // It boots what was written; no attempt is counted, nothing is written.
    node.power_on();
    node.expect_console("regild golden image v1 up", NETBOOT).unwrap();
    let host = server.wait_host(HOST, "ready on v1", NETBOOT, is_ready("tiny:v1")).unwrap();
    node.power_off();
    assert_eq!((&host["generation"], &host["reported_generation"]), (&1.into(), &1.into()));
    assert_eq!(attempts(&server), 3);
    assert_eq!(sha256_file(&target), written, "a finished machine was written");
}

/// Promises: a power cut between the last write and the report costs an attempt and no write: the next one finds the
/// image in place and says so (faults.md P1).
#[test]
#[ignore = "minutes; make test-full"]
fn a_power_cut_between_the_last_write_and_the_report() {
    let lab = Lab::new("unsaid");
    let server = server_with_images(&lab);
    let disk = DiskSpec { throttle: Some(Throttle::default()), ..road::blank_disk(&lab, "target-1") };
    let target = disk.path.clone();
    let mut node = road::node(&lab, Firmware::Uefi, vec![disk]);
    discover(&mut node, &server);
    server.regild(&["host", "approve", MAC, "--image", "tiny:v1"]);

    node.power_on();
    server.wait_host(HOST, "reading back", DEPLOY, |host| host["state"] == "verifying").unwrap();
    // Slow enough that the cable is out before the head's last sectors are written.
    node.set_throttle(0, Throttle { write_bytes: 64 << 10, ..Throttle::default() });
    server.wait_host(HOST, "writing its head", DEPLOY, |host| host["detail"] == "write_head").unwrap();
    lab.set_link(&node, false);
    // The step behind the head: the agent is through with the disk, and cannot say so.
    node.expect_console("regild-agent: BootEntry", DEPLOY).unwrap();
    node.expect_console("trying again", NETBOOT).unwrap();
    node.power_off();
    lab.set_link(&node, true);
    let host = server.host(HOST);
    assert_eq!((&host["detail"], &host["order"]["attempts"]), (&"write_head".into(), &1.into()), "{host:#}");
    let written = sha256_file(&target);

    node.power_on();
    node.expect_console("tiny:v1 was there already", DEPLOY).unwrap();
    node.expect_console("regild golden image v1 up", NETBOOT).unwrap();
    server.wait_host(HOST, "ready on v1", NETBOOT, is_ready("tiny:v1")).unwrap();
    node.power_off();
    assert_eq!(attempts(&server), 2);
    assert_eq!(sha256_file(&target), written, "what was in place was written again");
    let steps = road::states(&server);
    for step in ["deploying:clear_head", "deploying:write_body"] {
        assert_eq!(steps.iter().filter(|state| *state == step).count(), 1, "{step} came again: {steps:?}");
    }
}

/// Promises: with two disks that may be written, none is (faults.md A2); an image that is larger than the disk is
/// refused before the first write (I7). Both refusals say why for every disk, and the machine goes home to its disk.
#[test]
#[ignore = "minutes; make test-full"]
fn no_disk_is_the_right_one() {
    let lab = Lab::new("refused");
    let server = server_with_images(&lab);
    let (first, second) = (road::blank_disk(&lab, "first-1"), road::blank_disk(&lab, "second-2"));
    // Smaller than the 768 MiB of the image.
    let small = DiskSpec { bytes: 512 << 20, ..road::blank_disk(&lab, "small-3") };
    let paths = [first.path.clone(), second.path.clone(), small.path.clone()];
    let mut node = road::node(&lab, Firmware::Bios, vec![first, second]);
    discover(&mut node, &server);
    let refused = |host: &Value| host["state"] == "failed";

    let before = [&paths[0], &paths[1]].map(sha256_file);
    server.regild(&["host", "approve", MAC, "--image", "tiny:v1"]);
    node.power_on();
    let host = server.wait_host(HOST, "refused", DEPLOY, refused).unwrap();
    let reason = host["detail"].as_str().unwrap();
    assert!(reason.contains("2 disks may be written"), "{reason}");
    for serial in ["serial first-1", "serial second-2"] {
        assert!(reason.contains(serial), "{serial} is not listed: {reason}");
    }
    // Sent to its disks, which are blank, and not to the deploy environment again.
    node.expect_console("no bootable disk", NETBOOT).unwrap();
    node.power_off();
    assert_eq!([&paths[0], &paths[1]].map(sha256_file), before, "a refused disk was written");

    node.spec_mut().disks = vec![small];
    server.regild(&["host", "reimage", HOST, "--image", "tiny:v1", "--reason", "other disk"]);
    node.power_on();
    let before = sha256_file(&paths[2]);
    let host = server.wait_host(HOST, "refused", DEPLOY, refused).unwrap();
    let reason = host["detail"].as_str().unwrap();
    assert!(reason.contains("no disk may be written"), "{reason}");
    assert!(reason.contains("serial small-3") && reason.contains("too small: the image needs 805306368"), "{reason}");
    node.expect_console("no bootable disk", NETBOOT).unwrap();
    node.power_off();
    assert_eq!(sha256_file(&paths[2]), before, "a disk that is too small was written");
    assert_eq!((host["generation"].as_u64(), &host["reported"]), (Some(2), &Value::Null));
    assert_eq!(attempts(&server), 2);
}

fn wait_for(what: &str, mut come: impl FnMut() -> bool) {
    let began = Instant::now();
    while !come() {
        assert!(began.elapsed() < DEPLOY, "{what}: not in {DEPLOY:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
