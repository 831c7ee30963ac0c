//! Rollouts, for operators: plan, start, watch, pause, resume, abort, undo.

use super::Shared;
use super::agent::is_seed;
use super::body::JsonBody;
use super::operator::{assignable, one_line};
use super::operator_many::{needs_second, selected};
use super::operator_proposals::{request_of, take};
use super::peer::Operator;
use super::problem::Problem;
use crate::causes;
use crate::clock;
use crate::decide::host::{ImageChoice, State as HostState};
use crate::decide::rollout::plan::{Candidate, Gate, Goal, Member, Plan, Request, WaveSize};
use crate::decide::rollout::progress::{Ask, Stage};
use crate::decide::rollout::waiting::waiting;
use crate::decide::rollout::{make, text};
use crate::decide::select::{self, Count, Selector};
use crate::decide::version::Asker;
use crate::image::plan::Version;
use crate::registry::requests::{Proposal, ProposalKind};
use crate::registry::rollouts::{Rollout, RolloutCommand, host_facts};
use crate::registry::{HostView, RegistryError, View};
use crate::wire::operator as wire;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use std::collections::BTreeMap;
use std::sync::Arc;

type Server = State<Arc<Shared>>;

/// `POST /v1/rollouts`.
///
/// # Errors
/// 400 for a selector, wave or image that is none; 409 when a host is in another rollout; 422 when the number of hosts
/// is not confirmed.
pub async fn start(
    State(shared): Server,
    operator: Operator,
    JsonBody(mut asked): JsonBody<wire::StartRollout>,
) -> Result<Json<wire::RolloutStarted>, Problem> {
    asked.by = operator.called(&asked.by)?;
    let plan = planned(&shared, &asked, !asked.dry_run)?;
    if asked.dry_run || plan.is_empty() {
        return Ok(Json(started(&plan, None, None)));
    }
    let members: Vec<Arc<HostView>> = shared.registry.read(|view| {
        let found = plan.members().filter_map(|member| view.find(&member.id));
        found.collect()
    });
    if !needs_second(&shared, members.iter().map(|view| &view.host)) {
        let answer = started(&plan, None, None);
        let number = Some(shared.registry.start_rollout(plan).await?);
        return Ok(Json(wire::RolloutStarted { number, ..answer }));
    }
    let goal = match (&asked.image, asked.undo) {
        (Some(image), _) => format!("to {image}"),
        (None, undone) => format!("back, undoing rollout {}", undone.unwrap_or_default()),
    };
    let proposal = Proposal {
        number: 0,
        at: 0,
        kind: ProposalKind::Rollout,
        summary: format!("roll {} hosts {goal}: {}", members.len(), asked.reason),
        hosts: members.len() as u64,
        digest: digest(&plan),
        by: asked.by.clone(),
        by_uid: operator.uid,
        // What was parsed from JSON a moment ago.
        request: serde_json::to_string(&asked).unwrap_or_default(),
    };
    let number = shared.registry.propose(proposal).await?;
    Ok(Json(started(&plan, None, Some(number))))
}

/// Starts what a second person confirms, when it is still the same plan.
pub(super) async fn confirmed(
    shared: &Shared,
    operator: &Operator,
    proposal: &Proposal,
) -> Result<wire::RolloutStarted, Problem> {
    let asked: wire::StartRollout = request_of(proposal)?;
    let mut plan = planned(shared, &asked, false).map_err(|problem| problem.changed(proposal))?;
    if digest(&plan) != proposal.digest {
        let error = format!("it is another plan by now, of {} hosts", plan.members().count());
        return Err(Problem::new(StatusCode::CONFLICT, error).changed(proposal));
    }
    let by = take(shared, operator, proposal).await?;
    plan.request.reason = format!("{} (confirmed by {by})", plan.request.reason);
    let answer = started(&plan, None, None);
    let number = Some(shared.registry.start_rollout(plan).await?);
    Ok(wire::RolloutStarted { number, ..answer })
}

/// The plan of a request on the fleet as it is now.
fn planned(shared: &Shared, asked: &wire::StartRollout, counted: bool) -> Result<Plan, Problem> {
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error);
    let selector = Selector::parse(&asked.select).map_err(|error| bad(format!("the selector: {error}")))?;
    let hosts = selected(shared, &selector);
    let threshold = shared.registry.read(|view| view.policy().expect_above) as usize;
    if counted {
        match select::confirm(hosts.len(), threshold, asked.expect_count) {
            Count::Confirmed => {}
            count => return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, count.to_string())),
        }
    }
    let request = request(shared, asked, &hosts)?;
    plan(shared, &request, &hosts)
}

/// Of what a plan does: which content each host gets in which wave, behind which gate.
fn digest(plan: &Plan) -> String {
    let mut text = format!("{:?}\n", plan.request.gate);
    for wave in &plan.waves {
        text.extend(wave.iter().map(|member| format!("{} {}\n", member.id, member.image.manifest)));
        text.push('\n');
    }
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn started(plan: &Plan, number: Option<u64>, proposal: Option<u64>) -> wire::RolloutStarted {
    wire::RolloutStarted { number, proposal, hosts: plan.members().count(), text: text::text(plan) }
}

fn request(shared: &Shared, asked: &wire::StartRollout, hosts: &[Arc<HostView>]) -> Result<Request, Problem> {
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error);
    let goal = match (&asked.image, asked.undo) {
        (Some(image), None) => Goal::Image(assignable(shared, image, Asker::Many)?),
        (None, Some(of)) => Goal::Former { of },
        _ => return Err(bad("a rollout is of one image, or undoes one rollout".to_string())),
    };
    // The most careful gate of all groups that are in it.
    let group = |host: &Arc<HostView>| shared.registry.read(|view| view.group(&host.host.group)).health;
    let healths: Vec<_> = hosts.iter().map(group).collect();
    let soak = healths.iter().map(|health| health.soak_seconds).max().unwrap_or_default();
    let check = asked.check_url.clone().map(|url| crate::decide::group::Check::Http { url });
    let health_seconds = asked.health_seconds.unwrap_or(Gate::HEALTH_SECONDS);
    if !Gate::HEALTH_SECONDS_RANGE.contains(&health_seconds) {
        let (least, most) = (Gate::HEALTH_SECONDS_RANGE.start(), Gate::HEALTH_SECONDS_RANGE.end());
        return Err(bad(format!("health_seconds is {health_seconds}, and must be {least} to {most}")));
    }
    let gate = Gate {
        confirmed: healths.iter().any(|health| health.confirmed),
        check: check.or_else(|| healths.into_iter().find_map(|health| health.check)),
        soak_seconds: asked.soak_seconds.unwrap_or(soak),
        health_seconds,
    };
    Ok(Request {
        selector: asked.select.clone(),
        goal,
        by: asked.by.clone(),
        reason: one_line(&asked.reason)?,
        canary: asked.canary,
        waves: asked.waves.iter().map(|text| wave_size(text)).collect::<Result<_, _>>().map_err(bad)?,
        spread_percent: asked.spread_percent,
        spread: asked.spread.clone(),
        failures_max: asked.failures_max,
        gate,
    })
}

fn wave_size(text: &str) -> Result<WaveSize, String> {
    let wrong = |_| format!("{text:?} is no size of a wave: a count (5) or a percent (20%)");
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().map(WaveSize::Percent).map_err(wrong),
        None => text.parse().map(WaveSize::Hosts).map_err(wrong),
    }
}

fn plan(shared: &Shared, request: &Request, hosts: &[Arc<HostView>]) -> Result<Plan, Problem> {
    let now = clock::now();
    let refused = |refusal: make::Refusal| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, refusal.to_string());
    let candidates: Vec<Candidate> =
        shared.registry.read(|view| hosts.iter().map(|host| candidate(view, host, request)).collect());
    // Reads in the store: other work goes on meanwhile.
    let candidates = tokio::task::block_in_place(|| sized(shared, candidates, request));
    match &request.goal {
        Goal::Image(image) => {
            let facts = shared.registry.read(|view| view.images().clone());
            let blocked = facts.blocked(&image.name).map(|mark| mark.reason.as_str());
            make::plan(0, request, &candidates, blocked, now).map_err(refused)
        }
        Goal::Former { of } => {
            let rollout = shared.registry.read(|view| view.rollouts().get(of).cloned());
            let rollout = rollout.ok_or(RegistryError::NoRollout(*of))?;
            let facts = shared.registry.read(|view| view.images().clone());
            let blocked = |image: &ImageChoice| {
                let mark = facts.blocked(&image.name).map(|mark| mark.reason.clone());
                mark.or_else(|| facts.refused(&image.name))
            };
            make::rollback(0, request, &rollout.plan, &candidates, blocked, now).map_err(refused)
        }
    }
}

fn candidate(view: &View, host: &Arc<HostView>, request: &Request) -> Candidate {
    let record = &host.host;
    let excluded = match &record.state {
        HostState::Held { .. } | HostState::Failed { .. } => {
            Some(format!("{} {}", record.state.word(), record.state.detail()))
        }
        _ => match &record.order {
            Some(order) => Some(format!("order {} is open", order.generation)),
            None => view.allowed(record).err().map(|deny| deny.to_string()),
        },
    };
    Candidate {
        id: record.id.clone(),
        name: record.name.clone(),
        spread: record.labels.get(&request.spread).map(str::to_string),
        reported: record.reported.clone(),
        whole: record.order.is_none() && record.reported_generation == record.generation,
        excluded,
        fetch_bytes: 0,
    }
}

/// Versions of which it is counted what they have in common with a rollout's image. Each costs a look through the indexes
/// and the extents of both images while somebody waits for the answer. Fleets have a few at a time; the hosts of further
/// ones are shown as if their disks were blank.
const VERSIONS_MAX: usize = 8;

/// With the bytes that each would fetch, as `image plan` counts them: its disk holds what it reports.
fn sized(shared: &Shared, mut candidates: Vec<Candidate>, request: &Request) -> Vec<Candidate> {
    let Goal::Image(image) = &request.goal else { return candidates };
    let to = Version { name: &image.name, manifest: &image.manifest };
    let blank = shared.images.blank_bytes(to).unwrap_or_else(|error| {
        tracing::warn!(image = image.name, reason = causes::in_one_line(&error), "what its hosts fetch is not known");
        0
    });
    let count = |from: &ImageChoice| {
        let version = Version { name: &from.name, manifest: &from.manifest };
        let plan = shared.images.plan_of(Some(version), to, None);
        let bytes = plan.map(|plan| plan.order(is_seed(shared, &from.manifest, to.manifest)).bytes);
        // A version that is no longer in the store: all of it, to be on the safe side.
        bytes.unwrap_or_else(|error| {
            let reason = causes::in_one_line(&error);
            tracing::info!(
                image = image.name,
                from = from.name,
                reason,
                "its hosts count as if their disks were blank"
            );
            blank
        })
    };
    // Few versions, many hosts.
    let mut known: BTreeMap<String, u64> = BTreeMap::new();
    for candidate in &mut candidates {
        candidate.fetch_bytes = match &candidate.reported {
            Some(from) => match known.get(&from.manifest) {
                Some(bytes) => *bytes,
                None if known.len() == VERSIONS_MAX => blank,
                None => {
                    let bytes = count(from);
                    known.insert(from.manifest.clone(), bytes);
                    bytes
                }
            },
            None => blank,
        };
    }
    candidates
}

/// `GET /v1/rollouts`.
pub async fn list(State(shared): Server) -> Json<Vec<wire::Rollout>> {
    let now = clock::now();
    Json(shared.registry.read(|view| view.rollouts().values().map(|rollout| shown(view, rollout, now)).collect()))
}

/// `GET /v1/rollouts/{number}`.
///
/// # Errors
/// 404.
pub async fn show(State(shared): Server, Path(number): Path<u64>) -> Result<Json<wire::Rollout>, Problem> {
    let now = clock::now();
    let found = shared.registry.read(|view| {
        let rollout = view.rollouts().get(&number)?;
        let (plan, outcomes) = (Some(text::text(&rollout.plan)), outcomes(rollout));
        Some(wire::Rollout { plan, outcomes, ..shown(view, rollout, now) })
    });
    Ok(Json(found.ok_or(RegistryError::NoRollout(number))?))
}

/// `POST /v1/rollouts/{number}/{pause|resume|abort}`.
///
/// # Errors
/// 400 without a reason; 404; 409 when it is over.
pub async fn command(
    State(shared): Server,
    Path((number, verb)): Path<(u64, String)>,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::ByAndWhy>,
) -> Result<StatusCode, Problem> {
    let (by, reason) = (operator.called(&asked.by)?, one_line(&asked.reason)?);
    tracing::info!(rollout = number, verb, by, reason, "an operator's word on a rollout");
    let command = match verb.as_str() {
        "pause" => RolloutCommand::Pause { by, reason },
        "resume" => RolloutCommand::Resume,
        "abort" => RolloutCommand::Abort { by, reason },
        other => return Err(Problem::new(StatusCode::NOT_FOUND, format!("a rollout cannot {other:?}"))),
    };
    shared.registry.command_rollout(number, command).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(view: &View, rollout: &Rollout, now: u64) -> wire::Rollout {
    let (plan, progress) = (&rollout.plan, &rollout.progress);
    let views: BTreeMap<&str, Arc<HostView>> =
        plan.members().filter_map(|member| Some((member.id.as_str(), view.find(&member.id)?))).collect();
    let facts = |id: &str| views.get(id).map(|view| host_facts(&view.host, plan.number, None));
    let waits = waiting(plan, progress, facts, now).iter().map(|one| one.line(now)).collect();
    let detail = match &progress.stage {
        Stage::Running | Stage::Done { .. } => String::new(),
        Stage::Paused { by, reason, .. } | Stage::Aborted { by, reason, .. } => format!("by {by}: {reason}"),
        Stage::Halted { reason, .. } => reason.to_string(),
    };
    wire::Rollout {
        number: plan.number,
        stage: progress.stage.word().to_string(),
        detail,
        selector: plan.request.selector.clone(),
        goal: match &plan.request.goal {
            Goal::Image(image) => image.name.clone(),
            Goal::Former { of } => format!("undoes {of}"),
        },
        by: plan.request.by.clone(),
        reason: plan.request.reason.clone(),
        made_at: plan.made_at,
        wave: (progress.wave + 1).min(plan.waves.len()),
        waves: plan.waves.len(),
        hosts: plan.members().count(),
        asked: progress.seats.len(),
        healthy: progress.healthy,
        failed: progress.failures(),
        waits,
        outcomes: Vec::new(),
        plan: None,
    }
}

/// Why a rollout halted is one number; these are the sentences behind it.
fn outcomes(rollout: &Rollout) -> Vec<wire::HostOutcome> {
    let outcome = |member: &Member| {
        let (outcome, reason) = match &rollout.progress.seats.get(&member.id)?.ask {
            Ask::Failed { reason, .. } => ("failed", reason),
            Ask::LeftOut { reason } => ("left out", reason),
            Ask::Asked { .. } | Ask::Found => return None,
        };
        let (id, name) = (member.id.clone(), member.name.clone());
        Some(wire::HostOutcome { id, name, outcome: outcome.to_string(), reason: reason.clone() })
    };
    rollout.plan.members().filter_map(outcome).collect()
}
