//! A small fleet that does what a rollout asks: records without registry, orders without machines.

use super::super::gate::HostFacts;
use super::super::plan::{Candidate, Plan, Request};
use super::super::progress::{Action, Progress, Stage, Stepped};
use super::super::{make, step};
use super::making::{candidate, image};
use crate::decide::host::{ImageChoice, State, Step};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
pub struct Machine {
    pub state: State,
    pub since: u64,
    pub reported: Option<ImageChoice>,
    pub generation: u64,
    pub reported_generation: u64,
    pub denied: Option<&'static str>,
    /// The rollout's cause, until the order that it led to is over.
    pub cause: Option<ImageChoice>,
    /// The open order is the one that the cause led to.
    pub admitted: bool,
    /// What the open order writes.
    pub order: Option<ImageChoice>,
    pub rebuilt: u32,
}

impl Machine {
    pub fn go(&mut self, state: State, now: u64) {
        if self.state != state {
            self.since = now;
        }
        self.state = state;
    }

    pub fn facts(&self) -> HostFacts<'_> {
        HostFacts {
            state: &self.state,
            since: self.since,
            reported: self.reported.as_ref(),
            reported_generation: self.reported_generation,
            whole: self.reported_generation == self.generation,
            asking: self.cause.is_some(),
            denied: self.denied,
        }
    }

    fn open_order(&mut self, image: ImageChoice, now: u64) {
        self.generation += 1;
        self.order = Some(image);
        self.go(State::Queued, now);
    }
}

pub struct Fleet {
    pub now: u64,
    pub plan: Plan,
    pub progress: Progress,
    pub machines: BTreeMap<String, Machine>,
    pub asked: BTreeSet<String>,
    /// Checks under way.
    pub checks: BTreeMap<String, u64>,
}

impl Fleet {
    /// `hosts` hosts in racks of four that run `debian:12.4`, and a rollout that began.
    pub fn new(hosts: usize, request: &Request) -> Fleet {
        let candidates: Vec<Candidate> =
            (0..hosts).map(|number| candidate(number, &format!("r{}", number / 4))).collect();
        let machine = |host: &Candidate| Machine {
            state: State::Ready { confirmed: true },
            since: 0,
            reported: host.reported.clone(),
            generation: 1,
            reported_generation: 1,
            denied: None,
            cause: None,
            admitted: false,
            order: None,
            rebuilt: 0,
        };
        let machines = candidates.iter().map(|host| (host.id.clone(), machine(host))).collect();
        let now = 1_000_000;
        let plan = make::plan(7, request, &candidates, None, now).expect("a test's request can be planned");
        let progress = Progress::begin(&plan, now);
        Fleet { now, plan, progress, machines, asked: BTreeSet::new(), checks: BTreeMap::new() }
    }

    /// One step, its actions carried out, and the laws that hold at every step.
    pub fn step(&mut self) -> Vec<Action> {
        let before = self.progress.clone();
        let Stepped { progress, actions } = self.peek();
        let wave = self.plan.waves.get(progress.wave).cloned().unwrap_or_default();
        for action in &actions {
            match action {
                Action::Ask { host, image } => {
                    assert!(self.asked.insert(host.clone()), "{host} is asked twice");
                    assert!(wave.iter().any(|member| member.id == *host), "{host} is not of the running wave");
                    assert_eq!(before.stage, Stage::Running, "{host} is asked by a rollout that stands still");
                    self.machines.get_mut(host).unwrap().cause = Some(image.clone());
                }
                Action::Withdraw { host } => self.withdraw(host),
                Action::Check { host, requested_at } => {
                    self.checks.insert(host.clone(), *requested_at);
                }
            }
        }
        self.advance_is_lawful(&before, &progress);
        self.progress = progress;
        if self.progress.wave == before.wave {
            let again = self.peek();
            assert_eq!(again, Stepped { progress: self.progress.clone(), actions: vec![] }, "the same step once more");
        }
        actions
    }

    fn peek(&self) -> Stepped {
        step::step(&self.plan, self.progress.clone(), |id| self.machines.get(id).map(Machine::facts), self.now)
    }

    pub fn withdraw(&mut self, host: &str) {
        if let Some(machine) = self.machines.get_mut(host)
            && !machine.admitted
        {
            machine.cause = None;
        }
    }

    /// Never a next wave while the gate does not hold, judged from the machines themselves; never past the budget.
    fn advance_is_lawful(&self, before: &Progress, after: &Progress) {
        assert!(!before.stage.is_over() || before == after, "what is over changes");
        let budget = after.forgiven + self.plan.request.failures_max as usize;
        if after.failures() > budget {
            assert!(!after.admits(), "{} failed and it goes on", after.failures());
        }
        let done = matches!(after.stage, Stage::Done { .. }) && before.stage == Stage::Running;
        if after.wave == before.wave && !done {
            return;
        }
        assert!(done || after.wave == before.wave + 1, "a wave was left out");
        assert_eq!(before.stage, Stage::Running);
        for member in &self.plan.waves[before.wave] {
            use super::super::progress::Ask;
            let seat = &after.seats[&member.id];
            if matches!(seat.ask, Ask::Failed { .. } | Ask::LeftOut { .. }) {
                continue;
            }
            let machine = &self.machines[&member.id];
            let good = matches!(machine.state, State::Ready { confirmed } if confirmed || !self.plan.request.gate.confirmed)
                && machine.reported.as_ref() == Some(&member.image)
                && machine.reported_generation == machine.generation
                && self.now - machine.since >= self.plan.request.gate.soak_seconds;
            assert!(good, "the gate does not hold for {}: {machine:?} at {}", member.id, self.now);
        }
    }

    /// Opens the orders of all causes that may be admitted, at most `count`.
    pub fn admit(&mut self, count: usize) {
        if !self.progress.admits() {
            return;
        }
        let waiting = self.machines.values_mut().filter(|machine| {
            machine.order.is_none() && machine.denied.is_none() && !matches!(machine.state, State::Held { .. })
        });
        for machine in waiting.filter(|machine| machine.cause.is_some()).take(count) {
            let image = machine.cause.clone().expect("filtered by it");
            machine.open_order(image, self.now);
            machine.admitted = true;
        }
    }

    /// The order of a host ends well, as far as the reboot.
    pub fn write(&mut self, host: &str) {
        let machine = self.machines.get_mut(host).unwrap();
        if let Some(image) = machine.order.take() {
            // The order that the cause led to, or one that it joined.
            if machine.admitted || machine.cause.as_ref() == Some(&image) {
                machine.cause = None;
            }
            machine.admitted = false;
            machine.reported = Some(image);
            machine.reported_generation = machine.generation;
            machine.rebuilt += 1;
            machine.go(State::Rebooting, self.now);
        }
    }

    pub fn boot(&mut self, host: &str, confirmed: bool) {
        let machine = self.machines.get_mut(host).unwrap();
        if matches!(machine.state, State::Rebooting | State::Ready { confirmed: false }) {
            machine.go(State::Ready { confirmed }, self.now);
        }
    }

    pub fn fail(&mut self, host: &str) {
        let machine = self.machines.get_mut(host).unwrap();
        if machine.order.take().is_some() || machine.state == State::Rebooting {
            if std::mem::take(&mut machine.admitted) {
                machine.cause = None;
            }
            machine.go(State::Failed { step: Step::WriteBody, attempts: 3, reason: "EIO".into() }, self.now);
        }
    }

    pub fn hold(&mut self, host: &str) {
        let machine = self.machines.get_mut(host).unwrap();
        machine.order = None;
        if std::mem::take(&mut machine.admitted) {
            machine.cause = None;
        }
        machine.go(State::Held { by: "bob".into(), reason: "debugging".into(), until: None }, self.now);
    }

    pub fn release(&mut self, host: &str) {
        let machine = self.machines.get_mut(host).unwrap();
        if matches!(machine.state, State::Held { .. } | State::Failed { .. }) {
            let whole = machine.reported_generation == machine.generation;
            machine.go(if whole { State::Ready { confirmed: false } } else { State::Enrolled }, self.now);
        }
    }

    /// An operator opens an order of his own.
    pub fn reimage(&mut self, host: &str, name: &str) {
        let now = self.now;
        let machine = self.machines.get_mut(host).unwrap();
        if machine.order.is_none() && !matches!(machine.state, State::Held { .. }) {
            machine.open_order(image(name), now);
        }
    }

    pub fn answer(&mut self, host: &str, answer: Result<(), &str>) {
        if let Some(requested_at) = self.checks.remove(host) {
            self.progress = self.progress.clone().checked(host, requested_at, answer, self.now);
        }
    }

    /// Everything that was asked ends well; a minute passes.
    pub fn settle_a_minute(&mut self) {
        self.now += 60;
        self.admit(usize::MAX);
        let ids: Vec<String> = self.machines.keys().cloned().collect();
        for id in ids {
            self.write(&id);
            self.boot(&id, true);
        }
        for id in self.machines.keys().cloned().collect::<Vec<_>>() {
            self.answer(&id, Ok(()));
        }
        self.step();
    }

    pub fn ids_of_wave(&self, wave: usize) -> Vec<String> {
        self.plan.waves[wave].iter().map(|member| member.id.clone()).collect()
    }

    /// The facts as candidates of another plan.
    pub fn candidates(&self) -> Vec<Candidate> {
        let again = |(id, machine): (&String, &Machine)| Candidate {
            id: id.clone(),
            name: None,
            spread: None,
            reported: machine.reported.clone(),
            whole: machine.reported_generation == machine.generation,
            excluded: None,
            fetch_bytes: 0,
        };
        self.machines.iter().map(again).collect()
    }
}
