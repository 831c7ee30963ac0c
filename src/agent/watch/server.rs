//! The server as this service sees it: terms, key, reports, baselines (`wire::drift`).

use crate::wire::baseline::{self, BaselineError};
use crate::wire::drift::{KeyTaken, NewKey, Received, Signed, Terms};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the request to the first byte of the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Rules of a policy: some hundred bytes each.
pub(super) const TERMS_BYTES_MAX: u64 = 4 << 20;
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// A million files have about 60 MB of baseline.
const BASELINE_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{url} does not answer")]
    Silent { url: String, source: ureq::Error },
    #[error("{url} says {status}: {said}")]
    Refused { url: String, status: u16, said: String },
    #[error("{url} gives an answer that is not understood")]
    Answer { url: String, source: serde_json::Error },
    #[error("the baseline of {url} cannot be used")]
    Baseline { url: String, source: BaselineError },
    #[error("{url} has more than {BASELINE_BYTES_MAX} bytes; no baseline of ours has")]
    TooLong { url: String },
}

impl AskError {
    /// Whether asking again could help: nobody answered, or the server is busy or broken.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            AskError::Silent { .. } => true,
            AskError::Refused { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
            AskError::Answer { .. } | AskError::Baseline { .. } | AskError::TooLong { .. } => false,
        }
    }

    pub(super) fn status(&self) -> Option<u16> {
        match self {
            AskError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Server {
    http: Agent,
    base: String,
}

impl Server {
    pub(super) fn new(base_url: &str) -> Server {
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(STALL_TIMEOUT))
            .max_redirects(0)
            // A proxy that the image sets for its packages must not see this.
            .proxy(None)
            // Hours lie between two questions, and a connection that is kept is memory on both sides.
            .max_idle_connections(0)
            .http_status_as_error(false);
        Server { http: config.build().new_agent(), base: base_url.trim_end_matches('/').to_owned() }
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// # Errors
    /// [`AskError`].
    pub(super) fn terms(&self) -> Result<Terms, AskError> {
        let url = format!("{}/agent/v1/drift/terms", self.base);
        let answer = self.http.get(&url).call();
        read(&url, answer, TERMS_BYTES_MAX)
    }

    /// # Errors
    /// [`AskError`].
    pub(super) fn enrol(&self, key: &NewKey) -> Result<KeyTaken, AskError> {
        self.post("/agent/v1/drift/key", key)
    }

    /// # Errors
    /// [`AskError`].
    pub(super) fn report(&self, report: &Signed) -> Result<Received, AskError> {
        self.post("/agent/v1/drift/report", report)
    }

    fn post<A: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<A, AskError> {
        let url = format!("{}{path}", self.base);
        let body = serde_json::to_vec(body).map_err(|source| AskError::Answer { url: url.clone(), source })?;
        let answer = self.http.post(&url).content_type("application/json").send(&body[..]);
        read(&url, answer, ANSWER_BYTES_MAX)
    }

    /// Into `file`, and checked against the digest that names it; synced.
    ///
    /// # Errors
    /// [`AskError`]; what the file system says is in it.
    pub(super) fn baseline(&self, digest: &str, file: &mut File) -> Result<(), AskError> {
        let url = format!("{}/images/baselines/{digest}", self.base);
        let wrong = |source: BaselineError| AskError::Baseline { url: url.clone(), source };
        let answer = self.http.get(&url).call();
        let answer = accepted(&url, answer)?;
        let mut body = answer.into_body().into_reader().take(BASELINE_BYTES_MAX + 1);
        let copied = io::copy(&mut body, file).map_err(|error| wrong(error.into()))?;
        if copied > BASELINE_BYTES_MAX {
            return Err(AskError::TooLong { url });
        }
        let checked = |file: &mut File| {
            file.sync_all()?;
            file.seek(SeekFrom::Start(0))?;
            baseline::check_digest(file, digest)
        };
        checked(file).map_err(wrong)
    }
}

fn accepted(url: &str, answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, AskError> {
    let silent = |source| AskError::Silent { url: url.to_owned(), source };
    let mut answer = answer.map_err(silent)?;
    let status = answer.status().as_u16();
    if status == 200 {
        return Ok(answer);
    }
    let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).lossy_utf8(true).read_to_string();
    let said = text.map_err(silent)?.chars().filter(|c| !c.is_control()).take(300).collect();
    Err(AskError::Refused { url: url.to_owned(), status, said })
}

fn read<A: DeserializeOwned>(
    url: &str,
    answer: Result<Response<Body>, ureq::Error>,
    bytes_max: u64,
) -> Result<A, AskError> {
    let mut answer = accepted(url, answer)?;
    let bytes = answer.body_mut().with_config().limit(bytes_max).read_to_vec();
    let bytes = bytes.map_err(|source| AskError::Silent { url: url.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| AskError::Answer { url: url.to_owned(), source })
}
