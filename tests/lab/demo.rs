//! `make demo`: a blank machine becomes v1, then v2, with everything real but the sheet metal.
//!
//! usage: demo REGILD_BINARY

// `wait_host` and the like are for tests; the demo has its own way of waiting, with a progress bar.
#[path = "mod.rs"]
mod lab;

use indicatif::{ProgressBar, ProgressStyle};
use lab::{DiskSpec, Firmware, Lab, Machine, MachineSpec, Server};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The reservation of config/lab.toml.
const MAC: &str = "52:54:00:77:00:10";
const PATIENCE: Duration = Duration::from_secs(240);

fn main() {
    let binary = std::env::args_os().nth(1).map(PathBuf::from).expect("usage: demo REGILD_BINARY");
    let binary = binary.canonicalize().expect("the regild binary exists; make demo builds it");
    let images = ["v1", "v2"].map(lab::tiny_image);
    let began = Instant::now();
    let lab = Lab::new("demo");
    say("the lab: a network namespace, a bridge, a tap; regild serve with config/lab.toml");
    let server = Server::start(&lab, &binary);
    for (version, image) in ["v1", "v2"].iter().zip(&images) {
        print!("{}", server.regild(&["image", "import", &image.to_string_lossy(), "--as", &format!("tiny:{version}")]));
    }
    print!("{}", server.regild(&["image", "list"]));

    let disk = DiskSpec { serial: Some("demo-1".into()), ..DiskSpec::new(lab.dir().join("disk.raw"), 2 << 30) };
    let mut node = lab.machine(MachineSpec { disks: vec![disk], ..MachineSpec::new("node-1", Firmware::Uefi, MAC) });
    say("power on: a blank UEFI machine that nobody knows. It netboots, is noted, and is not written");
    node.power_on();
    follow(&server, "discovered", |host| host["state"] == "discovered");

    say("regild host approve node-1 --image tiny:v1, and a power cycle");
    print!("{}", server.regild(&["host", "approve", "node-1", "--image", "tiny:v1"]));
    deploy(&server, &mut node, "tiny:v1");

    say("regild host reimage node-1 --image tiny:v2, and a power cycle");
    let reason = ["--reason", "the demo wants the new version"];
    print!("{}", server.regild(&[&["host", "reimage", "node-1", "--image", "tiny:v2"], &reason[..]].concat()));
    deploy(&server, &mut node, "tiny:v2");

    say("regild host history node-1");
    print!("{}", server.regild(&["host", "history", "node-1"]));
    say(&format!("done in {} s; nothing is left behind", began.elapsed().as_secs()));
}

fn say(line: &str) {
    println!("\n=== {line}");
}

fn deploy(server: &Server, node: &mut Machine, image: &str) {
    let began = Instant::now();
    node.power_cycle();
    follow(server, image, |host| {
        host["state"] == "ready" && host["detail"] == "confirmed" && host["reported"] == image
    });
    say(&format!("Ready: the installed system itself says {image}, {} s after power-on", began.elapsed().as_secs()));
    print!("{}", server.regild(&["host", "list"]));
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let form = "{elapsed_precise} {msg:24} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    // The template is a constant that this very line shows to be right each time the demo runs.
    bar.set_style(ProgressStyle::with_template(form).expect("a template"));
    bar
}

/// Shows where the host stands until `wanted` holds.
fn follow(server: &Server, what: &str, wanted: impl Fn(&Value) -> bool) {
    let bar = progress_bar();
    let began = Instant::now();
    let mut last = String::new();
    loop {
        let host = server.host("node-1");
        let now = match host["state"].as_str() {
            Some(state) => format!("{state} {}", host["detail"].as_str().unwrap_or("")),
            None => "not seen yet".to_owned(),
        };
        if now != last {
            // A line each, so that a log shows the road where a terminal shows the bar.
            bar.reset();
            bar.set_length(0);
            bar.suspend(|| println!("{:6.1} s  node-1: {now}", began.elapsed().as_secs_f32()));
            last.clone_from(&now);
        }
        bar.set_message(now);
        if let Some(progress) = host["progress"].as_object() {
            bar.set_length(progress["total_bytes"].as_u64().unwrap_or(0));
            bar.set_position(progress["done_bytes"].as_u64().unwrap_or(0));
        }
        if wanted(&host) {
            return bar.finish_and_clear();
        }
        assert!(began.elapsed() < PATIENCE, "node-1 is not {what} after {PATIENCE:?}; server log:\n{}", server.log());
        std::thread::sleep(Duration::from_millis(250));
    }
}
