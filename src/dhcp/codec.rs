//! A DHCP packet as facts: lenient about what an option says, strict about how the packet is framed.
//!
//! The walk is our own because every decoder at hand stops at the first option whose content it cannot read,
//! and a host name in Latin-1 must not hide the architecture that stands behind it. Content that makes no sense
//! makes its option absent; framing that makes no sense drops the packet, with a reason.
//!
//! Bounded: one pass over at most [`PACKET_BYTES_MAX`] bytes, option 52 followed once.

use std::net::Ipv4Addr;

use crate::decide::lease::{LeaseRequest, MessageKind, hostname};
use crate::decide::mac::Mac;
use crate::decide::netboot::{NetbootClient, NetbootFacts, classify};

/// Larger packets are not DHCP from a machine on this link: no client sends more than its frame holds.
pub const PACKET_BYTES_MAX: usize = 4096;

const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
const COOKIE: std::ops::Range<usize> = 236..240;
const OPTIONS_START: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];

const PAD: u8 = 0;
const END: u8 = 255;

/// Why a packet was dropped before anybody was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Malformed {
    /// Shorter than header and cookie.
    #[error("shorter than 240 bytes")]
    TooShort,
    /// See [`PACKET_BYTES_MAX`].
    #[error("longer than {PACKET_BYTES_MAX} bytes")]
    TooLong,
    /// Not op 1.
    #[error("not a BOOTREQUEST")]
    NotARequest,
    /// Not htype 1, hlen 6.
    #[error("not an Ethernet address of 6 bytes")]
    NotEthernet,
    /// Plain BOOTP or noise.
    #[error("without the DHCP magic cookie")]
    NoCookie,
    /// RFC 2131 section 4.1: "the last option must always be the 'end' option".
    #[error("without an end option")]
    NoEnd,
    /// An option's length points past the end.
    #[error("with an option that is longer than the packet")]
    OptionTooLong,
    /// Option 53 missing, of the wrong length, or not one that clients send.
    #[error("without a message type that a client may send")]
    NoMessageType,
    /// A group or all-zero address.
    #[error("from a hardware address that no machine can have")]
    BadMac,
}

impl Malformed {
    /// All reasons, in the order of their counters.
    pub const ALL: [Malformed; 9] = [
        Malformed::TooShort,
        Malformed::TooLong,
        Malformed::NotARequest,
        Malformed::NotEthernet,
        Malformed::NoCookie,
        Malformed::NoEnd,
        Malformed::OptionTooLong,
        Malformed::NoMessageType,
        Malformed::BadMac,
    ];

    /// The reason as a metric label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Malformed::TooShort => "too_short",
            Malformed::TooLong => "too_long",
            Malformed::NotARequest => "not_a_request",
            Malformed::NotEthernet => "not_ethernet",
            Malformed::NoCookie => "no_cookie",
            Malformed::NoEnd => "no_end",
            Malformed::OptionTooLong => "option_too_long",
            Malformed::NoMessageType => "no_message_type",
            Malformed::BadMac => "bad_mac",
        }
    }
}

/// The facts of one packet. Options are `None` when missing or of a length that they cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Option 53.
    pub kind: MessageKind,
    /// Repeated in the reply.
    pub xid: u32,
    /// Repeated in the reply; the top bit asks for a broadcast.
    pub flags: u16,
    /// How many relays it passed.
    pub hops: u8,
    /// chaddr.
    pub mac: Mac,
    /// The address it uses.
    pub ciaddr: Ipv4Addr,
    /// The first relay.
    pub giaddr: Ipv4Addr,
    /// Option 12, raw.
    pub hostname: Option<Vec<u8>>,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server_id: Option<Ipv4Addr>,
    /// Option 55, the codes it would like.
    pub parameters: Vec<u8>,
    /// Option 57, the largest message that it takes, IP and UDP headers included.
    pub message_bytes_max: Option<u16>,
    /// Option 60.
    pub vendor_class: Option<Vec<u8>>,
    /// Option 61, repeated in the reply (RFC 6842), used for nothing else.
    pub client_id: Option<Vec<u8>>,
    /// Option 77, raw.
    pub user_class: Option<Vec<u8>>,
    /// Option 82, raw, its parts joined.
    pub relay_agent: Option<Vec<u8>>,
    /// Option 93, the whole list.
    pub architectures: Vec<u16>,
    /// Option 94: type, major, minor.
    pub network_interface: Option<[u8; 3]>,
    /// Option 97 as it came, when of the right length: repeated in the reply (RFC 4578 section 2.3).
    pub machine_id: Option<[u8; 17]>,
    /// Option 97 when it names a machine: the SMBIOS UUID, in wire order.
    pub uuid: Option<[u8; 16]>,
    /// Whether option 175 was there.
    pub has_ipxe_options: bool,
}

impl Request {
    /// Reads a packet (RFC 2131 section 2, RFC 2132, RFC 3396, RFC 4578).
    ///
    /// # Errors
    /// The reason for which it must be dropped.
    pub fn decode(packet: &[u8]) -> Result<Request, Malformed> {
        if packet.len() < OPTIONS_START {
            return Err(Malformed::TooShort);
        }
        if packet.len() > PACKET_BYTES_MAX {
            return Err(Malformed::TooLong);
        }
        if packet[0] != 1 {
            return Err(Malformed::NotARequest);
        }
        if packet[1] != 1 || packet[2] != 6 {
            return Err(Malformed::NotEthernet);
        }
        if packet[COOKIE] != MAGIC {
            return Err(Malformed::NoCookie);
        }
        let options = Options::read(packet)?;
        let kind = match options.get(53) {
            Some([1]) => MessageKind::Discover,
            Some([3]) => MessageKind::Request,
            Some([4]) => MessageKind::Decline,
            Some([7]) => MessageKind::Release,
            Some([8]) => MessageKind::Inform,
            _ => return Err(Malformed::NoMessageType),
        };
        let mac = Mac(array(packet, 28));
        if !mac.is_unicast() {
            return Err(Malformed::BadMac);
        }
        Ok(Request {
            kind,
            xid: u32::from_be_bytes(array(packet, 4)),
            flags: u16::from_be_bytes(array(packet, 10)),
            hops: packet[3],
            mac,
            ciaddr: Ipv4Addr::from(array::<4>(packet, 12)),
            giaddr: Ipv4Addr::from(array::<4>(packet, 24)),
            hostname: options.bytes(12),
            requested: options.fixed::<4>(50).map(Ipv4Addr::from),
            server_id: options.fixed::<4>(54).map(Ipv4Addr::from),
            parameters: options.bytes(55).unwrap_or_default(),
            message_bytes_max: options.fixed::<2>(57).map(u16::from_be_bytes),
            vendor_class: options.bytes(60),
            // RFC 2132 section 9.14: at least two bytes.
            client_id: options.bytes(61).filter(|id| id.len() >= 2),
            user_class: options.bytes(77),
            relay_agent: options.bytes(82),
            architectures: options.architectures(),
            network_interface: options.fixed::<3>(94),
            machine_id: options.fixed::<17>(97),
            uuid: options.fixed::<17>(97).and_then(smbios_uuid),
            has_ipxe_options: options.get(175).is_some(),
        })
    }

    /// Whether the client asked for broadcast replies (RFC 2131 section 4.1).
    #[must_use]
    pub fn wants_broadcast(&self) -> bool {
        self.flags & 0x8000 != 0
    }

    /// The facts of the lease decision.
    #[must_use]
    pub fn lease_request(&self) -> LeaseRequest {
        LeaseRequest {
            kind: self.kind,
            mac: self.mac,
            ciaddr: self.ciaddr,
            requested: self.requested,
            server_id: self.server_id,
            giaddr: self.giaddr,
            hostname: self.hostname.as_deref().and_then(hostname),
        }
    }

    /// Which netboot client sent it.
    #[must_use]
    pub fn netboot_client(&self) -> NetbootClient {
        classify(&NetbootFacts {
            vendor_class: self.vendor_class.as_deref(),
            user_class: self.user_class.as_deref(),
            architectures: &self.architectures,
            ipxe_option_175: self.has_ipxe_options,
        })
    }
}

/// `N` bytes from a place that the caller knows to be there (the fixed header, a fixed option).
fn array<const N: usize>(packet: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&packet[at..at + N]);
    bytes
}

/// Options by code; the parts of one code joined in the order in which they came (RFC 3396 section 7).
struct Options {
    by_code: Vec<Option<Vec<u8>>>,
}

impl Options {
    fn read(packet: &[u8]) -> Result<Options, Malformed> {
        let mut options = Options {
            by_code: vec![None; 256],
        };
        let ended = options.read_area(&packet[OPTIONS_START..])?;
        if !ended {
            return Err(Malformed::NoEnd);
        }
        // RFC 2131 section 4.1, RFC 3396 section 5: `file` first, then `sname`. Followed once: an option 52 inside
        // these fields is only another option. Firmware leaves out the end option here, and the field ends anyway.
        let overload = options.fixed::<1>(52).map_or(0, |[value]| value);
        if overload == 1 || overload == 3 {
            options.read_area(&packet[FILE])?;
        }
        if overload == 2 || overload == 3 {
            options.read_area(&packet[SNAME])?;
        }
        Ok(options)
    }

    /// Whether an end option was met.
    fn read_area(&mut self, area: &[u8]) -> Result<bool, Malformed> {
        let mut rest = area;
        loop {
            rest = match rest {
                [] => return Ok(false),
                [END, ..] => return Ok(true),
                [PAD, tail @ ..] => tail,
                [code, len, tail @ ..] => {
                    let (value, next) = tail
                        .split_at_checked(usize::from(*len))
                        .ok_or(Malformed::OptionTooLong)?;
                    self.by_code[usize::from(*code)]
                        .get_or_insert_default()
                        .extend_from_slice(value);
                    next
                }
                [_] => return Err(Malformed::OptionTooLong),
            };
        }
    }

    fn get(&self, code: u8) -> Option<&[u8]> {
        self.by_code[usize::from(code)].as_deref()
    }

    fn bytes(&self, code: u8) -> Option<Vec<u8>> {
        self.get(code).map(<[u8]>::to_vec)
    }

    fn fixed<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.get(code)?.try_into().ok()
    }

    /// RFC 4578 section 2.1: a list of 16-bit numbers; an odd byte at the end is ignored.
    fn architectures(&self) -> Vec<u16> {
        let list = self.get(93).unwrap_or_default();
        list.chunks_exact(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
            .collect()
    }
}

/// RFC 4578 section 2.3: type 0 and 16 bytes. All zeros or all ones is a mainboard that was never given one.
fn smbios_uuid(machine_id: [u8; 17]) -> Option<[u8; 16]> {
    let uuid = array::<16>(&machine_id, 1);
    (machine_id[0] == 0 && uuid != [0; 16] && uuid != [0xff; 16]).then_some(uuid)
}

#[cfg(test)]
mod tests;
