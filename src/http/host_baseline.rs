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
use crate::causes;
use crate::clock;
use crate::decide::host::Refusal;
use crate::image::baseline::{FromHost, HostBaselineError};
use crate::image::{ImageStore, StoreError};
use crate::registry::{HostView, RegistryError};
use crate::wire::agent::{BaselineAnswer, BaselineHead};
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::Deserialize;
use std::io::Read;
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
/// Not asked with less: the agent keeps a minute of it for handing over.
const SECONDS_MIN: u64 = 120;
/// What a host brings may come so much later.
const GRACE_SECONDS: u64 = 60;
/// The first line: an os-release of 8 KiB, each byte of it escaped.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Lists that are taken at a time: each may have 256 MiB on the store's disk until it was checked.
const UPLOADS_MAX: usize = 2;
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);

/// Who was asked.
#[derive(Debug)]
pub struct Wishes {
    all: Mutex<All>,
    opened: Instant,
    uploads: Arc<Semaphore>,
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
        let (all, uploads) = (Mutex::default(), Arc::new(Semaphore::new(UPLOADS_MAX)));
        Arc::new(Wishes { all, opened: clock::instant(), uploads })
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        // Whole at every moment: a panic elsewhere cannot have spoilt it.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since this was made.
    fn now(&self) -> u64 {
        self.opened.elapsed().as_secs()
    }

    /// Forgets whose time is over, and counts those that were never heard as failures: a machine that the reading hangs
    /// or kills says nothing. These.
    fn lapsed(&self, now: u64) -> Vec<Wish> {
        let mut all = self.lock();
        let (open, over): (Vec<Wish>, Vec<Wish>) =
            std::mem::take(&mut all.asked).into_iter().partition(|wish| wish.until + GRACE_SECONDS > now);
        all.asked = open;
        let unheard: Vec<Wish> = over.into_iter().filter(|wish| !wish.is_over).collect();
        unheard.iter().for_each(|wish| all.count_failure(&wish.manifest));
        unheard
    }

    /// Forgets which hosts could not tell an image.
    pub(super) fn try_again(&self, manifest: &str) {
        self.lock().failures.retain(|(image, _)| image != manifest);
    }

    /// Whether this image's next failure is the last one.
    fn is_last(&self, manifest: &str) -> bool {
        self.lock().failures_of(manifest) + 1 >= FAILURES_MAX
    }

    /// Whether this host is asked now, and how many seconds it has.
    fn ask(&self, host: &str, generation: u64, session_digest: &str, manifest: &str, seconds: u64) -> Option<u64> {
        let now = self.now();
        let mut all = self.lock();
        if let Some(wish) = all.asked.iter().find(|wish| wish.is_of(host, generation, session_digest)) {
            // The answer was lost on its way.
            return Some(wish.until.saturating_sub(now)).filter(|left| !wish.is_over && *left > 0);
        }
        let is_asked = all.asked.iter().any(|wish| wish.manifest == manifest && !wish.is_over);
        if is_asked || all.failures_of(manifest) >= FAILURES_MAX || all.asked.len() >= WISHES_MAX {
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
        let now = self.now();
        let all = self.lock();
        let wish = all.asked.iter().find(|wish| wish.is_of(host, generation, session_digest))?;
        (wish.until + GRACE_SECONDS > now).then(|| wish.manifest.clone())
    }

    /// Whether that was news: a host's first word counts, and what it says after that only repeats it.
    fn is_heard(&self, host: &str, generation: u64, failed: bool) -> bool {
        let mut all = self.lock();
        let wish =
            all.asked.iter_mut().find(|wish| wish.host == host && wish.generation == generation && !wish.is_over);
        let Some(wish) = wish else { return false };
        wish.is_over = true;
        let manifest = wish.manifest.clone();
        if failed {
            all.count_failure(&manifest);
        }
        true
    }
}

impl All {
    fn failures_of(&self, manifest: &str) -> u32 {
        self.failures.iter().find(|(image, _)| image == manifest).map_or(0, |(_, count)| *count)
    }

    fn count_failure(&mut self, manifest: &str) {
        match self.failures.iter_mut().find(|(image, _)| image == manifest) {
            Some((_, count)) => *count += 1,
            None => {
                // The oldest goes: it costs one more try at most.
                if self.failures.len() >= WISHES_MAX {
                    self.failures.remove(0);
                }
                self.failures.push((manifest.to_owned(), 1));
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
    let (store, wanted, lapsed) = (shared.clone(), manifest.clone(), wishes.lapsed(wishes.now()));
    let is_wanted = tokio::task::spawn_blocking(move || {
        for wish in lapsed {
            note(&store.images, &wish.host, &wish.manifest, "it was asked, and said nothing");
        }
        store.images.wants_host(&wanted)
    });
    if !is_wanted.await.unwrap_or(false) {
        return None;
    }
    let deadline = shared.registry.read(|all| all.group(&host.group)).deadlines.rebooting_seconds;
    let seconds = (deadline / PART_OF_DEADLINE).min(SECONDS_MAX);
    if seconds < SECONDS_MIN {
        return None;
    }
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
    let passing = |error: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error);
    if let Some(reason) = &head.failed {
        let reason = said::failure(reason, &[]);
        if wishes.is_heard(id, head.generation, true) {
            let (host, why) = (id.to_owned(), reason.clone());
            // Noted or not, the host goes on.
            let _ = tokio::task::spawn_blocking(move || note(&shared.images, &host, &manifest, &why)).await;
        }
        return Ok(Json(BaselineAnswer { taken: false, reason: Some(reason) }));
    }
    let Ok(permit) = wishes.uploads.clone().try_acquire_owned() else {
        return Err(passing("other hosts bring theirs: say it again".to_owned()));
    };
    let reader = upload::reader_behind(rest, body, UPLOAD_TIMEOUT);
    // The work goes on when the host has gone, and with it what it takes up and what came of it.
    let taken = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        store(&shared.images, &wishes, &head, &manifest, reader)
    });
    let taken = taken.await.map_err(|error| passing(format!("taking the baseline failed: {error}")))?;
    taken.map(Json).map_err(|error| passing(error.to_string()))
}

/// Takes a list, and keeps what came of it; an error is none of the host's, who says it again.
fn store(
    images: &ImageStore,
    wishes: &Wishes,
    head: &BaselineHead,
    manifest: &str,
    list: impl Read,
) -> Result<BaselineAnswer, StoreError> {
    let id = head.host.as_str();
    let host = FromHost { id, os_release: head.os_release.as_deref(), is_last: wishes.is_last(manifest) };
    match images.put_host_baseline(manifest, host, list, clock::now()) {
        Ok(record) => {
            let digest = record.digest().unwrap_or_default();
            tracing::info!(host = id, manifest, digest, "a host told the files of an image");
            wishes.is_heard(id, head.generation, false);
            Ok(BaselineAnswer { taken: true, reason: None })
        }
        Err(HostBaselineError::Store(error)) => Err(error),
        Err(error) => {
            let reason = said::text(&causes::in_one_line(&error));
            let is_news = wishes.is_heard(id, head.generation, !error.is_known());
            if error.is_known() {
                tracing::warn!(host = id, manifest, reason, "a host tells other files of an image: not taken");
            } else if is_news {
                note(images, id, manifest, &reason);
            }
            Ok(BaselineAnswer { taken: false, reason: Some(reason) })
        }
    }
}

/// Where people look for the baseline.
fn note(images: &ImageStore, host: &str, manifest: &str, reason: &str) {
    tracing::warn!(host, manifest, reason, "a host could not tell the files of an image");
    if let Err(error) = images.note_host_failure(manifest, host, reason) {
        tracing::error!(manifest, %error, "why an image has no baseline could not be noted");
    }
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
        assert_eq!(wishes.ask("h-9", 1, "s-9", "other", 600), Some(600));
        assert_eq!(wishes.image_of("h-1", 1, "s-1").as_deref(), Some("image"));
        for (host, generation, session) in [("h-1", 1, "s-2"), ("h-1", 2, "s-1"), ("h-2", 1, "s-1"), ("h-3", 1, "")] {
            assert_eq!(wishes.image_of(host, generation, session), None, "{host} {generation} {session}");
        }
        for number in 1..=FAILURES_MAX {
            assert_eq!(wishes.is_last("image"), number == FAILURES_MAX);
            assert!(wishes.is_heard(&format!("h-{number}"), 1, true));
            assert!(!wishes.is_heard(&format!("h-{number}"), 1, true), "no news, and not counted");
            let next = number + 1;
            let asked = wishes.ask(&format!("h-{next}"), u64::from(next), "s", "image", 600);
            assert_eq!(asked.is_some(), next <= FAILURES_MAX, "{next}");
            wishes.lock().asked.iter_mut().for_each(|wish| wish.generation = 1);
        }
    }

    /// A machine that hangs over an image's file systems is never heard: the image does not hang the whole fleet.
    #[test]
    fn a_host_that_is_never_heard_counts_as_one_that_could_not() {
        let wishes = Wishes::new();
        for number in 1..=u64::from(FAILURES_MAX) {
            assert_eq!(wishes.ask("h", number, "s", "image", 600), Some(600), "{number}");
            assert!(wishes.lapsed(600).is_empty(), "its answer may be on its way");
            let lapsed = wishes.lapsed(600 + GRACE_SECONDS + 60);
            assert_eq!(lapsed.iter().map(|wish| wish.generation).collect::<Vec<_>>(), [number]);
        }
        assert_eq!(wishes.ask("h", 9, "s", "image", 600), None);
        assert_eq!(wishes.ask("h", 9, "s", "other", 600), Some(600));
        assert!(wishes.is_heard("h", 9, false));
        assert!(wishes.lapsed(10_000).is_empty(), "one that was heard is no failure");
        assert_eq!(wishes.ask("h", 10, "s", "other", 600), Some(600));
    }

    #[test]
    fn the_number_of_hosts_that_are_asked_has_an_end() {
        let wishes = Wishes::new();
        let asked = (0..200).filter(|n| wishes.ask("h", *n, "s", &n.to_string(), 600).is_some()).count();
        assert_eq!(asked, WISHES_MAX);
    }
}
