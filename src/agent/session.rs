//! The agent's conversation with the server: check in once, then report until the end.

use super::orders::Orders;
use crate::clock;
use crate::wire::agent::{
    BaselineAnswer, BaselineHead, CheckIn, Event, Inventory, Job, PROTOCOL, Progress, Report, ReportAnswer,
};
use crate::wire::operator::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use ureq::http::Response;
use ureq::{Body, SendBody};

/// How long a report is said again while the server does not answer: longer than any restart of it.
const PATIENCE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Why the conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the server did not answer for {} s: {last}", PATIENCE.as_secs())]
    Silent { last: String },
    #[error("the server refused ({status}): {said}")]
    Refused { status: u16, said: String },
    #[error("the order is over: {reason}")]
    Over { reason: String },
}

/// The way to the server that this machine was booted by.
#[derive(Debug)]
pub(super) struct Channel {
    http: ureq::Agent,
    server: String,
}

/// A claimed attempt.
#[derive(Debug)]
pub struct Session {
    channel: Channel,
    orders: Orders,
    secret: String,
    /// What the progress thread sends next; only the newest matters.
    newest: Mutex<Option<Progress>>,
    /// Set when the server says that the order is over: no further write.
    over: AtomicBool,
    done: AtomicBool,
}

impl Session {
    /// Claims the token and takes the job.
    ///
    /// # Errors
    /// [`SessionError`]: with a dead token the agent has nothing to do here.
    pub fn open(orders: Orders, uefi: bool, inventory: Inventory) -> Result<(Arc<Session>, Job), SessionError> {
        let session = Session {
            channel: Channel::new(&orders.server),
            secret: clock::random_hex::<32>(),
            orders,
            newest: Mutex::new(None),
            over: AtomicBool::new(false),
            done: AtomicBool::new(false),
        };
        let check_in = CheckIn {
            protocol: PROTOCOL,
            host: session.orders.host.clone(),
            generation: session.orders.generation,
            token: session.orders.token.clone(),
            session: session.secret.clone(),
            uefi,
            inventory,
        };
        let job = session.channel.persist("/agent/v1/checkin", &check_in)?;
        Ok((Arc::new(session), job))
    }

    #[must_use]
    pub fn server(&self) -> &str {
        &self.orders.server
    }

    /// Whether the server has ended the order.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Says something that must arrive: it is repeated until the server has it on stable storage.
    ///
    /// # Errors
    /// [`SessionError::Over`] when the order was closed meanwhile, [`SessionError::Refused`] when another attempt
    /// began; the agent then writes nothing more.
    pub fn say(&self, event: Event) -> Result<ReportAnswer, SessionError> {
        let answer = self.channel.persist("/agent/v1/report", &self.report(event));
        self.heed(answer)
    }

    /// Hands over the list of the image's files that the server asked for, or says why there is none. Repeated for as
    /// long as `patience`.
    ///
    /// # Errors
    /// [`SessionError`]; another host makes it, then.
    pub fn bring_baseline(
        &self,
        os_release: Option<String>,
        list: Result<&File, String>,
        patience: Duration,
    ) -> Result<BaselineAnswer, SessionError> {
        let (list, failed) = match list {
            Ok(list) => (Some(list), None),
            Err(reason) => (None, Some(reason)),
        };
        let (host, session) = (self.orders.host.clone(), self.secret.clone());
        let generation = self.orders.generation;
        let head = BaselineHead { protocol: PROTOCOL, host, generation, session, os_release, failed };
        let began = clock::instant();
        loop {
            let left = patience.saturating_sub(began.elapsed()).max(PAUSE);
            match self.channel.upload("/agent/v1/baseline", &head, list, left) {
                Err(SessionError::Silent { last }) if began.elapsed() < patience => {
                    eprintln!("regild-agent: {last}; trying again");
                    clock::sleep(PAUSE);
                }
                other => return other,
            }
        }
    }

    #[must_use]
    pub fn host(&self) -> &str {
        &self.orders.host
    }

    /// Notes progress; the progress thread sends the newest.
    pub fn progress(&self, progress: Progress) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    /// Sends progress twice a second from a thread of its own, so that a slow answer never slows the disk.
    pub fn start_progress(self: &Arc<Session>) -> std::thread::JoinHandle<()> {
        let session = self.clone();
        std::thread::spawn(move || {
            while !session.done.load(Ordering::Relaxed) && !session.is_over() {
                let newest = session.newest.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(progress) = newest {
                    let report = session.report(Event::Progress { progress });
                    // Progress may get lost: the next one says more. What the server answers is heeded.
                    let _ = session.heed(session.channel.post("/agent/v1/report", &report));
                }
                clock::sleep(PROGRESS_EVERY);
            }
        })
    }

    /// Ends the order on our side: no further write.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Ends the progress thread.
    pub fn close(&self) {
        self.done.store(true, Ordering::Relaxed);
    }

    fn report(&self, event: Event) -> Report {
        let (host, session) = (self.orders.host.clone(), self.secret.clone());
        Report { protocol: PROTOCOL, host, generation: self.orders.generation, session, event }
    }

    /// Ends the order on our side when the server says that it is over, or that we are not who carries it out.
    fn heed(&self, answer: Result<ReportAnswer, SessionError>) -> Result<ReportAnswer, SessionError> {
        let error = match answer {
            Ok(answer) if answer.go_on => return Ok(answer),
            Ok(answer) => SessionError::Over { reason: answer.reason.unwrap_or_default() },
            Err(error @ SessionError::Refused { .. }) => error,
            Err(passing) => return Err(passing),
        };
        self.end();
        Err(error)
    }
}

impl Channel {
    pub fn new(server: &str) -> Channel {
        let config =
            ureq::Agent::config_builder().timeout_global(Some(ANSWER_TIMEOUT)).http_status_as_error(false).build();
        Channel { http: config.into(), server: server.to_string() }
    }

    /// Says something until it is answered.
    pub fn persist<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, SessionError> {
        let began = clock::instant();
        loop {
            match self.post(path, body) {
                Err(SessionError::Silent { last }) if began.elapsed() < PATIENCE => {
                    eprintln!("regild-agent: {last}; trying again");
                    clock::sleep(PAUSE);
                }
                other => return other,
            }
        }
    }

    /// One try. Whatever may pass by itself (no answer, 5xx, a body that got stuck on its way, too many wrong
    /// credentials from our address before) is `Silent`.
    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, SessionError> {
        let silent = |error: &dyn std::fmt::Display| SessionError::Silent { last: error.to_string() };
        let url = format!("{}{path}", self.server);
        let bytes = serde_json::to_vec(body).map_err(|error| silent(&error))?;
        answer_of(self.http.post(&url).send(&bytes[..]))
    }

    /// One try, of a line and a file.
    fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        head: &impl Serialize,
        file: Option<&File>,
        within: Duration,
    ) -> Result<T, SessionError> {
        let silent = |error: &dyn std::fmt::Display| SessionError::Silent { last: error.to_string() };
        let mut line = serde_json::to_vec(head).map_err(|error| silent(&error))?;
        line.push(b'\n');
        let mut file = file;
        if let Some(file) = &mut file {
            file.rewind().map_err(|error| silent(&error))?;
        }
        let mut body: Box<dyn Read> = match &mut file {
            Some(file) => Box::new(io::Cursor::new(line).chain(file)),
            None => Box::new(io::Cursor::new(line)),
        };
        let url = format!("{}{path}", self.server);
        let post = self.http.post(&url).config().timeout_global(Some(within)).build();
        answer_of(post.send(SendBody::from_reader(&mut body)))
    }
}

fn answer_of<T: DeserializeOwned>(answer: Result<Response<Body>, ureq::Error>) -> Result<T, SessionError> {
    let silent = |error: &dyn std::fmt::Display| SessionError::Silent { last: error.to_string() };
    let mut answer = answer.map_err(|error| silent(&error))?;
    let status = answer.status().as_u16();
    let text = answer.body_mut().read_to_string().map_err(|error| silent(&error))?;
    match status {
        200..=299 => serde_json::from_str(&text).map_err(|error| silent(&error)),
        408 | 429 | 500..=599 => Err(SessionError::Silent { last: format!("the server said {status}: {text}") }),
        _ => {
            let said = serde_json::from_str::<Problem>(&text).map_or(text, |problem| problem.error);
            Err(SessionError::Refused { status, said })
        }
    }
}
