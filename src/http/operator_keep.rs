//! The keeping of images, for operators: remove, garbage collection, scrub, signatures.

use super::Shared;
use super::body::JsonBody;
use super::operator::one_line;
use super::peer::Operator;
use super::problem::Problem;
use crate::causes;
use crate::clock;
use crate::image::signature::{Entry, SignatureError, Signed, statement};
use crate::image::{ImageRef, Record, StoreError};
use crate::registry::images::{Mark, MarkKind};
use crate::upkeep::{self, UpkeepError};
use crate::wire::operator::ByAndWhy;
use crate::wire::operator_images as wire;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use std::sync::Arc;

type Server = State<Arc<Shared>>;

/// `POST /v1/images/{NAME:VERSION}/remove`: retires a version that nobody uses; the next collection takes its data.
///
/// # Errors
/// 404; 409 with everybody who uses it.
pub async fn remove(
    State(shared): Server,
    Path(name): Path<String>,
    operator: Operator,
    JsonBody(asked): JsonBody<ByAndWhy>,
) -> Result<StatusCode, Problem> {
    retire(&shared, &name, &operator, &asked.by, &asked.reason, true).await
}

/// Retires a version, with or without users.
///
/// # Errors
/// As [`remove`].
pub(super) async fn retire(
    shared: &Shared,
    name: &str,
    operator: &Operator,
    by: &str,
    reason: &str,
    only_unused: bool,
) -> Result<StatusCode, Problem> {
    // Not more than its name is needed: a version whose record is damaged can be removed.
    let image = reference(name)?;
    if let Err(error @ StoreError::NoImage(_)) = shared.images.show(&image) {
        return Err(error.into());
    }
    let (by, reason) = (operator.called(by)?, one_line(reason)?);
    tracing::info!(image = name, by, reason, "an operator retires a version");
    let mark = Mark { image: name.to_string(), kind: MarkKind::Retired, by, reason, at: clock::now() };
    shared.registry.retire_image(mark, only_unused).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/gc`.
///
/// # Errors
/// 409 while a scrub runs; 500 when the store cannot be looked through.
pub async fn gc(
    State(shared): Server,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::GcAsked>,
) -> Result<Json<wire::GcReport>, Problem> {
    let by = operator.called("")?;
    // To its end, whether the asker waits for it or not.
    let work = tokio::spawn(async move { upkeep::gc::gc(&shared, asked.dry_run).await });
    let report = work.await.map_err(|error| failed(error.to_string()))??;
    tracing::info!(by, dry_run = report.dry_run, freed_bytes = report.freed_bytes, "garbage collection");
    Ok(Json(report))
}

/// `POST /v1/scrub`.
///
/// # Errors
/// 400, 404 for no such version; 409 while another one runs; 500 when it cannot be done. Damage is an answer, not an error.
pub async fn scrub(
    State(shared): Server,
    JsonBody(asked): JsonBody<wire::ScrubAsked>,
) -> Result<Json<wire::ScrubReport>, Problem> {
    let image = asked.image.as_deref().map(reference).transpose()?;
    if let Some(from) = &asked.from
        && !(from.is_absolute() && from.join("packs").is_dir())
    {
        let error = format!("{} is no image store: an absolute path with a directory packs in it", from.display());
        return Err(Problem::new(StatusCode::BAD_REQUEST, error));
    }
    let work = tokio::spawn(async move { upkeep::scrub::scrub(&shared, image, asked.from).await });
    Ok(Json(work.await.map_err(|error| failed(error.to_string()))??))
}

/// `GET /v1/images/{NAME:VERSION}/signatures`.
///
/// # Errors
/// 404; 500 for a file of signatures that cannot be read.
pub async fn signatures(State(shared): Server, Path(name): Path<String>) -> Result<Json<wire::Signatures>, Problem> {
    let record = shared.images.show(&reference(&name)?)?;
    Ok(Json(verified(&shared, &record)?))
}

/// `POST /v1/images/{NAME:VERSION}/signatures`.
///
/// # Errors
/// 404; 422 for a signature of something else, or of nobody who is known.
pub async fn sign(
    State(shared): Server,
    Path(name): Path<String>,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::NewSignature>,
) -> Result<Json<wire::Signatures>, Problem> {
    let record = shared.images.show(&reference(&name)?)?;
    let signed = match asked {
        wire::NewSignature::Ed25519 { key, signature } => Signed::Ed25519 { key, signature },
        wire::NewSignature::Minisign { text } => Signed::Minisign { text },
    };
    let added_by = operator.called("")?;
    tracing::info!(image = name, by = added_by, "a signature was brought");
    let entry = Entry { signed, added_at: clock::now(), added_by };
    shared.images.add_signature(&record, entry, &shared.config.upkeep.trusted_keys)?;
    upkeep::refresh(&shared).await?;
    Ok(Json(verified(&shared, &record)?))
}

fn verified(shared: &Shared, record: &Record) -> Result<wire::Signatures, Problem> {
    let config = &shared.config.upkeep;
    let verdicts = shared.images.verify(record, &config.trusted_keys)?;
    Ok(wire::Signatures {
        image: record.image.to_string(),
        statement: statement(&record.image, &record.manifest, &record.content_digest),
        trusted: verdicts.iter().any(|verdict| verdict.key.is_some()),
        required: config.trust_required,
        signatures: verdicts
            .into_iter()
            .map(|verdict| wire::SignatureView {
                key: verdict.key,
                comment: verdict.comment,
                added_at: verdict.added_at,
                added_by: verdict.added_by,
            })
            .collect(),
    })
}

fn reference(name: &str) -> Result<ImageRef, Problem> {
    name.parse().map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))
}

fn failed(error: String) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error)
}

impl From<UpkeepError> for Problem {
    fn from(error: UpkeepError) -> Problem {
        match error {
            UpkeepError::Store(error) => error.into(),
            UpkeepError::Registry(error) => error.into(),
            UpkeepError::Ended(error) => failed(error),
            error @ UpkeepError::Scrubbing => Problem::new(StatusCode::CONFLICT, error.to_string()),
        }
    }
}

impl From<SignatureError> for Problem {
    fn from(error: SignatureError) -> Problem {
        match error {
            SignatureError::Store(error) => error.into(),
            other => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, causes::in_one_line(&other)),
        }
    }
}
