//! Fleet documents at random: groups with their schedules and limits, the policy, and where hosts stand.

use crate::dice::Dice;
use crate::machine::Machine;
use crate::operator::image;
use crate::world::World;
use regild::config::fleet::HostEntry;
use regild::config::fleet::diff::Write;
use regild::decide::brakes::{BreakerPolicy, Policy};
use regild::decide::group::{Deadlines, Group, Limits, Schedule, Window};
use regild::decide::labels::Labels;
use regild::power::settings::{Settings, Wol};
use regild::registry::Command;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

const HOUR: u64 = 3600;
const GROUPS: [&str; 3] = ["default", "web", "db"];

fn few(dice: &mut Dice, least: u64, most: u64) -> u32 {
    u32::try_from(dice.between(least, most)).expect("few")
}

fn limits(dice: &mut Dice) -> Limits {
    Limits { concurrent_max: few(dice, 1, 5), orders_per_hour_max: few(dice, 1, 9) }
}

pub fn policy(dice: &mut Dice, machines: &[Machine]) -> Policy {
    let denied = match dice.chance(200) {
        true => BTreeSet::from([dice.pick(machines).macs[0]]),
        false => BTreeSet::new(),
    };
    let breaker = BreakerPolicy { percent_max: few(dice, 5, 50), hosts_min: few(dice, 2, 4) };
    Policy { fleet: limits(dice), rack: limits(dice), feed: limits(dice), breaker, denied, ..Policy::default() }
}

/// Cron lines on the hour, in UTC: the laws reckon with them by hand.
fn schedule(dice: &mut Dice) -> Schedule {
    let hourly = |dice: &mut Dice| format!("0 {} * * *", dice.below(24));
    let pause_seconds = dice.between(600, 20 * HOUR);
    let window = |dice: &mut Dice| Window { cron: hourly(dice), open_seconds: dice.between(1800, 6 * HOUR) };
    let blackout = |dice: &mut Dice| {
        let first = dice.between(21, 26);
        (format!("2026-09-{first}"), format!("2026-09-{}", first + dice.below(2)))
    };
    Schedule {
        rebuild: if dice.chance(500) { vec![hourly(dice)] } else { Vec::new() },
        windows: (0..dice.below(3)).map(|_| window(dice)).collect(),
        time_zone: "UTC".to_string(),
        blackouts: if dice.chance(200) { vec![blackout(dice)] } else { Vec::new() },
        max_age_seconds: dice.chance(400).then(|| pause_seconds + dice.between(6 * HOUR, 48 * HOUR)),
        pause_seconds,
        catch_up: dice.chance(500),
    }
}

fn named_group(dice: &mut Dice, name: &str) -> Group {
    let channel = dice.chance(600).then(|| "a@stable".to_string());
    Group {
        follow_channel: channel.is_some() && dice.chance(600),
        channel,
        schedule: schedule(dice),
        limits: limits(dice),
        deadlines: Deadlines {
            queued_seconds: dice.between(HOUR, 8 * HOUR),
            power_cycles_max: few(dice, 0, 2),
            ..Deadlines::default()
        },
        protected: dice.chance(60),
        ..Group::new(name)
    }
}

pub fn group(dice: &mut Dice) -> Group {
    let name = *dice.pick(&GROUPS);
    named_group(dice, name)
}

impl World {
    pub fn apply(&mut self, writes: Vec<Write>) {
        self.say(|| format!("operator: apply {writes:?}"));
        let images = (1..=5).map(|version| (image(version).name, image(version))).collect();
        let by = "ann".to_string();
        self.ask(|reply| Command::Apply { writes, images, by, reply });
    }

    pub fn first_documents(&mut self) {
        let mut writes = vec![Write::Policy(policy(&mut self.dice, &self.machines))];
        for name in GROUPS {
            if self.dice.chance(800) {
                writes.push(Write::Group(Box::new(named_group(&mut self.dice, name))));
            }
        }
        self.apply(writes);
    }

    /// Nothing acts by itself any more, and the limits let everybody through in time.
    pub fn last_documents(&mut self) {
        let groups: Vec<Group> = self.server.read(|view| view.groups().values().cloned().collect());
        let quiet = |group: Group| Group { schedule: Schedule::default(), follow_channel: false, ..group };
        self.apply(groups.into_iter().map(|group| Write::Group(Box::new(quiet(group)))).collect());
    }

    /// Gives a host a group, labels and a power driver.
    pub fn place(&mut self, id: &str) {
        let dice = &mut self.dice;
        let mut labels = Labels::default();
        for (key, values) in [("rack", ["1", "2", "3"]), ("feed", ["a", "b", "b"])] {
            if dice.chance(700) {
                labels.set(key, values[dice.place(values.len())]).expect("a label");
            }
        }
        if dice.chance(30) {
            labels.set("protected", "yes").expect("a label");
        }
        let entry = HostEntry {
            group: Some((*dice.pick(&GROUPS)).to_string()),
            labels: Some(labels),
            image: dice.chance(200).then(|| image(dice.between(1, 5)).name.parse().expect("an image")),
            ..HostEntry::default()
        };
        self.apply(vec![Write::Host { id: id.to_string(), new: None, entry }]);
        let machine = self.machines.iter().find(|machine| id == machine.first_id());
        if let Some(machine) = machine.filter(|machine| machine.has_controller)
            && self.server.is_up()
        {
            let (name, mac) = (id.to_string(), machine.macs[0]);
            let wol = Wol { mac, interface: None, broadcast: Ipv4Addr::BROADCAST, port: 9 };
            self.ask(|reply| Command::SetPower { name, settings: Box::new(Settings::Wol(wol)), reply });
        }
    }
}
