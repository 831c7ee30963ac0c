//! Many machines that ask for an address at once. Each goes through DISCOVER, OFFER, REQUEST, ACK; a new one begins when
//! one is done, so that a fixed number is always waiting and the server sets the pace.
//!
//! perfdhcp cannot be used: it writes its own address into giaddr, so it is a relay, and regild serves none yet.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
/// As ROMs do, near enough; nothing is lost on an idle cable, so a repetition shows a server that drops.
const REPEAT_AFTER: Duration = Duration::from_secs(1);
const REPEATS_MAX: u32 = 8;
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;

#[derive(Debug, clap::Args)]
pub struct Dhcp {
    /// The interface to ask on.
    #[arg(long)]
    interface: String,
    /// Machines that wait for an answer at any time.
    #[arg(long)]
    waiting: usize,
    /// Exchanges in all.
    #[arg(long)]
    exchanges: u32,
    /// Number of the first machine: its MAC is 52:54:00 and this number.
    #[arg(long, default_value_t = 1)]
    first: u32,
    /// Ask as a UEFI ROM that wants to netboot; otherwise as an operating system.
    #[arg(long)]
    netboot: bool,
}

/// One machine's exchange.
struct Exchange {
    began: Instant,
    sent: Instant,
    packet: Vec<u8>,
    requested: bool,
    repeats: u32,
}

struct Run<'a> {
    load: &'a Dhcp,
    socket: UdpSocket,
    /// By number; `None` is not begun, or over.
    open: Vec<Option<Exchange>>,
    /// Numbers that are waiting, to look at for repetitions.
    waiting: Vec<u32>,
    begun: u32,
    times: Vec<Duration>,
    addresses: HashSet<[u8; 4]>,
    repeats: u32,
    failed: u32,
}

impl Dhcp {
    pub fn run(&self) -> io::Result<Value> {
        let open = (0..self.exchanges).map(|_| None).collect();
        let mut run = Run {
            load: self,
            socket: open_socket(&self.interface)?,
            open,
            waiting: Vec::new(),
            begun: 0,
            times: Vec::new(),
            addresses: HashSet::new(),
            repeats: 0,
            failed: 0,
        };
        let began = Instant::now();
        run.until_all_are_done()?;
        let seconds = began.elapsed().as_secs_f64();
        let done = run.times.len();
        Ok(json!({
            "exchanges": done, "seconds": seconds, "per_second": done as f64 / seconds,
            // Two machines with one address would be a broken server, however fast.
            "addresses": run.addresses.len(), "repeats": run.repeats, "failed": run.failed,
            "latency": super::latencies(run.times),
        }))
    }

    fn mac(&self, number: u32) -> [u8; 6] {
        let [_, a, b, c] = (self.first + number).to_be_bytes();
        [0x52, 0x54, 0, a, b, c]
    }
}

impl Run<'_> {
    fn until_all_are_done(&mut self) -> io::Result<()> {
        let mut looked = Instant::now();
        let mut buffer = [0; 2048];
        while self.begun < self.load.exchanges || !self.waiting.is_empty() {
            while self.waiting.len() < self.load.waiting && self.begun < self.load.exchanges {
                self.begin()?;
            }
            match self.socket.recv(&mut buffer) {
                Ok(length) => self.answered(&buffer[..length])?,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
            if looked.elapsed() > Duration::from_millis(100) {
                looked = Instant::now();
                self.repeat_late_ones()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        let number = self.begun;
        self.begun += 1;
        let packet = ask(self.load.mac(number), number, None, self.load.netboot);
        self.socket.send_to(&packet, SERVER)?;
        let now = Instant::now();
        self.open[number as usize] = Some(Exchange { began: now, sent: now, packet, requested: false, repeats: 0 });
        self.waiting.push(number);
        Ok(())
    }

    fn answered(&mut self, packet: &[u8]) -> io::Result<()> {
        let Some(answer) = Answer::read(packet) else { return Ok(()) };
        let Some(exchange) = self.open.get_mut(answer.xid as usize).and_then(Option::as_mut) else { return Ok(()) };
        match (answer.kind, exchange.requested) {
            (OFFER, false) => {
                let chosen = Some((answer.address, answer.server));
                exchange.packet = ask(self.load.mac(answer.xid), answer.xid, chosen, self.load.netboot);
                exchange.requested = true;
                exchange.sent = Instant::now();
                self.socket.send_to(&exchange.packet, SERVER)?;
            }
            (ACK, true) => {
                self.times.push(exchange.began.elapsed());
                self.addresses.insert(answer.address);
                self.end(answer.xid);
            }
            // A repetition's second answer.
            (OFFER, true) | (ACK, false) => {}
            _ => {
                self.failed += 1;
                self.end(answer.xid);
            }
        }
        Ok(())
    }

    fn end(&mut self, number: u32) {
        self.open[number as usize] = None;
        self.waiting.retain(|waiting| *waiting != number);
    }

    fn repeat_late_ones(&mut self) -> io::Result<()> {
        for number in self.waiting.clone() {
            let Some(exchange) = self.open[number as usize].as_mut() else { continue };
            if exchange.sent.elapsed() < REPEAT_AFTER {
                continue;
            }
            exchange.repeats += 1;
            if exchange.repeats > REPEATS_MAX {
                self.failed += 1;
                self.end(number);
                continue;
            }
            self.repeats += 1;
            exchange.sent = Instant::now();
            self.socket.send_to(&exchange.packet, SERVER)?;
        }
        Ok(())
    }
}

fn open_socket(interface: &str) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    // Best effort: answers to all that wait fit into the default, too.
    let _ = socket.set_recv_buffer_size(4 << 20);
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68).into())?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(socket.into())
}

/// A DISCOVER or, with address and server chosen, a REQUEST. The broadcast flag is set: the addresses that are handed
/// out are not this kernel's, and it would drop what is sent to them.
fn ask(mac: [u8; 6], xid: u32, chosen: Option<([u8; 4], [u8; 4])>, netboot: bool) -> Vec<u8> {
    let mut packet = vec![0; 240];
    packet[..4].copy_from_slice(&[1, 1, 6, 0]);
    packet[4..8].copy_from_slice(&xid.to_be_bytes());
    packet[10] = 0x80;
    packet[28..34].copy_from_slice(&mac);
    packet[236..240].copy_from_slice(&[99, 130, 83, 99]);
    let mut option = |code: u8, value: &[u8]| {
        packet.extend([code, value.len() as u8]);
        packet.extend(value);
    };
    option(53, &[if chosen.is_some() { REQUEST } else { DISCOVER }]);
    if let Some((address, server)) = chosen {
        option(50, &address);
        option(54, &server);
    }
    option(55, &[1, 3, 6, 12, 15, 28, 43, 51, 54, 60, 66, 67]);
    if netboot {
        // As OVMF says it.
        option(60, b"PXEClient:Arch:00007:UNDI:003001");
        option(93, &[0, 7]);
        option(94, &[1, 3, 1]);
    }
    packet.push(255);
    // BOOTP's least length, which some servers and relays insist on.
    packet.resize(packet.len().max(300), 0);
    packet
}

struct Answer {
    xid: u32,
    kind: u8,
    address: [u8; 4],
    server: [u8; 4],
}

impl Answer {
    fn read(packet: &[u8]) -> Option<Answer> {
        let four = |at: usize| packet.get(at..at + 4)?.try_into().ok();
        let mut answer = Answer { xid: u32::from_be_bytes(four(4)?), kind: 0, address: four(16)?, server: [0; 4] };
        let mut rest = packet.get(240..)?;
        while let [code, tail @ ..] = rest {
            rest = match (*code, tail) {
                (0, _) => tail,
                (255, _) | (_, []) => break,
                (code, [length, tail @ ..]) => {
                    let (value, next) = tail.split_at_checked(usize::from(*length))?;
                    match (code, value) {
                        (53, [kind]) => answer.kind = *kind,
                        (54, value) => answer.server = value.try_into().ok()?,
                        _ => {}
                    }
                    next
                }
            };
        }
        Some(answer)
    }
}
