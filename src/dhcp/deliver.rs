//! The socket of one network, and how a reply reaches a machine that may not own its address yet.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::Network;
use super::codec::Request;
use super::server::BindError;
use crate::decide::lease::MessageKind;
use crate::decide::mac::Mac;
use crate::receive_buffer;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Ten thousand machines that come back after a power cut say about 4 MB within a second.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Where a reply goes (RFC 2131 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    /// 255.255.255.255 and ff:ff:ff:ff:ff:ff.
    Broadcast,
    /// A machine that uses this address already and answers ARP for it.
    InUse(Ipv4Addr),
    /// A machine that is only now told this address: ARP would get no answer.
    Fresh(Ipv4Addr),
}

/// Chooses the destination. `yiaddr` is the address that the reply gives, `None` for a NAK.
pub(super) fn destination(request: &Request, yiaddr: Option<Ipv4Addr>) -> Destination {
    let Some(ip) = yiaddr else {
        // "In all cases, when 'giaddr' is zero, the server broadcasts any DHCPNAK messages."
        return Destination::Broadcast;
    };
    if !request.ciaddr.is_unspecified() && request.kind != MessageKind::Discover {
        Destination::InUse(request.ciaddr)
    } else if request.wants_broadcast() {
        Destination::Broadcast
    } else {
        Destination::Fresh(ip)
    }
}

/// What happened to a reply on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// As chosen.
    AsChosen,
    /// Broadcast, since the neighbour entry could not be made.
    FellBackToBroadcast,
}

/// UDP port 67 on one interface.
#[derive(Debug)]
pub(super) struct Wire {
    socket: UdpSocket,
    interface: String,
    interface_index: libc::c_int,
    server_ip: Ipv4Addr,
}

impl Wire {
    /// Opens the socket. Must be called inside a tokio runtime.
    pub(super) fn bind(network: &Network) -> Result<Wire, BindError> {
        let interface = network.interface.clone();
        let found = nix::net::if_::if_nametoindex(interface.as_str()).ok();
        let index = found
            .and_then(|index| libc::c_int::try_from(index).ok())
            .ok_or_else(|| BindError::NoInterface { interface: interface.clone() })?;
        let socket = open(&interface).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::PortTaken { interface: interface.clone() },
            io::ErrorKind::PermissionDenied => BindError::NotAllowed { interface: interface.clone() },
            _ => BindError::Socket { interface: interface.clone(), source },
        })?;
        Ok(Wire { socket, interface, interface_index: index, server_ip: network.server_ip })
    }

    /// Waits for a packet; its length, and 0.. of it in `buffer`.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer).await
    }

    /// Sends a reply.
    pub(super) async fn send(&self, to: Destination, mac: Mac, reply: &[u8]) -> io::Result<Sent> {
        match to {
            Destination::Broadcast => self.send_to(Ipv4Addr::BROADCAST, reply).await?,
            Destination::InUse(ip) => self.send_to(ip, reply).await?,
            Destination::Fresh(ip) => {
                let unicast = match self.tell_neighbour(ip, mac) {
                    Ok(()) => self.send_to(ip, reply).await,
                    Err(error) => Err(error),
                };
                if unicast.is_err() {
                    self.send_to(Ipv4Addr::BROADCAST, reply).await?;
                    return Ok(Sent::FellBackToBroadcast);
                }
            }
        }
        Ok(Sent::AsChosen)
    }

    /// From `server_ip` whatever other addresses the interface has: clients compare it with option 54, and
    /// firmware takes it for the TFTP server when siaddr is missing.
    async fn send_to(&self, ip: Ipv4Addr, reply: &[u8]) -> io::Result<()> {
        let from = libc::in_pktinfo {
            ipi_ifindex: self.interface_index,
            ipi_spec_dst: in_addr(self.server_ip),
            ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
        };
        let to = SockaddrIn::from(SocketAddrV4::new(ip, CLIENT_PORT));
        let send = || {
            let control = [ControlMessage::Ipv4PacketInfo(&from)];
            let flags = MsgFlags::MSG_DONTWAIT;
            sendmsg(self.socket.as_raw_fd(), &[IoSlice::new(reply)], &control, flags, Some(&to))
                .map_err(io::Error::from)
        };
        self.socket.async_io(Interest::WRITABLE, send).await.map(|_| ())
    }

    /// Puts ip -> mac into the kernel's neighbour table, so that it need not ask (the machine could not answer).
    /// Needs CAP_NET_ADMIN. The entry is not permanent: the kernel checks it again once the machine is up.
    fn tell_neighbour(&self, ip: Ipv4Addr, mac: Mac) -> io::Result<()> {
        // SAFETY: arpreq is plain integers and arrays of them, for which zero is a value.
        let mut entry: libc::arpreq = unsafe { std::mem::zeroed() };
        let protocol = libc::sockaddr_in {
            // 2 on Linux: fits.
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: in_addr(ip),
            sin_zero: [0; 8],
        };
        // SAFETY: sockaddr and sockaddr_in have the same size and no invalid values (ip(7), arp(7)).
        entry.arp_pa = unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(protocol) };
        entry.arp_ha.sa_family = libc::ARPHRD_ETHER;
        for (place, byte) in entry.arp_ha.sa_data.iter_mut().zip(mac.0) {
            *place = byte.cast_signed();
        }
        entry.arp_flags = libc::ATF_COM;
        // Names have at most 15 bytes (Network::check), so a NUL is left of the 16.
        for (place, byte) in entry.arp_dev.iter_mut().take(15).zip(self.interface.bytes()) {
            *place = byte.cast_signed();
        }
        // SAFETY: the descriptor is open while `self` lives; SIOCSARP reads one arpreq and keeps no pointer.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCSARP, &raw const entry) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) }
}

/// Bound to the interface, not to an address: broadcasts come in by interface, and a reply to a machine on
/// another network's interface is impossible. Without SO_REUSEADDR: the sockets of two interfaces do not collide
/// anyway, and with it a second DHCP server on this one would start without complaint and each would get some of
/// the packets.
fn open(interface: &str) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    receive_buffer::enlarge(&socket, RECEIVE_BUFFER_BYTES)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER_PORT).into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 2131 section 4.1, the paragraph on 'giaddr', 'ciaddr' and the broadcast bit.
    #[test]
    fn a_reply_goes_where_the_machine_can_hear_it() {
        let given = Some(Ipv4Addr::new(10, 0, 0, 9));
        let packet = |kind: u8, flags: u8, ciaddr: [u8; 4]| {
            let mut bytes = vec![0; 240];
            bytes[..3].copy_from_slice(&[1, 1, 6]);
            bytes[10] = flags;
            bytes[12..16].copy_from_slice(&ciaddr);
            bytes[28] = 2;
            bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
            bytes.extend([53, 1, kind, 255]);
            Request::decode(&bytes).expect("a packet of the test's own")
        };
        let (discover, ask) = (1, 3);
        let own = [10, 0, 0, 9];
        let table = [
            (packet(discover, 0, [0; 4]), given, Destination::Fresh([10, 0, 0, 9].into())),
            (packet(discover, 0x80, [0; 4]), given, Destination::Broadcast),
            (packet(ask, 0, [0; 4]), given, Destination::Fresh([10, 0, 0, 9].into())),
            (packet(ask, 0x80, [0; 4]), given, Destination::Broadcast),
            (packet(ask, 0x80, own), given, Destination::InUse([10, 0, 0, 9].into())),
            (packet(ask, 0, own), None, Destination::Broadcast),
            (packet(ask, 0, [0; 4]), None, Destination::Broadcast),
        ];
        for (request, yiaddr, wanted) in table {
            assert_eq!(destination(&request, yiaddr), wanted, "{request:?}");
        }
    }
}
