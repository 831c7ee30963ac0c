//! Images over HTTP from the regild server.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /images/refs/NAME:VERSION` | `{"manifest": "<digest>"}` |
//! | `GET /images/manifests/<digest>` | the encoded manifest |
//! | `GET /images/packs/<id>` with `Range: bytes=a-b` | 206 and exactly that range |

use std::io::Read;
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::source::{ImageSource, SourceError};
use crate::wire::manifest;
use crate::wire::reference::ImageRef;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the request to the first byte of the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two bytes of the answer: a server that stalls is asked again.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
const REF_ANSWER_BYTES_MAX: u64 = 64 << 10;

/// A server at a base URL, `http://192.0.2.1:8080`.
#[derive(Debug)]
pub struct HttpSource {
    agent: Agent,
    base: String,
}

impl HttpSource {
    #[must_use]
    pub fn new(base_url: &str) -> HttpSource {
        HttpSource::within(base_url, None)
    }

    /// With an end for every answer, from the request to its last byte: for what one can do without.
    #[must_use]
    pub fn within(base_url: &str, answer_timeout: Option<Duration>) -> HttpSource {
        let config = Agent::config_builder()
            .timeout_global(answer_timeout)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(STALL_TIMEOUT))
            // Bytes come from the server that the machine was booted by, or not at all.
            .max_redirects(0)
            .proxy(None)
            .http_status_as_error(false)
            .build();
        HttpSource { agent: config.new_agent(), base: base_url.trim_end_matches('/').to_owned() }
    }

    fn get(&self, url: &str, range: Option<&Range<u64>>) -> Result<Response<Body>, SourceError> {
        let mut request = self.agent.get(url);
        if let Some(range) = range {
            request = request.header("Range", format!("bytes={}-{}", range.start, range.end - 1));
        }
        let response = request.call().map_err(unreachable(url))?;
        let wanted = if range.is_some() { 206 } else { 200 };
        match response.status().as_u16() {
            status if status == wanted => Ok(response),
            status => Err(SourceError::Status { url: url.to_owned(), status }),
        }
    }

    fn get_whole(&self, url: &str, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        let mut body = Vec::new();
        let mut reader = self.get(url, None)?.into_body().into_reader().take(max_bytes + 1);
        reader.read_to_end(&mut body).map_err(unreachable(url))?;
        if body.len() as u64 > max_bytes {
            return Err(answer(url, format!("more than {max_bytes} bytes")));
        }
        Ok(body)
    }
}

impl HttpSource {
    /// A file by its path, as it comes, into `to`.
    ///
    /// # Errors
    /// [`SourceError`]; what was written until then is to be thrown away.
    pub fn copy(&self, path: &str, bytes_max: u64, mut to: impl std::io::Write) -> Result<(), SourceError> {
        let url = format!("{}{path}", self.base);
        let mut reader = self.get(&url, None)?.into_body().into_reader().take(bytes_max + 1);
        let copied = std::io::copy(&mut reader, &mut to).map_err(unreachable(&url))?;
        if copied > bytes_max {
            return Err(answer(&url, format!("more than {bytes_max} bytes")));
        }
        Ok(())
    }
}

impl ImageSource for HttpSource {
    fn resolve(&self, image: &ImageRef) -> Result<String, SourceError> {
        #[derive(Deserialize)]
        struct Resolved {
            manifest: String,
        }
        let url = format!("{}/images/refs/{image}", self.base);
        let body = self.get_whole(&url, REF_ANSWER_BYTES_MAX)?;
        let resolved: Resolved = serde_json::from_slice(&body).map_err(|e| answer(&url, e.to_string()))?;
        if manifest::from_hex(&resolved.manifest).is_none() {
            return Err(answer(&url, "what it calls a manifest is no digest".to_owned()));
        }
        Ok(resolved.manifest)
    }

    fn manifest(&self, digest: &str) -> Result<Vec<u8>, SourceError> {
        let url = format!("{}/images/manifests/{digest}", self.base);
        self.get_whole(&url, manifest::ENCODED_BYTES_MAX as u64)
    }

    fn range(&self, pack: &str, range: Range<u64>) -> Result<Vec<u8>, SourceError> {
        let url = format!("{}/images/packs/{pack}", self.base);
        let response = self.get(&url, Some(&range))?;
        let got = response.headers().get("content-range").and_then(|value| value.to_str().ok());
        let wanted = format!("bytes {}-{}/", range.start, range.end - 1);
        if !got.is_some_and(|got| got.starts_with(&wanted)) {
            let got = got.unwrap_or("no range").chars().take(80).collect::<String>();
            return Err(answer(&url, format!("{got:?} where {wanted:?} was asked for")));
        }
        // The caller bounds the range to some MiB.
        let len = (range.end - range.start) as usize;
        let mut bytes = Vec::with_capacity(len);
        let mut reader = response.into_body().into_reader().take(len as u64 + 1);
        reader.read_to_end(&mut bytes).map_err(unreachable(&url))?;
        match bytes.len() {
            got if got == len => Ok(bytes),
            // The connection ended early without an error: ask again.
            got if got < len => Err(unreachable(&url)(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))),
            _ => Err(answer(&url, format!("more than the {len} bytes that were asked for"))),
        }
    }
}

fn unreachable<E: std::error::Error + Send + Sync + 'static>(url: &str) -> impl FnOnce(E) -> SourceError {
    move |e| SourceError::Unreachable { url: url.to_owned(), source: Box::new(e) }
}

fn answer(url: &str, reason: String) -> SourceError {
    SourceError::Answer { url: url.to_owned(), reason }
}
