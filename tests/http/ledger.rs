//! The ledger over the real binary: what every machine ran at a time, entries by version, cause and host, exports, and
//! that a removed machine is still in it.

use regild::wire::agent::{Event, Step};
use serde_json::Value;

use crate::fleet::fails;
use crate::lab::{CHECK_IN, IMAGE, Lab, Machine, REPORT};

/// A machine that checks in, clears its disk's head, writes, and says that the image was read back.
fn deploy(lab: &Lab, machine: &Machine, session: &str) {
    let orders = machine.orders(lab);
    assert_eq!(machine.say(lab, CHECK_IN, &machine.check_in(&orders, session)).status, 200);
    let disk = regild::wire::agent::DiskId { serial: Some("disk".into()), wwn: None, size_bytes: 1 << 30 };
    for event in [Event::Step { step: Step::ClearHead }, Event::Verified { disk }] {
        let said = machine.say(lab, REPORT, &machine.report(orders.generation, session, event));
        assert!(said.status < 300, "{said:?}");
    }
}

fn column(entries: &Value, key: &str) -> Vec<String> {
    let text = |entry: &Value| entry[key].as_str().map_or_else(|| entry[key].to_string(), str::to_owned);
    entries.as_array().unwrap().iter().map(text).collect()
}

#[test]
fn what_every_machine_ran_since_when_why_by_whom_and_what_before() {
    let mut lab = Lab::new();
    lab.import_image();
    assert_eq!(lab.regild(&["ledger", "list", "-o", "json"]).trim(), "[]");
    let empty = lab.regild(&["ledger", "tip"]).trim().to_string();
    let (one, two) = (Machine::approved(&lab, 1), Machine::approved(&lab, 2));
    deploy(&lab, &one, "first");
    deploy(&lab, &two, "first");
    let noted = lab.regild(&["ledger", "tip"]).trim().to_string();
    lab.regild(&["host", "reimage", &one.mac, "--reason", "=odd, \"quoted\""]);
    deploy(&lab, &one, "second");

    // Now, and before anything was.
    let now = lab.json(&["host", "list", "--at", "2100-01-01"]);
    assert_eq!(column(&now, "id"), [one.host.clone(), two.host.clone()]);
    assert_eq!(column(&now, "reported"), [IMAGE, IMAGE]);
    assert_eq!(column(&now, "generation"), ["2", "1"]);
    assert_eq!((&now[0]["former"], &now[0]["causes"][0]), (&Value::from(IMAGE), &Value::from("operator")));
    assert_eq!(lab.json(&["host", "list", "--at", "2020-01-01T12:00:00Z"]), Value::Array(Vec::new()));
    assert!(fails(&lab, &["host", "list", "--at", "yesterday"]).contains("2026-03-01"));

    // By host, kind, version and cause.
    let entries = |more: &[&str]| lab.json(&[&["ledger", "list"], more].concat());
    assert_eq!(column(&entries(&["--host", &two.mac]), "kind"), ["ordered", "runs"]);
    assert_eq!(column(&entries(&["--kind", "ordered"]), "host"), [&one.host, &two.host, &one.host].map(String::clone));
    assert_eq!(column(&entries(&["--image", IMAGE, "--newest", "1"]), "number"), ["7"]);
    assert_eq!(column(&entries(&["--cause", "drift"]), "number"), Vec::<String>::new());
    for (wrong, said) in
        [(["--cause", "mood"], "max_age"), (["--kind", "x"], "ordered and runs"), (["--host", "nobody"], "no host")]
    {
        assert!(fails(&lab, &[&["ledger", "list"][..], &wrong].concat()).contains(said));
    }

    // Exports are whole, also as a file, which is never written over.
    let lines = lab.regild(&["ledger", "export"]);
    assert_eq!(lines.lines().count(), 7);
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    let tip = lab.regild(&["ledger", "tip"]).trim().to_string();
    assert_eq!(tip, format!("7:{}", last["digest"].as_str().unwrap()));
    let file = lab.path("ledger.csv").display().to_string();
    lab.regild(&["ledger", "export", "--form", "csv", &file]);
    let csv = std::fs::read_to_string(&file).unwrap();
    assert!(csv.lines().count() == 8 && csv.contains("\"'=odd, \"\"quoted\"\"\""), "{csv}");
    assert!(fails(&lab, &["ledger", "export", &file]).contains("exists"));

    // It holds, over a kill and after the machine's record is gone; a tip that was never ours does not.
    lab.kill();
    lab.start();
    lab.regild(&["host", "remove", &one.mac]);
    for tip in [&noted, &tip, &empty] {
        assert!(lab.regild(&["ledger", "verify", "--tip", tip]).contains("up to 8:"));
    }
    let other = noted.split(':').next().unwrap().to_string() + ":" + &"0".repeat(64);
    assert!(fails(&lab, &["ledger", "verify", "--tip", &other]).contains("rewritten"));
    assert!(fails(&lab, &["ledger", "verify", "--tip", "twelve"]).contains("is no tip"));
    assert_eq!(column(&lab.json(&["host", "list", "--at", "2100-01-01"]), "id"), [two.host.as_str()]);
    let gone = lab.json(&["ledger", "list", "--host", &one.host]);
    assert_eq!(gone.as_array().unwrap().len(), 6);
    assert_eq!(gone[5]["image"], Value::Null);
}
