use super::*;

const GIB: u64 = 1 << 30;
const NEEDS: Needs = Needs { image_bytes: 3 * GIB, sector_bytes: 512 };

fn disk(name: &str, serial: &str) -> Disk {
    Disk {
        name: name.to_owned(),
        serial: (!serial.is_empty()).then(|| serial.to_owned()),
        size_bytes: 10 * GIB,
        sector_bytes: 512,
        transport: "virtio".to_owned(),
        ..Disk::default()
    }
}

fn holding(content: &str, disk: Disk) -> Disk {
    Disk { content: Some(content.to_owned()), ..disk }
}

fn by_serial(serial: &str) -> Rule {
    Rule { serial: Some(serial.to_owned()), ..Rule::default() }
}

fn own(serial: &str) -> DiskId {
    DiskId { serial: Some(serial.to_owned()), wwn: None, size_bytes: 10 * GIB }
}

fn choose_kept(disks: &[Disk], rule: &Rule, own: Option<&DiskId>) -> Result<usize, Refusal> {
    choose(disks, rule, own, ForeignContent::Kept, NEEDS)
}

/// A1: two disks of one size, one with data; the rule names the other by serial. Order must not matter.
#[test]
fn only_the_disk_that_the_rule_names_is_taken_in_any_order() {
    let data = holding("ext4", disk("vda", "DATA"));
    let root = disk("vdb", "ROOT");
    assert_eq!(choose_kept(&[data.clone(), root.clone()], &by_serial("ROOT"), None), Ok(1));
    assert_eq!(choose_kept(&[root, data], &by_serial("ROOT"), None), Ok(0));
}

/// Rule 3: without a rule, exactly one disk that may be written must exist.
#[test]
fn without_a_rule_one_blank_disk_is_taken_and_two_are_refused() {
    assert_eq!(choose_kept(&[disk("vda", "A")], &Rule::default(), None), Ok(0));
    let two = choose_kept(&[disk("vda", "A"), disk("vdb", "B")], &Rule::default(), None).unwrap_err();
    assert_eq!(two.reason, RefusalReason::Candidates(2));
    assert_eq!(two.lines.len(), 2);
    assert!(two.lines.iter().all(|line| line.ends_with(": candidate")), "{two}");
    assert_eq!(choose_kept(&[], &Rule::default(), None).unwrap_err().reason, RefusalReason::NoDisk);
}

/// A2: serial missing, duplicate, matching none.
#[test]
fn a_serial_that_is_missing_or_shared_names_no_disk() {
    let rule = by_serial("S");
    let missing = choose_kept(&[disk("vda", "")], &rule, None).unwrap_err();
    assert_eq!(missing.reason, RefusalReason::NoCandidate);
    assert!(missing.lines[0].contains("not the serial number"), "{missing}");
    let twins = choose_kept(&[disk("vda", "S"), disk("vdb", "S")], &rule, None).unwrap_err();
    assert_eq!(twins.reason, RefusalReason::SameId(2));
    // One of the twins cannot be written anyway: still nobody knows which one was meant.
    let smaller = Disk { size_bytes: GIB, ..disk("vdb", "S") };
    let twins = choose_kept(&[disk("vda", "S"), smaller], &rule, None).unwrap_err();
    assert_eq!(twins.reason, RefusalReason::SameId(2));
    assert_eq!(choose_kept(&[disk("vda", "")], &by_serial(""), None).unwrap_err().reason, RefusalReason::NoCandidate);
}

/// A2: the two paths of a multipath disk have one WWN.
#[test]
fn two_paths_to_one_disk_are_ambiguous() {
    let path = |name| Disk { wwn: Some("naa.5000c5".to_owned()), ..disk(name, "") };
    let rule = Rule { wwn: Some("NAA.5000C5".to_owned()), ..Rule::default() };
    assert_eq!(choose_kept(&[path("sda")], &rule, None), Ok(0), "hex in either case");
    let refusal = choose_kept(&[path("sda"), path("sdb")], &rule, None).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::SameId(2));
}

/// Rule 3: foreign content stays, unless it is the host's own disk or the operator released it.
#[test]
fn content_is_only_overwritten_on_the_own_disk_or_when_released() {
    let disks = [holding("gpt", disk("vda", "A"))];
    let refusal = choose_kept(&disks, &by_serial("A"), None).unwrap_err();
    assert!(refusal.lines[0].contains("foreign content (gpt)"), "{refusal}");
    assert_eq!(choose_kept(&disks, &Rule::default(), Some(&own("A"))), Ok(0));
    assert_eq!(choose(&disks, &Rule::default(), None, ForeignContent::Released, NEEDS), Ok(0));
}

#[test]
fn a_disk_is_the_own_one_only_by_id_and_size() {
    let mut with_wwn = own("A");
    with_wwn.wwn = Some("w1".to_owned());
    let content =
        |wwn: Option<&str>, serial| [holding("gpt", Disk { wwn: wwn.map(str::to_owned), ..disk("vda", serial) })];
    let is_own = |disks: &[Disk], own: &DiskId| choose_kept(disks, &Rule::default(), Some(own)).is_ok();
    assert!(is_own(&content(Some("W1"), "A"), &with_wwn));
    assert!(is_own(&content(None, "A"), &with_wwn), "the WWN was not readable this time");
    assert!(is_own(&content(Some("w1"), ""), &with_wwn));
    assert!(!is_own(&content(Some("w2"), "A"), &with_wwn), "another WWN, so a clone of the serial");
    assert!(!is_own(&content(Some("w1"), "B"), &with_wwn));
    assert!(!is_own(&content(None, ""), &with_wwn), "no id at all");
    let mut nameless = own("");
    nameless.serial = Some(" ".to_owned());
    assert!(!is_own(&content(None, " "), &nameless), "two blanks are no identity");
    let mut other_size = own("A");
    other_size.size_bytes -= 512;
    assert!(!is_own(&content(None, "A"), &other_size));
}

/// I7: an image that does not fit is refused before anything is written, and the message says why.
#[test]
fn too_small_and_wrong_sectors_are_refused_and_said() {
    let small = Disk { size_bytes: 3 * GIB - 512, ..disk("vda", "A") };
    let refusal = choose_kept(&[small], &Rule::default(), None).unwrap_err();
    assert!(refusal.lines[0].contains("too small: the image needs 3221225472 bytes"), "{refusal}");
    let exact = Disk { size_bytes: 3 * GIB, ..disk("vda", "A") };
    assert_eq!(choose_kept(&[exact], &Rule::default(), None), Ok(0));
    let native_4k = Disk { sector_bytes: 4096, ..disk("vda", "A") };
    let refusal = choose_kept(&[native_4k], &Rule::default(), None).unwrap_err();
    assert!(refusal.lines[0].contains("wrong sector size"), "{refusal}");
}

#[test]
fn read_only_and_unnamed_usb_disks_are_never_taken() {
    let read_only = Disk { read_only: true, ..disk("vda", "A") };
    assert!(choose_kept(&[read_only], &by_serial("A"), None).is_err());
    let stick = Disk { transport: "usb".to_owned(), removable: true, ..disk("sda", "STICK") };
    // The installer's own stick beside the real disk must not make the choice ambiguous.
    assert_eq!(choose_kept(&[stick.clone(), disk("vda", "A")], &Rule::default(), None), Ok(1));
    assert!(choose_kept(std::slice::from_ref(&stick), &Rule::default(), None).is_err());
    assert!(choose(std::slice::from_ref(&stick), &Rule::default(), None, ForeignContent::Released, NEEDS).is_err());
    assert_eq!(choose_kept(std::slice::from_ref(&stick), &by_serial("STICK"), None), Ok(0));
    let usb = Rule { transport: Some("usb".to_owned()), ..Rule::default() };
    assert_eq!(choose_kept(&[stick, disk("vda", "A")], &usb, None), Ok(0));
}

#[test]
fn every_field_of_the_rule_must_match() {
    let disks = [Disk { model: Some("QEMU HARDDISK ".to_owned()), ..disk("vda", "A") }];
    let rule = |change: fn(&mut Rule)| {
        let mut rule = by_serial("A");
        change(&mut rule);
        rule
    };
    let allowed: &[fn(&mut Rule)] = &[
        |_| (),
        |r| r.model = Some("qemu harddisk".to_owned()),
        |r| r.transport = Some("virtio".to_owned()),
        |r| r.min_bytes = Some(10 * GIB),
        |r| r.max_bytes = Some(10 * GIB),
    ];
    for change in allowed {
        assert_eq!(choose_kept(&disks, &rule(*change), None), Ok(0));
    }
    let refused: &[fn(&mut Rule)] = &[
        |r| r.serial = Some("B".to_owned()),
        |r| r.wwn = Some("w".to_owned()),
        |r| r.model = Some("other".to_owned()),
        |r| r.transport = Some("nvme".to_owned()),
        |r| r.min_bytes = Some(10 * GIB + 1),
        |r| r.max_bytes = Some(10 * GIB - 1),
    ];
    for (index, change) in refused.iter().enumerate() {
        assert!(choose_kept(&disks, &rule(*change), None).is_err(), "refusal {index}");
    }
}

/// Rule 10: what a disk says of itself ends up in logs.
#[test]
fn a_disks_own_words_cannot_break_a_log_line() {
    let hostile = holding("x\n", disk("vda", "S\x1b[2J\r\nfake line"));
    let refusal = choose_kept(&[hostile], &Rule::default(), None).unwrap_err();
    assert!(!refusal.to_string().chars().any(char::is_control), "{refusal:?}");
}
