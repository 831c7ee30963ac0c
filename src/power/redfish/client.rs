//! HTTP/1.1 to one controller: one connection for each request, to the host and port of the settings, wherever the
//! answers point. No redirect is followed, no cookie kept, no proxy asked (faults.md R18: Ironic sent credentials to
//! another host on redirect, CVE-2026-42997).
//!
//! hyper's bare client connection, because it is in the tree and does nothing else than this.

use std::future::Future;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::header::{ETAG, IF_MATCH, LOCATION, RETRY_AFTER};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::rustls::pki_types::ServerName;
use zeroize::Zeroizing;

use super::tls::Tls;
use crate::power::PowerError;
use crate::power::attempt::Limits;
use crate::power::error::printable;
use crate::power::place::BaseUrl;
use crate::power::seal::Secret;
use crate::power::settings::Redfish;

/// A ComputerSystem has some 20 KiB.
const BODY_BYTES_MAX: usize = 2 << 20;
const PATH_BYTES_MAX: usize = 1024;
const ODATA_VERSION: HeaderName = HeaderName::from_static("odata-version");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Patch,
    Post,
}

pub(super) struct Client {
    /// For messages.
    pub place: String,
    url: BaseUrl,
    user: String,
    tls: Option<Tls>,
    authorization: HeaderValue,
    password: Secret,
    connect: Duration,
    request: Duration,
}

/// An answer that says yes.
#[derive(Debug)]
pub(super) struct Answer {
    place: String,
    path: String,
    pub etag: Option<String>,
    body: Value,
}

impl Answer {
    pub fn resource<T: DeserializeOwned>(self) -> Result<T, PowerError> {
        let path = printable(&self.path);
        serde_json::from_value(self.body)
            .map_err(|error| PowerError::OddAnswer { place: self.place, what: format!("{path}: {error}") })
    }
}

impl Client {
    pub fn new(settings: &Redfish, password: &Secret, limits: &Limits) -> Result<Client, PowerError> {
        let pair = Zeroizing::new(format!("{}:{}", settings.user, password.expose()));
        let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut authorization = HeaderValue::from_str(&value).expect("base64 is visible ASCII");
        // Its Debug says "Sensitive" then.
        authorization.set_sensitive(true);
        Ok(Client {
            place: settings.url.to_string(),
            url: settings.url.clone(),
            user: settings.user.clone(),
            tls: Tls::new(&settings.trust)?,
            authorization,
            password: password.clone(),
            connect: limits.connect,
            request: limits.request,
        })
    }

    pub async fn get(&self, path: &str) -> Result<Answer, PowerError> {
        self.send(Method::Get, path, None, None).await
    }

    /// # Errors
    /// Everything but a 2xx answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        if_match: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Answer, PowerError> {
        let request = self.request(method, path, if_match, body)?;
        let host = self.url.host.as_str();
        let tcp = self.within(self.connect, TcpStream::connect((host, self.url.port)), "connecting").await?;
        let tcp = tcp.map_err(|error| self.not_reached(&error.to_string()))?;
        let _ = tcp.set_nodelay(true);
        let (head, body) = match &self.tls {
            None => self.exchange(tcp, request).await?,
            Some(tls) => {
                let name =
                    ServerName::try_from(host.to_string()).map_err(|error| self.not_reached(&error.to_string()))?;
                let stream = self.within(self.connect, tls.connector.connect(name, tcp), "the TLS handshake").await?;
                let stream = stream.map_err(|error| tls.failure(&self.place, &error))?;
                self.exchange(stream, request).await?
            }
        };
        self.judge(method, path, &head, &body)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        if_match: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, PowerError> {
        // It comes from the controller. `//host/` would be a path still, but not to every proxy between.
        let visible = path.bytes().all(|byte| byte.is_ascii_graphic());
        if !path.starts_with('/') || path.starts_with("//") || path.len() > PATH_BYTES_MAX || !visible {
            return Err(self.odd(&format!("it points to {:?}, which is no path", printable(path))));
        }
        let method = match method {
            Method::Get => hyper::Method::GET,
            Method::Patch => hyper::Method::PATCH,
            Method::Post => hyper::Method::POST,
        };
        let text = body.map(Value::to_string).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.url.authority())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(ACCEPT, "application/json")
            .header(ODATA_VERSION, "4.0")
            .header(CONNECTION, "close");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(etag) = if_match {
            request = request.header(IF_MATCH, etag);
        }
        request.body(Full::new(Bytes::from(text))).map_err(|error| self.odd(&format!("no request for it: {error}")))
    }

    async fn exchange<S>(
        &self,
        stream: S,
        request: Request<Full<Bytes>>,
    ) -> Result<(hyper::http::response::Parts, Bytes), PowerError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broke = |error: &(dyn std::error::Error + 'static)| PowerError::NoAnswer {
            place: self.place.clone(),
            why: crate::causes::in_one_line(error),
        };
        let answered = tokio::time::timeout(self.request, async {
            let io = TokioIo::new(stream);
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(io).await.map_err(|error| broke(&error))?;
            // Aborted when this is left, by an answer or by a time limit.
            let mut tasks = JoinSet::new();
            tasks.spawn(connection);
            let answer = sender.send_request(request).await.map_err(|error| broke(&error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| broke(&*error))?;
            Ok((head, body.to_bytes()))
        });
        let timed_out = |_| PowerError::NoAnswer {
            place: self.place.clone(),
            why: format!("nothing for {} s", self.request.as_secs_f32()),
        };
        answered.await.map_err(timed_out)?
    }

    fn judge(
        &self,
        method: Method,
        path: &str,
        head: &hyper::http::response::Parts,
        body: &Bytes,
    ) -> Result<Answer, PowerError> {
        let place = self.place.clone();
        let status = head.status;
        let said = || self.said(status, body);
        match status.as_u16() {
            200..=299 => {
                let etag = header(&head.headers, ETAG);
                // An action's answer may be empty; a resource may not.
                let body = match serde_json::from_slice(body) {
                    Ok(body) => body,
                    Err(_) if method != Method::Get => Value::Null,
                    Err(error) => return Err(self.odd(&format!("{}: {error}", printable(path)))),
                };
                // Some send it in the resource only.
                let inside = || Some(body.get("@odata.etag")?.as_str()?.to_string());
                Ok(Answer { etag: etag.or_else(inside), place, path: path.to_string(), body })
            }
            300..=399 => {
                let to = header(&head.headers, LOCATION).unwrap_or_else(|| "nowhere".to_string());
                Err(PowerError::Redirected { place, to: self.shown(&to) })
            }
            401 => Err(PowerError::WrongPassword { place, user: self.user.clone() }),
            403 => Err(PowerError::NotAllowed { place, user: self.user.clone(), said: said() }),
            // 409: another operation is going on. 412, 428: the resource changed under us, or its tag was not taken;
            // nothing was done, and it is read anew. 429, 503: later.
            409 | 412 | 428 | 429 | 503 => {
                let retry_after = header(&head.headers, RETRY_AFTER).and_then(|text| text.parse().ok());
                Err(PowerError::Busy { place, said: said(), retry_after: retry_after.map(Duration::from_secs) })
            }
            500..=599 => Err(PowerError::Trouble { place, said: said() }),
            _ => Err(PowerError::Refused {
                place,
                what: format!("{method:?} {}", printable(path)).to_uppercase(),
                said: said(),
            }),
        }
    }

    /// What the controller says of an error, in one line: DSP0266 section 8.6, extended information first.
    fn said(&self, status: StatusCode, body: &Bytes) -> String {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let message = body
            .pointer("/error/@Message.ExtendedInfo/0/Message")
            .or_else(|| body.pointer("/error/message"))
            .and_then(Value::as_str)
            .unwrap_or("no reason given");
        format!("{}: {}", status.as_u16(), self.shown(message))
    }

    /// A controller that repeats the request must not bring the password into a log.
    fn shown(&self, text: &str) -> String {
        let sent = self.authorization.to_str().unwrap_or_default().trim_start_matches("Basic ");
        printable(&text.replace(self.password.expose(), "[secret]").replace(sent, "[secret]"))
    }

    async fn within<T>(&self, limit: Duration, doing: impl Future<Output = T>, what: &str) -> Result<T, PowerError> {
        let timed_out = |_| self.not_reached(&format!("{what} took more than {} s", limit.as_secs_f32()));
        tokio::time::timeout(limit, doing).await.map_err(timed_out)
    }

    fn not_reached(&self, why: &str) -> PowerError {
        PowerError::NotReached { place: self.place.clone(), why: why.to_string() }
    }

    fn odd(&self, what: &str) -> PowerError {
        PowerError::OddAnswer { place: self.place.clone(), what: what.to_string() }
    }
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_string)
}
