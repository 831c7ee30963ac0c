//! Drift on a real machine: what somebody changes by hand in the running system is seen, said, and healed by a rebuild
//! that nobody asked for.

mod lab;

#[path = "fleet_road/fleet.rs"]
mod fleet;

use fleet::Fleet;
use lab::Firmware;
use lab::redfish::Switch;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const MACHINE: (&str, &str, Firmware) = ("node-1", "52:54:00:77:00:22", Firmware::Bios);
/// Programs ask for a rebuild at once; of the rest people are told. The image is no distribution that has defaults: what
/// it writes by itself stands here.
const POLICY: &str = r#"
[group.lab]
drift = "tiny"

[group.lab.schedule]
pause = "10m"

[drift.tiny]
defaults = "none"
scan = "1m"
report = "1m"

[[drift.tiny.rule]]
path = "/srv/**"
action = "rebuild"
grace = "0s"
scans = 1
why = "programs are the image's alone"

[[drift.tiny.rule]]
path = "/etc/motd"
action = "report"
content = true
why = "people look at it"

[[drift.tiny.rule]]
class = "agent"
action = "allow"
why = "its own state"
"#;
/// Firmware, deploy, reboot, first scan of one machine under emulation, beside other tests.
const BUILD: Duration = Duration::from_secs(400);
/// Longer than the least pause between two rebuilds that nobody asked for.
const PAUSE_SECONDS: u64 = 610;
/// The least scan interval, the debounce, and a slow machine.
const WATCH: Duration = Duration::from_secs(120);

/// Promises: a fresh machine is clean; what was changed by hand is listed within the watch time, all of it and nothing
/// else, also a program with its old time and length; nothing is rebuilt for what only is to be reported; a finding
/// that asks for a rebuild opens one order by itself, whose cause names it; the machine comes back clean, on the same
/// version, and its history tells why.
#[test]
fn a_machine_that_was_changed_by_hand_is_found_and_rebuilt() {
    let mut fleet = Fleet::with_shells(env!("CARGO_BIN_EXE_regild"), &[MACHINE]);
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lab/watch-v1.raw");
    assert!(image.exists(), "no {}; do: make target/lab/watch-v1.raw", image.display());
    fleet.server.regild(&["image", "import", image.to_str().unwrap(), "--as", "tiny:v1"]);
    fleet.apply(&format!("{}{POLICY}", fleet.hosts()));
    fleet.give_power();
    let node = &fleet.nodes[0];
    fleet.server.regild(&["host", "reimage", node.name, "--image", "tiny:v1", "--reason", "first build"]);
    fleet.until_ready("tiny:v1", BUILD, [node]);
    is_clean(&fleet);

    // Of what is only reported, people are told, and no more.
    node.shell.run("echo 'do not reboot' > /etc/motd && busybox chmod 4755 /usr/share/doc");
    node.shell.run("busybox mkfifo \"/etc/a$(printf '\\033')b\"");
    let found = until_found(&fleet, 3);
    assert_eq!(found, ["/etc/a\\x1bb: added", "/etc/motd: added", "/usr/share/doc: mode"]);
    let text = fleet.server.regild(&["drift", "show", node.name]);
    assert!(text.contains("+do not reboot"), "the policy lets its content be shown:\n{text}");
    assert_eq!(fleet.server.host(node.name)["generation"], 1, "it was rebuilt for what is to be reported only");
    accept_until_clean(&fleet);

    // A program that looks as before: same length, same time.
    let program = "/srv/cgi-bin/health";
    node.shell.run(&format!("busybox cp -p {program} /run/old && busybox tr a-y b-z < /run/old > {program}"));
    node.shell.run(&format!("busybox touch -r /run/old {program}"));
    fleet.until("drift asks for a rebuild, and waits since the machine was built just now", WATCH, || {
        let host = fleet.server.host(node.name);
        host["waits"].as_str().is_some_and(|waits| waits.contains("rebuilt too short a time ago")).then_some(())
    });
    fleet.server.kill();
    fleet.server.start_later(&fleet.lab, PAUSE_SECONDS);
    let node = &fleet.nodes[0];
    fleet.until("its order is open", WATCH, || {
        let host = fleet.server.host(node.name);
        (host["generation"] == 2).then_some(())
    });
    fleet.until("the machine was rebuilt", BUILD, || {
        let host = fleet.server.host(node.name);
        (host["reported_generation"] == 2 && host["state"] == "ready" && host["detail"] == "confirmed").then_some(())
    });
    is_clean(&fleet);
    assert_eq!(fleet.server.host(node.name)["reported"], "tiny:v1");
    let history = fleet.history(node.name);
    assert!(history.iter().any(|line| line.contains("drift: /srv/cgi-bin/health")), "no cause in {history:#?}");
    let restart = [Switch::Off, Switch::On { network: true }];
    assert_eq!(node.switched(), [&[Switch::On { network: true }], &restart[..]].concat());
    let ordered = &fleet.json(&["ledger", "list", "--cause", "drift"])[0];
    assert_eq!((&ordered["kind"], &ordered["host"]), (&"ordered".into(), &node.id.as_str().into()), "{ordered:#}");
}

fn line(fleet: &Fleet) -> Value {
    fleet.json(&["drift", "list"])[0].clone()
}

fn is_clean(fleet: &Fleet) {
    fleet.until("it reported itself clean", BUILD, || (line(fleet)["standing"] == "clean").then_some(()));
    let shown = fleet.json(&["drift", "show", fleet.nodes[0].name]);
    assert_eq!(shown["found"], Value::Array(Vec::new()), "{shown:#}");
    assert!(shown["scan"]["paths"].as_u64().unwrap() > 100, "it looked at nothing: {shown:#}");
}

/// The findings as `path: aspects`, once there are so many.
fn until_found(fleet: &Fleet, count: usize) -> Vec<String> {
    fleet.until(&format!("{count} findings"), WATCH, || {
        let shown = fleet.json(&["drift", "show", fleet.nodes[0].name]);
        let found = shown["found"].as_array().expect("a list");
        let line = |found: &Value| {
            let aspects: Vec<&str> = found["aspects"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            format!("{}: {}", found["path"].as_str().unwrap(), aspects.join("+"))
        };
        (found.len() >= count).then(|| found.iter().map(line).collect())
    })
}

/// What a person accepts for a while is no finding any more, without any word to the machine.
fn accept_until_clean(fleet: &Fleet) {
    for path in ["/etc/*", "/usr/share/doc"] {
        let why = ["--until", "1d", "--why", "tried by hand"];
        fleet.server.regild(&[&["drift", "accept", path, "--group", "lab"], &why[..]].concat());
    }
    is_clean(fleet);
}
