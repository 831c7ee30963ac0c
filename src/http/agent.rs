//! What the agent and the installed system say.
//!
//! All of it is hostile text (rule 10) until [`said`] has cleaned it, and an agent may speak only with the token of
//! the latest attempt or the session that claimed it.

use super::Shared;
use super::body::JsonBody;
use super::listen::Peer;
use super::problem::Problem;
use super::said::{self, Said};
use crate::decide::host::{AgentWord, Event, Host, Refusal};
use crate::registry::{HostView, RegistryError};
use crate::wire::agent::{CheckIn, Job, PROTOCOL, Report, ReportAnswer};
use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;

/// `POST /agent/v1/checkin`.
///
/// # Errors
/// 401 for a token or session that is not the latest attempt's, 404 for no such host, 409 when the order is
/// over or another machine answers, 426 for another protocol.
pub async fn check_in(
    State(shared): State<Arc<Shared>>,
    JsonBody(said): JsonBody<CheckIn>,
) -> Result<Json<Job>, Problem> {
    same_protocol(said.protocol)?;
    let id = known(&shared, &said.host)?.to_owned();
    let (event, inventory) = said::check_in(said);
    let view = shared.registry.check_in(&id, event, inventory).await.map_err(unauthorised)?;
    job(&shared, &view.host).map(Json)
}

/// What the agent of this host is to do, from its open order.
fn job(shared: &Shared, host: &Host) -> Result<Job, Problem> {
    let gone = || Problem::new(StatusCode::CONFLICT, Refusal::NoOpenOrder.to_string());
    let order = host.order.as_ref().ok_or_else(gone)?;
    let image = host.desired.as_ref().ok_or_else(gone)?;
    Ok(Job {
        protocol: PROTOCOL,
        host: host.id.clone(),
        generation: order.generation,
        attempt: order.attempts,
        image: image.name.clone(),
        manifest: image.manifest.clone(),
        disk_rule: shared.config.disk_rules.get(&host.group).cloned().unwrap_or_default(),
        own_disk: host.own_disk.clone().map(Into::into),
        foreign_released: order.foreign_released,
    })
}

/// `POST /agent/v1/report`. The answer says whether the order is still open; the agent stops when it is not.
///
/// # Errors
/// As [`check_in`]; 503 when the store cannot take the report now, and the agent says it again.
pub async fn report(
    State(shared): State<Arc<Shared>>,
    JsonBody(said): JsonBody<Report>,
) -> Result<Json<ReportAnswer>, Problem> {
    same_protocol(said.protocol)?;
    let id = known(&shared, &said.host)?;
    let session_digest = said::digest(&said.session);
    let word = match said::report(said.event) {
        Said::Progress(progress) => {
            let view = shared.registry.find(id).ok_or_else(|| RegistryError::UnknownHost(id.to_string()))?;
            return Ok(Json(match progress_allowed(&view, said.generation, &session_digest) {
                Ok(()) => {
                    shared.registry.note_progress(&view.host.id, progress);
                    ReportAnswer { go_on: true, reason: None }
                }
                Err(refusal) => ReportAnswer { go_on: false, reason: Some(refusal.to_string()) },
            }));
        }
        Said::Word(word) => word,
    };
    if let AgentWord::Failed { reason, .. } = &word {
        tracing::warn!(host = id, %reason, "the agent gave up");
    }
    let event = Event::Agent { generation: said.generation, session_digest, word };
    match shared.registry.host_event(id, event).await {
        Ok(_) => Ok(Json(ReportAnswer { go_on: true, reason: None })),
        Err(RegistryError::Refused(refusal)) => {
            Ok(Json(ReportAnswer { go_on: false, reason: Some(refusal.to_string()) }))
        }
        Err(error) => Err(error.into()),
    }
}

fn progress_allowed(view: &HostView, generation: u64, session_digest: &str) -> Result<(), Refusal> {
    let order = view.host.order.as_ref().ok_or(Refusal::NoOpenOrder)?;
    if order.generation != generation {
        return Err(Refusal::WrongGeneration { asked: generation, open: order.generation });
    }
    if order.is_claimed_by(session_digest) { Ok(()) } else { Err(Refusal::SessionUnknown) }
}

/// What an installed system says of itself.
#[derive(Debug, Deserialize)]
pub struct Installed {
    pub mac: String,
    /// `NAME:VERSION`.
    pub image: String,
}

/// `POST /agent/v1/installed`: the word that turns Ready into confirmed. It is believed only from the address
/// that is leased to the MAC it names.
///
/// # Errors
/// 400, 403 (address not leased to the MAC), 404, 409 (another image than the one that was written).
pub async fn installed(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    JsonBody(said): JsonBody<Installed>,
) -> Result<&'static str, Problem> {
    let mac = said.mac.parse().map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))?;
    if shared.lease_holder(peer) != Some(mac) {
        let error = format!("{} is not leased to {mac}", peer.remote.ip());
        return Err(Problem::new(StatusCode::FORBIDDEN, error));
    }
    let host = shared.registry.read(|view| view.by_mac(mac));
    let host = host.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("{mac} is not known")))?;
    let event = Event::Installed { image: said::text(&said.image) };
    shared.registry.host_event(&host.host.id, event).await?;
    Ok("noted\n")
}

fn same_protocol(theirs: u32) -> Result<(), Problem> {
    if theirs == PROTOCOL {
        return Ok(());
    }
    let error =
        format!("the agent speaks protocol {theirs}, this server {PROTOCOL}; rebuild the boot assets (`make assets`)");
    Err(Problem::new(StatusCode::UPGRADE_REQUIRED, error))
}

/// The id as we know it; what a machine sends is looked up, never used as a key.
fn known<'a>(shared: &Shared, host: &'a str) -> Result<&'a str, Problem> {
    match shared.registry.find(host) {
        Some(view) if view.host.id == host => Ok(host),
        _ => Err(Problem::new(StatusCode::NOT_FOUND, "there is no such host")),
    }
}

fn unauthorised(error: RegistryError) -> Problem {
    match error {
        RegistryError::Refused(refusal @ (Refusal::TokenUnknown | Refusal::TokenClaimed | Refusal::SessionUnknown)) => {
            Problem::new(StatusCode::UNAUTHORIZED, refusal.to_string())
        }
        other => other.into(),
    }
}
