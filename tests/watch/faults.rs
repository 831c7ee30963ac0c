//! What goes wrong: the server, the network, the process, the disk.

use crate::host::{Host, Mount};
use crate::server::{Fault, Server, World};
use regild::clock;
use std::fs;
use std::process::Command;
use std::time::Duration;

fn pause(millis: u64) {
    clock::sleep(Duration::from_millis(millis));
}

fn waits_in_queue(host: &Host) -> usize {
    let names = fs::read_dir(host.state.join("queue")).into_iter().flatten().flatten();
    names.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "json")).count()
}

/// The server has taken everything, and the agent knows.
fn all_told(host: &Host) {
    until("all told", || waits_in_queue(host) == 0 && host.state.join("told.json").exists());
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..900 {
        if is_so() {
            return;
        }
        pause(100);
    }
    panic!("not {what} within 90 s");
}

/// All was told, then the server went away, and one finding waits for it.
fn one_report_waits() -> (Host, Server) {
    let mut host = Host::new();
    let server = host.server("[]");
    host.start();
    server.wait_findings(&[]);
    all_told(&host);
    server.set(Fault::Down);
    host.write("etc/passwd", "one");
    until("one waits", || waits_in_queue(&host) == 1);
    (host, server)
}

/// Promise: a server that is away stops no look; what came and went meanwhile is told when it is back, in its order,
/// also by another process.
#[test]
fn a_server_that_is_away_hears_it_all_later() {
    let (mut host, server) = one_report_waits();
    host.kill();
    // The next process has nothing but what is kept: terms, baseline, key, queue.
    host.start();
    host.write("usr/lib/unit", "two");
    until("two wait", || waits_in_queue(&host) == 2);
    fs::remove_file(host.path("etc/passwd")).unwrap();
    until("three wait", || waits_in_queue(&host) == 3);
    host.kill();
    let before = server.world().taken.len();
    server.set(Fault::None);
    host.start();
    server.wait_findings(&["removed /etc/passwd", "content /usr/lib/unit"]);
    let world = server.world();
    let later: Vec<_> = world.taken[before..].iter().map(crate::server::paths).collect();
    let one = vec!["content /etc/passwd"];
    let two = vec!["content /etc/passwd", "content /usr/lib/unit"];
    assert_eq!(later[..2], [one, two], "what was there in between");
    assert_eq!(world.keys.len(), 1);
}

/// Promise: an answer that is lost neither stops the service nor makes a number speak twice.
#[test]
fn lost_answers_and_a_busy_server_cost_only_time() {
    let mut host = Host::new();
    let server = host.server("[]");
    server.set(Fault::LosesAnswers);
    host.start();
    server.wait_findings(&[]);
    host.write("etc/passwd", "one");
    server.wait_findings(&["content /etc/passwd"]);
    server.set(Fault::Says(503));
    host.write("usr/lib/unit", "two");
    until("it waits", || waits_in_queue(&host) >= 1);
    server.set(Fault::LosesAnswers);
    server.wait_findings(&["content /etc/passwd", "content /usr/lib/unit"]);
    server.set(Fault::None);
    until("nothing waits", || waits_in_queue(&host) == 0);
}

/// Promise: killed at any instant, the next start goes on: no number speaks twice, one key for the generation, and
/// what differs is told in the end. The seed is printed; the moments of kills cannot be repeated exactly.
#[test]
fn kills_at_any_moment_lose_nothing_and_repeat_nothing() {
    let seed = std::env::var("REGILD_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(u32::from_le_bytes(clock::random_bytes())));
    eprintln!("kills: REGILD_SEED={seed}");
    let mut dice = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut below = |limit: u16| {
        let mut bytes = [0; 2];
        dice.fill(&mut bytes);
        u16::from_le_bytes(bytes) % limit
    };
    let mut host = Host::new();
    let server = host.server("[]");
    server.world().terms.report_seconds = 5;
    for round in 0..40 {
        let fault = [Fault::None, Fault::None, Fault::LosesAnswers, Fault::Down][usize::from(below(4))];
        server.set(fault);
        host.write("etc/passwd", &format!("round {round}"));
        host.start();
        pause(u64::from(below(500)));
        host.kill();
    }
    server.set(Fault::None);
    host.start();
    host.write("usr/lib/unit", "the end");
    server.wait_findings(&["content /etc/passwd", "content /usr/lib/unit"]);
    until("nothing waits", || waits_in_queue(&host) == 0);
    let world = server.world();
    assert!(world.keys.iter().all(|key| key.public_key == world.keys[0].public_key), "one key for the generation");
    let parts: Vec<_> = fs::read_dir(&host.state).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(parts.len() <= 12, "leftovers pile up: {parts:?}");
}

fn numbers(world: &World) -> Vec<u64> {
    world.taken.iter().map(|report| report.sequence).collect()
}

/// Promise: a host whose disk is full, or read-only since it fails, is heard all the same, and no number is used twice.
#[test]
fn a_full_disk_and_one_that_is_read_only_are_told_about() {
    let mut host = Host::new();
    let small = Mount::new(&host.scratch.path().join("small"), &["-t", "tmpfs", "-o", "size=1m", "small"]);
    host.state = small.0.join("state");
    let server = host.server("[]");
    server.world().terms.report_seconds = 5;
    host.start();
    server.wait_findings(&[]);
    all_told(&host);
    // To the last page.
    let _ = fs::write(small.0.join("fill"), vec![7; 2 << 20]);
    assert!(fs::write(small.0.join("no room"), vec![7; 4096]).is_err());
    host.write("etc/passwd", "one");
    server.wait_findings(&["content /etc/passwd"]);
    host.kill();
    host.start();
    host.write("usr/lib/unit", "two");
    server.wait_findings(&["content /etc/passwd", "content /usr/lib/unit"]);
    let gaps = server.world().taken.last().unwrap().gaps.clone();
    assert!(gaps.iter().any(|gap| gap.reason.contains("cannot be kept")), "{gaps:?}");
    let full = numbers(&server.world());
    assert!(full.windows(2).all(|pair| pair[1] < pair[0] + 100), "numbers are overwritten in place: {full:?}");

    host.kill();
    small.remount("ro");
    host.start();
    fs::remove_file(host.path("usr/lib/unit")).unwrap();
    server.wait_findings(&["content /etc/passwd", "removed /usr/lib/unit"]);
    let last = server.world().taken.last().cloned().unwrap();
    assert!(last.sequence > full.last().unwrap() + 1, "a jump: {}", last.sequence);
    server.wait("said", |world| {
        let gaps = &world.taken.last().unwrap().gaps;
        gaps.iter().any(|gap| gap.reason.contains("the state directory cannot be written"))
    });
}

/// Promise: a new generation is another system: a key of its own, reports from the beginning, and nothing of the old.
#[test]
fn a_new_generation_begins_anew() {
    let mut host = Host::new();
    let server = host.server("[]");
    host.write("etc/passwd", "drift");
    assert!(host.command().arg("--once").status().unwrap().success());
    {
        let mut world = server.world();
        world.terms.generation = 2;
        (world.terms.key, world.terms.sequence) = (None, 0);
        world.taken.clear();
    }
    assert!(host.command().arg("--once").status().unwrap().success());
    let world = server.world();
    assert_ne!(world.keys[0].public_key, world.keys[1].public_key);
    let scan = &world.taken[0].scan;
    assert_eq!((world.taken[0].generation, scan.kind.as_str(), scan.number), (2, "full", 1));
}

/// Promise: who lost its key says so and does not speak in another's name; and there is one service for each host.
#[test]
fn a_lost_key_and_a_second_service_are_said() {
    let mut host = Host::new();
    let server = host.server("[]");
    assert!(host.command().arg("--once").status().unwrap().success());
    let said = |command: &mut Command| {
        let done = command.stderr(std::process::Stdio::piped()).output().unwrap();
        (done.status.success(), String::from_utf8(done.stderr).unwrap())
    };
    host.start();
    server.wait("at work", |world| world.taken.len() >= 2);
    let (succeeded, why) = said(host.command().arg("--once"));
    assert!(!succeeded && why.contains("another regild-agent watch"), "{why}");
    host.kill();
    fs::remove_file(host.state.join("key.json")).unwrap();
    let (succeeded, why) = said(host.command().arg("--once"));
    assert!(!succeeded && why.contains("another key for this host"), "{why}");
    // An operator has the server forget it.
    server.world().terms.key = None;
    assert!(host.command().arg("--once").status().unwrap().success());
    let world = server.world();
    assert_ne!(world.keys[0].public_key, world.keys[1].public_key);
}

/// Promise: a report that the server will never take does not stand in the way of those behind it.
#[test]
fn reports_against_a_baseline_that_is_gone_do_not_block_the_queue() {
    let (host, server) = one_report_waits();
    {
        // The server reads the image anew, and better; one file of it is another.
        host.write("usr/lib/unit", "two");
        let mut world = server.world();
        world.baseline = host.baseline();
        world.terms.baseline = Some(blake3::hash(&world.baseline).to_hex().to_string());
        world.fault = Fault::None;
    }
    host.write("usr/lib/unit", "three");
    server.wait("told against the new one", |world| {
        let last = world.taken.last().unwrap();
        Some(&last.baseline) == world.terms.baseline.as_ref() && world.findings() == ["content /usr/lib/unit"]
    });
}
