//! What the agent and the installed system say.
//!
//! All of it is hostile text (rule 10) until [`said`] has cleaned it, and an agent may speak only with the token of
//! the latest attempt or the session that claimed it, and only from the address that is leased to its host. Of tokens
//! and sessions only digests are kept and compared, so how long a comparison takes tells nothing about either.

use super::Shared;
use super::body::{self, JsonBody};
use super::host_baseline::{self, Wishes};
use super::listen::Peer;
use super::problem::Problem;
use super::said::{self, Said};
use crate::decide::host::{AgentWord, Event, Host, Refusal, is_seed_of, seed};
use crate::registry::{HostView, RegistryError};
use crate::wire::agent::{CheckIn, Event as AgentEvent, Job, PROTOCOL, Report, ReportAnswer};
use axum::extract::{ConnectInfo, FromRequest, Request, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// What an agent says, in our protocol.
///
/// The protocol is looked at before all else: an agent of another version is told so, instead of what its fields
/// look like to this one.
#[derive(Debug)]
pub struct AgentBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for AgentBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        /// What every version says, beside what we do not know.
        #[derive(Deserialize)]
        struct Spoken {
            protocol: u32,
        }
        let bytes = body::read(request, state).await?;
        if let Ok(Spoken { protocol }) = serde_json::from_slice(&bytes) {
            same_protocol(protocol)?;
        }
        body::parse(&bytes).map(AgentBody)
    }
}

/// `POST /agent/v1/checkin`.
///
/// # Errors
/// 401 for a token or session that is not the latest attempt's, and from an address that is not leased to the host;
/// 409 when the order is over or another machine answers, 426 for another protocol, 429 after too many of these.
pub async fn check_in(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    AgentBody(said): AgentBody<CheckIn>,
) -> Result<Json<Job>, Problem> {
    // The script went to the address that is leased to the host's MAC, and so does the job. The lease is fresh: the
    // deploy environment has renewed it a moment ago, on the NIC that the script names (BOOTIF).
    match speaker(&shared, peer) {
        Speaker::Host(id) if id == said.host => {}
        _ => return Err(foreign_address(peer, &said.host)),
    }
    let id = said.host.clone();
    let (event, inventory) = said::check_in(said);
    let checked_in = shared.registry.check_in(&id, event, inventory).await;
    if let Err(RegistryError::Refused(Refusal::TokenClaimed)) = &checked_in {
        // Two machines with one MAC, or somebody who read the script on its way: a person must look.
        tracing::warn!(host = id, peer = %peer.remote, "a second claimant of an order was refused");
    }
    let view = checked_in.map_err(unauthorised)?;
    job(&shared, &view.host).map(Json)
}

/// What the agent of this host is to do, from its open order.
fn job(shared: &Shared, host: &Host) -> Result<Job, Problem> {
    let gone = || Problem::new(StatusCode::CONFLICT, Refusal::NoOpenOrder.to_string());
    let order = host.order.as_ref().ok_or_else(gone)?;
    let image = &order.image;
    Ok(Job {
        protocol: PROTOCOL,
        host: host.id.clone(),
        generation: order.generation,
        attempt: order.attempts,
        image: image.name.clone(),
        manifest: image.manifest.clone(),
        disk_rule: shared.registry.read(|view| view.group(&host.group)).disk.into(),
        own_disk: host.own_disk.clone().map(Into::into),
        foreign_released: order.foreign_released,
        seed: seed(host, |from, to| is_seed(shared, from, to)).map(|image| image.manifest.clone()),
    })
}

/// Whether an order for the manifest `to` gives its agent `from`, which is on the disk.
pub(super) fn is_seed(shared: &Shared, from: &str, to: &str) -> bool {
    let is_served = || shared.upkeep.may_serve(&shared.config.upkeep, from) && shared.images.has_manifest(from);
    is_seed_of(from, to, is_served)
}

/// `POST /agent/v1/report`. The answer says whether the order is still open; the agent stops when it is not.
///
/// # Errors
/// As [`check_in`]; 503 when the store cannot take the report now, and the agent says it again.
pub async fn report(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Extension(wishes): Extension<Arc<Wishes>>,
    AgentBody(said): AgentBody<Report>,
) -> Result<Json<ReportAnswer>, Problem> {
    let id = said.host.as_str();
    let view = shared.registry.find(id).filter(|view| view.host.id == id);
    // Weaker than for the check-in, on purpose: a deploy can outlast its lease (nothing renews it), and one that is
    // half done must not be lost because the server restarted meanwhile and knows nobody at that address. It has
    // its session's secret; who has not, hears no more than that the address is wrong.
    let is_leased = match speaker(&shared, peer) {
        Speaker::Host(leased) if leased == id => true,
        Speaker::Unknown => false,
        Speaker::Host(_) | Speaker::Stranger => return Err(foreign_address(peer, id)),
    };
    let view = view.ok_or_else(|| foreign_address(peer, id))?;
    let over = |refusal: Refusal| match refusal {
        _ if !is_leased => Err(foreign_address(peer, id)),
        Refusal::SessionUnknown => Err(unauthorised(RegistryError::Refused(refusal))),
        // Our own agent, whose order was closed: it stops before its next write.
        other => Ok(Json(ReportAnswer { go_on: false, reason: Some(other.to_string()), baseline_seconds: None })),
    };
    // What is over is noted under a stop, too.
    let is_over = matches!(said.event, AgentEvent::Verified { .. } | AgentEvent::Failed { .. });
    let stopped = shared.registry.stop_switch().pressed().filter(|stop| stop.running_too && !is_over);
    let session_digest = said::digest(&said.session);
    // Also an agent whose lease ran out while it writes; who has neither lease nor session hears nothing of it.
    let is_ours = || is_leased || progress_allowed(&view, said.generation, &session_digest).is_ok();
    if let Some(stop) = stopped.filter(|_| is_ours()) {
        return Ok(Json(ReportAnswer {
            go_on: false,
            reason: Some(format!("stopped {}", stop.sentence())),
            baseline_seconds: None,
        }));
    }
    let is_verified = matches!(said.event, AgentEvent::Verified { .. });
    let word = match said::report(said.event) {
        Said::Progress(progress) => {
            if let Err(refusal) = progress_allowed(&view, said.generation, &session_digest) {
                return over(refusal);
            }
            shared.registry.note_progress(id, progress);
            return Ok(Json(ReportAnswer { go_on: true, reason: None, baseline_seconds: None }));
        }
        Said::Word(word) => word,
    };
    let gave_up = if let AgentWord::Failed { reason, .. } = &word { Some(reason.clone()) } else { None };
    // A repeated word of success is believed without its session, and asks nobody for anything.
    let is_sessions = progress_allowed(&view, said.generation, &session_digest).is_ok();
    let event = Event::Agent { generation: said.generation, session_digest: session_digest.clone(), word };
    match shared.registry.host_event(id, event).await {
        Ok(view) => {
            if let Some(reason) = gave_up {
                tracing::warn!(host = id, %reason, "the agent gave up");
            }
            let baseline_seconds = match is_verified {
                true => host_baseline::ask(&shared, &wishes, &view, &session_digest, is_sessions).await,
                false => None,
            };
            Ok(Json(ReportAnswer { go_on: true, reason: None, baseline_seconds }))
        }
        Err(RegistryError::Refused(refusal)) => over(refusal),
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

pub(super) fn same_protocol(theirs: u32) -> Result<(), Problem> {
    if theirs == PROTOCOL {
        return Ok(());
    }
    let error =
        format!("the agent speaks protocol {theirs}, this server {PROTOCOL}; rebuild the boot assets (`make assets`)");
    Err(Problem::new(StatusCode::UPGRADE_REQUIRED, error))
}

/// Who speaks, as far as the address tells.
pub(super) enum Speaker {
    /// The address is leased to a MAC of this host.
    Host(String),
    /// It is leased to a machine that is no host.
    Stranger,
    /// It is leased to nobody that we know of.
    Unknown,
}

pub(super) fn speaker(shared: &Shared, peer: Peer) -> Speaker {
    let Some(mac) = shared.lease_holder(peer) else { return Speaker::Unknown };
    match shared.registry.read(|view| view.by_mac(mac)) {
        Some(view) => Speaker::Host(view.host.id.clone()),
        None => Speaker::Stranger,
    }
}

/// The same words whether there is such a host or not: nobody learns from us which machines there are.
pub(super) fn foreign_address(peer: Peer, host: &str) -> Problem {
    let address = peer.remote.ip();
    tracing::debug!(%address, host = said::text(host), "an agent's words from an address that is not its host's");
    Problem::new(StatusCode::UNAUTHORIZED, format!("{address} is not leased to a NIC of that host"))
}

pub(super) fn unauthorised(error: RegistryError) -> Problem {
    match error {
        RegistryError::Refused(refusal @ (Refusal::TokenUnknown | Refusal::TokenClaimed | Refusal::SessionUnknown)) => {
            Problem::new(StatusCode::UNAUTHORIZED, refusal.to_string())
        }
        other => other.into(),
    }
}
