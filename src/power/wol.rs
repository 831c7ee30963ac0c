//! Wake-on-LAN: one broadcast that switches a sleeping machine on. It cannot do more, and nobody answers it.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use super::attempt::Work;
use super::settings::Wol;
use super::{Action, Driver, PowerError};
use crate::decide::mac::Mac;

const MAGIC_BYTES: usize = 6 + 16 * 6;
/// Nobody acknowledges the packet, and a switch port that just woke drops some.
const TIMES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn act(settings: &Wol, action: Action, work: &mut Work<'_>) -> Result<(), PowerError> {
    match action {
        Action::Status => Ok(()),
        Action::PowerOff => Err(PowerError::CannotDo { driver: Driver::Wol, action }),
        Action::BootToNetwork => {
            "send the magic packet".clone_into(&mut work.at);
            let not_sent = |error: std::io::Error| PowerError::NotSent { why: error.to_string() };
            let socket = open(settings.interface.as_deref()).map_err(not_sent)?;
            for time in 0..TIMES {
                if time > 0 {
                    tokio::time::sleep(PAUSE).await;
                }
                socket.send_to(&magic(settings.mac), (settings.broadcast, settings.port)).map_err(not_sent)?;
            }
            let sent = "sent the magic packet: a machine that is off switches on, and boots from the network if that \
                        is first in its boot order";
            work.note(sent, TIMES);
            Ok(())
        }
    }
}

/// Bound to the interface: a broadcast to 255.255.255.255 would otherwise leave by the default route.
fn open(interface: Option<&str>) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    if let Some(name) = interface {
        socket2::SockRef::from(&socket).bind_device(Some(name.as_bytes()))?;
    }
    Ok(socket)
}

/// Six bytes of ones, then the address sixteen times (AMD, "Magic Packet Technology", 1995).
fn magic(mac: Mac) -> [u8; MAGIC_BYTES] {
    std::array::from_fn(|at| if at < 6 { 0xff } else { mac.0[at % 6] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packet_is_six_ones_and_the_mac_sixteen_times() {
        let mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        let packet = magic(Mac(mac));
        assert_eq!(packet[..6], [0xff; 6]);
        assert!(packet[6..].chunks(6).all(|chunk| chunk == mac));
        assert_eq!(packet.len(), 102);
    }
}
