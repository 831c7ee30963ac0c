//! Requests that wait for a second person: listed, confirmed by another user, withdrawn.
//!
//! A confirmation that is refused uses nothing up: the proposal is taken only when what it means now is what it meant.

use super::Shared;
use super::body::JsonBody;
use super::peer::Operator;
use super::problem::Problem;
use super::{operator_many, operator_rollouts};
use crate::clock;
use crate::registry::RegistryError;
use crate::registry::requests::{Proposal, ProposalKind};
use crate::wire::operator as wire;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use std::sync::Arc;

type Server = State<Arc<Shared>>;

/// `GET /v1/proposals`.
///
/// # Errors
/// 503 when the store cannot be read.
pub async fn list(State(shared): Server) -> Result<Json<Vec<wire::Proposal>>, Problem> {
    let now = clock::now();
    let shown = |known: Proposal| wire::Proposal {
        number: known.number,
        kind: known.kind.word().to_string(),
        by: known.by,
        at: known.at,
        summary: known.summary,
        hosts: known.hosts,
    };
    let all = shared.registry.proposals().await?;
    Ok(Json(all.into_iter().filter(|known| !known.is_over(now)).map(shown).collect()))
}

/// `POST /v1/proposals/{number}/confirm`: the second person.
///
/// # Errors
/// 403 for the person who proposed it; 404; 409 when it no longer means the same, and for documents, which are applied.
/// Then it is still there.
pub async fn confirm(
    State(shared): Server,
    Path(number): Path<u64>,
    operator: Operator,
    JsonBody(_): JsonBody<wire::Release>,
) -> Result<Json<wire::Confirmed>, Problem> {
    let proposal = find(&shared, number, &operator).await?;
    match proposal.kind {
        ProposalKind::Reimage => {
            let asked = operator_many::confirmed(&shared, &operator, &proposal).await?;
            Ok(Json(wire::Confirmed { asked: Some(asked), rollout: None }))
        }
        ProposalKind::Rollout => {
            let rollout = operator_rollouts::confirmed(&shared, &operator, &proposal).await?;
            Ok(Json(wire::Confirmed { asked: None, rollout: Some(rollout) }))
        }
        ProposalKind::Apply => {
            let error = format!(
                "proposal {number} is of documents: look at them, then apply the same with `--loosen --confirm {number}`"
            );
            Err(Problem::new(StatusCode::CONFLICT, error))
        }
    }
}

/// `DELETE /v1/proposals/{number}`: it waits no longer. Anybody may say so.
///
/// # Errors
/// 404.
pub async fn withdraw(
    State(shared): Server,
    Path(number): Path<u64>,
    operator: Operator,
) -> Result<StatusCode, Problem> {
    let by = operator.called("")?;
    let proposal = shared.registry.take_proposal(number, None).await?;
    tracing::info!(number, by, proposed_by = proposal.by, summary = proposal.summary, "a proposal was withdrawn");
    Ok(StatusCode::NO_CONTENT)
}

/// A proposal that this operator may confirm.
pub(super) async fn find(shared: &Shared, number: u64, operator: &Operator) -> Result<Proposal, Problem> {
    let all = shared.registry.proposals().await?;
    let proposal = all.into_iter().find(|known| known.number == number).ok_or(RegistryError::NoProposal(number))?;
    proposal.confirmable_by(operator.uid, clock::now())?;
    Ok(proposal)
}

/// Uses a proposal up, once all that it means was looked at; the confirmer's name.
pub(super) async fn take(shared: &Shared, operator: &Operator, proposal: &Proposal) -> Result<String, Problem> {
    let by = operator.called("")?;
    shared.registry.take_proposal(proposal.number, Some(operator.uid)).await?;
    tracing::warn!(number = proposal.number, proposed_by = proposal.by, by, "a second person confirmed a proposal");
    Ok(by)
}

/// The request as it was proposed.
pub(super) fn request_of<T: DeserializeOwned>(proposal: &Proposal) -> Result<T, Problem> {
    let broken = |error: serde_json::Error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    serde_json::from_str(&proposal.request).map_err(broken)
}
