//! The accept loop of the upload listener: TLS where a certificate is given, few connections, bounded handshakes.

use super::listen::{Peer, STALL_TIMEOUT, serve};
use axum::Router;
use hyper_util::rt::TokioIo;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Each may bring in data as fast as the disk takes it: more at once make none of them faster.
const CONNECTIONS_MAX: usize = 64;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What speaks TLS with this certificate.
///
/// # Errors
/// A file that cannot be read or is no PEM; a key that is not the certificate's.
pub fn acceptor(certificate: &Path, key: &Path) -> io::Result<TlsAcceptor> {
    let wrong =
        |path: &Path, why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()));
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| wrong(certificate, format!("no PEM certificates: {error}")))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, format!("no PEM key: {error}")))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(|error| wrong(certificate, error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `stop` turns true; running requests are dropped then, clients go on later.
pub async fn run(listener: TcpListener, tls: Option<TlsAcceptor>, routes: Router, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            _ = stop.changed() => return,
        };
        let (stream, remote) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting an upload's connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            _ = stop.changed() => return,
        };
        let Ok(local) = stream.local_addr() else { continue };
        let routes = routes.clone().layer(axum::Extension(axum::extract::ConnectInfo(Peer { remote, local })));
        let tls = tls.clone();
        tokio::spawn(async move {
            let _place = place;
            one(stream, tls, routes).await;
        });
    }
}

async fn one(stream: TcpStream, tls: Option<TlsAcceptor>, routes: Router) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return serve(TokioIo::new(stream), routes, STALL_TIMEOUT).await };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => serve(TokioIo::new(stream), routes, STALL_TIMEOUT).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}
