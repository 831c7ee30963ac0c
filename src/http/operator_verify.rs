//! Looks at disks from outside, asked for by an operator.

use super::Shared;
use super::body::JsonBody;
use super::operator::one_line;
use super::operator_many::{may_be_stopped, named};
use super::peer::Operator;
use super::problem::Problem;
use crate::decide::host::{Event, Host};
use crate::registry::HostView;
use crate::wire::operator as wire;
use axum::Json;
use axum::extract::State;
use std::sync::Arc;

/// `POST /v1/verify`.
///
/// # Errors
/// 404 for an unknown host; 422 when machines are to be rebooted and their number is not confirmed, or one of them is
/// on the deny list. Then nothing at all was done.
pub async fn ask(
    State(shared): State<Arc<Shared>>,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::VerifyMany>,
) -> Result<Json<Vec<wire::VerifyAsked>>, Problem> {
    let (by, reason) = (operator.called(&asked.by)?, one_line(&asked.reason)?);
    let hosts = meant(&shared, &asked)?;
    let mut done = Vec::with_capacity(hosts.len());
    for view in hosts {
        if let Some(image) = &view.host.reported {
            // One that is not there yet is made from now on; the machine takes longer to come than that.
            if let Err(why) = super::drift_image::baseline_of(&shared, &image.manifest).await {
                tracing::info!(host = view.host.id, why, "there is no baseline yet for the verification");
            }
        }
        let event = Event::AskVerify { by: by.clone(), reason: reason.clone(), power: asked.power };
        let answer = match shared.registry.host_event(&view.host.id, event).await {
            Ok(view) => wire::VerifyAsked {
                id: view.host.id.clone(),
                name: view.host.name.clone(),
                number: view.host.verify.wish.as_ref().map(|wish| wish.number.0),
                power: shared.registry.read(|all| all.driver(&view)).to_string(),
                refused: None,
            },
            Err(error) => wire::VerifyAsked {
                id: view.host.id.clone(),
                name: view.host.name.clone(),
                refused: Some(error.to_string()),
                ..wire::VerifyAsked::default()
            },
        };
        done.push(answer);
    }
    Ok(Json(done))
}

/// All of them exist; and where their machines are to be rebooted, which stops what runs there, they are counted as for a
/// rebuild, and none of them is protected.
fn meant(shared: &Shared, asked: &wire::VerifyMany) -> Result<Vec<Arc<HostView>>, Problem> {
    let hosts = named(shared, &asked.ids)?;
    if asked.power {
        may_be_stopped(shared, &hosts, asked.expect_count, "it is not rebooted, and nothing was done")?;
    }
    Ok(hosts)
}

/// What `host show` says of verifications; nothing of a host that never had one.
pub(super) fn shown(host: &Host) -> Option<wire::Verification> {
    let verify = &host.verify;
    (verify.count > 0).then(|| wire::Verification {
        asked: verify.wish.as_ref().map(|wish| wire::VerifyWish {
            number: wish.number.0,
            reason: wish.reason.clone(),
            by: wish.by.clone(),
            asked_at: wish.asked_at,
            attempts: wish.attempts,
            power: wish.power,
            waits: None,
        }),
        last: verify.last.as_ref().map(|last| wire::LastVerify {
            number: last.number.0,
            at: last.at,
            result: last.result.to_string(),
        }),
    })
}
