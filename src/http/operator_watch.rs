//! `GET /v1/watch?host=ID`: each new line of history as it becomes durable, as JSON lines without an end.

use super::Shared;
use super::operator::history_line;
use super::problem::Problem;
use crate::db::watch::{Change, Watch, WatchError};
use crate::registry::history;
use crate::wire::operator::{Problem as Trouble, WatchLine};
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Lines between the store and a slow reader; the store's watch holds some hundred commits more.
const LINES_MAX: usize = 64;

/// Which host to watch; all of them when absent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    host: Option<String>,
}

/// `GET /v1/watch`. Ends when the reader goes, or with a line that has `error` when the reader was too slow.
///
/// # Errors
/// 404 for no such host; 503 when the registry has stopped.
pub async fn watch(State(shared): State<Arc<Shared>>, Query(which): Query<Which>) -> Result<Response, Problem> {
    let watch = shared.registry.watch(which.host.as_deref()).await?;
    let (lines, stream) = mpsc::channel(LINES_MAX);
    tokio::spawn(pump(watch, lines));
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(Lines(stream))).into_response())
}

async fn pump(mut watch: Watch, lines: mpsc::Sender<Bytes>) {
    loop {
        let next = tokio::select! {
            next = watch.next() => next,
            () = lines.closed() => return,
        };
        let ended = next.is_err();
        let Some(line) = encode(next) else { continue };
        if lines.send(line).await.is_err() || ended {
            return;
        }
    }
}

/// A change of history as one line; `None` for what is none (nothing deletes history today).
fn encode(next: Result<Change, WatchError>) -> Option<Bytes> {
    let json = match next {
        Ok(change) => {
            let host = change.key.split('/').nth(1)?.to_string();
            let line: history::Line = serde_json::from_slice(change.value.as_deref()?).ok()?;
            serde_json::to_vec(&WatchLine { host, line: history_line(line) })
        }
        Err(error) => serde_json::to_vec(&Trouble { error: error.to_string() }),
    };
    json.ok().map(|mut json| {
        json.push(b'\n');
        Bytes::from(json)
    })
}

struct Lines(mpsc::Receiver<Bytes>);

impl futures_core::Stream for Lines {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|line| line.map(Ok))
    }
}
