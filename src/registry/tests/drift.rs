//! From a report to a rebuilt host, in the real writer on the real store, with a clock of the test's own.

mod lies;
mod verify;

use super::*;
use crate::config::fleet::diff::Write;
use crate::decide::brakes::Policy;
use crate::decide::cause::Cause;
use crate::decide::drift::declared::{Declared, DriftPolicy, What};
use crate::decide::drift::finding::Aspects;
use crate::decide::drift::policy::{Action, Pattern};
use crate::decide::group::Limits;
use crate::registry::direct::Direct;
use crate::registry::drift::exceptions::Scope;
use crate::registry::drift::{AllListed, DriftCommand, DriftRefusal, NewException, Said, Source};
use crate::registry::stop::StopSwitch;
use crate::wire::drift::{Finding, Node, PathText, Report, Scan};
use std::collections::BTreeMap;

const HOUR: u64 = 3600;
const BEGAN: u64 = 1_800_000_000;
const KEY: [u8; 32] = [7; 32];

fn mac(number: u16) -> Mac {
    let [high, low] = number.to_be_bytes();
    Mac([0x52, 0x54, 3, 0, high, low])
}

fn id(number: u16) -> String {
    format!("h-{}", mac(number).to_string().replace(':', ""))
}

fn file(content: &str) -> Node {
    Node {
        kind: "file".into(),
        mode: 0o755,
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

/// A file that holds something else than the image's.
fn swapped(path: &str, content: &str) -> Finding {
    let (expected, seen) = (Some(file("of the image")), Some(file(content)));
    Finding { path: PathText(path.as_bytes().to_vec()), expected, seen, first_seen: 1, scans: 1, content: None }
}

/// A policy of the default group that asks for a rebuild of what differs in /usr.
fn rebuild(grace_seconds: u64, scans_min: u32) -> DriftPolicy {
    let rule = Declared {
        what: What::Path(Pattern::new(b"/usr/**").unwrap()),
        aspects: Aspects::ALL,
        action: Action::Rebuild { grace_seconds, scans_min },
        content: false,
        why: "w".into(),
        until: None,
    };
    DriftPolicy { rules: vec![rule], ..DriftPolicy::new("test") }
}

const LIFTED: Limits = Limits { concurrent_max: 500, orders_per_hour_max: 500 };

fn group(drift: Option<&str>) -> Group {
    Group { limits: LIFTED, drift: drift.map(str::to_string), ..Group::new("default") }
}

/// A registry, its hosts, and the time.
struct Story {
    dir: tempfile::TempDir,
    registry: Option<Direct>,
    now: u64,
}

impl Story {
    /// So many hosts that run their first image.
    fn new(hosts: u16) -> Story {
        let dir = tempfile::tempdir().unwrap();
        let registry = Some(load(dir.path(), BEGAN));
        let mut story = Story { dir, registry, now: BEGAN };
        let policy = Policy { fleet: LIFTED, rack: LIFTED, feed: LIFTED, ..Policy::default() };
        story.apply(vec![Write::Policy(policy), Write::Group(Box::new(group(None)))]);
        for number in 0..hosts {
            story.ask(|reply| Command::Script { mac: mac(number), client: IPXE, token: "t".into(), reply }).unwrap();
            story.event(number, approve());
            story.is_built(number);
        }
        // The orders of the first images are no longer in the hourly counts.
        story.pass(2 * HOUR);
        story
    }

    fn ask<T>(&mut self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, RegistryError> {
        let now = self.now;
        self.registry.as_mut().unwrap().ask(now, command)
    }

    fn drift<T>(&mut self, command: impl FnOnce(Reply<T>) -> DriftCommand) -> Result<T, RegistryError> {
        self.ask(|reply| Command::Drift(command(reply)))
    }

    fn rules(&mut self, policy: DriftPolicy) {
        let writes = vec![Write::Drift(Box::new(policy)), Write::Group(Box::new(group(Some("test"))))];
        self.apply(writes);
    }

    fn apply(&mut self, writes: Vec<Write>) {
        self.ask(|reply| Command::Apply { writes, images: BTreeMap::new(), by: "ann".into(), reply }).unwrap();
    }

    fn event(&mut self, number: u16, event: Event) -> Arc<HostView> {
        self.ask(|reply| Command::Host { name: id(number), event, inventory: None, reply }).unwrap()
    }

    /// The machine comes for its order, is written, boots and says so.
    fn is_built(&mut self, number: u16) {
        let (mac, token) = (mac(number), "t".to_string());
        let script = self.ask(|reply| Command::Script { mac, client: IPXE, token, reply }).unwrap();
        let Script::Agent { generation, token, .. } = script else { panic!("no order is open: {script:?}") };
        let session_digest = "s".to_string();
        let disk = DiskId { serial: Some("d".into()), wwn: None, size_bytes: 5 };
        let claim = Event::CheckedIn {
            generation,
            token_digest: digest(&token),
            session_digest: session_digest.clone(),
            identity: Identity::default(),
        };
        self.event(number, claim);
        self.event(number, Event::Agent { generation, session_digest, word: AgentWord::Verified(disk) });
        self.event(number, Event::Installed { image: "tiny:1".into() });
    }

    fn host(&self, number: u16) -> Host {
        self.registry.as_ref().unwrap().read(|view| view.find(&id(number)).unwrap().host.clone())
    }

    /// Time passes; then a tick with windows that are open, for hosts that ask by then.
    fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        let asking = |view: &View| {
            let asking = view.hosts().filter(|host| !host.host.asks.is_empty());
            asking.map(|host| (host.host.id.clone(), Ok(()))).collect()
        };
        let schedule = self.registry.as_ref().unwrap().read(asking);
        let steps = Box::new(Steps { schedule, ..Steps::default() });
        self.ask(|reply| Command::Tick { steps, reply }).unwrap();
    }

    fn enrol(&mut self, number: u16, key: [u8; 32]) -> Result<u64, RegistryError> {
        let generation = self.host(number).reported_generation;
        self.drift(|reply| DriftCommand::Enrol { host: id(number), generation, key, reply })
    }

    /// The agent's report number `sequence`, after so many looks.
    fn reports(&mut self, number: u16, sequence: u64, look: u64, findings: Vec<Finding>) -> Result<u64, RegistryError> {
        let report = self.report(number, sequence, look, findings);
        self.takes(number, KEY, report)
    }

    fn report(&self, number: u16, sequence: u64, look: u64, findings: Vec<Finding>) -> Report {
        let generation = self.host(number).reported_generation;
        let scan = Scan { kind: "full".into(), number: look, ..Scan::default() };
        let findings_total = findings.len() as u64;
        Report { host: id(number), generation, sequence, scan, findings, findings_total, ..Report::default() }
    }

    fn takes(&mut self, number: u16, key: [u8; 32], report: Report) -> Result<u64, RegistryError> {
        // An agent that is right leaves a pause between two reports.
        self.now += 2;
        self.takes_at_once(number, key, report)
    }

    fn takes_at_once(&mut self, number: u16, key: [u8; 32], report: Report) -> Result<u64, RegistryError> {
        let digest = *blake3::hash(&serde_json::to_vec(&report).unwrap()).as_bytes();
        let said = Said { key: Some(key), digest, ..Said::of(report, Source::Agent).unwrap() };
        self.drift(|reply| DriftCommand::Report { host: id(number), said: Box::new(said), reply })
    }

    fn sees_outside(&mut self, number: u16, verification: u64, findings: Vec<Finding>) {
        let mut report = self.report(number, 0, 0, findings);
        report.scan.kind = "outside".into();
        let said = Said::of(report, Source::Outside).unwrap();
        let said = Box::new(Said { verification: Some(verification), ..said });
        self.drift(|reply| DriftCommand::Report { host: id(number), said, reply }).unwrap();
    }

    /// Whether it drifted, its findings, and how many of them ask.
    fn standing(&self, number: u16) -> (Option<bool>, u64, u64) {
        self.registry.as_ref().unwrap().read(|view| {
            let watched = view.drift().host(&id(number));
            watched.map_or((None, 0, 0), |watched| (watched.drifted, watched.findings, watched.asking))
        })
    }

    fn is_silent(&self, number: u16) -> bool {
        self.registry.as_ref().unwrap().read(|view| view.drift().host(&id(number)).is_some_and(|host| host.silent))
    }

    fn listed(&mut self, number: u16) -> AllListed {
        self.drift(|reply| DriftCommand::Listed { host: id(number), reply }).unwrap()
    }

    /// What drift said in the host's history.
    fn told(&mut self, number: u16) -> Vec<String> {
        let lines = self.ask(|reply| Command::History { name: id(number), reply }).unwrap();
        lines.into_iter().filter(|line| line.actor == "drift").map(|line| line.cause).collect()
    }

    /// The server dies and starts again.
    fn restarts(&mut self) {
        self.registry = None;
        self.registry = Some(load(self.dir.path(), self.now));
    }
}

fn load(dir: &std::path::Path, now: u64) -> Direct {
    Direct::load(Box::new(SledDb::open(dir).unwrap()), &config(dir), StopSwitch::in_memory(), now).unwrap()
}

fn refusal(done: Result<u64, RegistryError>) -> DriftRefusal {
    match done {
        Err(RegistryError::Drift(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// Issue 4, line 5, and faults.md: from a finding over grace and quorum to an order, a rebuilt host, and a clean one; the
/// server dies between any two steps, and nothing that was said is lost.
#[test]
fn a_finding_becomes_an_order_once_and_the_rebuilt_host_is_clean() {
    let mut story = Story::new(1);
    story.rules(rebuild(HOUR, 2));
    assert_eq!(story.enrol(0, KEY).unwrap(), 0);
    story.reports(0, 1, 1, Vec::new()).unwrap();
    assert_eq!(story.standing(0), (Some(false), 0, 0));
    story.restarts();
    let found = vec![swapped("/etc/motd", "hello"), swapped("/usr/bin/ssh", "trojan")];
    story.reports(0, 2, 2, found.clone()).unwrap();
    assert_eq!(story.standing(0), (Some(true), 2, 0));
    assert_eq!(story.told(0), ["drifted: 2 findings, /etc/motd: content"]);
    story.restarts();
    story.pass(HOUR);
    assert!(story.host(0).asks.is_empty() && story.host(0).order.is_none(), "its grace is over, but it was seen once");
    // A heartbeat that saw the same again.
    let same = Report { same_as: Some(2), findings_total: 2, ..story.report(0, 3, 3, Vec::new()) };
    story.takes(0, KEY, same).unwrap();
    assert_eq!(story.standing(0), (Some(true), 2, 1));
    let ask = story.host(0).asks[0].clone();
    assert_eq!((ask.kind, ask.reason.as_str(), ask.by.as_str()), (CauseKind::Drift, "/usr/bin/ssh: content", "drift"));
    story.pass(1);
    assert_eq!(story.host(0).order.unwrap().causes.len(), 1);
    story.reports(0, 4, 4, found).unwrap();
    story.restarts();
    assert_eq!(story.standing(0).0, Some(true));
    story.is_built(0);
    assert_eq!(story.standing(0), (None, 0, 0), "what was found on the former system is not on this one");
    assert_eq!(story.listed(0), AllListed::default());
    assert!(
        matches!(refusal(story.reports(0, 5, 5, Vec::new())), DriftRefusal::WrongKey),
        "the key is one generation's"
    );
    story.enrol(0, KEY).unwrap();
    story.reports(0, 1, 1, Vec::new()).unwrap();
    assert_eq!((story.standing(0), story.host(0).reported_generation), ((Some(false), 0, 0), 2));
    assert_eq!(story.told(0).iter().filter(|line| line.starts_with("order")).count(), 1, "{:?}", story.told(0));
}

/// Promises: grace counts from the server's clock and ends without another report, over a restart; a clock that jumped
/// ends none.
#[test]
fn a_grace_ends_by_the_servers_clock_and_not_by_a_jump_of_it() {
    let mut story = Story::new(1);
    story.rules(rebuild(HOUR, 1));
    story.enrol(0, KEY).unwrap();
    let old = Finding { first_seen: 0, scans: 1000, ..swapped("/usr/bin/ssh", "trojan") };
    story.reports(0, 1, 1, vec![old]).unwrap();
    story.pass(HOUR - 1);
    assert_eq!(story.standing(0), (Some(true), 1, 0), "what the host says of times proves nothing");
    story.restarts();
    let held = |held| StoredClock { evaluated_to: BEGAN, held };
    story.ask(|reply| Command::AcceptClock { clock: held(Some(86_400)), reply }).unwrap();
    story.pass(10);
    assert_eq!(story.standing(0), (Some(true), 1, 0));
    story.ask(|reply| Command::AcceptClock { clock: held(None), reply }).unwrap();
    story.pass(1);
    assert_eq!(story.standing(0), (Some(true), 1, 1));
    story.pass(1);
    assert!(story.host(0).order.is_some());
}

/// Promises: what asked is withdrawn when the host is clean again, or an exception lets it be; the exception ends by
/// itself, and then it asks again.
#[test]
fn an_ask_is_withdrawn_when_the_host_is_clean_or_the_policy_lets_it_be() {
    let mut story = Story::new(1);
    story.rules(rebuild(0, 1));
    story.enrol(0, KEY).unwrap();
    story.reports(0, 1, 1, vec![swapped("/usr/bin/ssh", "trojan")]).unwrap();
    assert_eq!(story.host(0).asks.len(), 1, "it waits for the schedule to be looked at");
    story.now += 600;
    story.reports(0, 2, 1, Vec::new()).unwrap();
    assert!(story.host(0).asks.is_empty());
    let lines = story.told(0);
    assert_eq!(
        lines[lines.len() - 2..],
        ["clean: nothing differs that the policy does not allow", "drift no longer asks for a rebuild"]
    );
    story.reports(0, 3, 2, vec![swapped("/usr/bin/ssh", "trojan")]).unwrap();
    assert_eq!(story.host(0).asks.len(), 1);
    let until = story.now + HOUR;
    let new = |scope| NewException {
        pattern: Pattern::new(b"/usr/bin/*").unwrap(),
        aspects: Aspects::ALL,
        scope,
        until,
        why: "hot fix".into(),
        by: "ann".into(),
    };
    let accept = |story: &mut Story, scope| {
        story.drift(|reply| DriftCommand::Accept { exception: Box::new(new(scope)), reply }).unwrap()
    };
    assert_eq!(accept(&mut story, Scope::Group("other".into())).number, 1);
    assert_eq!(story.host(0).asks.len(), 1, "it is for another group");
    assert_eq!(accept(&mut story, Scope::Image("tiny".into())).number, 2);
    assert_eq!((story.host(0).asks.len(), story.standing(0)), (0, (Some(false), 0, 0)));
    story.restarts();
    story.pass(HOUR - 1);
    assert_eq!(story.standing(0), (Some(false), 0, 0));
    story.pass(1);
    assert_eq!(story.standing(0), (Some(true), 1, 1), "the exception has ended by itself");
    let kept = story.registry.as_ref().unwrap().read(|view| view.drift().exceptions().iter().count());
    assert_eq!(kept, 2, "what has ended can still be explained");
    story.pass(30 * 86_400);
    let kept = story.registry.as_ref().unwrap().read(|view| view.drift().exceptions().iter().count());
    assert_eq!(kept, 0);
    let again = NewException { until: story.now + 1, ..new(Scope::Host(id(0))) };
    let exception = story.drift(|reply| DriftCommand::Accept { exception: Box::new(again), reply }).unwrap();
    assert_eq!(exception.number, 3, "a number is given once");
    story.drift(|reply| DriftCommand::EndException { number: 3, by: "bob".into(), reply }).unwrap();
    let again = story.drift(|reply| DriftCommand::EndException { number: 3, by: "bob".into(), reply });
    assert!(matches!(again, Err(RegistryError::Drift(DriftRefusal::NoException(3)))));
}

/// Issue 4, faults: "a report replayed, a report for another host"; one key for each generation.
#[test]
fn a_report_is_taken_once_from_the_one_key_of_the_generation_that_runs() {
    let mut story = Story::new(2);
    let found = || vec![swapped("/usr/bin/ssh", "trojan")];
    assert!(matches!(refusal(story.reports(0, 1, 1, Vec::new())), DriftRefusal::WrongKey), "no key is known yet");
    story.enrol(0, KEY).unwrap();
    assert!(matches!(refusal(story.enrol(0, [8; 32])), DriftRefusal::OtherKey { generation: 1 }));
    assert_eq!(story.enrol(0, KEY).unwrap(), 0, "the answer to the first time may have been lost");
    let early = story.drift(|reply| DriftCommand::Enrol { host: id(0), generation: 2, key: KEY, reply });
    assert!(matches!(refusal(early), DriftRefusal::OtherGeneration { runs: 1, said: 2 }));
    assert_eq!(story.reports(0, 5, 1, found()).unwrap(), 5);
    let heard = |story: &Story| {
        story.registry.as_ref().unwrap().read(|view| view.drift().host(&id(0)).unwrap().agent.clone().unwrap().at)
    };
    let at = heard(&story);
    story.now += 60;
    assert_eq!(story.reports(0, 5, 1, found()).unwrap(), 5, "the very same one: its answer was lost");
    assert_eq!(heard(&story), at, "and nobody is heard by it");
    assert!(matches!(refusal(story.reports(0, 5, 1, Vec::new())), DriftRefusal::Replayed { last: 5, said: 5 }));
    assert!(matches!(refusal(story.reports(0, 4, 1, Vec::new())), DriftRefusal::Replayed { last: 5, said: 4 }));
    let unknown = Report { same_as: Some(4), ..story.report(0, 6, 1, Vec::new()) };
    assert!(matches!(refusal(story.takes(0, KEY, unknown)), DriftRefusal::NotKept { said: 4 }));
    let report = story.report(0, 7, 1, Vec::new());
    assert!(matches!(refusal(story.takes(1, KEY, report.clone())), DriftRefusal::WrongKey), "host 1 has no key");
    assert!(matches!(refusal(story.takes(0, [8; 32], report)), DriftRefusal::WrongKey));
    assert_eq!(story.standing(0), (Some(true), 1, 0));
    // The operator forgets the key; what was heard stays, and numbers go on.
    story.drift(|reply| DriftCommand::ForgetKey { host: id(0), by: "ann".into(), reply }).unwrap();
    assert_eq!(story.enrol(0, [8; 32]).unwrap(), 5);
    story.event(0, Event::Ask { cause: Cause::new(CauseKind::Operator, "r", "ann", story.now) });
    assert!(matches!(refusal(story.enrol(0, [8; 32])), DriftRefusal::OrderOpen { generation: 2 }));
}

/// Issue 4, line 7: "a host that stops reporting is itself a finding".
#[test]
fn a_host_that_stops_reporting_is_silent_and_a_server_that_was_off_makes_nobody_so() {
    let mut story = Story::new(2);
    for number in 0..2 {
        story.enrol(number, KEY).unwrap();
        story.reports(number, 1, 1, Vec::new()).unwrap();
    }
    story.pass(3 * HOUR - 5);
    story.reports(1, 2, 1, Vec::new()).unwrap();
    assert!(!story.is_silent(0));
    story.pass(1);
    assert!(story.is_silent(0) && !story.is_silent(1));
    assert_eq!(story.told(0), ["silent: the installed agent reports no longer"]);
    story.restarts();
    story.pass(1);
    assert!(!story.is_silent(0), "it had no chance to report");
    story.now += 100 * HOUR;
    story.restarts();
    story.pass(3 * HOUR);
    assert!(story.is_silent(0));
    story.pass(600);
    story.reports(0, 2, 1, Vec::new()).unwrap();
    assert!(!story.is_silent(0));
    assert_eq!(story.told(0).last().unwrap(), "the installed agent reports again");
}

/// A host that lies cannot take back what was seen while it did not run.
#[test]
fn what_was_seen_from_outside_stays_until_it_is_looked_at_from_outside_again() {
    let mut story = Story::new(1);
    story.rules(rebuild(0, 1));
    story.enrol(0, KEY).unwrap();
    story.reports(0, 1, 1, vec![swapped("/etc/motd", "hello")]).unwrap();
    story.sees_outside(0, 1, vec![swapped("/etc/motd", "hello"), swapped("/usr/bin/ssh", "trojan")]);
    assert_eq!(story.standing(0), (Some(true), 2, 1));
    story.reports(0, 2, 2, Vec::new()).unwrap();
    story.restarts();
    story.pass(0);
    assert_eq!(story.standing(0), (Some(true), 2, 1), "{:?}", story.listed(0));
    let mut story_of_another = Story::new(1);
    story_of_another.sees_outside(0, 1, vec![swapped("/etc/motd", "hello")]);
    assert_eq!(story_of_another.standing(0), (Some(true), 1, 0), "no agent is needed for it");
    story_of_another.sees_outside(0, 2, Vec::new());
    assert_eq!(story_of_another.standing(0), (Some(false), 0, 0));
}

/// faults.md C4: one run for all of them.
#[test]
fn schedule_drift_and_operator_together_rebuild_a_host_once() {
    let mut story = Story::new(1);
    story.rules(rebuild(0, 1));
    story.enrol(0, KEY).unwrap();
    story.reports(0, 1, 1, vec![swapped("/usr/bin/ssh", "trojan")]).unwrap();
    let asks = vec![(id(0), Cause::new(CauseKind::Schedule, "nightly", "schedule", story.now))];
    let steps = Box::new(Steps { asks, ..Steps::default() });
    story.ask(|reply| Command::Tick { steps, reply }).unwrap();
    story.event(0, Event::Ask { cause: Cause::new(CauseKind::Operator, "patch", "ann", story.now) });
    story.pass(1);
    let order = story.host(0).order.unwrap();
    let mut kinds: Vec<&str> = order.causes.iter().map(|cause| cause.kind.word()).collect();
    kinds.sort_unstable();
    assert_eq!((order.generation, kinds), (2, vec!["drift", "operator", "schedule"]));
    story.reports(0, 2, 2, vec![swapped("/usr/bin/ssh", "trojan"), swapped("/usr/bin/su", "trojan")]).unwrap();
    story.is_built(0);
    story.pass(1);
    assert_eq!((story.host(0).generation, story.host(0).order, story.host(0).asks), (2, None, Vec::new()));
}

/// faults.md C5: a wrong baseline makes 10 % of the fleet drift at once. The breaker trips at 5 %, names what is common to
/// them, and nothing is rebuilt after that.
#[test]
fn many_hosts_that_drift_at_once_trip_the_breaker_and_its_message_names_their_common_path() {
    let mut story = Story::new(100);
    story.rules(rebuild(0, 1));
    for number in 0..10 {
        story.enrol(number, KEY).unwrap();
        let own = format!("/usr/lib/host-{number}");
        let found = vec![swapped("/usr/bin/ssh", "of another image"), swapped(&own, "x")];
        story.reports(number, 1, 1, found).unwrap();
    }
    let tripped = story.registry.as_ref().unwrap().read(|view| view.breaker().cloned()).expect("it trips at the sixth");
    assert!(tripped.reason.starts_with("6 of 100 hosts ask for a rebuild because of drift"), "{}", tripped.reason);
    assert!(tripped.reason.ends_with("common to them: /usr/bin/ssh (6 of 6)"), "{}", tripped.reason);
    for _ in 0..5 {
        story.pass(60);
    }
    let orders = (0..100).filter(|number| story.host(*number).order.is_some()).count();
    assert_eq!(orders, 0, "rebuilt after the breaker tripped");
    story.restarts();
    story.pass(60);
    assert!((0..100).all(|number| story.host(number).order.is_none()));
    assert_eq!((0..100).filter(|number| story.host(*number).asks.len() == 1).count(), 10, "and all of them still ask");
}

/// Issue 4, faults: "a host that reports millions of findings".
#[test]
fn of_millions_of_findings_five_hundred_are_kept_and_all_are_counted() {
    let mut story = Story::new(1);
    story.enrol(0, KEY).unwrap();
    let found: Vec<Finding> = (0..500).map(|n| swapped(&format!("/srv/{n:04}"), &n.to_string())).collect();
    let report = Report { findings_total: 1_000_000, ..story.report(0, 1, 1, found) };
    story.takes(0, KEY, report).unwrap();
    assert_eq!((story.standing(0), story.listed(0).agent.found.len()), ((Some(true), 1_000_000, 0), 500));
    story.restarts();
    story.pass(1);
    assert_eq!((story.standing(0), story.listed(0).agent.found.len()), ((Some(true), 1_000_000, 0), 500));
    // A shorter list leaves nothing of the longer one behind.
    story.reports(0, 2, 2, vec![swapped("/srv/0001", "1")]).unwrap();
    story.restarts();
    assert_eq!(story.listed(0).agent.found[0].known_since(), story.listed(0).agent.found[0].known[0].since);
    assert_eq!(story.listed(0).agent.found.len(), 1);
}

/// A host that is removed leaves nothing behind; a record of its machine begins anew.
#[test]
fn a_removed_host_takes_its_key_and_findings_along() {
    let mut story = Story::new(1);
    story.enrol(0, KEY).unwrap();
    story.reports(0, 1, 1, vec![swapped("/srv/x", "x")]).unwrap();
    story.ask(|reply| Command::Remove { name: id(0), by: "ann".into(), reply }).unwrap();
    story.restarts();
    assert_eq!(story.standing_of_the_gone(), None);
    let left = story.registry.as_ref().unwrap().read(|view| view.hosts().count());
    assert_eq!(left, 0);
}

impl Story {
    fn standing_of_the_gone(&self) -> Option<u64> {
        self.registry.as_ref().unwrap().read(|view| view.drift().host(&id(0)).map(|watched| watched.findings))
    }
}
