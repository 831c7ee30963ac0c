//! Makes plans: (number, request, candidates, now) -> a plan, or a refusal with a reason.
//!
//! Everything follows from the arguments, so that a dry run shows exactly what a start will do:
//!
//! - **Order.** Hosts are ordered by a stable hash of their id, seeded with the goal: the digest of the image, or the
//!   rollout that is undone. Not with the number: a dry run has none yet, and a plan that is made again for the hosts
//!   that are left goes on in the same order. And not with nothing: the same host would be the canary of every version.
//! - **Waves.** The canary comes first, then waves by count or percent.
//! - **Spread.** No wave takes more than `spread_percent` of the hosts of one rack (or another label's value), rounded
//!   down, but always one. Hosts that are left out do not count as hosts of the rack: they may be down already.

use super::plan::{Candidate, Goal, Member, Plan, Request, WaveSize};
use crate::decide::host::ImageChoice;
use crate::decide::labels::is_word;
use crate::decide::stable_hash::stable_hash;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    NobodyMatches { selector: String },
    ImageBlocked { image: String, reason: String },
    NoWaveSize,
    WaveOfNobody,
    Percent(u32),
    SpreadPercent(u32),
    SpreadLabel(String),
    OtherGoal,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NobodyMatches { selector } => {
                write!(f, "no host matches the selector {selector:?}; `regild host list` shows what there is")
            }
            Refusal::ImageBlocked { image, reason } => {
                write!(f, "{image} is blocked: {reason}; choose another version")
            }
            Refusal::NoWaveSize => write!(f, "no size of waves is given; write counts or percents such as 1,10%,50%"),
            Refusal::WaveOfNobody => write!(f, "a wave of no host would never end; the least is 1"),
            Refusal::Percent(percent) => write!(f, "a wave of {percent}% cannot be; 1% to 100%"),
            Refusal::SpreadPercent(percent) => {
                write!(f, "a spread of {percent}% cannot be; 1% to 100% of the hosts of one rack at once")
            }
            Refusal::SpreadLabel(label) => write!(f, "{label:?} is no label to spread waves over"),
            Refusal::OtherGoal => {
                write!(f, "a rollback is planned from the rollout that it undoes, and nothing else is")
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// Plans a rollout of one image. `blocked` is why the image must not be rolled out, if it must not.
///
/// All hosts running it already is a plan without waves, not an error.
///
/// # Errors
/// [`Refusal`].
pub fn plan(
    number: u64,
    request: &Request,
    candidates: &[Candidate],
    blocked: Option<&str>,
    now: u64,
) -> Result<Plan, Refusal> {
    let Goal::Image(image) = &request.goal else { return Err(Refusal::OtherGoal) };
    if let Some(reason) = blocked {
        return Err(Refusal::ImageBlocked { image: image.name.clone(), reason: reason.to_string() });
    }
    let place = |candidate: &Candidate| match &candidate.excluded {
        Some(reason) => Place::Excluded(reason.clone()),
        None if candidate.whole && candidate.reported.as_ref() == Some(image) => Place::DoneAlready,
        None => Place::Member { image: image.clone(), former: candidate.reported.clone() },
    };
    make(number, request, candidates, place, now)
}

/// Plans the way back from rollout `of`: each host that it rewrote, or began to, gets what it ran before. A host that
/// was not reached runs that still; one that somebody gave a third image since, or whose former version is blocked by
/// now, is left alone.
///
/// # Errors
/// [`Refusal`].
pub fn rollback(
    number: u64,
    request: &Request,
    of: &Plan,
    candidates: &[Candidate],
    blocked: impl Fn(&ImageChoice) -> Option<String>,
    now: u64,
) -> Result<Plan, Refusal> {
    if request.goal != (Goal::Former { of: of.number }) {
        return Err(Refusal::OtherGoal);
    }
    let members: BTreeMap<&str, &Member> = of.members().map(|member| (member.id.as_str(), member)).collect();
    let place = |candidate: &Candidate| {
        let Some(member) = members.get(candidate.id.as_str()) else {
            return Place::Excluded(format!("not part of rollout {}", of.number));
        };
        let reported = candidate.reported.as_ref();
        match (&candidate.excluded, &member.former) {
            (Some(reason), _) => Place::Excluded(reason.clone()),
            (None, None) => Place::Excluded(format!("nothing is known that it ran before rollout {}", of.number)),
            (None, Some(former)) if candidate.whole && reported == Some(former) => Place::DoneAlready,
            (None, Some(_)) if candidate.whole && reported != Some(&member.image) => {
                let runs = reported.map_or("nothing known", |image| image.name.as_str());
                Place::Excluded(format!("runs {runs}, which rollout {} did not put there", of.number))
            }
            (None, Some(former)) => match blocked(former) {
                Some(reason) => Place::Excluded(format!("{} is blocked: {reason}", former.name)),
                None => Place::Member { image: former.clone(), former: candidate.reported.clone() },
            },
        }
    };
    make(number, request, candidates, place, now)
}

/// What becomes of one candidate.
enum Place {
    Member { image: ImageChoice, former: Option<ImageChoice> },
    DoneAlready,
    Excluded(String),
}

fn make(
    number: u64,
    request: &Request,
    candidates: &[Candidate],
    place: impl Fn(&Candidate) -> Place,
    now: u64,
) -> Result<Plan, Refusal> {
    check(request)?;
    if candidates.is_empty() {
        return Err(Refusal::NobodyMatches { selector: request.selector.clone() });
    }
    // By id, so that neither the order of the list nor a host that is listed twice changes anything.
    let hosts: BTreeMap<&str, &Candidate> = candidates.iter().map(|host| (host.id.as_str(), host)).collect();
    let seed = match &request.goal {
        Goal::Image(image) => image.manifest.clone(),
        Goal::Former { of } => format!("back from {of}"),
    };
    let (mut members, mut excluded, mut done_already) = (BTreeMap::new(), Vec::new(), Vec::new());
    let mut in_rack: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for host in hosts.into_values() {
        let place = place(host);
        if !matches!(place, Place::Excluded(_)) {
            *in_rack.entry(host.spread.clone()).or_default() += 1;
        }
        match place {
            Place::Excluded(reason) => excluded.push((host.id.clone(), reason)),
            Place::DoneAlready => done_already.push(host.id.clone()),
            Place::Member { image, former } => {
                let (id, name, spread) = (host.id.clone(), host.name.clone(), host.spread.clone());
                let rank = (stable_hash(&[&seed, &id]), id.clone());
                members.insert(rank, Member { id, name, spread, image, former, fetch_bytes: host.fetch_bytes });
            }
        }
    }
    let share = |hosts: &usize| (hosts * request.spread_percent as usize / 100).max(1);
    let shares = in_rack.iter().map(|(rack, hosts)| (rack.clone(), share(hosts))).collect();
    let sizes = sizes(request, members.len());
    let waves = lay(members.into_values(), &shares, sizes);
    Ok(Plan { number, made_at: now, request: request.clone(), waves, excluded, done_already })
}

fn check(request: &Request) -> Result<(), Refusal> {
    if request.waves.is_empty() {
        return Err(Refusal::NoWaveSize);
    }
    for size in &request.waves {
        match *size {
            WaveSize::Hosts(0) => return Err(Refusal::WaveOfNobody),
            WaveSize::Percent(percent) if !(1..=100).contains(&percent) => return Err(Refusal::Percent(percent)),
            WaveSize::Hosts(_) | WaveSize::Percent(_) => {}
        }
    }
    if !(1..=100).contains(&request.spread_percent) {
        return Err(Refusal::SpreadPercent(request.spread_percent));
    }
    if !is_word(&request.spread) {
        return Err(Refusal::SpreadLabel(request.spread.clone()));
    }
    Ok(())
}

/// The sizes of all waves, without end: the canary, then each size once, the last one for ever.
fn sizes(request: &Request, hosts: usize) -> impl Iterator<Item = usize> {
    let size = move |size: &WaveSize| match *size {
        WaveSize::Hosts(count) => count as usize,
        WaveSize::Percent(percent) => (hosts * percent as usize).div_ceil(100),
    };
    let canary = (request.canary > 0).then_some(request.canary as usize);
    let waves: Vec<usize> = request.waves.iter().map(size).map(|size| size.max(1)).collect();
    let last = waves.last().copied().unwrap_or(1);
    canary.into_iter().chain(waves).chain(std::iter::repeat(last))
}

/// Lays members, which come in order, into waves. Every host gets into the first wave that has room for it and for
/// another host of its rack; a rack whose share of a wave is used up steps aside until the next one.
fn lay(
    members: impl Iterator<Item = Member>,
    shares: &BTreeMap<Option<String>, usize>,
    sizes: impl Iterator<Item = usize>,
) -> Vec<Vec<Member>> {
    let mut racks: BTreeMap<Option<String>, VecDeque<(usize, Member)>> = BTreeMap::new();
    for (rank, member) in members.enumerate() {
        racks.entry(member.spread.clone()).or_default().push_back((rank, member));
    }
    // The rank of the first waiting host of each rack: the smallest one is the next host of all. So a wave costs what
    // it takes, not what waits.
    let mut heads: BTreeSet<(usize, Option<String>)> =
        racks.iter().filter_map(|(rack, waiting)| Some((waiting.front()?.0, rack.clone()))).collect();
    let mut waves = Vec::new();
    for size in sizes {
        if heads.is_empty() {
            break;
        }
        let mut wave = Vec::new();
        let mut taken: BTreeMap<Option<String>, usize> = BTreeMap::new();
        let mut aside = Vec::new();
        while wave.len() < size
            && let Some((_, rack)) = heads.pop_first()
        {
            let Some(waiting) = racks.get_mut(&rack) else { continue };
            let Some((_, member)) = waiting.pop_front() else { continue };
            wave.push(member);
            let count = taken.entry(rack.clone()).or_default();
            *count += 1;
            let Some(next) = waiting.front().map(|(rank, _)| (*rank, rack.clone())) else { continue };
            if *count < shares.get(&rack).copied().unwrap_or(1) {
                heads.insert(next);
            } else {
                aside.push(next);
            }
        }
        heads.extend(aside);
        waves.push(wave);
    }
    waves
}
