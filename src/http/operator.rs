//! The operator API, on the Unix socket.

use super::Shared;
use super::body::JsonBody;
use super::operator_list::stuck;
use super::peer::Operator;
use super::problem::Problem;
use crate::clock;
use crate::decide::cause::{Cause, CauseKind};
use crate::decide::host::{Event, ImageChoice, State as HostState};
use crate::decide::version::{self, Asker};
use crate::registry::{HostView, RegistryError, history};
use crate::wire::operator as wire;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use std::sync::Arc;

type Server = State<Arc<Shared>>;

/// `GET /v1/hosts/{id}`.
///
/// # Errors
/// 404.
pub async fn host_show(State(shared): Server, Path(id): Path<String>) -> Result<Json<wire::Host>, Problem> {
    let view = shared.registry.find(&id).ok_or(RegistryError::UnknownHost(id))?;
    let mut host = shown(&shared, &view);
    if let Some(asked) = host.verify.as_mut().and_then(|verify| verify.asked.as_mut()) {
        let waits = shared.registry.read(|all| all.look_waits(&view.host, clock::now()));
        asked.waits = waits.map(|wait| wait.to_string());
    }
    Ok(Json(host))
}

/// `GET /v1/hosts/{id}/history`: an array, oldest line first.
///
/// # Errors
/// 404, 503.
pub async fn host_history(
    State(shared): Server,
    Path(id): Path<String>,
) -> Result<Json<Vec<wire::HistoryLine>>, Problem> {
    let lines = shared.registry.history(&id).await?;
    Ok(Json(lines.into_iter().map(history_line).collect()))
}

/// `POST /v1/hosts/{id}/approve`.
///
/// # Errors
/// 404 for host or image, 409 with the reason.
pub async fn host_approve(
    State(shared): Server,
    Path(id): Path<String>,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::Approve>,
) -> Result<Json<wire::Host>, Problem> {
    let by = operator.called(&asked.by)?;
    let view = shared.registry.find(&id).ok_or_else(|| RegistryError::UnknownHost(id.clone()))?;
    if shared.registry.read(|all| all.group(&view.host.group)).confirm {
        let error = format!(
            "group {} wants a second person: name the host in a document (`regild apply`), then `regild host reimage`",
            view.host.group
        );
        return Err(Problem::new(StatusCode::CONFLICT, error));
    }
    let image = assignable(&shared, &asked.image, Asker::NamedHosts { have_it: false })?;
    let cause = Cause {
        image: Some(image),
        releases_disk: asked.release_disk,
        ..Cause::new(CauseKind::Operator, "first image", &by, clock::now())
    };
    moved(&shared, &id, Event::Approve { cause }).await
}

/// `POST /v1/hosts/{id}/hold`.
///
/// # Errors
/// 404; 400 without a reason or with an end that is past.
pub async fn host_hold(
    State(shared): Server,
    Path(id): Path<String>,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::Hold>,
) -> Result<Json<wire::Host>, Problem> {
    if asked.until.is_some_and(|until| until <= clock::now()) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the end of the hold has passed already"));
    }
    let event = Event::Hold { by: operator.called(&asked.by)?, reason: one_line(&asked.reason)?, until: asked.until };
    moved(&shared, &id, event).await
}

/// `POST /v1/hosts/{id}/release`.
///
/// # Errors
/// 404; 409 when the host is neither held nor failed.
pub async fn host_release(
    State(shared): Server,
    Path(id): Path<String>,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::Release>,
) -> Result<Json<wire::Host>, Problem> {
    moved(&shared, &id, Event::Release { by: operator.called(&asked.by)? }).await
}

/// `DELETE /v1/hosts/{id}`: forgets a machine; when it netboots again it is Discovered and boots its disk.
///
/// # Errors
/// 404; 409 while an order is open, and for a protected host, which would come back without its protection.
pub async fn host_remove(
    State(shared): Server,
    Path(id): Path<String>,
    operator: Operator,
) -> Result<StatusCode, Problem> {
    let by = operator.called("")?;
    shared.registry.remove(&id, &by).await?;
    tracing::warn!(host = id, by, "an operator removed the host's record");
    Ok(StatusCode::NO_CONTENT)
}

async fn moved(shared: &Shared, id: &str, event: Event) -> Result<Json<wire::Host>, Problem> {
    let view = shared.registry.host_event(id, event).await?;
    Ok(Json(shown(shared, &view)))
}

/// Resolves a name to one immutable content now: what a host is ordered to run cannot change afterwards.
pub(super) fn image_choice(shared: &Shared, name: &str) -> Result<ImageChoice, Problem> {
    let manifest = super::images::manifest_of(shared, name)?;
    Ok(ImageChoice { name: name.to_string(), manifest })
}

/// As [`image_choice`], of a version that may be given to those who ask.
pub(super) fn assignable(shared: &Shared, name: &str, asker: Asker) -> Result<ImageChoice, Problem> {
    let choice = image_choice(shared, name)?;
    let facts = shared.registry.read(|view| view.images().clone());
    if let Some(mark) = facts.blocked(name) {
        return Err(RegistryError::ImageBlocked { image: mark.image.clone(), reason: mark.reason.clone() }.into());
    }
    let stage = version::refuses(facts.stage(name), asker).map(|why| format!("{name} {why}"));
    match stage.or_else(|| facts.refused(name)) {
        Some(why) => Err(RegistryError::ImageRefused(why).into()),
        None => Ok(choice),
    }
}

/// Reasons and names go into history and logs: one line, not empty, of a bounded length.
pub(super) fn one_line(text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > 200 || text.chars().any(char::is_control) {
        let error = "a name or reason must be one line of 1 to 200 characters; history is kept for ever";
        return Err(Problem::new(StatusCode::BAD_REQUEST, error));
    }
    Ok(text.to_string())
}

pub(super) fn shown(shared: &Shared, view: &HostView) -> wire::Host {
    let host = &view.host;
    let busy = matches!(host.state, HostState::Deploying(_) | HostState::Verifying);
    let registry = &shared.registry;
    let progress = registry.progress(&host.id).filter(|_| busy);
    // Once: a list of a large fleet comes by here for each of its hosts.
    let (power, agent_heard_at, stuck) = registry.read(|all| {
        let stuck = stuck(all, view, |id| registry.progress(id), clock::now());
        (all.driver(view).to_string(), all.agent_heard(&host.id), stuck)
    });
    wire::Host {
        id: host.id.clone(),
        macs: host.macs.iter().map(ToString::to_string).collect(),
        name: host.name.clone(),
        state: host.state.word().to_string(),
        detail: host.state.detail(),
        group: host.group.clone(),
        desired: host.desired.as_ref().map(|image| image.name.clone()),
        reported: host.reported.as_ref().map(|image| image.name.clone()),
        generation: host.generation,
        reported_generation: host.reported_generation,
        since: host.since,
        order: host.order.as_ref().map(|order| wire::Order {
            generation: order.generation,
            reason: order.reason().to_string(),
            by: order.by().to_string(),
            opened_at: order.opened_at,
            attempts: order.attempts,
            power_cycles: order.power_cycles,
            blocked: order.blocked.clone(),
            causes: order.causes.iter().map(shown_cause).collect(),
        }),
        labels: host.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        asks: host.asks.iter().map(shown_cause).collect(),
        waits: view.waits.clone(),
        built_at: host.built_at,
        progress: progress.map(|seen| wire::ProgressView { progress: seen.progress, rate_bytes: seen.rate_bytes }),
        system_uuid: host.system_uuid.clone(),
        serial: host.serial.clone(),
        power,
        agent_heard_at,
        disks: view.inventory.as_ref().map(|packed| packed.unpacked().disks).unwrap_or_default(),
        verify: super::operator_verify::shown(host),
        stuck,
    }
}

fn shown_cause(cause: &Cause) -> wire::Cause {
    wire::Cause {
        kind: cause.kind.word().to_string(),
        reason: cause.reason.clone(),
        by: cause.by.clone(),
        at: cause.at,
        image: cause.image.as_ref().map(|image| image.name.clone()),
    }
}

pub(super) fn history_line(line: history::Line) -> wire::HistoryLine {
    wire::HistoryLine {
        number: line.number,
        at: line.at,
        generation: line.generation,
        from: line.from,
        to: line.to,
        cause: line.cause,
        actor: line.actor,
    }
}
