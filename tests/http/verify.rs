//! Looks at a disk from outside, asked of the real server: whose token opens one, what it opens and what never, and what
//! the record says of it. That the deploy environment then really looks is shown in `verify_road`.

use regild::wire::agent::{DiskId, Event, Job, Step};
use regild::wire::drift::{Finding, Node, PathText, Report, Scan};
use regild::wire::verify::{VerifyAnswer, VerifyCheckIn, VerifyJob, VerifyOutcome, VerifyReport};
use serde_json::{Value, json};

use crate::lab::{CHECK_IN, IMAGE, Lab, Machine, Orders, REPORT, STRANGER};
use crate::raw::Answer;
use crate::standby::STANDBY;

pub const VERIFY_CHECK_IN: &str = "/agent/v1/verify/checkin";
pub const VERIFY_REPORT: &str = "/agent/v1/verify/report";

/// What is on the kernel command line of a look.
struct Call {
    number: u64,
    token: String,
}

fn disk() -> DiskId {
    DiskId { serial: Some("d".into()), wwn: None, size_bytes: 1 << 30 }
}

/// A host that was built and booted.
fn ready(lab: &Lab, number: u8) -> Machine {
    let machine = Machine::approved(lab, number);
    is_built(lab, &machine);
    machine.script(lab);
    assert_eq!(lab.host(&machine)["state"], "ready");
    machine
}

fn is_built(lab: &Lab, machine: &Machine) {
    let orders = machine.orders(lab);
    assert_eq!(machine.say(lab, CHECK_IN, &machine.check_in(&orders, "builder")).status, 200);
    let report = machine.report(orders.generation, "builder", Event::Verified { disk: disk() });
    assert_eq!(machine.say(lab, REPORT, &report).status, 200);
}

fn calls(lab: &Lab, machine: &Machine) -> Call {
    let script = machine.script(lab);
    let word = |key: &str| {
        let mut words = script.split_whitespace().filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        words.next().unwrap_or_else(|| panic!("no {key} in {script}")).to_owned()
    };
    assert!(!script.contains("regild.generation"), "{script}");
    Call { number: word("regild.verify").parse().unwrap(), token: word("regild.token") }
}

fn check_in(machine: &Machine, call: &Call, session: &str) -> VerifyCheckIn {
    VerifyCheckIn { session: session.to_owned(), ..machine.verify_check_in(call.number, &call.token) }
}

fn says(machine: &Machine, number: u64, session: &str, outcome: VerifyOutcome) -> VerifyReport {
    VerifyReport { outcome, ..machine.verify_report(number, session) }
}

fn failed() -> VerifyOutcome {
    VerifyOutcome::Failed { reason: "no\u{202e} disk\n".into(), listing: vec!["vda: another".into()] }
}

fn looked(machine: &Machine, generation: u64) -> VerifyOutcome {
    let node = Node {
        kind: "directory".into(),
        mode: 0,
        uid: 0,
        gid: 0,
        modified: 0,
        bytes: None,
        digest: None,
        target: None,
        device: None,
        xattrs: Vec::new(),
    };
    let finding = Finding {
        path: PathText(b"/x".to_vec()),
        expected: None,
        seen: Some(node),
        first_seen: 1,
        scans: 1,
        content: None,
    };
    let scan = Scan { kind: "outside".into(), ..Scan::default() };
    let host = machine.host.clone();
    let report = Report { host, generation, scan, findings: vec![finding], findings_total: 1, ..Report::default() };
    VerifyOutcome::Looked { report }
}

fn answer(answer: &Answer) -> VerifyAnswer {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

#[track_caller]
fn refused(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert!(serde_json::from_slice::<VerifyJob>(&answer.body).is_err());
    assert!(!answer.text().contains("manifest"), "{}", answer.text());
}

fn history(lab: &Lab, machine: &Machine) -> Vec<String> {
    let lines = lab.json(&["host", "history", &machine.mac]);
    lines.as_array().unwrap().iter().map(|line| line["cause"].as_str().unwrap().to_owned()).collect()
}

/// Promises: a wish is served once the machine netboots, under a token for one session from its host's address; the job
/// names what to look at; a report ends it, said twice is said once; and the host is as Ready and as built as before.
#[test]
fn a_look_from_outside_is_asked_for_served_reported_and_on_record() {
    let lab = Lab::new();
    lab.import_image();
    let machine = ready(&lab, 1);
    let neighbour = ready(&lab, 2);
    let before = lab.host(&machine);
    let said = lab.regild(&["host", "verify", &machine.mac, "--reason", "odd logins"]);
    assert!(said.contains("verification 1 waits for its machine; it is looked at when it next netboots"), "{said}");
    let first = calls(&lab, &machine);
    let call = calls(&lab, &machine);
    assert_eq!(call.number, 1);

    // The first script's token is dead, a stolen one is worth nothing elsewhere, and it serves one session.
    refused(&machine.say(&lab, VERIFY_CHECK_IN, &check_in(&machine, &first, "a")), 401);
    let stolen = serde_json::to_vec(&check_in(&machine, &call, "thief")).unwrap();
    refused(&lab.from(STRANGER).ask("POST", VERIFY_CHECK_IN, &stolen), 401);
    refused(&lab.from(neighbour.address).ask("POST", VERIFY_CHECK_IN, &stolen), 401);
    let taken = machine.say(&lab, VERIFY_CHECK_IN, &check_in(&machine, &call, "a"));
    let job: VerifyJob = serde_json::from_slice(&taken.body).unwrap();
    assert_eq!((job.number, &job.own_disk), (1, &disk()));
    assert_eq!((job.terms.image.as_str(), job.terms.generation), (IMAGE, 1));
    assert_eq!(machine.say(&lab, VERIFY_CHECK_IN, &check_in(&machine, &call, "a")).status, 200, "the answer was lost");
    refused(&machine.say(&lab, VERIFY_CHECK_IN, &check_in(&machine, &call, "b")), 401);

    // Only the session reports, from the host's address, and what it may say.
    refused(&machine.say(&lab, VERIFY_REPORT, &says(&machine, 1, "b", failed())), 401);
    refused(&neighbour.say(&lab, VERIFY_REPORT, &says(&machine, 1, "a", failed())), 401);
    refused(&machine.say(&lab, VERIFY_REPORT, &says(&machine, 1, "a", looked(&machine, 7))), 400);
    assert!(answer(&machine.say(&lab, VERIFY_REPORT, &says(&machine, 1, "a", failed()))).taken);
    assert!(answer(&machine.say(&lab, VERIFY_REPORT, &says(&machine, 1, "a", failed()))).taken, "said twice");
    assert!(!answer(&machine.say(&lab, VERIFY_REPORT, &says(&machine, 1, "b", failed()))).taken);
    assert!(machine.script(&lab).contains("no order is open for this machine"));

    let after = lab.host(&machine);
    let result = "failed: no disk; vda: another";
    assert_eq!((&after["verify"]["asked"], &after["verify"]["last"]["result"]), (&Value::Null, &json!(result)));
    for same in ["state", "since", "generation", "reported", "reported_generation", "built_at", "order"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    let told = history(&lab, &machine);
    let told: Vec<&str> = told.iter().rev().take(5).rev().map(String::as_str).collect();
    assert_eq!(told[0], "verify asked by root: odd logins");
    assert_eq!(
        told[3..],
        [
            "verification 1: the deploy environment looks at the disk",
            "verified from outside: failed: no disk; vda: another"
        ]
    );
    let shown = lab.regild(&["host", "show", &machine.mac]);
    assert!(shown.contains("from outside: failed: no disk; vda: another"), "{shown}");
}

/// No order, no write: nothing that belongs to a look opens a job, a report or an attempt of an order, whichever way it
/// is turned; and the other way round.
#[test]
fn the_token_of_a_look_never_gives_a_job_and_an_orders_token_never_a_look() {
    let lab = Lab::new();
    lab.import_image();
    let machine = ready(&lab, 1);
    lab.regild(&["host", "verify", &machine.mac, "--reason", "look"]);
    let call = calls(&lab, &machine);
    let as_order = |generation| Orders { generation, token: call.token.clone() };
    for generation in [0, 1, 2] {
        let answer = machine.say(&lab, CHECK_IN, &machine.check_in(&as_order(generation), "a"));
        assert!(serde_json::from_slice::<Job>(&answer.body).is_err());
        refused(&answer, 409);
    }
    assert_eq!(machine.say(&lab, VERIFY_CHECK_IN, &check_in(&machine, &call, "a")).status, 200);

    // An order is opened meanwhile: the look is over, and its session may do nothing under the order.
    lab.regild(&["host", "reimage", &machine.mac, "--reason", "patch"]);
    assert!(!answer(&machine.say(&lab, VERIFY_REPORT, &says(&machine, 1, "a", failed()))).taken);
    let step = || Event::Step { step: Step::ClearHead };
    let said = machine.say(&lab, REPORT, &machine.report(2, "a", step()));
    assert_eq!(said.status, 401, "{}", said.text());
    refused(&machine.say(&lab, CHECK_IN, &machine.check_in(&as_order(2), "a")), 401);
    let host = lab.host(&machine);
    assert_eq!((&host["state"], &host["order"]["attempts"]), (&"queued".into(), &0.into()), "{host}");
    assert_eq!(
        history(&lab, &machine).last().unwrap(),
        "order 2 for tiny:v1: operator: patch; verification 1 is dropped"
    );

    let orders = machine.orders(&lab);
    let taken = Call { number: 1, token: orders.token.clone() };
    refused(&machine.say(&lab, VERIFY_CHECK_IN, &check_in(&machine, &taken, "b")), 409);
    let asked = lab.try_regild(&["host", "verify", &machine.mac, "--reason", "look"]);
    assert!(!asked.status.success() && String::from_utf8_lossy(&asked.stderr).contains("order 2 is open already"));
}

/// Promises: a machine that is stopped or held boots its disk; boots without a report are bounded; both are on record.
#[test]
fn a_look_waits_while_everything_is_stopped_and_ends_by_its_boots_or_a_hold() {
    let lab = Lab::new();
    lab.import_image();
    let machine = ready(&lab, 1);
    lab.regild(&["host", "verify", &machine.mac, "--reason", "look"]);
    lab.regild(&["stop", "--reason", "storm"]);
    assert!(machine.script(&lab).contains("everything is stopped by an operator"));
    lab.regild(&["resume", "--reason", "over"]);
    for _ in 0..3 {
        calls(&lab, &machine);
    }
    assert!(machine.script(&lab).contains("booting the local disk"));
    assert!(history(&lab, &machine).last().unwrap().contains("failed: 3 boots of the deploy environment ended"));
    lab.regild(&["host", "verify", &machine.mac, "--reason", "again"]);
    lab.regild(&["host", "hold", &machine.mac, "--reason", "mine"]);
    assert!(machine.script(&lab).contains("this machine is held by an operator"));
    assert!(history(&lab, &machine).last().unwrap().ends_with("verification 2 is dropped"));
    let asked = lab.try_regild(&["host", "verify", &machine.mac, "--reason", "look"]);
    assert!(!asked.status.success() && String::from_utf8_lossy(&asked.stderr).contains("the host is held"));
}

/// Promises: only `--power` makes a machine come, once; a protected one is not rebooted for it, and then nothing is done.
#[test]
fn a_look_reboots_a_machine_only_where_that_was_asked_for() {
    let lab = Lab::new();
    lab.import_image();
    lab.apply("[group.default]\npower = \"agent\"\n", &[]);
    let machine = ready(&lab, 1);
    let asks = |up_seconds: u64| {
        machine.say(&lab, STANDBY, &json!({ "image": IMAGE, "up_seconds": up_seconds, "uefi": false })).json()
    };
    lab.regild(&["host", "verify", &machine.mac, "--reason", "look"]);
    assert_eq!(asks(500)["reason"], "its disk is verified when it next netboots");
    let said = lab.regild(&["host", "verify", &machine.mac, "--reason", "now", "--power"]);
    assert!(said.contains("verification 1 waits for its machine; its installed agent reboots it"), "{said}");
    let told = asks(500);
    assert_eq!(
        (&told["reboot"]["script"], &told["reason"]),
        (&json!(machine.script_path()), &json!("its disk is to be verified from outside"))
    );
    assert_eq!(asks(0)["reboot"], Value::Null, "it came back to its disk");
    let power = history(&lab, &machine);
    assert!(power.iter().any(|line| line == "agent: boot to network, for verification 1"), "{power:?}");

    let neighbour = ready(&lab, 2);
    let denied = format!("[policy]\ndenied = [\"{}\"]\n[group.default]\npower = \"agent\"\n", neighbour.mac);
    lab.apply(&denied, &["--loosen"]);
    let asked = lab.try_regild(&["host", "verify", &neighbour.mac, "--reason", "now", "--power"]);
    assert!(!asked.status.success(), "a protected machine is rebooted");
    assert_eq!(lab.host(&neighbour)["verify"], Value::Null, "nothing was done");
    lab.regild(&["host", "verify", &neighbour.mac, "--reason", "when it comes by itself"]);
}
