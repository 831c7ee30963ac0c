//! The life of one host as its client knows it: only what was answered is in it.

use regild::decide::mac::Mac;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

use crate::dice::Dice;
use crate::records::Stored;

pub const IMAGE: &str = "tiny:v1";
pub const ATTEMPTS_MAX: u32 = 3;

/// What a client asks for one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// A lease under the host name `n-<number>`: another name each time, so that each is written down.
    Lease(u32),
    /// iPXE asks for its script.
    Script,
    Approve,
    Reimage(u32),
    Hold(u32),
    Release,
    CheckIn,
    Target,
    WriteBody,
    VerifyBody,
    Verified,
    Failed(u32),
    Installed,
    /// Reads; all others write.
    History,
}

/// A line of history that was promised by an answer.
#[derive(Debug, Clone)]
pub struct Line {
    pub to: String,
    /// Words of its cause.
    pub says: String,
}

#[derive(Debug, Clone)]
pub struct Life {
    pub number: u8,
    pub lines: Vec<Line>,
    pub generation: u64,
    pub reported_generation: u64,
    /// Attempts of the open order.
    pub attempts: Option<u32>,
    pub owns_disk: bool,
    pub disks: usize,
    pub lease: Option<u32>,
}

impl Life {
    pub fn unborn(number: u8) -> Life {
        let (lines, attempts, lease) = (Vec::new(), None, None);
        Life { number, lines, generation: 0, reported_generation: 0, attempts, owns_disk: false, disks: 0, lease }
    }

    /// Goes on from what lies in the store.
    pub fn resume(number: u8, stored: &Stored) -> Life {
        let mut life = Life { lease: stored.lease, ..Life::unborn(number) };
        let says = |line: &regild::registry::history::Line| Line { to: line.to.clone(), says: line.cause.clone() };
        life.lines = stored.lines.iter().map(says).collect();
        if let Some(view) = &stored.host {
            life.generation = view.host.generation;
            life.reported_generation = view.host.reported_generation;
            life.attempts = view.host.order.as_ref().map(|order| order.attempts);
            life.owns_disk = view.host.own_disk.is_some();
            life.disks = view.inventory.as_ref().map_or(0, |packed| packed.unpacked().disks.len());
        }
        life
    }

    pub fn mac(&self) -> Mac {
        Mac([0x52, 0x54, 0, 0xa0, 0, self.number])
    }

    pub fn id(&self) -> String {
        format!("h-525400a000{:02x}", self.number)
    }

    pub fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 1, self.number + 1)
    }

    /// A dozen disks or a shelf of sixty: records of 4 to 18 KiB.
    pub fn disks_in_machine(&self) -> usize {
        // At most 55: so many of these disks fit into what is kept of an inventory (http::said).
        12 + usize::from(self.number) * 11 % 44
    }

    pub fn state(&self) -> &str {
        self.lines.last().map_or("", |line| &line.to)
    }

    /// The newest generation whose order is known to be closed.
    fn closed_generation(&self) -> u64 {
        if self.attempts.is_some() { self.generation - 1 } else { self.generation }
    }

    /// What comes next. `has_token`: the client has the token of the latest attempt.
    pub fn next(&self, dice: &mut Dice, has_token: bool) -> Op {
        if self.lease.is_none() || dice.below(6) == 0 {
            return Op::Lease(self.lease.unwrap_or(0) + 1);
        }
        if dice.below(12) == 0 && !self.lines.is_empty() {
            return Op::History;
        }
        let number = self.lines.len() as u32;
        let percent = dice.below(100);
        match self.state() {
            "discovered" => Op::Approve,
            "queued" if percent < 8 => Op::Hold(number),
            "netbooting" if has_token && percent < 90 => Op::CheckIn,
            "deploying:check_in" if has_token && !self.owns_disk => Op::Target,
            "deploying:check_in" if has_token => Op::WriteBody,
            "deploying:write_body" if has_token && percent < 15 => Op::Failed(number),
            "deploying:write_body" if percent < 20 => Op::Hold(number),
            "deploying:write_body" if has_token => Op::VerifyBody,
            "verifying" if has_token => Op::Verified,
            "rebooting" if percent < 30 => Op::Installed,
            "ready:unconfirmed" if percent < 60 => Op::Installed,
            "ready:confirmed" if percent < 15 => Op::Hold(number),
            "ready:unconfirmed" | "ready:confirmed" | "enrolled" => Op::Reimage(number),
            "failed" | "held" => Op::Release,
            // Not seen yet, queued, rebooting, or a machine that lost its power under an order.
            _ => Op::Script,
        }
    }

    /// Whether a script that is asked for now boots the agent.
    pub fn may_be_written(&self) -> bool {
        self.attempts.is_some_and(|attempts| attempts < ATTEMPTS_MAX)
    }

    /// What an answer to `op` promises.
    pub fn apply(&mut self, op: Op) {
        match op {
            Op::Lease(number) => self.lease = Some(number),
            Op::Script => self.script(),
            Op::Approve => {
                self.go("enrolled", "approved");
                self.open_order(&format!(" to {IMAGE}"), "first image");
            }
            Op::Reimage(number) => self.open_order("", &why(number)),
            Op::Hold(number) => {
                self.attempts = None;
                self.go("held", &why(number));
            }
            // Only a disk that the newest order finished is known to be whole.
            Op::Release if self.reported_generation == self.generation => self.go("ready:unconfirmed", "released"),
            Op::Release => self.go("enrolled", "released"),
            Op::CheckIn => {
                self.disks = self.disks_in_machine();
                self.go("deploying:check_in", "claimed its token");
            }
            Op::Target => self.owns_disk = true,
            Op::WriteBody => self.go("deploying:write_body", "write_body"),
            Op::VerifyBody => self.go("verifying", "reading the body back"),
            Op::Verified => {
                self.attempts = None;
                self.reported_generation = self.generation;
                self.go("rebooting", &format!("order {} closed", self.generation));
            }
            Op::Failed(number) if self.attempts == Some(ATTEMPTS_MAX) => {
                self.attempts = None;
                self.go("failed", &why(number));
            }
            Op::Failed(number) => self.go("queued", &why(number)),
            Op::Installed => self.go("ready:confirmed", IMAGE),
            Op::History => {}
        }
    }

    fn go(&mut self, to: &str, says: &str) {
        self.lines.push(Line { to: to.to_string(), says: says.to_string() });
    }

    /// Asked for, which changes no state, and let through by the brakes: one commit.
    fn open_order(&mut self, to: &str, says: &str) {
        let state = self.state().to_string();
        self.go(&state, &format!("operator asks for a rebuild{to}: {says}"));
        self.generation += 1;
        self.attempts = Some(0);
        self.go("queued", &format!("order {} for {IMAGE}: operator: {says}", self.generation));
    }

    fn script(&mut self) {
        match self.attempts {
            _ if self.lines.is_empty() => self.go("discovered", "for the first time"),
            Some(ATTEMPTS_MAX) => {
                self.attempts = None;
                self.go("failed", "no attempt is left");
            }
            Some(attempts) => {
                self.attempts = Some(attempts + 1);
                self.go("netbooting", &format!("attempt {} of order {}", attempts + 1, self.generation));
            }
            None if self.state() == "rebooting" => self.go("ready:unconfirmed", "sent to its disk"),
            None => {}
        }
    }

    /// What the store has lost or made up, in words; empty when it has all that was answered, and at most the one
    /// operation that was under way.
    pub fn lost(&self, stored: &Stored) -> Vec<String> {
        let mut lost = self.lost_lines(stored);
        lost.extend(self.lost_of_record(stored));
        if let Some(lease) = self.lease
            && stored.lease.is_none_or(|kept| kept < lease)
        {
            lost.push(format!("the lease n-{lease} is {:?}", stored.lease));
        }
        lost.iter_mut().for_each(|line| line.insert_str(0, &format!("{}: ", self.id())));
        lost
    }

    fn lost_lines(&self, stored: &Stored) -> Vec<String> {
        let kept = |at: usize, line: &Line| {
            let kept = stored.lines.get(at);
            kept.is_some_and(|kept| {
                kept.number == at as u64 && kept.to == line.to && kept.cause.contains(line.says.as_str())
            })
        };
        let mut lost: Vec<_> = (self.lines.iter().enumerate().filter(|(at, line)| !kept(*at, line)))
            .map(|(at, line)| format!("line {at} of the history, {line:?}, is {:?}", stored.lines.get(at)))
            .collect();
        // An approval writes three.
        if stored.lines.len() > self.lines.len() + 3 {
            lost.push(format!("history has {} lines, answered were {}", stored.lines.len(), self.lines.len()));
        }
        lost
    }

    fn lost_of_record(&self, stored: &Stored) -> Vec<String> {
        let Some(view) = &stored.host else {
            let lost = (!self.lines.is_empty()).then(|| "the record is gone".to_string());
            return lost.into_iter().collect();
        };
        let host = &view.host;
        let mut lost = Vec::new();
        let mut must = |holds: bool, what: String| {
            if !holds {
                lost.push(what);
            }
        };
        let closed = self.closed_generation();
        let open = host.order.as_ref().map(|order| order.generation);
        must(open.is_none_or(|open| open > closed), format!("order {open:?} is open again, {closed} was closed"));
        must(open.is_none_or(|open| open == host.generation), format!("order {open:?} of {}", host.generation));
        let generations = self.generation..=self.generation + 1;
        must(generations.contains(&host.generation), format!("generation {} of {}", host.generation, self.generation));
        let last = stored.lines.last();
        must(
            last.is_some_and(|line| line.number + 1 == host.history_length && line.to.starts_with(host.state.word())),
            format!("the record says {:?} after {} lines, history {last:?}", host.state, host.history_length),
        );
        must(!self.owns_disk || host.own_disk.is_some(), "its own disk is forgotten".to_string());
        let disks = view.inventory.as_ref().map_or(0, |packed| packed.unpacked().disks.len());
        must(self.disks == 0 || disks == self.disks, format!("{disks} disks of {}", self.disks));
        if stored.lines.len() == self.lines.len() {
            let kept = Life::resume(self.number, stored);
            let facts = |life: &Life| (life.generation, life.reported_generation, life.attempts);
            must(
                facts(&kept) == facts(self),
                format!("(generation, reported, attempts) {:?} of {:?}", facts(&kept), facts(self)),
            );
        }
        lost
    }
}

/// The reason that goes with a number.
pub fn why(number: u32) -> String {
    format!("why-{number};")
}
