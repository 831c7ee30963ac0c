//! Agents at work: each says once a second, on a connection of its own from its own address, how far it is.

use regild::wire::agent::{Event, PROTOCOL, Progress, Report, Step};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A server that says nothing for this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const PACE: Duration = Duration::from_secs(1);
/// A thread that waits for a socket needs little.
const STACK_BYTES: usize = 128 << 10;

#[derive(Debug, clap::Args)]
pub struct Agents {
    /// ADDRESS:PORT
    #[arg(long)]
    server: SocketAddr,
    /// A line for each agent: the id of its host, which is its session too, and its address.
    #[arg(long)]
    agents: PathBuf,
    /// Reports of each.
    #[arg(long)]
    reports: u32,
}

impl Agents {
    pub fn run(&self) -> io::Result<Value> {
        let text = std::fs::read_to_string(&self.agents)?;
        let agents: Vec<(String, Ipv4Addr)> = text
            .lines()
            .filter_map(|line| {
                let (id, address) = line.split_once(' ')?;
                Some((id.to_string(), address.parse().ok()?))
            })
            .collect();
        let began = Instant::now();
        let of = agents.len() as u32;
        let threads: Vec<_> = agents
            .into_iter()
            .zip(0u32..)
            .map(|((id, address), number)| {
                let (server, reports) = (self.server, self.reports);
                // Evenly spread over the second, as agents that began at any time are.
                let first = began + PACE * number / of;
                let agent = move || agent(&id, address, server, reports, first);
                std::thread::Builder::new().stack_size(STACK_BYTES).spawn(agent)
            })
            .collect::<io::Result<_>>()?;
        let mut times = Vec::new();
        for thread in threads {
            times.extend(thread.join().expect("an agent does not panic")?);
        }
        Ok(json!({
            "agents": of, "reports": times.len(), "seconds": began.elapsed().as_secs_f64(),
            "latency": super::latencies(times),
        }))
    }
}

fn agent(id: &str, address: Ipv4Addr, server: SocketAddr, reports: u32, first: Instant) -> io::Result<Vec<Duration>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((address, 0)).into())?;
    socket.connect(&server.into())?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::with_capacity(1 << 12, TcpStream::from(socket));
    let mut times = Vec::with_capacity(reports as usize);
    for number in 1..=reports {
        std::thread::sleep((first + PACE * (number - 1)).saturating_duration_since(Instant::now()));
        let done_bytes = u64::from(number) << 20;
        let progress =
            Progress { step: Step::WriteBody, done_bytes, total_bytes: 4 << 30, fetched_bytes: done_bytes / 3 };
        let (host, session, event) = (id.to_string(), id.to_string(), Event::Progress { progress });
        let body = serde_json::to_vec(&Report { protocol: PROTOCOL, host, generation: 1, session, event })?;
        let asked = Instant::now();
        say(&mut stream, server, &body)?;
        times.push(asked.elapsed());
    }
    Ok(times)
}

/// One report. Anything but a good answer ends the measurement: none may be lost.
fn say(stream: &mut BufReader<TcpStream>, server: SocketAddr, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    let mut request = format!(
        "POST /agent/v1/report HTTP/1.1\r\nHost: {server}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    stream.get_mut().write_all(&request)?;
    let (mut status, mut line, mut left) = (String::new(), String::new(), 0u64);
    stream.read_line(&mut status)?;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                left = value.trim().parse().map_err(io::Error::other)?;
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut said = String::new();
    stream.by_ref().take(left).read_to_string(&mut said)?;
    if !status.starts_with("HTTP/1.1 2") {
        return Err(io::Error::other(format!("{server} answered {status:?}: {said}")));
    }
    Ok(())
}
