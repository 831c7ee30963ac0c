//! The ledger on a real store: what it says, and that no change of it goes unnoticed.

mod broken;
mod measured;
mod queries;

use super::*;
use crate::db::sled::SledDb;
use crate::db::{Committed, Db, Txn};
use crate::decide::boot::{BootPolicy, Halt};
use crate::decide::cause::{Cause, CauseKind};
use crate::decide::host::{AgentWord, DiskId, Event, Host, Identity, ImageChoice, Outcome, Step, transition};
use crate::decide::mac::Mac;
use crate::decide::netboot::NetbootClient;

const DAY: u64 = 86_400;

fn image(name: &str) -> Option<ImageChoice> {
    Some(ImageChoice { name: name.to_string(), manifest: blake3::hash(name.as_bytes()).to_hex().to_string() })
}

fn mac(number: u32) -> Mac {
    let [_, a, b, c] = number.to_be_bytes();
    Mac([0x52, 0x54, 0, a, b, c])
}

fn id(number: u32) -> String {
    format!("h-{}", mac(number).to_string().replace(':', ""))
}

fn runs(host: u32, name: Option<&str>, generation: u64) -> Fact {
    Fact {
        kind: Kind::Runs,
        host: id(host),
        macs: vec![mac(host)],
        image: name.and_then(image),
        former: image("debian:12.3"),
        generation,
        causes: vec![CauseKind::Schedule],
        reason: "0 3 * * 0 of group web".to_string(),
        by: "schedule".to_string(),
    }
}

fn ordered(host: u32, name: &str, generation: u64, cause: CauseKind) -> Fact {
    Fact { kind: Kind::Ordered, causes: vec![cause], ..runs(host, Some(name), generation) }
}

/// A ledger on a store of its own.
struct Kept {
    db: SledDb,
    ledger: Ledger,
    _dir: tempfile::TempDir,
}

impl Kept {
    fn new() -> Kept {
        let dir = tempfile::tempdir().unwrap();
        let db = SledDb::open(dir.path()).unwrap();
        let (ledger, broken) = Ledger::open(&db).unwrap();
        assert_eq!(broken, None);
        Kept { db, ledger, _dir: dir }
    }

    fn add(&mut self, fact: &Fact, at: u64) -> Option<u64> {
        let number = self.ledger.append(&self.db, fact, at).unwrap();
        self.commit();
        number
    }

    fn commit(&mut self) {
        let writes = self.ledger.take_writes();
        self.write(writes);
    }

    fn write(&mut self, writes: Vec<Write>) {
        let done = self.db.commit(&[Txn { checks: Vec::new(), writes }]).unwrap();
        assert!(matches!(done[..], [Committed::At(_)]));
    }

    fn raw(&self, key: &str) -> Option<Vec<u8>> {
        self.db.get(key).unwrap().map(|item| item.value)
    }

    /// Twelve entries of three hosts, a day apart.
    fn twelve() -> Kept {
        let mut kept = Kept::new();
        for generation in 1..=2 {
            for host in 1..=3 {
                let number = u64::from(host) * 2 + (generation - 1) * 6;
                let version = format!("debian:12.{generation}");
                kept.add(&ordered(host, &version, generation, CauseKind::Operator), (number - 1) * DAY);
                kept.add(&runs(host, Some(&version), generation), number * DAY);
            }
        }
        assert_eq!(kept.ledger.tip().number, 12);
        kept
    }

    fn verify(&self) -> Result<Tip, Broken> {
        match verify(&self.db, None) {
            Ok(verified) => Ok(verified.tip),
            Err(VerifyError::Broken(broken)) => Err(broken),
            Err(VerifyError::Ledger(error)) => panic!("{error}"),
        }
    }
}

#[test]
fn what_goes_in_comes_out_and_the_chain_holds_over_a_restart() {
    let mut kept = Kept::twelve();
    let fact = Fact {
        macs: vec![mac(1), mac(9)],
        causes: vec![CauseKind::Rollout { number: 7 }, CauseKind::Drift],
        image: Some(ImageChoice { name: "odd:1".into(), manifest: "no digest".into() }),
        former: None,
        ..ordered(1, "x:1", 3, CauseKind::Operator)
    };
    kept.add(&fact, 13 * DAY);
    let entry = read_entry(&kept.db, 13).unwrap();
    assert_eq!((entry.number, entry.at, entry.before, entry.runs), (13, 13 * DAY, 8, None));
    assert_eq!(entry.fact, fact);
    assert_eq!(kept.verify(), Ok(kept.ledger.tip()));
    // A new writer goes on where the old one ended.
    let (ledger, broken) = Ledger::open(&kept.db).unwrap();
    assert_eq!((ledger.tip(), broken), (kept.ledger.tip(), None));
    kept.ledger = ledger;
    kept.add(&runs(1, Some("x:1"), 3), 14 * DAY);
    assert_eq!(read_entry(&kept.db, 14).unwrap().before, 13);
    assert_eq!(kept.verify().unwrap().number, 14);
}

#[test]
fn every_kind_of_cause_comes_back_as_it_was() {
    let mut kept = Kept::new();
    let all = vec![
        CauseKind::Operator,
        CauseKind::Rollout { number: u64::MAX },
        CauseKind::Schedule,
        CauseKind::MaxAge,
        CauseKind::Drift,
        CauseKind::Channel,
        CauseKind::ImageDeprecated,
        CauseKind::ImageBlocked,
    ];
    let fact = Fact { causes: all, host: "not-an-id".into(), ..ordered(1, "a:1", 1, CauseKind::Operator) };
    kept.add(&fact, 1);
    assert_eq!(read_entry(&kept.db, 1).unwrap().fact, fact);
}

/// Several facts of one host in one transaction: each key once, as etcd wants it, and one tip.
#[test]
fn the_facts_of_one_commit_share_one_tip() {
    let mut kept = Kept::new();
    for fact in [ordered(1, "a:1", 1, CauseKind::Operator), runs(1, Some("a:1"), 1), runs(2, Some("a:1"), 1)] {
        kept.ledger.append(&kept.db, &fact, 5).unwrap();
    }
    let writes = kept.ledger.take_writes();
    let keys: Vec<&str> = writes.iter().map(|(key, _)| key.as_str()).collect();
    let hosts = ["ledger-host/h-525400000001", "ledger-host/h-525400000002"];
    let numbers = ["ledger/0000000001", "ledger/0000000002", "ledger/0000000003"];
    assert_eq!(keys, [&numbers[..], &hosts[..], &["ledger-tip"]].concat());
    kept.write(writes);
    assert_eq!(kept.verify().unwrap().number, 3);
    assert!(kept.ledger.take_writes().is_empty());
}

#[test]
fn the_largest_entry_fits_and_outside_text_is_one_bounded_line() {
    let mut kept = Kept::new();
    let fact = Fact {
        macs: (0..1_000).map(mac).collect(),
        reason: format!("line\nbreak\u{1b}[2J{}", "é".repeat(100_000)),
        by: "x".repeat(100_000),
        ..ordered(1, "a:1", 1, CauseKind::Operator)
    };
    kept.add(&fact, 1);
    let entry = read_entry(&kept.db, 1).unwrap();
    assert!(kept.raw(&key(1)).unwrap().len() < crate::db::VALUE_BYTES_MAX / 8);
    assert_eq!(entry.fact.reason.chars().count(), 500);
    assert!(entry.fact.reason.starts_with("line break [2J") && entry.fact.reason.ends_with('…'));
    assert_eq!((entry.fact.by.chars().count(), entry.fact.macs.len()), (100, 32));
}

const POLICY: BootPolicy = BootPolicy { attempts_max: 3, halt: Halt::Nothing };

/// One host, moved by its real transitions, and what the ledger would be told.
struct Story {
    host: Host,
    told: Vec<Fact>,
}

impl Story {
    fn go_on(&mut self, events: &[Event]) {
        for event in events {
            match transition(&self.host, event, POLICY, 100) {
                Outcome::Moved(moved, _) => {
                    self.told.extend(facts(Some(&self.host), Some(&moved)));
                    self.host = *moved;
                }
                Outcome::Unchanged => {}
                Outcome::Refused(refusal) => panic!("{event:?}: {refusal}"),
            }
        }
    }

    /// Netboot and check in.
    fn attempt(&mut self, generation: u64) {
        let client = NetbootClient::Ipxe { uefi: false };
        let (token_digest, session_digest) = ("t".to_string(), "s".to_string());
        self.go_on(&[
            Event::ScriptAsked { client, token_digest: token_digest.clone() },
            Event::CheckedIn { generation, token_digest, session_digest, identity: Identity::default() },
        ]);
        self.steps(generation, &[Step::Survey]);
    }

    fn steps(&mut self, generation: u64, steps: &[Step]) {
        steps.iter().for_each(|step| self.agent(generation, AgentWord::Step(*step)));
    }

    fn verified(&mut self, generation: u64) {
        let disk = DiskId { serial: Some("s".into()), wwn: None, size_bytes: 9 };
        self.agent(generation, AgentWord::Verified(disk));
    }

    fn agent(&mut self, generation: u64, word: AgentWord) {
        self.go_on(&[Event::Agent { generation, session_digest: "s".into(), word }]);
    }
}

const WRITE: [Step; 4] = [Step::ClearHead, Step::WriteBody, Step::VerifyBody, Step::WriteHead];

fn cause(kind: CauseKind, reason: &str, name: Option<&str>) -> Cause {
    Cause { image: name.and_then(image), ..Cause::new(kind, reason, "ann", 90) }
}

fn ask(kind: CauseKind, reason: &str, name: Option<&str>) -> Event {
    Event::Ask { cause: cause(kind, reason, name) }
}

/// An order, an attempt whose power is cut while it writes, a second attempt, a drift that joins, another order that
/// finds the image in place, and the end.
fn told() -> Vec<Fact> {
    let seen = Host::discovered(mac(1), "default", 1);
    let mut story = Story { told: facts(None, Some(&seen)), host: seen };
    story.go_on(&[Event::Approve { cause: cause(CauseKind::Operator, "new", Some("a:1")) }, Event::Admit]);
    story.attempt(1);
    story.steps(1, &WRITE);
    story.verified(1);
    story.go_on(&[Event::LocalBootServed, Event::Installed { image: "a:1".into() }]);
    story.go_on(&[ask(CauseKind::Schedule, "sunday", Some("a:2")), ask(CauseKind::MaxAge, "30d", Some("a:2"))]);
    story.go_on(&[Event::Admit]);
    story.attempt(2);
    story.steps(2, &WRITE[..2]);
    story.attempt(2);
    story.steps(2, &WRITE);
    story.go_on(&[ask(CauseKind::Drift, "/etc/passwd", None)]);
    story.verified(2);
    story.go_on(&[ask(CauseKind::Operator, "look", Some("a:2")), Event::Admit]);
    story.attempt(3);
    story.verified(3);
    story.told.extend(facts(Some(&story.host), None));
    story.told
}

fn in_short(fact: &Fact) -> String {
    let name = |image: &Option<ImageChoice>| image.as_ref().map_or("-", |image| &image.name[..]).to_string();
    let causes: Vec<&str> = fact.causes.iter().map(|cause| cause.word()).collect();
    let (kind, image, former, causes) = (fact.kind.word(), name(&fact.image), name(&fact.former), causes.join("+"));
    format!("{kind} {image} after {former} by {causes} #{}: {} ({})", fact.generation, fact.reason, fact.by)
}

#[test]
fn an_order_and_every_change_of_what_the_disk_holds_become_facts_and_nothing_else_does() {
    let lines: Vec<String> = told().iter().map(in_short).collect();
    let both = "schedule: sunday; max_age: 30d";
    assert_eq!(
        lines,
        [
            "ordered a:1 after - by operator #1: new (ann)",
            "runs - after - by operator #1: the disk is being rewritten: new (ann)",
            "runs a:1 after - by operator #1: new (ann)",
            &format!("ordered a:2 after a:1 by schedule+max_age #2: {both} (ann)"),
            &format!("runs - after a:1 by schedule+max_age #2: the disk is being rewritten: {both} (ann)"),
            &format!("runs - after a:1 by schedule+max_age #2: the disk is being rewritten: {both} (ann)"),
            &format!("runs a:2 after a:1 by schedule+max_age+drift #2: {both}; drift: /etc/passwd (ann)"),
            "ordered a:2 after a:2 by operator #3: look (ann)",
            "runs a:2 after a:2 by operator #3: look (ann)",
            "runs - after a:2 by  #3: the host record was removed (operator)",
        ]
    );
}

#[test]
fn what_the_ledger_says_already_is_not_said_again() {
    // Nothing of ours before the first image, and an empty disk that is cleared once more.
    let (mut kept, told) = (Kept::new(), told());
    let known: Vec<usize> = (0..told.len()).filter(|at| kept.add(&told[*at], 7).is_none()).collect();
    assert_eq!((told.len(), known), (10, vec![1, 5]));
    // A record that was there before the ledger began is taken in once.
    let old = Host { reported: image("a:9"), reported_generation: 4, ..Host::discovered(mac(5), "default", 1) };
    for expected in [Some(9), None] {
        let fact = facts(None, Some(&old)).remove(0);
        assert_eq!(
            (fact.reason.as_str(), kept.add(&fact, 8)),
            ("it ran this when the ledger first heard of it", expected)
        );
    }
}
