//! One GET as a health check: plain HTTP to a host of ours, no redirects, no body kept.

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Whether `url` answers with 2xx. The caller bounds the time.
///
/// # Errors
/// One line that says why not.
pub async fn get(url: &str) -> Result<(), String> {
    let uri: hyper::Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(format!("{url:?}: a health check is plain http"));
    }
    let host = uri.host().ok_or_else(|| format!("{url:?} names no host"))?;
    let target = (host.to_string(), uri.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(target).await.map_err(|error| format!("{host}: {error}"))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("{host}: {error}"))?;
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header("host", host).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| format!("{host}: {error}"))?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("{url} answered {}", answer.status())) }
}
