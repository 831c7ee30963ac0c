//! What the agent and the installed system say.
//!
//! All of it is hostile text (rule 10): sizes are cut, control characters dropped, MACs parsed, and an
//! agent may speak only with the token of the latest attempt or the session that claimed it.

use super::Shared;
use super::body::JsonBody;
use super::listen::Peer;
use super::problem::Problem;
use crate::decide::host::{AgentWord, Event, Host, Identity, Refusal};
use crate::registry::{HostView, RegistryError};
use crate::wire::agent::{self as wire, CheckIn, Job, PROTOCOL, Report, ReportAnswer};
use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;

/// Longest text that is kept of anything a machine says.
const TEXT_CHARS_MAX: usize = 200;
const DISKS_MAX: usize = 64;
const MACS_MAX: usize = 32;
const LISTING_LINES_MAX: usize = 32;

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
    let inventory = cleaned(said.inventory);
    let identity = Identity {
        macs: inventory.macs.iter().filter_map(|mac| mac.parse().ok()).collect(),
        system_uuid: inventory.system_uuid.clone(),
        serial: inventory.serial.clone(),
    };
    let event = Event::CheckedIn {
        generation: said.generation,
        token_digest: digest(&said.token),
        session_digest: digest(&said.session),
        identity,
    };
    let view = shared.registry.check_in(known(&shared, &said.host)?, event, inventory).await.map_err(unauthorised)?;
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
    // What is over is noted under a stop, too.
    let is_over = matches!(said.event, wire::Event::Verified { .. } | wire::Event::Failed { .. });
    let stopped = shared.registry.stop_switch().pressed().filter(|stop| stop.running_too && !is_over);
    if let Some(stop) = stopped {
        return Ok(Json(ReportAnswer { go_on: false, reason: Some(format!("stopped {}", stop.sentence())) }));
    }
    let session_digest = digest(&said.session);
    let word = match said.event {
        wire::Event::Progress { progress } => {
            let view = shared.registry.find(id).ok_or_else(|| RegistryError::UnknownHost(id.to_string()))?;
            return Ok(Json(match progress_allowed(&view, said.generation, &session_digest) {
                Ok(()) => {
                    shared.registry.note_progress(&view.host.id, progress);
                    ReportAnswer { go_on: true, reason: None }
                }
                Err(refusal) => ReportAnswer { go_on: false, reason: Some(refusal.to_string()) },
            }));
        }
        wire::Event::Step { step } => AgentWord::Step(step.into()),
        wire::Event::Target { disk } => AgentWord::Target(disk_id(clean_disk(disk))),
        wire::Event::Verified { disk } => AgentWord::Verified(disk.into()),
        wire::Event::Failed { step, reason, listing } => {
            let lines = listing.iter().take(LISTING_LINES_MAX).map(|line| clean(line)).collect::<Vec<_>>();
            let reason = [vec![clean(&reason)], lines].concat().join("; ");
            tracing::warn!(host = id, %reason, "the agent gave up");
            AgentWord::Failed { step: step.into(), reason }
        }
    };
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
    let event = Event::Installed { image: clean(&said.image) };
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

fn digest(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

/// One line of printable text, cut to a length that fits records and logs.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

fn clean_option(text: Option<String>) -> Option<String> {
    text.map(|text| clean(text.trim())).filter(|text| !text.is_empty())
}

fn clean_disk(disk: wire::Disk) -> wire::Disk {
    wire::Disk {
        name: clean(&disk.name),
        serial: clean_option(disk.serial),
        wwn: clean_option(disk.wwn),
        model: clean_option(disk.model),
        transport: clean(&disk.transport),
        content: clean_option(disk.content),
        ..disk
    }
}

fn disk_id(disk: wire::Disk) -> crate::decide::host::DiskId {
    crate::decide::host::DiskId { serial: disk.serial, wwn: disk.wwn, size_bytes: disk.size_bytes }
}

fn cleaned(inventory: wire::Inventory) -> wire::Inventory {
    wire::Inventory {
        system_uuid: clean_option(inventory.system_uuid).map(|uuid| uuid.to_lowercase()),
        serial: clean_option(inventory.serial),
        product: clean_option(inventory.product),
        macs: inventory.macs.into_iter().take(MACS_MAX).map(|mac| clean(&mac)).collect(),
        disks: inventory.disks.into_iter().take(DISKS_MAX).map(clean_disk).collect(),
    }
}
