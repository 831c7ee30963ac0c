//! X1, X2: what a token and a session are good for, and what happens to whoever guesses.

use std::path::Path;
use std::time::Instant;

use regild::decide::guesses::{REFUSED_MAX, WINDOW_SECONDS};
use regild::wire::agent::{DiskId, Event, Job, ReportAnswer, Step};

use crate::lab::{CHECK_IN, Lab, Machine, Orders, REPORT, STRANGER};
use crate::raw::Answer;

fn job(answer: &Answer) -> Job {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// Refused as such, and nothing of a job in it.
#[track_caller]
fn no_job(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert!(serde_json::from_slice::<Job>(&answer.body).is_err());
    assert!(!answer.text().contains("manifest"), "{}", answer.text());
}

fn verified() -> Event {
    Event::Verified { disk: DiskId { serial: Some("s".into()), wwn: None, size_bytes: 1 << 30 } }
}

/// X1: a token is good for the latest attempt, from the address that is leased to its host, once; and never again.
/// X2: the second claimant is refused and told of.
#[test]
fn x1_x2_a_token_serves_one_session_of_the_latest_attempt_from_its_hosts_address() {
    let mut lab = Lab::new();
    lab.import_image();
    let machine = Machine::approved(&lab, 1);
    let neighbour = Machine::approved(&lab, 2);
    let first = machine.orders(&lab);

    // Stolen on its way: from an address without a lease, and from another host's, whatever host it names.
    let stolen = serde_json::to_vec(&machine.check_in(&first, "thief")).unwrap();
    no_job(&lab.from(STRANGER).ask("POST", CHECK_IN, &stolen), 401);
    no_job(&lab.from(neighbour.address).ask("POST", CHECK_IN, &stolen), 401);
    no_job(&neighbour.say(&lab, CHECK_IN, &neighbour.check_in(&first, "thief")), 401);

    // The machine was reset: a second script went out, and the first token is dead.
    let second = machine.orders(&lab);
    assert_ne!(first.token, second.token);
    no_job(&machine.say(&lab, CHECK_IN, &machine.check_in(&first, "old agent")), 401);
    let taken = job(&machine.say(&lab, CHECK_IN, &machine.check_in(&second, "agent")));
    assert_eq!((taken.host.as_str(), taken.attempt), (machine.host.as_str(), 2));

    // X2: the same token once more, by somebody else; by the same session it is the same claim.
    no_job(&machine.say(&lab, CHECK_IN, &machine.check_in(&second, "second claimant")), 401);
    assert!(lab.log().contains("a second claimant of an order was refused"), "nobody is told");
    let again = job(&machine.say(&lab, CHECK_IN, &machine.check_in(&second, "agent")));
    assert_eq!(again.attempt, taken.attempt);

    // Reports need the session, not the token, and come from the host's address.
    let step = || Event::Step { step: Step::WriteBody };
    no_job(&machine.say(&lab, REPORT, &machine.report(1, &second.token, step())), 401);
    let report = serde_json::to_vec(&machine.report(1, "agent", step())).unwrap();
    no_job(&lab.from(neighbour.address).ask("POST", REPORT, &report), 401);
    assert_eq!(machine.say(&lab, REPORT, &machine.report(1, "agent", step())).status, 200);
    assert_eq!(machine.say(&lab, REPORT, &machine.report(1, "agent", verified())).status, 200);

    // The order is done: token and session open nothing any more, before a restart of the server and after it.
    for _ in 0..2 {
        no_job(&machine.say(&lab, CHECK_IN, &machine.check_in(&second, "agent")), 409);
        no_job(&lab.from(STRANGER).ask("POST", CHECK_IN, &stolen), 401);
        let answer = machine.say(&lab, REPORT, &machine.report(1, "agent", step()));
        let said: ReportAnswer = serde_json::from_slice(&answer.body).unwrap();
        assert!(!said.go_on, "{said:?}");
        lab.kill();
        lab.start();
    }
    let host = lab.host(&machine);
    assert_eq!((&host["state"], &host["order"]), (&"rebooting".into(), &serde_json::Value::Null), "{host}");
    // Only digests are kept, so only digests can be compared.
    for secret in [&first.token, &second.token] {
        assert_eq!(files_with(&lab.path("state"), secret.as_bytes()), Vec::<String>::new(), "a token is stored");
        assert!(!lab.log().contains(secret.as_str()), "a token is in the log");
    }
}

/// Rule 10, and X1 from within: a machine with a job of its own says in its inventory that it has its neighbour's NIC
/// and asks in its name. Both stay who they are, also after a restart.
#[test]
fn a_machine_that_names_its_neighbours_mac_is_not_taken_for_it() {
    let mut lab = Lab::new();
    lab.import_image();
    // The rogue's id comes first where records are loaded in their order.
    let rogue = Machine::approved(&lab, 1);
    let neighbour = Machine::approved(&lab, 2);
    let mut said = rogue.check_in(&rogue.orders(&lab), "rogue");
    said.inventory.macs.push(neighbour.mac.clone());
    // Without one, no NIC but its own would be looked at.
    said.inventory.system_uuid = Some("rogue".into());
    job(&rogue.say(&lab, CHECK_IN, &said));
    assert!(lab.log().contains("an inventory names a NIC of another approved host"));
    for restart in [false, true] {
        if restart {
            lab.kill();
            lab.start();
        }
        assert_eq!(lab.host(&rogue)["macs"], serde_json::json!([rogue.mac]));
        let orders = neighbour.orders(&lab);
        assert_eq!(job(&neighbour.say(&lab, CHECK_IN, &neighbour.check_in(&orders, "own"))).host, neighbour.host);
        no_job(&rogue.say(&lab, REPORT, &neighbour.report(1, "rogue", verified())), 401);
        no_job(&neighbour.say(&lab, REPORT, &rogue.report(1, "rogue", verified())), 401);
    }
}

/// Files under a directory that contain these bytes.
fn files_with(dir: &Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if std::fs::read(&path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle)) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// X2: two claim at the same moment; one of them gets the job.
#[test]
fn x2_of_two_claimants_at_once_one_gets_the_job() {
    let lab = Lab::new();
    lab.import_image();
    for number in 1..6 {
        let machine = Machine::approved(&lab, number);
        let orders = machine.orders(&lab);
        let mut connections: Vec<_> = (0..4).map(|_| lab.from(machine.address)).collect();
        for (at, connection) in connections.iter_mut().enumerate() {
            let body = serde_json::to_vec(&machine.check_in(&orders, &format!("claimant {at}"))).unwrap();
            let length = format!("Content-Length: {}", body.len());
            connection.head(&[&format!("POST {CHECK_IN} HTTP/1.1"), "Host: regild", &length]);
            connection.writer.write_all(&body).unwrap();
        }
        let mut statuses: Vec<_> = connections.iter_mut().map(|connection| connection.answer().status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401, 401, 401]);
    }
}

/// X1: thousands of guesses, at once and one after the other: few are looked at, the rest is told when to come
/// again, one line is logged, and nobody else is kept waiting.
#[test]
fn x1_guesses_are_bounded_for_each_source() {
    let lab = Lab::new();
    lab.import_image();
    let machine = Machine::approved(&lab, 1);
    let neighbour = Machine::approved(&lab, 2);
    let orders = machine.orders(&lab);
    let guess = |number: usize| {
        let guessed = Orders { token: format!("{number:064x}"), ..orders.clone() };
        serde_json::to_vec(&machine.check_in(&guessed, "guesser")).unwrap()
    };
    let began = Instant::now();
    let mut answers = Vec::new();
    // At once: all are sent before the first answer is read.
    let mut connections: Vec<_> = (0..64).map(|_| lab.from(machine.address)).collect();
    for (number, connection) in connections.iter_mut().enumerate() {
        let body = guess(number);
        let length = format!("Content-Length: {}", body.len());
        connection.head(&[&format!("POST {CHECK_IN} HTTP/1.1"), "Host: regild", &length]);
        connection.writer.write_all(&body).unwrap();
    }
    answers.extend(connections.iter_mut().map(|connection| connection.answer()));
    // And thousands on few connections: so few that none is idle for long enough to be closed, however slow the machine is.
    for number in 64..3064 {
        let connection = &mut connections[number % 8];
        answers.push(connection.ask("POST", CHECK_IN, &guess(number)));
    }
    // The right token, now: the source is not listened to. Reports are behind the same door.
    let right = machine.say(&lab, CHECK_IN, &machine.check_in(&orders, "agent"));
    let report = machine.say(&lab, REPORT, &machine.report(1, "guess", verified()));
    if began.elapsed().as_secs() < WINDOW_SECONDS {
        assert_eq!((right.status, report.status), (429, 429), "it is listened to");
    }
    let windows = 1 + began.elapsed().as_secs() / WINDOW_SECONDS;
    let refused = answers.iter().filter(|answer| answer.status == 401).count();
    let told_to_wait: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert_eq!(refused + told_to_wait.len(), answers.len(), "another answer than 401 and 429");
    assert!((1..=REFUSED_MAX as usize * windows as usize).contains(&refused), "{refused} guesses were looked at");
    for answer in &told_to_wait {
        let seconds: u64 = answer.header("retry-after").expect("Retry-After").parse().unwrap();
        assert!((1..=WINDOW_SECONDS).contains(&seconds), "{seconds}");
        no_job(answer, 429);
    }
    let lines = lab.log().matches("locked out").count();
    assert!((1..=windows as usize).contains(&lines), "{lines} lines in the log");
    eprintln!("{} requests: {refused} looked at, {lines} line in the log, {:?}", answers.len(), began.elapsed());

    // Everybody else goes on, and boot scripts are behind no door: a machine must always learn that it boots its disk.
    job(&neighbour.say(&lab, CHECK_IN, &neighbour.check_in(&neighbour.orders(&lab), "agent")));
    assert!(machine.script(&lab).starts_with("#!ipxe"));
    assert_eq!(lab.host(&machine)["order"]["attempts"], 2, "guesses cost no attempt, the two scripts did");
}
