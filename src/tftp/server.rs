//! One TFTP server for one local address.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use async_tftp::server::TftpServerBuilder;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use super::files::FileHandler;
use super::filter;
use super::{BootFiles, TftpCounters};
use crate::receive_buffer;

/// What an Ethernet frame holds after IP, UDP and TFTP headers. Larger blocks fragment, and fragments are lost
/// on ROMs; EDK2 fails outright at 65464 (tianocore/edk2 #7632).
const BLOCK_BYTES_MAX: u16 = 1468;
/// Measured on loopback: 127 MB/s at a window of 1, 311 MB/s at 64. More only costs memory (RFC 7440).
const WINDOW_BLOCKS_MAX: u16 = 64;
/// Before the window is sent again.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// With one second each: a client that vanished, or aborted to ask again from the same port (async-tftp does
/// not hear its ERROR packet, upstream issue #18), keeps its port blocked for six seconds, not five minutes.
const RESENDS_MAX: u32 = 5;
/// 300 ROMs at once overran the default of 208 KiB and lost first requests.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// After an error of the socket itself, before trying again.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// Why TFTP cannot be served on an address.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Answers would leave from whatever address the kernel picks, and clients drop those.
    #[error("TFTP needs one address of this machine to listen on, not {addr}")]
    AnyAddress {
        /// As asked for.
        addr: SocketAddrV4,
    },
    /// Another TFTP server.
    #[error("{addr} is taken by another TFTP server on this machine; stop it (`ss -ulpn sport = :69`)")]
    PortTaken {
        /// As asked for.
        addr: SocketAddrV4,
    },
    /// Not root.
    #[error("no permission for {addr}: run as root, or with CAP_NET_BIND_SERVICE and CAP_NET_RAW")]
    NotAllowed {
        /// As asked for.
        addr: SocketAddrV4,
    },
    /// The address is not on this machine.
    #[error("{addr} is no address of this machine; `ip address` lists what there is")]
    NotOurs {
        /// As asked for.
        addr: SocketAddrV4,
    },
    /// The socket's filter is larger than the kernel may keep.
    #[error("no room for the socket filter of {addr}: `sysctl net.core.optmem_max` must be 20480 or more")]
    NoRoom {
        /// As asked for.
        addr: SocketAddrV4,
    },
    /// Anything else.
    #[error("cannot open TFTP on {addr}")]
    Socket {
        /// As asked for.
        addr: SocketAddrV4,
        /// What the system said.
        source: io::Error,
    },
}

/// TFTP on one address, its socket already open.
#[derive(Debug)]
pub struct TftpServer {
    socket: UdpSocket,
}

impl TftpServer {
    /// Opens the socket (port 69 in earnest, 0 for any free one); with `interface`, only for requests that come in there.
    ///
    /// # Errors
    /// Why it cannot be opened, and what to do.
    pub fn bind(addr: SocketAddrV4, interface: Option<&str>) -> Result<TftpServer, BindError> {
        if addr.ip().is_unspecified() || addr.ip().is_multicast() || addr.ip().is_broadcast() {
            return Err(BindError::AnyAddress { addr });
        }
        let socket = open(addr, interface).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::PortTaken { addr },
            io::ErrorKind::PermissionDenied => BindError::NotAllowed { addr },
            io::ErrorKind::OutOfMemory => BindError::NoRoom { addr },
            io::ErrorKind::AddrNotAvailable => BindError::NotOurs { addr },
            _ => BindError::Socket { addr, source },
        })?;
        Ok(TftpServer { socket })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says; an open socket has an address.
    pub fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `shutdown` becomes true or its sender goes; transfers that are running are then cut.
    ///
    /// One task for all transfers of this address: async-tftp brings its own executor and its own reactor thread,
    /// and asks nothing of tokio but to be polled.
    pub async fn run(self, files: Arc<BootFiles>, counters: Arc<TftpCounters>, mut shutdown: watch::Receiver<bool>) {
        let serving = async {
            loop {
                let Err(error) = serve(&self.socket, &files, &counters).await else {
                    continue;
                };
                tracing::warn!(%error, "TFTP stopped; starting it again");
                tokio::time::sleep(RESTART_PAUSE).await;
            }
        };
        tokio::select! {
            () = serving => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }
}

async fn serve(
    socket: &UdpSocket,
    files: &Arc<BootFiles>,
    counters: &Arc<TftpCounters>,
) -> Result<(), async_tftp::Error> {
    let handler = FileHandler { files: Arc::clone(files), counters: Arc::clone(counters) };
    let server = TftpServerBuilder::with_handler(handler)
        .std_socket(socket.try_clone()?)?
        .block_size_limit(BLOCK_BYTES_MAX)
        .window_size_limit(WINDOW_BLOCKS_MAX)
        .timeout(RESEND_AFTER)
        // A client may ask for 255 s (RFC 2349), which would make a spoofed request last 25 minutes.
        .ignore_client_timeout()
        .max_send_retries(RESENDS_MAX)
        .build()
        .await?;
    server.serve().await
}

fn open(addr: SocketAddrV4, interface: Option<&str>) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    receive_buffer::enlarge(&socket, RECEIVE_BUFFER_BYTES)?;
    // Before the port is bound: no packet comes past it.
    socket.attach_filter(&filter::requests_in_known_modes())?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}
