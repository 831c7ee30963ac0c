//! Promises of the IPMI driver, against the second controller, pyghmi's: it marks its override valid, knows no UEFI, and
//! cannot cycle.

use std::net::UdpSocket;
use std::process::Command;

use regild::power::{Action, Override, PowerError, PowerState};

use crate::desk::Desk;
use crate::ipmi::wait_until_bound;
use crate::lab::Process;
use crate::sushy::program;

fn start(desk: &Desk) -> (u16, Process) {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut controller = Command::new(program("fakebmc"));
    controller.args(["--port", &port.to_string()]).env("PYTHONUNBUFFERED", "1");
    let mut process = Process::spawn(controller, &desk.dir.path().join("fakebmc.log"));
    wait_until_bound(port, &mut process);
    (port, process)
}

#[test]
fn an_override_that_is_kept_is_read_back_as_kept() {
    let desk = Desk::new();
    let (port, process) = start(&desk);
    let settings = |more: &str| {
        desk.settings(&format!(
            "driver = \"ipmi\"\naddress = \"127.0.0.1\"\nport = {port}\nuser = \"admin\"\npassword = \"password\"\n{more}"
        ))
    };
    let report = desk.done(&settings("cipher = 3\nboot_mode = \"bios\""), Action::BootToNetwork);
    assert_eq!((report.boot_override, report.state), (Some(Override::Checked), PowerState::On));

    // It is on now. It refuses "cycle", and forgets that the override was to be by UEFI.
    let report = desk.done(&settings("cipher = 3"), Action::BootToNetwork);
    assert_eq!(report.boot_override, Some(Override::NotShown { shown: "the network by BIOS".into() }));
    let log = process.log();
    let happened: Vec<_> = log.lines().collect();
    assert_eq!(happened, ["powered on", "abruptly remove power", "powered on"]);

    let (error, _) = desk.fails(&settings(""), Action::Status);
    assert!(matches!(error, PowerError::Cipher { cipher: 17, other: 3, .. }), "{error}");
}
