//! A server of the drift routes as strict as the real one: it checks every signature, takes no number twice, keeps one
//! key, and breaks in every way that a test asks for.

use ed25519_dalek::{Signature, VerifyingKey};
use regild::wire::drift::{KeyTaken, NewKey, Received, Report, Rule, SIGNED_FOR, Signed, Terms};
use regild::wire::manifest;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A machine that does much else: what is waited for takes seconds at most.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Nobody answers.
    Down,
    /// Every second answer of a POST is lost after it was carried out.
    LosesAnswers,
    Says(u16),
}

pub struct World {
    pub terms: Terms,
    pub baseline: Vec<u8>,
    pub fault: Fault,
    /// What was taken, in its order.
    pub taken: Vec<Report>,
    /// Every payload that arrived, taken or not, by generation and number: one number speaks once.
    pub arrived: BTreeMap<(u64, u64), String>,
    pub keys: Vec<NewKey>,
    posts: u64,
}

pub struct Server {
    shared: Arc<(Mutex<World>, Condvar)>,
    pub address: SocketAddr,
}

impl Server {
    pub fn start(baseline: Vec<u8>, rules: Vec<Rule>) -> Server {
        let terms = Terms {
            host: "52:54:00:00:00:01".into(),
            generation: 1,
            image: "debian:12.4".into(),
            manifest: String::new(),
            baseline: Some(blake3::hash(&baseline).to_hex().to_string()),
            reason: String::new(),
            key: None,
            sequence: 0,
            policy: "policy-1".into(),
            rules,
            scan_seconds: 86_400,
            cycle_seconds: 86_400,
            report_seconds: 86_400,
        };
        let (taken, arrived, keys) = (Vec::new(), BTreeMap::new(), Vec::new());
        let world = World { terms, baseline, fault: Fault::None, taken, arrived, keys, posts: 0 };
        let shared = Arc::new((Mutex::new(world), Condvar::new()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let world = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let world = Arc::clone(&world);
                std::thread::spawn(move || drop(serve(&stream, &world)));
            }
        });
        Server { shared, address }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.0.lock().unwrap()
    }

    pub fn set(&self, fault: Fault) {
        self.world().fault = fault;
    }

    /// Waits until the world is as wanted.
    pub fn wait(&self, what: &str, mut is_so: impl FnMut(&World) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut world = self.world();
        while !is_so(&world) {
            let left = deadline.saturating_duration_since(Instant::now());
            let last: Vec<_> = world.taken.iter().rev().take(3).map(summary).collect();
            assert!(!left.is_zero(), "not {what} within {PATIENCE:?}; the last reports: {last:#?}");
            world = self.shared.1.wait_timeout(world, left).unwrap().0;
        }
    }

    /// Waits until the last report has exactly these findings.
    pub fn wait_findings(&self, expected: &[&str]) {
        self.wait(&format!("reported: {expected:?}"), |world| world.findings() == expected);
    }
}

fn summary(report: &Report) -> String {
    let scan = &report.scan;
    format!("{} {} {}: {:?}", report.sequence, scan.kind, scan.number, paths(report))
}

pub fn paths(report: &Report) -> Vec<String> {
    let aspects = |finding| regild::decide::drift::finding::Finding::try_from(finding).unwrap().aspects().to_string();
    let line = |finding| {
        let path = regild::wire::drift::Finding::clone(finding).path.0;
        format!("{} {}", aspects(finding), String::from_utf8_lossy(&path))
    };
    report.findings.iter().map(line).collect()
}

impl World {
    /// Of the host by now: those of the report that the last one is the same as.
    pub fn findings(&self) -> Vec<String> {
        let Some(last) = self.taken.last() else { return vec!["nothing was reported".into()] };
        let number = last.same_as.unwrap_or(last.sequence);
        paths(self.taken.iter().rev().find(|report| report.sequence == number).unwrap())
    }

    fn answer(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let json = |value: &dyn erased::Json| (200, value.json());
        match (method, path) {
            ("GET", "/agent/v1/drift/terms") => json(&self.terms),
            ("POST", "/agent/v1/drift/key") => {
                let key: NewKey = serde_json::from_slice(body).unwrap();
                if (&key.host, key.generation) != (&self.terms.host, self.terms.generation) {
                    return (409, b"another host or generation".to_vec());
                }
                if self.terms.key.as_ref().is_some_and(|known| *known != key.public_key) {
                    return (409, b"this generation has a key".to_vec());
                }
                self.terms.key = Some(key.public_key.clone());
                self.keys.push(key);
                json(&KeyTaken { sequence: self.terms.sequence })
            }
            ("POST", "/agent/v1/drift/report") => match self.take(body) {
                Ok(()) => json(&Received { sequence: self.terms.sequence, terms_changed: false }),
                Err(why) => (409, why.into_bytes()),
            },
            ("GET", path) if path.strip_prefix("/images/baselines/") == self.terms.baseline.as_deref() => {
                (200, self.baseline.clone())
            }
            _ => (404, b"no such thing".to_vec()),
        }
    }

    fn take(&mut self, body: &[u8]) -> Result<(), String> {
        let signed: Signed = serde_json::from_slice(body).unwrap();
        let report: Report = serde_json::from_str(&signed.payload).unwrap();
        let place = (report.generation, report.sequence);
        let before = self.arrived.insert(place, signed.payload.clone());
        assert!(before.is_none_or(|before| before == signed.payload), "number {place:?} speaks twice");
        let key = self.terms.key.as_ref().ok_or("no key")?;
        let key = VerifyingKey::from_bytes(&manifest::from_hex(key).unwrap()).unwrap();
        let hex = |at| u8::from_str_radix(&signed.signature[at * 2..at * 2 + 2], 16).unwrap();
        let signature = Signature::from_bytes(&std::array::from_fn(hex));
        let bytes = [SIGNED_FOR, signed.payload.as_bytes()].concat();
        key.verify_strict(&bytes, &signature).map_err(|_| "the signature is wrong".to_string())?;
        if (&report.host, report.generation) != (&self.terms.host, self.terms.generation) {
            return Err("another host or generation".into());
        }
        if Some(&report.baseline) != self.terms.baseline.as_ref() {
            return Err("another baseline".into());
        }
        if report.sequence <= self.terms.sequence {
            return Err(format!("{} was taken", self.terms.sequence));
        }
        if let Some(number) = report.same_as {
            let known = |taken: &Report| taken.sequence == number && taken.same_as.is_none();
            if !self.taken.iter().any(known) || !report.findings.is_empty() {
                return Err(format!("there is no report {number}"));
            }
        }
        self.terms.sequence = report.sequence;
        self.taken.push(report);
        Ok(())
    }
}

mod erased {
    pub trait Json {
        fn json(&self) -> Vec<u8>;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> Vec<u8> {
            serde_json::to_vec(self).unwrap()
        }
    }
}

fn serve(mut stream: &TcpStream, shared: &(Mutex<World>, Condvar)) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? <= 2 {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, answer) = {
        let mut world = shared.0.lock().unwrap();
        match world.fault {
            Fault::Down => return Ok(()),
            Fault::Says(status) => (status, b"not now".to_vec()),
            fault => {
                let answer = world.answer(method, path, &body);
                shared.1.notify_all();
                world.posts += u64::from(method == "POST");
                if fault == Fault::LosesAnswers && method == "POST" && world.posts % 2 == 1 {
                    return Ok(());
                }
                answer
            }
        }
    };
    write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len())?;
    stream.write_all(&answer)
}
