//! What is known of a version beside its bytes, over the real binary: what its maker said, and what it says of itself.

use crate::disks::{MIB, gpt_image, noise};
use crate::keep::refused;
use crate::lab::{IMAGE, Lab};

/// A command's words in one spacing: tables are padded.
fn words(said: &str) -> String {
    said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_version_is_shown_with_what_it_is_and_where_it_came_from() {
    let lab = Lab::new();
    let place = lab.path("");
    let mut bash = std::process::Command::new("bash");
    let made = bash.current_dir(&place).args(["-euo", "pipefail", "-c"]).arg(
        r#"mkdir -p t/etc t/usr/lib t/boot t/usr/bin; echo kernel >t/boot/vmlinuz-6.1; printf '\x7fELF\x02\x01\x01' >t/usr/bin/sh
        head -c 11 /dev/zero >>t/usr/bin/sh; printf '\x3e\0' >>t/usr/bin/sh; echo '/dev/vda / ext4' >t/etc/fstab
        printf 'PRETTY_NAME="Test Linux 12"\nID=test\nVERSION_ID=12\n' >t/usr/lib/os-release
        truncate -s 8M root.raw; mke2fs -q -t ext4 -L top -d t root.raw"#,
    );
    assert!(made.status().unwrap().success());
    let file = lab.path("root.raw");
    let import = ["image", "import", file.to_str().unwrap(), "--as", IMAGE];
    let said = ["--builder", "mkosi 26", "--commit", "77d5e6a", "--label", "team=web", "--label", "ci/job=4711"];
    lab.regild(&[&import[..], &said].concat());
    let shown = words(&lab.regild(&["image", "show", IMAGE]));
    for line in [
        "system Test Linux 12 (test 12, by /usr/lib/os-release)",
        "kernels 6.1 (no modules; /boot/vmlinuz-6.1)",
        "architecture x86_64 (by the ELF header of /usr/bin/sh)",
        "boots by nothing that was found",
        "builder mkosi 26",
        "commit 77d5e6a",
        "labels ci/job=4711\nteam=web",
        "PARTITION NAME TYPE START SIZE FILE SYSTEM LABEL UUID",
        "whole image - - 0 B 8.00 MiB ext4 top",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    let json = lab.json(&["image", "show", IMAGE]);
    let said_of_it = serde_json::json!(
        { "builder": "mkosi 26", "commit": "77d5e6a", "labels": { "team": "web", "ci/job": "4711" } }
    );
    assert_eq!(json["provenance"], said_of_it);
    assert_eq!(json["facts"]["partitions"][0]["file_system_bytes"], 8 * MIB);

    // What was said first stays, and whoever says something else hears it.
    let again = lab.regild(&[&import[..], &["--builder", "me"]].concat());
    assert!(again.contains("is there already") && again.contains("its record never changes"), "{again}");
    let quiet = lab.regild(&[&import[..], &said].concat());
    assert!(quiet.contains("is there already") && !quiet.contains("never changes"), "{quiet}");
    assert_eq!(lab.json(&["image", "show", IMAGE])["provenance"], said_of_it);

    // A list is of what its labels ask for, and has no facts.
    std::fs::write(&file, gpt_image(8 * MIB, 1)).unwrap();
    lab.regild(&["image", "import", file.to_str().unwrap(), "--as", "tiny:v2"]);
    let listed = |labels: &[&str]| lab.json(&[&["image", "list"], labels].concat()).as_array().unwrap().len();
    let counts = [&[][..], &["-l", "team"], &["-l", "team=web", "--label", "ci/job"], &["-l", "team=we"]].map(listed);
    assert_eq!(counts, [2, 1, 1, 0]);
    let all = lab.json(&["image", "list"]);
    assert!(all[0]["provenance"] == said_of_it && all[0]["facts"].is_null() && all[1]["provenance"].is_null(), "{all}");
    let shown = words(&lab.regild(&["image", "show", "tiny:v2"]));
    assert!(shown.contains("boots by BIOS\npartition table gpt") && shown.contains("\n2 part 02020202-"), "{shown}");
    assert!(shown.contains("system unknown: no partition of the image holds"), "{shown}");
}

/// Bad input: bounded in count and length, nothing in it that hides or moves a terminal's cursor; at the API as at the
/// command, and nothing is imported then.
#[test]
fn provenance_that_no_record_takes_is_refused() {
    let lab = Lab::new();
    let file = lab.path("some.raw");
    std::fs::write(&file, noise(5, MIB as usize)).unwrap();
    let import = ["image", "import", file.to_str().unwrap(), "--as", IMAGE];
    let said = refused(&lab, &[&import[..], &["--label", "team"]].concat());
    assert!(said.contains("team is no label: KEY=VALUE"), "{said}");
    let many =
        |count: usize| (0..count).map(|number| format!("&label=k{number}%3D{}", "%22".repeat(256))).collect::<String>();
    let bad = [
        ("&label=team".to_owned(), "KEY=VALUE"),
        ("&label=a%3D%1b%5B2J".to_owned(), "\\x1b[2J"),
        ("&label=a%3D1&label=a%3D2".to_owned(), "twice"),
        ("&builder=two%0Alines".to_owned(), "the builder must be one line"),
        (format!("&commit={}", "a".repeat(257)), "the commit must be one line"),
        (many(33), "at most 32"),
    ];
    for (query, why) in bad {
        let answer = lab.operator().ask("PUT", &format!("/v1/images/{IMAGE}?source=x{query}"), &noise(5, 4096));
        assert!(answer.status == 400 && answer.error().contains(why), "{why}: {} {}", answer.status, answer.text());
    }
    assert_eq!(lab.json(&["image", "list"]).as_array().unwrap().len(), 0);
    // As much as is allowed.
    let answer = lab.operator().ask("PUT", &format!("/v1/images/{IMAGE}?source=x{}", many(32)), &noise(5, 4096));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(lab.json(&["image", "show", IMAGE])["provenance"]["labels"].as_object().unwrap().len(), 32);
}

/// Promise of issue 5: channels move with history: who, when, from, to, why.
#[test]
fn a_channel_tells_each_of_its_moves() {
    let mut lab = Lab::new();
    lab.import_image();
    std::fs::write(lab.path("some.raw"), noise(6, MIB as usize)).unwrap();
    lab.regild(&["image", "import", lab.path("some.raw").to_str().unwrap(), "--as", "tiny:v2"]);
    for (version, reason) in [("v1", "first"), ("v2", "point release"), ("v1", "v2 is slow")] {
        lab.regild(&["image", "channel", "set", "tiny@stable", version, "--reason", reason]);
    }
    lab.kill();
    lab.start();
    let moves = lab.json(&["image", "channel", "history", "tiny@stable"]);
    let told: Vec<_> = moves.as_array().unwrap().iter().map(|one| (&one["from"], &one["to"], &one["reason"])).collect();
    let null = serde_json::Value::Null;
    let [v1, v2, first, second, third] = ["tiny:v1", "tiny:v2", "first", "point release", "v2 is slow"].map(Into::into);
    assert_eq!(told, [(&null, &v1, &first), (&v1, &v2, &second), (&v2, &v1, &third)], "{moves}");
    assert!(moves[2]["at"].as_u64() > Some(1_700_000_000) && moves[2]["by"].as_str().is_some_and(|by| !by.is_empty()));
    let shown = words(&lab.regild(&["image", "channel", "history", "tiny@stable"]));
    assert!(shown.contains("tiny:v1 tiny:v2") && shown.contains("point release"), "{shown}");
    let list = words(&lab.regild(&["image", "channel", "list"]));
    assert!(list.contains("tiny@stable tiny:v1") && list.contains("v2 is slow"), "{list}");
    assert!(refused(&lab, &["image", "channel", "history", "tiny@none"]).contains("no channel"));
}
