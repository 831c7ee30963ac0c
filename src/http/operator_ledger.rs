//! The ledger for operators: entries as a stream, what every host ran at a time, whether it still is what was written.
//!
//! All of it reads beside the writer, on threads of its own and a bounded number at once: a ledger of years takes minutes.

use super::Shared;
use super::problem::Problem;
use crate::decide::cause::CauseKind;
use crate::decide::mac::Mac;
use crate::registry::ledger::{self, Filter, Kind, LedgerError, Tip, VerifyError};
use crate::registry::{LedgerReader, RegistryError};
use crate::wire::ledger as wire;
use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

type Server = State<Arc<Shared>>;

/// Reads of the whole ledger at once.
const READS_MAX: usize = 2;
/// Pieces between the reading thread and a slow client, and how large one is.
const PIECES_MAX: usize = 8;
const PIECE_BYTES: usize = 64 * 1024;
/// What `newest` may ask for: they are kept in memory.
const NEWEST_MAX: usize = 10_000;

/// Places for long reads.
#[derive(Debug, Clone)]
pub struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Places {
        Places(Arc::new(Semaphore::new(READS_MAX)))
    }
}

impl Places {
    fn take(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "others read the ledger already; try again later");
        self.0.clone().try_acquire_owned().map_err(|_| busy())
    }
}

/// Which entries, and in which form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    host: Option<String>,
    image: Option<String>,
    cause: Option<String>,
    kind: Option<String>,
    from: Option<String>,
    to: Option<String>,
    /// Only so many, the newest, still oldest first.
    newest: Option<usize>,
    #[serde(default)]
    form: Form,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    #[default]
    Jsonl,
    Csv,
}

/// `GET /v1/ledger/tip`.
///
/// # Errors
/// 503 when the store failed.
pub async fn tip(State(shared): Server) -> Result<Json<wire::Tip>, Problem> {
    Ok(Json(wire::Tip { tip: shared.registry.ledger()?.tip.to_string() }))
}

/// `GET /v1/ledger`: entries as JSON lines or CSV, oldest first. A body that ends early was cut by an error.
///
/// # Errors
/// 400 for a filter that makes no sense, 404 for a host that never was, 503.
pub async fn entries(
    State((shared, places)): State<(Arc<Shared>, Places)>,
    Query(which): Query<Which>,
) -> Result<Response, Problem> {
    let filter = filter(&shared, &which)?;
    let newest = which.newest.map(|newest| newest.min(NEWEST_MAX));
    let (reader, place) = (shared.registry.ledger()?, places.take()?);
    let (pieces, stream) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces { pieces, kept: Vec::with_capacity(PIECE_BYTES) };
        if let Err(error) = write(&reader, &filter, newest, which.form, &mut out) {
            tracing::warn!(%error, "an export of the ledger was cut");
            // The reader may have gone; otherwise it must not take what it has for the whole.
            let _ = out.pieces.blocking_send(Err(io::Error::other(error.to_string())));
        }
        drop(place);
    });
    let media = match which.form {
        Form::Jsonl => "application/jsonl",
        Form::Csv => "text/csv",
    };
    Ok(([(header::CONTENT_TYPE, media)], Body::from_stream(Stream(stream))).into_response())
}

fn write(
    reader: &LedgerReader,
    filter: &Filter,
    newest: Option<usize>,
    form: Form,
    out: &mut Pieces,
) -> Result<(), ledger::ExportError> {
    let (db, tip) = (reader.db(), reader.tip);
    match (newest, form) {
        (None, Form::Jsonl) => drop(ledger::to_json_lines(db, tip, filter, out)?),
        (None, Form::Csv) => drop(ledger::to_csv(db, tip, filter, out)?),
        (Some(newest), _) => {
            let mut kept = VecDeque::with_capacity(newest);
            ledger::find(db, tip, filter, |entry, raw| {
                if kept.len() >= newest {
                    kept.pop_front();
                }
                if newest > 0 {
                    kept.push_back(ledger::line(entry, raw));
                }
            })?;
            for line in kept {
                serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
                out.write_all(b"\n")?;
            }
        }
    }
    Ok(out.flush()?)
}

/// When: a day, or a second.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    time: String,
}

/// `GET /v1/ledger/at`: what each host ran at a time, by id; hosts that ran nothing of ours are not in it.
///
/// # Errors
/// 400 when that is no time, 503.
pub async fn at(
    State((shared, places)): State<(Arc<Shared>, Places)>,
    Query(when): Query<When>,
) -> Result<Json<Vec<wire::HostAt>>, Problem> {
    let time = time(&when.time)?;
    let (reader, place) = (shared.registry.ledger()?, places.take()?);
    let entries = blocking(move || {
        let _place = place;
        reader.at(time)
    });
    let entries = entries.await?.map_err(unread)?;
    let named = |entry: ledger::Entry| {
        let name = shared.registry.find(&entry.fact.host).and_then(|view| view.host.name.clone());
        wire::HostAt { name, ..ledger::host_at_line(&entry) }
    };
    Ok(Json(entries.into_iter().filter(|entry| entry.fact.image.is_some()).map(named).collect()))
}

/// What was noted elsewhere.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noted {
    tip: Option<String>,
}

/// `POST /v1/ledger/verify`: reads all of it; the answer is where it ends.
///
/// # Errors
/// 409 with the first entry at which it is not what was written; 400 for what is no tip; 503.
pub async fn verify(
    State((shared, places)): State<(Arc<Shared>, Places)>,
    Query(noted): Query<Noted>,
) -> Result<Json<wire::Tip>, Problem> {
    let noted = noted.tip.map(|tip| tip.parse::<Tip>()).transpose();
    let noted = noted.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error))?;
    let (reader, place) = (shared.registry.ledger()?, places.take()?);
    let verified = blocking(move || {
        let _place = place;
        ledger::verify(reader.db(), noted)
    });
    match verified.await? {
        Ok(verified) => Ok(Json(wire::Tip { tip: verified.tip.to_string() })),
        Err(VerifyError::Broken(broken)) => Err(Problem::new(StatusCode::CONFLICT, broken.to_string())),
        Err(VerifyError::Ledger(error)) => Err(unread(error)),
    }
}

fn filter(shared: &Shared, which: &Which) -> Result<Filter, Problem> {
    let wrong = |error: String| Problem::new(StatusCode::BAD_REQUEST, error);
    let kind = |word: &String| match word.as_str() {
        "ordered" => Ok(Kind::Ordered),
        "runs" => Ok(Kind::Runs),
        other => Err(wrong(format!("there is no kind {other:?} of entries; ordered and runs are"))),
    };
    let cause = |word: &String| {
        let plain = word
            .strip_prefix("rollout ")
            .map_or(word.as_str(), |number| if number.parse::<u64>().is_ok() { "rollout" } else { word.as_str() });
        let known = CauseKind::WORDS.contains(&plain);
        known.then(|| word.clone()).ok_or_else(|| {
            wrong(format!("there is no cause {word:?}; these are: {}, and `rollout 7`", CauseKind::WORDS.join(", ")))
        })
    };
    Ok(Filter {
        host: which.host.as_ref().map(|host| id_of(shared, host)).transpose()?,
        image: which.image.clone(),
        cause: which.cause.as_ref().map(cause).transpose()?,
        kind: which.kind.as_ref().map(kind).transpose()?,
        from: which.from.as_deref().map(time).transpose()?,
        to: which.to.as_deref().map(time).transpose()?,
    })
}

/// Also of a host whose record was removed: by its id, or a MAC that it was first seen with.
fn id_of(shared: &Shared, name: &str) -> Result<String, Problem> {
    if let Some(view) = shared.registry.find(name) {
        return Ok(view.host.id.clone());
    }
    if let Ok(mac) = name.parse::<Mac>() {
        return Ok(crate::decide::host::Host::id_of(mac));
    }
    let is_id = name.strip_prefix("h-").is_some_and(|hex| hex.len() == 12);
    if is_id { Ok(name.to_string()) } else { Err(RegistryError::UnknownHost(name.to_string()).into()) }
}

fn time(text: &str) -> Result<u64, Problem> {
    ledger::instant_of(text).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error))
}

fn unread(error: LedgerError) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let died =
        |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "reading the ledger failed; the server's log says why");
    tokio::task::spawn_blocking(work).await.map_err(died)
}

/// What is written becomes pieces of a body. Waits while the client reads; ends when it is gone.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    kept: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.kept.extend_from_slice(bytes);
        if self.kept.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(&mut self.kept, Vec::with_capacity(PIECE_BYTES)));
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

struct Stream(mpsc::Receiver<io::Result<Bytes>>);

impl futures_core::Stream for Stream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
