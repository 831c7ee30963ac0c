//! The installed agent's questions (`POST /agent/v1/standby`), asked of the real server: who is told to reboot, how
//! often, and what the record says of it. That a machine then really comes is shown in `long_roads`.

use regild::wire::agent::{DiskId, Event};
use serde_json::{Value, json};

use crate::lab::{CHECK_IN, IMAGE, Lab, Machine, REPORT, STRANGER};
use crate::raw::Answer;

pub const STANDBY: &str = "/agent/v1/standby";

fn asks(lab: &Lab, machine: &Machine, up_seconds: u64) -> Answer {
    machine.say(lab, STANDBY, &json!({ "image": IMAGE, "up_seconds": up_seconds, "uefi": true }))
}

/// A question that must leave the machine alone; why.
#[track_caller]
fn stays(lab: &Lab, machine: &Machine, up_seconds: u64) -> String {
    let answer = asks(lab, machine, up_seconds).json();
    assert_eq!(answer["reboot"], Value::Null, "{answer}");
    answer["reason"].as_str().unwrap().to_owned()
}

#[track_caller]
fn is_told(lab: &Lab, machine: &Machine, up_seconds: u64, generation: u64) {
    let script = machine.script_path().replace("bios", "uefi");
    assert_eq!(asks(lab, machine, up_seconds).json()["reboot"], json!({ "generation": generation, "script": script }));
}

/// The lines of history that are the power's.
fn of_power(lab: &Lab, machine: &Machine) -> Vec<String> {
    let lines = lab.json(&["host", "history", &machine.mac]);
    let lines = lines.as_array().unwrap().iter().filter(|line| line["actor"] == "power");
    lines.map(|line| line["cause"].as_str().unwrap().to_owned()).collect()
}

/// Plays the machine's part of an order up to its closing.
fn is_rebuilt(lab: &Lab, machine: &Machine) {
    let orders = machine.orders(lab);
    assert_eq!(machine.say(lab, CHECK_IN, &machine.check_in(&orders, "s")).status, 200);
    let disk = DiskId { serial: Some("d".into()), wwn: None, size_bytes: 1 << 30 };
    let report = machine.report(orders.generation, "s", Event::Verified { disk });
    assert_eq!(machine.say(lab, REPORT, &report).status, 200);
}

/// Reboots by the group's driver.
fn with_agent() -> (Lab, Machine) {
    let lab = Lab::new();
    lab.import_image();
    lab.apply("[group.default]\npower = \"agent\"\n", &[]);
    let machine = Machine::plug_in(&lab, 1);
    machine.script(&lab);
    (lab, machine)
}

/// Promises: the word of the standby confirms what was written; an open order is told to the machine that it is for,
/// once, and again only to a system that has not rebooted since; all of it is in the record, and `host show` says who
/// makes the machine come.
#[test]
fn an_order_reboots_its_machine_once_through_the_installed_agent() {
    let (mut lab, machine) = with_agent();
    assert_eq!(stays(&lab, &machine, 60), "this machine is not approved");
    let said = lab.regild(&["host", "approve", &machine.mac, "--image", IMAGE]);
    assert!(said.contains("its installed agent reboots it when it next asks"), "{said}");
    is_rebuilt(&lab, &machine);
    assert_eq!(lab.host(&machine)["state"], "rebooting");
    assert_eq!(stays(&lab, &machine, 9), "no order is open for this machine");
    let host = lab.host(&machine);
    assert_eq!(
        (&host["state"], &host["detail"], &host["power"]),
        (&"ready".into(), &"confirmed".into(), &"agent".into())
    );
    assert!(host["agent_heard_at"].is_u64(), "{host}");
    assert_eq!(of_power(&lab, &machine), Vec::<String>::new());

    let said = lab.regild(&["host", "reimage", &machine.mac, "--reason", "patch"]);
    assert!(said.contains("order 2 is open") && said.contains("its installed agent reboots it"), "{said}");
    is_told(&lab, &machine, 3600, 2);
    let told = [
        "agent: boot to network, for order 2".to_owned(),
        format!("told the installed agent to reboot; it runs {IMAGE}, up 1h"),
    ];
    assert_eq!(of_power(&lab, &machine), told);
    // The answer got lost, and the server was killed meanwhile: the system that did not reboot hears it again.
    lab.kill();
    lab.start();
    is_told(&lab, &machine, 3630, 2);
    // It came back to its disk: it would for ever.
    for up_seconds in [0, 0, 0] {
        let why = stays(&lab, &machine, up_seconds);
        assert!(why.contains("told to reboot and did not netboot"), "{why}");
    }
    assert_eq!(of_power(&lab, &machine), told, "what is no news was written down");
    assert_eq!(lab.host(&machine)["order"]["attempts"], 0, "a question spent an attempt");
    is_rebuilt(&lab, &machine);
}

/// Promises: nobody is told about another machine; held, stopped and protected machines and those of another driver
/// are never told, and nothing of it is written down.
#[test]
fn who_must_not_be_rebuilt_or_is_another_is_not_told() {
    let (lab, machine) = with_agent();
    lab.regild(&["host", "approve", &machine.mac, "--image", IMAGE]);
    let other = Machine::plug_in(&lab, 2);
    other.script(&lab);

    // To speak for another machine there are no words: who asks is whom the address is leased to.
    assert_eq!(stays(&lab, &other, 60), "this machine is not approved");
    let named = json!({ "image": IMAGE, "up_seconds": 60, "uefi": true, "mac": machine.mac });
    assert_eq!(other.say(&lab, STANDBY, &named).status, 400);
    let body = serde_json::to_vec(&json!({ "image": IMAGE, "up_seconds": 60, "uefi": true })).unwrap();
    let stranger = lab.from(STRANGER).ask("POST", STANDBY, &body);
    assert_eq!((stranger.status, stranger.text().contains(&machine.mac)), (403, false), "{}", stranger.text());

    lab.regild(&["stop", "--reason", "smoke"]);
    assert_eq!(stays(&lab, &machine, 60), "everything is stopped by an operator");
    lab.regild(&["resume", "--reason", "toast"]);

    let host = |more: &str| format!("[[host]]\nmac = \"{}\"\n{more}", machine.mac);
    lab.apply(&host("labels = { protected = \"yes\" }\n"), &[]);
    assert_eq!(stays(&lab, &machine, 60), "this machine is protected");
    lab.apply(&host("labels = {}\n"), &["--loosen"]);

    // The host's own driver goes before its group's.
    let file = lab.document("power.toml", "driver = \"manual\"\n");
    lab.regild(&["host", "power", &machine.mac, "-f", &file]);
    let why = stays(&lab, &machine, 60);
    assert!(why.contains("power driver \"agent\" is set neither for the host nor its group"), "{why}");
    let file = lab.document("power.toml", "driver = \"agent\"\n");
    lab.regild(&["host", "power", &machine.mac, "-f", &file]);

    assert_eq!(of_power(&lab, &machine), Vec::<String>::new());
    is_told(&lab, &machine, 60, 1);
    lab.regild(&["host", "hold", &machine.mac, "--reason", "look"]);
    assert_eq!(stays(&lab, &machine, 90), "this machine is held by an operator");
}
