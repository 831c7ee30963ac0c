//! The road of a machine and of an operator to the real server: DHCP, HTTP, the operators' socket.

use dhcproto::v4::{DhcpOption, Message, MessageType};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use regild::wire::agent::{CheckIn, Disk, DiskId, Event, PROTOCOL, Report, Step};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::brakes;
use crate::client::{Answer, Attempt, Broken, Door};
use crate::direct::inventory;
use crate::life::{IMAGE, Life, Op, why};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// DHCP is asked again after this, so many times, as machines do.
const DHCP_WAIT: Duration = Duration::from_millis(500);
const DHCP_TRIES: u32 = 40;

#[derive(Debug)]
pub struct Wire {
    pub operators: PathBuf,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Broken {
        Broken::Cut
    }
}

impl Door for Wire {
    fn perform(&mut self, life: &Life, op: Op, attempt: Option<&Attempt>) -> Result<Answer, Broken> {
        match op {
            Op::Lease(number) => lease(life, number)?,
            Op::Script => return script(life),
            Op::History => {
                let lines = self.operator("GET", &format!("/v1/hosts/{}/history", life.id()), None)?;
                let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
                let lines = lines.as_array().into_iter().flatten();
                return Ok(Answer::History(lines.map(|line| (text(&line["to"]), text(&line["cause"]))).collect()));
            }
            Op::Approve => {
                let body = json!({ "image": IMAGE, "by": "ann", "release_disk": false });
                let host = self.order(life, "approve", body)?;
                if host["order"]["generation"].as_u64() != Some(life.generation + 1) {
                    return Err(Broken::Refused(host.to_string()));
                }
            }
            Op::Reimage(number) => {
                let body = json!({ "ids": [life.id()], "by": "ann", "reason": why(number) });
                let asked = self.operator("POST", "/v1/reimage", Some(body))?;
                // Done at once: none of the brakes may hold this load.
                if asked["hosts"][0]["order"].as_u64() != Some(life.generation + 1) {
                    return Err(Broken::Refused(asked.to_string()));
                }
            }
            Op::Hold(number) => drop(self.order(life, "hold", json!({ "by": "ann", "reason": why(number) }))?),
            Op::Release => drop(self.order(life, "release", json!({ "by": "ann" }))?),
            Op::CheckIn => check_in(life, attempt)?,
            Op::Target | Op::WriteBody | Op::VerifyBody | Op::Verified | Op::Failed(_) => report(life, op, attempt)?,
            Op::Installed => installed(life, IMAGE)?,
        }
        Ok(Answer::Done)
    }
}

impl Wire {
    pub fn hosts(&self) -> Result<Value, Broken> {
        self.operator("GET", "/v1/hosts", None)
    }

    /// Sets the brakes of the load.
    pub fn apply_brakes(&self) -> Result<Value, Broken> {
        let body = json!({ "document": brakes::document(), "prune": false, "loosen": true, "by": "ann" });
        self.operator("POST", "/v1/fleet/apply", Some(body))
    }

    /// How many changes it would make to set them again.
    pub fn brakes_to_change(&self) -> Result<usize, Broken> {
        let body = json!({ "document": brakes::document(), "prune": false, "loosen": true, "by": "ann" });
        let diff = self.operator("POST", "/v1/fleet/diff", Some(body))?;
        diff["changes"].as_array().map(Vec::len).ok_or_else(|| Broken::Refused(diff.to_string()))
    }

    fn order(&self, life: &Life, verb: &str, body: Value) -> Result<Value, Broken> {
        self.operator("POST", &format!("/v1/hosts/{}/{verb}", life.id()), Some(body))
    }

    fn operator(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Broken> {
        let answer = http(UnixStream::connect(&self.operators)?, method, path, body)?;
        serde_json::from_str(&answer).map_err(|error| Broken::Refused(format!("{error}: {answer}")))
    }
}

/// Whether the server knows that this address is leased to this host: a word that it only takes from there, and then
/// refuses for another reason.
pub fn is_leased(life: &Life) -> Result<bool, Broken> {
    match installed(life, "none:0") {
        Err(Broken::Refused(why)) if why.starts_with("409") || why.starts_with("404") => Ok(true),
        Err(Broken::Refused(why)) if why.starts_with("403") => Ok(false),
        Err(other) => Err(other),
        Ok(()) => Err(Broken::Refused("an image that nobody wrote is confirmed".to_string())),
    }
}

/// RENEWING, by unicast: our kernel has every host's address.
fn lease(life: &Life, number: u32) -> Result<(), Broken> {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(number, life.ip(), none, none, none, &life.mac().0);
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Request));
    message.opts_mut().insert(DhcpOption::Hostname(format!("n-{number}")));
    let mut packet = Vec::new();
    message.encode(&mut Encoder::new(&mut packet)).expect("a packet of the test's own");
    let socket = UdpSocket::bind((life.ip(), 68))?;
    socket.connect((SERVER, 67))?;
    socket.set_read_timeout(Some(DHCP_WAIT))?;
    let mut buffer = [0; 2048];
    for _ in 0..DHCP_TRIES {
        socket.send(&packet)?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let answer = Message::decode(&mut Decoder::new(&buffer[..length]));
                let answer = answer.map_err(|error| Broken::Refused(error.to_string()))?;
                let acked = answer.opts().msg_type() == Some(MessageType::Ack) && answer.yiaddr() == life.ip();
                return if acked { Ok(()) } else { Err(Broken::Refused(format!("{answer:?}"))) };
            }
            // Lost, or taken by a server that was killed: then the next one meets a closed port.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Broken::Refused("no answer to DHCP".to_string()))
}

fn script(life: &Life) -> Result<Answer, Broken> {
    let mac = life.mac().to_string().replace(':', "-");
    let script = machine(life, "GET", &format!("/boot/{mac}/bios"), None)?;
    if script.contains("not leased") || script.contains("cannot decide") {
        return Err(Broken::Refused(script));
    }
    let word = |key: &str| script.split_whitespace().find_map(|word| word.strip_prefix(key));
    Ok(match (word("regild.generation="), word("regild.token=")) {
        (Some(generation), Some(token)) => {
            let generation = generation.parse().map_err(|_| Broken::Refused(script.clone()))?;
            Answer::Agent(Attempt::new(generation, token.to_string()))
        }
        _ => Answer::Local,
    })
}

fn check_in(life: &Life, attempt: Option<&Attempt>) -> Result<(), Broken> {
    let attempt = attempt.expect("agents have a token").clone();
    let said = CheckIn {
        protocol: PROTOCOL,
        host: life.id(),
        generation: attempt.generation,
        token: attempt.token,
        session: attempt.session,
        uefi: false,
        inventory: inventory(life),
    };
    machine(life, "POST", "/agent/v1/checkin", Some(json!(said))).map(drop)
}

fn report(life: &Life, op: Op, attempt: Option<&Attempt>) -> Result<(), Broken> {
    let attempt = attempt.expect("agents have a token").clone();
    let event = match op {
        Op::Target => {
            let disk = Disk { serial: Some("s-0".into()), size_bytes: 1 << 40, ..Disk::default() };
            Event::Target { disk }
        }
        Op::WriteBody => Event::Step { step: Step::WriteBody },
        Op::VerifyBody => Event::Step { step: Step::VerifyBody },
        Op::Verified => Event::Verified { disk: DiskId { serial: Some("s-0".into()), wwn: None, size_bytes: 1 << 40 } },
        Op::Failed(number) => Event::Failed { step: Step::WriteBody, reason: why(number), listing: Vec::new() },
        other => unreachable!("{other:?} is no report"),
    };
    let (generation, session) = (attempt.generation, attempt.session);
    let said = Report { protocol: PROTOCOL, host: life.id(), generation, session, event };
    let answer = machine(life, "POST", "/agent/v1/report", Some(json!(said)))?;
    if answer.contains("\"go_on\":true") { Ok(()) } else { Err(Broken::Refused(answer)) }
}

fn installed(life: &Life, image: &str) -> Result<(), Broken> {
    let body = json!({ "mac": life.mac().to_string(), "image": image });
    machine(life, "POST", "/agent/v1/installed", Some(body)).map(drop)
}

/// A request from the host's own address.
fn machine(life: &Life, method: &str, path: &str, body: Option<Value>) -> Result<String, Broken> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddrV4::new(life.ip(), 0).into())?;
    socket.connect(&SocketAddrV4::new(SERVER, 8080).into())?;
    http(TcpStream::from(socket), method, path, body)
}

/// One request, one connection; the body of a good answer.
fn http(mut stream: impl Read + Write, method: &str, path: &str, body: Option<Value>) -> Result<String, Broken> {
    let body = body.map_or(String::new(), |body| body.to_string());
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: r\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(Broken::Cut)?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    if length.is_some_and(|length| body.len() < length) {
        return Err(Broken::Cut);
    }
    let is_chunked = head.lines().any(|line| line.eq_ignore_ascii_case("transfer-encoding: chunked"));
    let body = if is_chunked { unchunked(body)? } else { body.to_string() };
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status.starts_with('2') { Ok(body) } else { Err(Broken::Refused(format!("{status}: {body}"))) }
}

/// RFC 9112 section 7.1: pieces, each behind its length in hex, up to one of no length.
fn unchunked(mut rest: &str) -> Result<String, Broken> {
    let mut whole = String::new();
    loop {
        let (length, behind) = rest.split_once("\r\n").ok_or(Broken::Cut)?;
        let length = usize::from_str_radix(length, 16).map_err(|_| Broken::Cut)?;
        if length == 0 {
            return Ok(whole);
        }
        whole.push_str(behind.get(..length).ok_or(Broken::Cut)?);
        rest = behind.get(length + 2..).ok_or(Broken::Cut)?;
    }
}
