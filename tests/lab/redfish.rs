//! A management controller with a Redfish service: it switches a real machine, or whatever it is told to switch, and
//! has the quirks of controllers that are sold.
//!
//! Its ids are its own (nothing in a client may assume them), its override is used up by the boot that it is for.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

pub const USER: &str = "regild";
pub const PASSWORD: &str = "Corr3ct.h0rse";
const SYSTEM: &str = "/redfish/v1/Systems/Blade.7";
const RESET: &str = "/redfish/v1/Systems/Blade.7/Actions/System.Reset";
const PENDING: &str = "/redfish/v1/Systems/Blade.7/Pending";

/// What happens to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    On { network: bool },
    Off,
}

#[derive(Debug)]
pub struct Bmc {
    pub on: bool,
    pub target: String,
    pub enabled: String,
    pub mode: Option<String>,
    pub reset_types: Vec<&'static str>,
    pub quirks: Quirks,
    pub requests: Vec<Request>,
    pub switched: Vec<Switch>,
    version: u64,
}

/// Each one is a controller's that somebody has met.
#[derive(Debug, Default)]
pub struct Quirks {
    /// The next requests get 503.
    pub busy: u32,
    /// Takes requests whose line begins so, acts on them or not, and never answers.
    pub silent: Option<&'static str>,
    /// Answers every request with 302 to there.
    pub redirect: Option<String>,
    /// `Continuous` whatever was asked for.
    pub continuous: bool,
    /// Takes the override and shows the old one.
    pub forgets: bool,
    /// Takes no boot settings at the system, but at the resource of the next boot.
    pub pending_only: bool,
    /// Refuses a change of Boot with the mode in it, or without.
    pub mode_written: Option<bool>,
    /// Falls back to Legacy when a change of Boot comes without the mode.
    pub mode_falls_back: bool,
    pub targets: Option<Vec<&'static str>>,
    /// Shows its tags weak, and compares them strong.
    pub weak_tags: bool,
    /// Somebody else changes the system between the next reads and writes.
    pub contended: u32,
    /// Says what it can be reset to in a resource of its own.
    pub action_info: bool,
    pub second_system: bool,
    /// Where the root says that the systems are.
    pub systems_at: Option<&'static str>,
    /// The account may look, and change nothing.
    pub read_only: bool,
    /// The operating system does not care for the power button.
    pub stays_on: bool,
    /// Repeats the credentials in its errors, as debug builds do.
    pub echoes: bool,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn is(&self, method: &str, path: &str) -> bool {
        self.line.split(' ').take(2).eq([method, path])
    }
}

pub struct Redfish {
    pub address: SocketAddr,
    bmc: Arc<Mutex<Bmc>>,
    stop: Arc<AtomicBool>,
}

type Answer = (u16, Vec<(&'static str, String)>, Value);

impl Redfish {
    /// Serves until dropped. `switch` is called, in the service's thread, for everything that happens to the power.
    pub fn serve(ip: IpAddr, on: bool, switch: impl FnMut(Switch) + Send + 'static) -> Redfish {
        let listener = TcpListener::bind((ip, 0)).expect("binding the Redfish service");
        let address = listener.local_addr().expect("its address");
        let bmc = Arc::new(Mutex::new(Bmc {
            on,
            target: "None".into(),
            enabled: "Disabled".into(),
            mode: Some("UEFI".into()),
            reset_types: vec!["On", "ForceOff", "GracefulShutdown", "ForceRestart", "PushPowerButton"],
            quirks: Quirks::default(),
            requests: Vec::new(),
            switched: Vec::new(),
            version: 1,
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (bmc.clone(), stop.clone());
        std::thread::spawn(move || serve(&listener, &shared, &stopped, switch));
        Redfish { address, bmc, stop }
    }

    pub fn bmc(&self) -> MutexGuard<'_, Bmc> {
        self.bmc.lock().expect("the Redfish service panicked; see above")
    }

    /// How many requests began so.
    pub fn count(&self, line: &str) -> usize {
        self.bmc().requests.iter().filter(|request| request.line.starts_with(line)).count()
    }
}

impl Drop for Redfish {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it from accept.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(listener: &TcpListener, bmc: &Mutex<Bmc>, stop: &AtomicBool, mut switch: impl FnMut(Switch)) {
    // Never answered, never closed.
    let mut kept = Vec::new();
    while let Ok((mut stream, _)) = listener.accept() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a read timeout");
        let Some(request) = read(&mut stream) else { continue };
        let mut bmc = bmc.lock().expect("only this thread panics");
        let silent = bmc.quirks.silent.is_some_and(|line| request.line.starts_with(line));
        let before = bmc.switched.len();
        let (status, headers, body) = bmc.answer(&request);
        bmc.requests.push(request);
        let happened = bmc.switched[before..].to_vec();
        drop(bmc);
        happened.into_iter().for_each(&mut switch);
        if silent {
            kept.push(stream);
            continue;
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        // A client that went away hears nothing.
        let _ = stream.write_all(format!("{head}\r\n{body}").as_bytes());
    }
}

fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut lines = head.lines();
    let line = lines.next()?.to_string();
    let headers: Vec<_> = lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.into(), v.into())).collect();
    let mut request = Request { line, headers, body: Value::Null };
    let length: usize = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while bytes.len() < head_end + 4 + length {
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
    }
    request.body = serde_json::from_slice(&bytes[head_end + 4..]).unwrap_or_default();
    Some(request)
}

impl Bmc {
    fn answer(&mut self, request: &Request) -> Answer {
        if self.quirks.busy > 0 {
            self.quirks.busy -= 1;
            return (503, vec![("Retry-After", "0".into())], json!({"error": {"message": "starting up"}}));
        }
        if let Some(to) = &self.quirks.redirect {
            return (302, vec![("Location", to.clone())], Value::Null);
        }
        let plain = |body| (200, Vec::new(), body);
        if request.is("GET", "/redfish/v1/") {
            let systems = self.quirks.systems_at.unwrap_or("/redfish/v1/Systems");
            return plain(json!({"@odata.id": "/redfish/v1/", "Systems": {"@odata.id": systems}}));
        }
        if request.header("authorization") != Some(&basic(USER, PASSWORD)) {
            return self.error(401, request, "who are you?");
        }
        if request.is("GET", "/redfish/v1/Systems") {
            let second = self.quirks.second_system.then(|| json!({"@odata.id": "/redfish/v1/Systems/Blade.8"}));
            let members: Vec<_> = [Some(json!({"@odata.id": SYSTEM})), second].into_iter().flatten().collect();
            return plain(json!({"Members@odata.count": members.len(), "Members": members}));
        }
        if request.is("GET", SYSTEM) {
            let tag = self.tag();
            if self.quirks.contended > 0 {
                self.quirks.contended -= 1;
                self.version += 1;
            }
            return (200, vec![("ETag", tag)], self.system());
        }
        if request.is("GET", PENDING) {
            return (200, vec![("ETag", self.tag())], json!({"Boot": {}}));
        }
        if request.is("GET", "/redfish/v1/Systems/Blade.7/ResetInfo") {
            return plain(json!({"Parameters": [{"Name": "ResetType", "AllowableValues": self.reset_types}]}));
        }
        if self.quirks.read_only && !request.line.starts_with("GET") {
            return self.error(403, request, "the account lacks the privilege ConfigureComponents");
        }
        if request.is("PATCH", SYSTEM) && self.quirks.pending_only {
            return self.error(400, request, "Support of this operation is moved to the FutureState URI");
        }
        if request.is("PATCH", SYSTEM) || request.is("PATCH", PENDING) {
            return self.patch(request);
        }
        if request.is("POST", RESET) {
            return self.reset(request);
        }
        self.error(404, request, "no such resource")
    }

    fn tag(&self) -> String {
        format!("{}\"{}\"", if self.quirks.weak_tags { "W/" } else { "" }, self.version)
    }

    fn error(&self, status: u16, request: &Request, message: &str) -> Answer {
        let sent = request.header("authorization").unwrap_or_default();
        let echo = if self.quirks.echoes { format!("; you said {PASSWORD}: {sent}") } else { String::new() };
        let text = format!("{message}\r\n\x1b[31m{echo}");
        (status, Vec::new(), json!({"error": {"@Message.ExtendedInfo": [{"Message": text}]}}))
    }

    fn system(&self) -> Value {
        let mut reset = json!({"target": RESET});
        if self.quirks.action_info {
            reset["@Redfish.ActionInfo"] = "/redfish/v1/Systems/Blade.7/ResetInfo".into();
        } else {
            reset["ResetType@Redfish.AllowableValues"] = json!(self.reset_types);
        }
        let mut system = json!({
            "@odata.id": SYSTEM,
            "PowerState": if self.on { "On" } else { "Off" },
            "Boot": {
                "BootSourceOverrideTarget": self.target,
                "BootSourceOverrideEnabled": self.enabled,
                "BootSourceOverrideMode": self.mode,
                "BootSourceOverrideTarget@Redfish.AllowableValues":
                    self.quirks.targets.as_deref().unwrap_or(&["None", "Pxe", "Hdd", "BiosSetup"]),
            },
            "Actions": {"#ComputerSystem.Reset": reset},
        });
        if self.quirks.pending_only {
            system["@Redfish.Settings"] = json!({"SettingsObject": {"@odata.id": PENDING}});
        }
        system
    }

    fn patch(&mut self, request: &Request) -> Answer {
        let strong = format!("\"{}\"", self.version);
        if request.header("if-match") != Some(&strong) {
            return self.error(412, request, "the resource has another tag");
        }
        let boot = &request.body["Boot"];
        let mode = boot["BootSourceOverrideMode"].as_str();
        if self.quirks.mode_written.is_some_and(|wanted| wanted != mode.is_some()) {
            return self.error(400, request, "BootSourceOverrideMode");
        }
        if self.quirks.mode_falls_back {
            self.mode = Some(mode.unwrap_or("Legacy").to_string());
        }
        self.version += 1;
        if !self.quirks.forgets {
            self.target = boot["BootSourceOverrideTarget"].as_str().unwrap_or("None").to_string();
            let enabled = boot["BootSourceOverrideEnabled"].as_str().unwrap_or("Disabled");
            self.enabled = if self.quirks.continuous { "Continuous" } else { enabled }.to_string();
        }
        (204, Vec::new(), Value::Null)
    }

    fn reset(&mut self, request: &Request) -> Answer {
        let wanted = request.body["ResetType"].as_str().unwrap_or_default().to_string();
        if !self.reset_types.contains(&wanted.as_str()) {
            return self.error(400, request, "no such reset type");
        }
        if self.quirks.stays_on && wanted == "GracefulShutdown" {
            return (204, Vec::new(), Value::Null);
        }
        if wanted != "On" && self.on {
            self.on = false;
            self.switched.push(Switch::Off);
        }
        if wanted == "On" || wanted == "ForceRestart" {
            self.on = true;
            let network = self.target == "Pxe" && self.enabled != "Disabled";
            self.switched.push(Switch::On { network });
            if self.enabled == "Once" {
                (self.target, self.enabled) = ("None".into(), "Disabled".into());
            }
        }
        (204, Vec::new(), Value::Null)
    }
}

/// The Authorization header, made here: nothing of the client under test takes part in checking it.
pub fn basic(user: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = format!("{user}:{password}");
    let encoded = text.as_bytes().chunks(3).flat_map(|chunk| {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..4).map(move |at| match at <= chunk.len() {
            true => char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]),
            false => '=',
        })
    });
    format!("Basic {}", encoded.collect::<String>())
}
