//! The server under test and the machines that speak to it.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use regild::wire::agent::{CheckIn, Event, Inventory, PROTOCOL, Report};
use regild::wire::verify::{VerifyCheckIn, VerifyOutcome, VerifyReport};
use serde_json::Value;
use sha2::Digest;

use crate::cable::{CLIENT_LINK, Cable, SERVER_LINK, ip};
use crate::dhcp_client::{Client, mac};
use crate::disks::{MIB, gpt_image};
use crate::process::Process;
use crate::raw::{Answer, Connection};

/// A machine whose address is nobody's lease.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub const IMAGE: &str = "tiny:v1";
/// A user that every Debian has, and its group.
pub const SECOND_PERSON: &str = "daemon";

/// `regild serve` with its directory at one end of a cable.
pub struct Lab {
    pub cable: Cable,
    dir: tempfile::TempDir,
    process: Option<Process>,
    starts: u32,
}

impl Lab {
    pub fn new() -> Lab {
        Lab::with("")
    }

    /// With more lines for the configuration.
    pub fn with(more: &str) -> Lab {
        let dir = tempfile::Builder::new().prefix("regild-http-").tempdir().unwrap();
        // The second person is another user, who must get as far as the socket.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        write_assets(&dir.path().join("boot-assets"));
        write_config(dir.path(), SERVER_LINK, more);
        let mut lab = Lab { cable: Cable::new(), dir, process: None, starts: 0 };
        lab.start();
        lab
    }

    /// Starts the server on what the former one left behind.
    pub fn start(&mut self) {
        self.starts += 1;
        let log = self.path(&format!("serve-{}.log", self.starts));
        let mut process = Process::spawn(self.serve_command(&self.cable.server), &log);
        process.wait_log("serving", Duration::from_secs(60)).expect("the server starts");
        self.process = Some(process);
    }

    /// `ip netns exec` becomes the server, so that a signal to the process is one to the server.
    pub fn serve_command(&self, namespace: &str) -> Command {
        let mut serve = Command::new("ip");
        serve.args(["netns", "exec", namespace, env!("CARGO_BIN_EXE_regild"), "serve", "--config", "regild.toml"]);
        serve.current_dir(self.dir.path()).env("RUST_LOG", "info,regild=debug");
        serve
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server runs").pid()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// The most memory that the server ever had.
    pub fn peak_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// Processor time of the server so far, for figures.
    pub fn cpu_seconds(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().flatten();
        let nanoseconds = |stat: String| stat.split(' ').next().and_then(|first| first.parse::<f64>().ok());
        let of_task = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("schedstat")).ok();
        tasks.filter_map(of_task).filter_map(nanoseconds).sum::<f64>() / 1e9
    }

    pub fn socket(&self) -> PathBuf {
        self.path("state/regild.sock")
    }

    pub fn operator(&self) -> Connection {
        Connection::unix(&self.socket())
    }

    /// A connection from one of the addresses of the client's end.
    pub fn from(&self, address: Ipv4Addr) -> Connection {
        Connection::tcp(&self.cable, address)
    }

    pub fn try_regild(&self, arguments: &[&str]) -> Output {
        self.regild_command(arguments).output().unwrap()
    }

    pub fn regild_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_regild"));
        command.arg("--server").arg(self.socket()).args(arguments).env_remove("SUDO_USER");
        command
    }

    /// A command of somebody else: the user `daemon`, who may open the socket since he is in its group.
    pub fn second_person(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", SECOND_PERSON, "--regid", SECOND_PERSON, "--clear-groups"]);
        command.arg(env!("CARGO_BIN_EXE_regild")).arg("--server").arg(self.socket()).args(arguments);
        command.env_remove("SUDO_USER");
        command
    }

    /// A fleet document in the lab's directory.
    pub fn document(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `regild apply` of one document, which must succeed; `more` is what an operator adds (`--loosen`). Where a second
    /// person must apply it too, he does.
    pub fn apply(&self, text: &str, more: &[&str]) -> String {
        let path = self.document("applied.toml", text);
        let said = self.regild(&[&["apply", "-f", &path], more].concat());
        let Some((_, number)) = said.trim().rsplit_once("--loosen --confirm ") else { return said };
        let confirm = ["apply", "-f", &path, "--loosen", "--confirm", number];
        let output = self.second_person(&confirm).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs an operator's command, which must succeed.
    pub fn regild(&self, arguments: &[&str]) -> String {
        let output = self.try_regild(arguments);
        assert!(output.status.success(), "regild {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.regild(&[arguments, &["-o", "json"]].concat())).unwrap()
    }

    pub fn host(&self, machine: &Machine) -> Value {
        self.json(&["host", "show", &machine.mac])
    }

    pub fn is_well(&self) {
        let answer = self.from(STRANGER).get("/healthz");
        assert_eq!((answer.status, answer.text()), (200, "ok\n".to_owned()));
    }

    /// Imports [`IMAGE`].
    pub fn import_image(&self) -> Vec<u8> {
        let image = gpt_image(8 * MIB, 1);
        let file = self.path("image.raw");
        std::fs::write(&file, &image).unwrap();
        self.regild(&["image", "import", file.to_str().unwrap(), "--as", IMAGE]);
        image
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("server log:\n{}", crate::process::last_lines(&log, 40));
        }
    }
}

/// A directory in which `regild serve --config regild.toml` starts.
pub fn write_config(dir: &Path, interface: &str, more: &str) {
    let text = format!(
        "state_dir = \"state\"\nboot_assets = \"boot-assets\"\nsocket_group = \"{SECOND_PERSON}\"\n{more}\n[[network]]\ninterface = \"{interface}\"\n\
         address = \"10.77.0.1/24\"\npools = [\"10.77.0.100-10.77.0.199\"]\n"
    );
    std::fs::write(dir.join("regild.toml"), text).unwrap();
}

fn write_assets(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    let mut sums = String::new();
    for name in regild::http::assets::NEEDED {
        let content = format!("not really {name}");
        let sum: String = sha2::Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        sums += &format!("{sum}  {name}\n");
        std::fs::write(dir.join(name), content).unwrap();
    }
    std::fs::write(dir.join("SHA256SUMS"), sums).unwrap();
}

/// A machine at the client's end: a MAC with the address that is leased to it.
pub struct Machine {
    pub number: u8,
    pub mac: String,
    pub host: String,
    pub address: Ipv4Addr,
}

/// What the boot script of the deploy environment says.
#[derive(Debug, Clone)]
pub struct Orders {
    pub generation: u64,
    pub token: String,
}

impl Machine {
    /// Gets a lease over DHCP and takes its address.
    pub fn plug_in(lab: &Lab, number: u8) -> Machine {
        let address = Client::new(&lab.cable).bind(number);
        ip(&["-n", &lab.cable.client, "address", "add", &format!("{address}/24"), "dev", CLIENT_LINK]);
        let hex = mac(number).map(|byte| format!("{byte:02x}"));
        Machine { number, mac: hex.join(":"), host: format!("h-{}", hex.join("")), address }
    }

    /// Plugged in, seen, approved for [`IMAGE`].
    pub fn approved(lab: &Lab, number: u8) -> Machine {
        let machine = Machine::plug_in(lab, number);
        assert!(machine.script(lab).contains("this machine is not approved"));
        lab.regild(&["host", "approve", &machine.mac, "--image", IMAGE]);
        machine
    }

    pub fn script_path(&self) -> String {
        format!("/boot/{}/bios", self.mac.replace(':', "-"))
    }

    /// What iPXE gets.
    pub fn script(&self, lab: &Lab) -> String {
        let answer = lab.from(self.address).get(&self.script_path());
        assert_eq!(answer.status, 200);
        answer.text()
    }

    /// What is on the kernel command line of the deploy environment.
    pub fn orders(&self, lab: &Lab) -> Orders {
        let script = self.script(lab);
        let word = |key: &str| {
            let mut words = script.split_whitespace().filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            words.next().unwrap_or_else(|| panic!("no {key} in {script}")).to_owned()
        };
        assert_eq!(word("regild.host"), self.host);
        Orders { generation: word("regild.generation").parse().unwrap(), token: word("regild.token") }
    }

    pub fn check_in(&self, orders: &Orders, session: &str) -> CheckIn {
        let inventory = Inventory { macs: vec![self.mac.clone()], ..Inventory::default() };
        CheckIn {
            protocol: PROTOCOL,
            host: self.host.clone(),
            generation: orders.generation,
            token: orders.token.clone(),
            session: session.to_owned(),
            uefi: false,
            inventory,
        }
    }

    pub fn report(&self, generation: u64, session: &str, event: Event) -> Report {
        let (host, session) = (self.host.clone(), session.to_owned());
        Report { protocol: PROTOCOL, host, generation, session, event }
    }

    pub fn verify_check_in(&self, number: u64, token: &str) -> VerifyCheckIn {
        VerifyCheckIn {
            protocol: PROTOCOL,
            host: self.host.clone(),
            number,
            token: token.to_owned(),
            session: "x".to_owned(),
            inventory: Inventory { macs: vec![self.mac.clone()], ..Inventory::default() },
        }
    }

    pub fn verify_report(&self, number: u64, session: &str) -> VerifyReport {
        let (host, session) = (self.host.clone(), session.to_owned());
        let outcome = VerifyOutcome::Failed { reason: "x".to_owned(), listing: Vec::new() };
        VerifyReport { protocol: PROTOCOL, host, number, session, outcome }
    }

    /// Says something of the agent's from this machine's address.
    pub fn say(&self, lab: &Lab, path: &str, said: &impl serde::Serialize) -> Answer {
        lab.from(self.address).ask("POST", path, &serde_json::to_vec(said).unwrap())
    }
}

pub const CHECK_IN: &str = "/agent/v1/checkin";
pub const REPORT: &str = "/agent/v1/report";
