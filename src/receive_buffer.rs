//! Room for the packets that arrive while the server is busy.

use std::io;

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::Socket;

/// Enlarges a socket's receive buffer.
///
/// SO_RCVBUF is cut to net.core.rmem_max without complaint (socket(7)), 208 KiB where nobody changed it: a few
/// hundred packets, less than a hall of machines sends when its power comes back. With CAP_NET_ADMIN, which DHCP
/// needs anyway, SO_RCVBUFFORCE is not cut. Without it the buffer is smaller, which is slower, not wrong.
///
/// # Errors
/// What the system says; it refuses no size.
pub(crate) fn enlarge(socket: &Socket, bytes: usize) -> io::Result<()> {
    match setsockopt(socket, RcvBufForce, &bytes) {
        Ok(()) => Ok(()),
        Err(_) => socket.set_recv_buffer_size(bytes),
    }
}
