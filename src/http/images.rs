//! Golden images for machines: references, manifests, and by range pack data and baselines.
//!
//! Everything but a reference is content under an immutable name, with a strong ETag (conditional.rs). Data goes out as
//! pieces of files (sending.rs), each when its turn has come (pace.rs), from the page cache to the network (outgoing.rs).

use super::Shared;
use super::conditional::{self, Wanted};
use super::listen::Peer;
use super::outgoing::Outgoing;
use super::problem::Problem;
use super::sending::Sending;
use crate::image::mapped::MappedFile;
use crate::image::{ImageRef, StoreError};
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::response::Builder;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use std::ops::Range;
use std::sync::Arc;

/// The answer to `GET /images/refs/{NAME:VERSION}`.
#[derive(Debug, Serialize)]
pub struct Resolved {
    pub manifest: String,
}

/// `GET /images/refs/{name}`.
///
/// # Errors
/// 400 for no reference, 404 for no such version.
pub async fn resolve(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<Json<Resolved>, Problem> {
    Ok(Json(Resolved { manifest: manifest_of(&shared, &name)? }))
}

/// The manifest digest of `NAME:VERSION`.
///
/// # Errors
/// 400 for no reference, 404 for no such version.
pub fn manifest_of(shared: &Shared, name: &str) -> Result<String, Problem> {
    let image: ImageRef = name.parse().map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))?;
    Ok(shared.images.resolve(&image)?)
}

/// For content that its digest names.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// For packs, which may be damaged on our disk and mended: what a cache on the way got of one must not stay for ever.
const FOR_A_DAY: &str = "public, max-age=86400";

/// `GET /images/manifests/{digest}`: the encoded manifest, which hashes to `digest`.
///
/// # Errors
/// 404; 403 without a trusted signature where one is required; 412; 416; 500 when the store is damaged.
pub async fn manifest(
    State(shared): State<Arc<Shared>>,
    Path(digest): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if !shared.upkeep.may_serve(&shared.config.upkeep, &digest) {
        let error = "no trusted key has signed a version with this manifest, and this server requires it";
        return Err(Problem::new(StatusCode::FORBIDDEN, error));
    }
    let etag = digest.clone();
    let read = move || {
        let bytes = shared.images.manifest_bytes(&digest)?;
        // Whoever has it fetches what it names: a collection leaves that alone for a while.
        shared.images.note_served(&digest, crate::clock::now());
        Ok(bytes)
    };
    let bytes = blocking(read).await?;
    let asked = Asked { method, headers, etag: &etag, length: bytes.len(), kept: FOR_EVER };
    Ok(match asked.begin() {
        (Some(range), builder) => finish(builder, Body::from(bytes.slice(range))),
        (None, builder) => asked.without_data(builder),
    })
}

/// `GET /images/packs/{id}` with `Range: bytes=A-B`: 206 and these bytes of the pack.
///
/// # Errors
/// 404; 412; 416 for a range that is not one range inside the pack; 500 when the disk does not give it.
pub async fn pack(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Extension(outgoing): Extension<Outgoing>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let file = match shared.images.known_pack_file(&id) {
        Some(file) => file,
        None => {
            let (shared, id) = (shared.clone(), id.clone());
            blocking(move || shared.images.pack_file(&id)).await?
        }
    };
    let sent = send(&shared, (peer, outgoing), file, (method, headers), FOR_A_DAY).await;
    if sent.is_err() {
        // It may have been mended since it was mapped. The cache may be busy opening another.
        let shared = shared.clone();
        let _ = tokio::task::spawn_blocking(move || shared.images.pack_failed(&id)).await;
    }
    sent
}

/// `GET /images/baselines/{digest}`: the list of an image's files (`wire::baseline`), which hashes to `digest`; by range
/// like a pack.
///
/// # Errors
/// As [`pack`].
pub async fn baseline(
    State(shared): State<Arc<Shared>>,
    Path(digest): Path<String>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Extension(outgoing): Extension<Outgoing>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let images = shared.clone();
    let file = blocking(move || images.images.baseline_file(&digest)).await?;
    send(&shared, (peer, outgoing), file, (method, headers), FOR_EVER).await
}

/// A file, or what of it is asked for.
async fn send(
    shared: &Arc<Shared>,
    (peer, outgoing): (Peer, Outgoing),
    file: MappedFile,
    (method, headers): (Method, HeaderMap),
    kept: &'static str,
) -> Result<Response, Problem> {
    let asked = Asked { method, headers, etag: file.etag(), length: file.length(), kept };
    let (range, builder) = asked.begin();
    let Some(range) = range else { return Ok(asked.without_data(builder)) };
    // What cannot be read at all is said before an answer has begun.
    let first = range.start..range.end.min(range.start + 1);
    if file.is_cut() || !file.is_in_memory(&first) {
        let cold = file.clone();
        let read = tokio::task::spawn_blocking(move || cold.try_to_read(&first)).await.map_err(std::io::Error::other);
        read.and_then(|read| read).map_err(|error| {
            tracing::error!(%error, etag = file.etag(), "image data cannot be read");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("this file cannot be read: {error}"))
        })?;
    }
    let body = Sending::new(shared.clone(), peer.remote.ip(), outgoing, file, range);
    Ok(finish(builder, Body::new(body)))
}

/// One request for content of this name and length.
struct Asked<'a> {
    method: Method,
    headers: HeaderMap,
    etag: &'a str,
    length: usize,
    kept: &'static str,
}

impl Asked<'_> {
    /// The head of the answer, and what of the content goes into its body.
    fn begin(&self) -> (Option<Range<usize>>, Builder) {
        let (length, is_head) = (self.length, self.method == Method::HEAD);
        let builder = Response::builder().header(header::ACCEPT_RANGES, "bytes");
        let with_names = |builder: Builder| {
            builder.header(header::ETAG, format!("\"{}\"", self.etag)).header(header::CACHE_CONTROL, self.kept)
        };
        let with_data = |builder: Builder, bytes: usize| {
            builder.header(header::CONTENT_TYPE, "application/octet-stream").header(header::CONTENT_LENGTH, bytes)
        };
        match conditional::wanted(&self.headers, self.etag, length, is_head) {
            Wanted::Whole => {
                let builder = with_data(with_names(builder), length).status(StatusCode::OK);
                ((!is_head).then_some(0..length), builder)
            }
            Wanted::Part(range) => {
                let of = format!("bytes {}-{}/{length}", range.start, range.end - 1);
                let builder = with_data(with_names(builder), range.len()).header(header::CONTENT_RANGE, of);
                (Some(range), builder.status(StatusCode::PARTIAL_CONTENT))
            }
            Wanted::Nothing(StatusCode::NOT_MODIFIED) => (None, with_names(builder).status(StatusCode::NOT_MODIFIED)),
            // What is kept for a year is the content, and never that somebody asked wrongly for it.
            Wanted::Nothing(status) => {
                let builder = builder.header(header::ETAG, format!("\"{}\"", self.etag));
                let builder = builder.header(header::CACHE_CONTROL, "no-store").status(status);
                (
                    None,
                    match status {
                        StatusCode::RANGE_NOT_SATISFIABLE => {
                            builder.header(header::CONTENT_RANGE, format!("bytes */{length}"))
                        }
                        _ => builder,
                    },
                )
            }
        }
    }

    /// An answer without content: to HEAD, 304, or a refusal with its reason.
    fn without_data(&self, builder: Builder) -> Response {
        let answer = finish(builder, Body::empty());
        let error = match answer.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => {
                format!("this file has {} bytes; ask for one range of them, bytes=FIRST-LAST", self.length)
            }
            StatusCode::PRECONDITION_FAILED => format!("this file is \"{}\", and not what If-Match names", self.etag),
            _ => return answer,
        };
        let mut refused = Problem::new(answer.status(), error).into_response();
        refused.headers_mut().extend(answer.headers().clone());
        refused
    }
}

fn finish(builder: Builder, body: Body) -> Response {
    // Fixed header names, digits, hex and a checked status: the builder has nothing to refuse.
    builder.body(body).unwrap_or_default()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    let done =
        done.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("reading failed: {error}")))?;
    Ok(done?)
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        if error.is_missing() {
            return Problem::new(StatusCode::NOT_FOUND, error.to_string());
        }
        tracing::error!(%error, source = ?std::error::Error::source(&error), "the image store failed");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}
