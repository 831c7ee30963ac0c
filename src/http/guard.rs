//! The door in front of the agent's routes: a source that names wrong credentials again and again is not listened
//! to for a while (faults.md X1).

use super::listen::Peer;
use super::problem::Problem;
use crate::clock;
use crate::decide::guesses::{Guesses, Verdict};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Who was refused how often, on this listener.
#[derive(Debug)]
pub struct Door {
    guesses: Mutex<Guesses>,
    /// Answers that say that the credentials were wrong.
    wrong: &'static [StatusCode],
    /// Lockouts are measured by the monotonic clock: setting the wall clock neither ends nor prolongs one.
    opened: Instant,
}

impl Door {
    /// Of the routes where a token is for one boot: 409 is one that is over, or was never right.
    #[must_use]
    pub fn of_boots() -> Arc<Door> {
        Door::new(&[StatusCode::UNAUTHORIZED, StatusCode::CONFLICT])
    }

    /// Of the routes where only a signature or an address can be wrong. A 409 there is a report that was taken before, or
    /// is about another baseline: a relay with hundreds of hosts behind one address has many of these after an update.
    #[must_use]
    pub fn of_signatures() -> Arc<Door> {
        Door::new(&[StatusCode::UNAUTHORIZED])
    }

    fn new(wrong: &'static [StatusCode]) -> Arc<Door> {
        Arc::new(Door { guesses: Mutex::default(), wrong, opened: clock::instant() })
    }

    /// Whether this source is heard. It counts as wrong until [`Door::was_right`] takes that back.
    ///
    /// # Errors
    /// The answer for one that is locked out: 429 with Retry-After.
    pub fn begin(&self, source: IpAddr) -> Result<(), Box<Response>> {
        let verdict = self.guesses().begin(source, self.opened.elapsed().as_secs());
        let Verdict::LockedOut { seconds, is_news } = verdict else { return Ok(()) };
        if is_news {
            tracing::warn!(%source, seconds, "locked out: too many wrong credentials");
        }
        let said = format!("too many wrong credentials from {source}; try again in {seconds} s");
        let mut answer = Problem::new(StatusCode::TOO_MANY_REQUESTS, said).into_response();
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        Err(Box::new(answer))
    }

    pub fn was_right(&self, source: IpAddr) {
        self.guesses().was_right(source);
    }

    fn guesses(&self) -> MutexGuard<'_, Guesses> {
        // Numbers that are valid at every moment: a panic elsewhere cannot have spoilt them.
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a request through, and counts it when its answer is one for wrong credentials.
/// A locked-out source gets 429 with Retry-After, right or wrong.
pub async fn bounded_guesses(
    State(door): State<Arc<Door>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let source = peer.remote.ip();
    if let Err(locked_out) = door.begin(source) {
        return *locked_out;
    }
    let answer = next.run(request).await;
    if !door.wrong.contains(&answer.status()) {
        door.was_right(source);
    }
    answer
}
