//! What the deploy environment says when it looks at a disk for a verification (`wire::verify`).
//!
//! The same care as for an order (`http::agent`): a token for one boot, from the host's own address, a session behind
//! it. But nothing here hands out a job that writes, and no answer here lets one go on.

use super::agent::{AgentBody, Speaker, foreign_address, speaker, unauthorised};
use super::listen::Peer;
use super::problem::Problem;
use super::{Shared, drift, said};
use crate::decide::host::{Event, Host, Refusal, VerifyNumber, VerifyResult};
use crate::registry::drift::FINDINGS_TOTAL_MAX;
use crate::registry::{HostView, RegistryError};
use crate::wire::agent::PROTOCOL;
use crate::wire::drift::{FINDINGS_MAX, Report};
use crate::wire::verify::{VerifyAnswer, VerifyCheckIn, VerifyJob, VerifyOutcome, VerifyReport};
use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use std::sync::Arc;

/// `POST /agent/v1/verify/checkin`.
///
/// # Errors
/// 401 for a token or session that is not the latest attempt's, and from an address that is not leased to the host;
/// 409 when nobody waits for the verification or another machine answers, 426 for another protocol, 429 after too many
/// of these.
pub async fn check_in(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    AgentBody(said): AgentBody<VerifyCheckIn>,
) -> Result<Json<VerifyJob>, Problem> {
    match speaker(&shared, peer) {
        Speaker::Host(id) if id == said.host => {}
        _ => return Err(foreign_address(peer, &said.host)),
    }
    let (id, number) = (said.host, VerifyNumber(said.number));
    let event = Event::VerifyCheckedIn {
        number,
        token_digest: said::digest(&said.token),
        session_digest: said::digest(&said.session),
        identity: said::identity(said.inventory),
    };
    let checked_in = shared.registry.host_event(&id, event).await;
    if let Err(RegistryError::Refused(Refusal::TokenClaimed)) = &checked_in {
        tracing::warn!(host = id, peer = %peer.remote, "a second claimant of a verification was refused");
    }
    let view = checked_in.map_err(unauthorised)?;
    let over = || Problem::new(StatusCode::CONFLICT, Refusal::NoVerification.to_string());
    let own_disk = view.host.own_disk.clone().ok_or_else(over)?.into();
    let terms = drift::terms_of(&shared, &view.host).await?;
    Ok(Json(VerifyJob { protocol: PROTOCOL, number: number.0, own_disk, terms }))
}

/// `POST /agent/v1/verify/report`: what was seen, once. The answer says whether anybody still waits for it.
///
/// # Errors
/// As [`check_in`]; 400 for a report that is not one from outside; 503 when the store cannot take it now, and the agent
/// says it again.
pub async fn report(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    AgentBody(said): AgentBody<VerifyReport>,
) -> Result<Json<VerifyAnswer>, Problem> {
    let (id, number) = (said.host.as_str(), VerifyNumber(said.number));
    // As for an order's reports: reading a large disk can outlast the lease, and then the session's secret speaks.
    let is_leased = match speaker(&shared, peer) {
        Speaker::Host(leased) if leased == id => true,
        Speaker::Unknown => false,
        Speaker::Host(_) | Speaker::Stranger => return Err(foreign_address(peer, id)),
    };
    let view = shared.registry.find(id).filter(|view| view.host.id == id);
    let view = view.ok_or_else(|| foreign_address(peer, id))?;
    let session_digest = said::digest(&said.session);
    match standing(&view.host, number, &session_digest) {
        Standing::Awaited => {}
        // The answer was lost on its way, and what it answered is on stable storage.
        Standing::Taken => return Ok(Json(VerifyAnswer { taken: true, reason: None })),
        Standing::Over if is_leased => {
            let reason = Some(Refusal::NoVerification.to_string());
            return Ok(Json(VerifyAnswer { taken: false, reason }));
        }
        Standing::Stranger if is_leased => return Err(unauthorised(RegistryError::Refused(Refusal::SessionUnknown))),
        Standing::Over | Standing::Stranger => return Err(foreign_address(peer, id)),
    }
    let result = match said.outcome {
        VerifyOutcome::Failed { reason, listing } => {
            let reason = said::failure(&reason, &listing);
            tracing::warn!(host = id, %number, reason, "the disk could not be verified");
            VerifyResult::Failed { reason }
        }
        VerifyOutcome::Looked { report } => looked(&shared, &view, number, report).await?,
    };
    let event = Event::VerifyReported { number, session_digest, result };
    match shared.registry.host_event(id, event).await {
        Ok(_) => Ok(Json(VerifyAnswer { taken: true, reason: None })),
        // An order was opened between the look and the write.
        Err(RegistryError::Refused(refusal)) => {
            Ok(Json(VerifyAnswer { taken: false, reason: Some(refusal.to_string()) }))
        }
        Err(error) => Err(error.into()),
    }
}

enum Standing {
    Awaited,
    Taken,
    Over,
    Stranger,
}

fn standing(host: &Host, number: VerifyNumber, session_digest: &str) -> Standing {
    if host.is_verify_repeated(number, session_digest) {
        return Standing::Taken;
    }
    match host.verify.wish.as_ref().filter(|wish| wish.number == number) {
        None => Standing::Over,
        Some(wish) if wish.is_claimed_by(session_digest) => Standing::Awaited,
        Some(_) => Standing::Stranger,
    }
}

/// Takes what was seen into the host's drift, where its own agent's reports are.
async fn looked(
    shared: &Arc<Shared>,
    view: &HostView,
    number: VerifyNumber,
    report: Report,
) -> Result<VerifyResult, Problem> {
    let bad = |what: &str| Problem::new(StatusCode::BAD_REQUEST, format!("the report is not right: {what}"));
    let host = &view.host;
    if report.host != host.id || report.generation != host.reported_generation {
        return Err(bad("it is of another host or generation"));
    }
    if report.scan.kind != "outside" || report.same_as.is_some() || report.findings.len() > FINDINGS_MAX {
        return Err(bad("it is not one from outside"));
    }
    let findings = report.findings_total.min(FINDINGS_TOTAL_MAX).max(report.findings.len() as u64);
    let gaps = report.gaps.len() as u64;
    if report.baseline.is_empty() {
        // Of its files nothing is known, so it can neither clear the host nor take the place of a look that could.
        let reason = said::text(&report.gaps.first().map_or_else(String::new, |gap| gap.reason.clone()));
        return Ok(VerifyResult::Failed {
            reason: format!("{findings} differences outside of file systems; {reason}"),
        });
    }
    drift::report_from_outside(shared, view, number, report).await?;
    Ok(VerifyResult::Compared { findings, gaps })
}
