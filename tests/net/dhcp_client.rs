//! DHCP packet by packet, for any MAC that a test wants to be.
#![allow(dead_code)] // Each test binary uses its own part.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, UnknownOption};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};

use crate::cable::{CLIENT_LINK, Cable, SERVER_IP, inside};

/// Long enough for an answer on a busy machine, for tests that expect one.
const PATIENCE: Duration = Duration::from_secs(5);
/// For tests that expect none.
pub const SILENCE: Duration = Duration::from_millis(300);

/// Port 68 at the client's end.
pub struct Client {
    socket: UdpSocket,
}

impl Client {
    pub fn new(cable: &Cable) -> Client {
        let socket = inside(&cable.client, || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.bind_device(Some(CLIENT_LINK.as_bytes())).unwrap();
            socket.bind(&"0.0.0.0:68".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
            UdpSocket::from(socket)
        });
        Client { socket }
    }

    pub fn send(&self, packet: &[u8]) {
        self.socket.send_to(packet, "255.255.255.255:67").unwrap();
    }

    /// The next packet as it came.
    pub fn receive_bytes(&self, wait: Duration) -> Option<Vec<u8>> {
        self.socket.set_read_timeout(Some(wait)).unwrap();
        let mut buffer = vec![0; 2048];
        let (length, from) = self.socket.recv_from(&mut buffer).ok()?;
        assert_eq!(from.to_string(), "10.77.0.1:67", "replies come from the configured address");
        buffer.truncate(length);
        Some(buffer)
    }

    pub fn receive(&self, wait: Duration) -> Option<Message> {
        let bytes = self.receive_bytes(wait)?;
        Some(Message::decode(&mut Decoder::new(&bytes)).unwrap())
    }

    pub fn ask(&self, question: Ask) -> Message {
        let xid = self.post(question);
        let reply = self.receive(PATIENCE).unwrap_or_else(|| panic!("no answer to {question:?}"));
        assert_eq!(reply.xid(), xid);
        reply
    }

    pub fn ask_in_vain(&self, question: Ask) {
        self.post(question);
        assert!(self.receive(SILENCE).is_none(), "an answer to {question:?}");
    }

    pub fn post(&self, question: Ask) -> u32 {
        static XID: AtomicU32 = AtomicU32::new(1);
        let xid = XID.fetch_add(1, Ordering::Relaxed);
        self.send(&question.encode(xid));
        xid
    }

    /// The answer to these very bytes.
    pub fn exchange(&self, packet: &[u8]) -> Vec<u8> {
        self.send(packet);
        self.receive_bytes(PATIENCE).expect("an answer")
    }

    /// DISCOVER, OFFER, REQUEST, ACK.
    pub fn bind(&self, mac: u8) -> Ipv4Addr {
        let offer = self.ask(Ask::new(MessageType::Discover, mac));
        assert_eq!(kind(&offer), MessageType::Offer);
        let ack = self.ask(Ask::select(mac, offer.yiaddr()));
        assert_eq!((kind(&ack), ack.yiaddr()), (MessageType::Ack, offer.yiaddr()));
        ack.yiaddr()
    }
}

/// A DHCP packet of the test, with the broadcast flag: our kernel would drop unicasts to an address it does not have.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub kind: MessageType,
    pub mac: u8,
    pub ciaddr: Option<Ipv4Addr>,
    pub requested: Option<Ipv4Addr>,
    pub server_id: Option<Ipv4Addr>,
    pub giaddr: Option<Ipv4Addr>,
    /// Any other options, by number.
    pub options: &'static [(u8, &'static [u8])],
}

impl Ask {
    pub fn new(kind: MessageType, mac: u8) -> Ask {
        Ask { kind, mac, ciaddr: None, requested: None, server_id: None, giaddr: None, options: &[] }
    }

    pub fn select(mac: u8, ip: Ipv4Addr) -> Ask {
        Ask { requested: Some(ip), server_id: Some(SERVER_IP), ..Ask::new(MessageType::Request, mac) }
    }

    pub fn encode(&self, xid: u32) -> Vec<u8> {
        let none = Ipv4Addr::UNSPECIFIED;
        let (ciaddr, giaddr) = (self.ciaddr.unwrap_or(none), self.giaddr.unwrap_or(none));
        let mut message = Message::new_with_id(xid, ciaddr, none, none, giaddr, &mac(self.mac));
        message.set_flags(dhcproto::v4::Flags::default().set_broadcast());
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(self.kind));
        if let Some(ip) = self.requested {
            options.insert(DhcpOption::RequestedIpAddress(ip));
        }
        if let Some(ip) = self.server_id {
            options.insert(DhcpOption::ServerIdentifier(ip));
        }
        for (code, value) in self.options {
            options.insert(DhcpOption::Unknown(UnknownOption::new((*code).into(), value.to_vec())));
        }
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        bytes
    }
}

/// The address of machine number `last`.
pub fn mac(last: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 9, last]
}

pub fn kind(message: &Message) -> MessageType {
    message.opts().msg_type().unwrap()
}
