//! Baselines that hosts make of images whose file systems the server cannot read: who is asked for one, and what they
//! bring.
//!
//! The order of such a deploy is closed when the host is asked, so that nothing of this can fail it; its session is
//! remembered here for that long, in memory: after a restart of the server another host is asked. One host at a time
//! for each image.

use super::agent::{Speaker, foreign_address, same_protocol, speaker, unauthorised};
use super::listen::Peer;
use super::problem::Problem;
use super::{Shared, body, said, upload};
use crate::clock;
use crate::decide::host::Refusal;
use crate::image::baseline::{FromHost, HostBaselineError};
use crate::registry::{HostView, RegistryError};
use crate::wire::agent::{BaselineAnswer, BaselineHead};
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::Deserialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Hosts that are asked at a time.
const WISHES_MAX: usize = 64;
/// An image that so many hosts could not tell is left, until the server starts again.
const FAILURES_MAX: u32 = 3;
/// The most that a host is given, and the part of its group's deadline for coming back.
const SECONDS_MAX: u64 = 600;
const PART_OF_DEADLINE: u64 = 2;
/// What a host brings may come so much later.
const GRACE_SECONDS: u64 = 60;
/// The first line: an os-release of 8 KiB, each byte of it escaped.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Lists that are taken at a time: each may have a GiB on the store's disk until it was checked.
const UPLOADS_MAX: usize = 2;
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);

/// Who was asked.
#[derive(Debug)]
pub struct Wishes {
    all: Mutex<All>,
    opened: Instant,
    uploads: Semaphore,
}

#[derive(Debug, Default)]
struct All {
    asked: Vec<Wish>,
    /// Images, and how many hosts could not tell them.
    failures: Vec<(String, u32)>,
}

#[derive(Debug, Clone)]
struct Wish {
    host: String,
    generation: u64,
    session_digest: String,
    manifest: String,
    /// Seconds since `opened`.
    until: u64,
    /// It was heard; only the same words may come again.
    is_over: bool,
}

impl Wishes {
    #[must_use]
    pub fn new() -> Arc<Wishes> {
        let (all, uploads) = (Mutex::default(), Semaphore::new(UPLOADS_MAX));
        Arc::new(Wishes { all, opened: clock::instant(), uploads })
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        // Whole at every moment: a panic elsewhere cannot have spoilt it.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this host is asked now, and how many seconds it has.
    fn ask(&self, host: &str, generation: u64, session_digest: &str, manifest: &str, seconds: u64) -> Option<u64> {
        let now = self.opened.elapsed().as_secs();
        let mut all = self.lock();
        all.asked.retain(|wish| wish.until + GRACE_SECONDS > now);
        if let Some(wish) = all.asked.iter().find(|wish| wish.is_of(host, generation, session_digest)) {
            // The answer was lost on its way.
            return Some(wish.until.saturating_sub(now)).filter(|left| !wish.is_over && *left > 0);
        }
        let is_asked = all.asked.iter().any(|wish| wish.manifest == manifest && !wish.is_over);
        let is_left = all.failures.iter().any(|(image, count)| image == manifest && *count >= FAILURES_MAX);
        if is_asked || is_left || all.asked.len() >= WISHES_MAX {
            return None;
        }
        all.asked.push(Wish {
            host: host.to_owned(),
            generation,
            session_digest: session_digest.to_owned(),
            manifest: manifest.to_owned(),
            until: now + seconds,
            is_over: false,
        });
        Some(seconds)
    }

    /// The image that this session was asked for.
    fn image_of(&self, host: &str, generation: u64, session_digest: &str) -> Option<String> {
        let now = self.opened.elapsed().as_secs();
        let all = self.lock();
        let wish = all.asked.iter().find(|wish| wish.is_of(host, generation, session_digest))?;
        (wish.until + GRACE_SECONDS > now).then(|| wish.manifest.clone())
    }

    fn is_heard(&self, host: &str, generation: u64, failed: bool) {
        let mut all = self.lock();
        let wish =
            all.asked.iter_mut().find(|wish| wish.host == host && wish.generation == generation && !wish.is_over);
        let Some(wish) = wish else { return };
        wish.is_over = true;
        let manifest = wish.manifest.clone();
        if !failed {
            return;
        }
        match all.failures.iter_mut().find(|(image, _)| *image == manifest) {
            Some((_, count)) => *count += 1,
            None => {
                // The oldest goes: it costs one more try at most.
                if all.failures.len() >= WISHES_MAX {
                    all.failures.remove(0);
                }
                all.failures.push((manifest, 1));
            }
        }
    }
}

impl Wish {
    fn is_of(&self, host: &str, generation: u64, session_digest: &str) -> bool {
        self.host == host && self.generation == generation && self.session_digest == session_digest
    }
}

/// Asked when a host has said, under its session, that the image is on its disk: how many seconds it may take for the
/// list of the image's files; `None`: it is not asked. `is_sessions`: it said so under its open order's session, and not
/// again after that.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    wishes: &Wishes,
    view: &HostView,
    session_digest: &str,
    is_sessions: bool,
) -> Option<u64> {
    let host = &view.host;
    let manifest = host.reported.as_ref()?.manifest.clone();
    if !is_sessions && wishes.image_of(&host.id, host.reported_generation, session_digest).is_none() {
        return None;
    }
    let (store, wanted) = (shared.clone(), manifest.clone());
    let is_wanted = tokio::task::spawn_blocking(move || store.images.wants_host(&wanted)).await.unwrap_or(false);
    if !is_wanted {
        return None;
    }
    let deadline = shared.registry.read(|all| all.group(&host.group)).deadlines.rebooting_seconds;
    let seconds = (deadline / PART_OF_DEADLINE).min(SECONDS_MAX);
    let asked = wishes.ask(&host.id, host.reported_generation, session_digest, &manifest, seconds)?;
    tracing::info!(host = host.id, manifest, seconds = asked, "asked for the list of the image's files");
    Some(asked)
}

/// `POST /agent/v1/baseline`.
///
/// # Errors
/// 400; 401 for a session that was not asked, and from an address that is leased to another; 408; 426; 503 while too
/// many are taken or the store cannot take it, and the agent says it again.
pub async fn take(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Extension(wishes): Extension<Arc<Wishes>>,
    request: Request,
) -> Result<Json<BaselineAnswer>, Problem> {
    let mut body = request.into_body();
    let (head, rest) = head(&mut body).await?;
    let id = head.host.as_str();
    // As for reports: the lease may have run out, and then the session's secret speaks.
    if matches!(speaker(&shared, peer), Speaker::Host(leased) if leased != id)
        || matches!(speaker(&shared, peer), Speaker::Stranger)
    {
        return Err(foreign_address(peer, id));
    }
    let manifest = wishes.image_of(id, head.generation, &said::digest(&head.session));
    let manifest = manifest.ok_or_else(|| unauthorised(RegistryError::Refused(Refusal::SessionUnknown)))?;
    if let Some(reason) = &head.failed {
        wishes.is_heard(id, head.generation, true);
        return Ok(Json(failed(&shared, id, &manifest, said::failure(reason, &[])).await));
    }
    let Ok(_permit) = wishes.uploads.try_acquire() else {
        let error = "other hosts bring theirs: say it again";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error));
    };
    let reader = upload::reader_behind(rest, body, UPLOAD_TIMEOUT);
    let (store, image, host) = (shared.clone(), manifest.clone(), id.to_owned());
    let os_release = head.os_release;
    let taken = tokio::task::spawn_blocking(move || {
        let host = FromHost { id: &host, os_release: os_release.as_deref() };
        store.images.put_host_baseline(&image, host, reader, clock::now())
    });
    let passing = |error: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error);
    let taken = taken.await.map_err(|error| passing(format!("taking the baseline failed: {error}")))?;
    let answer = match taken {
        Ok(record) => {
            let digest = record.digest().unwrap_or_default();
            tracing::info!(host = id, manifest, digest, "a host told the files of an image");
            wishes.is_heard(id, head.generation, false);
            BaselineAnswer { taken: true, reason: None }
        }
        Err(HostBaselineError::Store(error)) => return Err(passing(error.to_string())),
        Err(error) => {
            let reason = said::text(&crate::causes::in_one_line(&error));
            wishes.is_heard(id, head.generation, !error.is_known());
            if error.is_known() {
                tracing::warn!(host = id, manifest, reason, "a host tells other files of an image: not taken");
                BaselineAnswer { taken: false, reason: Some(reason) }
            } else {
                failed(&shared, id, &manifest, reason).await
            }
        }
    };
    Ok(Json(answer))
}

/// Noted where people look for the baseline.
async fn failed(shared: &Arc<Shared>, host: &str, manifest: &str, reason: String) -> BaselineAnswer {
    tracing::warn!(host, manifest, reason, "a host could not tell the files of an image");
    let (store, image, id, why) = (shared.clone(), manifest.to_owned(), host.to_owned(), reason.clone());
    let noted = tokio::task::spawn_blocking(move || store.images.note_host_failure(&image, &id, &why)).await;
    if let Ok(Err(error)) = noted {
        tracing::error!(manifest, %error, "why an image has no baseline could not be noted");
    }
    BaselineAnswer { taken: false, reason: Some(reason) }
}

/// The first line, and what came behind it already.
async fn head(body: &mut Body) -> Result<(BaselineHead, Bytes), Problem> {
    /// What every version says, beside what we do not know.
    #[derive(Deserialize)]
    struct Spoken {
        protocol: u32,
    }
    let bad = |what: &str| Problem::new(StatusCode::BAD_REQUEST, what);
    let read = async {
        let mut bytes = BytesMut::new();
        loop {
            if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                let line = bytes.split_to(end + 1);
                return Ok((line.freeze(), bytes.freeze()));
            }
            if bytes.len() > HEAD_BYTES_MAX {
                return Err(bad("the first line is too long"));
            }
            let frame = body.frame().await.ok_or_else(|| bad("the body ends in its first line"))?;
            let frame = frame.map_err(|_| bad("the body was cut off"))?;
            bytes.extend_from_slice(&frame.into_data().map_err(|_| bad("a body frame without data"))?);
        }
    };
    let late = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the first line did not come");
    let (line, rest) = tokio::time::timeout(HEAD_TIMEOUT, read).await.map_err(late)??;
    if let Ok(Spoken { protocol }) = serde_json::from_slice(&line) {
        same_protocol(protocol)?;
    }
    Ok((body::parse(&line)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promises: one host at a time reads an image's files, a repeated question has the same answer, and an image that
    /// no host can tell does not hold up every deploy.
    #[test]
    fn one_host_is_asked_and_then_no_more_than_a_few_others() {
        let wishes = Wishes::new();
        assert_eq!(wishes.ask("h-1", 1, "s-1", "image", 600), Some(600));
        assert!(wishes.ask("h-1", 1, "s-1", "image", 600).is_some(), "its answer was lost");
        assert_eq!(wishes.ask("h-2", 1, "s-2", "image", 600), None);
        assert_eq!(wishes.ask("h-2", 1, "s-2", "other", 600), Some(600));
        assert_eq!(wishes.image_of("h-1", 1, "s-1").as_deref(), Some("image"));
        for (host, generation, session) in [("h-1", 1, "s-2"), ("h-1", 2, "s-1"), ("h-2", 1, "s-1"), ("h-3", 1, "")] {
            assert_eq!(wishes.image_of(host, generation, session), None, "{host} {generation} {session}");
        }
        for number in 1..=FAILURES_MAX {
            wishes.is_heard(&format!("h-{number}"), 1, true);
            wishes.is_heard(&format!("h-{number}"), 1, true);
            let next = number + 1;
            let asked = wishes.ask(&format!("h-{next}"), u64::from(next), "s", "image", 600);
            assert_eq!(asked.is_some(), next <= FAILURES_MAX, "{next}");
            wishes.lock().asked.iter_mut().for_each(|wish| wish.generation = 1);
        }
    }

    #[test]
    fn the_number_of_hosts_that_are_asked_has_an_end() {
        let wishes = Wishes::new();
        let asked = (0..200).filter(|n| wishes.ask("h", *n, "s", &n.to_string(), 600).is_some()).count();
        assert_eq!(asked, WISHES_MAX);
    }
}
