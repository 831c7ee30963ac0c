//! Machines that fetch image data: one connection each, range after range of one file, as the agent asks for it.
//!
//! What comes is thrown away in the kernel (tcp(7), MSG_TRUNC): copying it costs a client more than sending costs a server,
//! and by how much depends on the alignment that head and body happen to have (measured: 0.6 to 2.6 GB/s from the same server).

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A server that says nothing for this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub struct Http {
    /// ADDRESS:PORT
    #[arg(long)]
    server: SocketAddr,
    #[arg(long)]
    path: String,
    /// Length of the file; ranges lie inside it, one behind another.
    #[arg(long)]
    bytes: u64,
    /// Bytes of one range: what the agent asks for at once.
    #[arg(long, default_value_t = 4 << 20)]
    range_bytes: u64,
    /// Clients at once.
    #[arg(long, default_value_t = 1)]
    clients: u64,
    /// Addresses of ours, a client for each instead; one that is named twice has two.
    #[arg(long, value_delimiter = ',')]
    from: Vec<Ipv4Addr>,
    /// Ranges in all.
    #[arg(long, default_value_t = u64::MAX)]
    ranges: u64,
    /// The end, whatever was fetched by then.
    #[arg(long)]
    seconds: Option<f64>,
}

/// What one client got.
#[derive(Default)]
struct Got {
    times: Vec<Duration>,
    /// Those of the range in which the time was over, too.
    bytes: u64,
}

impl Http {
    pub fn run(&self) -> io::Result<Value> {
        let begun = AtomicU64::new(0);
        let began = Instant::now();
        let ends = self.seconds.map(|seconds| began + Duration::from_secs_f64(seconds));
        let client = |from: Option<Ipv4Addr>| -> io::Result<Got> {
            let stream = self.connect(from)?;
            // The reader's buffer is for heads; most of a body goes past it.
            let mut stream = BufReader::with_capacity(1 << 12, stream);
            // Never written to: a length is all that the kernel wants of it.
            let mut nowhere = Vec::with_capacity(1 << 20);
            let mut got = Got::default();
            while ends.is_none_or(|ends| Instant::now() < ends) {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                if number >= self.ranges {
                    break;
                }
                let asked = Instant::now();
                if self.fetch(&mut stream, number, nowhere.spare_capacity_mut(), ends, &mut got.bytes)? {
                    got.times.push(asked.elapsed());
                }
            }
            Ok(got)
        };
        let unbound = (0..if self.from.is_empty() { self.clients } else { 0 }).map(|_| None);
        let clients: Vec<Option<Ipv4Addr>> = unbound.chain(self.from.iter().copied().map(Some)).collect();
        let got = std::thread::scope(|scope| {
            let begin = |from: &Option<Ipv4Addr>| {
                let from = *from;
                let small = std::thread::Builder::new().stack_size(256 << 10);
                small.spawn_scoped(scope, move || client(from))
            };
            let running: Vec<_> = clients.iter().map(begin).collect::<io::Result<_>>()?;
            running
                .into_iter()
                .map(|client| client.join().expect("a client does not panic"))
                .collect::<io::Result<Vec<_>>>()
        })?;
        let seconds = began.elapsed().as_secs_f64();
        let bytes: u64 = got.iter().map(|got| got.bytes).sum();
        let mut by_address = BTreeMap::<String, u64>::new();
        for (from, got) in clients.iter().zip(&got) {
            *by_address.entry(from.map_or_else(String::new, |from| from.to_string())).or_default() += got.bytes;
        }
        let times: Vec<Duration> = got.into_iter().flat_map(|got| got.times).collect();
        Ok(json!({
            "ranges": times.len(), "bytes": bytes, "seconds": seconds, "mb_per_second": bytes as f64 / 1e6 / seconds,
            "by_address": by_address, "latency": super::latencies(times),
        }))
    }

    fn connect(&self, from: Option<Ipv4Addr>) -> io::Result<TcpStream> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::from((from, 0)).into())?;
        }
        socket.connect(&self.server.into())?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// `false`: the time was over before the range was.
    fn fetch(
        &self,
        stream: &mut BufReader<TcpStream>,
        number: u64,
        nowhere: &mut [MaybeUninit<u8>],
        ends: Option<Instant>,
        got: &mut u64,
    ) -> io::Result<bool> {
        let places = (self.bytes / self.range_bytes).max(1);
        let first = number % places * self.range_bytes;
        let last = first + self.range_bytes - 1;
        let (path, server) = (&self.path, self.server);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nRange: bytes={first}-{last}\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if !line.starts_with("HTTP/1.1 206") {
            return Err(io::Error::other(format!("{server} answered {line:?}")));
        }
        let mut length = None;
        while !line.trim_end().is_empty() {
            line.clear();
            stream.read_line(&mut line)?;
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok();
            }
        }
        if length != Some(self.range_bytes) {
            return Err(io::Error::other(format!("{length:?} bytes instead of {}", self.range_bytes)));
        }
        let mut left = self.range_bytes as usize;
        while left > 0 {
            match discard(stream, nowhere, left)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                length => {
                    left -= length;
                    *got += length as u64;
                }
            }
            if ends.is_some_and(|ends| Instant::now() >= ends) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Takes up to so many bytes of a body.
fn discard(stream: &mut BufReader<TcpStream>, nowhere: &mut [MaybeUninit<u8>], most: usize) -> io::Result<usize> {
    let behind_the_head = stream.buffer().len().min(most);
    if behind_the_head > 0 {
        stream.consume(behind_the_head);
        return Ok(behind_the_head);
    }
    let length = most.min(nowhere.len());
    socket2::SockRef::from(stream.get_ref()).recv_with_flags(&mut nowhere[..length], libc::MSG_TRUNC)
}
