//! `GET /v1/hosts`: which hosts, and what keeps those from getting further that do not.

use super::Shared;
use super::operator::shown;
use super::operator_many::facts;
use super::problem::Problem;
use crate::decide::cause::CauseKind;
use crate::decide::deadline::Verdict;
use crate::decide::host::State as HostState;
use crate::decide::select::Selector;
use crate::registry::{HostView, ProgressSeen, View};
use crate::scheduler::tick::lateness;
use crate::wire::operator as wire;
use crate::wire::reference::ImageRef;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Hosts of one piece of the answer, about 300 KiB. Whole, the list of 100,000 has 130 MB, and was twice in memory.
const PIECE_HOSTS: usize = 256;
/// Pieces between us and a slow reader.
const PIECES_MAX: usize = 4;

/// What a host must be to be listed; what is absent asks nothing. A key that nobody knows is refused: a filter that is
/// mistyped must not list everybody.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    select: Option<String>,
    /// Only hosts that do not get further.
    #[serde(default)]
    stuck: bool,
    /// `NAME:VERSION`, as the host reported it.
    version: Option<String>,
    /// Kind of a cause of the open order, or of one that waits.
    cause: Option<String>,
    state: Option<String>,
}

/// A filter whose words are known.
struct Checked {
    selector: Option<Selector>,
    stuck: bool,
    version: Option<String>,
    cause: Option<String>,
    state: Option<String>,
}

/// `GET /v1/hosts?select=&stuck=true&version=&cause=&state=`: an array, by id, one host a line; of several filters all
/// must hold.
///
/// # Errors
/// 400 for a selector, version, cause or state that is none, an empty one too, and for any other key.
pub async fn host_list(
    State(shared): State<Arc<Shared>>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Response, Problem> {
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error);
    let Query(filter) = filter.map_err(|rejection| bad(rejection.body_text()))?;
    let filter = filter.checked().map_err(bad)?;
    let views: Vec<Arc<HostView>> =
        shared.registry.read(|view| view.hosts().filter(|host| filter.matches(host)).cloned().collect());
    let (pieces, stream) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || write(&shared, &views, filter.stuck, &pieces));
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(Pieces(stream))).into_response())
}

/// Ends early when the reader goes.
fn write(shared: &Shared, views: &[Arc<HostView>], only_stuck: bool, pieces: &mpsc::Sender<Bytes>) {
    let mut separator = "[\n";
    for some in views.chunks(PIECE_HOSTS) {
        let mut piece = Vec::new();
        for host in some.iter().map(|view| shown(shared, view)).filter(|host| !only_stuck || host.stuck.is_some()) {
            piece.extend_from_slice(std::mem::replace(&mut separator, ",\n").as_bytes());
            // Into memory, of strings and numbers: serde_json has no way to refuse them.
            let _ = serde_json::to_writer(&mut piece, &host);
        }
        if pieces.blocking_send(piece.into()).is_err() {
            return;
        }
    }
    let end = if separator == "[\n" { "[]\n" } else { "\n]\n" };
    let _ = pieces.blocking_send(Bytes::from_static(end.as_bytes()));
}

/// Pieces of an answer as they come.
pub(super) struct Pieces(pub(super) mpsc::Receiver<Bytes>);

impl futures_core::Stream for Pieces {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|piece| piece.map(Ok))
    }
}

impl Filter {
    fn checked(self) -> Result<Checked, String> {
        let selector = self.select.map(|text| Selector::parse(&text).map_err(|error| error.to_string())).transpose()?;
        if let Some(version) = &self.version {
            version.parse::<ImageRef>().map_err(|error| format!("version: {error}"))?;
        }
        one_of("cause", self.cause.as_deref(), &CauseKind::WORDS)?;
        one_of("state", self.state.as_deref(), &HostState::WORDS)?;
        let Filter { stuck, version, cause, state, .. } = self;
        Ok(Checked { selector, stuck, version, cause, state })
    }
}

impl Checked {
    fn matches(&self, view: &HostView) -> bool {
        let host = &view.host;
        let reported = host.reported.as_ref().map(|image| &image.name);
        self.selector.as_ref().is_none_or(|selector| selector.matches(&facts(view)))
            && self.version.as_ref().is_none_or(|version| reported == Some(version))
            && self.state.as_ref().is_none_or(|state| host.state.word() == state)
            && self.cause.as_ref().is_none_or(|kind| host.causes().any(|cause| cause.kind.word() == kind))
    }
}

fn one_of(what: &str, word: Option<&str>, words: &[&str]) -> Result<(), String> {
    match word {
        Some(word) if !words.contains(&word) => Err(format!("{word:?} is no {what}; there are {}", words.join(", "))),
        _ => Ok(()),
    }
}

/// Late by the deadline of its state, or with causes that the brakes do not let through.
pub(super) fn stuck(
    all: &View,
    view: &HostView,
    progress: impl Fn(&str) -> Option<ProgressSeen>,
    now: u64,
) -> Option<wire::Stuck> {
    let host = &view.host;
    let verdict = lateness(all, view, progress, now);
    if let Verdict::PowerCycle { late_seconds, reason } | Verdict::Fail { late_seconds, reason, .. } = verdict {
        return Some(wire::Stuck { since: host.since, late_seconds: Some(late_seconds), missing: reason });
    }
    let since = host.asks.iter().map(|cause| cause.at).min()?;
    let kinds: Vec<&str> = host.asks.iter().map(|cause| cause.kind.word()).collect();
    let waits = view.waits.as_deref().unwrap_or("the brakes look at it within seconds");
    Some(wire::Stuck { since, late_seconds: None, missing: format!("{} waits: {waits}", kinds.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::decide::cause::Cause;
    use crate::decide::host::{Event, ImageChoice};
    use crate::decide::mac::Mac;
    use crate::decide::netboot::NetbootClient;
    use crate::registry::Registry;
    use crate::registry::tests::config;

    /// `host list --stuck` says by how much and what is missing, from the second after the deadline on.
    #[tokio::test]
    async fn a_host_is_stuck_once_its_deadline_has_passed() {
        let dir = tempfile::tempdir().unwrap();
        let db = crate::db::sled::SledDb::open(dir.path()).unwrap();
        let (registry, _) = Registry::start(Box::new(db), &config(dir.path())).unwrap();
        let _ = registry.script(Mac([0x52, 0x54, 0, 0, 0, 1]), NetbootClient::Ipxe { uefi: false }).await.unwrap();
        let image = ImageChoice { name: "tiny:1".into(), manifest: "m".into() };
        let cause = Cause { image: Some(image), ..Cause::new(CauseKind::Operator, "r", "ann", clock::now()) };
        let view = registry.host_event("node-1", Event::Approve { cause }).await.unwrap();
        let stuck_after = |seconds| registry.read(|all| stuck(all, &view, |_| None, view.host.since + seconds));
        assert_eq!(stuck_after(24 * 3600), None);
        let seen = stuck_after(24 * 3600 + 720).expect("it is late");
        assert_eq!((seen.since, seen.late_seconds), (view.host.since, Some(720)));
        assert_eq!(
            seen.missing,
            "the machine did not ask for its boot script within 1d; no power driver could switch it; nothing was heard \
             of it"
        );
    }
}
