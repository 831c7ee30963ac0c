//! A rack of the lab: machines that are switched by their controllers alone, and the server that they belong to.

// Each road uses the part of it that it needs.
#![allow(dead_code)]

use crate::lab::redfish::{PASSWORD, Redfish, Switch, USER};
use crate::lab::{self, BootOrder, DiskSpec, Firmware, Lab, Machine, MachineSpec, Server, Shell};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const DISK_BYTES: u64 = 1 << 30;
const GROUP: &str = "lab";
const TAIL_LINES: usize = 25;

/// A machine and what switches it. Nothing else here can: the machine belongs to the thread of its controller.
pub struct Node {
    pub name: &'static str,
    pub id: String,
    pub mac: &'static str,
    pub disk: PathBuf,
    pub controller: Redfish,
    /// A root shell on it, where its image has one and the road asked for the line.
    pub shell: Shell,
    machine: Arc<Mutex<Machine>>,
}

impl Node {
    fn new(lab: &Lab, (name, mac, firmware): (&'static str, &'static str, Firmware), with_shell: bool) -> Node {
        let disk = lab.dir().join(format!("{name}.raw"));
        let disks = vec![DiskSpec { serial: Some(name.into()), ..DiskSpec::new(&disk, DISK_BYTES) }];
        let boot_order = BootOrder::DisksOnly;
        let shell = Shell::new(lab.dir(), name);
        let extra_args = if with_shell { shell.arguments() } else { Vec::new() };
        let machine =
            lab.machine(MachineSpec { disks, boot_order, extra_args, ..MachineSpec::new(name, firmware, mac) });
        let machine = Arc::new(Mutex::new(machine));
        let switched = machine.clone();
        let controller = Redfish::serve(lab.server_ip().into(), false, move |switch| {
            let mut machine = switched.lock().expect("a switch of this machine failed; see above");
            match switch {
                Switch::Off => machine.power_off(),
                Switch::On { network } => {
                    machine.spec_mut().boot_order =
                        if network { BootOrder::NetworkThenDisks } else { BootOrder::DisksOnly };
                    machine.power_on();
                }
            }
        });
        let id = format!("h-{}", mac.replace(':', ""));
        Node { name, id, mac, disk, controller, shell, machine }
    }

    pub fn switched(&self) -> Vec<Switch> {
        self.controller.bmc().switched.clone()
    }

    fn console(&self) -> String {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).console()
    }
}

/// What must not change on a machine that nobody meant.
#[derive(Debug, PartialEq, Eq)]
pub struct Untouched {
    disk_sha256: String,
    generation: Value,
    switched: usize,
}

pub struct Fleet {
    // Dropped in this order: the server and the machines before the network that they are on.
    pub server: Server,
    pub nodes: Vec<Node>,
    pub lab: Lab,
    began: Instant,
}

impl Fleet {
    /// The machines are off and blank, and nobody knows them.
    pub fn new(binary: &str, nodes: &[(&'static str, &'static str, Firmware)]) -> Fleet {
        Fleet::cabled(binary, nodes, false)
    }

    /// The same, with a line to a shell on each.
    pub fn with_shells(binary: &str, nodes: &[(&'static str, &'static str, Firmware)]) -> Fleet {
        Fleet::cabled(binary, nodes, true)
    }

    fn cabled(binary: &str, nodes: &[(&'static str, &'static str, Firmware)], with_shells: bool) -> Fleet {
        let began = Instant::now();
        let lab = Lab::new("fleet");
        let server = Server::start(&lab, Path::new(binary));
        let nodes = nodes.iter().map(|node| Node::new(&lab, *node, with_shells)).collect();
        Fleet { server, nodes, lab, began }
    }

    pub fn import(&self, version: &str) {
        let image = lab::tiny_image(version);
        self.server.regild(&["image", "import", image.to_str().unwrap(), "--as", &format!("tiny:{version}")]);
    }

    /// `[[host]]` of all machines, each in a rack of its own.
    pub fn hosts(&self) -> String {
        let host = |(number, node): (usize, &Node)| {
            let Node { name, mac, .. } = node;
            format!("[[host]]\nmac = \"{mac}\"\nname = \"{name}\"\ngroup = \"{GROUP}\"\nlabels.rack = \"r{number}\"\n")
        };
        self.nodes.iter().enumerate().map(host).collect()
    }

    pub fn apply(&self, document: &str) -> String {
        let path = self.lab.dir().join("fleet.toml");
        std::fs::write(&path, document).unwrap();
        self.server.regild(&["apply", "-f", path.to_str().unwrap()])
    }

    /// Tells the server each machine's controller, the password from a file.
    pub fn give_power(&self) {
        std::fs::write(self.lab.dir().join("bmc.secret"), PASSWORD).unwrap();
        for node in &self.nodes {
            let path = self.lab.dir().join(format!("{}.power.toml", node.name));
            let url = format!("http://{}", node.controller.address);
            let text = format!(
                "driver = \"redfish\"\nurl = \"{url}\"\nuser = \"{USER}\"\npassword_file = \"bmc.secret\"\nplaintext = true\n"
            );
            std::fs::write(&path, text).unwrap();
            self.server.regild(&["host", "power", node.name, "-f", path.to_str().unwrap()]);
        }
    }

    pub fn node(&self, id: &str) -> &Node {
        self.nodes.iter().find(|node| node.id == id).unwrap_or_else(|| panic!("no machine {id}"))
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.server.regild(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?} is no JSON: {error}\n{text}"))
    }

    /// Hosts in the order in which a rollout's plan, as printed, rewrites them.
    pub fn order_of(plan: &str) -> Vec<String> {
        // Lines of hosts begin with their place: `      1  h-525400770022  node-1  ...`.
        let host = |line: &str| {
            let mut words = line.split_whitespace();
            words.next()?.parse::<usize>().ok()?;
            words.next().filter(|word| word.starts_with("h-")).map(str::to_string)
        };
        plan.lines().filter_map(host).collect()
    }

    /// What the ledger holds of one cause, as (kind, host), oldest first.
    pub fn ledger(&self, cause: &str) -> Vec<(String, String)> {
        let lines = self.json(&["ledger", "list", "--cause", cause]);
        let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_string();
        lines.as_array().unwrap().iter().map(|line| (text(line, "kind"), text(line, "host"))).collect()
    }

    pub fn history(&self, name: &str) -> Vec<String> {
        let lines = self.json(&["host", "history", name]);
        let line = |line: &Value| format!("{} {} ({})", line["to"], line["cause"], line["actor"]);
        lines.as_array().unwrap().iter().map(line).collect()
    }

    pub fn untouched(&self, node: &Node) -> Untouched {
        let generation = self.server.host(node.name)["generation"].clone();
        Untouched { disk_sha256: lab::sha256_file(&node.disk), generation, switched: node.switched().len() }
    }

    /// Waits until `now` has what is waited for.
    pub fn until<T>(&self, what: &str, patience: Duration, mut now: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = now() {
                self.say(what);
                return found;
            }
            assert!(start.elapsed() < patience, "not in {patience:?}: {what}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Every machine of `nodes` runs `image`, and its installed system said so.
    pub fn until_ready<'n>(&self, image: &'static str, patience: Duration, nodes: impl IntoIterator<Item = &'n Node>) {
        let is_ready = lab::road::is_ready(image);
        for node in nodes {
            let what = format!("{} is ready, confirmed on {image}", node.name);
            self.until(&what, patience, || is_ready(&self.server.host(node.name)).then_some(()));
        }
    }

    pub fn until_stage(&self, rollout: &str, stage: &str, patience: Duration) -> Value {
        self.until(&format!("rollout {rollout} is {stage}"), patience, || {
            let shown = self.json(&["rollout", "show", rollout]);
            // A halt on the way to `done` is the end of the road.
            let stands = shown["stage"] == "halted" && stage != "halted";
            assert!(!stands, "rollout {rollout} halted: {:#}", shown["outcomes"]);
            (shown["stage"] == stage).then_some(shown)
        })
    }

    /// How long the road took so far, for whoever measures it.
    pub fn say(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.began.elapsed().as_secs_f32());
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let tail = |text: &str| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        };
        for node in &self.nodes {
            eprintln!("---- console of {}:\n{}", node.name, tail(&node.console()));
        }
        eprintln!("---- server:\n{}", tail(&self.server.log()));
    }
}
