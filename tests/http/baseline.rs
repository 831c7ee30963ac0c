//! An image's baseline on its way from the import to those who ask for it.

use std::process::Command;
use std::time::Duration;

use regild::wire::baseline::Reader;
use serde_json::Value;

use crate::lab::{Lab, STRANGER};

/// A file system with what a terminal must not see.
fn import(lab: &Lab, name: &str) {
    let script = "set -e; rm -rf tree fs.raw; mkdir -p tree/etc tree/usr/bin; : >tree/etc/fstab; echo hello >tree/etc/motd
        ln -s ../etc/motd $'tree/usr/clear\\e[2J'; chmod 4755 tree/usr/bin; truncate -s 8M fs.raw; mke2fs -q -t ext4 -d tree fs.raw";
    assert!(Command::new("bash").args(["-c", script]).current_dir(lab.path("")).status().unwrap().success());
    lab.regild(&["image", "import", lab.path("fs.raw").to_str().unwrap(), "--as", name]);
}

/// Waits for the server's own thread; a test that is stuck is stopped by its minute.
fn made(lab: &Lab, name: &str) -> Value {
    for _ in 0..600 {
        let answer = lab.operator().get(&format!("/v1/images/{name}/baseline")).json();
        if answer["state"] != "pending" {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("no baseline within a minute: {}", lab.log())
}

#[test]
fn an_imported_image_gets_its_baseline_by_itself() {
    let mut lab = Lab::new();
    import(&lab, "fs:1");
    let baseline = made(&lab, "fs:1");
    assert_eq!((&baseline["state"], &baseline["origin"]), (&"ready".into(), &"image".into()), "{baseline}");
    let path = format!("/images/baselines/{}", baseline["digest"].as_str().unwrap());
    let whole = lab.from(STRANGER).get(&path);
    let reader = Reader::new(&whole.body[..]).unwrap();
    assert_eq!(reader.count() as u64, baseline["entries"].as_u64().unwrap());
    let mut connection = lab.from(STRANGER);
    connection.head(&[&format!("GET {path} HTTP/1.1"), "Host: regild", "Range: bytes=3-9"]);
    let part = connection.answer();
    assert_eq!((part.status, &part.body[..]), (206, &whole.body[3..10]));

    let listed = lab.json(&["image", "files", "fs:1", "--prefix", "/usr"]);
    let paths: Vec<_> = listed.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/usr", "/usr/bin", "/usr/clear\\x1b[2J"]);
    assert_eq!((&listed[1]["mode"], &listed[2]["target"]), (&"4755".into(), &"../etc/motd".into()));
    let table = lab.regild(&["image", "files", "fs:1"]);
    let motd = table.lines().find(|line| line.ends_with("/etc/motd")).unwrap_or_else(|| panic!("{table}"));
    let digest = blake3::hash(b"hello\n").to_hex();
    assert!(motd.starts_with("file") && motd.contains(&digest[..12]), "{motd}");
    assert!(!table.contains('\x1b') && table.contains("clear\\x1b[2J -> ../etc/motd"), "{table}");
    let none = lab.try_regild(&["image", "files", "fs:1", "--prefix", "usr"]);
    assert_eq!(none.status.code(), Some(1));

    // What a version of an older release lacks is made when the server starts.
    lab.kill();
    std::fs::remove_dir_all(lab.path("state/images/baselines")).unwrap();
    lab.start();
    assert_eq!(made(&lab, "fs:1")["digest"], baseline["digest"]);
}

/// An image that is no system: it is imported all the same, and whoever asks is told why there is nothing to compare.
#[test]
fn an_image_without_files_says_so() {
    let lab = Lab::new();
    lab.import_image();
    let failed = made(&lab, crate::lab::IMAGE);
    assert_eq!(failed["state"], "failed");
    let shown = lab.regild(&["image", "baseline", crate::lab::IMAGE]);
    assert!(
        shown.contains("failed") && shown.contains("no partition of the image holds /etc/fstab or /usr"),
        "{shown}"
    );
    let files = lab.try_regild(&["image", "files", crate::lab::IMAGE]);
    let said = String::from_utf8_lossy(&files.stderr).into_owned();
    assert!(files.status.code() == Some(1) && said.contains("has no baseline"), "{said}");
}
