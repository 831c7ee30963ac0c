//! The operator API's baselines: how an image's file systems are known, and which files it consists of.

use super::Shared;
use super::operator_list::Pieces;
use super::problem::Problem;
use crate::causes;
use crate::clock;
use crate::decide::drift::finding::{Kind, Node};
use crate::decide::drift::path::{self, to_text};
use crate::image::ImageRef;
use crate::image::baseline::{BaselineRecord, BaselineState, MakeError};
use crate::wire::baseline::{Entry, Known, Origin, Reader, Volume};
use crate::wire::manifest::to_hex;
use crate::wire::operator_baseline::{ImageBaseline, ImageFile, ImageVolume};
use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use std::fs::File;
use std::sync::Arc;
use tokio::sync::mpsc;

/// One piece of the answer.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces between us and a slow reader.
const PIECES_MAX: usize = 4;

type Server = State<Arc<Shared>>;

/// Which files are listed. A key that nobody knows is refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// As `to_text` writes paths: this path and what lies under it.
    prefix: Option<String>,
}

/// `GET /v1/images/{NAME:VERSION}/baseline`.
///
/// # Errors
/// 400, 404; 500 when the store cannot be read.
pub async fn show(State(shared): Server, Path(name): Path<String>) -> Result<Json<ImageBaseline>, Problem> {
    let image = reference(&name)?;
    let manifest = shared.images.resolve(&image)?;
    let record = shared.images.baseline_of(&manifest)?;
    Ok(Json(shown(&image, manifest, record)))
}

/// `POST /v1/images/{NAME:VERSION}/baseline`: makes it, unless it is there; answers when it is done.
///
/// # Errors
/// 400, 404; 500 when nothing could be written down. An image that gives none is no error: its state says why.
pub async fn make(State(shared): Server, Path(name): Path<String>) -> Result<Json<ImageBaseline>, Problem> {
    let image = reference(&name)?;
    let manifest = shared.images.resolve(&image)?;
    let (store, wanted) = (shared.clone(), manifest.clone());
    let done = tokio::task::spawn_blocking(move || store.images.make_baseline(&wanted, clock::now())).await;
    let failed = |error: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    let done = done.map_err(|error| failed(format!("making the baseline failed: {error}")))?;
    let record = done.map_err(|error| match error {
        MakeError::Store(error) => error.into(),
        other => failed(causes::in_one_line(&other)),
    })?;
    Ok(Json(shown(&image, manifest, Some(record))))
}

/// `DELETE /v1/images/{NAME:VERSION}/baseline`: the way out where a host told an image wrongly, since its first word stays
/// otherwise. It is made or asked for again, also from those that could not tell.
///
/// # Errors
/// 400, 404; 500 when the store cannot be written.
pub async fn forget(State(shared): Server, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    let image = reference(&name)?;
    let manifest = shared.images.resolve(&image)?;
    let (store, forgotten) = (shared.clone(), manifest.clone());
    let done = tokio::task::spawn_blocking(move || store.images.remove_baseline(&forgotten)).await;
    let failed = |error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("forgetting it failed: {error}"));
    done.map_err(failed)??;
    shared.wishes.try_again(&manifest);
    shared.images.want_baseline(&manifest);
    tracing::warn!(%image, manifest, "an operator had the image's baseline forgotten: it is made anew");
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/images/{NAME:VERSION}/files?prefix=`: an array, in the order of paths, one file a line.
///
/// # Errors
/// 400 for a prefix that is no path, 404, 409 where the image has no baseline.
pub async fn files(
    State(shared): Server,
    Path(name): Path<String>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Response, Problem> {
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error);
    let Query(filter) = filter.map_err(|rejection| bad(rejection.body_text()))?;
    let prefix = filter.prefix.unwrap_or_else(|| "/".to_owned());
    let top = path::from_text(&prefix).filter(|top| top.first() == Some(&b'/'));
    let top =
        top.ok_or_else(|| bad("the prefix is no absolute path (a backslash is written \\\\, a byte \\xNN)".into()))?;
    let image = reference(&name)?;
    let manifest = shared.images.resolve(&image)?;
    let record = shared.images.baseline_of(&manifest)?;
    let Some(digest) = record.as_ref().and_then(BaselineRecord::digest) else {
        let state = shown(&image, manifest, record);
        let why = state.reason.unwrap_or(state.state);
        return Err(Problem::new(StatusCode::CONFLICT, format!("{image} has no baseline: {why}")));
    };
    let list = shared.images.baseline_list(digest)?;
    let (pieces, stream) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = write(list, &top, &pieces) {
            // The answer ends before its bracket, which no reader takes for a whole one.
            tracing::error!(%error, "a baseline cannot be listed");
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(Pieces(stream))).into_response())
}

/// Ends early when the reader goes.
fn write(list: File, top: &[u8], pieces: &mpsc::Sender<Bytes>) -> Result<(), crate::wire::baseline::BaselineError> {
    let mut piece = Vec::new();
    let mut separator = "[\n";
    for entry in Reader::new(list)? {
        let entry = entry?;
        if !path::is_within(&entry.path, top) {
            continue;
        }
        piece.extend_from_slice(std::mem::replace(&mut separator, ",\n").as_bytes());
        // Into memory, of strings and numbers: serde_json has no way to refuse them.
        let _ = serde_json::to_writer(&mut piece, &file(entry));
        if piece.len() >= PIECE_BYTES && pieces.blocking_send(std::mem::take(&mut piece).into()).is_err() {
            return Ok(());
        }
    }
    piece.extend_from_slice(if separator == "[\n" { b"[]\n" } else { b"\n]\n" });
    let _ = pieces.blocking_send(piece.into());
    Ok(())
}

fn file(entry: Entry) -> ImageFile {
    let Entry { path, node: Node { kind, mode, uid, gid, modified, xattrs } } = entry;
    let mut file = ImageFile {
        path: to_text(&path),
        kind: kind.word().to_owned(),
        mode: format!("{mode:04o}"),
        uid,
        gid,
        bytes: None,
        digest: None,
        target: None,
        device: None,
        xattrs: xattrs.iter().map(|(name, _)| to_text(name)).collect(),
        modified,
    };
    match kind {
        Kind::File { bytes, digest } => (file.bytes, file.digest) = (Some(bytes), digest.map(|digest| to_hex(&digest))),
        Kind::Symlink { target } => file.target = Some(to_text(&target)),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            file.device = Some(format!("{major}:{minor}"));
        }
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    }
    file
}

fn reference(name: &str) -> Result<ImageRef, Problem> {
    name.parse().map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))
}

fn shown(image: &ImageRef, manifest: String, record: Option<BaselineRecord>) -> ImageBaseline {
    let mut shown = ImageBaseline {
        image: image.to_string(),
        manifest,
        state: "pending".to_owned(),
        reason: None,
        digest: None,
        origin: None,
        made_at: None,
        entries: None,
        baseline_bytes: None,
        volumes: Vec::new(),
    };
    let Some(record) = record else {
        return shown;
    };
    shown.made_at = Some(record.made_at);
    shown.volumes = record.volumes.into_iter().map(volume).collect();
    match record.state {
        BaselineState::Ready { digest, origin, entries, baseline_bytes } => {
            let origin = match origin {
                Origin::Image => "image".to_owned(),
                Origin::Host { id, .. } => format!("host {}", to_text(id.as_bytes())),
            };
            shown.state = "ready".to_owned();
            (shown.digest, shown.origin) = (Some(digest), Some(origin));
            (shown.entries, shown.baseline_bytes) = (Some(entries), Some(baseline_bytes));
        }
        BaselineState::NeedsHost { reason } => (shown.state, shown.reason) = ("needs_host".to_owned(), Some(reason)),
        BaselineState::Failed { reason } => (shown.state, shown.reason) = ("failed".to_owned(), Some(reason)),
    }
    shown
}

/// Mount points and labels are the image's own words, or a host's.
fn volume(volume: Volume) -> ImageVolume {
    let (known, reason) = match volume.known {
        Known::Files => ("files", None),
        Known::Blocks { .. } => ("blocks", None),
        Known::Not { reason } => ("not", Some(to_text(reason.as_bytes()))),
    };
    ImageVolume {
        partition: volume.partition,
        format: to_text(volume.format.as_bytes()),
        mounted_at: volume.mounted_at.map(|at| to_text(at.as_bytes())),
        known: known.to_owned(),
        reason,
    }
}
