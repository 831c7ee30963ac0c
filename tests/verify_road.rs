//! A look from outside on a real machine: its disk was changed while it was off, the deploy environment finds what, the
//! server tells it, the disk is byte for byte as it was, and the machine boots it again.

mod lab;

use lab::road::{self, DEPLOY, HOST, MAC, NETBOOT, attempts, is_ready};
use lab::{Firmware, Lab, Machine, Server};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

fn sh(script: &str) {
    let done = Command::new("bash").args(["-euo", "pipefail", "-c", script]).output().unwrap();
    assert!(done.status.success(), "{script}\n{}", String::from_utf8_lossy(&done.stderr));
}

/// First byte of the root file system.
fn root_of(disk: &Path) -> u64 {
    let script = format!("sgdisk -i 3 {} | sed -n 's/^First sector: \\([0-9]*\\).*/\\1/p'", disk.display());
    let done = Command::new("bash").args(["-c", &script]).output().unwrap();
    String::from_utf8(done.stdout).unwrap().trim().parse::<u64>().unwrap() * 512
}

/// Paths that the last look from outside found, as `GET /v1/drift/hosts/{id}` tells them.
fn found(server: &Server) -> BTreeSet<String> {
    let mut socket = UnixStream::connect(server.socket()).unwrap();
    write!(socket, "GET /v1/drift/hosts/{HOST} HTTP/1.0\r\nHost: regild\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let shown: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
    assert_eq!(shown["source"], "outside", "{shown:#}");
    let found = shown["found"].as_array().unwrap().iter();
    found.map(|found| found["path"].as_str().unwrap().to_owned()).collect()
}

/// What came of a look from outside, which is no order and no attempt.
fn is_looked_at(server: &Server, node: &mut Machine, disk: &Path, number: u64) -> String {
    let host = road::looked_at(server, node, disk, number);
    assert_eq!((&host["state"], &host["order"], &host["generation"]), (&"ready".into(), &Value::Null, &1.into()));
    host["verify"]["last"]["result"].as_str().unwrap().to_owned()
}

/// Promises: a swapped program with its times restored, and a file that only a dirty journal knows, are found by a system
/// that does not run what is on the disk; nothing is written; it is no attempt of any order; the machine boots again.
#[test]
#[ignore = "minutes; make test-full"]
fn a_disk_that_was_changed_is_found_out_from_outside_and_boots_again() {
    let lab = Lab::new("verify");
    let server = road::server_with_images(&lab, env!("CARGO_BIN_EXE_regild"));
    let spec = road::blank_disk(&lab, "target-1");
    let disk = spec.path.clone();
    let mut node = road::node(&lab, Firmware::Bios, vec![spec]);
    node.power_on();
    node.expect_console("no bootable disk", NETBOOT).unwrap();
    server.regild(&["host", "approve", MAC, "--image", "tiny:v1"]);
    node.expect_console("regild golden image v1 up", DEPLOY).unwrap();
    server.wait_host(HOST, "ready", NETBOOT, is_ready("tiny:v1")).unwrap();
    node.power_off();

    let clean = is_looked_at(&server, &mut node, &disk, 1);
    assert!(clean.starts_with("clean, "), "{clean}");
    assert_eq!(found(&server), BTreeSet::new());

    // The last byte of the program is in none of its segments: it runs as before.
    let (at, raw) = (root_of(&disk), disk.display());
    let work = lab.dir().join("busybox");
    sh(&format!(
        "debugfs -R 'dump /bin/busybox {work}' '{raw}?offset={at}' 2>&1; \
         size=$(stat -c %s {work}); printf '\\377' | dd of={work} bs=1 seek=$((size - 1)) conv=notrunc 2>&1; \
         mtime=$(debugfs -R 'stat /bin/busybox' '{raw}?offset={at}' 2>/dev/null | sed -n 's/.*mtime: 0x\\([0-9a-f]*\\).*/\\1/p'); \
         printf 'rm /bin/busybox\\nwrite {work} /bin/busybox\\nset_inode_field /bin/busybox mode 0100755\\nset_inode_field /bin/busybox mtime @%d\\nq\\n' 0x$mtime >{work}.commands; \
         debugfs -w -f {work}.commands '{raw}?offset={at}' 2>&1",
        work = work.display(),
    ));
    let drifted = is_looked_at(&server, &mut node, &disk, 2);
    assert!(drifted.starts_with("1 finding, "), "{drifted}");
    assert_eq!(found(&server), BTreeSet::from(["/bin/busybox".to_owned()]));

    // As after a power cut: the file is in the journal, and not yet where the file system keeps its files.
    sh(&format!(
        "mkdir -p {work}.mnt; mount -o loop,offset={at} {raw} {work}.mnt; echo late >{work}.mnt/etc/late; sync; \
         cp --sparse=always {raw} {work}.disk; umount {work}.mnt; cp --sparse=always {work}.disk {raw}; \
         dumpe2fs -h '{raw}?offset={at}' 2>/dev/null | grep -q needs_recovery",
        work = work.display(),
    ));
    let dirty = is_looked_at(&server, &mut node, &disk, 3);
    assert!(dirty.starts_with("2 findings, "), "{dirty}");
    assert_eq!(found(&server), BTreeSet::from(["/bin/busybox".to_owned(), "/etc/late".to_owned()]));

    node.power_on();
    node.expect_console("regild golden image v1 up", NETBOOT).unwrap();
    assert_eq!(attempts(&server), 1, "a look is no attempt: {:?}", road::states(&server));
    let history = server.regild(&["host", "history", HOST]);
    for line in
        ["verify asked by root: odd logins", "verified from outside: clean", "verified from outside: 2 findings"]
    {
        assert!(history.contains(line), "{line}: {history}");
    }
}
