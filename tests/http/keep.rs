//! The keeping of images over the real binary: stages, removal, collection, damage, signatures.

use std::path::PathBuf;

use crate::disks::{MIB, gpt_image, noise};
use crate::lab::{IMAGE, Lab, Machine, STRANGER};

/// A command that must fail: what it says.
#[track_caller]
pub(crate) fn refused(lab: &Lab, arguments: &[&str]) -> String {
    let output = lab.try_regild(arguments);
    assert_eq!(output.status.code(), Some(1), "regild {arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn import(lab: &Lab, name: &str, bytes: &[u8]) -> String {
    let file = lab.path("some.raw");
    std::fs::write(&file, bytes).unwrap();
    lab.regild(&["image", "import", file.to_str().unwrap(), "--as", name])
}

fn packs(lab: &Lab) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(lab.path("state/images/packs")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|ending| ending == "pack")).collect()
}

/// A seen and unapproved machine.
fn seen(lab: &Lab, number: u8) -> Machine {
    let machine = Machine::plug_in(lab, number);
    machine.script(lab);
    machine
}

/// Never collected while a host wants it: the refusal names the host; once it is gone the data goes, and the name stays
/// taken by that content for ever.
#[test]
fn a_version_goes_when_its_last_host_is_gone() {
    let mut lab = Lab::new();
    let image = lab.import_image();
    import(&lab, "tiny:v0", &noise(3, 2 * MIB as usize));
    let machine = Machine::approved(&lab, 1);
    let said = refused(&lab, &["image", "remove", IMAGE, "--reason", "old"]);
    assert!(said.contains(&format!("{} has an open order for it", machine.host)), "{said}");
    lab.regild(&["image", "channel", "set", "tiny@old", "v0", "--reason", "x"]);
    let said = refused(&lab, &["image", "remove", "tiny:v0", "--reason", "old"]);
    assert!(said.contains("tiny@old points to it"), "{said}");
    let dry = lab.json(&["image", "gc", "--dry-run"]);
    assert_eq!(dry["versions"][0]["why"], "tiny@old points to it", "{dry}");
    assert!(dry["versions"].as_array().unwrap().iter().all(|version| version["goes"] == false), "{dry}");

    // Retired under its host: nobody gets it any more, and it waits for the last of them.
    lab.regild(&["image", "retire", IMAGE, "--reason", "CVE"]);
    let other = seen(&lab, 2);
    let said = refused(&lab, &["host", "approve", &other.mac, "--image", IMAGE]);
    assert!(said.contains("is retired"), "{said}");
    assert_eq!(lab.json(&["image", "gc"])["freed_bytes"], 0);
    lab.regild(&["host", "hold", &machine.mac, "--reason", "away", "--until", "2999-01-01T00:00:00Z"]);
    lab.regild(&["host", "remove", &machine.mac]);
    let said = lab.regild(&["image", "gc", "--dry-run"]);
    assert!(said.contains("would go") && said.contains("it is retired, and nobody uses it"), "{said}");
    assert_eq!(packs(&lab).len(), 2);
    let done = lab.json(&["image", "gc"]);
    assert!(done["freed_bytes"].as_u64().unwrap() > MIB, "{done}");
    assert_eq!(packs(&lab).len(), 1);
    assert!(refused(&lab, &["image", "show", IMAGE]).contains("no image tiny:v1"));
    lab.kill();
    lab.start();

    std::fs::write(lab.path("other.raw"), gpt_image(8 * MIB, 2)).unwrap();
    let path = lab.path("other.raw");
    let said = refused(&lab, &["image", "import", path.to_str().unwrap(), "--as", IMAGE]);
    assert!(said.contains("was removed, and had other content"), "{said}");
    import(&lab, IMAGE, &image);
    let shown = lab.json(&["image", "show", IMAGE]);
    assert_eq!((&shown["stage"], &shown["refused"]), (&"active".into(), &serde_json::Value::Null), "{shown}");
    lab.regild(&["host", "approve", &other.mac, "--image", IMAGE]);
}

/// An open order keeps its manifest, and the agent finishes, whatever becomes of the version's name.
#[test]
fn a_collection_leaves_an_agent_what_it_is_fetching() {
    let lab = Lab::new();
    lab.import_image();
    import(&lab, "tiny:v0", &noise(3, 2 * MIB as usize));
    let machine = Machine::approved(&lab, 1);
    machine.orders(&lab);
    let manifest = lab.json(&["image", "show", IMAGE])["manifest"].as_str().unwrap().to_owned();
    let path = format!("/images/manifests/{manifest}");
    let before = lab.from(machine.address).get(&path).body;
    lab.regild(&["image", "retire", IMAGE, "--reason", "x"]);
    lab.regild(&["image", "remove", "tiny:v0", "--reason", "x"]);
    assert!(lab.json(&["image", "gc"])["freed_bytes"].as_u64().unwrap() > MIB);
    assert!(lab.from(machine.address).get(&path).body == before);
    let all = regild::wire::manifest::Manifest::decode(&before, Some(&manifest)).unwrap();
    for frame in &all.frames {
        let mut connection = lab.from(machine.address);
        let last = frame.offset_bytes + u64::from(frame.compressed_bytes) - 1;
        let (head, range) = (
            format!("GET /images/packs/{} HTTP/1.1", all.pack_id(frame)),
            format!("Range: bytes={}-{last}", frame.offset_bytes),
        );
        connection.head(&[&head, "Host: regild", &range]);
        let answer = connection.answer();
        assert_eq!((answer.status, answer.body.len()), (206, frame.compressed_bytes as usize));
        assert_eq!(zstd::bulk::decompress(&answer.body, 1 << 20).unwrap().len(), frame.raw_bytes as usize);
    }
}

/// A preview is tried out on hosts that are named, and cannot become many hosts' by one word.
#[test]
fn a_preview_is_given_by_name_only() {
    let lab = Lab::new();
    let file = lab.path("some.raw");
    std::fs::write(&file, gpt_image(8 * MIB, 1)).unwrap();
    lab.regild(&["image", "import", file.to_str().unwrap(), "--as", IMAGE, "--preview"]);
    assert_eq!(lab.json(&["image", "list"])[0]["stage"], "preview");
    let machine = Machine::approved(&lab, 1);
    let many = [
        vec!["image", "channel", "set", "tiny@stable", "v1", "--reason", "x"],
        vec!["host", "reimage", "--select", "all", "--image", IMAGE, "--reason", "x", "--expect-count", "1"],
        vec!["rollout", "start", "--select", "all", "--image", IMAGE, "--reason", "x", "--expect-count", "1"],
    ];
    for command in &many {
        let said = refused(&lab, command);
        assert!(said.contains("is a preview"), "{command:?}: {said}");
    }
    assert!(lab.host(&machine)["order"]["generation"] == 1);
    lab.regild(&["image", "activate", IMAGE, "--reason", "it is good"]);
    lab.regild(&["image", "channel", "set", "tiny@stable", "v1", "--reason", "x"]);
    let said = refused(&lab, &["image", "preview", IMAGE, "--reason", "back"]);
    assert!(said.contains("tiny@stable points to it"), "{said}");
    // An import that fails leaves no mark behind.
    std::fs::write(&file, b"no image").unwrap();
    refused(&lab, &["image", "import", file.to_str().unwrap(), "--as", "tiny:v2", "--preview"]);
    import(&lab, "tiny:v2", &gpt_image(8 * MIB, 2));
    assert_eq!(lab.json(&["image", "show", "tiny:v2"])["stage"], "active");
    // Deprecated: nobody gets it who does not have it.
    lab.regild(&["image", "deprecate", "tiny:v2", "--reason", "old"]);
    let other = seen(&lab, 2);
    assert!(refused(&lab, &["host", "approve", &other.mac, "--image", "tiny:v2"]).contains("is deprecated"));
}

#[test]
fn the_retention_policy_keeps_the_newest_and_what_is_used() {
    let lab = Lab::with("[image.retention]\nkeep_newest = 1\n");
    lab.import_image();
    Machine::approved(&lab, 1);
    for version in ["v2", "v3", "v4"] {
        import(&lab, &format!("tiny:{version}"), &noise(version.len() as u64 + version.as_bytes()[1] as u64, 1 << 20));
    }
    import(&lab, "other:v1", &noise(9, 1 << 20));
    lab.regild(&["image", "block", "tiny:v3", "--reason", "look at it"]);
    let done = lab.json(&["image", "gc"]);
    let fates: Vec<(String, bool)> = done["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["image"].as_str().unwrap().to_owned(), one["goes"].as_bool().unwrap()))
        .collect();
    let expected = [("other:v1", false), ("tiny:v1", false), ("tiny:v2", true), ("tiny:v3", false), ("tiny:v4", false)];
    assert_eq!(fates, expected.map(|(image, goes)| (image.to_owned(), goes)), "{done}");
    assert_eq!(lab.json(&["image", "list"]).as_array().unwrap().len(), 4);
    assert!(lab.json(&["image", "gc"])["versions"].as_array().unwrap().iter().all(|one| one["goes"] == false));
}

/// Where signatures are required: no order, no manifest for machines, until somebody who is trusted vouches for this
/// name and this content; over restarts.
#[test]
fn an_unsigned_version_is_given_to_nobody() {
    let key = tempfile::tempdir().unwrap();
    let (trusted, other) = (key.path().join("key.pem"), key.path().join("other.pem"));
    let keygen = |file: &PathBuf| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_regild"));
        let output = command.arg("image").arg("keygen").arg(file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        said.split_once("\n\n").unwrap().1.to_owned()
    };
    let section = keygen(&trusted);
    keygen(&other);
    let mut lab = Lab::with(&section);
    lab.import_image();
    let machine = seen(&lab, 1);
    let approve = ["host", "approve", &machine.mac, "--image", IMAGE];
    assert!(refused(&lab, &approve).contains("no trusted key has signed it"));
    assert!(refused(&lab, &["image", "verify", IMAGE]).contains("nobody has signed it; no host gets it"));
    let manifest = lab.json(&["image", "show", IMAGE])["manifest"].as_str().unwrap().to_owned();
    let path = format!("/images/manifests/{manifest}");
    assert_eq!(lab.from(STRANGER).get(&path).status, 403);
    let sign =
        |lab: &Lab, file: &PathBuf, image: &str| lab.regild(&["image", "sign", image, "--key", file.to_str().unwrap()]);
    let said = sign(&lab, &other, IMAGE);
    assert!(said.contains("no key of [image.trust]"), "{said}");
    assert!(refused(&lab, &approve).contains("no trusted key has signed it"));
    let wrong = ["image", "sign", IMAGE, "--key", trusted.to_str().unwrap(), "--content", "00"];
    assert!(refused(&lab, &wrong).contains("it was not signed"));
    sign(&lab, &trusted, IMAGE);
    lab.kill();
    lab.start();
    assert_eq!(lab.from(STRANGER).get(&path).status, 200);
    lab.regild(&approve);
    assert!(lab.regild(&["image", "verify", IMAGE]).contains("ed25519:"));
    // The same content and its signature under another name: who can write to the store gains nothing.
    import(&lab, "tiny:v9", &gpt_image(8 * MIB, 9));
    let signatures = lab.path("state/images/signatures");
    std::fs::copy(signatures.join(IMAGE), signatures.join("tiny:v9")).unwrap();
    assert!(refused(&lab, &["image", "verify", "tiny:v9"]).contains("no trusted key has signed it"));
    lab.kill();
    lab.start();
    let other = seen(&lab, 2);
    assert!(refused(&lab, &["host", "approve", &other.mac, "--image", "tiny:v9"]).contains("no trusted key"));
    assert!(refused(&lab, &["image", "sign", IMAGE, "--key", "/etc/hostname"]).contains("no private ed25519 key"));
}

/// I5 from end to end: damage is found, no host gets the version any more, and the same import mends it.
#[test]
fn a_damaged_version_is_given_to_nobody_until_it_is_imported_again() {
    let mut lab = Lab::with("[image.scrub]\nbytes_per_second = 0\n");
    let image = lab.import_image();
    let manifest = lab.json(&["image", "show", IMAGE])["manifest"].clone();
    lab.regild(&["image", "scrub"]);
    lab.kill();
    let pack = packs(&lab).remove(0);
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    lab.start();
    let said = refused(&lab, &["image", "scrub", IMAGE]);
    assert!(said.contains("1 things are damaged; import the same content again"), "{said}");
    let machine = seen(&lab, 1);
    let approve = ["host", "approve", &machine.mac, "--image", IMAGE];
    assert!(refused(&lab, &approve).contains("cannot be used: it is damaged"));
    assert!(lab.regild(&["image", "list"]).contains("active, refused"));
    lab.kill();
    lab.start();
    assert!(refused(&lab, &approve).contains("cannot be used: it is damaged"), "after a restart");
    assert!(import(&lab, IMAGE, &image).contains("is there already, with the same content"));
    lab.regild(&["image", "scrub"]);
    lab.regild(&approve);
    assert_eq!(lab.json(&["image", "show", IMAGE])["manifest"], manifest, "orders and hosts refer to it");
}
