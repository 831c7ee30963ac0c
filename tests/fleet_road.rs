//! The fleet on real machines: three of them, each with a controller that switches it, are built, meet a rollout of a
//! release that is sick and one of a release that is well, and get old. No hand is on a power switch.

mod lab;

#[path = "fleet_road/fleet.rs"]
mod fleet;

use fleet::{Fleet, Node};
use lab::Firmware;
use lab::redfish::Switch;
use regild::decide::schedule::age_due_at;
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// Machines of which none gets much older than another by its share of the jitter (150 s, 150 s, 151 s of 360 s): so the
/// one that was built first is the first to be too old.
const MACHINES: [(&str, &str, Firmware); 3] = [
    ("node-1", "52:54:00:77:00:22", Firmware::Bios),
    ("node-2", "52:54:00:77:00:40", Firmware::Uefi),
    ("node-3", "52:54:00:77:00:2b", Firmware::Bios),
];
/// Two machines at once are as many as two cores emulate at a decent pace.
const GROUP: &str = r#"
[group.lab.limits]
concurrent_max = 2

[group.lab.health]
soak = "5s"
check = { http = "http://{address}:8080/cgi-bin/health" }
"#;
/// The least that a document can say (`config::fleet::file`).
const SCHEDULE: &str = r#"
[group.lab.schedule]
max_age = "1h"
pause = "10m"
"#;
const MAX_AGE_SECONDS: u64 = 3600;
/// Firmware, deploy, reboot and first word of one machine under emulation, beside another one and other tests.
const BUILD: Duration = Duration::from_secs(400);
/// `--health-seconds`.
const HEALTH: Duration = Duration::from_secs(60);
const RESTART: [Switch; 2] = [Switch::Off, Switch::On { network: true }];

/// Promises: a canary that fails its health check halts the rollout before any other machine is touched, and the
/// operator is told why; a good version goes through wave by wave, in the order of the plan, each host's history naming
/// the rollout; the oldest machine is rebuilt by its age alone; regild switches the machines itself.
#[test]
fn a_sick_canary_halts_a_good_version_goes_through_and_age_rebuilds_the_oldest() {
    let mut fleet = Fleet::new(env!("CARGO_BIN_EXE_regild"), &MACHINES);
    ["v1", "v2-sick", "v2"].iter().for_each(|version| fleet.import(version));
    fleet.say("three images are in the store");
    blank_machines_become_v1(&fleet);
    a_sick_canary_halts_the_rollout(&fleet);
    a_good_version_goes_through_by_waves(&fleet);
    the_oldest_is_rebuilt_by_its_age(&mut fleet);
}

/// Racked, cabled, off: documents name them, one order is asked for, and they are switched on by it.
fn blank_machines_become_v1(fleet: &Fleet) {
    fleet.apply(&format!("{}{GROUP}", fleet.hosts()));
    fleet.give_power();
    assert!(fleet.nodes.iter().all(|node| node.switched().is_empty()), "a document switched a machine");
    fleet.server.regild(&["host", "reimage", "--select", "group=lab", "--image", "tiny:v1", "--reason", "first build"]);
    fleet.until_ready("tiny:v1", BUILD, &fleet.nodes);
    for node in &fleet.nodes {
        assert_eq!(node.switched(), [Switch::On { network: true }], "{}", node.name);
        assert_eq!(fleet.server.host(node.name)["generation"], 1);
    }
}

fn a_sick_canary_halts_the_rollout(fleet: &Fleet) {
    let asked = ["--group", "lab", "--image", "tiny:v2-sick", "--reason", "a release that nobody tried", "--waves"];
    let asked = [&["rollout", "start"], &asked[..], &["100%", "--health-seconds", "60"]].concat();
    let plan = fleet.server.regild(&[&asked[..], &["--dry-run"]].concat());
    let order = Fleet::order_of(&plan);
    assert_eq!(order.len(), 3, "{plan}");
    let (canary, others) = (fleet.node(&order[0]), [fleet.node(&order[1]), fleet.node(&order[2])]);
    let before = others.map(|node| fleet.untouched(node));

    fleet.server.regild(&asked);
    fleet.until_ready("tiny:v2-sick", BUILD, [canary]);
    let shown = fleet.until_stage("1", "halted", HEALTH + BUILD);

    // The canary did all that a machine can be asked for but to be well.
    let host = fleet.server.host(canary.name);
    assert_eq!((&host["state"], &host["detail"]), (&"ready".into(), &"confirmed".into()));
    assert_eq!((&host["generation"], &host["reported_generation"]), (&2.into(), &2.into()));
    assert_eq!(canary.switched(), [&[Switch::On { network: true }], &RESTART[..]].concat());
    assert_eq!(others.map(|node| fleet.untouched(node)), before, "a machine behind the canary was touched");
    for node in others {
        assert_eq!(fleet.server.host(node.name)["asks"], Value::Array(Vec::new()), "{} is asked", node.name);
    }
    assert_eq!((&shown["wave"], &shown["failed"], &shown["asked"]), (&1.into(), &1.into(), &1.into()));
    let text = fleet.server.regild(&["rollout", "show", "1"]);
    for why in ["halted", "1 failed, the budget is 0", canary.name, "answered 500"] {
        assert!(text.contains(why), "`rollout show` does not say {why:?}:\n{text}");
    }
}

fn a_good_version_goes_through_by_waves(fleet: &Fleet) {
    let asked = ["--group", "lab", "--image", "tiny:v2", "--reason", "the release that was meant", "--waves", "100%"];
    let asked = [&["rollout", "start"], &asked[..]].concat();
    let refused = fleet.server.try_regild(&asked);
    assert!(!refused.status.success(), "hosts of a rollout that halted were given to another one");
    fleet.server.regild(&["rollout", "abort", "1", "--reason", "the release is sick"]);
    let plan = fleet.server.regild(&[&asked[..], &["--dry-run"]].concat());
    let order = Fleet::order_of(&plan);

    fleet.server.regild(&asked);
    let shown = fleet.until_stage("2", "done", BUILD * 2);
    assert_eq!((&shown["waves"], &shown["healthy"], &shown["failed"]), (&2.into(), &3.into(), &0.into()));
    fleet.until_ready("tiny:v2", Duration::ZERO, &fleet.nodes);

    // What was planned, in the order of the plan; nothing of the second wave before the canary was through.
    let said = |kind: &str, host: &String| (kind.to_string(), host.clone());
    let ledger = fleet.ledger("rollout 2");
    let ordered: Vec<_> = ledger.iter().filter(|(kind, _)| kind == "ordered").map(|(_, host)| host.clone()).collect();
    assert_eq!(ordered, order, "{plan}");
    assert_eq!(ledger[..2], [said("ordered", &order[0]), said("runs", &order[0])]);
    for node in &fleet.nodes {
        let history = fleet.history(node.name);
        let named = history.iter().any(|line| line.contains("rollout 2: the release that was meant"));
        assert!(named, "the history of {} does not name the rollout: {history:#?}", node.name);
        let restarts = node.switched().len() / 2;
        assert_eq!(fleet.server.host(node.name)["generation"], restarts + 1, "{}", node.name);
    }
    // Carried out: planning again plans nothing.
    let again = fleet.server.regild(&[&asked[..], &["--dry-run"]].concat());
    assert!(again.contains("nothing to do") && Fleet::order_of(&again).is_empty(), "{again}");
}

/// An hour passes while the server is off.
fn the_oldest_is_rebuilt_by_its_age(fleet: &mut Fleet) {
    let said = fleet.apply(&format!("{GROUP}{SCHEDULE}"));
    assert!(said.contains("max_age"), "{said}");
    let built_at = |node: &&Node| fleet.server.host(node.name)["built_at"].as_u64().unwrap();
    let oldest = fleet.nodes.iter().min_by_key(built_at).expect("three machines");
    let due_at = |node: &Node| age_due_at(&node.id, built_at(&node), MAX_AGE_SECONDS);
    let first_due = due_at(oldest);
    assert!(fleet.nodes.iter().all(|node| due_at(node) >= first_due), "the jitter turned the order of age round");
    let (oldest, generation) = (oldest.id.clone(), fleet.server.host(oldest.name)["generation"].as_u64().unwrap());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();

    fleet.server.kill();
    fleet.server.start_later(&fleet.lab, first_due - now - 5);
    fleet.say("the server is back, 5 s before the oldest machine is too old");
    let oldest = fleet.node(&oldest);
    fleet.until(&format!("{} was rebuilt by its age", oldest.name), BUILD, || {
        let host = fleet.server.host(oldest.name);
        let rebuilt = host["generation"] == generation + 1 && host["reported_generation"] == generation + 1;
        (rebuilt && host["state"] == "ready" && host["detail"] == "confirmed").then_some(())
    });

    let line = &fleet.json(&["ledger", "list", "--cause", "max_age"])[0];
    assert_eq!((&line["host"], &line["kind"]), (&oldest.id.as_str().into(), &"ordered".into()), "{line:#}");
    assert_eq!((&line["by"], &line["causes"][0]), (&"schedule".into(), &"max_age".into()), "{line:#}");
    let history = fleet.history(oldest.name);
    assert!(history.iter().any(|line| line.contains("max_age is 1h")), "{history:#?}");
    assert_eq!(oldest.switched().rchunks(2).next(), Some(&RESTART[..]), "{} was not switched", oldest.name);
}
