//! Channels and marks of images, for operators. Neither orders anything by itself.

use super::Shared;
use super::body::JsonBody;
use super::operator::{assignable, image_choice, one_line};
use super::operator_keep::retire;
use super::peer::Operator;
use super::problem::Problem;
use crate::decide::labels::is_word;
use crate::decide::version::{Asker, Stage};
use crate::registry::images::{Channel, Mark, MarkKind};
use crate::wire::operator as wire;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use std::sync::Arc;

type Server = State<Arc<Shared>>;

/// `GET /v1/channels`.
pub async fn list(State(shared): Server) -> Json<Vec<wire::Channel>> {
    let facts = shared.registry.read(|view| view.images().clone());
    Json(facts.channels.values().map(shown).collect())
}

/// `GET /v1/channels/{NAME@CHANNEL}/history`: every move, the oldest first.
///
/// # Errors
/// 404 for no such channel.
pub async fn history(State(shared): Server, Path(name): Path<String>) -> Result<Json<Vec<wire::ChannelMove>>, Problem> {
    if !shared.registry.read(|view| view.images().channels.contains_key(&name)) {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("no channel {name:?}")));
    }
    let moves = shared.registry.history(&name).await?.into_iter().map(|line| wire::ChannelMove {
        at: line.at,
        by: line.actor.strip_prefix("operator ").unwrap_or(&line.actor).to_owned(),
        from: Some(line.from).filter(|from| !from.is_empty()),
        to: line.to,
        reason: line.cause,
    });
    Ok(Json(moves.collect()))
}

/// `PUT /v1/channels/{NAME@CHANNEL}`.
///
/// # Errors
/// 400 for no channel name, or a version of another image; 404 for no such version.
pub async fn set(
    State(shared): Server,
    Path(name): Path<String>,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::SetChannel>,
) -> Result<Json<wire::Channel>, Problem> {
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error);
    let (image, channel) = name.split_once('@').ok_or_else(|| bad(format!("{name:?} is not NAME@CHANNEL")))?;
    if !is_word(channel) {
        return Err(bad(format!("{channel:?} is no channel name: letters, digits, '-', '_' and '.'")));
    }
    let version = format!("{image}:{}", asked.version);
    let choice = assignable(&shared, &version, Asker::Many)?;
    let channel = Channel {
        name,
        image: version,
        manifest: choice.manifest,
        by: operator.called(&asked.by)?,
        reason: one_line(&asked.reason)?,
        at: 0,
        moves: 0,
    };
    Ok(Json(shown(&shared.registry.set_channel(channel).await?)))
}

/// `POST /v1/images/{NAME:VERSION}/mark`.
///
/// # Errors
/// 404 for no such version; 409 when `decide::version` has no such step.
pub async fn mark(
    State(shared): Server,
    Path(name): Path<String>,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::MarkImage>,
) -> Result<StatusCode, Problem> {
    let stage = Stage::named(&asked.mark);
    let unknown = || Problem::new(StatusCode::BAD_REQUEST, format!("{:?} is no mark", asked.mark));
    let stage = stage.ok_or_else(unknown)?;
    if stage == Stage::Retired {
        return retire(&shared, &name, &operator, &asked.by, &asked.reason, false).await;
    }
    image_choice(&shared, &name)?;
    let kind = MarkKind::of(stage);
    let (by, reason) = (operator.called(&asked.by)?, one_line(&asked.reason)?);
    let mark = kind.map(|kind| Mark { image: name.clone(), kind, by: by.clone(), reason, at: crate::clock::now() });
    shared.registry.mark_image(name, mark, by).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(channel: &Channel) -> wire::Channel {
    wire::Channel {
        name: channel.name.clone(),
        image: channel.image.clone(),
        by: channel.by.clone(),
        reason: channel.reason.clone(),
        at: channel.at,
    }
}
