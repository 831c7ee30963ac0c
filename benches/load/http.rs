//! Machines that fetch image data: one connection each, range after range of one file, as the agent asks for it.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
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
    #[arg(long)]
    clients: u64,
    /// Ranges in all.
    #[arg(long)]
    ranges: u64,
}

impl Http {
    pub fn run(&self) -> io::Result<Value> {
        let begun = AtomicU64::new(0);
        let began = Instant::now();
        let client = || -> io::Result<Vec<Duration>> {
            let stream = TcpStream::connect(self.server)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            // The reader's own buffer is for heads; bodies go past it into the large one.
            let mut stream = BufReader::with_capacity(1 << 12, stream);
            let mut buffer = vec![0; 1 << 20];
            let mut times = Vec::new();
            loop {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                if number >= self.ranges {
                    return Ok(times);
                }
                let asked = Instant::now();
                self.fetch(&mut stream, number, &mut buffer)?;
                times.push(asked.elapsed());
            }
        };
        let times: Vec<Duration> = std::thread::scope(|scope| {
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
        let bytes = times.len() as u64 * self.range_bytes;
        Ok(json!({
            "ranges": times.len(), "bytes": bytes, "seconds": seconds, "mb_per_second": bytes as f64 / 1e6 / seconds,
            "latency": super::latencies(times),
        }))
    }

    fn fetch(&self, stream: &mut BufReader<TcpStream>, number: u64, buffer: &mut [u8]) -> io::Result<()> {
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
            let room = left.min(buffer.len());
            match stream.read(&mut buffer[..room])? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                length => left -= length,
            }
        }
        Ok(())
    }
}
