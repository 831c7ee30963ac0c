//! The laws, looked at after every commit. They keep a log of their own, read off the history lines, and judge each
//! order that is opened by what the documents and the operators said, not by what the brakes counted.

use crate::server::{Done, Server, digest};
use regild::decide::cause::{Cause, CauseKind};
use regild::decide::group::Group;
use regild::decide::host::{AgentWord, Claim, Event, Host, State};
use regild::decide::labels::{FEED, PROTECTED, RACK};
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
    orders: u64,
    builds: u64,
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
            self.finished.retain(|(host, _), _| *host != id);
            self.tokens.retain(|_, (host, _)| *host != id);
            self.removed.insert(id, last.host.clone());
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
                log.orders += 1;
                self.orders += 1;
                self.opened.push((at, id.clone()));
            } else if line.to == "rebooting" && line.from != "rebooting" {
                assert!(log.open.is_some(), "{id}: built without an order: {line:?}");
                let says = format!("{} is on the disk and was read back; order {} closed", log.image, log.generation);
                assert_eq!(line.cause, says, "{id}");
                log.open = None;
                log.builds += 1;
                self.builds += 1;
            } else if line.to == "failed" || line.to == "held" {
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

    /// An order was opened: was there a cause, and did every brake allow it?
    fn may_open(&mut self, view: &View, before: &Before, now: &Arc<HostView>, wall: u64, held: bool) {
        let host = &now.host;
        let id = &host.id;
        let order = host.order.as_ref().expect("it was opened");
        let group = view.group(&host.group);
        assert!(!before.stopped, "{id}: an order was opened while everything is stopped");
        assert!(!before.tripped, "{id}: an order was opened while the breaker is tripped");
        assert!(host.labels.get(PROTECTED).is_none() && !group.protected, "{id}: it is protected");
        assert!(!host.macs.iter().any(|mac| view.policy().denied.contains(mac)), "{id}: it is on the deny list");
        let blocked = view.images().blocked(&order.image.name);
        assert!(blocked.is_none(), "{id}: an order for an image that is blocked: {blocked:?}");
        let automatic = order.causes.iter().all(|cause| cause.kind.is_automatic());
        if automatic {
            assert!(!held && !self.jumped, "{id}: {:?} acted while the clock is held", order.causes);
            in_time(&group, host, wall);
        }
        let stands = |cause: &Cause| match cause.kind {
            CauseKind::Rollout { number } => {
                let runs = |rollouts: &Rollouts| rollouts.get(&number).is_some_and(|known| known.progress.admits());
                !runs(&before.rollouts) && !runs(view.rollouts())
            }
            _ => false,
        };
        assert!(!order.causes.iter().all(stands), "{id}: its rollout stands still: {:?}", order.causes);
        in_turn(view, host);
        self.caps(view, host, &group, wall);
        self.once(host);
    }

    /// The image is one that somebody asked for: a person before all others; where nobody named one, what was desired.
    fn wanted(&self, host: &Host) {
        let order = host.order.as_ref().expect("it was opened");
        let named = |kinds: fn(CauseKind) -> bool| {
            let causes = order.causes.iter().filter(move |cause| kinds(cause.kind));
            causes.filter_map(|cause| cause.image.as_ref()).collect::<Vec<_>>()
        };
        let (person, anybody) = (named(|kind| kind == CauseKind::Operator), named(|_| true));
        let wanted = if person.is_empty() { anybody } else { person };
        let desired = self.seen.get(&host.id).and_then(|seen| seen.host.desired.as_ref());
        let right = if wanted.is_empty() { desired == Some(&order.image) } else { wanted.contains(&&order.image) };
        // A host that was declared and ordered in one commit was not seen in between.
        assert!(right || wanted.is_empty() && desired.is_none(), "{}: {:?} was not asked for", host.id, order.image);
    }

    /// One order for one cause.
    fn once(&mut self, host: &Host) {
        let order = host.order.as_ref().expect("it was opened");
        assert!(!order.causes.is_empty(), "{}: an order without a cause", host.id);
        let log = self.logs.entry(host.id.clone()).or_default();
        for cause in &order.causes {
            // A rollout asks a host once, whenever that is; all others are known by their time and words.
            let known = match cause.kind {
                CauseKind::Rollout { .. } => (cause.kind, 0, String::new()),
                _ => (cause.kind, cause.at, cause.reason.clone()),
            };
            assert!(log.used.insert(known), "{}: rebuilt twice for one cause: {cause:?}", host.id);
            if let Some(key) = &cause.key {
                let orders = log.keys.entry(key.clone()).or_default();
                *orders += 1;
                assert_eq!(*orders, 1, "{}: two orders for one request, {key}", host.id);
            }
        }
    }

    fn caps(&mut self, view: &View, host: &Host, group: &Group, wall: u64) {
        let policy = view.policy();
        self.opened.retain(|(at, _)| at + HOUR > wall);
        let all = [
            ("the fleet", None, Some(""), policy.fleet),
            ("its group", Some("group"), Some(host.group.as_str()), group.limits),
            ("its rack", Some(RACK), host.labels.get(RACK), policy.rack),
            ("its feed", Some(FEED), host.labels.get(FEED), policy.feed),
        ];
        for (what, label, value, limits) in all {
            let Some(value) = value else { continue };
            let inside = |of: &Host| match label {
                None => true,
                Some("group") => of.group == value,
                Some(label) => of.labels.get(label) == Some(value),
            };
            let open = view.hosts().filter(|one| one.host.order.is_some() && inside(&one.host)).count();
            assert!(open <= limits.concurrent_max as usize, "{}: {open} open orders in {what} {value}", host.id);
            let of = |id: &String| self.seen.get(id).map(|view| &view.host).or_else(|| self.removed.get(id));
            let within = self.opened.iter().filter(|(_, id)| of(id).is_some_and(inside)).count();
            assert!(within <= limits.orders_per_hour_max as usize, "{}: {within} orders an hour in {what}", host.id);
        }
    }

    /// After a tick: more failures, or more drift, than allowed within the hour, and it did not trip?
    pub fn breaker(&self, server: &Server, wall: u64) {
        server.read(|view| {
            let policy = view.policy().breaker;
            let recent = |at: u64| at + HOUR > wall && at > self.reset_at;
            let failed =
                view.hosts().filter(|view| matches!(view.host.state, State::Failed { .. }) && recent(view.host.since));
            let drifts = |cause: &Cause| cause.kind == CauseKind::Drift && recent(cause.at);
            let drifted = view.hosts().filter(|view| {
                let order = view.host.order.iter().flat_map(|order| &order.causes);
                view.host.asks.iter().chain(order).any(drifts)
            });
            let approved = view.hosts().filter(|view| view.host.state != State::Discovered).count();
            for (count, what) in [(failed.count(), "failed"), (drifted.count(), "drifted")] {
                let too_many =
                    count >= policy.hosts_min as usize && count * 100 > approved * policy.percent_max as usize;
                assert!(
                    !too_many || view.breaker().is_some(),
                    "{count} of {approved} hosts {what}, and no breaker tripped"
                );
            }
        });
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
                assert_eq!(format!("{inventory:?}"), format!("{:?}", now.inventory), "{}", known.id);
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
            for now in view.hosts() {
                let host = &now.host;
                let id = &host.id;
                let lines = server.store.keys(&history::prefix(id)).len() as u64;
                let log = &self.logs[id];
                assert_eq!(lines, host.history_length, "{id}: lines of history");
                assert_eq!(host.order, None, "{id}: an order is still open in {:?}", host.state);
                match &host.state {
                    State::Ready { .. } | State::Failed { .. } | State::Held { .. } => {}
                    State::Enrolled | State::Discovered if host.generation == 0 => {}
                    State::Enrolled => {
                        let released = server.store.keys(&history::prefix(id)).iter().rev().any(|key| {
                            let raw = server.store.value(key).expect("it was listed");
                            let line: history::Line = serde_json::from_slice(&raw).expect("it was read before");
                            matches!(line.from.as_str(), "held" | "failed") && line.to == "enrolled"
                        });
                        assert!(released, "{id}: Enrolled with orders, and nobody released it");
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
                if host.reported_generation > 0 && log.builds > 0 && whole.is_some() {
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
    images: regild::registry::images::ImageFacts,
    rollouts: Arc<Rollouts>,
    groups: BTreeMap<String, Group>,
    policy: regild::decide::brakes::Policy,
    breaker: Option<regild::registry::Tripped>,
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

/// What a document says of an automatic cause at this moment, reckoned by hand: the simulation writes all its cron lines
/// as `0 H * * *`, in UTC.
fn in_time(group: &Group, host: &Host, wall: u64) {
    let schedule = &group.schedule;
    let inside = |window: &regild::decide::group::Window| {
        let hour: u64 = window.cron.split(' ').nth(1).and_then(|hour| hour.parse().ok()).expect("0 H * * *");
        (wall + 86_400 - hour * HOUR) % 86_400 < window.open_seconds + STALE_SECONDS
    };
    let open = schedule.windows.is_empty() || schedule.windows.iter().any(inside);
    assert!(open, "{}: an order of an automatic cause outside of its windows", host.id);
    let dark = schedule.blackouts.iter().any(|(first, last)| {
        (crate::world::midnight(first) + STALE_SECONDS..crate::world::midnight(last) + 86_400).contains(&wall)
    });
    assert!(!dark, "{}: an order of an automatic cause on a blackout day", host.id);
    let over = host.built_at == 0 || host.built_at + schedule.pause_seconds <= wall + STALE_SECONDS;
    assert!(over, "{}: rebuilt at {}, again at {wall}: within the pause", host.id, host.built_at);
}

/// A rollout goes by waves: no host of an earlier one asks, or is being rebuilt, when a later one's turn has come.
fn in_turn(view: &View, host: &Host) {
    let order = host.order.as_ref().expect("it was opened");
    for cause in &order.causes {
        let CauseKind::Rollout { number } = cause.kind else { continue };
        let plan = &view.rollouts()[&number].plan;
        let waves = plan.waves.iter().take_while(|wave| wave.iter().all(|member| member.id != host.id));
        for member in waves.flatten() {
            let Some(other) = view.find(&member.id) else { continue };
            let causes = other.host.order.iter().flat_map(|order| &order.causes).chain(&other.host.asks);
            let moves = causes.into_iter().any(|other| other.kind == cause.kind);
            assert!(!moves, "{}: its wave of rollout {number} is ordered while {} moves", host.id, member.id);
        }
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
