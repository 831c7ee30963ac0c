//! DHCP packet by packet: what no well-behaved client would send, and what the server may not answer.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use regild::decide::lease::{LeaseAnswer, LeaseRequest, LeaseState};
use regild::decide::mac::Mac;
use regild::decide::netboot::NetbootClient;
use regild::dhcp::{Authority, LeaseError, NetbootAnswer};
use tokio::sync::Semaphore;

use crate::lab::{CLIENT_LINK, Lab, SERVER_IP, SmallAuthority, enter, ip};

/// Long enough for an answer on a busy machine, for tests that expect one.
const PATIENCE: Duration = Duration::from_secs(5);
/// For tests that expect none.
const SILENCE: Duration = Duration::from_millis(300);

/// Port 68 at the client's end.
struct Client {
    socket: UdpSocket,
}

impl Client {
    fn new(lab: &Lab) -> Client {
        let namespace = lab.client.clone();
        let open = move || {
            enter(&namespace);
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.bind_device(Some(CLIENT_LINK.as_bytes())).unwrap();
            socket.bind(&"0.0.0.0:68".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
            UdpSocket::from(socket)
        };
        // A socket stays in the namespace of the thread that opened it.
        Client { socket: std::thread::spawn(open).join().unwrap() }
    }

    fn send(&self, packet: &[u8]) {
        self.socket.send_to(packet, "255.255.255.255:67").unwrap();
    }

    fn receive(&self, wait: Duration) -> Option<Message> {
        self.socket.set_read_timeout(Some(wait)).unwrap();
        let mut buffer = [0; 2048];
        let (length, from) = self.socket.recv_from(&mut buffer).ok()?;
        assert_eq!(from.to_string(), "10.77.0.1:67", "replies come from the configured address");
        Some(Message::decode(&mut Decoder::new(&buffer[..length])).unwrap())
    }

    fn ask(&self, question: Ask) -> Message {
        let xid = self.post(question);
        let reply = self.receive(PATIENCE).unwrap_or_else(|| panic!("no answer to {question:?}"));
        assert_eq!(reply.xid(), xid);
        reply
    }

    fn ask_in_vain(&self, question: Ask) {
        self.post(question);
        assert!(self.receive(SILENCE).is_none(), "an answer to {question:?}");
    }

    fn post(&self, question: Ask) -> u32 {
        static XID: AtomicU32 = AtomicU32::new(1);
        let xid = XID.fetch_add(1, Ordering::Relaxed);
        self.send(&question.encode(xid));
        xid
    }
}

/// A DHCP packet of the test, with the broadcast flag: our kernel would drop unicasts to an address it does not have.
#[derive(Debug, Clone, Copy)]
struct Ask {
    kind: MessageType,
    mac: u8,
    ciaddr: Option<Ipv4Addr>,
    requested: Option<Ipv4Addr>,
    server_id: Option<Ipv4Addr>,
    giaddr: Option<Ipv4Addr>,
}

impl Ask {
    fn new(kind: MessageType, mac: u8) -> Ask {
        Ask { kind, mac, ciaddr: None, requested: None, server_id: None, giaddr: None }
    }

    fn select(mac: u8, ip: Ipv4Addr) -> Ask {
        Ask { requested: Some(ip), server_id: Some(SERVER_IP), ..Ask::new(MessageType::Request, mac) }
    }

    fn encode(&self, xid: u32) -> Vec<u8> {
        let none = Ipv4Addr::UNSPECIFIED;
        let (ciaddr, giaddr) = (self.ciaddr.unwrap_or(none), self.giaddr.unwrap_or(none));
        let mac = [0x52, 0x54, 0, 0, 9, self.mac];
        let mut message = Message::new_with_id(xid, ciaddr, none, none, giaddr, &mac);
        message.set_flags(dhcproto::v4::Flags::default().set_broadcast());
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(self.kind));
        if let Some(ip) = self.requested {
            options.insert(DhcpOption::RequestedIpAddress(ip));
        }
        if let Some(ip) = self.server_id {
            options.insert(DhcpOption::ServerIdentifier(ip));
        }
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        bytes
    }
}

fn kind(message: &Message) -> MessageType {
    message.opts().msg_type().unwrap()
}

/// DISCOVER, OFFER, REQUEST, ACK.
fn bind(client: &Client, mac: u8) -> Ipv4Addr {
    let offer = client.ask(Ask::new(MessageType::Discover, mac));
    assert_eq!(kind(&offer), MessageType::Offer);
    let ack = client.ask(Ask::select(mac, offer.yiaddr()));
    assert_eq!((kind(&ack), ack.yiaddr()), (MessageType::Ack, offer.yiaddr()));
    ack.yiaddr()
}

#[test]
fn d9_repeated_foreign_and_greedy_requests() {
    let lab = Lab::new();
    let server = lab.serve(SmallAuthority::new());
    let client = Client::new(&lab);
    let own = bind(&client, 1);
    // The duplicate: the same ACK.
    for _ in 0..3 {
        let again = client.ask(Ask::select(1, own));
        assert_eq!((kind(&again), again.yiaddr()), (MessageType::Ack, own));
        assert_eq!(again.opts().get(OptionCode::ServerIdentifier), Some(&DhcpOption::ServerIdentifier(SERVER_IP)));
    }
    // Meant for another server.
    client.ask_in_vain(Ask { server_id: Some([10, 77, 0, 3].into()), ..Ask::select(1, own) });
    // Another machine's address, an address from another subnet.
    let theirs = bind(&client, 2);
    assert_ne!(theirs, own);
    assert_eq!(kind(&client.ask(Ask::select(1, theirs))), MessageType::Nak);
    let far = Ask { requested: Some([192, 168, 0, 9].into()), ..Ask::new(MessageType::Request, 1) };
    let nak = client.ask(far);
    assert_eq!((kind(&nak), nak.yiaddr()), (MessageType::Nak, Ipv4Addr::UNSPECIFIED));
    // D12, and the place of relays: silence with a reason.
    client.ask_in_vain(Ask { giaddr: Some([10, 99, 0, 1].into()), ..Ask::new(MessageType::Discover, 1) });
    assert_eq!(server.counters.silent()["relay_not_supported"], 1);
    assert_eq!(server.counters.silent()["other_server"], 1);
}

#[test]
fn renewals_and_informs_are_answered_by_unicast_to_the_address_in_use() {
    let lab = Lab::new();
    let _server = lab.serve(SmallAuthority::new());
    let client = Client::new(&lab);
    let own = bind(&client, 1);
    // Only now does our kernel take packets for it.
    ip(&["-n", &lab.client, "address", "add", &format!("{own}/24"), "dev", CLIENT_LINK]);
    let renewed = client.ask(Ask { ciaddr: Some(own), ..Ask::new(MessageType::Request, 1) });
    assert_eq!((kind(&renewed), renewed.yiaddr(), renewed.ciaddr()), (MessageType::Ack, own, own));
    let told = client.ask(Ask { ciaddr: Some([10, 77, 0, 2].into()), ..Ask::new(MessageType::Inform, 3) });
    assert_eq!((kind(&told), told.yiaddr()), (MessageType::Ack, Ipv4Addr::UNSPECIFIED));
    assert!(told.opts().get(OptionCode::Router).is_some());
    assert!(told.opts().get(OptionCode::AddressLeaseTime).is_none());
    // D13: a renewal of an address that no subnet of ours has.
    let lost = client.ask(Ask { ciaddr: Some([172, 16, 0, 9].into()), ..Ask::new(MessageType::Request, 1) });
    assert_eq!(kind(&lost), MessageType::Nak);
}

#[test]
fn d10_declined_addresses_rest_and_forged_releases_change_nothing() {
    let lab = Lab::new();
    let authority = SmallAuthority::new();
    let server = lab.serve(authority.clone());
    let client = Client::new(&lab);
    let own = bind(&client, 1);
    let state = |ip| authority.table.lock().unwrap().lookup(ip).map(|lease| (lease.state, lease.expires_at));
    let before = state(own);
    let give_back = Ask { ciaddr: Some(own), server_id: Some(SERVER_IP), ..Ask::new(MessageType::Release, 2) };
    client.ask_in_vain(give_back);
    let decline = Ask { kind: MessageType::Decline, ..Ask::select(2, own) };
    client.ask_in_vain(decline);
    assert_eq!(state(own), before);
    assert_eq!(server.counters.silent()["not_the_holder"], 2);
    // The owner's word counts.
    client.ask_in_vain(Ask { mac: 1, ..decline });
    assert_eq!(state(own).map(|(state, _)| state), Some(LeaseState::Declined));
    assert_ne!(bind(&client, 1), own);
    let second = bind(&client, 1);
    client.ask_in_vain(Ask { mac: 1, ciaddr: Some(second), ..give_back });
    assert!(state(second).is_some_and(|(_, expires_at)| expires_at <= regild::clock::now()));
}

/// D1, D2, D7: each packet is counted under its reason, none is answered, and the next machine is served.
#[test]
fn d1_d2_d7_bad_packets_are_counted_and_the_server_lives_on() {
    let lab = Lab::new();
    let server = lab.serve(SmallAuthority::new());
    let client = Client::new(&lab);
    let good = Ask::new(MessageType::Discover, 1).encode(7);
    let spoil = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        packet
    };
    let without_end = good[..good.len() - 1].to_vec();
    let with_long_option = [&without_end[..], &[12, 200, 1, 255]].concat();
    let cases = [
        (good[..239].to_vec(), "too_short"),
        (Vec::new(), "too_short"),
        ([&good[..], &[0; 5000]].concat(), "too_long"),
        ([&good[..], &vec![0; 60_000]].concat(), "too_long"),
        (spoil(0, 2), "not_a_request"),
        (spoil(1, 6), "not_ethernet"),
        (spoil(2, 20), "not_ethernet"),
        (spoil(236, 0), "no_cookie"),
        (without_end, "no_end"),
        (with_long_option, "option_too_long"),
        ([&good[..240], &[255]].concat(), "no_message_type"),
        (spoil(28, 0xff), "bad_mac"),
    ];
    for (packet, _) in &cases {
        client.send(packet);
    }
    assert!(client.receive(SILENCE).is_none());
    let counted = server.counters.malformed();
    for (_, name) in &cases {
        let wanted = cases.iter().filter(|(_, other)| other == name).count() as u64;
        assert_eq!(counted[name], wanted, "{name}");
    }
    bind(&client, 1);
}

/// Grants nothing before the test says so.
struct SlowAuthority {
    small: Arc<SmallAuthority>,
    gate: Semaphore,
}

impl Authority for SlowAuthority {
    async fn lease(&self, place: usize, request: LeaseRequest) -> Result<LeaseAnswer, LeaseError> {
        let pass = self.gate.acquire().await;
        if pass.is_err() {
            return Err(LeaseError::NotStored { reason: "disk full".into() });
        }
        self.small.lease(place, request).await
    }

    async fn netboot(&self, network: usize, mac: Mac, client: NetbootClient) -> NetbootAnswer {
        self.small.netboot(network, mac, client).await
    }
}

/// Rule 7, written down before it is said; rule 9, bounded; D8: a flood is dropped and counted, and passes.
#[test]
fn nothing_is_said_before_it_is_written_and_a_flood_is_bounded() {
    let lab = Lab::new();
    let authority = Arc::new(SlowAuthority { small: SmallAuthority::new(), gate: Semaphore::new(0) });
    let server = lab.serve(authority.clone());
    let client = Client::new(&lab);
    client.ask_in_vain(Ask::new(MessageType::Discover, 1));
    for _ in 0..1500 {
        client.post(Ask::new(MessageType::Discover, 2));
    }
    let overloaded = || server.counters.overloaded.load(Ordering::Relaxed);
    let flooded = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        server.counters.received.load(Ordering::Relaxed) == 1501
    });
    assert!(flooded, "the server stopped reading");
    assert_eq!(overloaded(), 1501 - 1024);
    authority.gate.add_permits(1);
    let mut answers = 0;
    while client.receive(SILENCE).is_some() {
        answers += 1;
    }
    assert!(answers > 0);
    bind(&client, 3);
    // Stable storage fails: no answer at all, and it is counted.
    authority.gate.close();
    client.ask_in_vain(Ask::new(MessageType::Discover, 4));
    assert_eq!(server.counters.lease_errors.load(Ordering::Relaxed), 1);
}
