//! What a scan does not enter.

use crate::place::{CYCLE, Place, agent};
use regild::wire::baseline::{Known, Volume};
use serde_json::Value;
use std::process::Command;

/// Runs `script` in a mount namespace of its own, in the tree's root, then scans; the lines that the agent printed.
fn scan_in_namespace(place: &Place, script: &str) -> Vec<Value> {
    let scan = agent();
    let run = format!(
        "cd '{root}'; {script}; exec '{agent}' scan --json --root '{root}' --baseline '{baseline}'",
        root = place.root().display(),
        agent = scan.get_program().display(),
        baseline = place.beside("baseline").display()
    );
    let output =
        Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-euc", &run]).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn gaps(lines: &[Value]) -> Vec<String> {
    let summary = lines.last().unwrap();
    let gaps = summary["gaps"].as_array().unwrap().iter();
    gaps.map(|gap| format!("{}: {}", gap["path"].as_str().unwrap(), gap["reason"].as_str().unwrap())).collect()
}

/// Pseudo file systems, foreign disks and bind mounts, also one of the root into itself: each directory counts as being
/// there, is not entered, and is said.
#[test]
fn mounts_that_are_not_the_images_are_gaps_and_not_findings() {
    let mut place = Place::small();
    place.run("mkdir proc run loop; chmod 700 run; mkdir -p srv/data; echo 1 > srv/data/file");
    place.record();
    let lines = scan_in_namespace(
        &place,
        "mount -t proc proc proc; mount -t tmpfs tmpfs run; touch run/pid; mount --bind . loop; mount -t tmpfs tmpfs srv/data",
    );
    assert_eq!(lines.len(), 1, "no findings: {lines:?}");
    let expected = [
        "/loop: ext4 is mounted here, not a part of the image",
        "/proc: proc is mounted here, not a part of the image",
        "/run: tmpfs is mounted here, not a part of the image",
        "/srv/data: tmpfs is mounted here, not a part of the image",
    ];
    let kind = lines[0]["gaps"][0]["reason"].as_str().unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(gaps(&lines), expected.map(|line| line.replace("ext4", &kind)));
}

/// Somebody binds another program over one of the image: what runs is what is judged, and that it is covered is said.
#[test]
fn a_file_that_is_mounted_over_another_is_judged_as_it_is_seen() {
    let place = Place::small();
    let lines = scan_in_namespace(&place, "mount --bind etc/passwd usr/bin/su");
    assert_eq!(lines[0]["finding"]["path"], "/usr/bin/su");
    assert_eq!(lines[0]["left"], "content+mode");
    assert_eq!(gaps(&lines).len(), 1);
}

/// A volume of the image that is not mounted has not lost its files.
#[test]
fn a_volume_that_is_not_mounted_is_a_gap() {
    let mut place = Place::small();
    let volume = |known| Volume { partition: 2, format: "vfat".into(), mounted_at: Some("/boot/efi".into()), known };
    place.write("boot/efi/EFI/grub.efi", b"MZ");
    place.record();
    place.volumes = vec![volume(Known::Files)];
    place.run("rm -r boot/efi/EFI");
    let said = place.scan(CYCLE);
    assert_eq!((said.lines, said.summary.gaps_total), (vec![], 1));
    assert_eq!(said.summary.gaps[0].reason, "the image's volume is not mounted here");
    place.volumes.clear();
    assert_eq!(place.scan(CYCLE).lines, ["removed /boot/efi/EFI", "removed /boot/efi/EFI/grub.efi"]);
}

/// What the server could not read of the image is a gap of every scan.
#[test]
fn a_volume_that_the_baseline_does_not_know_is_a_gap() {
    let mut place = Place::small();
    let known = Known::Not { reason: "xfs is read by the deploy environment only".into() };
    place.volumes = vec![Volume { partition: 3, format: "xfs".into(), mounted_at: Some("/srv".into()), known }];
    place.record();
    let said = place.scan(CYCLE);
    assert_eq!(said.summary.gaps[0].reason, "xfs is read by the deploy environment only");
}

/// Of a volume that the baseline does not know, not even the mount point is in the list: it is no finding, whatever lies
/// there.
#[test]
fn where_an_unknown_volume_is_mounted_nothing_is_added() {
    let mut place = Place::small();
    let known = Known::Blocks { offset_bytes: 0, length_bytes: 1 };
    place.volumes = vec![Volume { partition: 3, format: "squashfs".into(), mounted_at: Some("/srv".into()), known }];
    place.record();
    place.run("mkdir srv srv2");
    place.write("srv/file", b"x");
    let said = place.scan(CYCLE);
    assert_eq!((said.lines, said.summary.gaps_total), (vec!["added /srv2".to_owned()], 1));
}
