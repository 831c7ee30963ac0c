//! Bad input and faults on the host (issue 4): what does not hold still, cannot be read, is killed, or has no room.

use crate::meddled::Meddled;
use crate::place::{CYCLE, Place, agent};
use regild::agent::drift::{Look, Tree, state};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn append(path: &std::path::Path) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(b"more\n").unwrap();
}

/// It is read twice at most, each time as far as it was long, and its content is not said to be known.
#[test]
fn a_file_that_grows_at_each_read_ends_the_scan_and_is_said() {
    let mut place = Place::small();
    place.write("var/log/syslog", &[b'x'; 500_000]);
    place.record();
    let tree = place.tree();
    let mut meddled = Meddled::new(&tree);
    meddled.while_reading = Box::new(|path| {
        if path == b"/var/log/syslog" {
            append(&place.at("var/log/syslog"));
        }
    });
    let said = place.scan_of(&&meddled, CYCLE);
    assert_eq!(said.lines, ["content /var/log/syslog"], "it has another length, whatever it holds");
    assert_eq!((said.summary.changing, said.summary.gaps_total), (1, 1));
    assert_eq!(said.summary.gaps[0].reason, "its content changes while it is read");
    let other_bytes = 9 << 20;
    assert!(said.summary.scan.read_bytes < 2 * 500_000 + 1000 + other_bytes);
    // Nothing has its turn in a cycle that long: what is read now is read since it is not known yet.
    let still = place.scan(Look::Due { cycle_seconds: 1 << 40 }).summary;
    assert_eq!((still.changing, still.gaps_total, still.files_read), (0, 0, 1), "read when it holds still");
}

/// The same by a program that writes all the time, as it happens.
#[test]
fn a_file_that_is_written_all_the_time_is_one_finding() {
    let place = Place::small();
    let (path, is_over) = (place.at("var/log/syslog"), AtomicBool::new(false));
    append(&path);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // 20 MB at most.
            for _ in 0..4_000_000 {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                append(&path);
            }
        });
        for _ in 0..20 {
            assert_eq!(place.scan(CYCLE).lines, ["content /var/log/syslog"]);
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

/// Between the look and the opening.
#[test]
fn a_file_that_is_gone_when_it_is_opened_is_removed_and_one_that_became_a_fifo_holds_nobody() {
    let place = Place::small();
    let tree = place.tree();
    let mut meddled = Meddled::new(&tree);
    meddled.before_open = Box::new(|path| match path {
        b"/etc/passwd" if place.at("etc/passwd").exists() => fs::remove_file(place.at("etc/passwd")).unwrap(),
        b"/usr/lib/unit.service" => place.run("rm -f usr/lib/unit.service; mkfifo usr/lib/unit.service"),
        b"/etc/shadow" => place.run("ln -sf /etc/hostname etc/shadow"),
        _ => {}
    });
    let said = place.scan_of(&&meddled, CYCLE);
    let kinds: Vec<&str> = said.lines.iter().map(String::as_str).collect();
    assert_eq!(kinds, ["removed /etc/passwd", "kind /etc/shadow", "kind /usr/lib/unit.service"]);
    let (root, _) = tree.root().unwrap();
    let var = tree.enter(&root, b"var", b"/var").unwrap();
    assert!(tree.open(&var, b"fifo", b"/var/fifo").is_err(), "and it came back");
    let usr = tree.enter(&root, b"usr", b"/usr").unwrap();
    let bin = tree.enter(&usr, b"bin", b"/usr/bin").unwrap();
    assert!(tree.open(&bin, b"link", b"/usr/bin/link").is_err(), "no symlink is followed");
}

#[test]
fn a_socket_is_seen_and_not_opened() {
    let place = Place::small();
    let _socket = UnixListener::bind(place.at("var/socket")).unwrap();
    let said = place.scan(CYCLE);
    assert_eq!(said.lines, ["added /var/socket"]);
    assert_eq!(said.found[0].finding.seen.as_ref().unwrap().kind.word(), "socket");
}

/// An agent without root: what it may not see is a gap, and neither changed nor removed.
#[test]
fn what_may_not_be_read_is_a_gap_and_not_a_finding() {
    let mut place = Place::small();
    place.write("root/secret/file", b"1");
    place.run("chmod 700 root/secret; chmod 755 . ..");
    place.record();
    fs::set_permissions(place.beside("baseline"), fs::Permissions::from_mode(0o644)).unwrap();
    let mut scan = agent();
    let scan =
        scan.args(["scan", "--json", "--root"]).arg(place.root()).arg("--baseline").arg(place.beside("baseline"));
    let output = scan.uid(65_534).gid(65_534).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let gaps: Vec<&str> = summary["gaps"].as_array().unwrap().iter().map(|gap| gap["path"].as_str().unwrap()).collect();
    assert_eq!(gaps, ["/etc/shadow", "/root/secret"]);
    assert!(summary["gaps"][0]["reason"].as_str().unwrap().contains("Permission denied"));
}

/// A tree deeper than there are descriptors for.
#[test]
fn a_tree_that_has_no_end_has_one_for_the_scan() {
    let place = Place::small();
    place.run("for i in $(seq 300); do mkdir deep; cd deep; done; echo 1 > file");
    let said = place.scan(CYCLE);
    assert_eq!((said.lines.len(), said.summary.gaps_total), (200, 1));
    assert_eq!(said.summary.gaps[0].reason, "deeper than 200 directories");
}

/// Killed at any moment, the state is the former one or the new one, whole.
#[test]
fn an_agent_that_is_killed_leaves_a_whole_state_or_none() {
    let mut place = Place::small();
    for at in 0..3000 {
        place.write(format!("usr/share/{}/{at}", at % 20), &[7; 3000]);
    }
    place.record();
    let (path, mut killed) = (place.beside("state"), 0);
    let command = |mut scan: Command| {
        scan.args(["scan", "--root"]).arg(place.root()).arg("--baseline").arg(place.beside("baseline"));
        scan.arg("--state").arg(&path).stdout(Stdio::null());
        scan
    };
    for round in 0..20 {
        let mut scan = command(agent()).spawn().unwrap();
        // From at once until about when it is done.
        std::thread::sleep(Duration::from_millis(round * 7));
        scan.kill().unwrap();
        killed += u64::from(scan.wait().unwrap().code().is_none());
        assert!(!path.exists() || state::Reader::open(&path).is_some(), "round {round}");
    }
    assert!(killed > 0, "none was killed before it was done");
    assert!(command(agent()).status().unwrap().success());
    let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(state::Reader::open(&path).is_some() && left.len() == 3, "{left:?}");
}

/// A disk without room for the state: all findings come, and it is said.
#[test]
fn a_full_disk_loses_the_state_and_no_finding() {
    let mut place = Place::small();
    for at in 0..3000 {
        place.write(format!("usr/share/{at}"), at.to_string().as_bytes());
    }
    place.record();
    place.write("etc/new", b"1");
    let scan = format!(
        "mkdir '{room}'; mount -t tmpfs -o size=16k tmpfs '{room}'; status=0; \
         head -c 16384 /dev/zero > '{room}/full'; \
         '{agent}' scan --json --root '{root}' --baseline '{baseline}' --state '{room}/state' || status=$?; rm '{room}/full'; ls '{room}'; exit $status",
        room = place.beside("room").display(),
        root = place.root().display(),
        baseline = place.beside("baseline").display(),
        agent = agent().get_program().display()
    );
    let output =
        Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-euc", &scan]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "nothing is left on the full disk: {text}");
    assert_eq!(lines[0]["finding"]["path"], "/etc/new");
    assert!(lines[1]["state_lost"].as_str().unwrap().contains("No space left"), "{text}");
}
