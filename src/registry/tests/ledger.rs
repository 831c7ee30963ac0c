//! The registry keeps the ledger: every order and every change of what a disk holds is in it, in the commit of the record.

use super::*;
use crate::registry::ledger::{self, Filter, Kind, at, find, verify};

const DISK: DiskId = DiskId { serial: None, wwn: None, size_bytes: 9 };

/// A machine that netboots, writes what it is told, and comes up.
async fn rebuild(registry: &Registry) {
    let Script::Agent { generation, token, .. } = registry.script(MAC, IPXE).await.unwrap() else {
        panic!("no order is open")
    };
    let (token_digest, session_digest) = (digest(&token), "session".to_string());
    let identity = Identity::default();
    let event = |word| Event::Agent { generation, session_digest: "session".into(), word };
    let check_in = Event::CheckedIn { generation, token_digest, session_digest, identity };
    for event in [check_in, event(AgentWord::Step(Step::ClearHead)), event(AgentWord::Verified(DISK))] {
        registry.host_event("node-1", event).await.unwrap();
    }
}

fn told(registry: &Registry) -> Vec<(Kind, Option<String>, u64)> {
    let (reader, mut found) = (registry.ledger().unwrap(), Vec::new());
    find(reader.db(), reader.tip, &Filter::default(), |entry, _| {
        let fact = &entry.fact;
        found.push((fact.kind, fact.image.as_ref().map(|image| image.name.clone()), fact.generation));
    })
    .unwrap();
    found
}

#[tokio::test]
async fn orders_and_what_disks_hold_are_in_the_ledger_over_restarts_and_removal() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = open(dir.path());
    let _ = registry.script(MAC, IPXE).await.unwrap();
    registry.host_event("node-1", approve()).await.unwrap();
    rebuild(&registry).await;
    registry = reopen(dir.path(), registry).await;
    let image = |name: &str| Some(name.to_string());
    // Nothing of ours was on the disk when its head was cleared first: not worth an entry.
    let mut expected = vec![(Kind::Ordered, image("tiny:1"), 1), (Kind::Runs, image("tiny:1"), 1)];
    assert_eq!(told(&registry), expected);
    let again = Cause::new(CauseKind::Operator, "again", "ann", clock::now());
    registry.host_event("node-1", Event::Ask { cause: again }).await.unwrap();
    rebuild(&registry).await;
    registry.remove("node-1", "bob").await.unwrap();
    registry = reopen(dir.path(), registry).await;
    expected.extend([(Kind::Ordered, image("tiny:1"), 2), (Kind::Runs, None, 2), (Kind::Runs, image("tiny:1"), 2)]);
    expected.push((Kind::Runs, None, 2));
    assert_eq!(told(&registry), expected);
    let last = registry.ledger().unwrap();
    let mut by = String::new();
    find(last.db(), last.tip, &Filter::default(), |entry, _| by.clone_from(&entry.fact.by)).unwrap();
    assert_eq!(by, "bob", "who removed the record");
    drop(last);
    let reader = registry.ledger().unwrap();
    assert_eq!(verify(reader.db(), None).unwrap().tip, reader.tip);
}

/// A store from before the ledger has records and no entries: what they run is where it begins, once.
#[tokio::test]
async fn a_store_from_before_the_ledger_begins_with_what_its_hosts_run() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    let _ = registry.script(MAC, IPXE).await.unwrap();
    registry.host_event("node-1", approve()).await.unwrap();
    rebuild(&registry).await;
    drop(registry);
    let mut db = loop {
        match SledDb::open(dir.path()) {
            Ok(db) => break db,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let old = db.scan("ledger").unwrap().into_iter().map(|item| (item.key, None)).collect();
    db.commit(&[Txn { checks: Vec::new(), writes: old }]).unwrap();
    let (mut registry, _) = Registry::start(Box::new(db), &config(dir.path())).unwrap();
    for _ in 0..2 {
        let reader = registry.ledger().unwrap();
        let entries: Vec<_> = at(reader.db(), reader.tip, u64::MAX).unwrap().map(Result::unwrap).collect();
        let [only] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!((only.fact.image.as_ref().unwrap().name.as_str(), only.number), ("tiny:1", 1));
        assert_eq!(verify(reader.db(), None).unwrap().tip.number, 1);
        drop(reader); // it keeps the store
        registry = reopen(dir.path(), registry).await;
    }
}

/// Reading takes long, and the writer does not wait for it: what is read meanwhile is whole all the same.
#[tokio::test]
async fn the_ledger_is_verified_and_read_while_the_writer_adds_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    let _ = registry.script(MAC, IPXE).await.unwrap();
    registry.host_event("node-1", approve()).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (other, end) = (registry.clone(), done.clone());
    let looks = std::thread::spawn(move || {
        let (mut looks, mut newest) = (0, 0);
        while !end.load(Ordering::Relaxed) || looks == 0 {
            let reader = other.ledger().unwrap();
            let seen = verify(reader.db(), Some(reader.tip)).unwrap().tip.number;
            assert!(seen >= reader.tip.number && reader.tip.number >= newest);
            newest = reader.tip.number;
            let mut count = 0;
            find(reader.db(), reader.tip, &Filter::default(), |_, _| count += 1).unwrap();
            assert_eq!(count, newest, "up to the tip, and nothing beyond it");
            looks += 1;
        }
        looks
    });
    for round in 0..60 {
        if round > 0 {
            // The brakes allow a group twenty orders an hour; the ledger does not mind who opens them.
            let by = format!("round {round}");
            let again = Cause::new(CauseKind::Operator, &by, "ann", clock::now());
            registry.host_event("node-1", Event::Ask { cause: again }).await.unwrap();
            if registry.find("node-1").unwrap().host.order.is_none() {
                break;
            }
        }
        rebuild(&registry).await;
    }
    done.store(true, Ordering::Relaxed);
    assert!(looks.join().unwrap() > 0);
    assert!(registry.ledger().unwrap().tip.number >= 20);
    let host = registry.find("node-1").unwrap().host.id.clone();
    let reader = registry.ledger().unwrap();
    assert!(ledger::host_at(reader.db(), reader.tip, &host, u64::MAX).unwrap().is_some());
}
