//! The packet socket of one interface, and its loop.

use std::io::{self, Read, Write};
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::RecentMacs;
use super::packet::{ICMPV6, ROUTER_SOLICITATION, Solicitation, no_router};
use crate::clock;
use crate::decide::mac::Mac;

/// ff02::2 as an Ethernet address (RFC 2464 section 7).
const ALL_ROUTERS: [u8; 6] = [0x33, 0x33, 0, 0, 0, 2];
/// A solicitation with its one option has 70.
const FRAME_BYTES_MAX: u16 = 256;
/// After an error of the socket itself (the interface went away), before trying again.
const RECEIVE_ERROR_PAUSE: Duration = Duration::from_millis(500);

/// Why solicitations cannot be heard on an interface.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// None of that name, or not Ethernet.
    #[error("{interface} is no Ethernet interface of this machine")]
    NoEthernet {
        /// As configured.
        interface: String,
    },
    /// What the system said; a packet socket needs CAP_NET_RAW.
    #[error("cannot open a packet socket on {interface} (it needs root, or CAP_NET_RAW)")]
    Socket {
        /// As configured.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Answers to router solicitations on one interface, its socket already open.
#[derive(Debug)]
pub struct RouterAnswers {
    socket: AsyncFd<Socket>,
    interface: String,
    mac: Mac,
}

impl RouterAnswers {
    /// Opens the socket. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn bind(interface: &str) -> Result<RouterAnswers, BindError> {
        let failed = |source| BindError::Socket { interface: interface.to_owned(), source };
        let addresses = nix::ifaddrs::getifaddrs().map_err(|error| failed(error.into()))?;
        let link = addresses
            .filter(|found| found.interface_name == interface)
            .find_map(|found| found.address?.as_link_addr().copied())
            .ok_or_else(|| BindError::NoEthernet { interface: interface.to_owned() })?;
        let mac = link.addr().map(Mac).filter(|mac| mac.is_unicast());
        let mac = mac.ok_or_else(|| BindError::NoEthernet { interface: interface.to_owned() })?;
        let socket = open(&link).map_err(failed)?;
        // SAFETY: the socket owns its descriptor, and nobody takes it out of the AsyncFd, which keeps it to its end.
        let socket = unsafe { AsyncFd::register(socket) }.map_err(|error| failed(error.into()))?;
        Ok(RouterAnswers { socket, interface: interface.to_owned(), mac })
    }

    /// Answers those in `recent` until `shutdown` becomes true or its sender goes.
    pub async fn run(self, recent: Arc<RecentMacs>, mut shutdown: watch::Receiver<bool>) {
        tokio::select! {
            () = self.answer_for_ever(&recent) => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    async fn answer_for_ever(&self, recent: &RecentMacs) {
        let mut frame = [0; FRAME_BYTES_MAX as usize];
        loop {
            if let Err(error) = self.answer_one(&mut frame, recent).await {
                tracing::warn!(interface = %self.interface, %error, "cannot answer router solicitations; trying again");
                tokio::time::sleep(RECEIVE_ERROR_PAUSE).await;
            }
        }
    }

    async fn answer_one(&self, frame: &mut [u8], recent: &RecentMacs) -> io::Result<()> {
        let mut ready = self.socket.readable().await?;
        let Ok(length) = ready.try_io(|socket| socket.get_ref().read(frame)) else { return Ok(()) };
        let Some(asked) = Solicitation::read(&frame[..length?]) else { return Ok(()) };
        if !recent.is_recent(asked.mac, clock::instant()) {
            return Ok(());
        }
        tracing::debug!(interface = %self.interface, mac = %asked.mac, "told iPXE that there is no IPv6 router");
        match self.socket.get_ref().write(&no_router(self.mac, asked)) {
            // The device's queue is full: iPXE asks again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            written => written.map(drop),
        }
    }
}

/// A packet socket that hears router solicitations on this interface and nothing else.
fn open(link: &nix::sys::socket::LinkAddr) -> io::Result<Socket> {
    let ethertype = Protocol::from(i32::from((libc::ETH_P_IPV6 as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(ethertype))?;
    let (next_header, icmp_type) = (20, 54);
    let (load, equals, take) =
        (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ, libc::BPF_RET);
    let step = |code: u32, when_false: u8, value: u32| SockFilter::new(code as u16, 0, when_false, value);
    // All other IPv6 traffic of the network would wake us for nothing.
    socket.attach_filter(&[
        step(load, 0, next_header),
        step(equals, 3, u32::from(ICMPV6)),
        step(load, 0, icmp_type),
        step(equals, 1, u32::from(ROUTER_SOLICITATION)),
        step(take, 0, u32::from(FRAME_BYTES_MAX)),
        step(take, 0, 0),
    ])?;
    // The address has no protocol in it; the kernel then keeps the socket's own.
    nix::sys::socket::bind(socket.as_raw_fd(), link)?;
    hear_all_routers(&socket, link.ifindex())?;
    Ok(socket)
}

/// A NIC drops multicasts that nobody on the machine has joined.
fn hear_all_routers(socket: &Socket, interface_index: usize) -> io::Result<()> {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&ALL_ROUTERS);
    let membership = libc::packet_mreq {
        mr_ifindex: interface_index as libc::c_int,
        mr_type: libc::PACKET_MR_MULTICAST as libc::c_ushort,
        mr_alen: 6,
        mr_address: address,
    };
    // SAFETY: the descriptor is open, and the kernel reads one packet_mreq of the size given (packet(7)).
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const membership).cast(),
            size_of::<libc::packet_mreq>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
