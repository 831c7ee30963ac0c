//! How rollouts lie in the store: many small values, since one is at most 24 KiB and a plan may have 100,000 hosts.
//!
//! ```text
//! rollout/<n>/plan                 request and sizes
//! rollout/<n>/member/<wave>/<at>   100 members each, in order
//! rollout/<n>/excluded/<at>        100 hosts each, with the reason
//! rollout/<n>/done/<at>            100 hosts each
//! rollout/<n>/progress             stage, wave
//! rollout/<n>/seat/<host>          one host's place; only those that change are written
//! ```

use super::stored::{StoredImage, load_image, store_image};
use crate::db::Item;
use crate::decide::group::Check;
use crate::decide::rollout::plan::{Gate, Goal, Member, Plan, Request, WaveSize};
use crate::decide::rollout::progress::{Ask, CheckRecord, HaltReason, Progress, Seat, Stage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(super) const PREFIX: &str = "rollout/";
const CHUNK: usize = 100;

type Write = (String, Option<Vec<u8>>);

#[derive(Serialize, Deserialize)]
struct StoredPlan {
    made_at: u64,
    selector: String,
    image: Option<StoredImage>,
    undoes: Option<u64>,
    by: String,
    reason: String,
    canary: u32,
    /// `true`: percent.
    waves: Vec<(bool, u32)>,
    spread_percent: u32,
    spread: String,
    failures_max: u32,
    confirmed: bool,
    check_url: Option<String>,
    check_program: Option<String>,
    soak_seconds: u64,
    health_seconds: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredMember {
    id: String,
    name: Option<String>,
    spread: Option<String>,
    image: StoredImage,
    former: Option<StoredImage>,
    fetch_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredProgress {
    stage: StoredStage,
    wave: usize,
    wave_began_at: u64,
    healthy: usize,
    forgiven: usize,
    waived_wave: Option<usize>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "word")]
enum StoredStage {
    Running,
    Paused { by: String, reason: String, at: u64 },
    HaltedByFailures { count: usize, max: u32, at: u64 },
    HaltedWithoutHealth { wave: usize, at: u64 },
    Done { at: u64 },
    Aborted { by: String, reason: String, at: u64 },
}

#[derive(Serialize, Deserialize)]
struct StoredSeat {
    at: u64,
    ask: StoredAsk,
    requested_at: Option<u64>,
    answered_at: Option<u64>,
    passed_since: Option<u64>,
    relapsed_at: Option<u64>,
    relapses: u32,
    complaint: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "word")]
enum StoredAsk {
    Asked { reported_generation: u64 },
    Found,
    LeftOut { reason: String },
    Failed { reason: String, at: u64 },
}

/// All of a new plan.
pub(super) fn plan_writes(plan: &Plan) -> Vec<Write> {
    let n = plan.number;
    let mut writes = vec![(format!("{PREFIX}{n:010}/plan"), json(&store_plan(plan)))];
    for (wave, members) in plan.waves.iter().enumerate() {
        let stored: Vec<StoredMember> = members.iter().map(store_member).collect();
        chunks(&mut writes, &format!("{PREFIX}{n:010}/member/{wave:06}"), &stored);
    }
    chunks(&mut writes, &format!("{PREFIX}{n:010}/excluded"), &plan.excluded);
    chunks(&mut writes, &format!("{PREFIX}{n:010}/done"), &plan.done_already);
    writes
}

fn chunks<T: Serialize>(writes: &mut Vec<Write>, prefix: &str, all: &[T]) {
    for (at, chunk) in all.chunks(CHUNK).enumerate() {
        writes.push((format!("{prefix}/{at:06}"), json(&chunk)));
    }
}

/// What changed from `old` to `new`.
pub(super) fn progress_writes(old: Option<&Progress>, new: &Progress) -> Vec<Write> {
    let n = new.number;
    let head = |progress: &Progress| json(&store_progress(progress));
    let mut writes = Vec::new();
    if old.is_none_or(|old| head(old) != head(new)) {
        writes.push((format!("{PREFIX}{n:010}/progress"), head(new)));
    }
    for (host, seat) in &new.seats {
        if old.and_then(|old| old.seats.get(host)) != Some(seat) {
            writes.push((format!("{PREFIX}{n:010}/seat/{host}"), json(&store_seat(seat))));
        }
    }
    writes
}

/// Reads all rollouts back.
///
/// # Errors
/// The key that is not understood, and why.
pub(super) fn load(items: Vec<Item>) -> Result<BTreeMap<u64, (Plan, Progress)>, (String, String)> {
    let mut all: BTreeMap<u64, (Plan, Progress)> = BTreeMap::new();
    let mut parts: BTreeMap<u64, Vec<Item>> = BTreeMap::new();
    for item in items {
        let number = item.key.get(PREFIX.len()..PREFIX.len() + 10).and_then(|digits| digits.parse().ok());
        parts.entry(number.ok_or((item.key.clone(), "it has no number".to_string()))?).or_default().push(item);
    }
    for (number, items) in parts {
        all.insert(number, load_one(number, &items)?);
    }
    Ok(all)
}

fn load_one(number: u64, items: &[Item]) -> Result<(Plan, Progress), (String, String)> {
    let part = |item: &Item| item.key[PREFIX.len() + 11..].to_string();
    let find = |name: &str| {
        let missing = || (format!("{PREFIX}{number:010}/{name}"), "it is missing".to_string());
        items.iter().find(|item| part(item) == name).ok_or_else(missing)
    };
    let mut plan = load_plan(number, parse(find("plan")?)?);
    let mut progress = load_progress(number, parse(find("progress")?)?);
    for item in items {
        let name = part(item);
        let mut words = name.split('/');
        match (words.next(), words.next()) {
            (Some("member"), Some(wave)) => {
                let wave: usize = wave.parse().map_err(|_| (item.key.clone(), "it has no wave".to_string()))?;
                plan.waves.resize_with(plan.waves.len().max(wave + 1), Vec::new);
                let members: Vec<StoredMember> = parse(item)?;
                plan.waves[wave].extend(members.into_iter().map(load_member));
            }
            (Some("excluded"), _) => plan.excluded.extend(parse::<Vec<(String, String)>>(item)?),
            (Some("done"), _) => plan.done_already.extend(parse::<Vec<String>>(item)?),
            (Some("seat"), Some(host)) => {
                progress.seats.insert(host.to_string(), load_seat(parse(item)?));
            }
            _ => {}
        }
    }
    Ok((plan, progress))
}

fn parse<T: serde::de::DeserializeOwned>(item: &Item) -> Result<T, (String, String)> {
    serde_json::from_slice(&item.value).map_err(|error| (item.key.clone(), error.to_string()))
}

/// Strings and numbers: serialising them cannot fail.
fn json(value: &impl Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(value).ok()
}

fn store_plan(plan: &Plan) -> StoredPlan {
    let request = &plan.request;
    let (image, undoes) = match &request.goal {
        Goal::Image(image) => (Some(store_image(image)), None),
        Goal::Former { of } => (None, Some(*of)),
    };
    let size = |size: &WaveSize| match size {
        WaveSize::Hosts(hosts) => (false, *hosts),
        WaveSize::Percent(percent) => (true, *percent),
    };
    let (mut check_url, mut check_program) = (None, None);
    match &request.gate.check {
        Some(Check::Http { url }) => check_url = Some(url.clone()),
        Some(Check::Command { program }) => check_program = Some(program.clone()),
        None => {}
    }
    StoredPlan {
        made_at: plan.made_at,
        selector: request.selector.clone(),
        image,
        undoes,
        by: request.by.clone(),
        reason: request.reason.clone(),
        canary: request.canary,
        waves: request.waves.iter().map(size).collect(),
        spread_percent: request.spread_percent,
        spread: request.spread.clone(),
        failures_max: request.failures_max,
        confirmed: request.gate.confirmed,
        check_url,
        check_program,
        soak_seconds: request.gate.soak_seconds,
        health_seconds: request.gate.health_seconds,
    }
}

fn load_plan(number: u64, stored: StoredPlan) -> Plan {
    let goal = match stored.image {
        Some(image) => Goal::Image(load_image(image)),
        None => Goal::Former { of: stored.undoes.unwrap_or_default() },
    };
    let size = |(percent, size)| if percent { WaveSize::Percent(size) } else { WaveSize::Hosts(size) };
    let check = stored.check_url.map(|url| Check::Http { url });
    let check = check.or(stored.check_program.map(|program| Check::Command { program }));
    let gate = Gate {
        confirmed: stored.confirmed,
        check,
        soak_seconds: stored.soak_seconds,
        health_seconds: stored.health_seconds,
    };
    let request = Request {
        selector: stored.selector,
        goal,
        by: stored.by,
        reason: stored.reason,
        canary: stored.canary,
        waves: stored.waves.into_iter().map(size).collect(),
        spread_percent: stored.spread_percent,
        spread: stored.spread,
        failures_max: stored.failures_max,
        gate,
    };
    Plan { number, made_at: stored.made_at, request, waves: Vec::new(), excluded: Vec::new(), done_already: Vec::new() }
}

fn store_member(member: &Member) -> StoredMember {
    StoredMember {
        id: member.id.clone(),
        name: member.name.clone(),
        spread: member.spread.clone(),
        image: store_image(&member.image),
        former: member.former.as_ref().map(store_image),
        fetch_bytes: member.fetch_bytes,
    }
}

fn load_member(stored: StoredMember) -> Member {
    Member {
        id: stored.id,
        name: stored.name,
        spread: stored.spread,
        image: load_image(stored.image),
        former: stored.former.map(load_image),
        fetch_bytes: stored.fetch_bytes,
    }
}

fn store_progress(progress: &Progress) -> StoredProgress {
    let stage = match progress.stage.clone() {
        Stage::Running => StoredStage::Running,
        Stage::Paused { by, reason, at } => StoredStage::Paused { by, reason, at },
        Stage::Halted { reason: HaltReason::Failures { count, max }, at } => {
            StoredStage::HaltedByFailures { count, max, at }
        }
        Stage::Halted { reason: HaltReason::NobodyHealthy { wave }, at } => {
            StoredStage::HaltedWithoutHealth { wave, at }
        }
        Stage::Done { at } => StoredStage::Done { at },
        Stage::Aborted { by, reason, at } => StoredStage::Aborted { by, reason, at },
    };
    StoredProgress {
        stage,
        wave: progress.wave,
        wave_began_at: progress.wave_began_at,
        healthy: progress.healthy,
        forgiven: progress.forgiven,
        waived_wave: progress.waived_wave,
    }
}

fn load_progress(number: u64, stored: StoredProgress) -> Progress {
    let stage = match stored.stage {
        StoredStage::Running => Stage::Running,
        StoredStage::Paused { by, reason, at } => Stage::Paused { by, reason, at },
        StoredStage::HaltedByFailures { count, max, at } => {
            Stage::Halted { reason: HaltReason::Failures { count, max }, at }
        }
        StoredStage::HaltedWithoutHealth { wave, at } => {
            Stage::Halted { reason: HaltReason::NobodyHealthy { wave }, at }
        }
        StoredStage::Done { at } => Stage::Done { at },
        StoredStage::Aborted { by, reason, at } => Stage::Aborted { by, reason, at },
    };
    Progress {
        number,
        stage,
        wave: stored.wave,
        wave_began_at: stored.wave_began_at,
        seats: BTreeMap::new(),
        healthy: stored.healthy,
        forgiven: stored.forgiven,
        waived_wave: stored.waived_wave,
    }
}

fn store_seat(seat: &Seat) -> StoredSeat {
    let ask = match seat.ask.clone() {
        Ask::Asked { reported_generation } => StoredAsk::Asked { reported_generation },
        Ask::Found => StoredAsk::Found,
        Ask::LeftOut { reason } => StoredAsk::LeftOut { reason },
        Ask::Failed { reason, at } => StoredAsk::Failed { reason, at },
    };
    let check = seat.check.clone();
    StoredSeat {
        at: seat.at,
        ask,
        requested_at: check.requested_at,
        answered_at: check.answered_at,
        passed_since: check.passed_since,
        relapsed_at: check.relapsed_at,
        relapses: check.relapses,
        complaint: check.complaint,
    }
}

fn load_seat(stored: StoredSeat) -> Seat {
    let ask = match stored.ask {
        StoredAsk::Asked { reported_generation } => Ask::Asked { reported_generation },
        StoredAsk::Found => Ask::Found,
        StoredAsk::LeftOut { reason } => Ask::LeftOut { reason },
        StoredAsk::Failed { reason, at } => Ask::Failed { reason, at },
    };
    let check = CheckRecord {
        requested_at: stored.requested_at,
        answered_at: stored.answered_at,
        passed_since: stored.passed_since,
        relapsed_at: stored.relapsed_at,
        relapses: stored.relapses,
        complaint: stored.complaint,
    };
    Seat { at: stored.at, ask, check }
}
