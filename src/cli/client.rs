//! The operator's side of the Unix socket: HTTP/1.1 by hyper, a connection for each request.

use super::Failure;
use crate::wire::operator::Problem;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::io::Write;
use std::path::PathBuf;
use tokio::net::UnixStream;

/// A body of a request: bytes, or a stream that may fail.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// Where the server listens.
pub struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// Takes `--server`: a path or `unix:PATH`.
    ///
    /// # Errors
    /// For a URL: the operator API listens on a Unix socket only.
    pub fn new(server: &str) -> Result<Client, Failure> {
        if server.starts_with("http://") || server.starts_with("https://") {
            return Err(format!("{server}: operators are served on the server's Unix socket only; log in there").into());
        }
        let socket = PathBuf::from(server.strip_prefix("unix:").unwrap_or(server));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Client { socket, runtime })
    }

    /// Runs something else on this client's thread and runtime.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.json(Method::GET, path, empty())
    }

    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let bytes = serde_json::to_vec(body)?;
        self.json(Method::POST, path, Full::new(Bytes::from(bytes)).map_err(never).boxed())
    }

    /// Posts and expects no more than a yes.
    pub fn order(&self, path: &str, body: &impl Serialize) -> Result<(), Failure> {
        let body = Full::new(Bytes::from(serde_json::to_vec(body)?)).map_err(never).boxed();
        self.runtime.block_on(async { self.send(Method::POST, path, body).await.map(drop) })
    }

    pub fn delete(&self, path: &str) -> Result<(), Failure> {
        self.runtime.block_on(async { self.send(Method::DELETE, path, empty()).await.map(drop) })
    }

    /// Hands an answer on as it comes, byte for byte.
    pub fn copy(&self, path: &str, out: &mut impl Write) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let mut body = self.send(Method::GET, path, empty()).await?.into_body();
            while let Some(frame) = body.frame().await {
                out.write_all(&frame?.into_data().unwrap_or_default())?;
            }
            Ok(())
        })
    }

    /// Reads an answer that has no end, line by line, until the server ends it.
    pub fn follow(&self, path: &str, mut each: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let mut body = self.send(Method::GET, path, empty()).await?.into_body();
            let mut text = Vec::new();
            while let Some(frame) = body.frame().await {
                text.extend_from_slice(&frame?.into_data().unwrap_or_default());
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    each(&line)?;
                }
            }
            Err("the server ended the watch".into())
        })
    }

    /// Reads an answer of any length piece by piece; one that was cut is an error.
    pub fn stream(&self, path: &str, mut each: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let mut body = self.send(Method::GET, path, empty()).await?.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| format!("the server cut its answer ({error}); its log says why"))?;
                each(&frame.into_data().unwrap_or_default())?;
            }
            Ok(())
        })
    }

    pub fn put_json<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let bytes = serde_json::to_vec(body)?;
        self.json(Method::PUT, path, Full::new(Bytes::from(bytes)).map_err(never).boxed())
    }

    /// Sends a body of any length and reads a JSON answer.
    pub fn put<T: DeserializeOwned>(&self, path: &str, body: Body) -> Result<T, Failure> {
        self.json(Method::PUT, path, body)
    }

    fn json<T: DeserializeOwned>(&self, method: Method, path: &str, body: Body) -> Result<T, Failure> {
        self.runtime.block_on(async {
            let answer = self.send(method, path, body).await?;
            let bytes = answer.into_body().collect().await?.to_bytes();
            Ok(serde_json::from_slice(&bytes)?)
        })
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let socket = self.socket.display();
            format!("cannot reach the server at {socket}: {error}; is `regild serve` running there? (--server PATH)")
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "regild").body(body)?;
        let answer = sender.send_request(request).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        let said =
            serde_json::from_slice::<Problem>(&bytes).map_or_else(|_| format!("the server said {status}"), |p| p.error);
        Err(said.into())
    }
}

/// A body without bytes.
pub fn empty() -> Body {
    Empty::new().map_err(never).boxed()
}

fn never(never: Infallible) -> std::io::Error {
    match never {}
}

/// A path segment of what a person typed: everything but letters, digits and `-._:@` is escaped.
#[must_use]
pub fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:@".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
