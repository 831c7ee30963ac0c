//! What is looked at after a crash, and at the end of a life.

use super::Laws;
use crate::server::Server;
use crate::store::Store;
use regild::decide::brakes::Policy;
use regild::decide::cause::CauseKind;
use regild::decide::group::Group;
use regild::decide::host::{Host, State};
use regild::registry::images::ImageFacts;
use regild::registry::inventory::Packed;
use regild::registry::ledger::{self, Filter, Kind};
use regild::registry::rollouts::Rollouts;
use regild::registry::{Tripped, View, history, stored};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Laws {
    /// A start after a crash. `last` is what was published last, unless a commit was cut that may have taken effect.
    pub fn restarted(&mut self, server: &Server, last: Option<&Snapshot>) {
        server.read(|view| {
            for now in view.hosts() {
                let raw = server.store.value(&format!("host/{}", now.host.id)).expect("it was loaded from there");
                let (known, inventory) = stored::decode(&raw).expect("a stored record is read again");
                assert_eq!(known, now.host, "loaded is what is stored");
                // A script that was counted, and never left.
                let claim = known.order.as_ref().and_then(|order| order.claim.as_ref());
                self.latest.extend(claim.map(|claim| (known.id.clone(), claim.token_digest.clone())));
                let packed = inventory.as_ref().map(Packed::of);
                assert_eq!(packed, now.inventory, "{}", known.id);
            }
            if let Some(last) = last {
                assert_eq!(*last, Snapshot::of(view), "what was answered before the crash is not there after it");
            }
        });
    }

    /// After chaos: nobody hangs, nothing is open, and the history tells what happened.
    /// `holds` says whether an honest machine's disk holds what its host reports; `None` of one that is not.
    pub fn ended(&self, server: &Server, holds: impl Fn(&Host) -> Option<bool>) {
        server.read(|view| {
            self.ledger(view, &server.store);
            for now in view.hosts() {
                let host = &now.host;
                let id = &host.id;
                let lines = server.store.keys(&history::prefix(id)).len() as u64;
                assert_eq!(lines, host.history_length, "{id}: lines of history");
                assert_eq!(host.order, None, "{id}: an order is still open in {:?}", host.state);
                match &host.state {
                    State::Ready { .. } | State::Failed { .. } | State::Held { .. } => {}
                    State::Enrolled | State::Discovered if host.generation == 0 => {}
                    State::Enrolled => {
                        let released = server.store.keys(&history::prefix(id)).iter().rev().any(|key| {
                            let raw = server.store.value(key).expect("it was listed");
                            let line: history::Line = serde_json::from_slice(&raw).expect("it was read before");
                            let closed = line.cause.starts_with("order ") && line.cause.contains(" closed: ");
                            (matches!(line.from.as_str(), "held" | "failed") || closed) && line.to == "enrolled"
                        });
                        assert!(released, "{id}: Enrolled with orders, and nobody released it, nor blocked its image");
                    }
                    other => panic!("{id}: it hangs in {other:?}"),
                }
                let allowed = view.allowed(host).is_ok();
                let blocked = host.asks.iter().any(|cause| {
                    let image = cause.image.as_ref().or(host.desired.as_ref());
                    image.is_some_and(|image| view.images().blocked(&image.name).is_some())
                });
                let stands = host.asks.iter().all(|cause| matches!(cause.kind, CauseKind::Rollout { .. }));
                let waits = host.asks.is_empty() || !allowed || blocked || stands;
                assert!(waits, "{id}: its causes wait for nothing: {:?}, {:?}", host.asks, now.waits);
                let whole = holds(host);
                if matches!(host.state, State::Ready { .. }) && host.reported_generation > 0 {
                    assert_ne!(whole, Some(false), "{id}: Ready, and its disk does not hold what it reports");
                }
                if host.reported_generation > 0 && whole.is_some() {
                    let wrote = self.finished.get(&(id.clone(), host.reported_generation));
                    let says = host.reported.as_ref().map(|image| &image.name);
                    assert_eq!(wrote, says, "{id}: what it reports is not what was written");
                }
            }
        });
    }
}

/// What must be there again after a crash.
#[derive(Debug, PartialEq)]
pub struct Snapshot {
    hosts: Vec<Host>,
    images: ImageFacts,
    rollouts: Arc<Rollouts>,
    groups: BTreeMap<String, Group>,
    policy: Policy,
    breaker: Option<Tripped>,
}

impl Snapshot {
    pub fn of(view: &View) -> Snapshot {
        Snapshot {
            hosts: view.hosts().map(|view| view.host.clone()).collect(),
            images: (**view.images()).clone(),
            rollouts: view.rollouts().clone(),
            groups: view.groups().clone(),
            policy: view.policy().clone(),
            breaker: view.breaker().cloned(),
        }
    }
}

impl Laws {
    /// The ledger is whole, and says of each host what its history said when it happened.
    fn ledger(&self, view: &View, store: &Store) {
        let verified = ledger::verify(store, view.ledger_tip()).unwrap_or_else(|error| panic!("the ledger: {error}"));
        assert_eq!(Some(verified.tip), view.ledger_tip(), "the ledger ends elsewhere");
        let (mut ordered, mut ran): (Told, Told) = (BTreeMap::new(), BTreeMap::new());
        let read = ledger::find(store, verified.tip, &Filter::default(), |entry, _| {
            let fact = &entry.fact;
            let told = if fact.kind == Kind::Ordered { &mut ordered } else { &mut ran };
            let image = fact.image.as_ref().map(|image| (fact.generation, image.name.clone()));
            told.entry(fact.host.clone()).or_default().extend(image);
        });
        read.unwrap_or_else(|error| panic!("the ledger: {error}"));
        for (id, log) in &self.logs {
            let of = |told: &Told| told.get(id).cloned().unwrap_or_default();
            assert_eq!(of(&ordered), log.ordered, "{id}: the ledger's orders");
            assert_eq!(of(&ran), log.built, "{id}: what the ledger says that it ran");
        }
    }
}

/// Generations and images, by host.
type Told = BTreeMap<String, Vec<(u64, String)>>;
