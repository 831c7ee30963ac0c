//! The server under test: the real registry, scheduler and power turns in one hand, and around them what `http::agent`
//! makes of a request. It can be killed at any commit, and started again on what the store holds.

use crate::machine::{Answer, Job, Request, Said};
use crate::store::{Fate, Store};
use regild::config::Config;
use regild::decide::boot::{BootDecision, LocalReason};
use regild::decide::host::{AgentWord, Event, Host, Refusal, Step};
use regild::decide::mac::Mac;
use regild::decide::netboot::{FirmwareArch, NetbootClient};
use regild::decide::schedule::clock::Now;
use regild::registry::direct::{Direct, Pending};
use regild::registry::rollouts::CheckAsked;
use regild::registry::stop::StopSwitch;
use regild::registry::{Command, HostView, ProgressSeen, RegistryError, Reply, Script, Steps, View};
use regild::scheduler::tick::Scheduler;
use regild::scheduler::turns::Turns;
use regild::wire;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const FIRMWARE: NetbootClient = NetbootClient::Firmware { arch: FirmwareArch::UefiX64 };
const IPXE: NetbootClient = NetbootClient::Ipxe { uefi: true };

pub struct Server {
    pub store: Store,
    pub stop: StopSwitch,
    config: Config,
    running: Option<Running>,
}

struct Running {
    direct: Direct,
    scheduler: Scheduler,
    turns: Turns,
    board: BTreeMap<String, ProgressSeen>,
    /// What its monotonic clock counts from.
    started_at: u64,
}

/// A request as far as it could be judged without the writer.
pub enum Prepared {
    Answered(Answer),
    Script { mac: Mac, token: String },
    Host { host: String, event: Event, inventory: Option<Box<wire::agent::Inventory>> },
}

/// What the writer said, for the laws.
pub enum Done {
    Nothing,
    Script(String, Result<Script, RegistryError>),
    Host(String, Event, Result<Arc<HostView>, RegistryError>),
}

pub fn digest(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

impl Server {
    pub fn new() -> Server {
        let text = r#"state_dir = "/nonexistent/regild-simulation"
            boot_assets = "/nonexistent"
            [[network]]
            interface = "lo"
            address = "10.9.0.1/24"
            pools = ["10.9.0.100-10.9.0.199"]"#;
        let mut config = Config::parse(text, Path::new("simulation")).expect("the configuration above");
        // The machine that this runs on is no part of the simulation.
        config.own_macs.clear();
        Server { store: Store::default(), stop: StopSwitch::in_memory(), config, running: None }
    }

    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    pub fn start(&mut self, wall: u64, at: u64) {
        let direct = Direct::load(self.store.reopen(), &self.config, self.stop.clone(), wall);
        let direct = direct.expect("what the writer wrote, it reads again");
        let scheduler = Scheduler::new(jiff::tz::TimeZoneDatabase::bundled(), direct.stored_clock());
        let (turns, board) = (Turns::default(), BTreeMap::new());
        self.running = Some(Running { direct, scheduler, turns, board, started_at: at });
    }

    pub fn kill(&mut self) {
        self.running = None;
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("the caller has asked whether it is up")
    }

    pub fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        self.running.as_ref().expect("the caller has asked whether it is up").direct.read(look)
    }

    pub fn held(&self) -> Option<i64> {
        self.running.as_ref().and_then(|running| running.scheduler.held())
    }

    pub fn ask<T>(&mut self, wall: u64, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, RegistryError> {
        self.running().direct.ask(wall, command)
    }

    pub fn set_fate(&self, fate: Fate) {
        self.store.set_fate(fate);
    }

    /// What the scheduler finds, and what the writer makes of it.
    pub fn tick(&mut self, wall: u64, at: u64) -> (Steps, Result<Vec<CheckAsked>, RegistryError>) {
        let running = self.running();
        let now = Now { wall, monotonic: at - running.started_at };
        let Running { direct, scheduler, board, .. } = running;
        let steps = direct.read(|view| scheduler.tick(view, now, |id| board.get(id).copied()));
        let taken = steps.clone();
        (steps, direct.ask(wall, |reply| Command::Tick { steps: Box::new(taken), reply }))
    }

    pub fn accept_clock(&mut self, wall: u64, at: u64) -> Result<(), RegistryError> {
        let running = self.running();
        let now = Now { wall, monotonic: at - running.started_at };
        let clock = running.scheduler.accept_clock(now);
        running.direct.ask(wall, |reply| Command::AcceptClock { clock, reply })
    }

    pub fn power_turns(&mut self, wall: u64) -> Vec<Arc<HostView>> {
        let stopped = self.stop.pressed().is_some();
        let Running { direct, turns, .. } = self.running();
        direct.read(|view| turns.due(view, stopped, wall))
    }

    /// What `http::agent` decides before it asks the writer. `token` is fresh.
    pub fn prepare(&mut self, request: Request, token: String, wall: u64) -> Prepared {
        let running = self.running();
        match request {
            // Decided from the view, by `netboot`.
            Request::Netboot { .. } => Prepared::Answered(Answer::Unavailable),
            Request::Script { mac } => Prepared::Script { mac, token },
            Request::CheckIn { host, generation, token, session, identity } => {
                let inventory = wire::agent::Inventory {
                    system_uuid: identity.system_uuid.clone(),
                    macs: identity.macs.iter().map(ToString::to_string).collect(),
                    ..wire::agent::Inventory::default()
                };
                let (token_digest, session_digest) = (digest(&token), digest(&session));
                let event = Event::CheckedIn { generation, token_digest, session_digest, identity };
                Prepared::Host { host, event, inventory: Some(Box::new(inventory)) }
            }
            Request::Report { host, generation, session, said } => {
                let is_over = matches!(said, Said::Word(AgentWord::Verified(_) | AgentWord::Failed { .. }));
                let stopped = self.stop.pressed().is_some_and(|stop| stop.running_too && !is_over);
                let running = self.running.as_mut().expect("it was up a moment ago");
                let Some(view) = running.direct.read(|view| view.find(&host)) else {
                    return Prepared::Answered(Answer::Refused);
                };
                if stopped {
                    return Prepared::Answered(Answer::Report { go_on: false });
                }
                match said {
                    Said::Progress { step, done_bytes } => {
                        let answer = progress_allowed(&view.host, generation, &digest(&session));
                        if let Answer::Report { go_on: true } = answer {
                            running.note(&host, step, done_bytes, wall);
                        }
                        Prepared::Answered(answer)
                    }
                    Said::Word(word) => {
                        let event = Event::Agent { generation, session_digest: digest(&session), word };
                        Prepared::Host { host, event, inventory: None }
                    }
                }
            }
            Request::Installed { mac, image } => match running.direct.read(|view| view.by_mac(mac)) {
                Some(view) => {
                    let (host, event) = (view.host.id.clone(), Event::Installed { image });
                    Prepared::Host { host, event, inventory: None }
                }
                None => Prepared::Answered(Answer::Refused),
            },
            Request::Claim { host, event } => Prepared::Host { host, event, inventory: None },
        }
    }

    /// Takes requests that came together in one commit.
    pub fn take(&mut self, prepared: Vec<Prepared>, wall: u64) -> Vec<(Answer, Done)> {
        enum Waits {
            No(Answer),
            Script(String, Pending<Script>),
            Host(String, Event, Pending<Arc<HostView>>),
        }
        let running = self.running();
        let mut waits = Vec::new();
        let mut group = running.direct.group(wall);
        for request in prepared {
            waits.push(match request {
                Prepared::Answered(answer) => Waits::No(answer),
                Prepared::Script { mac, token } => {
                    let (asked, client) = (token.clone(), IPXE);
                    let pending = group.take(|reply| Command::Script { mac, client, token: asked, reply });
                    Waits::Script(token, pending)
                }
                Prepared::Host { host, event, inventory } => {
                    let (name, what) = (host.clone(), event.clone());
                    let pending = group.take(|reply| Command::Host { name, event: what, inventory, reply });
                    Waits::Host(host, event, pending)
                }
            });
        }
        group.commit();
        let answered = |waits| match waits {
            Waits::No(answer) => (answer, Done::Nothing),
            Waits::Script(token, pending) => {
                let done = pending.get();
                // Whatever is wrong, the script is that of a local boot (`http::boot`).
                let local = || Script::Local { reason: LocalReason::NoOpenOrder };
                let script = done.as_ref().map_or_else(|_| local(), Clone::clone);
                (Answer::Script(script), Done::Script(token, done))
            }
            Waits::Host(host, event, pending) => {
                let done = pending.get();
                (running.direct.read(|view| answer_of(view, &event, &done)), Done::Host(host, event, done))
            }
        };
        waits.into_iter().map(answered).collect()
    }

    pub fn netboot(&mut self, mac: Mac, wall: u64) -> Result<BootDecision, RegistryError> {
        self.running().direct.netboot(mac, FIRMWARE, wall)
    }
}

impl Running {
    /// As `registry::view::ProgressBoard` does: a report that tells nothing new is no progress.
    fn note(&mut self, host: &str, step: Step, done_bytes: u64, wall: u64) {
        let step = if step == Step::VerifyBody { wire::agent::Step::VerifyBody } else { wire::agent::Step::WriteBody };
        let known = self.board.get(host).filter(|known| known.progress.step == step);
        let moved_at =
            known.filter(|known| known.progress.done_bytes >= done_bytes).map_or(wall, |known| known.moved_at);
        let (total_bytes, fetched_bytes) = (crate::machine::IMAGE_BYTES, 0);
        let progress = wire::agent::Progress { step, done_bytes, total_bytes, fetched_bytes };
        self.board.insert(host.to_string(), ProgressSeen { progress, rate_bytes: 0, moved_at });
    }
}

fn progress_allowed(host: &Host, generation: u64, session_digest: &str) -> Answer {
    match &host.order {
        Some(order) if order.generation != generation => Answer::Report { go_on: false },
        Some(order) if order.is_claimed_by(session_digest) => Answer::Report { go_on: true },
        Some(_) => Answer::Refused,
        None => Answer::Report { go_on: false },
    }
}

fn answer_of(view: &View, event: &Event, done: &Result<Arc<HostView>, RegistryError>) -> Answer {
    match (event, done) {
        (Event::CheckedIn { .. }, Ok(of)) => match &of.host.order {
            None => Answer::Refused,
            Some(order) => Answer::Job(Job {
                image: order.image.clone(),
                rule: view.group(&of.host.group).disk,
                own_disk: of.host.own_disk.clone(),
                foreign_released: order.foreign_released,
            }),
        },
        (Event::Agent { .. }, Ok(_)) => Answer::Report { go_on: true },
        (_, Ok(_)) => Answer::Noted,
        (Event::Agent { .. }, Err(RegistryError::Refused(refusal))) if *refusal != Refusal::SessionUnknown => {
            Answer::Report { go_on: false }
        }
        (_, Err(RegistryError::Store(_) | RegistryError::Busy)) => Answer::Unavailable,
        (_, Err(_)) => Answer::Refused,
    }
}
