//! One machine's way from power-on to the agent's first byte on its disk, with everything that went over the bridge
//! captured, and the server's CPU time beside it. `benches/netboot.py` runs it and reads the capture.
//!
//! usage: netboot REGILD bios|uefi DIR    (DIR gets bridge.pcap, serve.log, console.log, netboot.json)

// The lab serves tests; here nobody checks consoles.
#[path = "../tests/lab/mod.rs"]
mod lab;

use lab::{DiskSpec, Firmware, Lab, MachineSpec, Process, Server};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The reservation of config/lab.toml.
const MAC: &str = "52:54:00:77:00:10";
const HOST: &str = "node-1";
const PATIENCE: Duration = Duration::from_secs(240);
/// The step whose report the agent's first write follows.
const FIRST_WRITE: &str = "deploying:clear_head";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [binary, firmware, dir] = &arguments[..] else { panic!("usage: netboot REGILD bios|uefi DIR") };
    let binary = Path::new(binary).canonicalize().expect("the regild binary exists");
    let firmware = match firmware.as_str() {
        "bios" => Firmware::Bios,
        "uefi" => Firmware::Uefi,
        other => panic!("{other:?} is neither bios nor uefi"),
    };
    measure(&binary, firmware, Path::new(dir));
}

fn measure(binary: &Path, firmware: Firmware, out: &Path) {
    let lab = Lab::new("bench");
    let server = Server::start(&lab, binary);
    let image = lab::tiny_image("v1");
    server.regild(&["image", "import", &image.to_string_lossy(), "--as", "tiny:v1"]);
    let disk = DiskSpec { serial: Some("bench-1".into()), ..DiskSpec::new(lab.dir().join("disk.raw"), 2 << 30) };
    let mut node = lab.machine(MachineSpec { disks: vec![disk], ..MachineSpec::new(HOST, firmware, MAC) });

    // Its first netboot makes the record that an order needs.
    node.power_on();
    server.wait_host(MAC, "discovered", PATIENCE, |host| host["state"] == "discovered").unwrap();
    node.power_off();
    server.regild(&["host", "approve", HOST, "--image", "tiny:v1"]);

    let mut capture = lab.capture("bridge");
    capture.wait_log("listening on", Duration::from_secs(10)).unwrap();
    let (log_before, cpu_before) = (server.log().len(), cpu_seconds(server.pid()));
    let began = Instant::now();
    node.power_on();
    while !server.log()[log_before..].contains(FIRST_WRITE) {
        assert!(began.elapsed() < PATIENCE, "no {FIRST_WRITE} in {PATIENCE:?}:\n{}", node.console());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds(server.pid()) - cpu_before);
    stop(&mut capture);
    node.power_off();

    let found = serde_json::json!({ "power_on_to_first_write_seconds": seconds, "server_cpu_seconds": cpu });
    std::fs::create_dir_all(out).expect("making the output directory");
    let keep = |name: &str, bytes: &[u8]| std::fs::write(out.join(name), bytes).expect("writing a result");
    keep("bridge.pcap", &std::fs::read(capture_file(&lab)).expect("reading the capture"));
    keep("tcpdump.log", capture.log().as_bytes());
    keep("serve.log", &server.log().as_bytes()[log_before..]);
    keep("console.log", node.console().as_bytes());
    keep("netboot.json", found.to_string().as_bytes());
}

fn capture_file(lab: &Lab) -> PathBuf {
    lab.dir().join("bridge.pcap")
}

/// tcpdump holds back up to a second of packets, and says at its end whether any were lost.
fn stop(capture: &mut Process) {
    std::thread::sleep(Duration::from_millis(1500));
    capture.signal(rustix::process::Signal::INT);
    capture.wait(Duration::from_secs(10)).expect("tcpdump ends when asked to");
}

/// User and system time of a process so far (proc_pid_stat(5): fields 14 and 15, counted in 1/100 s).
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the server runs");
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at - 3).and_then(|field| field.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(14) + ticks(15)) / 100.0
}
