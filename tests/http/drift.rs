//! Drift over HTTP: the real server, real signatures, a real baseline, and what no well-behaved agent or operator says.

use std::io::Write;
use std::process::Command;

use ed25519_dalek::{Signer, SigningKey};
use regild::wire::agent::{DiskId, Event};
use regild::wire::drift::{Finding, Node, PathText, Report, SIGNED_FOR, Scan, Signed};
use serde_json::{Value, json};

use crate::lab::{CHECK_IN, IMAGE, Lab, Machine, REPORT as DEPLOY_REPORT, STRANGER};
use crate::raw::Answer;
use crate::standby::STANDBY;

pub const TERMS: &str = "/agent/v1/drift/terms";
pub const KEY: &str = "/agent/v1/drift/key";
pub const REPORT: &str = "/agent/v1/drift/report";

pub const POLICY: &str = r#"
[group.default]
drift = "test"
[[drift.test.rule]]
path = "/usr/**"
action = "rebuild"
grace = "0s"
scans = 1
why = "programs come with the image"
[[drift.test.rule]]
path = "/etc/app.conf"
action = "report"
content = true
why = "it is looked at"
"#;

/// A golden image with a few files, as ext4.
pub fn import(lab: &Lab) {
    let tree = lab.path("tree");
    let write = |path: &str, content: &str| {
        let path = tree.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    write("usr/bin/ssh", "a program");
    write("usr/lib/os-release", "ID=debian\n");
    write("etc/fstab", "LABEL=root / ext4 defaults 0 1\n");
    write("etc/app.conf", "listen = 80\nworkers = 4\n");
    let file = lab.path("image.raw");
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-L", "root", "-d"]).arg(&tree).arg(&file).arg("8M");
    assert!(make.status().expect("e2fsprogs is there").success());
    lab.regild(&["image", "import", file.to_str().unwrap(), "--as", IMAGE]);
    let made = lab.operator().ask("POST", &format!("/v1/images/{IMAGE}/baseline"), b"");
    assert_eq!(made.json()["state"], "ready", "{}", made.text());
}

/// Plays the machine's part of an order, up to the word of its installed system.
fn is_built(lab: &Lab, machine: &Machine) {
    let orders = machine.orders(lab);
    assert_eq!(machine.say(lab, CHECK_IN, &machine.check_in(&orders, "s")).status, 200);
    let disk = DiskId { serial: Some("d".into()), wwn: None, size_bytes: 1 << 30 };
    let report = machine.report(orders.generation, "s", Event::Verified { disk });
    assert_eq!(machine.say(lab, DEPLOY_REPORT, &report).status, 200);
    let asked = json!({ "image": IMAGE, "up_seconds": 9, "uefi": true });
    assert_eq!(machine.say(lab, STANDBY, &asked).status, 200);
    assert_eq!(lab.host(machine)["state"], "ready");
}

/// An installed agent of a machine, with its key.
pub struct Agent {
    pub machine: Machine,
    key: SigningKey,
    pub terms: Value,
}

impl Agent {
    /// Of a machine that runs the image; its key is known.
    pub fn new(lab: &Lab, number: u8) -> Agent {
        let machine = Machine::approved(lab, number);
        is_built(lab, &machine);
        let mut agent = Agent { machine, key: SigningKey::from_bytes(&[number; 32]), terms: Value::Null };
        agent.asks(lab);
        assert_eq!(agent.terms["key"], Value::Null);
        assert_eq!(agent.enrols(lab).json()["sequence"], 0);
        agent.asks(lab);
        agent
    }

    pub fn asks(&mut self, lab: &Lab) {
        self.terms = lab.from(self.machine.address).get(TERMS).json();
    }

    fn public_key(&self) -> String {
        self.key.verifying_key().to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn enrols(&self, lab: &Lab) -> Answer {
        // A field that a later agent says is passed over.
        let said = json!({ "host": self.machine.host, "generation": self.terms["generation"], "public_key": self.public_key(), "later": [1] });
        self.machine.say(lab, KEY, &said)
    }

    pub fn report(&self, sequence: u64, findings: Vec<Finding>) -> Report {
        Report {
            host: self.machine.host.clone(),
            generation: self.terms["generation"].as_u64().unwrap(),
            sequence,
            baseline: self.terms["baseline"].as_str().unwrap().to_owned(),
            policy: self.terms["policy"].as_str().unwrap().to_owned(),
            scan: Scan { kind: "full".into(), number: sequence, ended: 1_800_000_000, ..Scan::default() },
            findings_total: findings.len() as u64,
            findings,
            ..Report::default()
        }
    }

    fn sign(&self, report: &Report) -> Signed {
        let payload = serde_json::to_string(report).unwrap();
        let signature = self.key.sign(&[SIGNED_FOR, payload.as_bytes()].concat());
        Signed { payload, signature: signature.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect() }
    }

    /// From any address: the signature decides.
    pub fn sends(&self, lab: &Lab, report: &Report) -> Answer {
        // Two reports of one agent are to be two seconds apart, and another one is put off.
        for _ in 0..20 {
            let answer = self.sends_once(lab, report);
            if answer.status != 429 {
                return answer;
            }
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        self.sends_once(lab, report)
    }

    fn sends_once(&self, lab: &Lab, report: &Report) -> Answer {
        lab.from(STRANGER).ask("POST", REPORT, &serde_json::to_vec(&self.sign(report)).unwrap())
    }
}

fn file(content: &str) -> Node {
    Node {
        kind: "file".into(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        modified: 0,
        bytes: Some(content.len() as u64),
        digest: Some(blake3::hash(content.as_bytes()).to_hex().to_string()),
        target: None,
        device: None,
        xattrs: Vec::new(),
    }
}

pub fn changed(path: &[u8], from: &str, to: &str) -> Finding {
    let (path, expected, seen) = (PathText(path.to_vec()), Some(file(from)), Some(file(to)));
    Finding { path, expected, seen, first_seen: 1, scans: 1, content: None }
}

fn added(path: &[u8]) -> Finding {
    Finding { expected: None, ..changed(path, "", "x") }
}

fn get(lab: &Lab, path: &str) -> Value {
    let answer = lab.operator().get(path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

fn shown(lab: &Lab, agent: &Agent) -> Value {
    get(lab, &format!("/v1/drift/hosts/{}", agent.machine.host))
}

fn is_soon(what: &str, mut seen: impl FnMut() -> bool) {
    for _ in 0..600 {
        if seen() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{what} did not come");
}

/// Issue 4, "What must work" 5 to 7, by HTTP: from terms to a finding that is shown with its text, its rule and its
/// path's place in the image, to the order, over kill -9, to the clean host with a new key.
#[test]
fn a_changed_program_is_shown_explained_and_rebuilt() {
    let mut lab = Lab::new();
    import(&lab);
    lab.apply(POLICY, &["--loosen"]);
    let mut agent = Agent::new(&lab, 1);
    assert_eq!(agent.terms["image"], IMAGE);
    assert_eq!((agent.terms["scan_seconds"].as_u64(), agent.terms["report_seconds"].as_u64()), (Some(900), Some(3600)));
    assert_eq!(agent.terms["key"], agent.public_key());
    let line = |lab: &Lab| get(lab, "/v1/drift")[0].clone();
    assert_eq!(line(&lab)["standing"], "unwatched");
    assert_eq!(agent.sends(&lab, &agent.report(1, vec![])).json(), json!({ "sequence": 1, "terms_changed": false }));
    assert_eq!((&line(&lab)["standing"], &line(&lab)["source"]), (&"clean".into(), &"agent".into()));

    let text = "listen = 8080\nworkers = 4\n\u{1b}[2J\n";
    let conf = Finding { content: Some(text.into()), ..changed(b"/etc/app.conf", "listen = 80\nworkers = 4\n", text) };
    let program = changed(b"/usr/bin/ssh", "a program", "a trojan");
    let stop = lab.regild(&["stop", "--reason", "smoke"]);
    let report = agent.report(2, vec![conf, program]);
    assert_eq!(agent.sends(&lab, &report).status, 200, "{stop}");
    lab.kill();
    lab.start();
    let host = shown(&lab, &agent);
    assert_eq!((&host["standing"], &host["findings"], &host["asking"]), (&"drifted".into(), &2.into(), &1.into()));
    let found = host["found"].as_array().unwrap();
    let diff = found[0]["diff"].as_str().unwrap();
    assert!(diff.contains("-listen = 80\n+listen = 8080\n workers = 4\n+\\x1b[2J\n"), "{diff}");
    assert_eq!((&found[0]["action"], &found[1]["action"]), (&"report".into(), &"rebuild".into()));
    assert_eq!((&found[1]["rule"], &found[1]["aspects"]), (&"policy test, rule 1".into(), &json!(["content"])));
    let explain = |path: &str| get(&lab, &format!("/v1/drift/hosts/{}/explain?path={path}", agent.machine.host));
    let ssh = explain("/usr/bin/ssh");
    assert_eq!((&ssh["in_image"], &ssh["decided"][0]["rule"]["action"]), (&true.into(), &"rebuild".into()), "{ssh}");
    assert_eq!(explain("/srv/x")["in_image"], false);
    let cause = lab.host(&agent.machine)["asks"][0].clone();
    assert_eq!((&cause["kind"], &cause["reason"]), (&"drift".into(), &"/usr/bin/ssh: content".into()));

    lab.regild(&["resume", "--reason", "toast"]);
    // It was built a moment ago, and what is automatic keeps a pause between two rebuilds. A person does not wait, and the
    // host is rebuilt once for both.
    is_soon("the pause", || lab.host(&agent.machine)["waits"].as_str().is_some_and(|waits| waits.contains("rebuilt")));
    lab.regild(&["host", "reimage", &agent.machine.mac, "--reason", "patch"]);
    let order = lab.host(&agent.machine)["order"].clone();
    assert_eq!((&order["generation"], order["causes"].as_array().unwrap().len()), (&2.into(), 2), "{order}");
    is_built(&lab, &agent.machine);
    assert_eq!(line(&lab)["standing"], "unwatched");
    let old = agent.sends(&lab, &agent.report(3, vec![]));
    assert_eq!(old.status, 401, "the key of the former generation: {}", old.text());
    agent.asks(&lab);
    agent.key = SigningKey::from_bytes(&[99; 32]);
    assert_eq!(agent.enrols(&lab).status, 200);
    assert_eq!(agent.sends(&lab, &agent.report(1, vec![])).status, 200);
    assert_eq!(line(&lab)["standing"], "clean");
    let history = lab.json(&["host", "history", &agent.machine.mac]);
    let causes: Vec<&str> = history.as_array().unwrap().iter().map(|line| line["cause"].as_str().unwrap()).collect();
    assert!(causes.contains(&"drifted: 2 findings, /etc/app.conf: content"), "{causes:?}");
    assert!(
        causes.iter().any(|cause| cause.contains("order 2 for tiny:v1: drift: /usr/bin/ssh: content")),
        "{causes:?}"
    );
}

/// Issue 4, faults: "a report replayed, a report for another host"; wrong keys, a second key, a body that is too large.
#[test]
fn only_the_hosts_own_key_is_believed_and_each_report_once() {
    let lab = Lab::new();
    import(&lab);
    let (agent, other) = (Agent::new(&lab, 1), Agent::new(&lab, 2));
    let report = agent.report(5, vec![added(b"/srv/x")]);
    assert_eq!(agent.sends(&lab, &report).json()["sequence"], 5);
    let before = shown(&lab, &agent);
    assert_eq!(agent.sends(&lab, &report).json()["sequence"], 5, "its answer may have been lost");
    let replayed = agent.sends(&lab, &agent.report(4, vec![]));
    assert_eq!((replayed.status, replayed.error().contains("report 5 was taken already")), (409, true));
    let same = Report { same_as: Some(4), ..agent.report(6, vec![]) };
    assert_eq!(agent.sends(&lab, &same).status, 409);
    let elsewhere = Report { baseline: "0".repeat(64), ..agent.report(6, vec![]) };
    assert!(agent.sends(&lab, &elsewhere).error().contains("has another baseline"));
    let former = Report { generation: 0, ..agent.report(6, vec![]) };
    assert_eq!(agent.sends(&lab, &former).status, 409);

    // Another host's key, under this host's name; the signature of something else; no such host: all the same answer.
    let foreign = Agent { key: other.key.clone(), machine: Machine { ..other.machine }, terms: agent.terms.clone() };
    let forged = Report { host: agent.machine.host.clone(), ..foreign.report(7, vec![]) };
    let nobody = Report { host: "h-000000000000".into(), ..forged.clone() };
    let answers = [foreign.sends(&lab, &forged), foreign.sends(&lab, &nobody)];
    assert!(answers.iter().all(|answer| answer.status == 401), "{answers:?}");
    assert_eq!(answers[0].text(), answers[1].text(), "existence shows");
    let Signed { payload, signature } = agent.sign(&agent.report(7, vec![]));
    let altered = Signed { payload: payload.replace("full", "fuII"), signature: signature.clone() };
    // From another address: its guesses lock nobody else out.
    let mallory = Machine::plug_in(&lab, 3).address;
    let from = |body: &[u8]| lab.from(mallory).ask("POST", REPORT, body);
    assert_eq!(from(&serde_json::to_vec(&altered).unwrap()).status, 401);
    let short = Signed { payload: payload.clone(), signature: "ab".into() };
    assert_eq!(from(&serde_json::to_vec(&short).unwrap()).status, 401);
    let large = Signed { payload: format!("{payload}{}", " ".repeat(200 << 10)), signature };
    assert_eq!(from(&serde_json::to_vec(&large).unwrap()).status, 413);
    assert_eq!(from(&[b' '; 500 << 10]).status, 413);
    assert_eq!(from(b"[[[[").status, 400);

    let second =
        Agent { key: SigningKey::from_bytes(&[9; 32]), machine: Machine { ..agent.machine }, terms: agent.terms };
    let refused = second.enrols(&lab);
    assert_eq!((refused.status, refused.error().contains("regild drift forget-key")), (409, true));
    let after = shown(&lab, &second);
    assert_eq!((&after["findings"], &after["reported_at"]), (&before["findings"], &before["reported_at"]));
    let forget = format!("/v1/drift/hosts/{}/forget-key", second.machine.host);
    assert_eq!(lab.operator().ask("POST", &forget, b"").status, 204);
    assert_eq!(second.enrols(&lab).json()["sequence"], 5);
    // Reports that were taken, or are about something else, are no guesses: behind a relay many hosts have one address.
    let stale = |_| second.sends(&lab, &second.report(4, vec![])).status;
    assert!((0..12).map(stale).all(|status| status == 409), "a report is taken for a guess");
    // Guessing is locked out, for the guesser.
    let guess = |_| from(&serde_json::to_vec(&foreign.sign(&forged)).unwrap()).status;
    let statuses: Vec<u16> = (0..12).map(guess).collect();
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
    assert_eq!(second.sends(&lab, &second.report(6, vec![])).status, 200);
}

/// Issue 4, faults: "a host that reports millions of findings, paths with any byte in them".
#[test]
fn paths_with_every_byte_and_a_million_findings_are_shown_and_counted() {
    let lab = Lab::new();
    import(&lab);
    let (agent, second) = (Agent::new(&lab, 1), Agent::new(&lab, 2));
    let name: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    // Sorted by their numbers; together they hold every byte.
    let part = |number: usize| &name[number * 3 % 240..][..14];
    let path = |number: usize| [format!("/srv/{number:03}").as_bytes(), part(number)].concat();
    let found: Vec<Finding> = (0..500).map(|number| added(&path(number))).collect();
    let report = Report { findings_total: 1_000_000, ..agent.report(1, found) };
    assert_eq!(agent.sends(&lab, &report).status, 200);
    let host = shown(&lab, &agent);
    assert_eq!((&host["findings_total"], host["found"].as_array().unwrap().len()), (&1_000_000.into(), 500));
    let said = host.to_string();
    assert!(!said.chars().any(char::is_control) && said.contains("\\\\x01\\\\x02"), "{}", &said[..2000]);
    assert_eq!(second.sends(&lab, &second.report(1, vec![added(&path(0))])).status, 200);
    let top = get(&lab, "/v1/drift/top?limit=3");
    assert_eq!(
        (top[0]["hosts"].as_u64(), top[0]["same_content"].as_u64(), top.as_array().unwrap().len()),
        (Some(2), Some(2), 3)
    );
    assert_eq!(top[0]["groups"], json!(["default"]));
    assert_eq!(get(&lab, "/v1/drift/top?group=other"), json!([]));
    let shown_path = top[0]["path"].as_str().unwrap().to_owned();
    let encoded: String = shown_path.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let explained = get(&lab, &format!("/v1/drift/hosts/{}/explain?path={encoded}", second.machine.host));
    assert_eq!((&explained["path"], explained["finding"].is_object()), (&shown_path.into(), true));
    // Reports as fast as they go: one of them is put off, with the time to wait.
    let put_off = (2..30).map(|sequence| second.sends_once(&lab, &second.report(sequence, vec![])));
    let put_off = put_off.into_iter().find(|answer| answer.status == 429).expect("28 reports were taken at once");
    assert!(["1", "2"].contains(&put_off.header("retry-after").unwrap()), "{}", put_off.text());
}

/// Rule 7, for reports: killed at any moment between a report and its answer the server has all of it or nothing, and the
/// agent that says it once more is answered alike. What was answered is never lost.
#[test]
fn a_server_killed_between_report_and_answer_has_the_report_whole_or_not_at_all() {
    let mut lab = Lab::new();
    import(&lab);
    let agent = Agent::new(&lab, 1);
    let found = |count: u64| (0..count).map(|number| added(format!("/srv/{number:03}").as_bytes())).collect::<Vec<_>>();
    let mut taken = 0;
    for (sequence, millis) in (1u64..).zip([0, 2, 4, 6, 8, 10, 15, 20, 40]) {
        // Long, so that it takes several values of the store.
        let report = agent.report(sequence, found(40 * sequence));
        let body = serde_json::to_vec(&agent.sign(&report)).unwrap();
        let mut connection = lab.from(STRANGER);
        let length = format!("Content-Length: {}", body.len());
        let head = [&format!("POST {REPORT} HTTP/1.1")[..], "Host: regild", &length, "", ""].join("\r\n");
        // Else it would be put off: the report before came a moment ago.
        std::thread::sleep(std::time::Duration::from_millis(2100));
        connection.writer.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(millis));
        lab.kill();
        lab.start();
        let kept = shown(&lab, &agent)["found"].as_array().unwrap().len() as u64;
        assert!([40 * (sequence - 1), 40 * sequence].contains(&kept), "{kept} findings after report {sequence}");
        taken += u64::from(kept == 40 * sequence);
        assert_eq!(agent.sends(&lab, &report).json()["sequence"], sequence);
        lab.kill();
        lab.start();
        let host = shown(&lab, &agent);
        assert_eq!(host["found"].as_array().unwrap().len() as u64, 40 * sequence, "an answered report is lost");
    }
    eprintln!("of nine reports whose server was killed {taken} were taken");
}

/// Exceptions: checked, numbered, listed, shown as the rule that decides, and taken away.
#[test]
fn an_exception_is_for_hosts_that_there_are_and_for_a_while() {
    let lab = Lab::new();
    import(&lab);
    let agent = Agent::new(&lab, 1);
    assert_eq!(agent.sends(&lab, &agent.report(1, vec![added(b"/srv/x")])).status, 200);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let accept = |changes: Value| {
        let mut asked = json!({ "pattern": "/srv/*", "aspects": ["added"], "scope": { "group": "default" },
            "until": now + 3600, "why": "hot fix" });
        asked.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        lab.operator().ask("POST", "/v1/drift/exceptions", asked.to_string().as_bytes())
    };
    for (wrong, status, says) in [
        (json!({ "pattern": "srv" }), 400, "begin with /"),
        (json!({ "aspects": ["colour"] }), 400, "colour"),
        (json!({ "until": now - 1 }), 400, "within a year"),
        (json!({ "until": now + 400 * 86_400 }), 400, "within a year"),
        (json!({ "why": "" }), 400, "one line"),
        (json!({ "scope": { "group": "nobody" } }), 404, "nobody"),
        (json!({ "scope": { "host": "nobody" } }), 404, "nobody"),
        (json!({ "scope": { "image": "tiny:v9" } }), 404, "tiny:v9"),
        (json!({ "colour": 1 }), 400, "no such field"),
    ] {
        let answer = accept(wrong.clone());
        assert_eq!((answer.status, answer.error().contains(says)), (status, true), "{wrong}: {}", answer.text());
    }
    assert_eq!(get(&lab, "/v1/drift/exceptions"), json!([]));
    let taken = accept(json!({}));
    assert_eq!(
        (taken.status, taken.json()["number"].as_u64(), taken.json()["by"].as_str()),
        (200, Some(1), Some("root"))
    );
    assert_eq!(get(&lab, "/v1/drift?standing=clean").as_array().unwrap().len(), 1, "at once");
    let explain = format!("/v1/drift/hosts/{}/explain?path=/srv/x", agent.machine.host);
    assert_eq!(get(&lab, &explain)["decided"][0]["rule"]["from"], "exception 1");
    let answer = agent.sends(&lab, &agent.report(2, vec![])).json();
    assert_eq!(answer["terms_changed"], true, "{answer}");
    for (scope, number) in [(json!({ "host": agent.machine.mac }), 2), (json!({ "image": "tiny" }), 3)] {
        assert_eq!(accept(json!({ "scope": scope })).json()["number"], number);
    }
    for number in 1..=3 {
        let answer = lab.operator().ask("DELETE", &format!("/v1/drift/exceptions/{number}"), b"");
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
    assert_eq!(lab.operator().ask("DELETE", "/v1/drift/exceptions/1", b"").status, 404);
    let kept = get(&lab, "/v1/drift/exceptions");
    assert!(kept.as_array().unwrap().iter().all(|exception| exception["ended"] == true), "{kept}");
    for wrong in ["/v1/drift?standing=blue", "/v1/drift?colour=1", "/v1/drift?select=", "/v1/drift/top?limit=0"] {
        assert_eq!(lab.operator().get(wrong).status, 400, "{wrong}");
    }
}
