//! Operators who change their minds: everything that the CLI can ask for, at random.

use crate::documents;
use crate::machine::Machine;
use crate::world::{Happening, World};
use regild::decide::cause::{Cause, CauseKind};
use regild::decide::host::{Event, Host, ImageChoice, State};
use regild::decide::rollout::make;
use regild::decide::rollout::plan::{Candidate, Gate, Goal, Request, WaveSize};
use regild::registry::images::{Channel, Mark, MarkKind};
use regild::registry::rollouts::RolloutCommand;
use regild::registry::stop::Stop;
use regild::registry::{Command, View};

const HOUR: u64 = 3600;
const PEOPLE: [&str; 3] = ["ann", "bob", "eve"];

pub fn image(version: u64) -> ImageChoice {
    ImageChoice { name: format!("a:{version}"), manifest: format!("manifest of a:{version}") }
}

impl World {
    fn number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn person(&mut self) -> String {
        (*self.dice.pick(&PEOPLE)).to_string()
    }

    fn any_image(&mut self) -> ImageChoice {
        image(self.dice.between(1, 5))
    }

    fn any_host(&mut self) -> Option<Host> {
        let hosts: Vec<Host> = self.server.read(|view| view.hosts().map(|view| view.host.clone()).collect());
        (!hosts.is_empty()).then(|| self.dice.pick(&hosts).clone())
    }

    /// One thing that somebody does; the next one comes by itself.
    pub fn operate(&mut self) {
        let seconds = if self.settling { HOUR } else { self.dice.between(60, 2400) };
        self.at(seconds, Happening::Operate);
        if !self.server.is_up() {
            return;
        }
        if self.settling {
            return self.clean_up();
        }
        self.approve();
        if !self.server.is_up() {
            return;
        }
        match self.dice.below(34) {
            0..7 => self.reimage(),
            7..10 => self.hold(),
            10..12 => self.release(),
            12 => self.stop(),
            13..16 => self.resume(),
            16..18 => self.reset_breaker(),
            18..21 => self.start_rollout(),
            21..24 => self.command_rollout(),
            24..28 => self.apply_some(),
            28 => self.set_channel(),
            29 => self.mark(),
            30 => self.remove(),
            31 => self.drift(),
            _ => self.accept_clock(),
        }
    }

    /// What is left to do after chaos, until nothing is.
    fn clean_up(&mut self) {
        self.resume();
        self.reset_breaker();
        self.accept_clock();
        let open: Vec<u64> = self.server.read(|view| {
            let open = view.rollouts().iter().filter(|(_, rollout)| !rollout.progress.stage.is_over());
            open.map(|(number, _)| *number).collect()
        });
        // Nobody aborts them now: each must come to its end, however often somebody has to look at it.
        for number in open {
            self.ask(|reply| Command::Rollout { number, command: RolloutCommand::Resume, reply });
        }
    }

    fn event(&mut self, host: &str, event: Event) {
        self.say(|| format!("operator: {host}: {event:?}"));
        let name = host.to_string();
        self.ask(|reply| Command::Host { name, event, inventory: None, reply });
    }

    /// Machines that were found become ours, by their first NIC.
    fn approve(&mut self) {
        let first: Vec<String> = self.machines.iter().map(Machine::first_id).collect();
        let is_new = |view: &View, id: &String| view.find(id).is_some_and(|view| view.host.state == State::Discovered);
        let found: Vec<String> = self.server.read(|view| first.into_iter().filter(|id| is_new(view, id)).collect());
        for id in found {
            if !self.dice.chance(400) {
                continue;
            }
            let (number, by, choice) = (self.number(), self.person(), self.any_image());
            let releases_disk = self.dice.chance(800);
            let first = Cause::new(CauseKind::Operator, &format!("first image, {number}"), &by, self.wall());
            self.event(&id, Event::Approve { cause: Cause { image: Some(choice), releases_disk, ..first } });
            if self.server.is_up() && self.dice.chance(700) {
                self.place(&id);
            }
        }
    }

    fn reimage(&mut self) {
        let mut ids: Vec<String> = Vec::new();
        for _ in 0..self.dice.between(1, 3) {
            let Some(host) = self.any_host() else { return };
            if !ids.contains(&host.id) {
                ids.push(host.id);
            }
        }
        let (number, by) = (self.number(), self.person());
        let cause = Cause {
            image: self.dice.chance(600).then(|| self.any_image()),
            releases_disk: self.dice.chance(300),
            key: self.dice.chance(700).then(|| format!("key-{number}")),
            ..Cause::new(CauseKind::Operator, &format!("because of {number}"), &by, self.wall())
        };
        self.say(|| format!("operator: reimage {ids:?}: {cause:?}"));
        let (these, what) = (ids.clone(), cause.clone());
        let answer = self.ask(|reply| Command::AskMany { ids: these, cause: what, reply });
        // Somebody who got no answer asks again, and now and then a script does so much later. With the key it is one
        // request; without it, it is a new one and says so.
        if cause.key.is_some() && (answer.is_none() || self.dice.chance(300)) {
            let seconds = self.dice.between(1, 4 * HOUR);
            self.at(seconds, Happening::AskAgain { ids, cause });
        }
    }

    fn hold(&mut self) {
        let Some(host) = self.any_host() else { return };
        let until = self.dice.chance(700).then(|| self.wall() + self.dice.between(600, 24 * HOUR));
        let (by, reason) = (self.person(), "looks odd".to_string());
        self.event(&host.id, Event::Hold { by, reason, until });
    }

    fn release(&mut self) {
        let stands = |view: &View| {
            let stands =
                view.hosts().filter(|view| matches!(view.host.state, State::Held { .. } | State::Failed { .. }));
            stands.map(|view| view.host.id.clone()).collect::<Vec<_>>()
        };
        for id in self.server.read(stands) {
            if self.server.is_up() && self.dice.chance(500) {
                let by = self.person();
                self.event(&id, Event::Release { by });
            }
        }
    }

    fn stop(&mut self) {
        let (by, running_too) = (self.person(), self.dice.chance(400));
        self.say(|| format!("operator: stop, running too: {running_too}"));
        let stop = Stop { by, reason: "smoke".to_string(), at: self.wall(), running_too };
        self.server.stop.press(&stop).expect("a switch in memory");
    }

    fn resume(&mut self) {
        if self.server.stop.pressed().is_some() {
            self.say(|| "operator: resume".to_string());
            self.server.stop.release().expect("a switch in memory");
        }
    }

    fn reset_breaker(&mut self) {
        if self.server.read(|view| view.breaker().is_none()) {
            return;
        }
        let (by, reason) = (self.person(), "looked at".to_string());
        self.say(|| "operator: breaker reset".to_string());
        let wall = self.wall();
        if !matches!(self.ask(|reply| Command::ResetBreaker { by, reason, reply }), Some(Err(_))) {
            self.laws.reset_at = wall;
        }
    }

    fn accept_clock(&mut self) {
        if self.server.held().is_some() {
            self.say(|| "operator: clock accept".to_string());
            let (wall, now) = (self.wall(), self.now);
            self.laws.jumped = false;
            // A tick takes it, so it comes with no crash of its own.
            let done = self.server.accept_clock(wall, now);
            assert!(done.is_ok() || self.server.store.has_failed(), "{done:?}");
        }
    }

    fn remove(&mut self) {
        if let Some(host) = self.any_host() {
            self.say(|| format!("operator: remove {}", host.id));
            self.ask(|reply| Command::Remove { name: host.id, by: "ann".to_string(), reply });
        }
    }

    /// As the scan of an installed system will say.
    fn drift(&mut self) {
        let Some(host) = self.any_host() else { return };
        if matches!(host.state, State::Ready { .. }) {
            let reason = format!("/etc differs, {}", self.number());
            let cause = Cause::new(CauseKind::Drift, &reason, "scan", self.wall());
            self.event(&host.id, Event::Ask { cause });
        }
    }

    fn set_channel(&mut self) {
        let (choice, by) = (self.any_image(), self.person());
        if self.server.read(|view| view.images().blocked(&choice.name).is_some()) {
            return;
        }
        self.say(|| format!("operator: a@stable is {}", choice.name));
        let (name, reason) = ("a@stable".to_string(), "tested".to_string());
        let channel = Channel { name, image: choice.name, manifest: choice.manifest, by, reason, at: 0, moves: 0 };
        self.ask(|reply| Command::SetChannel { channel, reply });
    }

    fn mark(&mut self) {
        let (image, by, at) = (self.any_image().name, self.person(), self.wall());
        let kind = *self.dice.pick(&[None, None, Some(MarkKind::Deprecated), Some(MarkKind::Blocked)]);
        self.say(|| format!("operator: {image} is {kind:?}"));
        let mark = kind.map(|kind| Mark { image: image.clone(), kind, by: by.clone(), reason: "CVE".to_string(), at });
        self.ask(|reply| Command::MarkImage { image, mark, by, reply });
    }

    fn start_rollout(&mut self) {
        let undo = self.server.read(|view| view.rollouts().keys().next_back().copied());
        let undo = undo.filter(|_| self.dice.chance(250));
        let choice = self.any_image();
        let check = self.dice.chance(400);
        let request = Request {
            selector: "all".to_string(),
            goal: undo.map_or(Goal::Image(choice), |of| Goal::Former { of }),
            by: self.person(),
            reason: "new version".to_string(),
            canary: u32::try_from(self.dice.below(3)).expect("few"),
            waves: vec![*self.dice.pick(&[WaveSize::Hosts(1), WaveSize::Hosts(3), WaveSize::Percent(40)])],
            spread_percent: *self.dice.pick(&[34, 100]),
            spread: "rack".to_string(),
            failures_max: u32::try_from(self.dice.below(3)).expect("few"),
            gate: Gate {
                confirmed: self.dice.chance(700),
                check: check.then(|| regild::decide::group::Check::Http { url: "http://{address}/".to_string() }),
                soak_seconds: self.dice.below(1200),
                health_seconds: 1200,
            },
        };
        let wall = self.wall();
        let share = self.dice.between(300, 1000);
        let mut dice = self.dice.clone();
        let plan = self.server.read(|view| {
            let chosen = view.hosts().filter(|view| view.host.state != State::Discovered && dice.chance(share));
            let candidates: Vec<Candidate> = chosen.map(|host| candidate(view, &host.host)).collect();
            match &request.goal {
                Goal::Image(image) => {
                    let blocked = view.images().blocked(&image.name).map(|mark| mark.reason.as_str());
                    make::plan(0, &request, &candidates, blocked, wall)
                }
                Goal::Former { of } => {
                    let blocked =
                        |image: &ImageChoice| view.images().blocked(&image.name).map(|mark| mark.reason.clone());
                    make::rollback(0, &request, &view.rollouts()[of].plan, &candidates, blocked, wall)
                }
            }
        });
        self.dice = dice;
        let Ok(plan) = plan else { return };
        if plan.is_empty() {
            return;
        }
        self.say(|| format!("operator: rollout {:?}, {} waves", plan.request.goal, plan.waves.len()));
        self.ask(|reply| Command::StartRollout { plan: Box::new(plan), reply });
    }

    fn command_rollout(&mut self) {
        let open: Vec<u64> = self.server.read(|view| {
            let open = view.rollouts().iter().filter(|(_, rollout)| !rollout.progress.stage.is_over());
            open.map(|(number, _)| *number).collect()
        });
        if open.is_empty() {
            return;
        }
        let number = *self.dice.pick(&open);
        let (by, reason) = (self.person(), "second thoughts".to_string());
        let command = match self.dice.below(10) {
            0..3 => RolloutCommand::Pause { by, reason },
            3..8 => RolloutCommand::Resume,
            _ => RolloutCommand::Abort { by, reason },
        };
        self.say(|| format!("operator: rollout {number}: {command:?}"));
        self.ask(|reply| Command::Rollout { number, command, reply });
    }

    fn apply_some(&mut self) {
        match self.dice.below(6) {
            0..3 => {
                if let Some(host) = self.any_host() {
                    self.place(&host.id);
                }
            }
            3 => {
                let policy = documents::policy(&mut self.dice, &self.machines);
                self.apply(vec![regild::config::fleet::diff::Write::Policy(policy)]);
            }
            _ => {
                let group = documents::group(&mut self.dice);
                self.apply(vec![regild::config::fleet::diff::Write::Group(Box::new(group))]);
            }
        }
    }
}

/// As `http::operator_rollouts` sees a host.
fn candidate(view: &View, host: &Host) -> Candidate {
    let excluded = match &host.state {
        State::Held { .. } | State::Failed { .. } => Some(host.state.word().to_string()),
        _ => match &host.order {
            Some(order) => Some(format!("order {} is open", order.generation)),
            None => view.allowed(host).err().map(|deny| deny.to_string()),
        },
    };
    Candidate {
        id: host.id.clone(),
        name: host.name.clone(),
        spread: host.labels.get("rack").map(str::to_string),
        reported: host.reported.clone(),
        whole: host.order.is_none() && host.reported_generation == host.generation,
        excluded,
        fetch_bytes: 0,
    }
}
