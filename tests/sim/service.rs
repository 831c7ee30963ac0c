//! The server's side of the world: requests are served, the scheduler ticks, and at each commit the laws are looked at
//! and the server may die.

use crate::laws::{Before, STALE_SECONDS, Snapshot, is_store_error};
use crate::machine::{Answer, Request, Said};
use crate::server::{Done, Prepared};
use crate::store::Fate;
use crate::world::{DAY, Happening, World};
use regild::decide::host::{AgentWord, Event, Host, State, Step};
use regild::registry::rollouts::{CheckAsked, RolloutCommand};
use regild::registry::{Command, RegistryError, Reply};
use std::cmp::Reverse;

/// Requests that share one commit at most.
const TOGETHER_MAX: usize = 4;

/// A commit that is about to be made.
struct Begun {
    before: Before,
    fate: Fate,
    snapshot: Option<Snapshot>,
}

impl World {
    pub fn arrive(&mut self, machine: usize, boot: u64, call: u64, request: Request) {
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
            Said::Progress { .. } => true,
            Said::Word(AgentWord::Step(step)) => *step >= Step::ClearHead,
            Said::Word(_) => false,
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
        if self.now >= self.ticked_at + STALE_SECONDS {
            self.tick();
        }
    }

    /// The next one ticks first, whatever the time: the clock was changed.
    pub fn stale(&mut self) {
        self.ticked_at = 0;
    }

    pub fn tick(&mut self) {
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
        let wall = self.wall();
        for view in self.server.power_turns(wall) {
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

    pub fn checked(&mut self, asked: CheckAsked) {
        let CheckAsked { rollout, host, requested_at } = asked;
        let bad = self.is_ill(&host);
        let answer = if bad { Err("503 Service Unavailable".to_string()) } else { Ok(()) };
        let command = RolloutCommand::Checked { host, requested_at, answer };
        self.ask(|reply| Command::Rollout { number: rollout, command, reply });
    }

    /// How long nothing but a tick will happen: short while a deadline or a gate of minutes may pass.
    pub fn idle_seconds(&mut self) -> u64 {
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
