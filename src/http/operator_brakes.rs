//! Stop, resume and the fleet breaker, for operators.

use super::Shared;
use super::body::JsonBody;
use super::operator::one_line;
use super::peer::Operator;
use super::problem::Problem;
use crate::clock;
use crate::registry::stop;
use crate::wire::operator as wire;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use std::sync::Arc;

type Server = State<Arc<Shared>>;

/// `GET /v1/brakes`: what holds orders back now.
pub async fn show(State(shared): Server) -> Json<wire::Brakes> {
    let tripped = shared.registry.read(|view| view.breaker().cloned());
    Json(wire::Brakes {
        clock_held: shared.scheduler.clock_held(),
        stopped: shared.registry.stop_switch().pressed().map(|stop| wire::Stopped {
            by: stop.by,
            reason: stop.reason,
            at: stop.at,
            running_too: stop.running_too,
        }),
        tripped: tripped.map(|tripped| wire::Tripped { reason: tripped.reason, at: tripped.at }),
        waiting: shared.registry.read(|view| view.hosts().filter(|host| !host.host.asks.is_empty()).count()),
        open: shared.registry.read(|view| view.hosts().filter(|host| host.host.order.is_some()).count()),
    })
}

/// `POST /v1/stop`: works without store and writer.
///
/// # Errors
/// 400 without a reason; 500 when the file cannot be written, and then what to do by hand.
pub async fn stop(
    State(shared): Server,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::StopAsked>,
) -> Result<StatusCode, Problem> {
    let stop = stop::Stop {
        by: operator.called(&asked.by)?,
        reason: one_line(&asked.reason)?,
        at: clock::now(),
        running_too: asked.running_too,
    };
    tracing::warn!(by = stop.by, reason = stop.reason, running_too = stop.running_too, "everything is stopped");
    shared.registry.stop_switch().press(&stop).map_err(|error| {
        let by_hand = shared.config.state_dir.join(stop::FILE_NAME);
        let error =
            format!("the stop file cannot be written ({error}); `touch {}` or stop the server", by_hand.display());
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error)
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/resume`.
///
/// # Errors
/// 400 without a reason; 500 when the file cannot be removed.
pub async fn resume(
    State(shared): Server,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::ByAndWhy>,
) -> Result<StatusCode, Problem> {
    let (by, reason) = (operator.called(&asked.by)?, one_line(&asked.reason)?);
    let failed = |error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the stop file stays: {error}"));
    shared.registry.stop_switch().release().map_err(failed)?;
    tracing::warn!(by, reason, "resumed");
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/breaker/reset`.
///
/// # Errors
/// 400 without a reason; 409 when it has not tripped; 503 when the store fails.
pub async fn reset(
    State(shared): Server,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::ByAndWhy>,
) -> Result<StatusCode, Problem> {
    shared.registry.reset_breaker(operator.called(&asked.by)?, one_line(&asked.reason)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/clock/accept`: schedules go on from now; nothing before is due.
///
/// # Errors
/// 400 without a reason; 409 when the clock is not held.
pub async fn accept_clock(
    State(shared): Server,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::ByAndWhy>,
) -> Result<StatusCode, Problem> {
    let (by, reason) = (operator.called(&asked.by)?, one_line(&asked.reason)?);
    if shared.scheduler.clock_held().is_none() {
        return Err(Problem::new(StatusCode::CONFLICT, "the clock is not held"));
    }
    shared.scheduler.accept_clock().await;
    tracing::warn!(by, reason, "the clock was accepted");
    Ok(StatusCode::NO_CONTENT)
}
