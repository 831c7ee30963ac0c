//! Drift, for the agent of an installed system: what to compare with, its key, its reports.
//!
//! Terms and key are for whom the address is leased to. A report is believed for its signature alone: the agent may sit
//! behind a relay or have another address by now. Like the standby's, these words have no version, so a field that is not
//! known here is passed over; everything else is as strict as ever.

use super::Shared;
use super::listen::Peer;
use super::problem::Problem;
use super::{body, drift_image, said};
use crate::clock;
use crate::decide::host::{Host, VerifyNumber};
use crate::registry::drift::DriftRefusal;
use crate::registry::{HostView, RegistryError};
use crate::wire::drift::{KeyTaken, NewKey, REPORT_BYTES_MAX, Received, Report, SIGNED_FOR, Signed, Terms};
use crate::wire::manifest::{from_hex, to_hex};
use axum::Json;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// A payload inside JSON: each of its quotes and backslashes may be escaped.
pub const REPORT_BODY_BYTES_MAX: usize = 2 * REPORT_BYTES_MAX + 4096;

/// `GET /agent/v1/drift/terms`.
///
/// # Errors
/// 403 (an address that is leased to nobody), 404 (to a machine that is no host, or runs no image of ours).
pub async fn terms(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Result<Json<Terms>, Problem> {
    let view = asker(&shared, peer)?;
    terms_of(&shared, &view.host).await.map(Json)
}

/// What a host is compared with, by its own agent or from outside.
///
/// # Errors
/// 404: it runs no image of ours.
pub(super) async fn terms_of(shared: &Arc<Shared>, host: &Host) -> Result<Terms, Problem> {
    let nothing = || Problem::new(StatusCode::NOT_FOUND, DriftRefusal::NotBuilt.to_string());
    let image = host.reported.clone().ok_or_else(nothing)?;
    let baseline = drift_image::baseline_of(shared, &image.manifest).await;
    let now = clock::now();
    let (rules, watched) =
        shared.registry.read(|all| (all.drift_rules(host, now), all.drift().host(&host.id).cloned()));
    let watched = watched.filter(|watched| watched.generation == host.reported_generation);
    let (baseline, reason) = match baseline {
        Ok(known) => (Some(known.digest), String::new()),
        Err(reason) => (None, reason),
    };
    Ok(Terms {
        host: host.id.clone(),
        generation: host.reported_generation,
        image: image.name,
        manifest: image.manifest,
        baseline,
        reason,
        key: watched.as_ref().and_then(|watched| watched.key.as_ref()).map(to_hex),
        sequence: watched.map_or(0, |watched| watched.sequence),
        policy: rules.digest.clone(),
        rules: rules.words.clone(),
        scan_seconds: rules.pace.scan_seconds,
        cycle_seconds: rules.pace.cycle_seconds,
        report_seconds: rules.pace.report_seconds,
    })
}

/// `POST /agent/v1/drift/key`: once for each generation.
///
/// # Errors
/// 400; 403 (an address that is leased to nobody), 401 (to another host), 404; 409 with the reason; 422 for no key.
pub async fn key(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Result<Json<KeyTaken>, Problem> {
    let said: NewKey = lenient(&body::read(request, &()).await?)?;
    let view = asker(&shared, peer)?;
    if view.host.id != said.host {
        let error = format!("{} is not the address of that host", peer.remote.ip());
        return Err(Problem::new(StatusCode::UNAUTHORIZED, error));
    }
    let no_key = || Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "public_key is not an ed25519 key in hex");
    let key = from_hex(&said.public_key).ok_or_else(no_key)?;
    // A weak key signs anything, for anybody.
    let checked = VerifyingKey::from_bytes(&key).ok().filter(|key| !key.is_weak());
    checked.ok_or_else(no_key)?;
    let sequence = shared.registry.enrol_drift_key(&view.host.id, said.generation, key).await?;
    Ok(Json(KeyTaken { sequence }))
}

/// `POST /agent/v1/drift/report`.
///
/// # Errors
/// 400; 401 for a signature that is not by the key of the host's generation; 409 for one that was taken before, is about
/// another generation or baseline, or refers to findings that are not known here; 413; 422 for one that means nothing.
pub async fn report(State(shared): State<Arc<Shared>>, request: Request) -> Result<Json<Received>, Problem> {
    let signed: Signed = lenient(&body::read(request, &()).await?)?;
    if signed.payload.len() > REPORT_BYTES_MAX {
        let error = format!("the report has {} bytes; at most {REPORT_BYTES_MAX}", signed.payload.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, error));
    }
    let (view, key) = signer(&shared, &signed)?;
    let report: Report = lenient(signed.payload.as_bytes())?;
    let digest = *blake3::hash(signed.payload.as_bytes()).as_bytes();
    compared_with_its_image(&shared, &view, &report).await?;
    let policy = report.policy.clone();
    let sequence = shared.registry.take_drift_report(&view.host.id, key, digest, report).await?;
    let terms_changed = shared.registry.read(|all| all.drift_rules(&view.host, clock::now()).digest != policy);
    Ok(Json(Received { sequence, terms_changed }))
}

/// What the deploy environment saw from outside, under the session of the host's own agent: checked as a report from
/// inside is, but for the signature.
///
/// # Errors
/// As for a report.
pub async fn report_from_outside(
    shared: &Arc<Shared>,
    view: &HostView,
    number: VerifyNumber,
    report: Report,
) -> Result<(), Problem> {
    compared_with_its_image(shared, view, &report).await?;
    Ok(shared.registry.take_outside_report(&view.host.id, number, report).await?)
}

/// The host whose address asks.
fn asker(shared: &Shared, peer: Peer) -> Result<Arc<HostView>, Problem> {
    let address = peer.remote.ip();
    let mac = shared.lease_holder(peer);
    let mac = mac.ok_or_else(|| Problem::new(StatusCode::FORBIDDEN, format!("{address} is leased to nobody")))?;
    let known = shared.registry.read(|all| all.by_mac(mac));
    known.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("{mac} is not known")))
}

/// Who a report says it is from. The rest of it is not looked at before its signature was.
#[derive(Deserialize)]
struct From {
    host: String,
}

/// The host that signed, and its key. A host that is not there, or has no key, is answered like a wrong signature.
fn signer(shared: &Shared, signed: &Signed) -> Result<(Arc<HostView>, [u8; 32]), Problem> {
    let from: From = lenient(signed.payload.as_bytes())?;
    let wrong = || Problem::from(RegistryError::from(DriftRefusal::WrongKey));
    let known = shared.registry.read(|all| Some((all.find(&from.host)?, all.drift().host(&from.host)?.key?)));
    let (view, key) = known.ok_or_else(wrong)?;
    let signature = signature_of(&signed.signature).ok_or_else(wrong)?;
    let signed_bytes = [SIGNED_FOR, signed.payload.as_bytes()].concat();
    let verifying = VerifyingKey::from_bytes(&key).map_err(|_| wrong())?;
    verifying.verify_strict(&signed_bytes, &signature).map_err(|_| wrong())?;
    Ok((view, key))
}

fn signature_of(hex: &str) -> Option<Signature> {
    let (low, high) = (hex.get(..64)?, hex.get(64..)?);
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&from_hex(low)?);
    bytes[32..].copy_from_slice(&from_hex(high)?);
    Some(Signature::from_bytes(&bytes))
}

/// Findings against something else would be findings everywhere.
async fn compared_with_its_image(shared: &Arc<Shared>, view: &HostView, report: &Report) -> Result<(), Problem> {
    let conflict = |error: String| Problem::new(StatusCode::CONFLICT, error);
    let not_built = || RegistryError::from(DriftRefusal::NotBuilt);
    let image = view.host.reported.as_ref().ok_or_else(not_built)?;
    let known = drift_image::baseline_of(shared, &image.manifest).await.map_err(conflict)?;
    if known.digest != report.baseline {
        return Err(conflict(format!("{} has another baseline, {}: ask for the terms", image.name, known.digest)));
    }
    Ok(())
}

/// JSON with fields that are not known here.
fn lenient<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        // It may repeat what it was sent.
        let error = format!("the body is not right: {}", said::text(&error.to_string()));
        Problem::new(StatusCode::BAD_REQUEST, error)
    })
}
