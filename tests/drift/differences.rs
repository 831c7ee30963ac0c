//! Each way to differ is found, and nothing else.

use crate::meddled::Meddled;
use crate::place::{CYCLE, DAY, Place, rule};
use regild::agent::drift::{Look, Reach, Spots};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

#[test]
fn an_untouched_tree_has_no_findings_ever() {
    let place = Place::small();
    for look in [CYCLE, Look::Full, CYCLE, CYCLE] {
        let said = place.scan(look);
        assert_eq!((said.lines, said.summary.gaps), (vec![], vec![]));
    }
}

#[test]
fn each_way_to_differ_is_found() {
    let place = Place::small();
    place.scan(CYCLE);
    place.run(
        "echo new > etc/added; rm usr/lib/unit.service; chmod 4755 usr/bin/tool; chown 1:2 etc/passwd; \
         ln -sfn /bin/sh usr/bin/link; setfattr -n user.x -v 1 etc/shadow 2>/dev/null || python3 -c \
         'import os; os.setxattr(\"etc/shadow\", \"user.x\", b\"1\")'; \
         rm var/fifo; mkdir var/fifo; rm var/null; mknod var/null c 1 5; printf y >> var/log/syslog",
    );
    let expected = [
        "added /etc/added",
        "owner /etc/passwd",
        "xattrs /etc/shadow",
        "content /usr/bin/link",
        "mode+privilege /usr/bin/tool",
        "removed /usr/lib/unit.service",
        "kind /var/fifo",
        "content /var/log/syslog",
        "content+privilege /var/null",
    ];
    for scans in 1..=2 {
        let said = place.scan(CYCLE);
        assert_eq!(said.lines, expected);
        assert!(
            said.found
                .iter()
                .all(|found| found.scans == scans && found.first_seen == place.now() - 900 * u64::from(scans - 1))
        );
    }
}

/// A swapped binary with its old size, times and mode: the kernel's ctime tells at once.
#[test]
fn a_swapped_binary_with_restored_mtime_is_found_by_the_next_scan() {
    let place = Place::small();
    place.scan(CYCLE);
    place.run(
        "cp -p usr/bin/tool /tmp/regild-drift-$$; printf evil | dd of=usr/bin/tool conv=notrunc bs=1 seek=2000000 \
               status=none; touch -r /tmp/regild-drift-$$ usr/bin/tool; rm /tmp/regild-drift-$$",
    );
    assert_eq!(place.scan(CYCLE).lines, ["content /usr/bin/tool"]);
}

/// Issue 4: everything is read within a full cycle, so that a change that nothing tells of is found too.
#[test]
fn a_change_that_nothing_tells_of_is_found_within_a_cycle() {
    let place = Place::small();
    let tree = place.tree();
    let silent = Meddled { is_silent: true, ..Meddled::new(&tree) };
    assert_eq!(place.scan_of(&&silent, CYCLE).lines, [""; 0]);
    let mut content = fs::read(place.at("usr/bin/tool")).unwrap();
    content[(2 << 20) + 5] ^= 1;
    place.write("usr/bin/tool", &content);
    let end = place.now() + DAY + 900;
    let mut found_after = None;
    while place.now() < end {
        let said = place.scan_of(&&silent, CYCLE);
        if !said.lines.is_empty() {
            assert_eq!(said.lines, ["content /usr/bin/tool"]);
            found_after.get_or_insert(place.now());
        } else {
            assert_eq!(found_after, None, "once found it stays found");
        }
        assert!(said.summary.scan.content_since + DAY + 900 >= place.now(), "every content was read within a cycle");
    }
    assert!(found_after.is_some());
}

#[test]
fn names_may_hold_any_byte() {
    let mut place = Place::empty();
    let names = (1..=255u8).filter(|byte| *byte != b'/' && *byte != b'.').map(|byte| vec![byte]);
    for name in names.chain([b"a\nb".to_vec(), b"\xff\xfe".to_vec(), vec![b'n'; 255]]) {
        place.write(OsStr::from_bytes(&name), &name);
    }
    place.record();
    assert_eq!(place.scan(CYCLE).lines, [""; 0]);
    place.write(OsStr::from_bytes(b"x\n\x1b[2J\xff"), b"");
    fs::remove_file(place.at(OsStr::from_bytes(b"\xff\xfe"))).unwrap();
    assert_eq!(place.scan(CYCLE).lines, ["added /x\\x0a\\x1b[2J\\xff", "removed /\\xff\\xfe"]);
}

#[test]
fn a_policy_leaves_out_what_it_allows_and_says_that_it_did() {
    let mut place = Place::small();
    place.rules = vec![
        rule(r#"{"pattern": "/var/log/**", "action": "allow", "from": "defaults of debian"}"#),
        rule(r#"{"pattern": "/etc/passwd", "action": "allow", "aspects": ["content"]}"#),
        rule(r#"{"pattern": "/etc/*", "action": "report", "content": true}"#),
    ];
    place.write("var/log/new/deep", b"1");
    place.write("etc/passwd", b"other text");
    place.write("etc/motd", "gr\u{fc}n\n".as_bytes());
    place.write("etc/binary", b"\xff\xfe");
    place.write("usr/new", b"text");
    let said = place.scan(CYCLE);
    assert_eq!(said.lines, ["added /etc/binary", "added /etc/motd", "added /usr/new"]);
    let contents: Vec<_> = said.found.iter().map(|found| found.content.as_deref()).collect();
    assert_eq!(contents, [None, Some("gr\u{fc}n\n"), None], "text only, and only where a rule lets it leave");
    let gaps: Vec<_> = said.summary.gaps.iter().map(|gap| (gap.path.0.as_slice(), gap.reason.as_str())).collect();
    let reason = "allowed by defaults of debian; looked through for set-uid files, capabilities and devices only";
    assert_eq!(gaps, [(&b"/var/log"[..], reason)]);
    let began = place.now();
    assert_eq!(place.scan(CYCLE).summary.gaps[0].since, began, "a gap says since when");
}

#[test]
fn a_look_at_some_places_judges_these_and_no_others() {
    let place = Place::small();
    place.scan(CYCLE);
    place.run("echo 1 > etc/new; chmod 600 etc/passwd; rm usr/bin/su; echo 1 > usr/lib/new; mkdir -p opt/a/b; echo > opt/a/b/c");
    let number = place.scan(Look::Only(&Spots::default())).summary.scan.number;
    let mut spots = Spots::default();
    spots.add(b"/etc", Reach::Children);
    spots.add(b"/usr/bin/su", Reach::Itself);
    spots.add(b"/usr/bin/tool", Reach::Itself);
    spots.add(b"/opt", Reach::Everything);
    spots.add(b"/no/such/place", Reach::Itself);
    let said = place.scan(Look::Only(&spots));
    let expected = [
        "added /etc/new",
        "mode /etc/passwd",
        "added /opt",
        "added /opt/a",
        "added /opt/a/b",
        "added /opt/a/b/c",
        "removed /usr/bin/su",
    ];
    assert_eq!(said.lines, expected);
    assert_eq!((said.summary.scan.kind.as_str(), said.summary.scan.number), ("events", number), "no scan of the whole");
    assert!(said.found.iter().all(|found| found.scans == 0), "a quorum counts scans of the whole tree");
    let whole = place.scan(CYCLE);
    assert_eq!((whole.lines.len(), whole.summary.scan.number), (8, number + 1));
}

/// What was read once is known under each of its names.
#[test]
fn hard_links_are_read_once() {
    let mut place = Place::empty();
    place.write("a", &[1; 100_000]);
    place.run("ln a b; ln a c");
    place.record();
    let said = place.scan(CYCLE);
    assert_eq!((said.lines.len(), said.summary.scan.read_bytes), (0, 100_000));
}

/// A hole takes no time to read and counts as the zeros that it reads as.
#[test]
fn holes_are_not_read() {
    let mut place = Place::empty();
    place.run("truncate -s 64M holes; printf x >> holes; truncate -s 128M holes");
    place.record();
    place.run("cp --sparse=never holes full; mv full holes");
    let full = place.scan(Look::Full);
    assert_eq!(full.lines, [""; 0], "the digest is that of the whole file");
    place.run("fallocate --dig-holes holes");
    let said = place.scan(Look::Full);
    assert_eq!(said.lines, [""; 0]);
    assert!(full.summary.scan.read_bytes == 128 << 20 && said.summary.scan.read_bytes < 1 << 20);
}
