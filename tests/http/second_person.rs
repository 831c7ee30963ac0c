//! Two persons are two users of the machine, by the kernel's word, whatever a client says of itself; what needs two does
//! not happen by one, and a confirmation that is refused uses nothing up (O1).

use std::process::Output;

use serde_json::json;

use crate::fleet::{everything, fails, hosts, mac_of, ordered, refused, said, with_fleet};
use crate::lab::{IMAGE, Lab};

/// A policy under which more than two hosts need a second person.
const TWO_PERSONS: &str = "[policy]\nexpect_above = 3\nconfirm_above = 2\n[policy.fleet]\nconcurrent_max = 12\n\
                           [policy.rack]\nconcurrent_max = 4\n";

fn second(lab: &Lab, arguments: &[&str]) -> Output {
    lab.second_person(arguments).output().unwrap()
}

/// What the second person does, which must succeed.
#[track_caller]
fn seconds(lab: &Lab, arguments: &[&str]) -> String {
    let output = second(lab, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

/// The number of the proposal that a command speaks of.
#[track_caller]
fn number_in(said: &str) -> String {
    let (_, number) = said.trim().rsplit_once("confirm ").unwrap_or_else(|| panic!("{said}"));
    assert!(number.parse::<u64>().is_ok(), "{said}");
    number.to_owned()
}

/// Asks for more hosts than one person may; the proposal's number.
fn propose(lab: &Lab, hosts: &[&str]) -> String {
    number_in(&lab.regild(&[&["host", "reimage", "--reason", "new kernel"], hosts].concat()))
}

/// History names the user who opened the socket. Root may say for whom it acts; anybody else may say what he likes.
#[test]
fn an_operator_is_the_user_who_opened_the_socket() {
    let (lab, _) = with_fleet();
    let hold = |name: &str| ["host", "hold", name, "--reason", "x"].map(str::to_owned);
    let held_by = |name: &str| lab.json(&["host", "show", name])["detail"].as_str().unwrap().to_owned();
    lab.regild(&hold("n1").each_ref().map(String::as_str));
    assert_eq!(held_by("n1"), "by root: x");
    let sudo = lab.regild_command(&hold("n2").each_ref().map(String::as_str)).env("SUDO_USER", "ann").output().unwrap();
    assert!(sudo.status.success(), "{}", said(&sudo));
    assert_eq!(held_by("n2"), "by root (for ann): x");
    let mut liar = lab.second_person(&hold("n4").each_ref().map(String::as_str));
    let output = liar.env("SUDO_USER", "root").env("USER", "root").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(held_by("n4"), "by daemon: x");
    // Nor does a client of another make get another name.
    let body = json!({ "by": "the boss", "reason": "x" }).to_string();
    assert_eq!(lab.operator().ask("POST", "/v1/hosts/n5/hold", body.as_bytes()).status, 200);
    assert_eq!(held_by("n5"), "by root (for the boss): x");
    // Whoever is not in the socket's group does not get in.
    let nobody =
        ["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", env!("CARGO_BIN_EXE_regild"), "--server"];
    let output =
        std::process::Command::new("setpriv").args(nobody).arg(lab.socket()).args(["host", "list"]).output().unwrap();
    assert!(refused(&output).contains("Permission denied"), "{}", said(&output));
}

/// O1: nobody alone rebuilds many hosts, nor one host of a group that wants two people.
#[test]
fn a_second_person_confirms_and_the_first_cannot() {
    let (lab, _) = with_fleet();
    lab.apply(TWO_PERSONS, &[]);
    lab.apply("[[host]]\nname = \"n12\"\ngroup = \"db\"\n", &[]);
    let before = everything(&lab);
    let many = propose(&lab, &["n1", "n2", "n4"]);
    let one = propose(&lab, &["n12"]);
    // The same request again is the same proposal.
    assert_eq!(propose(&lab, &["n1", "n2", "n4"]), many);
    for number in [&many, &one] {
        let confirm = ["proposal", "confirm", number];
        assert!(fails(&lab, &confirm).contains("a second person must confirm it"));
        // Nor under another name.
        let disguised = lab.regild_command(&confirm).env("SUDO_USER", "bob").env("USER", "bob").output().unwrap();
        assert!(refused(&disguised).contains("a second person must confirm it"));
    }
    assert_eq!(everything(&lab), before, "a proposal did something by itself");
    // It is there for the second person after a crash, and after the first one tried, too.
    let mut lab = lab;
    lab.kill();
    lab.start();
    let listed = lab.json(&["proposal", "list"]);
    assert_eq!((&listed[0]["by"], &listed[0]["hosts"], &listed[1]["hosts"]), (&"root".into(), &3.into(), &1.into()));
    assert!(listed[0]["summary"].as_str().unwrap().contains("new kernel"), "{listed}");
    seconds(&lab, &["proposal", "confirm", &many]);
    assert_eq!(ordered(&lab), ["n1", "n2", "n4"]);
    let order = lab.json(&["host", "show", "n1"])["order"].clone();
    assert_eq!((&order["by"], &order["reason"]), (&"root".into(), &"new kernel (confirmed by daemon)".into()));
    // Confirmed once.
    assert!(refused(&second(&lab, &["proposal", "confirm", &many])).contains("no proposal"));
    seconds(&lab, &["proposal", "confirm", &one]);
    assert_eq!(ordered(&lab), ["n1", "n12", "n2", "n4"]);
}

/// What was proposed is what is confirmed: when the selector means other hosts by then, more, fewer, or as many others,
/// or one that is protected by then, nothing happens, the second person is told what to do, and the proposal stays.
#[test]
fn a_proposal_whose_hosts_changed_is_refused_and_stays() {
    let (lab, _) = with_fleet();
    lab.apply(TWO_PERSONS, &[]);
    let host = |name: &str, rack: &str, more: &str| {
        format!("[[host]]\nname = \"{name}\"\nlabels = {{ rack = \"{rack}\"{more} }}\n")
    };
    for (number, rack) in [(1, "r5"), (2, "r5"), (4, "r5")] {
        lab.apply(&host(&format!("n{number}"), rack, ""), &[]);
    }
    let number = propose(&lab, &["--select", "rack=r5"]);
    let confirm = ["proposal", "confirm", &number];
    let table = [
        (host("n5", "r5", ""), host("n5", "r1", ""), "4 hosts, not 3"),
        (host("n4", "r1", ""), host("n4", "r5", ""), "2 hosts, not 3"),
        (host("n4", "r1", "") + &host("n5", "r5", ""), host("n4", "r5", "") + &host("n5", "r1", ""), "other hosts"),
        (host("n4", "r5", ", protected = \"yes\""), host("n4", "r5", ""), "labelled protected"),
    ];
    for (change, back, words) in table {
        lab.apply(&change, &[]);
        let said = refused(&second(&lab, &confirm));
        assert!(said.contains(words), "{change}: {said} does not tell {words}");
        assert!(said.contains("the fleet is not as it was") && said.contains("regild proposal withdraw"), "{said}");
        lab.apply(&back, &["--loosen"]);
    }
    assert_eq!(ordered(&lab), [""; 0]);
    seconds(&lab, &confirm);
    assert_eq!(ordered(&lab), ["n1", "n2", "n4"]);
    // What nobody is to confirm any more goes away.
    let number = propose(&lab, &["n5", "n6", "n7"]);
    lab.regild(&["proposal", "withdraw", &number]);
    assert!(refused(&second(&lab, &["proposal", "confirm", &number])).contains("no proposal"));
}

/// A proposal that cannot be carried out is not kept: the second person would be the one to find out.
#[test]
fn what_cannot_be_ordered_is_not_proposed() {
    let (lab, _) = with_fleet();
    lab.apply(TWO_PERSONS, &[]);
    let ask = |more: &[&str]| fails(&lab, &[&["host", "reimage", "n1", "n2", "n4", "--reason", "x"], more].concat());
    assert!(ask(&["--image", "tiny:none"]).contains("tiny:none"));
    lab.regild(&["image", "block", IMAGE, "--reason", "bad"]);
    assert!(ask(&["--image", IMAGE]).contains("is blocked"));
    assert_eq!(lab.json(&["proposal", "list"]), json!([]));
}

/// A rollout above the number of hosts, or over a group that wants two people, begins when the second one says so, and
/// only as the plan that was proposed.
#[test]
fn a_rollout_of_many_hosts_begins_by_two() {
    let (lab, _) = with_fleet();
    lab.apply(TWO_PERSONS, &[]);
    let start = |more: &[&'static str]| {
        [&["rollout", "start", "--image", IMAGE, "--reason", "new kernel", "--select"][..], more].concat()
    };
    let few = lab.regild(&start(&["name=n1|n2"]));
    assert!(few.contains("rollout 1 has begun"), "{few}");
    let many = number_in(&lab.regild(&start(&["name=n4|n5|n6"])));
    assert_eq!(lab.json(&["rollout", "list"]).as_array().unwrap().len(), 1);
    assert!(fails(&lab, &["proposal", "confirm", &many]).contains("a second person"));
    // A member leaves the plan: it is another one.
    lab.regild(&["host", "hold", "n5", "--reason", "fan"]);
    let said = refused(&second(&lab, &["proposal", "confirm", &many]));
    assert!(said.contains("another plan") && said.contains("the fleet is not as it was"), "{said}");
    lab.regild(&["host", "release", "n5"]);
    let said = seconds(&lab, &["proposal", "confirm", &many]);
    assert!(said.contains("rollout 2 has begun"), "{said}");
    let rollout = lab.json(&["rollout", "show", "2"]);
    assert_eq!((&rollout["by"], &rollout["hosts"]), (&"root".into(), &3.into()), "{rollout}");
    assert_eq!(rollout["reason"], "new kernel (confirmed by daemon)");
    // One host of a group that wants two.
    lab.apply("[[host]]\nname = \"n12\"\ngroup = \"db\"\n", &[]);
    let one = number_in(&lab.regild(&start(&["name=n12"])));
    seconds(&lab, &["proposal", "confirm", &one]);
}

/// A brake is loosened, and a protection taken away, by two who have the same documents before their eyes.
#[test]
fn a_brake_is_loosened_by_two_with_the_same_documents() {
    let (lab, _) = with_fleet();
    let exported = || lab.regild(&["export"]);
    let before = exported();
    lab.apply("[group.web]\nprotected = true\n[group.web.limits]\nconcurrent_max = 11\n", &[]);
    let protected = exported();
    assert_ne!(protected, before);
    let table = [
        ("[policy]\nexpect_above = 4\n[policy.fleet]\nconcurrent_max = 12\n", "expect_above"),
        ("[[host]]\nname = \"n3\"\nlabels = { rack = \"r1\" }\n", "n3 labels.protected"),
        ("[group.web]\n[group.web.limits]\nconcurrent_max = 11\n", "web protected"),
    ];
    for (text, brake) in table {
        let now = exported();
        let path = lab.document("loose.toml", text);
        let apply = ["apply", "-f", &path, "--loosen"];
        let number = number_in(&lab.regild(&apply));
        assert_eq!(exported(), now, "{text}: one person did it");
        let listed = lab.json(&["proposal", "list"]);
        assert!(listed.to_string().contains(brake), "{listed} does not name {brake}");
        let confirm = [&apply[..], &["--confirm", &number]].concat();
        assert!(fails(&lab, &confirm).contains("a second person"));
        assert!(refused(&second(&lab, &["proposal", "confirm", &number])).contains("--loosen --confirm"));
        // Other documents under that number are not what was proposed.
        let other = lab.document("other.toml", &format!("{text}[[host]]\nmac = \"{}\"\n", mac_of(77)));
        let said = refused(&second(&lab, &["apply", "-f", &other, "--loosen", "--confirm", &number]));
        assert!(said.contains("not change what was proposed"), "{said}");
        assert_eq!(exported(), now);
        assert!(seconds(&lab, &confirm).contains("changes applied"));
        assert_ne!(exported(), now);
    }
    let history = lab.json(&["host", "history", "n3"]).to_string();
    assert!(history.contains("operator root (confirmed by daemon)"), "{history}");
    // A protected host does not lose its protection by being forgotten either.
    assert!(fails(&lab, &["host", "remove", "n9"]).contains("labelled protected"));
    assert_eq!(hosts(&lab).len(), 12);
}

/// Before there is a host there is often one person only, and nothing that a brake could hold back.
#[test]
fn the_first_document_of_a_fleet_needs_one_person() {
    let lab = Lab::new();
    let path = lab.document("first.toml", "[policy]\nconfirm_above = 400\n");
    assert!(fails(&lab, &["apply", "-f", &path]).contains("--loosen"));
    assert!(lab.regild(&["apply", "-f", &path, "--loosen"]).contains("1 changes applied"));
}

/// The server denies itself whatever documents say, so one that lists it is no change for ever.
#[test]
fn a_document_that_lists_the_server_itself_is_applied_once() {
    let (lab, _) = with_fleet();
    let server = crate::requests::own_mac(&lab);
    let text = format!(
        "[policy]\nexpect_above = 3\ndenied = [\"{server}\", \"52:54:00:12:00:0c\"]\n[policy.fleet]\n\
         concurrent_max = 12\n[policy.rack]\nconcurrent_max = 4\n"
    );
    lab.apply(&text, &[]);
    let again = lab.regild(&["diff", "-f", &lab.document("again.toml", &text)]);
    assert!(again.contains("no change"), "{again}");
    // And what it denies besides is denied.
    assert!(fails(&lab, &["host", "reimage", "n12", "--reason", "x"]).contains("is on the deny list"));
}
