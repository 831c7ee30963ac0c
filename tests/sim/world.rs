//! The world under one seed: what happens next, in one queue; a network that loses, doubles and delays; a server that
//! dies at a commit; a clock that jumps. Nothing in here waits for real time.

use crate::dice::Dice;
use crate::laws::{Before, Laws, Snapshot, is_store_error};
use crate::machine::{Answer, Effect, Machine, Request};
use crate::server::{Done, Prepared, Server};
use crate::store::Fate;
use crate::trace::Trace;
use regild::decide::host::{AgentWord, Event, Host, State, Step};
use regild::registry::rollouts::{CheckAsked, RolloutCommand};
use regild::registry::{Command, RegistryError, Reply};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Midnight of 2026-09-21 UTC, when each run begins.
pub const BASE: u64 = 1_789_948_800;
const DAY: u64 = 86_400;
/// Requests that share one commit at most.
const TOGETHER_MAX: usize = 4;

/// Faults of everything but the machines themselves; in a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chaos {
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
    /// Of each commit.
    pub crashes: u64,
}

#[derive(Debug, Clone)]
pub enum Happening {
    Tick,
    Arrive {
        machine: usize,
        boot: u64,
        call: u64,
        request: Request,
    },
    Answered {
        machine: usize,
        boot: u64,
        call: u64,
        answer: Answer,
    },
    Woken {
        machine: usize,
        timer: u64,
    },
    /// A controller switches a machine.
    Switched {
        machine: usize,
    },
    Checked(CheckAsked),
    Restart,
    /// An operator does something.
    Operate,
    /// A request of an operator that comes once more.
    AskAgain {
        ids: Vec<String>,
        cause: regild::decide::cause::Cause,
    },
    /// Somebody walks through the racks and reboots what waits for that.
    Walk,
    /// Something goes wrong in the racks, or with the clock.
    Mishap,
    /// A machine that is not what it should be speaks of another one.
    Lie {
        machine: usize,
    },
}

pub struct World {
    /// Seconds since the beginning, as they really passed.
    pub now: u64,
    /// How wrong the server's wall clock is.
    pub skew: i64,
    pub dice: Dice,
    pub trace: Trace,
    pub server: Server,
    pub machines: Vec<Machine>,
    pub laws: Laws,
    pub chaos: Chaos,
    pub settling: bool,
    /// Numbers for reasons and keys, so that no two are the same.
    pub number: u64,
    pub commits: u64,
    pub crashes: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: std::collections::BTreeMap<u64, Happening>,
    sequence: u64,
    ticked_at: u64,
    before_crash: Option<Snapshot>,
}

/// A commit that is about to be made.
struct Begun {
    before: Before,
    fate: Fate,
    snapshot: Option<Snapshot>,
}

impl World {
    pub fn new(dice: Dice, trace: Trace) -> World {
        World {
            now: 0,
            skew: 0,
            dice,
            trace,
            server: Server::new(),
            machines: Vec::new(),
            laws: Laws::default(),
            chaos: Chaos::default(),
            settling: false,
            number: 0,
            commits: 0,
            crashes: 0,
            queue: BinaryHeap::new(),
            happenings: std::collections::BTreeMap::new(),
            sequence: 0,
            ticked_at: 0,
            before_crash: None,
        }
    }

    /// What the server's clock shows.
    pub fn wall(&self) -> u64 {
        (BASE + self.now).saturating_add_signed(self.skew)
    }

    pub fn at(&mut self, in_seconds: u64, what: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + in_seconds, self.sequence)));
        self.happenings.insert(self.sequence, what);
    }

    pub fn say(&self, line: impl FnOnce() -> String) {
        let now = self.now;
        self.trace
            .line(|| format!("{}d {:02}:{:02}:{:02} {}", now / DAY, now / 3600 % 24, now / 60 % 60, now % 60, line()));
    }

    /// Everything up to a moment, or until `done` says so.
    pub fn live(&mut self, until: u64, done: impl Fn(&World) -> bool) {
        while let Some(&Reverse((at, sequence))) = self.queue.peek() {
            if at > until {
                break;
            }
            self.queue.pop();
            self.now = self.now.max(at);
            let Some(what) = self.happenings.remove(&sequence) else { continue };
            let is_tick = matches!(what, Happening::Tick);
            self.happen(what);
            if is_tick && done(self) {
                return;
            }
        }
        self.now = self.now.max(until);
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Tick => {
                self.tick();
                let pause = self.idle_seconds();
                self.at(pause, Happening::Tick);
            }
            Happening::Arrive { machine, boot, call, request } => self.arrive(machine, boot, call, request),
            Happening::Answered { machine, boot, call, answer } => {
                let of = &mut self.machines[machine];
                // What belongs to an earlier boot or call is not heard.
                if of.boot == boot && of.call == call && of.waits.is_some() {
                    let effects = of.answered(answer, self.now, &mut self.dice);
                    self.carry_out(machine, effects);
                }
            }
            Happening::Woken { machine, timer } => {
                if self.machines[machine].timer == timer {
                    let effects = self.machines[machine].woken(self.now, &mut self.dice);
                    self.carry_out(machine, effects);
                }
            }
            Happening::Switched { machine } => self.restart_machine(machine),
            Happening::Checked(asked) => self.checked(asked),
            Happening::Restart => self.start_server(),
            Happening::Operate => self.operate(),
            Happening::AskAgain { ids, cause } => {
                self.say(|| format!("operator: once more {cause:?} for {ids:?}"));
                self.ask(|reply| Command::AskMany { ids, cause, reply });
            }
            Happening::Walk => self.walk(),
            Happening::Mishap => self.mishap(),
            Happening::Lie { machine } => self.lie(machine),
        }
    }

    pub fn restart_machine(&mut self, machine: usize) {
        let effects = self.machines[machine].restart(&mut self.dice);
        self.carry_out(machine, effects);
    }

    pub fn carry_out(&mut self, machine: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Timer(seconds) => {
                    self.machines[machine].timer += 1;
                    let timer = self.machines[machine].timer;
                    self.at(seconds, Happening::Woken { machine, timer });
                }
                Effect::Send => {
                    let of = &self.machines[machine];
                    let Some(waiting) = &of.waits else { continue };
                    let (boot, call, request) = (of.boot, of.call, waiting.request.clone());
                    self.send(Happening::Arrive { machine, boot, call, request });
                }
                Effect::Wrote { host, generation } => {
                    self.laws.wrote(&host, generation);
                    // Two approved records for two NICs of one machine: neither knows what the other ordered.
                    let of = &mut self.machines[machine];
                    of.tainted |= host != of.first_id();
                }
                Effect::Finished { host, generation, image } => {
                    self.say(|| format!("machine {machine}: {image} is on its disk, order {generation} of {host}"));
                    let of = &mut self.machines[machine];
                    of.tainted |= host != of.first_id();
                    self.laws.finished(&host, generation, &image);
                }
            }
        }
    }

    /// Through the network.
    pub fn send(&mut self, what: Happening) {
        let copies = if self.dice.chance(self.chaos.doubled) { 2 } else { 1 };
        for _ in 0..copies {
            if self.dice.chance(self.chaos.lost) {
                continue;
            }
            let late = self.dice.chance(self.chaos.late);
            let seconds = if late { self.dice.between(10, 2000) } else { self.dice.below(2) };
            self.at(seconds, what.clone());
        }
    }

    fn arrive(&mut self, machine: usize, boot: u64, call: u64, request: Request) {
        self.tick_if_stale();
        if !self.server.is_up() {
            return;
        }
        if let Request::Netboot { mac } = request {
            let begun = self.begin();
            let decision = self.server.netboot(mac, self.wall());
            // Without a decision DHCP gives no boot file: the firmware goes on to its disk.
            if self.conclude(begun, true)
                && let Ok(decision) = decision
            {
                self.say(|| format!("machine {machine}: netboots, {decision:?}"));
                self.send(Happening::Answered { machine, boot, call, answer: Answer::Netboot(decision) });
            }
            return;
        }
        let mut together = vec![(machine, boot, call, request)];
        while together.len() < TOGETHER_MAX
            && let Some(&Reverse((at, sequence))) = self.queue.peek()
            && at == self.now
            && let Some(Happening::Arrive { request, .. }) = self.happenings.get(&sequence)
            && !matches!(request, Request::Netboot { .. })
        {
            self.queue.pop();
            if let Some(Happening::Arrive { machine, boot, call, request }) = self.happenings.remove(&sequence) {
                together.push((machine, boot, call, request));
            }
        }
        self.serve(together);
    }

    fn serve(&mut self, together: Vec<(usize, u64, u64, Request)>) {
        let wall = self.wall();
        let mut prepared = Vec::new();
        for (_, _, _, request) in &together {
            let token = format!("token-{:x}", self.dice.next());
            prepared.push(self.server.prepare(request.clone(), token, wall));
        }
        let before: Vec<Option<Host>> = prepared.iter().map(|prepared| self.record(prepared)).collect();
        let begun = self.begin();
        let done = self.server.take(prepared, wall);
        let failed = done.iter().all(|(_, done)| match done {
            Done::Nothing => true,
            Done::Script(_, answer) => is_store_error(answer),
            Done::Host(_, _, answer) => is_store_error(answer),
        });
        if !self.conclude(begun, failed) {
            return;
        }
        let alone = together.len() == 1;
        for (((machine, boot, call, request), before), (answer, done)) in together.into_iter().zip(before).zip(done) {
            self.say(|| format!("machine {machine}: {}: {}", brief(&request), brief_answer(&answer)));
            if !self.server.store.has_failed() {
                self.laws.answered(&self.server, before.as_ref().filter(|_| alone), &done, alone);
                self.permitted(machine, &request, &answer, alone);
            }
            self.send(Happening::Answered { machine, boot, call, answer });
            if self.dice.chance(self.machines[machine].temper.lies) {
                let seconds = self.dice.below(300);
                self.at(seconds, Happening::Lie { machine });
            }
        }
    }

    fn record(&self, prepared: &Prepared) -> Option<Host> {
        let name = match prepared {
            Prepared::Host { host, .. } => host.clone(),
            Prepared::Script { mac, .. } => mac.to_string(),
            Prepared::Answered(_) => return None,
        };
        self.server.read(|view| view.find(&name)).map(|view| view.host.clone())
    }

    /// An answer that lets an agent write.
    fn permitted(&mut self, machine: usize, request: &Request, answer: &Answer, alone: bool) {
        let (Request::Report { host, generation, said, .. }, Answer::Report { go_on: true }) = (request, answer) else {
            return;
        };
        let writes = match said {
            crate::machine::Said::Progress { .. } => true,
            crate::machine::Said::Word(AgentWord::Step(step)) => *step >= Step::ClearHead,
            crate::machine::Said::Word(_) => false,
        };
        if writes && alone {
            self.laws.permitted(&self.server, host, *generation, &self.machines[machine].macs);
        }
    }

    /// One command of an operator or of the server itself; `None` when it is never answered.
    pub fn ask<T>(&mut self, command: impl FnOnce(Reply<T>) -> Command) -> Option<Result<T, RegistryError>> {
        self.tick_if_stale();
        self.ask_now(command)
    }

    fn ask_now<T>(&mut self, command: impl FnOnce(Reply<T>) -> Command) -> Option<Result<T, RegistryError>> {
        if !self.server.is_up() {
            return None;
        }
        let begun = self.begin();
        let answer = self.server.ask(self.wall(), command);
        let failed = is_store_error(&answer);
        self.conclude(begun, failed).then_some(answer)
    }

    fn begin(&mut self) -> Begun {
        let cut = self.dice.below(1_000_000) < self.chaos.crashes * 1000 && !self.server.store.has_failed();
        let fate = match cut {
            false => Fate::Sound,
            true => *self.dice.pick(&[Fate::FailsBefore, Fate::FailsAfter]),
        };
        self.server.set_fate(fate);
        // After a cut that took effect nobody can say what is right; before it, all of what was published.
        let sure = fate == Fate::FailsBefore;
        let snapshot = sure.then(|| self.server.read(Snapshot::of));
        Begun { before: self.laws.before(&self.server), fate, snapshot }
    }

    /// Looks at the laws; says whether the answers leave. `failed`: whether all of them say that the store failed.
    fn conclude(&mut self, begun: Begun, failed: bool) -> bool {
        self.server.set_fate(Fate::Sound);
        self.commits += 1;
        if self.server.store.has_failed() {
            assert!(failed, "something was answered as done though its commit failed");
            if begun.fate != Fate::Sound {
                self.say(|| format!("server: a commit is cut, {:?}", begun.fate));
                self.before_crash = begun.snapshot;
                // Some die at once, and some go on saying that they cannot, until somebody restarts them.
                if self.dice.chance(500) {
                    self.kill();
                    return false;
                }
                let seconds = self.dice.between(1, 600);
                self.at(seconds, Happening::Restart);
            }
            return true;
        }
        let wall = self.wall();
        self.laws.committed(&self.server, Some(&begun.before), wall);
        if self.dice.below(1_000_000) < self.chaos.crashes * 1000 {
            self.say(|| "server: killed before it answered".to_string());
            self.before_crash = Some(self.server.read(Snapshot::of));
            self.kill();
            return false;
        }
        true
    }

    fn kill(&mut self) {
        self.server.kill();
        self.crashes += 1;
        let seconds = match self.dice.below(20) {
            0 => self.dice.between(DAY, 8 * DAY),
            1..4 => self.dice.between(600, 4 * 3600),
            _ => self.dice.between(1, 600),
        };
        // Nobody lets it lie for days at the end.
        let seconds = if self.settling { seconds.min(600) } else { seconds };
        self.at(seconds, Happening::Restart);
    }

    pub fn start_server(&mut self) {
        if self.server.is_up() && !self.server.store.has_failed() {
            return;
        }
        let last = self.before_crash.take();
        let (wall, now) = (self.wall(), self.now);
        self.server.start(wall, now);
        self.say(|| "server: starts".to_string());
        self.laws.jumped = false;
        self.laws.restarted(&self.server, last.as_ref());
        self.laws.committed(&self.server, None, wall);
        self.tick();
    }

    pub fn tick_if_stale(&mut self) {
        if self.now >= self.ticked_at + crate::laws::STALE_SECONDS {
            self.tick();
        }
    }

    /// The next one ticks first, whatever the time: the clock was changed.
    pub fn stale(&mut self) {
        self.ticked_at = 0;
    }

    fn tick(&mut self) {
        if !self.server.is_up() {
            return;
        }
        self.ticked_at = self.now;
        let begun = self.begin();
        let (steps, checks) = self.server.tick(self.wall(), self.now);
        for (host, cause) in &steps.asks {
            self.say(|| format!("scheduler: {} asks for {host}: {}", cause.kind.word(), cause.reason));
        }
        for (host, event) in &steps.late {
            self.say(|| format!("scheduler: {host} is late: {event:?}"));
        }
        if !self.conclude(begun, checks.is_err()) || self.server.store.has_failed() {
            return;
        }
        self.laws.breaker(&self.server, self.wall());
        for asked in checks.unwrap_or_default() {
            let seconds = self.dice.between(1, 40);
            self.at(seconds, Happening::Checked(asked));
        }
        for view in self.server.power_turns() {
            self.switch(&view.host);
        }
    }

    /// As `scheduler::run::boot_to_network`.
    fn switch(&mut self, host: &Host) {
        let (name, event) = (host.id.clone(), Event::Powered { how: "wol: boot to network".to_string() });
        let done = self.ask_now(|reply| Command::Host { name, event, inventory: None, reply });
        if !matches!(done, Some(Ok(_))) {
            return;
        }
        let machine = self.machines.iter().position(|machine| host.macs.contains(&machine.macs[0]));
        let works = !self.dice.chance(self.chaos.lost);
        if let Some(machine) = machine.filter(|_| works) {
            let seconds = self.dice.between(1, 20);
            self.say(|| format!("machine {machine}: is switched"));
            self.at(seconds, Happening::Switched { machine });
        }
        let said = if works { "power on" } else { "power failed: no answer" }.to_string();
        let (name, event) = (host.id.clone(), Event::PowerReported { said });
        self.ask_now(|reply| Command::Host { name, event, inventory: None, reply });
    }

    fn checked(&mut self, asked: CheckAsked) {
        let CheckAsked { rollout, host, requested_at } = asked;
        let bad = self.is_ill(&host);
        let answer = if bad { Err("503 Service Unavailable".to_string()) } else { Ok(()) };
        let command = RolloutCommand::Checked { host, requested_at, answer };
        self.ask(|reply| Command::Rollout { number: rollout, command, reply });
    }

    /// How long nothing but a tick will happen: short while a deadline or a gate of minutes may pass.
    fn idle_seconds(&mut self) -> u64 {
        if !self.server.is_up() {
            return 3600;
        }
        let (mut works, mut waits) = (false, false);
        self.server.read(|view| {
            for view in view.hosts() {
                let host = &view.host;
                let stands = matches!(host.state, State::Queued | State::Ready { .. } | State::Failed { .. });
                waits |= host.order.is_some() || !host.asks.is_empty();
                works |= host.state == State::Rebooting || host.order.is_some() && !stands;
            }
            works |= view.rollouts().values().any(|rollout| rollout.progress.admits());
        });
        // All cron lines of the simulation are on the hour, and none may be looked at later than five minutes after.
        let to_hour = 3600 - self.wall() % 3600;
        match (works, waits) {
            (true, _) => self.dice.between(100, 280),
            (false, true) => self.dice.between(400, 900).min(to_hour),
            (false, false) => to_hour,
        }
    }
}

fn brief(request: &Request) -> String {
    match request {
        Request::Report { generation, said, .. } => format!("order {generation}, {said:?}"),
        Request::CheckIn { generation, .. } => format!("checks in for order {generation}"),
        other => format!("{other:?}"),
    }
}

fn brief_answer(answer: &Answer) -> String {
    match answer {
        Answer::Job(job) => format!("write {}", job.image.name),
        other => format!("{other:?}"),
    }
}

/// `2026-09-DD` or `2026-10-DD` as Unix seconds.
pub fn midnight(day: &str) -> u64 {
    let number = |from: usize| day[from..from + 2].parse::<u64>().expect("a date of the simulation");
    let month_days = if number(5) == 10 { 30 } else { 0 };
    BASE + (month_days + number(8) - 21) * DAY
}
