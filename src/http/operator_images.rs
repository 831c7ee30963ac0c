//! The operator API's images: import, list, show, export.

use super::Shared;
use super::body::JsonBody;
use super::problem::Problem;
use super::upload;
use crate::causes;
use crate::clock;
use crate::image::{Declared, ExportError, ImageRef, ImportError, ImportRequest, Imported, Record, SourceError};
use crate::wire::operator as wire;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;

type Server = State<Arc<Shared>>;

/// `?source=`, `format=` and `digest=` of an import.
#[derive(Debug, Deserialize)]
pub struct Source {
    #[serde(default)]
    source: String,
    /// `raw` or `qcow2`.
    format: Option<String>,
    /// `sha256:HEX` or `blake3:HEX` of the body.
    digest: Option<String>,
}

/// `GET /v1/images`: an array, by name and version.
///
/// # Errors
/// 500 when the store cannot be read.
pub async fn list(State(shared): Server) -> Result<Json<Vec<wire::Image>>, Problem> {
    let records = shared.images.list()?;
    Ok(Json(records.into_iter().map(|record| shown(&shared, record)).collect()))
}

/// `GET /v1/images/{NAME:VERSION}`.
///
/// # Errors
/// 400, 404.
pub async fn show(State(shared): Server, Path(name): Path<String>) -> Result<Json<wire::Image>, Problem> {
    Ok(Json(shown(&shared, shared.images.show(&reference(&name)?)?)))
}

/// `PUT /v1/images/{NAME:VERSION}` with the image as body: raw or qcow2, plain or packed.
///
/// # Errors
/// 400 for what is no image, 409 for other content under an existing version, 413 for one that is too large,
/// 507 when the disk is full. In each case nothing is listed and nothing is kept.
pub async fn import(
    State(shared): Server,
    Path(name): Path<String>,
    Query(query): Query<Source>,
    body: Body,
) -> Result<Json<wire::Image>, Problem> {
    let image = reference(&name)?;
    let wrong = |error: SourceError| Problem::new(StatusCode::BAD_REQUEST, error.to_string());
    let declared = Declared {
        format: query.format.as_deref().map(str::parse).transpose().map_err(wrong)?,
        digest: query.digest.as_deref().map(str::parse).transpose().map_err(wrong)?,
    };
    let reader = upload::reader(body);
    let store = shared.clone();
    let work = move || {
        let source = query.source.chars().filter(|c| !c.is_control()).take(200).collect::<String>();
        let max_image_bytes = store.config.image.bytes_max;
        let request = ImportRequest { image: &image, now: clock::now(), source: &source, max_image_bytes };
        store.images.import_declared(reader, &declared, &request, &|_| ())
    };
    let done = tokio::task::spawn_blocking(work).await;
    let done =
        done.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("import failed: {error}")))?;
    let imported = done.map_err(import_problem)?;
    let mut answer = shown(&shared, imported.record().clone());
    answer.already_there = Some(matches!(imported, Imported::AlreadyThere(_)));
    tracing::info!(image = answer.image, added_bytes = answer.added_bytes, "image imported");
    Ok(Json(answer))
}

/// `POST /v1/images/{NAME:VERSION}/export`: writes the image to a file on the server, raw or qcow2.
///
/// # Errors
/// 400 for a path that is not absolute, or exists and may not be replaced; 404, 500. Nothing is left then.
pub async fn export(
    State(shared): Server,
    Path(name): Path<String>,
    JsonBody(asked): JsonBody<wire::Export>,
) -> Result<Json<wire::Image>, Problem> {
    let image = reference(&name)?;
    let record = shared.images.show(&image)?;
    let bad = |what: String| Problem::new(StatusCode::BAD_REQUEST, what);
    if !asked.path.is_absolute() {
        return Err(bad(format!("{} is not an absolute path", asked.path.display())));
    }
    let format =
        asked.format.as_deref().unwrap_or("raw").parse().map_err(|error: SourceError| bad(error.to_string()))?;
    let store = shared.clone();
    let work = move || store.images.export_file(&image, &asked.path, format, asked.force);
    let done = tokio::task::spawn_blocking(work).await;
    let done =
        done.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("export failed: {error}")))?;
    match done {
        Ok(()) => Ok(Json(shown(&shared, record))),
        Err(ExportError::Store(error)) => Err(error.into()),
        Err(error) => {
            let status = match &error {
                ExportError::Exists { .. } | ExportError::NotAFile { .. } | ExportError::Create { .. } => {
                    StatusCode::BAD_REQUEST
                }
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Err(Problem::new(status, causes::in_one_line(&error)))
        }
    }
}

fn reference(name: &str) -> Result<ImageRef, Problem> {
    name.parse().map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))
}

pub(super) fn import_problem(error: ImportError) -> Problem {
    let status = match &error {
        ImportError::OtherContent { .. } => StatusCode::CONFLICT,
        ImportError::TooLarge { .. }
        | ImportError::Source(SourceError::ImageTooLarge { .. } | SourceError::FileTooLarge { .. }) => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        ImportError::Store(_) => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::BAD_REQUEST,
    };
    Problem::new(status, causes::in_one_line(&error))
}

pub(super) fn shown(shared: &Shared, record: Record) -> wire::Image {
    let name = record.image.to_string();
    let uses =
        |choice: &Option<crate::decide::host::ImageChoice>| choice.as_ref().is_some_and(|image| image.name == name);
    let hosts = shared
        .registry
        .read(|view| view.hosts().filter(|host| uses(&host.host.desired) || uses(&host.host.reported)).count());
    wire::Image {
        manifest: record.manifest,
        content_digest: record.content_digest,
        image_bytes: record.image_bytes,
        data_bytes: record.data_bytes,
        added_bytes: record.added_bytes,
        imported_at: record.imported_at,
        source: record.source,
        hosts,
        already_there: None,
        image: name,
    }
}
