//! A host that goes from one version to the next fetches what its disk has not: the real agent under the real server's
//! order, against what `image plan` says. And whatever is wrong with what the order says is on the disk, the disk is right
//! in the end.

use crate::cable::SERVER_LINK;
use crate::deploy::{Boot, DISK_BYTES, Disk, succeeded, text};
use crate::disks::{MIB, assert_same_disk, deployed, gpt_image, noise};
use crate::lab::{IMAGE, Lab, Machine, write_config};

/// A lab with two versions, of which the second has blocks of the first at other places, and a host with the first on its
/// disk and an order for the second.
struct Story {
    lab: Lab,
    machine: Machine,
    second: Vec<u8>,
    /// The disk with the first version on it.
    disk: Vec<u8>,
}

fn number_before(said: &str, words: &str) -> u64 {
    let before = said.split(words).next().filter(|before| before.len() < said.len());
    let before = before.unwrap_or_else(|| panic!("no {words:?} in {said}"));
    before.split_whitespace().last().unwrap().parse().unwrap()
}

/// What the agent says that it fetched and copied.
fn fetched_and_copied(said: &str) -> (u64, u64) {
    (number_before(said, " bytes fetched"), number_before(said, " copied on the disk"))
}

impl Story {
    fn new() -> Story {
        Story::ordered(&[])
    }

    /// With more words to the order.
    fn ordered(more: &[&str]) -> Story {
        let lab = Lab::new();
        lab.import_image();
        let second = gpt_image(8 * MIB, 2);
        let file = lab.path("v2.raw");
        std::fs::write(&file, &second).unwrap();
        lab.regild(&["image", "import", file.to_str().unwrap(), "--as", "tiny:v2"]);
        let machine = Machine::approved(&lab, 1);
        let boot = Boot::new(&lab, &machine, &[Disk::blank("vda", Some("A"))]);
        let output = boot.run();
        succeeded(&output);
        assert_eq!(fetched_and_copied(&text(&output)).1, 0, "a first deploy has nothing to copy");
        let disk = boot.disk("vda");
        let order = ["host", "reimage", &machine.mac, "--image", "tiny:v2", "--reason", "new version"];
        lab.regild(&[&order, more].concat());
        Story { lab, machine, second, disk }
    }

    fn boot(&self, content: &[u8], serial: &'static str) -> Boot<'_> {
        let disk = Disk { content: content.to_vec(), ..Disk::blank("vda", Some(serial)) };
        Boot::new(&self.lab, &self.machine, &[disk])
    }

    /// The disk is right and the host has the second version; what the agent said.
    #[track_caller]
    fn ends_right(&self, boot: &Boot, before: &[u8]) -> String {
        let output = boot.run();
        succeeded(&output);
        assert_same_disk(&boot.disk("vda"), &deployed(&self.second, before));
        assert_eq!(self.lab.host(&self.machine)["reported"], "tiny:v2");
        text(&output)
    }

    /// What `image plan` says of one way to write.
    fn planned(&self, which: &str) -> (u64, u64) {
        let bytes = DISK_BYTES.to_string();
        let plan = ["image", "plan", "--from", IMAGE, "--to", "tiny:v2", "--disk-bytes", &bytes];
        let json = self.lab.json(&plan);
        let number = |key: &str| json[which][key].as_u64().unwrap_or_else(|| panic!("no {which} {key}: {json}"));
        (number("fetched_bytes"), number("copied_bytes"))
    }
}

#[test]
fn an_order_for_the_next_version_fetches_what_image_plan_says_and_copies_the_rest() {
    let story = Story::new();
    let (order, unseeded, blank) = (story.planned("order"), story.planned("unseeded"), story.planned("blank"));
    let said = story.ends_right(&story.boot(&story.disk, "A"), &story.disk);
    assert_eq!(fetched_and_copied(&said), order, "{said}");
    assert!(order.0 < unseeded.0 && order.0 < blank.0 && order.1 > MIB, "{order:?} {unseeded:?} {blank:?}");
    println!("fetched {} of {} bytes, {} copied", order.0, blank.0, order.1);

    // Once more the same version: nothing is written, and nothing but the head fetched.
    story.lab.regild(&["host", "reimage", &story.machine.mac, "--reason", "again"]);
    let written = deployed(&story.second, &story.disk);
    let said = story.ends_right(&story.boot(&written, "A"), &written);
    assert!(said.contains("was there already"), "{said}");
}

/// The machine loses its power in the middle of the copying: half of the disk is of either version.
#[test]
fn a_seeded_write_that_is_cut_is_completed_by_the_next_attempt() {
    let story = Story::new();
    let mut disk = story.disk.clone();
    for write in [4, 60] {
        let mut boot = story.boot(&disk, "A");
        let log = boot.dir.join("strace.log");
        boot.under =
            format!("strace -f -o {} -e trace=pwrite64 -e inject=pwrite64:signal=KILL:when={write}", log.display());
        let output = boot.run();
        assert!(!output.status.success(), "{}", text(&output));
        disk = boot.disk("vda");
        assert!(disk != story.disk && disk[..MIB as usize].iter().all(|byte| *byte == 0), "cut at write {write}");
    }
    // Whether it sees what was there already depends on what its samples meet in a disk that is half one version and half the
    // other; that the disk is right does not.
    let said = story.ends_right(&story.boot(&disk, "A"), &story.disk);
    assert!(fetched_and_copied(&said).0 <= story.planned("blank").0, "{said}");
}

/// The record says what the disk should hold. It holds something else: another's bytes, or the first half of it.
#[test]
fn a_disk_that_does_not_hold_what_the_record_says_is_right_all_the_same() {
    let story = Story::new();
    let blank = story.planned("blank");
    let foreign = noise(9, DISK_BYTES as usize);
    let said = story.ends_right(&story.boot(&foreign, "A"), &foreign);
    assert_eq!(fetched_and_copied(&said), (blank.0, 0), "{said}");

    let story = Story::new();
    let mut half = story.disk.clone();
    half[4 * MIB as usize..].copy_from_slice(&noise(10, (DISK_BYTES - 4 * MIB) as usize));
    story.ends_right(&story.boot(&half, "A"), &half);
}

/// The seed is for the host's own disk: where it was exchanged, nobody looks for the old image on the new one.
#[test]
fn another_disk_of_the_host_is_written_without_a_seed() {
    // It even holds the old image; but that is nothing the record knows of.
    let story = Story::ordered(&["--release-disk"]);
    let said = story.ends_right(&story.boot(&story.disk, "B"), &story.disk);
    assert!(said.contains("is not the disk that the host had"), "{said}");
    assert_eq!(fetched_and_copied(&said), story.planned("unseeded"), "{said}");
}

/// The old version's manifest was lost from the store: the plan cannot say, and the deploy does without.
#[test]
fn a_version_that_the_store_no_longer_has_is_no_seed() {
    let story = Story::new();
    let (unseeded, blank) = (story.planned("unseeded"), story.planned("blank"));
    let manifest = story.lab.json(&["image", "show", IMAGE])["manifest"].as_str().unwrap().to_owned();
    std::fs::remove_file(story.lab.path("state/images/manifests").join(manifest)).unwrap();
    let said = story.ends_right(&story.boot(&story.disk, "A"), &story.disk);
    assert_eq!(fetched_and_copied(&said), unseeded, "{said}");
    assert!(unseeded.0 <= blank.0 && unseeded.1 == 0);
}

/// The server requires signatures since the first version was deployed, and has one of the second: agents do not get the
/// manifest of the first any more, and no order names it.
#[test]
fn an_unsigned_version_is_no_seed_where_signatures_are_required() {
    let mut story = Story::new();
    let unseeded = story.planned("unseeded");
    let key = story.lab.path("key.pem");
    let mut keygen = std::process::Command::new(env!("CARGO_BIN_EXE_regild"));
    let keygen = keygen.args(["image", "keygen"]).arg(&key).output().unwrap();
    assert!(keygen.status.success());
    let said = String::from_utf8(keygen.stdout).unwrap();
    story.lab.regild(&["image", "sign", "tiny:v2", "--key", key.to_str().unwrap()]);
    story.lab.kill();
    write_config(&story.lab.path(""), SERVER_LINK, said.split_once("\n\n").unwrap().1);
    story.lab.start();
    let plan = story.lab.json(&["image", "plan", "--from", IMAGE, "--to", "tiny:v2", "--disk-bytes", "12582912"]);
    assert_eq!((&plan["order"]["fetched_bytes"], &plan["unseeded"]), (&unseeded.0.into(), &serde_json::Value::Null));
    let said = story.ends_right(&story.boot(&story.disk, "A"), &story.disk);
    assert_eq!(fetched_and_copied(&said), unseeded, "{said}");
}
