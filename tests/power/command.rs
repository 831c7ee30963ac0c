//! Promises of the command driver: no shell, no environment of ours, bounded in time and output with everything the
//! program started, and no program that others may write.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use regild::power::{Action, PowerError, PowerState, Settings};

use crate::desk::{Desk, tries, write_program};

fn program(desk: &Desk, text: &str) -> Settings {
    write_program(&desk.power.command_dir.join("outlet"), &format!("#!/bin/sh\n{text}\n"));
    desk.settings("driver = \"command\"\nprogram = \"outlet\"\ntimeout_seconds = 20")
}

#[test]
fn the_program_gets_its_four_words_and_nothing_else() {
    let desk = Desk::new();
    let seen = desk.dir.path().join("seen");
    let settings =
        program(&desk, &format!("tr '\\0' '\\n' </proc/self/environ >{0}; pwd >>{0}; echo $# >>{0}", seen.display()));
    desk.done(&settings, Action::BootToNetwork);
    let mut lines: Vec<String> = std::fs::read_to_string(&seen).unwrap().lines().map(str::to_string).collect();
    // The shell's own.
    lines.retain(|line| !line.starts_with("PWD="));
    lines.sort();
    let expected = [
        "/",
        "0",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "REGILD_ACTION=boot-to-network",
        "REGILD_ADDRESS=",
        "REGILD_HOST=h-525400770021",
        "REGILD_NAME=web-1",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn the_state_is_one_of_three_words() {
    let desk = Desk::new();
    for (word, state) in [("on", PowerState::On), ("off", PowerState::Off), ("unknown", PowerState::Unknown)] {
        assert_eq!(desk.done(&program(&desk, &format!("echo {word}")), Action::Status).state, state);
    }
    let (error, _) = desk.fails(&program(&desk, "echo ON; echo on"), Action::Status);
    assert!(matches!(error, PowerError::OddAnswer { .. }), "{error}");
}

#[test]
fn a_failure_is_shown_with_the_program_s_last_words() {
    let desk = Desk::new();
    let settings = program(&desk, "echo begin >&2; printf 'outlet 7 \\033[31mtripped\\n' >&2; exit 3");
    let (error, report) = desk.fails(&settings, Action::PowerOff);
    assert!(error.to_string().contains("outlet 7 [31mtripped") && error.to_string().contains('3'), "{error}");
    assert_eq!(report.steps[0].tries, 1, "a failed command was run again");
}

#[test]
fn a_program_that_asks_for_it_is_run_again() {
    let desk = Desk::new();
    let flag = desk.dir.path().join("flag");
    let settings = program(&desk, &format!("[ -e {0} ] && exit 0; touch {0}; exit 75", flag.display()));
    let report = desk.done(&settings, Action::BootToNetwork);
    assert_eq!(tries(&report, "run "), 2);
}

#[test]
fn a_program_that_does_not_end_is_killed_with_its_children() {
    let desk = Desk::new();
    let pids = desk.dir.path().join("pids");
    program(&desk, &format!("sleep 77 & echo $! >{0}; echo $$ >>{0}; wait", pids.display()));
    let settings = desk.settings("driver = \"command\"\nprogram = \"outlet\"\ntimeout_seconds = 3");
    let (error, _) = desk.fails(&settings, Action::BootToNetwork);
    assert!(matches!(error, PowerError::TimedOut { seconds: 3, .. }), "{error}");
    for pid in std::fs::read_to_string(&pids).unwrap().lines() {
        assert!(ended(pid), "process {pid} outlived its time");
    }
}

/// Gone, or a zombie that waits for its parent.
fn ended_now(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

fn ended(pid: &str) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        if ended_now(pid) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn a_program_that_talks_without_end_is_cut_off() {
    let desk = Desk::new();
    let (error, _) = desk.fails(&program(&desk, "exec yes"), Action::Status);
    assert!(error.to_string().contains("64 KiB"), "{error}");
}

/// A daemon that a program leaves behind keeps its output open, and must not hold up the answer: here it lives longer
/// than the program may take.
#[test]
fn what_a_program_leaves_running_is_not_waited_for() {
    let desk = Desk::new();
    let pid = desk.dir.path().join("pid");
    let settings = program(&desk, &format!("sleep 60 & echo $! >{}; echo on", pid.display()));
    assert_eq!(desk.done(&settings, Action::Status).state, PowerState::On);
    let pid = std::fs::read_to_string(&pid).unwrap();
    assert!(!ended_now(pid.trim()), "it was killed, though the program had ended well");
    std::process::Command::new("kill").arg(pid.trim()).status().unwrap();
}

#[test]
fn a_program_that_others_may_write_is_not_run() {
    let desk = Desk::new();
    let settings = program(&desk, "exit 0");
    let path = desk.power.command_dir.join("outlet");
    for (path, mode) in [(path.as_path(), 0o757), (path.as_path(), 0o775), (&desk.power.command_dir, 0o777)] {
        let before = path.metadata().unwrap().permissions();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let (error, _) = desk.fails(&settings, Action::BootToNetwork);
        assert!(error.to_string().contains("can be written by others"), "{error}");
        std::fs::set_permissions(path, before).unwrap();
    }
    desk.done(&settings, Action::BootToNetwork);
    std::fs::remove_file(&path).unwrap();
    let (error, _) = desk.fails(&settings, Action::BootToNetwork);
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}
