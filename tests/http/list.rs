//! `regild host list` with filters over the real binary: each lists exactly the hosts that it names, and one that says
//! nothing, or something that nobody knows, lists nobody (R1).

use serde_json::Value;

use crate::fleet::{fails, with_fleet};
use crate::lab::{IMAGE, Lab, Machine};

fn names(lab: &Lab, filter: &[&str]) -> Vec<String> {
    let listed = lab.json(&[&["host", "list"], filter].concat());
    let name = |host: &Value| host["name"].as_str().or(host["id"].as_str()).unwrap().to_owned();
    let mut names: Vec<_> = listed.as_array().unwrap().iter().map(name).collect();
    names.sort();
    names
}

#[test]
fn filters_list_exactly_the_hosts_that_they_name() {
    let (lab, _) = with_fleet();
    let stranger = Machine::plug_in(&lab, 1);
    stranger.script(&lab);
    lab.regild(&["host", "reimage", "n1", "n2", "--reason", "x"]);
    lab.regild(&["host", "hold", "n5", "--reason", "x"]);
    let of_rack_2 = ["n10", "n11", "n12", "n7", "n8", "n9"];
    assert_eq!(names(&lab, &["--select", "rack=r2"]), of_rack_2);
    assert_eq!(names(&lab, &["--state", "queued"]), ["n1", "n2"]);
    assert_eq!(names(&lab, &["--state", "discovered"]), std::slice::from_ref(&stranger.host));
    assert_eq!(names(&lab, &["--select", "state=discovered"]), [stranger.host]);
    assert_eq!(names(&lab, &["--cause", "operator"]), ["n1", "n2"]);
    assert_eq!(names(&lab, &["--cause", "operator", "--select", "name=n2|n5"]), ["n2"]);
    assert_eq!(names(&lab, &["--cause", "drift"]), [""; 0]);
    // Nobody has reported anything yet.
    assert_eq!(names(&lab, &["--version", IMAGE]), [""; 0]);
    assert_eq!(names(&lab, &[]).len(), 13);
}

#[test]
fn a_filter_that_says_nothing_lists_nobody() {
    let (lab, _) = with_fleet();
    for (filter, words) in [
        (["--select", ""], "the selector is empty"),
        (["--select", "rack=r*"], "character 7"),
        (["--state", "redy"], "\"redy\" is no state; there are discovered, enrolled"),
        (["--state", ""], "is no state"),
        (["--cause", "operators"], "is no cause; there are operator, rollout"),
        (["--version", "tiny"], "tiny"),
    ] {
        let said = fails(&lab, &["host", "list", filter[0], filter[1]]);
        assert!(said.contains(words), "{filter:?}: {said}");
    }
    // Other clients have the same: an unknown key is no filter that matches all.
    let answer = lab.operator().get("/v1/hosts?stat=ready");
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("stat"), "{}", answer.text());
}

/// What waits for a brake, and for which one.
#[test]
fn stuck_hosts_are_listed_with_what_they_wait_for() {
    let (lab, _) = with_fleet();
    assert_eq!(names(&lab, &["--stuck"]), [""; 0]);
    lab.regild(&["stop", "--reason", "smoke"]);
    lab.regild(&["host", "reimage", "n1", "n2", "--reason", "x"]);
    assert_eq!(names(&lab, &["--stuck"]), ["n1", "n2"]);
    assert_eq!(names(&lab, &["--stuck", "--select", "name=n2"]), ["n2"]);
    let stuck = lab.json(&["host", "show", "n1"])["stuck"].clone();
    assert!(stuck["late_seconds"].is_null() && stuck["since"].as_u64().unwrap() > 0, "{stuck}");
    assert!(stuck["missing"].as_str().unwrap().starts_with("operator waits: everything is stopped"), "{stuck}");
    let table = lab.regild(&["host", "list", "--stuck"]);
    assert!(table.contains("MISSING") && table.contains("operator waits: everything is stopped"), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
    lab.regild(&["resume", "--reason", "looked"]);
    crate::requests::wait_for_order(&lab, "n1");
    crate::requests::wait_for_order(&lab, "n2");
    assert_eq!(names(&lab, &["--stuck"]), [""; 0]);
}
