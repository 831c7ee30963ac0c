//! Who may send how much next when bandwidth is limited: the whole server's, and that of groups of hosts.
//!
//! Every host (by its address) gets the same share of what there is, however many connections it has; what one does not
//! take, or its group may not have, goes to the others (max-min fairness). Two parts make that: a token bucket for each
//! limit, which never gives out more than rate times time plus one burst; and start-time fair queueing (Goyal, Vin and
//! Cheng, 1996), on two levels: each host of a group has a virtual clock that runs by the bytes it got, and each group one
//! that runs by its bytes for each of its hosts; whose clock is furthest behind is served first. Who comes, or comes back,
//! starts at the clock of the one served last, so nobody saves up a claim by being silent. (One level is not enough: in a
//! group that its limit slows down, hosts that come back would start at the clock of the fast groups, far behind those of
//! their own that never paused.)
//!
//! What is absent: a clock. `now` is nanoseconds on any scale that only moves forward.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

/// Nanoseconds on a scale that only moves forward.
pub type Nanos = u64;

/// The most that is granted at once. A burst is at least this, or it could never be granted.
pub const SLICE_BYTES_MAX: u32 = 256 << 10;
/// Smaller pieces cost more processor time than their fairness is worth.
const SLICE_BYTES_MIN: u64 = 16 << 10;
/// ... but rather that than to wait so long for a turn that the other end gives up.
const SLICE_BYTES_LEAST: u64 = 4 << 10;
/// In which every stream should have had a turn. A client gives up after 20 s without a byte; one host's share goes round
/// its own streams, of which an agent has up to five while others may have one.
const ROUND_SECONDS: u64 = 3;
const NANOS_A_SECOND: u128 = 1_000_000_000;
/// Groups that are kept in mind without anybody of them waiting; beyond it their counters are forgotten.
const LANES_KEPT: usize = 1024;
/// Of the groups' clocks, so that a byte for each of thousands of hosts is not rounded to nothing.
const CLOCK_TICKS_A_BYTE: u128 = 1 << 16;

/// What one slice should be at this rate: a 64th of a second, so that many share a slow line without long waits; less where
/// a round of all `streams` would take more than [`ROUND_SECONDS`].
#[must_use]
pub fn slice_bytes(bytes_per_second: u64, streams: usize) -> u32 {
    let of_rate = (bytes_per_second / 64).clamp(SLICE_BYTES_MIN, u64::from(SLICE_BYTES_MAX));
    let of_round = (bytes_per_second / (streams as u64).max(1)).saturating_mul(ROUND_SECONDS);
    u32::try_from(of_rate.min(of_round).max(SLICE_BYTES_LEAST)).unwrap_or(SLICE_BYTES_MAX)
}

/// What may be sent at once after a pause: an eighth of a second, and never less than a slice.
#[must_use]
pub fn burst_bytes(bytes_per_second: u64) -> u64 {
    (bytes_per_second / 8).max(u64::from(SLICE_BYTES_MAX))
}

/// A token bucket. Counted in bytes times nanoseconds, so that nothing is ever rounded.
#[derive(Debug, Clone)]
struct Bucket {
    bytes_per_second: u64,
    level: u128,
    at: Nanos,
}

impl Bucket {
    fn new(bytes_per_second: u64, now: Nanos) -> Bucket {
        let bytes_per_second = bytes_per_second.max(1);
        Bucket { bytes_per_second, level: u128::from(burst_bytes(bytes_per_second)) * NANOS_A_SECOND, at: now }
    }

    fn full(&self) -> u128 {
        u128::from(burst_bytes(self.bytes_per_second)) * NANOS_A_SECOND
    }

    fn refill(&mut self, now: Nanos) {
        let passed = u128::from(now.saturating_sub(self.at));
        self.level = (self.level + passed * u128::from(self.bytes_per_second)).min(self.full());
        self.at = self.at.max(now);
    }

    /// What was saved up stays, as far as the new burst holds it.
    fn change_rate(&mut self, bytes_per_second: u64, now: Nanos) {
        if self.bytes_per_second != bytes_per_second.max(1) {
            self.refill(now);
            self.bytes_per_second = bytes_per_second.max(1);
            self.level = self.level.min(self.full());
        }
    }

    fn has(&self, bytes: u32) -> bool {
        self.level >= u128::from(bytes) * NANOS_A_SECOND
    }

    fn take(&mut self, bytes: u32) {
        self.level = self.level.saturating_sub(u128::from(bytes) * NANOS_A_SECOND);
    }

    /// When it has so many bytes. It was filled up to `self.at`.
    fn has_at(&self, bytes: u32) -> Nanos {
        let lacks = (u128::from(bytes) * NANOS_A_SECOND).saturating_sub(self.level);
        let nanos = lacks.div_ceil(u128::from(self.bytes_per_second));
        self.at.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The hosts of one group, and its limit.
#[derive(Debug, Default)]
struct Lane {
    bucket: Option<Bucket>,
    /// Hosts with something to send, by where their clocks stand.
    waiting: BTreeSet<(u64, IpAddr)>,
    /// Hosts without, whose clocks are ahead: they had their turn in this round, and are about to ask again.
    resting: BTreeSet<(u64, IpAddr)>,
    /// The clock of its host that was served last.
    clock: u64,
    /// Where the group's own clock stands, and where it stood when its next slice came to the head.
    finish: u128,
    start: u128,
    granted_bytes: u64,
}

impl Lane {
    fn set_limit(&mut self, limit: Option<u64>, now: Nanos) {
        match (&mut self.bucket, limit) {
            (Some(bucket), Some(rate)) => bucket.change_rate(rate, now),
            (bucket, limit) => *bucket = limit.map(|rate| Bucket::new(rate, now)),
        }
    }

    /// A host has something to send again.
    fn enter(&mut self, host: &mut Host, source: IpAddr, clock_of_all: u128) {
        if self.waiting.is_empty() {
            self.start = self.finish.max(clock_of_all);
        }
        self.resting.remove(&(host.finish, source));
        host.start = host.finish.max(self.clock);
        self.waiting.insert((host.start, source));
    }

    /// A resting host whose clock is no longer ahead would start where any other does: nothing is lost with it.
    fn forget_rested(&mut self, hosts: &mut BTreeMap<IpAddr, Host>) {
        while let Some((finish, source)) = self.resting.first().copied()
            && finish <= self.clock
        {
            self.resting.remove(&(finish, source));
            hosts.remove(&source);
        }
    }
}

#[derive(Debug, Default)]
struct Host {
    lane: String,
    /// Where its clock stood when its next slice came to the head of its queue.
    start: u64,
    /// Where its clock stands after all that it got.
    finish: u64,
    asked: VecDeque<(Ticket, u32)>,
}

/// One slice that somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    pub source: IpAddr,
    /// Its group; all without one share an empty name.
    pub group: &'a str,
    /// Its group's limit as it is now, bytes a second.
    pub limit: Option<u64>,
}

/// What a group got since it was first heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneCount {
    pub group: String,
    pub limit: Option<u64>,
    pub granted_bytes: u64,
    pub hosts_waiting: usize,
}

/// All that wait, and what they wait for.
#[derive(Debug)]
pub struct Shares {
    global: Option<Bucket>,
    lanes: BTreeMap<String, Lane>,
    hosts: BTreeMap<IpAddr, Host>,
    /// The clock of the group that was served last.
    clock: u128,
    next_ticket: u64,
}

impl Shares {
    /// `limit`: of all together, bytes a second.
    #[must_use]
    pub fn new(limit: Option<u64>, now: Nanos) -> Shares {
        let global = limit.map(|rate| Bucket::new(rate, now));
        Shares { global, lanes: BTreeMap::new(), hosts: BTreeMap::new(), clock: 0, next_ticket: 0 }
    }

    /// Asks for a slice; [`Shares::grant`] names the ticket when it may be sent. The answer says how many bytes it is
    /// for: at most [`SLICE_BYTES_MAX`].
    pub fn ask(&mut self, asker: Asker<'_>, bytes: u32, now: Nanos) -> (Ticket, u32) {
        let bytes = bytes.clamp(1, SLICE_BYTES_MAX);
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        if !self.lanes.contains_key(asker.group) {
            self.forget_idle_lanes();
        }
        let host = self.hosts.entry(asker.source).or_default();
        if host.lane != asker.group {
            self.move_to(asker.group, asker.source);
        }
        let lane = self.lanes.entry(asker.group.to_string()).or_default();
        lane.set_limit(asker.limit, now);
        if let Some(host) = self.hosts.get_mut(&asker.source) {
            host.asked.push_back((ticket, bytes));
            if host.asked.len() == 1 {
                lane.enter(host, asker.source, self.clock);
            }
        }
        (ticket, bytes)
    }

    /// It was put into another group: all that it waits for counts there.
    fn move_to(&mut self, group: &str, source: IpAddr) {
        let Some(host) = self.hosts.get_mut(&source) else { return };
        let former = std::mem::replace(&mut host.lane, group.to_string());
        if let Some(former) = self.lanes.get_mut(&former) {
            former.waiting.remove(&(host.start, source));
            former.resting.remove(&(host.finish, source));
        }
        host.finish = 0;
        if !host.asked.is_empty() {
            self.lanes.entry(group.to_string()).or_default().enter(host, source, self.clock);
        }
    }

    /// Whoever asked went away.
    pub fn withdraw(&mut self, source: IpAddr, ticket: Ticket) {
        let Some(host) = self.hosts.get_mut(&source) else { return };
        let was_waiting = !host.asked.is_empty();
        host.asked.retain(|(asked, _)| *asked != ticket);
        if was_waiting
            && host.asked.is_empty()
            && let Some(lane) = self.lanes.get_mut(&host.lane)
        {
            lane.waiting.remove(&(host.start, source));
            lane.resting.insert((host.finish, source));
            lane.forget_rested(&mut self.hosts);
        }
    }

    /// Everything that may be sent now, in this order.
    pub fn grant(&mut self, now: Nanos) -> Vec<Ticket> {
        self.refill(now);
        let mut granted = Vec::new();
        while let Some((name, source, bytes)) = self.next_host() {
            if self.global.as_ref().is_some_and(|global| !global.has(bytes)) {
                break;
            }
            // Both were just found.
            let (Some(lane), Some(host)) = (self.lanes.get_mut(&name), self.hosts.get_mut(&source)) else { break };
            let Some((ticket, _)) = host.asked.pop_front() else { break };
            let buckets = [self.global.as_mut(), lane.bucket.as_mut()];
            buckets.into_iter().flatten().for_each(|bucket| bucket.take(bytes));
            lane.granted_bytes += u64::from(bytes);
            lane.waiting.remove(&(host.start, source));
            lane.clock = lane.clock.max(host.start);
            host.finish = host.start + u64::from(bytes);
            if host.asked.is_empty() {
                lane.resting.insert((host.finish, source));
            } else {
                host.start = host.finish;
                lane.waiting.insert((host.start, source));
            }
            lane.forget_rested(&mut self.hosts);
            let hosts = (lane.waiting.len() + lane.resting.len()).max(1);
            self.clock = self.clock.max(lane.start);
            lane.finish = lane.start + u128::from(bytes) * CLOCK_TICKS_A_BYTE / hosts as u128;
            // What its own limit made it miss is no claim.
            lane.start = lane.finish.max(self.clock);
            granted.push(ticket);
        }
        granted
    }

    /// When [`Shares::grant`] may have something again, later than `now`; `None` while nobody waits. Asked after a grant.
    #[must_use]
    pub fn wakes_at(&mut self, now: Nanos) -> Option<Nanos> {
        self.refill(now);
        let of_lane = |lane: &Lane| {
            let (_, bytes) = self.head(lane)?;
            let bucket = lane.bucket.as_ref().filter(|bucket| !bucket.has(bytes))?;
            Some(bucket.has_at(bytes))
        };
        let lanes = self.lanes.values().filter_map(of_lane).min();
        let all = self.next_host().and_then(|(_, _, bytes)| Some(self.global.as_ref()?.has_at(bytes)));
        lanes.into_iter().chain(all).min().map(|at| at.max(now.saturating_add(1)))
    }

    /// The host of a group whose turn is next, and how much it asks for.
    fn head(&self, lane: &Lane) -> Option<(IpAddr, u32)> {
        let (_, source) = lane.waiting.first()?;
        let bytes = self.hosts.get(source)?.asked.front()?.1;
        Some((*source, bytes))
    }

    /// The host whose turn is next, of the group whose clock is furthest behind, of those with something left.
    fn next_host(&self) -> Option<(String, IpAddr, u32)> {
        let heads = self.lanes.iter().filter_map(|(name, lane)| Some((lane, name, self.head(lane)?)));
        let may = heads.filter(|(lane, _, (_, bytes))| lane.bucket.as_ref().is_none_or(|bucket| bucket.has(*bytes)));
        let next = may.min_by_key(|(lane, name, _)| (lane.start, *name));
        next.map(|(_, name, (source, bytes))| (name.clone(), source, bytes))
    }

    fn refill(&mut self, now: Nanos) {
        let lanes = self.lanes.values_mut().filter_map(|lane| lane.bucket.as_mut());
        lanes.chain(self.global.as_mut()).for_each(|bucket| bucket.refill(now));
    }

    fn forget_idle_lanes(&mut self) {
        if self.lanes.len() >= LANES_KEPT {
            let is_full = |bucket: &Bucket| bucket.level == bucket.full();
            let is_idle = |lane: &Lane| lane.waiting.is_empty() && lane.resting.is_empty();
            self.lanes.retain(|_, lane| !is_idle(lane) || !lane.bucket.as_ref().is_none_or(is_full));
        }
    }

    /// For whoever wants to know.
    #[must_use]
    pub fn counts(&self) -> Vec<LaneCount> {
        let count = |(name, lane): (&String, &Lane)| LaneCount {
            group: name.clone(),
            limit: lane.bucket.as_ref().map(|bucket| bucket.bytes_per_second),
            granted_bytes: lane.granted_bytes,
            hosts_waiting: lane.waiting.len(),
        };
        self.lanes.iter().map(count).collect()
    }
}

#[cfg(test)]
mod tests;
