//! Golden images for machines: references, manifests, and by range pack data and baselines.

use super::Shared;
use super::problem::Problem;
use crate::image::{ImageRef, StoreError};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use std::sync::Arc;

/// Slices in which a mapped pack goes to the socket. Measured: 256 KiB is the fastest of the sizes tried, and
/// cheaper for the CPU than sendfile by nginx on loopback (ARCHITECTURE.md).
const SLICE_BYTES: usize = 256 * 1024;

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

/// `GET /images/manifests/{digest}`: the encoded manifest, which hashes to `digest`.
///
/// # Errors
/// 404; 403 without a trusted signature where one is required; 500 when the store is damaged.
pub async fn manifest(State(shared): State<Arc<Shared>>, Path(digest): Path<String>) -> Result<Response, Problem> {
    if !shared.upkeep.may_serve(&shared.config.upkeep, &digest) {
        let error = "no trusted key has signed a version with this manifest, and this server requires it";
        return Err(Problem::new(StatusCode::FORBIDDEN, error));
    }
    let read = move || {
        let bytes = shared.images.manifest_bytes(&digest)?;
        // Whoever has it fetches what it names: a collection leaves that alone for a while.
        shared.images.note_served(&digest, crate::clock::now());
        Ok(bytes)
    };
    let bytes = blocking(read).await?;
    Ok(answer(StatusCode::OK, bytes.len(), None, Body::from(bytes)))
}

/// `GET /images/packs/{id}` with `Range: bytes=A-B`: 206 and these bytes of the pack, from the mapped file.
///
/// # Errors
/// 404; 416 for a range that is not one range inside the pack.
pub async fn pack(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    ranged(blocking(move || shared.images.pack(&id)).await?, &headers).await
}

/// `GET /images/baselines/{digest}`: the list of an image's files (`wire::baseline`), which hashes to `digest`; by range
/// like a pack.
///
/// # Errors
/// 404; 416 for a range that is not one range inside the baseline.
pub async fn baseline(
    State(shared): State<Arc<Shared>>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    ranged(blocking(move || shared.images.baseline_bytes(&digest)).await?, &headers).await
}

/// A mapped file, or the one range of it that is asked for.
async fn ranged(file: Bytes, headers: &HeaderMap) -> Result<Response, Problem> {
    let Some(range) = headers.get(header::RANGE) else {
        return Ok(answer(StatusCode::OK, file.len(), None, sliced(file)));
    };
    let asked = range.to_str().ok().and_then(|text| one_range(text, file.len()));
    let Some((first, last)) = asked else {
        let error = format!("this file has {} bytes; ask for one range of them, bytes=FIRST-LAST", file.len());
        return Err(Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, error));
    };
    let part = file.slice(first..=last);
    // A cold page would stall a worker thread, and with it every other machine, while the disk seeks: so the
    // pages are brought in on a blocking thread first.
    let part = blocking(move || Ok(prefault(part))).await?;
    let content_range = format!("bytes {first}-{last}/{}", file.len());
    Ok(answer(StatusCode::PARTIAL_CONTENT, part.len(), Some(content_range), sliced(part)))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    let done =
        done.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("reading failed: {error}")))?;
    Ok(done?)
}

/// Touches one byte of each 4 KiB page.
fn prefault(bytes: Bytes) -> Bytes {
    let touched = bytes.iter().step_by(4096).fold(0u8, |sum, byte| sum ^ byte);
    std::hint::black_box(touched);
    bytes
}

fn sliced(mut bytes: Bytes) -> Body {
    let slices = std::iter::from_fn(move || {
        let next = bytes.len().min(SLICE_BYTES);
        (next > 0).then(|| Ok::<_, std::convert::Infallible>(bytes.split_to(next)))
    });
    Body::from_stream(IterStream(slices))
}

/// An iterator as a stream that is always ready.
struct IterStream<I>(I);

impl<I: Iterator + Unpin> futures_core::Stream for IterStream<I> {
    type Item = I::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.next())
    }
}

/// `bytes=A-B` and `bytes=A-` of RFC 9110 section 14.1.2, one range, inside `length`. Suffix ranges and lists
/// are not ours: the agent always knows what it wants.
pub(super) fn one_range(text: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let last =
        if last.is_empty() { length.checked_sub(1)? } else { last.parse::<usize>().ok()?.min(length.checked_sub(1)?) };
    (first <= last).then_some((first, last))
}

fn answer(status: StatusCode, length: usize, content_range: Option<String>, body: Body) -> Response {
    let mut builder = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_LENGTH, length);
    if let Some(range) = content_range {
        builder = builder.header(header::CONTENT_RANGE, range);
    }
    // Fixed header names, digits and a checked status: the builder has nothing to refuse.
    builder.body(body).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// faults.md H4: one good range or none; never other bytes than were asked for.
    #[test]
    fn only_one_range_inside_the_pack_is_served() {
        assert_eq!(one_range("bytes=0-9", 100), Some((0, 9)));
        assert_eq!(one_range("bytes=90-", 100), Some((90, 99)));
        assert_eq!(one_range("bytes=90-500", 100), Some((90, 99)));
        let bad = ["bytes=9-0", "bytes=100-", "bytes=-5", "bytes=-0", "bytes=0-1,3-4", "0-9", "bytes=a-b", "bytes=0"];
        for text in bad {
            assert_eq!(one_range(text, 100), None, "{text}");
        }
        assert_eq!(one_range("bytes=0-", 0), None);
    }
}
