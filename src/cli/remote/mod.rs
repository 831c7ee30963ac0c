//! HTTP(S) to other places than the server's socket, by the operator's command and with his rights: images by URL, OCI
//! registries, a server that images are pushed to. The server itself fetches nothing: it would have to be told secrets,
//! and whoever may ask it would see its network instead of his own.
//!
//! hyper's bare client connection, one for each request, as for management controllers (src/power): no proxy, no cookies,
//! and redirects only where they are followed on purpose.

pub mod credentials;
pub mod oci;
pub mod oci_auth;
pub mod push;
pub mod tls;
pub mod url;

use super::Failure;
use super::client::{Body, empty};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use url::Url;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Until an answer begins; a body may take as long as it likes as long as something comes.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const SILENCE: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: u32 = 5;
/// Of an error's text that is shown.
const SAID_BYTES_MAX: usize = 64 << 10;

/// What could not be reached may be there in a moment; what was said is said.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("cannot reach {place}: {why}")]
    NotReached { place: String, why: String },
    #[error("{place} said {status}: {said}")]
    Said { place: String, status: StatusCode, said: String },
    #[error("{place}: {why}")]
    Odd { place: String, why: String },
}

/// How other places are reached.
pub struct Remote {
    tls: TlsConnector,
}

impl Remote {
    /// Trusts the authorities in `ca` (PEM), or those of the system.
    ///
    /// # Errors
    /// Where there are none.
    pub fn new(ca: Option<&Path>) -> Result<Remote, Failure> {
        Ok(Remote { tls: tls::connector(ca)? })
    }

    /// One request, whatever the answer is.
    ///
    /// # Errors
    /// [`RemoteError::NotReached`].
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
        body: Body,
        patience: Duration,
    ) -> Result<Response<Incoming>, RemoteError> {
        let not_reached = |why: String| RemoteError::NotReached { place: url.place(), why };
        let odd = |why: String| RemoteError::Odd { place: url.place(), why };
        let mut request = Request::builder().method(method).uri(&url.path);
        request =
            request.header(HOST, url.authority()).header(USER_AGENT, concat!("regild/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(body).map_err(|error| odd(error.to_string()))?;
        let connect = async {
            let tcp = TcpStream::connect((url.host.as_str(), url.port))
                .await
                .map_err(|error| not_reached(error.to_string()))?;
            let _ = tcp.set_nodelay(true);
            let stream: Box<dyn Stream> = if url.tls {
                let name = ServerName::try_from(url.host.clone()).map_err(|error| odd(error.to_string()))?;
                let stream = self.tls.connect(name, tcp).await;
                Box::new(stream.map_err(|error| not_reached(format!("TLS: {error}")))?)
            } else {
                Box::new(tcp)
            };
            Ok(stream)
        };
        let late = |_| not_reached(format!("nothing for {} s", CONNECT_TIMEOUT.as_secs()));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(late)??;
        let broke = |error: hyper::Error| not_reached(crate::causes::in_one_line(&error));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
        // It ends with the answer's body, or when that is dropped.
        tokio::spawn(connection);
        let answer = tokio::time::timeout(patience, sender.send_request(request)).await;
        answer.map_err(|_| not_reached(format!("no answer for {} s", patience.as_secs())))?.map_err(broke)
    }

    /// Follows a bounded number of redirects: never from TLS to plain HTTP, and never with credentials to another host
    /// (faults.md R18).
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn get(
        &self,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<(Url, Response<Incoming>), RemoteError> {
        let mut at = url.clone();
        let mut headers = headers.to_vec();
        headers.push((ACCEPT_ENCODING, HeaderValue::from_static("identity")));
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send(Method::GET, &at, &headers, empty(), ANSWER_TIMEOUT).await?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((at, answer));
            }
            let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
            let odd = |why: String| RemoteError::Odd { place: at.place(), why };
            let next = at.join(to).map_err(|why| odd(format!("it redirects to what is no URL: {why}")))?;
            if at.tls && !next.tls {
                return Err(odd(format!("it redirects from https to plain http ({})", next.place())));
            }
            if next.authority() != at.authority() || next.tls != at.tls {
                headers.retain(|(name, _)| *name != AUTHORIZATION);
            }
            at = next;
        }
        Err(RemoteError::Odd { place: url.place(), why: format!("more than {REDIRECTS_MAX} redirects") })
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The answer, if it is one of success.
///
/// # Errors
/// [`RemoteError::Said`] with what the body says.
pub async fn success(url: &Url, answer: Response<Incoming>) -> Result<Response<Incoming>, RemoteError> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status();
    Err(RemoteError::Said { place: url.place(), status, said: said(answer).await })
}

/// Our own sentence where there is one, else the first line of text; nothing that steers a terminal.
async fn said(answer: Response<Incoming>) -> String {
    let body = whole(answer, SAID_BYTES_MAX).await.unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let sentence = json["error"].as_str().or(json["errors"][0]["message"].as_str());
    let text = String::from_utf8_lossy(&body);
    let sentence = sentence.unwrap_or(text.lines().next().unwrap_or_default());
    sentence.chars().filter(|c| !c.is_control()).take(500).collect()
}

/// A body of bounded length.
///
/// # Errors
/// Why it is not whole.
pub async fn whole(answer: Response<Incoming>, bytes_max: usize) -> Result<Bytes, String> {
    let body = tokio::time::timeout(ANSWER_TIMEOUT, Limited::new(answer.into_body(), bytes_max).collect()).await;
    match body {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it took too long".to_string()),
    }
}

/// A body as it comes in; silence for too long is an error, and so is an end before its length.
pub struct Incomings {
    body: Incoming,
    silence: Pin<Box<Sleep>>,
}

impl Incomings {
    /// Inside a runtime.
    pub fn new(body: Incoming) -> Incomings {
        Incomings { body, silence: Box::pin(tokio::time::sleep(SILENCE)) }
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        use hyper::body::Body as _;
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => {
                let silent = self.silence.as_mut().poll(context);
                let late = || io::Error::new(io::ErrorKind::TimedOut, "the download stopped: nothing came for 60 s");
                silent.map(|()| Some(Err(late())))
            }
            Poll::Ready(frame) => {
                self.silence.as_mut().reset(Instant::from_std(crate::clock::instant()) + SILENCE);
                let cut = |error: hyper::Error| {
                    io::Error::other(format!("the download broke off: {}", crate::causes::in_one_line(&error)))
                };
                Poll::Ready(
                    frame.map(|frame| {
                        frame.map_err(cut).map(|frame: Frame<Bytes>| frame.into_data().unwrap_or_default())
                    }),
                )
            }
        }
    }
}
