//! `regild stop` over the real binary: it holds at once, without the store and without the server, and over restarts.

use regild::wire::agent::{Event, Step};
use rustix::process::{Pid, Signal};

use crate::fleet::{everything, ordered, with_fleet};
use crate::lab::{CHECK_IN, IMAGE, Lab, Machine, REPORT, STRANGER};
use crate::requests::wait_for_order;

fn signal(lab: &Lab, signal: Signal) {
    let pid = Pid::from_raw(lab.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[track_caller]
fn is_sent_to_its_disk(lab: &Lab, machine: &Machine) {
    let script = machine.script(lab);
    assert!(script.contains("sanboot") && script.contains("everything is stopped"), "{script}");
}

/// Once the command has returned no order is opened and none begins; what was begun goes on; `resume` ends it all.
#[test]
fn what_is_stopped_waits_and_goes_on_after_resume() {
    let (lab, _) = with_fleet();
    let begun = Machine::approved(&lab, 1);
    let orders = begun.orders(&lab);
    let queued = Machine::approved(&lab, 2);
    let waits = Machine::plug_in(&lab, 3);
    waits.script(&lab);
    lab.regild(&["stop", "--reason", "smoke in row 3"]);

    let said = lab.regild(&["host", "reimage", "n1", "--reason", "x"]);
    assert!(said.contains("waits: everything is stopped (by root: smoke in row 3)"), "{said}");
    let said = lab.regild(&["host", "approve", &waits.mac, "--image", IMAGE]);
    assert!(said.contains("waits: everything is stopped"), "{said}");
    is_sent_to_its_disk(&lab, &queued);
    assert!(waits.script(&lab).contains("no order is open for this machine"));
    assert_eq!(lab.host(&queued)["order"]["attempts"], 0, "a machine that was sent to its disk lost an attempt");
    // A disk that was begun is finished: half a disk helps nobody.
    assert_eq!(begun.say(&lab, CHECK_IN, &begun.check_in(&orders, "s")).status, 200);
    assert!(begun.script(&lab).contains("regild.token"));
    let brakes = lab.json(&["brakes"]);
    assert_eq!((&brakes["stopped"]["by"], &brakes["waiting"]), (&"root".into(), &2.into()), "{brakes}");

    lab.regild(&["resume", "--reason", "it was toast"]);
    assert!(queued.script(&lab).contains("regild.token"));
    wait_for_order(&lab, "n1");
    wait_for_order(&lab, &waits.mac);
}

/// With `--running-too` an agent that is at work is told to stop, and its machine boots its disk.
#[test]
fn running_too_stops_what_has_begun() {
    let (lab, _) = with_fleet();
    let machine = Machine::approved(&lab, 1);
    let orders = machine.orders(&lab);
    assert_eq!(machine.say(&lab, CHECK_IN, &machine.check_in(&orders, "s")).status, 200);
    let report = machine.report(1, "s", Event::Step { step: Step::Survey });
    assert_eq!(machine.say(&lab, REPORT, &report).json()["go_on"], true);
    lab.regild(&["stop", "--running-too", "--reason", "smoke"]);
    let answer = machine.say(&lab, REPORT, &report).json();
    assert_eq!((&answer["go_on"], &answer["reason"]), (&false.into(), &"stopped by root: smoke".into()));
    // Its lease may have run out meanwhile: its session counts. Who has neither hears nothing of it.
    let unleased = |report| lab.from(STRANGER).ask("POST", REPORT, &serde_json::to_vec(&report).unwrap());
    assert_eq!(unleased(report).json()["go_on"], false);
    let guessed = unleased(machine.report(1, "guess", Event::Step { step: Step::Survey }));
    assert_eq!(guessed.status, 401);
    assert!(!guessed.text().contains("smoke"), "{}", guessed.text());
    is_sent_to_its_disk(&lab, &machine);
    assert_eq!(lab.host(&machine)["order"]["attempts"], 1);
    lab.regild(&["resume", "--reason", "air"]);
    assert!(machine.script(&lab).contains("regild.token"));
}

/// A server that hangs, store and all, is stopped through its state directory: from the first word that it says again
/// nothing begins, and so it is after a crash and a restart.
#[test]
fn a_server_that_hangs_is_stopped_through_its_state_directory_and_stays_so() {
    let (mut lab, _) = with_fleet();
    let queued = Machine::approved(&lab, 1);
    let state = lab.path("state").to_str().unwrap().to_owned();
    signal(&lab, Signal::STOP);
    lab.regild(&["stop", "--reason", "it hangs", "--state-dir", &state]);
    signal(&lab, Signal::CONT);
    is_sent_to_its_disk(&lab, &queued);
    assert!(lab.regild(&["host", "reimage", "n1", "--reason", "x"]).contains("waits: everything is stopped"));
    assert_eq!(lab.json(&["brakes"])["stopped"]["reason"], "it hangs");

    lab.kill();
    lab.start();
    is_sent_to_its_disk(&lab, &queued);
    assert!(lab.regild(&["host", "reimage", "n2", "--reason", "x"]).contains("waits: everything is stopped"));
    let before = everything(&lab);
    assert!(ordered(&lab).iter().all(|name| !name.starts_with('n')), "{:?}", ordered(&lab));

    // Pressed while no server runs at all.
    lab.regild(&["resume", "--reason", "awake"]);
    wait_for_order(&lab, "n1");
    assert_ne!(everything(&lab), before);
    lab.kill();
    lab.regild(&["stop", "--reason", "not again", "--state-dir", &state]);
    lab.start();
    assert!(lab.regild(&["host", "reimage", "n4", "--reason", "x"]).contains("not again"));
    is_sent_to_its_disk(&lab, &queued);
}
