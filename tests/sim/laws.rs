//! The laws, looked at after every commit. They keep a log of their own, read off the history lines, and judge each
//! order that is opened by what the documents and the operators said, not by what the brakes counted.

#[path = "laws/brakes.rs"]
mod brakes;
#[path = "laws/end.rs"]
mod end;

pub use end::Snapshot;

use crate::server::{Done, Server, digest};
use regild::decide::cause::CauseKind;
use regild::decide::host::{AgentWord, Claim, Event, Host};
use regild::decide::mac::Mac;
use regild::registry::rollouts::Rollouts;
use regild::registry::{HostView, RegistryError, Script, View, history, stored};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const HOUR: u64 = 3600;
/// Of the configuration, where nothing is said.
const ATTEMPTS_MAX: usize = 3;
/// How stale the scheduler's last word may be: the world ticks at least so often while anything happens.
pub const STALE_SECONDS: u64 = 6;

/// What was so before a commit.
#[derive(Debug, Clone, Default)]
pub struct Before {
    pub stopped: bool,
    pub tripped: bool,
    pub rollouts: Arc<Rollouts>,
}

#[derive(Debug, Default)]
struct Log {
    lines: u64,
    /// Where the last line led; `None` for a record that is new.
    at: Option<String>,
    open: Option<u64>,
    generation: u64,
    /// Generation and image of each order, and of each that was carried out; also of earlier records of the same id.
    ordered: Vec<(u64, String)>,
    built: Vec<(u64, String)>,
    image: String,
    /// Causes that were orders already.
    used: BTreeSet<(CauseKind, u64, String)>,
    keys: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
pub struct Laws {
    seen: BTreeMap<String, Arc<HostView>>,
    logs: BTreeMap<String, Log>,
    /// Every order within the last hour: when, for whom, and where it counted when its record was removed.
    opened: Vec<(u64, String)>,
    removed: BTreeMap<String, Host>,
    /// Tokens that were handed out.
    tokens: BTreeMap<String, (String, u64)>,
    /// The last one of each host: no other opens a session.
    latest: BTreeMap<String, String>,
    /// The clock jumped, the scheduler has seen it, and nobody accepted it.
    pub jumped: bool,
    /// When a person last reset the breaker.
    pub reset_at: u64,
    /// Images that were written and read back, by host and generation.
    finished: BTreeMap<(String, u64), String>,
    pub orders: u64,
    pub builds: u64,
}

impl Laws {
    pub fn before(&self, server: &Server) -> Before {
        let (tripped, rollouts) = server.read(|view| (view.breaker().is_some(), view.rollouts().clone()));
        Before { stopped: server.stop.pressed().is_some(), tripped, rollouts }
    }

    /// After a commit that was answered: the published records, the stored ones, the history and the brakes agree.
    /// `before` is `None` after a start: what a dying server committed is looked at then, and by which brakes it was
    /// judged is no longer known.
    pub fn committed(&mut self, server: &Server, before: Option<&Before>, wall: u64) {
        let held = server.held().is_some();
        let (mut opened, mut changed) = (Vec::new(), Vec::new());
        server.read(|view| {
            for now in view.hosts() {
                if self.seen.get(&now.host.id).is_some_and(|seen| Arc::ptr_eq(seen, now)) {
                    continue;
                }
                if self.moved(server, now, before.map(|_| wall)) {
                    opened.push(now.clone());
                }
                changed.push(now.clone());
            }
            for host in &opened {
                self.wanted(&host.host);
            }
            self.seen.extend(changed.into_iter().map(|now| (now.host.id.clone(), now)));
            if view.hosts().count() != self.seen.len() {
                self.forget(view, server);
            }
            for host in &opened {
                match before {
                    Some(before) => self.may_open(view, before, host, wall, held),
                    None => self.once(&host.host),
                }
            }
        });
    }

    fn forget(&mut self, view: &View, server: &Server) {
        let gone: Vec<String> = self.seen.keys().filter(|id| view.find(id).is_none()).cloned().collect();
        for id in gone {
            assert!(server.store.value(&format!("host/{id}")).is_none(), "{id} is gone, but its record is stored");
            let last = self.seen.remove(&id).expect("it is one of them");
            assert!(last.host.order.is_none(), "{id} was removed with an open order");
            let log = self.logs.entry(id.clone()).or_default();
            (log.at, log.generation) = (None, 0);
            log.used.clear();
            log.keys.clear();
            // Its orders count on where it was; under the same id another record may come, in another group.
            let gone = format!("{id}, removed after line {}", log.lines);
            self.opened.iter_mut().filter(|(_, of)| *of == id).for_each(|(_, of)| of.clone_from(&gone));
            self.finished.retain(|(host, _), _| *host != id);
            self.tokens.retain(|_, (host, _)| *host != id);
            self.removed.insert(gone, last.host.clone());
        }
    }

    /// Replays the new lines of a host's history; says whether an order was opened.
    fn moved(&mut self, server: &Server, now: &Arc<HostView>, wall: Option<u64>) -> bool {
        let host = &now.host;
        let id = &host.id;
        let raw = server.store.value(&format!("host/{id}")).unwrap_or_else(|| panic!("{id} is published, not stored"));
        let (known, _) = stored::decode(&raw).expect("a stored record is read again");
        assert_eq!(known, *host, "{id}: what is published is not what is stored");
        let log = self.logs.entry(id.clone()).or_default();
        assert!(host.history_length >= log.lines, "{id}: its history shrank");
        let mut opened = 0;
        for number in log.lines..host.history_length {
            let raw = server.store.value(&history::key(id, number));
            let raw = raw.unwrap_or_else(|| panic!("{id}: line {number} of its history is not there"));
            let line: history::Line = serde_json::from_slice(&raw).expect("a line of history is read again");
            let at = wall.unwrap_or(line.at);
            assert_eq!((line.number, line.at), (number, at), "{id}: the line is of another moment: {line:?}");
            if let Some(at) = &log.at {
                assert_eq!(*at, line.from, "{id}: the history has a gap before {line:?}");
            }
            if let Some(text) = line.cause.strip_prefix("order ").filter(|_| line.to == "queued") {
                let (number, rest) = text.split_once(" for ").unwrap_or_else(|| panic!("{id}: {line:?}"));
                let number: u64 = number.parse().unwrap_or_else(|_| panic!("{id}: {line:?}"));
                assert_eq!(log.open, None, "{id}: order {number} was opened while another one is open");
                assert_eq!(number, log.generation + 1, "{id}: generations go up by one");
                (log.open, log.generation) = (Some(number), number);
                log.image = rest.split_once(": ").map_or(rest, |(image, _)| image).to_string();
                opened += 1;
                log.ordered.push((number, log.image.clone()));
                self.orders += 1;
                self.opened.push((at, id.clone()));
            } else if line.to == "rebooting" && line.from != "rebooting" {
                assert!(log.open.is_some(), "{id}: built without an order: {line:?}");
                let says = format!("{} is on the disk and was read back; order {} closed", log.image, log.generation);
                assert_eq!(line.cause, says, "{id}");
                log.open = None;
                log.built.push((log.generation, log.image.clone()));
                self.builds += 1;
            } else if line.to == "failed" || line.to == "held" {
                log.open = None;
            } else if line.cause == format!("order {} closed: {} is blocked: CVE", log.generation, log.image) {
                assert!(matches!(line.from.as_str(), "queued" | "netbooting"), "{id}: closed while written: {line:?}");
                log.open = None;
            }
            log.at = Some(line.to);
        }
        log.lines = host.history_length;
        let ends = history::line(&entry(host), 0, 0, 0).to;
        assert_eq!(log.at.as_ref(), Some(&ends), "{id}: its history does not end where it stands");
        assert_eq!(log.open, host.order.as_ref().map(|order| order.generation), "{id}: its open order");
        assert_eq!(log.generation, host.generation, "{id}: its generation");
        assert!(host.order.is_none() || host.asks.is_empty(), "{id}: asks beside an open order");
        assert!(opened < 2, "{id}: two orders in one commit");
        opened == 1 && log.open.is_some()
    }

    /// What the writer answered, against what is stored and what the asker had a right to.
    pub fn answered(&mut self, server: &Server, before: Option<&Host>, done: &Done, alone: bool) {
        match done {
            Done::Nothing => {}
            Done::Script(token, answer) => {
                if let Ok(Script::Agent { host, generation, .. }) = answer {
                    let known = stored_host(server, host);
                    let is_claim = |claim: &Claim| claim.token_digest == digest(token);
                    let counted = known.order.as_ref().is_some_and(|order| {
                        order.generation == *generation && order.claim.as_ref().is_some_and(is_claim)
                    });
                    assert!(counted || !alone, "{host}: a script left before its attempt was stored");
                    let stop = server.stop.pressed();
                    let right = match stop {
                        Some(stop) if stop.running_too => false,
                        Some(_) => {
                            before.is_none_or(|before| before.order.as_ref().is_some_and(|order| order.attempts > 0))
                        }
                        None => true,
                    };
                    assert!(right, "{host}: the agent is booted though everything is stopped");
                    self.tokens.insert(digest(token), (host.clone(), *generation));
                    self.latest.insert(host.clone(), digest(token));
                    let attempts = self.tokens.values().filter(|of| **of == (host.clone(), *generation)).count();
                    assert!(attempts <= ATTEMPTS_MAX, "{host}: attempt {attempts} of order {generation}");
                }
            }
            Done::Host(name, event, answer) => {
                let Ok(view) = answer else { return };
                let known = stored_host(server, &view.host.id);
                assert!(known.history_length >= view.host.history_length, "{name}: answered, but not stored");
                assert!(!alone || known == view.host, "{name}: the answer is not what is stored");
                self.had_a_right(name, event, before, &view.host);
            }
        }
    }

    fn had_a_right(&self, name: &str, event: &Event, before: Option<&Host>, after: &Host) {
        match event {
            Event::CheckedIn { generation, token_digest, .. } => {
                let issued = self.tokens.get(token_digest);
                let right = (after.id.clone(), *generation);
                assert_eq!(issued, Some(&right), "{name}: a check-in with a token that was not handed out for it");
                assert_eq!(self.latest.get(&after.id), Some(token_digest), "{name}: a check-in with an old token");
                let open = after.order.as_ref().map(|order| order.generation);
                assert_eq!(open, Some(*generation), "{name}: a check-in without its order");
            }
            Event::Agent { generation, session_digest, word } => {
                let Some(before) = before else { return };
                let repeats = matches!(word, AgentWord::Verified(_))
                    && before.order.is_none()
                    && before.reported_generation == *generation;
                let order = before.order.as_ref().filter(|order| order.generation == *generation);
                let ours = order.is_some_and(|order| order.is_claimed_by(session_digest));
                assert!(ours || repeats, "{name}: {word:?} was believed of a stranger; before: {:?}", before.order);
            }
            _ => {}
        }
    }

    /// The hourly caps go by the wall clock, so what was within an hour is unknown after a jump.
    pub fn clock_jumped(&mut self, seen: bool) {
        self.opened.clear();
        self.jumped |= seen;
    }

    /// The server let an agent go on: from now on it writes.
    pub fn permitted(&self, server: &Server, host: &str, generation: u64, macs: &[Mac]) {
        let known = stored_host(server, host);
        let open = known.order.as_ref().map(|order| order.generation);
        assert_eq!(open, Some(generation), "{host}: a disk may be written without an open order");
        assert!(
            macs.iter().any(|mac| known.macs.contains(mac)),
            "{host}: {macs:?} writes under the order of another machine"
        );
        let stop = server.stop.pressed();
        assert!(!stop.is_some_and(|stop| stop.running_too), "{host}: a disk may be written though all is stopped");
    }

    pub fn wrote(&self, host: &str, generation: u64) {
        let log = self.logs.get(host).unwrap_or_else(|| panic!("{host}: written, and never heard of"));
        assert!(log.generation >= generation && generation > 0, "{host}: written under order {generation}");
    }

    pub fn finished(&mut self, host: &str, generation: u64, image: &str) {
        self.finished.insert((host.to_string(), generation), image.to_string());
    }
}

fn stored_host(server: &Server, id: &str) -> Host {
    let raw = server.store.value(&format!("host/{id}"));
    let raw = raw.unwrap_or_else(|| panic!("{id}: answered, but nothing is stored of it"));
    stored::decode(&raw).expect("a stored record is read again").0
}

fn entry(host: &Host) -> regild::decide::host::Entry {
    let (cause, actor) = (String::new(), String::new());
    regild::decide::host::Entry { from: host.state.clone(), to: host.state.clone(), cause, actor }
}

/// Whether an error says that nothing was done, for sure.
pub fn is_store_error<T>(answer: &Result<T, RegistryError>) -> bool {
    matches!(answer, Err(RegistryError::Store(_)))
}
