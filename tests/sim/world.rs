//! The world under one seed: what happens next, in one queue; a network that loses, doubles and delays; a server that
//! dies at a commit; a clock that jumps. Nothing in here waits for real time.

use crate::dice::Dice;
use crate::laws::{Laws, Snapshot};
use crate::machine::{Answer, Effect, Machine, Request};
use crate::server::Server;
use crate::trace::Trace;
use regild::registry::Command;
use regild::registry::rollouts::CheckAsked;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Midnight of 2026-09-21 UTC, when each run begins.
pub const BASE: u64 = 1_789_948_800;
pub const DAY: u64 = 86_400;

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
    pub queue: BinaryHeap<Reverse<(u64, u64)>>,
    pub happenings: BTreeMap<u64, Happening>,
    sequence: u64,
    pub ticked_at: u64,
    pub before_crash: Option<Snapshot>,
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
            happenings: BTreeMap::new(),
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
}

/// `2026-09-DD` or `2026-10-DD` as Unix seconds.
pub fn midnight(day: &str) -> u64 {
    let number = |from: usize| day[from..from + 2].parse::<u64>().expect("a date of the simulation");
    let month_days = if number(5) == 10 { 30 } else { 0 };
    BASE + (month_days + number(8) - 21) * DAY
}
