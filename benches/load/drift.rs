//! Installed agents of many hosts: each on a connection of its own from its own address, with a key of its own, since an
//! agent that reports once an hour keeps none open.

use ed25519_dalek::{Signer, SigningKey};
use regild::wire::drift::{
    Finding, KeyTaken, NewKey, Node, PathText, Received, Report, SIGNED_FOR, Scan, Signed, Terms,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A server that says nothing for this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub struct Drift {
    /// ADDRESS:PORT
    #[arg(long)]
    server: SocketAddr,
    /// A line for each host: its id and its address.
    #[arg(long)]
    hosts: PathBuf,
    /// Of these so many.
    #[arg(long, default_value_t = usize::MAX)]
    take: usize,
    #[arg(long)]
    what: What,
    /// Number of the report; larger each time.
    #[arg(long, default_value_t = 1)]
    sequence: u64,
    /// Findings of each report.
    #[arg(long, default_value_t = 0)]
    findings: usize,
    /// Spread evenly over so long; 0: as fast as it goes.
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
    /// Hosts that speak at once.
    #[arg(long, default_value_t = 8)]
    clients: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Ask for the terms, and give the key.
    Enrol,
    /// All findings.
    Report,
    /// The same as report 1.
    Heartbeat,
}

type Host = (String, Ipv4Addr);

impl Drift {
    pub fn run(&self) -> io::Result<Value> {
        let text = std::fs::read_to_string(&self.hosts)?;
        let host = |line: &str| {
            let (id, address) = line.split_once(' ')?;
            Some((id.to_string(), address.parse().ok()?))
        };
        let hosts: Vec<Host> = text.lines().filter_map(host).take(self.take).collect();
        let first = hosts.first().ok_or_else(|| io::Error::other("no hosts"))?;
        let terms: Terms = ask(self.server, first.1, "GET", "/agent/v1/drift/terms", b"")?;
        let began = Instant::now();
        let client = |number: usize| -> io::Result<(Vec<Duration>, u64)> {
            let (mut times, mut bytes) = (Vec::new(), 0);
            for (at, host) in hosts.iter().enumerate().skip(number).step_by(self.clients) {
                let due = began + Duration::from_secs_f64(self.seconds * at as f64 / hosts.len() as f64);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let (took, sent) = self.speak(host, &terms)?;
                times.push(took);
                bytes += sent;
            }
            Ok((times, bytes))
        };
        let (mut times, mut bytes) = (Vec::new(), 0);
        std::thread::scope(|scope| -> io::Result<()> {
            let client = &client;
            let clients: Vec<_> = (0..self.clients).map(|number| scope.spawn(move || client(number))).collect();
            for done in clients {
                let (took, sent) = done.join().expect("a client does not panic")?;
                times.extend(took);
                bytes += sent;
            }
            Ok(())
        })?;
        let seconds = began.elapsed().as_secs_f64();
        Ok(json!({ "hosts": times.len(), "bytes": bytes, "seconds": seconds, "latency": super::latencies(times) }))
    }

    /// One word of one host: how long its answer took, and how many bytes it had.
    fn speak(&self, (id, address): &Host, terms: &Terms) -> io::Result<(Duration, u64)> {
        let key = SigningKey::from_bytes(blake3::hash(id.as_bytes()).as_bytes());
        if self.what == What::Enrol {
            let asked = Instant::now();
            let own: Terms = ask(self.server, *address, "GET", "/agent/v1/drift/terms", b"")?;
            let public_key = hex(&key.verifying_key().to_bytes());
            let said = NewKey { host: own.host, generation: own.generation, public_key };
            let body = serde_json::to_vec(&said)?;
            let _: KeyTaken = ask(self.server, *address, "POST", "/agent/v1/drift/key", &body)?;
            return Ok((asked.elapsed(), body.len() as u64));
        }
        let is_same = self.what == What::Heartbeat;
        let report = Report {
            host: id.clone(),
            generation: 1,
            sequence: self.sequence,
            baseline: terms.baseline.clone().unwrap_or_default(),
            policy: terms.policy.clone(),
            scan: Scan { kind: "full".into(), number: self.sequence, paths: 17_369, ..Scan::default() },
            same_as: is_same.then_some(1),
            findings: if is_same { Vec::new() } else { (0..self.findings).map(|at| finding(id, at)).collect() },
            findings_total: self.findings as u64,
            ..Report::default()
        };
        let payload = serde_json::to_string(&report)?;
        let signature = hex(&key.sign(&[SIGNED_FOR, payload.as_bytes()].concat()).to_bytes());
        let body = serde_json::to_vec(&Signed { payload, signature })?;
        let asked = Instant::now();
        let received: Received = ask(self.server, *address, "POST", "/agent/v1/drift/report", &body)?;
        if received.sequence != self.sequence {
            return Err(io::Error::other(format!("{id}: report {} was taken as {}", self.sequence, received.sequence)));
        }
        Ok((asked.elapsed(), body.len() as u64))
    }
}

/// The same upgrade on every host: the first path is common to all of them, of the others each host has its own content.
fn finding(host: &str, at: usize) -> Finding {
    let node = |content: String| Node {
        kind: "file".into(),
        mode: 0o755,
        uid: 0,
        gid: 0,
        modified: 1_800_000_000,
        bytes: Some(1_000_000 + at as u64),
        digest: Some(blake3::hash(content.as_bytes()).to_hex().to_string()),
        target: None,
        device: None,
        xattrs: Vec::new(),
    };
    let path = PathText(format!("/usr/lib/x86_64-linux-gnu/library-{at:04}.so.1").into_bytes());
    let seen = if at == 0 { "upgraded".to_string() } else { format!("{host} {at}") };
    let (expected, seen) = (Some(node(format!("image {at}"))), Some(node(seen)));
    Finding { path, expected, seen, first_seen: 1_800_000_000, scans: 1, content: None }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One request on a connection of its own. Anything but a good answer ends the measurement: none may be lost.
fn ask<T: DeserializeOwned>(
    server: SocketAddr,
    from: Ipv4Addr,
    method: &str,
    path: &str,
    body: &[u8],
) -> io::Result<T> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&server.into())?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::new(TcpStream::from(socket));
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nContent-Length: {length}\r\n\r\n");
    stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
    let (mut status, mut line, mut left) = (String::new(), String::new(), 0u64);
    stream.read_line(&mut status)?;
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            left = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut said = String::new();
    stream.take(left).read_to_string(&mut said)?;
    if !status.starts_with("HTTP/1.1 2") {
        return Err(io::Error::other(format!("{path}: {server} answered {status:?}: {said}")));
    }
    Ok(serde_json::from_str(&said)?)
}
