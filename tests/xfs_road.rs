//! An image whose root the server cannot read, on a real machine: its first host tells which files it consists of, and
//! then a look from outside finds what was changed on it.

mod lab;

use lab::road::{self, DEPLOY, HOST, MAC, NETBOOT, is_ready};
use lab::{Firmware, Lab, Machine, Server};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn sh(script: &str) -> String {
    let done = Command::new("bash").args(["-euo", "pipefail", "-c", script]).output().unwrap();
    assert!(done.status.success(), "{script}\n{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Runs a script in the mounted root of a disk that is switched off.
fn in_root(lab: &Lab, disk: &Path, script: &str) -> String {
    let (at, disk) = (lab.dir().join("root").display().to_string(), disk.display());
    sh(&format!(
        "first=$(sgdisk -i 3 {disk} | sed -n 's/^First sector: \\([0-9]*\\).*/\\1/p'); mkdir -p {at}; \
         mount -o loop,nouuid,offset=$((first * 512)) {disk} {at}; trap 'umount {at}' EXIT; cd {at}; {script}; cd /"
    ))
}

fn json(server: &Server, arguments: &[&str]) -> Value {
    serde_json::from_str(&server.regild(&[arguments, &["-o", "json"]].concat())).unwrap()
}

/// What came of a look from outside, and the paths that it found.
fn is_looked_at(server: &Server, node: &mut Machine, disk: &Path, number: u64) -> (String, BTreeSet<String>) {
    let host = road::looked_at(server, node, disk, number);
    let shown = json(server, &["drift", "show", HOST]);
    let found = shown["found"].as_array().unwrap().iter();
    let found = found.map(|found| found["path"].as_str().unwrap().to_owned()).collect();
    (host["verify"]["last"]["result"].as_str().unwrap().to_owned(), found)
}

/// Promises: the first host of an image of xfs tells its files, marked as told by it; they are those that are on the
/// disk; the deploy is none the worse for it; after that the host is found clean from outside, and a swapped program with
/// its times restored, a setuid bit and a new file are found, and nothing else; no look writes a byte.
#[test]
#[ignore = "minutes; make test-full"]
fn an_image_of_xfs_is_known_by_its_first_host_and_then_watched_from_outside() {
    let lab = Lab::new("xfs");
    let server = Server::start(&lab, Path::new(env!("CARGO_BIN_EXE_regild")));
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lab/xfs-v1.raw");
    assert!(image.exists(), "no {}; do: make target/lab/xfs-v1.raw", image.display());
    server.regild(&["image", "import", image.to_str().unwrap(), "--as", "tiny:v1"]);
    let before = json(&server, &["image", "baseline", "tiny:v1"]);
    assert_eq!(before["state"], "needs_host", "{before:#}");
    let spec = road::blank_disk(&lab, "target-1");
    let disk = spec.path.clone();
    let mut node = road::node(&lab, Firmware::Bios, vec![spec]);
    node.power_on();
    node.expect_console("no bootable disk", NETBOOT).unwrap();
    server.regild(&["host", "approve", MAC, "--image", "tiny:v1"]);
    node.expect_console("the server has the baseline", DEPLOY).unwrap();
    node.expect_console("regild golden image v1 up", DEPLOY).unwrap();
    server.wait_host(HOST, "ready", NETBOOT, is_ready("tiny:v1")).unwrap();
    node.power_off();
    let told = json(&server, &["image", "baseline", "tiny:v1"]);
    let origin = format!("host {}", server.host(HOST)["id"].as_str().unwrap());
    assert_eq!((&told["state"], &told["origin"]), (&"ready".into(), &origin.into()), "{told:#}");
    assert_eq!(told["volumes"][2]["format"], "xfs", "{told:#}");
    let on_disk: BTreeSet<String> =
        in_root(&lab, &disk, "find . -printf '/%P\\n'").lines().map(str::to_owned).collect();
    let files = json(&server, &["image", "files", "tiny:v1"]);
    let files: BTreeSet<String> =
        files.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect();
    assert!(files.len() > 500, "{} files", files.len());
    assert_eq!(files, on_disk);

    let (clean, found) = is_looked_at(&server, &mut node, &disk, 1);
    assert!(clean.starts_with("clean, ") && found.is_empty(), "{clean}: {found:?}");

    in_root(
        &lab,
        &disk,
        "touch -r bin/busybox /tmp/regild-xfs-times.$$; size=$(stat -c %s bin/busybox); \
         printf '\\377' | dd of=bin/busybox bs=1 seek=$((size - 1)) conv=notrunc status=none; \
         touch -r /tmp/regild-xfs-times.$$ bin/busybox; rm /tmp/regild-xfs-times.$$; \
         chmod u+s sbin/init; echo late >etc/late",
    );
    let (drifted, found) = is_looked_at(&server, &mut node, &disk, 2);
    let expected = ["/bin/busybox", "/etc/late", "/sbin/init"].map(str::to_owned);
    assert_eq!(found, BTreeSet::from(expected), "{drifted}");
    assert!(drifted.starts_with("3 findings, "), "{drifted}");

    node.power_on();
    node.expect_console("regild golden image v1 up", NETBOOT).unwrap();
    assert_eq!(road::attempts(&server), 1, "{:?}", road::states(&server));
}
