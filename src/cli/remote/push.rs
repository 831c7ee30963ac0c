//! `regild image push`: a file to a server's upload listener, in pieces. A connection that breaks costs what was under
//! way, a client that was killed begins the same command again and goes on: the server knows the upload by what it is to
//! be, so nothing has to be remembered here.

use super::credentials::secret_header;
use super::url::Url;
use super::{ANSWER_TIMEOUT, Remote, RemoteError, success, whole};
use crate::cli::Failure;
use crate::cli::client::{Body, empty};
use crate::cli::sparse::SparseStream;
use crate::clock;
use crate::wire::image_facts::Provenance;
use crate::wire::operator::Image;
use crate::wire::upload::{Create, Upload};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use indicatif::ProgressBar;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// One request has so much of the file: what a proxy between lets through, and what is synced at once.
const PIECE_BYTES: u64 = 64 << 20;
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Tries in a row that bring nothing forward.
const TRIES_MAX: u32 = 10;
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// An import of a large image takes minutes, and is waited for.
const IMPORT_PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// A file to push.
pub struct Push {
    remote: Remote,
    server: Url,
    authorization: HeaderValue,
    file: PathBuf,
    /// What is said of it; `format`, `preview` and `provenance` are for the caller to add.
    pub wish: Create,
    pub bar: ProgressBar,
}

impl Push {
    /// Reads the file once, for its digest. It is sent as it is when it is packed, and with its holes left out when not.
    ///
    /// # Errors
    /// A file that cannot be read, or only once.
    pub fn new(remote: Remote, server: &str, token: &str, file: PathBuf, name: &str) -> Result<Push, Failure> {
        let server = Url::parse(server).map_err(|why| format!("--server: {why}"))?;
        let shown = file.display().to_string();
        let failed = |error: io::Error| format!("cannot read {shown}: {error}");
        let opened = File::open(&file).map_err(failed)?;
        if !opened.metadata().map_err(failed)?.is_file() {
            return Err(format!("{shown} is no regular file: what is pushed is read more than once").into());
        }
        let mut hasher = blake3::Hasher::new();
        let mut bytes = 0;
        for piece in SparseStream::new(opened).map_err(failed)? {
            let piece = piece.map_err(failed)?;
            hasher.update(&piece);
            bytes += piece.len() as u64;
        }
        let source = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digest = format!("blake3:{}", hasher.finalize().to_hex());
        let provenance = Provenance::default();
        let wish = Create { image: name.to_owned(), bytes, digest, format: None, preview: false, source, provenance };
        let authorization = secret_header(&format!("Bearer {token}"))?;
        Ok(Push { remote, server, authorization, file, wish, bar: ProgressBar::hidden() })
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.wish.bytes
    }

    /// # Errors
    /// What the server refuses; what could not be reached for too long.
    pub async fn run(&self) -> Result<Image, Failure> {
        let mut tries = 0;
        let mut furthest = 0;
        loop {
            let error = match self.go_on(&mut furthest, &mut tries).await {
                Ok(image) => return Ok(image),
                Err(error) => error,
            };
            let again = match &error {
                RemoteError::NotReached { .. } => true,
                RemoteError::Said { status, .. } => may_try_again(*status),
                RemoteError::Odd { .. } => false,
            };
            tries += 1;
            if !again || tries > TRIES_MAX {
                return Err(error.into());
            }
            let pause = PAUSE_MAX.min(Duration::from_millis(500) * 2u32.pow(tries.min(10)));
            self.bar.println(format!("{error}; going on in {} s", pause.as_secs_f32()));
            tokio::time::sleep(pause).await;
        }
    }

    /// From wherever the upload is to its end, or to the first trouble.
    async fn go_on(&self, furthest: &mut u64, tries: &mut u32) -> Result<Image, RemoteError> {
        let json = serde_json::to_vec(&self.wish).map_err(|error| self.odd(&error.to_string()))?;
        let json = Full::new(Bytes::from(json)).map_err(|never| match never {}).boxed();
        let mut upload: Upload = self.ask(Method::POST, "/v1/uploads", json, ANSWER_TIMEOUT).await?;
        while !upload.finished && upload.offset < upload.bytes {
            self.bar.set_position(upload.offset);
            if upload.offset > *furthest {
                (*furthest, *tries) = (upload.offset, 0);
            }
            let piece =
                self.piece(upload.offset).map_err(|error| self.odd(&format!("cannot read the file: {error}")))?;
            let path = format!("/v1/uploads/{}?offset={}", upload.id, upload.offset);
            let before = upload.offset;
            upload = self.ask(Method::PATCH, &path, piece, IMPORT_PATIENCE).await?;
            if upload.offset <= before {
                return Err(self.odd("the server took nothing of a piece"));
            }
        }
        self.bar.set_position(upload.bytes);
        self.bar.set_message("the server imports it");
        self.ask(Method::POST, &format!("/v1/uploads/{}/finish", upload.id), empty(), IMPORT_PATIENCE).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Body,
        patience: Duration,
    ) -> Result<T, RemoteError> {
        let prefix = self.server.path.split('?').next().unwrap_or_default().trim_end_matches('/');
        let url = self.server.with_path(format!("{prefix}{path}"));
        let json: (HeaderName, HeaderValue) = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let headers = [(AUTHORIZATION, self.authorization.clone()), json];
        let answer = self.remote.send(method, &url, &headers, body, patience).await?;
        let answer = success(&url, answer).await?;
        // An answer that was cut is asked for again.
        let bytes = whole(answer, ANSWER_BYTES_MAX).await;
        let bytes = bytes.map_err(|why| RemoteError::NotReached { place: url.place(), why })?;
        serde_json::from_slice(&bytes).map_err(|error| self.odd(&error.to_string()))
    }

    fn odd(&self, why: &str) -> RemoteError {
        RemoteError::Odd { place: self.server.place(), why: why.to_string() }
    }

    /// The bytes from `offset` on. Holes are passed over again, data up to there is read again: reading is cheap.
    fn piece(&self, offset: u64) -> io::Result<Body> {
        let stream = SparseStream::new(File::open(&self.file)?)?;
        let end = self.wish.bytes.min(offset + PIECE_BYTES);
        let piece = Piece { stream, at: 0, from: offset, end, bar: self.bar.clone() };
        Ok(StreamBody::new(piece).boxed())
    }
}

fn may_try_again(status: StatusCode) -> bool {
    // Over (begun anew then), too slow, at another offset, busy, locked out for a while, a proxy whose server restarts.
    matches!(status.as_u16(), 404 | 408 | 412 | 423 | 429 | 502..=504)
}

/// A part of the stream of a file.
struct Piece {
    stream: SparseStream,
    at: u64,
    from: u64,
    end: u64,
    bar: ProgressBar,
}

impl Piece {
    fn next(&mut self) -> Option<io::Result<Bytes>> {
        while self.at < self.end {
            let mut bytes = match self.stream.next()? {
                Ok(bytes) => bytes,
                Err(error) => return Some(Err(error)),
            };
            let begin = self.at;
            self.at += bytes.len() as u64;
            if self.at <= self.from {
                continue;
            }
            // Both inside of this one.
            bytes.truncate((self.end.min(self.at) - begin) as usize);
            let bytes = bytes.split_off(self.from.saturating_sub(begin) as usize);
            self.bar.set_position(self.at.min(self.end));
            return Some(Ok(bytes));
        }
        None
    }
}

impl futures_core::Stream for Piece {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.get_mut().next().map(|piece| piece.map(Frame::data)))
    }
}

/// Pushes, and says how it went on.
///
/// # Errors
/// As [`Push::run`].
pub fn run(push: &Push) -> Result<Image, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let began = clock::instant();
    let done = runtime.block_on(push.run());
    push.bar.finish_and_clear();
    tracing::debug!(seconds = began.elapsed().as_secs(), "pushed");
    done
}
