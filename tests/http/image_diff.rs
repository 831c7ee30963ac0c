//! `image diff` and `image plan` over the real binary, as an operator types them.

use std::process::Command;

use crate::disks::{MIB, gpt_image};
use crate::lab::{IMAGE, Lab};

#[track_caller]
fn refused(lab: &Lab, arguments: &[&str]) -> String {
    let output = lab.try_regild(arguments);
    assert_eq!(output.status.code(), Some(1), "regild {arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn import(lab: &Lab, file: &str, name: &str) {
    lab.regild(&["image", "import", lab.path(file).to_str().unwrap(), "--as", name]);
}

/// A line of a table as its words.
fn words(said: &str, line: &str) -> String {
    let found = said.lines().find(|found| found.contains(line)).unwrap_or_else(|| panic!("{line} in:\n{said}"));
    found.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Issue 5: "file names with newlines and escapes in `image diff`": whatever an image calls its files, labels and
/// partitions, no byte of it reaches the terminal as it is.
#[test]
fn a_comparison_is_told_line_by_line() {
    let lab = Lab::new();
    let script = r#"mkdir -p 1/etc 2/etc; printf one >1/etc/issue; printf 'one more' >2/etc/issue; printf x >1/gone
        printf x >2/$'line\nbreak \x1b[2J'; printf x >2/$'raw-\xff'; printf x >2/mode; printf x >1/mode; chmod 600 2/mode
        for v in 1 2; do truncate -s 4M fs-$v; mke2fs -q -t ext2 -L $'la\x1bbel' -U clear -d $v fs-$v; done"#;
    let made = Command::new("bash").args(["-euc", script]).current_dir(lab.path("")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    import(&lab, "fs-1", "fs:1");
    import(&lab, "fs-2", "fs:2");
    let said = lab.regild(&["image", "diff", "fs:1", "fs:2"]);
    assert!(said.bytes().all(|byte| byte == b'\n' || !byte.is_ascii_control()), "{said:?}");
    assert!(said.starts_with("fs:1 -> fs:2\n"), "{said}");
    for line in [
        "  + /line\\x0abreak \\x1b[2J  (1 bytes)",
        "  + /raw-\\xff  (1 bytes)",
        "  - /gone  (1 bytes)",
        "  ~ /etc/issue  (content 3 bytes -> 8 bytes)",
        "  ~ /mode  (mode 0644 -> 0600)",
        "  files: 2 added, 1 removed, 2 changed",
    ] {
        assert!(said.lines().any(|found| found == line), "{line} in:\n{said}");
    }
    assert!(said.contains("the whole image (\"la\\x1bbel\", ext2, 4.00 MiB)"), "{said}");
    // Channels, pages, JSON, and nothing.
    lab.regild(&["image", "channel", "set", "fs@stable", "2", "--reason", "x"]);
    let page = lab.regild(&["image", "diff", "fs:1", "fs@stable", "--limit", "2", "--skip", "1"]);
    assert!(page.ends_with("2 of 5 files are listed; 2 more behind: --all, or --skip 3\n"), "{page}");
    let json = lab.json(&["image", "diff", "fs:1", "fs@stable", "--all"]);
    assert_eq!((&json["to"]["image"], &json["files"]["changed"]), (&"fs:2".into(), &2.into()), "{json}");
    let same = lab.regild(&["image", "diff", "fs:1", "fs:1"]);
    assert_eq!(same, "fs:1 -> fs:1\nnothing differs: both have the same content\n");
    // What cannot be compared.
    assert!(refused(&lab, &["image", "diff", "fs:1", "fs:9"]).contains("no image fs:9"));
    assert!(refused(&lab, &["image", "diff", "fs:1", "fs@none"]).contains("no channel \"fs@none\""));
    assert!(refused(&lab, &["image", "diff", "fs", "fs:1"]).contains("has no version"));
    assert!(refused(&lab, &["image", "diff", "fs:1", "fs:2", "--limit", "100001"]).contains("at most 100000"));
    lab.is_well();
}

#[test]
fn a_plan_says_what_an_order_and_what_a_blank_disk_would_fetch() {
    let lab = Lab::new();
    lab.import_image();
    std::fs::write(lab.path("v2"), gpt_image(8 * MIB, 2)).unwrap();
    import(&lab, "v2", "tiny:v2");
    lab.regild(&["image", "channel", "set", "tiny@stable", "v1", "--reason", "x"]);
    let json = lab.json(&["image", "plan", "--from", "tiny@stable", "--to", "tiny:v2"]);
    assert_eq!((&json["from"], &json["image"]), (&IMAGE.into(), &"tiny:v2".into()), "{json}");
    let bytes = |which: &str| json[which]["fetched_bytes"].as_u64().unwrap();
    assert!(bytes("order") < bytes("unseeded") && bytes("unseeded") <= bytes("blank"), "{json}");
    let said = lab.regild(&["image", "plan", "--from", "tiny:v1", "--to", "tiny:v2"]);
    assert!(words(&said, "an order, over tiny:v1").contains(&bytes("order").to_string()), "{said}");
    assert!(words(&said, "--seed-image").contains(&bytes("unseeded").to_string()), "{said}");
    assert!(said.contains("Each fetches the manifest too"), "{said}");
    let blank = lab.regild(&["image", "plan", "--to", "tiny:v2"]);
    assert!(words(&blank, "blank disk").contains(&bytes("blank").to_string()) && blank.lines().count() == 3, "{blank}");
    let small = ["image", "plan", "--to", "tiny:v2", "--disk-bytes", "1000000"];
    assert!(refused(&lab, &small).contains("does not fit a disk of 1000000"));
}
