//! Requests for many hosts over the real binary: they mean exactly the hosts that they say, once, and what must never
//! be rebuilt is not, whoever asks (O1, O2, H7).

use std::sync::Barrier;

use serde_json::{Value, json};

use crate::cable::SERVER_LINK;
use crate::fleet::{everything, fails, ordered, refused, said, with_fleet};
use crate::lab::{IMAGE, Lab, Machine};
use crate::raw::Connection;

/// O1, R1: a selector that says nothing, or something nobody knows, selects nobody, and the message says where.
#[test]
fn an_empty_or_mistyped_selector_selects_nobody() {
    let (lab, _) = with_fleet();
    let before = everything(&lab);
    let table = [
        ("", "the selector is empty"),
        (" ", "the selector is empty"),
        ("rack", "character 5"),
        ("rack=", "character 6"),
        ("rack=r1,", "character 9"),
        ("rack=r*", "character 7"),
        ("rack==r1", "character 5"),
        ("all,rack=r1", "`all` stands alone"),
        ("state=redy", "redy"),
        ("mac=52:54:00", "52:54:00"),
        // Right, but matches nobody: a mistyped label, also negated.
        ("rak=r1", "matches 0 hosts"),
        ("rak!=r1", "matches 0 hosts"),
        ("rack=r9", "matches 0 hosts"),
    ];
    for (selector, words) in table {
        let said = fails(&lab, &["host", "reimage", "--select", selector, "--reason", "x", "--expect-count", "12"]);
        assert!(said.contains(words), "{selector:?}: {said:?} does not tell {words:?}");
    }
    let nobody = fails(&lab, &["host", "reimage", "--select", "rak=r1", "--reason", "x"]);
    assert!(nobody.contains("matches no host; nothing was done"), "{nobody}");
    assert_eq!(everything(&lab), before, "a wrong selector did something");
}

/// O1: above the policy's number the operator says how many hosts are meant, exactly; otherwise nothing happens.
#[test]
fn more_hosts_than_expected_are_counted_first() {
    let (lab, _) = with_fleet();
    let before = everything(&lab);
    let four = "name=n1|n2|n4|n5";
    let reimage = |more: &[&'static str]| [&["host", "reimage", "--reason", "x", "--select", four][..], more].concat();
    assert!(fails(&lab, &reimage(&[])).contains("--expect-count"));
    for count in ["3", "5", "0"] {
        assert!(fails(&lab, &reimage(&["--expect-count", count])).contains('4'), "{count}");
    }
    // Also when they are named one by one.
    assert!(fails(&lab, &["host", "reimage", "n1", "n2", "n4", "n5", "--reason", "x"]).contains("--expect-count"));
    assert_eq!(everything(&lab), before, "a refused request did something");
    lab.regild(&reimage(&["--expect-count", "4"]));
    assert_eq!(ordered(&lab), ["n1", "n2", "n4", "n5"]);
}

/// O2: a protected host, one on the deny list and the server itself are never rebuilt, and a request that has one of
/// them among its hosts does nothing at all.
#[test]
fn o2_what_is_protected_is_never_rebuilt() {
    let (mut lab, _) = with_fleet();
    let server = own_mac(&lab);
    lab.apply(&format!("[[host]]\nmac = \"{server}\"\nname = \"myself\"\nimage = \"{IMAGE}\"\n"), &[]);
    // A server that just started knows its own NICs before any document is applied.
    lab.kill();
    lab.start();
    assert!(fails(&lab, &["host", "reimage", "myself", "--reason", "x"]).contains("is on the deny list"));
    // No document takes the server itself off its list.
    lab.apply("[policy]\nexpect_above = 9\ndenied = [\"52:54:00:12:00:0c\"]\n", &["--loosen"]);
    let before = everything(&lab);
    let table = [
        (vec!["n3"], "labelled protected"),
        (vec!["myself"], "is on the deny list"),
        (vec![&server[..]], "is on the deny list"),
        (vec!["n12"], "is on the deny list"),
        (vec!["n1", "n3"], "n3: the host is labelled protected"),
        (vec!["--select", "all", "--expect-count", "13"], "nothing was done"),
        (vec!["--select", "rack=r1", "--expect-count", "6"], "n3: the host is labelled protected"),
    ];
    for (hosts, words) in table {
        let more = ["--image", IMAGE, "--release-disk", "--reason", "x"];
        let said = fails(&lab, &[&["host", "reimage"], &hosts[..], &more].concat());
        assert!(said.contains(words), "{hosts:?}: {said}");
    }
    assert_eq!(everything(&lab), before);

    // A machine on the list is not approved either.
    let machine = Machine::plug_in(&lab, 1);
    machine.script(&lab);
    lab.apply(&format!("[policy]\nexpect_above = 9\ndenied = [\"{}\"]\n", machine.mac), &["--loosen"]);
    let said = fails(&lab, &["host", "approve", &machine.mac, "--image", IMAGE]);
    assert!(said.contains("is on the deny list"), "{said}");
    assert!(!machine.script(&lab).contains("regild.token"));
}

/// O2: protection that comes while a request waits is stronger than the request.
#[test]
fn o2_a_request_that_waits_does_not_outlive_a_protection() {
    let (lab, _) = with_fleet();
    lab.regild(&["stop", "--reason", "look first"]);
    lab.regild(&["host", "reimage", "n1", "n2", "--reason", "x"]);
    lab.apply("[[host]]\nname = \"n1\"\nlabels = { rack = \"r1\", protected = \"yes\" }\n", &[]);
    lab.regild(&["resume", "--reason", "looked"]);
    wait_for_order(&lab, "n2");
    // The tick that let n2 through has looked at n1 too.
    let host = lab.json(&["host", "show", "n1"]);
    assert!(host["order"].is_null(), "{host}");
    assert!(host["waits"].as_str().unwrap().contains("labelled protected"), "{host}");
}

/// The MAC of the server's end of the cable.
pub fn own_mac(lab: &Lab) -> String {
    let arguments = ["-n", &lab.cable.server, "-j", "link", "show", SERVER_LINK];
    let output = std::process::Command::new("ip").args(arguments).output().unwrap();
    let links: Value = serde_json::from_slice(&output.stdout).unwrap();
    links[0]["address"].as_str().unwrap().to_owned()
}

/// What waits is looked at every few seconds.
pub fn wait_for_order(lab: &Lab, host: &str) {
    for _ in 0..600 {
        if !lab.json(&["host", "show", host])["order"].is_null() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("no order was opened for {host}: {}", lab.json(&["host", "show", host]));
}

fn post(connection: &mut Connection, path: &str, body: &Value) -> Value {
    let answer = connection.ask("POST", path, body.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// H7: one key is one request, however often it is sent, also when its order is over.
#[test]
fn h7_one_key_is_one_order() {
    let (lab, _) = with_fleet();
    let reimage = |key: &str| lab.try_regild(&["host", "reimage", "n1", "--reason", "x", "--key", key]);
    for _ in 0..3 {
        let output = reimage("nightly-7");
        assert!(output.status.success() && said(&output).contains("order 1 is open"), "{}", said(&output));
    }
    let before = everything(&lab);
    assert!(refused(&reimage("nightly-8")).contains("order 1 is open already"));
    assert_eq!(everything(&lab), before);
    lab.regild(&["host", "hold", "n1", "--reason", "over"]);
    lab.regild(&["host", "release", "n1"]);
    let output = reimage("nightly-7");
    assert!(
        output.status.success() && said(&output).contains("was carried out before; no new order"),
        "{}",
        said(&output)
    );
    assert_eq!(lab.json(&["host", "show", "n1"])["generation"], 1);
    assert!(said(&reimage("nightly-8")).contains("order 2 is open"));
    // Told again late, behind a newer one, it is still that request.
    lab.regild(&["host", "hold", "n1", "--reason", "over"]);
    lab.regild(&["host", "release", "n1"]);
    assert!(said(&reimage("nightly-7")).contains("was carried out before; no new order"));
    assert_eq!(lab.json(&["host", "show", "n1"])["generation"], 2);
}

/// H7: of a hundred requests at one moment, each a request of its own, one is an order and the others are refused.
#[test]
fn h7_of_a_hundred_requests_at_once_one_is_an_order() {
    let (lab, _) = with_fleet();
    let (lab, barrier) = (&lab, &Barrier::new(100));
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let ask = |number: u32| {
            let socket = lab.socket();
            move || {
                let mut connection = Connection::unix(&socket);
                let body = json!({ "ids": ["n1"], "by": "ann", "reason": "x", "key": format!("key-{number}") });
                barrier.wait();
                post(&mut connection, "/v1/reimage", &body)["hosts"][0].clone()
            }
        };
        let threads: Vec<_> = (0..100).map(|number| scope.spawn(ask(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let opened = answers.iter().filter(|answer| answer["order"] == 1 && answer["refused"].is_null()).count();
    let turned_away = |answer: &&Value| answer["refused"].as_str().is_some_and(|why| why.contains("order 1 is open"));
    assert_eq!((opened, answers.iter().filter(turned_away).count()), (1, 99), "{answers:?}");
    let host = lab.json(&["host", "show", "n1"]);
    assert_eq!((&host["generation"], &host["order"]["causes"].as_array().unwrap().len()), (&1.into(), &1), "{host}");
}
