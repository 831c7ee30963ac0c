//! HTTP/1.1 by hand: a client that can say anything, on TCP or on a Unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use crate::cable::{Cable, SERVER_IP, inside};

/// A server that says nothing for so long is stuck. Long, since the machine that tests is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection; several requests may follow one another on it.
pub struct Connection {
    reader: BufReader<Box<dyn Read>>,
    pub writer: Box<dyn Write>,
    close: Box<dyn Fn()>,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The sentence of an answer that is no good news.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error in {self:?}")).to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim())
    }
}

impl Connection {
    /// From one of the client's addresses to the machines' listener.
    pub fn tcp(cable: &Cable, from: Ipv4Addr) -> Connection {
        Connection::tcp_to(cable, from, 8080)
    }

    /// To another listener of the server.
    pub fn tcp_to(cable: &Cable, from: Ipv4Addr, port: u16) -> Connection {
        let stream = inside(&cable.client, || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
            socket.connect(&SocketAddr::from((SERVER_IP, port)).into()).unwrap();
            TcpStream::from(socket)
        });
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let (reader, closer) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        Connection::over(reader, stream, move || closer.shutdown(Shutdown::Both).unwrap_or_default())
    }

    /// To the operators' socket.
    pub fn unix(path: &std::path::Path) -> Connection {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let (reader, closer) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        Connection::over(reader, stream, move || closer.shutdown(Shutdown::Both).unwrap_or_default())
    }

    fn over(reader: impl Read + 'static, writer: impl Write + 'static, close: impl Fn() + 'static) -> Connection {
        let reader = BufReader::new(Box::new(reader) as Box<dyn Read>);
        Connection { reader, writer: Box::new(writer), close: Box::new(close) }
    }

    /// Sends a head as it is given, lines without their ends.
    pub fn head(&mut self, lines: &[&str]) {
        let head = lines.join("\r\n") + "\r\n\r\n";
        self.writer.write_all(head.as_bytes()).unwrap();
    }

    /// Bytes of a body, as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).unwrap();
    }

    /// The same, to a server that may have closed the connection.
    pub fn try_head(&mut self, lines: &[&str]) -> std::io::Result<()> {
        let head = lines.join("\r\n") + "\r\n\r\n";
        self.writer.write_all(head.as_bytes())
    }

    /// What comes, as it comes.
    pub fn reader(&mut self) -> &mut impl Read {
        &mut self.reader
    }

    /// A whole request with a body.
    pub fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        let length = format!("Content-Length: {}", body.len());
        let head = [&format!("{method} {path} HTTP/1.1")[..], "Host: regild", &length, "", ""].join("\r\n");
        self.writer.write_all(&[head.as_bytes(), body].concat()).unwrap();
        self.answer()
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, b"")
    }

    pub fn answer(&mut self) -> Answer {
        self.try_answer().expect("the server closed the connection without an answer")
    }

    /// The answer to a request of this method: to HEAD there is a length and no body.
    pub fn answer_to(&mut self, method: &str) -> Answer {
        let answer = if method == "HEAD" { self.read_answer(false) } else { self.read_answer(true) };
        answer.expect("the server closed the connection without an answer")
    }

    /// `None` when the connection ends before an answer does.
    pub fn try_answer(&mut self) -> Option<Answer> {
        self.read_answer(true)
    }

    fn read_answer(&mut self, has_body: bool) -> Option<Answer> {
        let mut head = String::new();
        loop {
            let before = head.len();
            if self.reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
            if &head[before..] == "\r\n" {
                break;
            }
        }
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let answer = Answer { status, head, body: Vec::new() };
        let length = answer.header("content-length").filter(|_| has_body && answer.status != 304);
        let length = length.map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).ok()?;
        Some(Answer { body, ..answer })
    }

    /// Ends the connection in both directions at once.
    pub fn close(self) {
        (self.close)();
    }
}
