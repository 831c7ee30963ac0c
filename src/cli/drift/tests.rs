//! What operators read and what they take home: text that acts on no terminal, patches that apply.

use super::*;
use crate::wire::drift::{Finding, Gap, Node, PathText, Rule, Scan};
use crate::wire::operator_drift::{Decided, Found};
use clap::Parser;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command as Process;

fn node(kind: &str, mode: u16, bytes: Option<u64>) -> Node {
    let digest = bytes.map(|bytes| format!("{bytes:064x}"));
    let (kind, xattrs) = (kind.to_string(), Vec::new());
    Node { kind, mode, uid: 0, gid: 0, modified: 1_795_824_000, bytes, digest, target: None, device: None, xattrs }
}

fn link(target: &str) -> Node {
    Node { target: Some(PathText(target.as_bytes().to_vec())), ..node("symlink", 0o777, None) }
}

fn found(path: &[u8], expected: Option<Node>, seen: Option<Node>) -> Found {
    let path = PathText(path.to_vec());
    let finding = Finding { path, expected, seen, first_seen: 1, scans: 4, content: None };
    let (action, rule) = ("report".to_string(), "policy web, rule 2".to_string());
    let (aspects, why) = (vec!["content".to_string()], "fix it in the image".to_string());
    Found { finding, aspects, action, rule, why, known_since: 1_795_824_000, diff: None }
}

/// A file's old and new content, as the server shows their difference.
fn edited(path: &str, before: &str, after: &str, modes: (u16, u16)) -> Found {
    let harmless = |text: &str| {
        let line = |line: &str| {
            let parts = line.split('\t').map(|part| crate::decide::drift::path::to_text(part.as_bytes()));
            parts.collect::<Vec<_>>().join("\t")
        };
        text.split('\n').map(line).collect::<Vec<_>>().join("\n")
    };
    let (shown_before, shown_after) = (harmless(before), harmless(after));
    let diff = similar::TextDiff::from_lines(shown_before.as_str(), shown_after.as_str());
    let diff =
        diff.unified_diff().context_radius(3).header(&format!("image{path}"), &format!("host{path}")).to_string();
    let of = |mode, text: &str| Some(node("file", mode, Some(text.len() as u64)));
    let mut found = found(path.as_bytes(), of(modes.0, before), of(modes.1, after));
    found.finding.content = Some(after.to_string());
    Found { diff: Some(diff), ..found }
}

fn removed(path: &str, before: &str) -> Found {
    let mut found = edited(path, before, "", (0o644, 0o644));
    (found.finding.seen, found.finding.content) = (None, None);
    found
}

fn new_text(path: &[u8], mode: u16, content: &str) -> Found {
    let mut found = found(path, None, Some(node("file", mode, Some(content.len() as u64))));
    found.finding.content = Some(content.to_string());
    found
}

fn shown(found: Vec<Found>, accepted: Vec<Found>) -> Shown {
    let line = Line {
        host: "h-525400120001".into(),
        name: Some("web-1".into()),
        group: "web".into(),
        image: Some("debian:12.4".into()),
        standing: "drifted".into(),
        findings: found.len() as u64,
        asking: 1,
        reported_at: Some(1_795_824_000),
        looked_at: Some(1_795_824_000),
        content_since: Some(1_795_820_400),
        gaps: 3,
        source: Some("agent".into()),
    };
    let scan = Scan { kind: "full".into(), number: 12, paths: 17_369, ended: 1_795_824_000, ..Scan::default() };
    let gap = Gap { path: PathText(b"/mnt/\x1bx".to_vec()), reason: "permission denied".into(), since: 1_795_824_000 };
    let findings_total = found.len() as u64 + 2;
    let baseline = "from the image's own file systems".to_string();
    Shown { line, baseline, scan: Some(scan), gaps_listed: vec![gap], found, accepted, findings_total }
}

#[test]
fn what_differs_is_told_with_both_sides_the_rule_and_the_lines() {
    let mut link = found(b"/etc/x", Some(link("a")), None);
    link.action = "rebuild".into();
    let accepted = Found { aspects: Vec::new(), action: "allow".into(), ..new_text(b"/etc/issue", 0o644, "hi\n") };
    let text = show::text(&shown(vec![edited("/etc/motd", "a\n", "b\n", (0o644, 0o4755)), link], vec![accepted]));
    for line in [
        "web-1 (h-525400120001), group web, debian:12.4: drifted, 2 findings, 1 of them asks for a rebuild\n",
        "baseline: from the image's own file systems\n",
        "last look: full, 17369 paths, ended 2026-11-28T00:00:00Z; every file was read after 2026-11-27T23:00:00Z\n",
        "\n/etc/motd  content  (reported, policy web, rule 2: fix it in the image)\n    image  file 0644 0:0 2 bytes, ",
        "    host   file 4755 0:0 2 bytes, 2026-11-28T00:00:00Z, blake3 000000000000\n",
        "    known since 2026-11-28T00:00:00Z, seen in 4 looks\n    --- image/etc/motd\n    +++ host/etc/motd\n",
        "    -a\n    +b\n",
        "/etc/x  content  (asks for a rebuild, ",
        "    image  symlink 0777 0:0 -> a, ",
        "    host   nothing\n",
        "accepted for a while, and no finding:\n/etc/issue  (accepted, ",
        "2 more findings are not listed: too many to send\n",
        "not looked at:\n    /mnt/\\x1bx: permission denied (since 2026-11-28T00:00:00Z)\n    and 2 more\n",
    ] {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
}

/// Rule 10, faults.md: nothing that a host says moves an operator's cursor or ends a line.
#[test]
fn nothing_of_a_host_acts_on_a_terminal() {
    let evil = "\u{1b}[2J\u{202e}\u{7}\r\nfake: clean";
    let mut one = edited("/etc/motd", "a\n", "b\n", (0o644, 0o644));
    one.finding.path = PathText(format!("/{evil}\u{1b}").into_bytes());
    one.diff = Some(format!("@@ -1 +1 @@\n-a\n+{}\n", evil.replace('\n', "")));
    (one.rule, one.why, one.action) = (evil.into(), evil.into(), evil.into());
    let seen = one.finding.seen.as_mut().unwrap();
    seen.kind = evil.into();
    seen.digest = Some(evil.into());
    seen.xattrs = vec![(PathText(evil.into()), PathText(evil.into()))];
    let mut all = shown(vec![one], Vec::new());
    all.gaps_listed[0].reason = evil.into();
    all.line.host = evil.into();
    all.baseline = evil.into();
    let explained = Explained {
        path: evil.into(),
        in_image: None,
        finding: Some(all.found[0].finding.clone()),
        decided: vec![Decided { aspect: evil.into(), rule: None }],
        pruned_by: None,
    };
    let patch = patch::of(&all, Which::All).text;
    for text in [show::text(&all), show::explained(&explained), patch] {
        let acts = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
        assert!(!text.lines().any(|line| line.starts_with("fake")), "{text}");
        assert!(!text.contains(acts), "{text:?}");
    }
}

#[test]
fn explain_names_the_rule_that_decides_each_way_to_differ() {
    let rule = |action: &str, from: &str| Rule {
        pattern: PathText(b"/etc/motd".to_vec()),
        aspects: Vec::new(),
        action: action.into(),
        grace_seconds: 3_600,
        scans_min: 3,
        content: false,
        why: "set by the orchestrator".into(),
        until: Some(1_803_859_200),
        from: from.into(),
    };
    let decided = |aspect: &str, rule| Decided { aspect: aspect.into(), rule };
    let text = show::explained(&Explained {
        path: "/etc/motd".into(),
        in_image: Some(true),
        finding: None,
        decided: vec![
            decided("content", Some(rule("allow", "policy web, rule 3"))),
            decided("mode", Some(rule("rebuild", "exception 7"))),
            decided("owner", None),
        ],
        pruned_by: None,
    });
    let expected = "/etc/motd: in the image\n    no finding there now\n\
        content  allowed by policy web, rule 3 (/etc/motd, until 2027-03-01T00:00:00Z): set by the orchestrator\n\
        mode     asks for a rebuild after 1h and 3 looks, by exception 7 (/etc/motd, until 2027-03-01T00:00:00Z): \
        set by the orchestrator\nowner    reported: no rule matches\n";
    assert_eq!(text, expected);
}

/// The image's tree, and what must become of it.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("etc/with blank")).unwrap();
    let numbers: String = (1..40).map(|number| format!("line {number}\n")).collect();
    for (path, content) in [
        ("etc/motd", numbers.as_str()),
        ("etc/with blank/a b", "one\n"),
        ("etc/back", "a\\b\tc\r\nno end"),
        ("etc/mode", "#!/bin/sh\n"),
        ("etc/gone", "a\\b\n\tend"),
        ("etc/m\u{fc}ll", "x\n"),
    ] {
        fs::write(root.join(path), content).unwrap();
    }
}

fn changes() -> Vec<Found> {
    let numbers: String = (1..40).map(|number| format!("line {number}\n")).collect();
    let other = numbers.replace("line 3\n", "line three\n").replace("line 39\n", "");
    let mut all = vec![
        edited("/etc/motd", &numbers, &other, (0o644, 0o644)),
        edited("/etc/with blank/a b", "one\n", "one\ntwo\n", (0o644, 0o644)),
        edited("/etc/back", "a\\b\tc\r\nno end", "a\\\\b\tc\r\n\\ No newline\nno end either", (0o644, 0o644)),
        edited("/etc/m\u{fc}ll", "x\n", "\u{202e}y\n", (0o644, 0o644)),
        found(b"/etc/mode", Some(node("file", 0o644, Some(10))), Some(node("file", 0o755, Some(10)))),
        removed("/etc/gone", "a\\b\n\tend"),
        new_text(b"/etc/new dir/n\"ew", 0o755, "--- a/x\n+++ b/x\n@@ -1 +1 @@\nlast"),
        new_text(b"/etc/new-empty", 0o644, ""),
        found(b"/etc/link", None, Some(link("../usr/lib/x"))),
    ];
    all[4].finding.expected.as_mut().unwrap().digest = None;
    all[4].finding.seen.as_mut().unwrap().digest = None;
    all
}

fn is_as_on_the_host(root: &Path) {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    for found in changes().iter().filter(|found| found.finding.content.is_some()) {
        let path = std::str::from_utf8(&found.finding.path.0[1..]).unwrap();
        assert_eq!(Some(read(path)), found.finding.content, "{path}");
    }
    let is_executable = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o100 != 0;
    assert!(is_executable("etc/mode") && is_executable("etc/new dir/n\"ew") && !is_executable("etc/motd"));
    assert!(!root.join("etc/gone").exists() && root.join("etc/new-empty").exists());
    assert_eq!(fs::read_link(root.join("etc/link")).unwrap(), Path::new("../usr/lib/x"));
}

/// Promise of issue 4: "bring it back into the image". By the real tools, in a tree that is a repository and in one that
/// is none.
#[test]
fn the_patch_is_applied_by_git_and_by_patch_and_gives_what_the_host_has() {
    let patch = patch::of(&shown(Vec::new(), changes()), Which::Accepted);
    assert_eq!((patch.carried, patch.left), (9, 0), "{}", patch.text);
    for tool in [&["git", "apply"][..], &["git", "apply", "--index"], &["patch", "-p1", "-i"]] {
        let dir = tempfile::tempdir().unwrap();
        let (root, file) = (dir.path().join("root"), dir.path().join("host.patch"));
        tree(&root);
        fs::write(&file, &patch.text).unwrap();
        let run = |arguments: &[&str]| {
            let mut process = Process::new(arguments[0]);
            let process = process.args(&arguments[1..]).current_dir(&root).env("GIT_CONFIG_GLOBAL", "/dev/null");
            let said = process.env("GIT_CEILING_DIRECTORIES", dir.path()).output().expect("git and patch are there");
            let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
            assert!(said.status.success(), "{arguments:?}: {text}\n{}", patch.text);
        };
        if tool.contains(&"--index") {
            run(&["git", "init", "-q"]);
            run(&["git", "-c", "core.autocrlf=false", "add", "."]);
        }
        run(&[tool, &[file.to_str().unwrap()]].concat());
        is_as_on_the_host(&root);
    }
}

#[test]
fn what_no_patch_can_carry_stands_in_its_head_as_a_command() {
    let owned = Node { uid: 33, gid: 33, ..node("file", 0o4755, Some(5)) };
    let file = |mode, bytes| Some(node("file", mode, Some(bytes)));
    let all = vec![
        found(b"/usr/bin/x", None, Some(owned)),
        found(b"/usr/bin/cut", file(0o755, 5), file(0o755, 6)),
        found(b"/etc/gone", file(0o644, 9), None),
        found(b"/etc/it's", Some(node("directory", 0o755, None)), None),
        found(b"/etc/d\n", None, Some(node("directory", 0o750, None))),
        found(b"/etc/l", Some(link("a")), Some(link("b"))),
        found(b"/etc/shadow", file(0o640, 5), file(0o600, 5)),
        found(b"/../../etc/passwd", None, Some(node("file", 0o644, Some(0)))),
    ];
    let patch = patch::of(&shown(all, Vec::new()), Which::All);
    for line in [
        "#   usr/bin/x: a new file",
        "#   chown -h 33:33 -- usr/bin/x\n",
        "#   /usr/bin/cut: other content; its content is binary, too large, or may not leave the host\n",
        "#   rm -- etc/gone\n",
        "#   rmdir -- $'etc/it\\x27s'\n",
        "#   mkdir -m 0750 -- $'etc/d\\x0a'\n",
        "#   ln -sfn -- b etc/l\n",
        "#   chmod 0600 -- etc/shadow\n",
        "#   /../../etc/passwd: no path of a file\n",
        "# 2 more findings are not known one by one: too many to send\n",
    ] {
        let line = line.replace("#   usr/bin/x: a new", "#   /usr/bin/x: a new");
        assert!(patch.text.contains(&line), "{line}\nis not in\n{}", patch.text);
    }
    assert!(!patch.text.contains("diff --git a/../"), "{}", patch.text);
    assert!(patch::of(&shown(Vec::new(), Vec::new()), Which::All).is_empty());
}

#[test]
fn an_export_goes_into_a_new_file_or_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.patch");
    let all = shown(changes(), Vec::new());
    let nothing = export(&all, Which::Accepted, &file).unwrap_err().to_string();
    assert!(nothing.contains("--all exports everything") && !file.exists(), "{nothing}");
    export(&all, Which::All, &file).unwrap();
    assert!(export(&all, Which::All, &file).unwrap_err().to_string().contains("a.patch"), "it is there already");
}

#[derive(Debug, Parser)]
struct Line2 {
    #[command(subcommand)]
    command: DriftCommand,
}

fn parsed(text: &str) -> Result<DriftCommand, String> {
    let line = Line2::try_parse_from(["drift"].into_iter().chain(text.split(' ')));
    line.map(|line| line.command).map_err(|error| error.to_string())
}

#[test]
fn an_end_is_a_day_a_time_or_a_span_and_never_in_the_past() {
    const NOW: u64 = 1_795_824_000;
    assert_eq!(end("30d", NOW).unwrap(), NOW + 30 * 86_400);
    assert_eq!(end("2027-03-01", NOW).unwrap(), 1_803_859_200);
    assert_eq!(end("2027-03-01T12:00:00Z", NOW).unwrap(), 1_803_859_200 + 12 * 3_600);
    assert!(end("2026-11-28", NOW).unwrap_err().to_string().contains("has passed"));
    assert!(end("for ever", NOW).unwrap_err().to_string().contains("write 30d"));
    let DriftCommand::Accept(args) =
        parsed("accept /etc/motd --group web --until 30d --why w --differs content,mode").unwrap()
    else {
        panic!("another command");
    };
    let accept = args.ask(NOW).unwrap();
    assert_eq!((accept.scope, accept.aspects.len()), (Scope::Group("web".into()), 2));
    for wrong in [
        "accept /a --until 30d --why w",
        "accept /a --group g --host h --until 1d --why w",
        "accept /a --group g --why w",
    ] {
        assert!(parsed(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_list_asks_for_what_was_typed() {
    let DriftCommand::List { filter, .. } = parsed("list --selector rack=12,role=a --standing drifted").unwrap() else {
        panic!("another command");
    };
    assert_eq!(filter.path(), "/v1/drift?select=rack%3D12%2Crole%3Da&standing=drifted");
}

/// Of every class an operator sees each path, and whose defaults take it.
#[test]
fn classes_are_shown_whole() {
    let shown = classes_shown();
    assert_eq!(shown.len(), CLASSES.len());
    let of = |name: &str| shown.iter().find(|class| class.name == name).unwrap();
    assert_eq!(of("logs").defaults, ["debian", "ubuntu", "rhel", "other"]);
    assert!(of("package-database").defaults.is_empty());
    let key = &of("ssh-host-keys").paths[0];
    assert_eq!((key.pattern, key.differs.as_str()), ("/etc/ssh/ssh_host_*_key", "added+content"));
}
