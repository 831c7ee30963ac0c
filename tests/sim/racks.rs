//! What is set up at the beginning, what goes wrong in the racks, and how all of it comes to rest in the end.

use crate::dice::Dice;
use crate::machine::{Content, Disk, Machine, Phase, Request, Temper};
use crate::server::digest;
use crate::trace::Trace;
use crate::world::{Chaos, Happening, World};
use regild::decide::host::{AgentWord, DiskId, Event, Identity, State, Step};
use regild::decide::mac::Mac;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// After chaos, at most: orders wait for hours for a person, and power cycles begin that anew.
const SETTLE_DAYS: u64 = 12;

/// What one run came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lived {
    pub host_days: u64,
    pub orders: u64,
    pub builds: u64,
    pub commits: u64,
    pub crashes: u64,
}

impl Lived {
    pub fn add(&mut self, other: Lived) {
        self.host_days += other.host_days;
        self.orders += other.orders;
        self.builds += other.builds;
        self.commits += other.commits;
        self.crashes += other.crashes;
    }
}

/// One life of a fleet. Panics where a law is broken.
pub fn live(seed: u64, trace: Trace) -> Lived {
    let mut world = World::new(Dice::from_seed(seed), trace);
    let days = world.dice.between(1, 4);
    world.set_up();
    world.live(days * DAY, |_| false);
    world.settle();
    let settled = world.now + SETTLE_DAYS * DAY;
    world.live(settled, World::is_at_rest);
    assert!(world.is_at_rest(), "it does not come to rest: {}", world.restless());
    world.laws.ended(&world.server, |host| {
        let machine = world.machines.iter().find(|machine| machine.macs.iter().any(|mac| host.macs.contains(mac)))?;
        let whole = |disk: &Disk| match &disk.content {
            Content::Image { image, generation } => {
                *generation == host.reported_generation && Some(image) == host.reported.as_ref()
            }
            _ => false,
        };
        (!machine.tainted).then(|| machine.disks.iter().any(whole))
    });
    Lived {
        host_days: world.machines.len() as u64 * world.now / DAY,
        orders: world.laws.orders,
        builds: world.laws.builds,
        commits: world.commits,
        crashes: world.crashes,
    }
}

impl World {
    fn set_up(&mut self) {
        let wild = |dice: &mut Dice, most: u64| if dice.chance(600) { dice.between(0, most) } else { 0 };
        let dice = &mut self.dice;
        let chaos =
            Chaos { lost: wild(dice, 150), doubled: wild(dice, 100), late: wild(dice, 60), crashes: wild(dice, 12) };
        self.chaos = chaos;
        let temper = Temper {
            hangs: wild(dice, 25),
            loses_power: wild(dice, 25),
            fails: wild(dice, 80),
            never_confirms: wild(dice, 200),
            lies: wild(dice, 60),
        };
        let machines = dice.between(3, 14);
        let controllers = dice.below(1001);
        for number in 0..machines {
            let number = u8::try_from(number).expect("few machines");
            let mut macs = vec![Mac([0x52, 0x54, 7, 0, 0, number])];
            if dice.chance(150) {
                macs.push(Mac([0x52, 0x54, 7, 1, 0, number]));
            }
            let uuid = dice.chance(900).then(|| format!("00000000-0000-0000-0000-0000000000{number:02x}"));
            let mut disks = vec![fresh_disk(dice, u64::from(number))];
            if dice.chance(100) {
                disks.push(fresh_disk(dice, 100 + u64::from(number)));
            }
            let machine = Machine {
                macs,
                uuid,
                disks,
                has_controller: dice.chance(controllers),
                temper,
                boot: 0,
                phase: Phase::Off,
                waits: None,
                call: 0,
                timer: 0,
                secrets: Vec::new(),
                tainted: false,
            };
            self.machines.push(machine);
        }
        self.chaos.crashes = 0;
        self.start_server();
        self.first_documents();
        self.chaos = chaos;
        for machine in 0..self.machines.len() {
            let seconds = self.dice.between(1, 2 * HOUR);
            self.at(seconds, Happening::Switched { machine });
        }
        self.at(30, Happening::Tick);
        for (first, what) in [(900, Happening::Operate), (HOUR, Happening::Walk), (2 * HOUR, Happening::Mishap)] {
            self.at(first, what);
        }
    }

    /// A person reboots machines that an order waits for, and those that hang.
    pub fn walk(&mut self) {
        let seconds = self.dice.between(20 * 60, 3 * HOUR);
        self.at(seconds, Happening::Walk);
        if !self.server.is_up() {
            return;
        }
        for machine in 0..self.machines.len() {
            let of = &self.machines[machine];
            let host = self.server.read(|view| view.by_mac(of.macs[0]));
            let waits = host.is_some_and(|view| view.host.order.is_some());
            let hangs = matches!(of.phase, Phase::Hung);
            if (hangs || waits && !of.is_busy()) && self.dice.chance(600) {
                self.say(|| format!("machine {machine}: somebody reboots it"));
                self.restart_machine(machine);
            }
        }
    }

    pub fn mishap(&mut self) {
        if self.settling {
            return;
        }
        let seconds = self.dice.between(10 * 60, 4 * HOUR);
        self.at(seconds, Happening::Mishap);
        let machine = self.dice.place(self.machines.len());
        match self.dice.below(20) {
            0 => self.clock_jumps(),
            1 => self.swap_disks(machine),
            2..5 => {
                let seconds = self.dice.between(5, 2 * HOUR);
                self.say(|| format!("machine {machine}: no power for {seconds} s"));
                let effects = self.machines[machine].lose_power(seconds);
                self.carry_out(machine, effects);
            }
            5..8 => {
                self.say(|| format!("machine {machine}: is rebooted for nothing"));
                self.restart_machine(machine);
            }
            _ => {}
        }
    }

    fn clock_jumps(&mut self) {
        let seconds = self.dice.between(700, 3 * DAY);
        let seconds = i64::try_from(seconds).expect("days");
        let by = if self.dice.chance(500) { seconds } else { -seconds };
        self.say(|| format!("the clock jumps by {by} s"));
        self.skew += by;
        // The hourly caps go by the wall clock: what was within an hour is no longer known.
        self.laws.clock_jumped(self.server.is_up() && !self.server.store.has_failed());
        self.stale();
    }

    fn swap_disks(&mut self, machine: usize) {
        let other = self.dice.place(self.machines.len());
        let is_writing = |machine: &Machine| matches!(machine.phase, Phase::Agent(_));
        // With the power off, as people do: an agent at work does not get another disk under its hands.
        if is_writing(&self.machines[machine]) || is_writing(&self.machines[other]) {
            return;
        }
        let number = 200 + self.dice.below(1000);
        if other == machine || self.dice.chance(500) {
            self.machines[machine].disks[0] = fresh_disk(&mut self.dice, number);
        } else {
            let (from, to) = (self.machines[machine].disks[0].clone(), self.machines[other].disks[0].clone());
            self.machines[machine].disks[0] = to;
            self.machines[other].disks[0] = from;
        }
        self.say(|| format!("machine {machine}: other disks, perhaps those of {other}"));
        for machine in [machine, other] {
            self.machines[machine].tainted = true;
            self.restart_machine(machine);
        }
    }

    /// What no honest agent says: of an earlier attempt, of another host, of what was not done.
    pub fn lie(&mut self, machine: usize) {
        let victim = if self.dice.chance(700) { machine } else { self.dice.place(self.machines.len()) };
        if self.machines[victim].secrets.is_empty() {
            return;
        }
        let secret = self.dice.pick(&self.machines[victim].secrets).clone();
        let newest = self.machines[victim].secrets.last().is_some_and(|last| last.session == secret.session);
        let disk = self.machines[victim].disks[0].id.clone();
        let generation = (secret.generation + *self.dice.pick(&[0, 0, 1, 2])).saturating_sub(*self.dice.pick(&[0, 1]));
        let session_digest = digest(if self.dice.chance(700) { &secret.session } else { "guessed" });
        let host = secret.host;
        let word = match self.dice.below(8) {
            0..3 => AgentWord::Verified(disk),
            3 => AgentWord::Target(disk),
            4 => AgentWord::Step(Step::ClearHead),
            _ => AgentWord::Failed { step: Step::WriteBody, reason: "a lie".to_string() },
        };
        let event = match self.dice.below(6) {
            0 => Event::Installed { image: "a:9".to_string() },
            1 | 2 => {
                let identity = Identity { system_uuid: self.machines[victim].uuid.clone(), ..Identity::default() };
                Event::CheckedIn { generation, token_digest: digest(&secret.token), session_digest, identity }
            }
            _ => {
                // With the right session the server cannot know: its record says nothing of the disk from now on.
                self.machines[victim].tainted |= newest && !matches!(word, AgentWord::Failed { .. });
                Event::Agent { generation, session_digest, word }
            }
        };
        self.say(|| format!("machine {machine}: lies of {host}: {event:?}"));
        let (boot, call) = (0, 0);
        self.send(Happening::Arrive { machine, boot, call, request: Request::Claim { host, event } });
    }

    /// Whether the health check of a host fails: it is down, or runs the image that is bad.
    pub fn is_ill(&mut self, host: &str) -> bool {
        let machine = self.machines.iter().find(|machine| host == machine.first_id());
        let Some(machine) = machine else { return true };
        let bad = machine.disks.iter().any(|disk| match &disk.content {
            Content::Image { image, .. } => image.name == "a:4",
            _ => false,
        });
        !matches!(machine.phase, Phase::System) || bad && self.dice.chance(700)
    }

    /// Chaos ends: machines and network are good, and operators clean up.
    fn settle(&mut self) {
        self.say(|| "chaos ends".to_string());
        self.settling = true;
        self.chaos = Chaos::default();
        for machine in &mut self.machines {
            machine.temper = Temper::default();
        }
        if !self.server.is_up() || self.server.store.has_failed() {
            self.server.kill();
            self.start_server();
        }
        self.last_documents();
        self.at(0, Happening::Operate);
    }

    fn is_at_rest(&self) -> bool {
        self.settling && self.server.is_up() && self.restless().is_empty()
    }

    /// Who is not at rest.
    fn restless(&self) -> String {
        if !self.server.is_up() {
            return "the server is down".to_string();
        }
        self.server.read(|view| {
            let moves = view.hosts().find(|view| {
                let host = &view.host;
                let stands = matches!(
                    host.state,
                    State::Ready { .. }
                        | State::Failed { .. }
                        | State::Held { .. }
                        | State::Enrolled
                        | State::Discovered
                );
                host.order.is_some() || !stands
            });
            let rolls = view.rollouts().values().find(|rollout| !rollout.progress.stage.is_over());
            let asks = view.hosts().find(|host| {
                let blocked = host.host.asks.iter().any(|cause| {
                    let image = cause.image.as_ref().or(host.host.desired.as_ref());
                    image.is_some_and(|image| view.images().blocked(&image.name).is_some())
                });
                !host.host.asks.is_empty() && view.allowed(&host.host).is_ok() && !blocked
            });
            match (moves, rolls, asks) {
                (Some(view), _, _) => format!("{:?}", view.host),
                (_, Some(rollout), _) => format!("{:?}", rollout.progress),
                (_, _, Some(view)) => format!("{:?} waits: {:?}", view.host, view.waits),
                _ => String::new(),
            }
        })
    }
}

fn fresh_disk(dice: &mut Dice, number: u64) -> Disk {
    let content = if dice.chance(150) { Content::Foreign } else { Content::Blank };
    let serial = dice.chance(950).then(|| format!("S{number:04}"));
    Disk { id: DiskId { serial, wwn: None, size_bytes: 4 << 30 }, content }
}
