//! Boot ROMs: each fetches one file again and again, with one acknowledgement for each block (most firmware) or for each
//! window of blocks (RFC 7440; EDK2 asks for four).

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const REPEAT_AFTER: Duration = Duration::from_secs(1);
const REPEATS_MAX: u32 = 8;
const DATA: u8 = 3;
const ERROR: u8 = 5;
const OACK: u8 = 6;

#[derive(Debug, clap::Args)]
pub struct Tftp {
    /// ADDRESS:PORT
    #[arg(long)]
    server: SocketAddr,
    #[arg(long)]
    file: String,
    /// What the file must be long: a shorter one is a failure, not a fast transfer.
    #[arg(long)]
    bytes: u64,
    /// Clients at once.
    #[arg(long)]
    clients: u32,
    /// Transfers in all.
    #[arg(long)]
    transfers: u32,
    #[arg(long, default_value_t = 1468)]
    block_bytes: u16,
    /// Blocks for each acknowledgement, where the server grants it.
    #[arg(long, default_value_t = 1)]
    window: u16,
}

/// What one transfer came to.
struct Transferred {
    seconds: Duration,
    repeats: u32,
    block_bytes: u16,
    window: u16,
}

impl Tftp {
    pub fn run(&self) -> io::Result<Value> {
        let begun = AtomicU32::new(0);
        let began = Instant::now();
        let client = || -> io::Result<Vec<Transferred>> {
            let mut done = Vec::new();
            while begun.fetch_add(1, Ordering::Relaxed) < self.transfers {
                done.push(self.fetch()?);
            }
            Ok(done)
        };
        let done: Vec<Transferred> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..self.clients).map(|_| scope.spawn(client)).collect();
            clients
                .into_iter()
                .map(|client| client.join().expect("a client does not panic"))
                .collect::<io::Result<Vec<_>>>()
        })?
        .into_iter()
        .flatten()
        .collect();
        let seconds = began.elapsed().as_secs_f64();
        let bytes = done.len() as u64 * self.bytes;
        Ok(json!({
            "transfers": done.len(), "bytes": bytes, "seconds": seconds,
            "mb_per_second": bytes as f64 / 1e6 / seconds,
            "repeats": done.iter().map(|transfer| transfer.repeats).sum::<u32>(),
            "block_bytes": done.iter().map(|transfer| transfer.block_bytes).min(),
            "window": done.iter().map(|transfer| transfer.window).min(),
            "latency": super::latencies(done.iter().map(|transfer| transfer.seconds).collect()),
        }))
    }

    /// One transfer, from a port of its own.
    fn fetch(&self) -> io::Result<Transferred> {
        let began = Instant::now();
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(REPEAT_AFTER))?;
        let mut say = self.request();
        let mut to = self.server;
        socket.send_to(&say, to)?;
        // Without an OACK a server sends blocks of 512 bytes (RFC 2347).
        let (mut block_bytes, mut window) = (512u16, 1u16);
        let (mut next, mut in_window, mut received, mut repeats) = (1u16, 0, 0u64, 0);
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer) {
                Ok(packet) => packet,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    repeats += 1;
                    if repeats > REPEATS_MAX {
                        return Err(io::Error::other(format!("no answer from {to} at block {next}")));
                    }
                    socket.send_to(&say, to)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let packet = &buffer[..length];
            match packet {
                [0, OACK, options @ ..] => {
                    block_bytes = option(options, b"blksize").unwrap_or(512);
                    window = option(options, b"windowsize").unwrap_or(1);
                    say = vec![0, 4, 0, 0];
                }
                [0, DATA, high, low, data @ ..] if u16::from_be_bytes([*high, *low]) == next => {
                    received += data.len() as u64;
                    say = vec![0, 4, *high, *low];
                    next = next.wrapping_add(1);
                    in_window += 1;
                    if data.len() < usize::from(block_bytes) {
                        socket.send_to(&say, from)?;
                        break;
                    }
                    if in_window < window {
                        continue;
                    }
                    in_window = 0;
                }
                [0, ERROR, _, code, text @ ..] => {
                    let text = String::from_utf8_lossy(text);
                    return Err(io::Error::other(format!("error {code} from {from}: {text}")));
                }
                // A block that came twice, or behind one that was lost: then `say` is said again in a second.
                _ => continue,
            }
            to = from;
            socket.send_to(&say, to)?;
        }
        if received != self.bytes {
            return Err(io::Error::other(format!("{received} bytes instead of {}", self.bytes)));
        }
        Ok(Transferred { seconds: began.elapsed(), repeats, block_bytes, window })
    }

    fn request(&self) -> Vec<u8> {
        let mut request = vec![0, 1];
        let (block_bytes, window) = (self.block_bytes.to_string(), self.window.to_string());
        let mut words = vec![self.file.as_str(), "octet", "blksize", &block_bytes, "tsize", "0"];
        if self.window > 1 {
            words.extend(["windowsize", &window]);
        }
        for word in words {
            request.extend(word.as_bytes());
            request.push(0);
        }
        request
    }
}

/// The value of one option of an OACK.
fn option(options: &[u8], name: &[u8]) -> Option<u16> {
    let words: Vec<&[u8]> = options.split(|byte| *byte == 0).collect();
    let pair = words.chunks_exact(2).find(|pair| pair[0].eq_ignore_ascii_case(name))?;
    std::str::from_utf8(pair[1]).ok()?.parse().ok()
}
