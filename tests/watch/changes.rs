//! Between two scans: every kind of change is reported from the kernel's events alone, and what nobody asks about
//! costs no look.

use crate::host::Host;
use crate::server::{World, paths};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::Command;

const LOGS: &str = r#"[{"pattern": "/var/log/**", "action": "allow"}]"#;

fn last_kind(world: &World) -> &str {
    &world.taken.last().unwrap().scan.kind
}

/// Promise: one look, one report, an exit status; a second one says "as before".
#[test]
fn one_look_is_one_report() {
    let mut host = Host::new();
    let server = host.server("[]");
    assert!(host.command().arg("--once").status().unwrap().success());
    server.wait_findings(&[]);
    host.write("etc/passwd", "root::0:0::/root:/bin/sh\n");
    assert!(host.command().arg("--once").status().unwrap().success());
    server.wait_findings(&["content /etc/passwd"]);
    assert!(host.command().arg("--once").status().unwrap().success());
    let last = server.world().taken.last().cloned().unwrap();
    assert_eq!((last.same_as.is_some(), last.findings.len(), last.findings_total), (true, 0, 1));
    assert_eq!(server.world().findings(), ["content /etc/passwd"]);
    let said = host.command().arg("--status").stdout(std::process::Stdio::piped()).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("1 findings") && said.contains("content    /etc/passwd"), "{said}");
    assert_eq!(server.world().keys.len(), 1, "one key for the generation");
}

/// Promise: every kind of change is seen by its event, without a scan; and so is its end.
#[test]
fn every_kind_of_change_is_reported_without_a_scan() {
    let mut host = Host::new();
    let server = host.server(LOGS);
    host.start();
    server.wait_findings(&[]);
    let path = |path: &str| host.path(path);

    host.write("etc/passwd", "root::0:0::/root:/bin/sh\n");
    server.wait_findings(&["content /etc/passwd"]);
    fs::set_permissions(path("usr/bin/sudo"), fs::Permissions::from_mode(0o4755)).unwrap();
    server.wait_findings(&["content /etc/passwd", "mode+privilege /usr/bin/sudo"]);
    chown(path("usr/bin/sudo"), Some(7), None).unwrap();
    fs::remove_file(path("usr/lib/unit")).unwrap();
    let removed = "removed /usr/lib/unit";
    // chown(2) takes the setuid bit away.
    server.wait_findings(&["content /etc/passwd", "mode+owner /usr/bin/sudo", removed]);
    fs::write(path("etc/new\n"), "").unwrap();
    fs::remove_file(path("etc/link")).unwrap();
    symlink("shadow", path("etc/link")).unwrap();
    let first = ["content /etc/link", "added /etc/new\n", "content /etc/passwd", "mode+owner /usr/bin/sudo", removed];
    server.wait_findings(&first);

    // Whole directories: nothing is said of what is in them, and all of it differs.
    fs::rename(path("usr/lib/deep"), path("usr/lib/moved")).unwrap();
    let moved = ["removed /usr/lib/deep", "removed /usr/lib/deep/er", "removed /usr/lib/deep/er/file"];
    let to = ["added /usr/lib/moved", "added /usr/lib/moved/er", "added /usr/lib/moved/er/file"];
    server.wait_findings(&[&first[..4], &moved, &to, &[removed]].concat());
    // A file in a directory that was renamed after the agent learned its name.
    host.write("usr/lib/moved/er/more", "x");
    let more = ["added /usr/lib/moved/er/more"];
    server.wait_findings(&[&first[..4], &moved, &to, &more, &[removed]].concat());
    fs::remove_file(path("usr/lib/moved/er/more")).unwrap();
    fs::rename(path("usr/lib/moved"), path("usr/lib/deep")).unwrap();
    server.wait_findings(&first);

    // Swapped with its time put back, as a careful intruder does.
    let time = fs::metadata(path("etc/ssh/sshd_config")).unwrap().modified().unwrap();
    host.write("etc/ssh/sshd_config", "PermitRootLogin ye\n");
    fs::File::options().write(true).open(path("etc/ssh/sshd_config")).unwrap().set_modified(time).unwrap();
    server.wait_findings(&[&first[..3], &["content /etc/ssh/sshd_config"], &first[3..]].concat());
    let set = Command::new("setfattr").args(["-n", "user.x", "-v", "1"]).arg(path("usr/lib/deep/er/file")).status();
    if set.is_ok_and(|set| set.success()) {
        let xattrs = ["xattrs /usr/lib/deep/er/file"];
        let config = ["content /etc/ssh/sshd_config"];
        server.wait_findings(&[&first[..3], &config, &first[3..4], &xattrs, &first[4..]].concat());
    }

    let world = server.world();
    let (first, rest) = world.taken.split_first().unwrap();
    assert_eq!(first.scan.kind, "full");
    assert!(rest.iter().all(|report| report.scan.kind == "events" && report.scan.number == 1), "no scan was needed");
    assert!(rest.iter().all(|report| report.scan.overflows == 0 && report.scan.content_since > 0));
}

/// Promise: a lost event means a look at everything, never silence.
#[test]
fn a_flood_of_changes_is_not_lost() {
    let mut host = Host::new();
    let server = host.server(LOGS);
    host.start();
    server.wait_findings(&[]);
    fs::create_dir(host.path("opt")).unwrap();
    for number in 0..20_000 {
        fs::File::create(host.path(&format!("opt/{number}"))).unwrap();
    }
    server.wait("all counted", |world| world.taken.last().is_some_and(|last| last.findings_total == 20_001));
    assert!(server.world().taken.last().unwrap().scan.overflows > 0);
    assert_eq!(last_kind(&server.world()), "metadata");
    // More findings than a report holds: each change is still told, in their number.
    fs::remove_file(host.path("opt/19999")).unwrap();
    server.wait("one less", |world| world.taken.last().is_some_and(|last| last.findings_total == 20_000));
    fs::remove_dir_all(host.path("opt")).unwrap();
    server.wait_findings(&[]);
}

/// Promise: a host that writes logs costs no look at all.
#[test]
fn logs_are_passed_over() {
    let mut host = Host::new();
    let server = host.server(LOGS);
    server.world().terms.report_seconds = 5;
    host.start();
    server.wait_findings(&[]);
    fs::create_dir_all(host.path("var/log/app/deep")).unwrap();
    for number in 0..3_000 {
        host.write(&format!("var/log/app/deep/{}", number % 50), "line\n");
        host.write("var/log/syslog", "line\n");
    }
    let before = server.world().taken.len();
    server.wait("two signs of life", |world| world.taken.len() >= before + 2);
    {
        let world = server.world();
        let scans: Vec<_> = world.taken.iter().map(|report| &report.scan).collect();
        assert!(scans.iter().all(|scan| *scan == scans[0]), "{scans:#?}");
        assert!(world.taken.iter().skip(1).all(|report| report.same_as.is_some()));
    }
    // It is not deaf.
    host.write("etc/passwd", "");
    server.wait_findings(&["content /etc/passwd"]);
    assert!(server.world().taken.iter().all(|report| !paths(report).iter().any(|path| path.contains("/var/log"))));
}
