//! Accept loops: bounded connections, bounded time for a request's head, one task for each connection.

use super::outgoing::{Outgoing, Socket};
use super::peer::Operator;
use super::sources::Sources;
use super::stall::Stalling;
use axum::Router;
use axum::extract::connect_info::Connected;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

/// A request's head must be there within this time (slowloris, faults.md H3).
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// A client that takes nothing of an answer for so long is gone (faults.md H3). The agent itself gives up after 20 s.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// An operator may look at a page of what the command line prints, or hold a pipe, for longer; few may connect at all.
const OPERATOR_STALL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Pause after accept failed (out of descriptors): trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Both ends of a machine's connection. `local` is the address that the machine can reach us at.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub remote: SocketAddr,
    pub local: SocketAddr,
}

impl Connected<Peer> for Peer {
    fn connect_info(peer: Peer) -> Peer {
        peer
    }
}

/// How many connections are taken at once.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    pub max: usize,
    /// From one address; what is above it is closed at once.
    pub of_one_max: usize,
}

/// Serves machines until `stop` turns true; running requests are dropped then, agents ask again.
pub async fn machines(listener: TcpListener, routes: Router, most: Connections, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(most.max));
    let sources = Sources::new(most.of_one_max);
    loop {
        // At the limit nothing more is accepted: the kernel's backlog holds the rest, then refuses.
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            _ = stop.changed() => return,
        };
        let (stream, remote) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            _ = stop.changed() => return,
        };
        let Ok(local) = stream.local_addr() else { continue };
        // Without a word: to say why would cost a task for each, which is what the bound is to save.
        let Some(one_of) = sources.enter(remote.ip()) else { continue };
        // Boot scripts and reports are small answers: waiting for more to send costs 40 ms each.
        let _ = stream.set_nodelay(true);
        let outgoing = Outgoing::default();
        let routes = routes.clone().layer(axum::Extension(axum::extract::ConnectInfo(Peer { remote, local })));
        let routes = routes.layer(axum::Extension(outgoing.clone()));
        tokio::spawn(async move {
            let place = Arc::new((place, one_of));
            serve(Socket::new(stream, outgoing, place), routes, STALL_TIMEOUT).await;
        });
    }
}

/// Serves operators until `stop` turns true.
pub async fn operators(listener: UnixListener, routes: Router, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(operator(stream, routes.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting an operator's connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = stop.changed() => return,
        }
    }
}

/// Serves one operator's connection, under the name of the user who opened it.
async fn operator(stream: UnixStream, routes: Router) {
    let uid = match stream.peer_cred() {
        Ok(credentials) => credentials.uid(),
        Err(error) => return tracing::warn!(%error, "an operator's connection does not say whose it is"),
    };
    // The user database may be a slow one, far away.
    let operator = tokio::task::spawn_blocking(move || Operator::of_uid(uid)).await;
    // Only a panic in there ends in an error, and then nobody is to be heard.
    let Ok(operator) = operator else { return };
    serve(TokioIo::new(stream), routes.layer(axum::Extension(operator)), OPERATOR_STALL_TIMEOUT).await;
}

/// `stall`: how long the other end may take nothing of an answer.
pub(super) async fn serve<IO>(io: IO, routes: Router, stall: Duration)
where
    IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_headers(64);
    // A client that goes away in the middle of an answer is daily life, not an error of ours.
    let io = Stalling::new(io, stall);
    if let Err(error) = builder.serve_connection(io, TowerToHyperService::new(routes)).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Binds the operators' socket, taking the place of one that a dead server left behind. Members of `group` may open it.
///
/// # Errors
/// When a living server listens there, the directory does not allow it, or there is no such group.
pub fn bind_operators(path: &std::path::Path, group: Option<&str>) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another regild answers on this socket"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    use std::os::unix::fs::PermissionsExt;
    // Whoever may connect may order any disk rewritten: the owner and its group, nobody else.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    if let Some(name) = group {
        let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("there is no group {name} on this machine"));
        let group = nix::unistd::Group::from_name(name)?.ok_or_else(unknown)?;
        nix::unistd::chown(path, None, Some(group.gid))?;
    }
    Ok(listener)
}
