//! Promises of the IPMI driver, against Debian's ipmi_sim through ipmitool: the override is set and read back before
//! the reset; a password is tried once and is on no command line; a silent controller costs a bounded time.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use regild::power::{Action, Override, PowerError, PowerState, Settings};

use crate::desk::{Desk, logged, tries, write_program};
use crate::lab::Process;

const PASSWORD: &str = "Corr3ct.h0rse";

/// A controller: ipmi_sim, and a script that is the machine.
struct Simulator {
    dir: tempfile::TempDir,
    port: u16,
    _process: Process,
}

impl Simulator {
    fn start(on: bool) -> Simulator {
        let dir = tempfile::tempdir().unwrap();
        // Nobody else takes it in the moment between: the kernel gives out ports round about.
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = |name: &str| dir.path().join(name);
        // "chassis get power", "chassis set boot pxe", ...: ipmi_lan(5). What is set is kept in files.
        let chassis = format!(
            "#!/bin/sh\ncd {0}\nshift; echo \"$@\" >>calls\n\
             case \"$1 $2\" in \"set power\") [ ! -e refuse-once ] || exec rm refuse-once no-such-file ;; esac\n\
             what=$1; shift\ncase $what in\n\
             get) for name in \"$@\"; do echo \"$name:$(cat value.$name)\"; done ;;\n\
             set) while [ $# -gt 1 ]; do echo \"$2\" >value.$1; shift 2; done ;;\nesac\n",
            dir.path().display()
        );
        write_program(&path("chassis"), &chassis);
        std::fs::write(path("value.power"), if on { "1" } else { "0" }).unwrap();
        std::fs::write(path("value.boot"), "none").unwrap();
        // Without a guid it says that it speaks no IPMI 2.0.
        let lan = format!(
            "name \"lab\"\nset_working_mc 0x20\nstartlan 1\n  addr 127.0.0.1 {port}\n  priv_limit admin\n  \
             allowed_auths_operator md5\n  allowed_auths_admin md5\n  guid a123456789abcdefa123456789abcdef\nendlan\n\
             chassis_control \"{} 0x20\"\nuser 2 true \"regild\" \"{PASSWORD}\" admin 10 md5\n",
            path("chassis").display()
        );
        std::fs::write(path("lan.conf"), lan).unwrap();
        let controller = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n";
        std::fs::write(path("sim.emu"), controller).unwrap();
        std::fs::create_dir(path("state")).unwrap();
        let mut sim = Command::new("ipmi_sim");
        sim.arg("-n").arg("-c").arg(path("lan.conf")).arg("-f").arg(path("sim.emu")).arg("-s").arg(path("state"));
        let mut process = Process::spawn(sim, &path("sim.log"));
        wait_until_bound(port, &mut process);
        Simulator { dir, port, _process: process }
    }

    fn settings(&self, desk: &Desk, password: &str, more: &str) -> Settings {
        settings(desk, self.port, password, more)
    }

    /// What was set, in order.
    fn set(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        calls.lines().filter_map(|line| line.strip_prefix("set ")).map(str::to_string).collect()
    }
}

fn settings(desk: &Desk, port: u16, password: &str, more: &str) -> Settings {
    desk.settings(&format!(
        "driver = \"ipmi\"\naddress = \"127.0.0.1\"\nport = {port}\nuser = \"regild\"\npassword = \"{password}\"\n\
         cipher = 3\n{more}"
    ))
}

pub fn wait_until_bound(port: u16, process: &mut Process) {
    let wanted = format!(":{port:04X} ");
    let bound = |table: &str| std::fs::read_to_string(table).unwrap_or_default().contains(&wanted);
    for _ in 0..1000 {
        assert!(process.is_running(), "the controller ended: {}", process.log());
        if bound("/proc/net/udp") || bound("/proc/net/udp6") {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the controller does not listen: {}", process.log());
}

#[test]
fn a_running_machine_is_cycled_into_the_network() {
    let (desk, simulator) = (Desk::new(), Simulator::start(true));
    let report = desk.done(&simulator.settings(&desk, PASSWORD, ""), Action::BootToNetwork);
    // ipmi_sim keeps the device, but neither the valid bit nor the mode: said, and reset all the same.
    let shown = "the network, but does not mark it valid";
    assert_eq!(report.boot_override, Some(Override::NotShown { shown: shown.into() }));
    assert_eq!(report.state, PowerState::On);
    assert_eq!(simulator.set(), ["boot pxe", "power 0", "power 1"]);
}

/// Power cycle is optional in IPMI: then off, and on.
#[test]
fn a_machine_that_cannot_be_cycled_is_switched_off_and_on() {
    let (desk, simulator) = (Desk::new(), Simulator::start(true));
    let settings = simulator.settings(&desk, PASSWORD, "");
    std::fs::write(simulator.dir.path().join("refuse-once"), "").unwrap();
    let report = desk.done(&settings, Action::BootToNetwork);
    assert_eq!(report.state, PowerState::On, "{report:?}");
    assert_eq!(simulator.set(), ["boot pxe", "power 0", "power 0", "power 1"], "cycle (refused), off, on");
}

#[test]
fn a_machine_that_is_off_is_switched_on_and_off() {
    let (desk, simulator) = (Desk::new(), Simulator::start(false));
    let settings = simulator.settings(&desk, PASSWORD, "boot_mode = \"bios\"");
    assert_eq!(desk.done(&settings, Action::Status).state, PowerState::Off);
    assert_eq!(desk.done(&settings, Action::BootToNetwork).state, PowerState::On);
    assert_eq!(desk.done(&settings, Action::PowerOff).state, PowerState::Off);
    assert_eq!(desk.done(&settings, Action::PowerOff).state, PowerState::Off);
    assert_eq!(simulator.set(), ["boot pxe", "power 1", "power 0"]);
}

#[test]
fn a_wrong_password_is_tried_once_and_shown_nowhere() {
    let (desk, simulator) = (Desk::new(), Simulator::start(true));
    let between = Between::new(simulator.port);
    let mut shown = String::new();
    let log = logged(|| {
        let wrong = settings(&desk, between.port, "wr0ng-W0rd", "");
        let (error, report) = desk.fails(&wrong, Action::BootToNetwork);
        assert!(matches!(error, PowerError::WrongPassword { .. }), "{error}");
        assert_eq!(tries(&report, "ask for the power state: failed"), 1);
        shown += &format!("{error} {error:?} {report:?} {wrong:?}");
    });
    assert_eq!(between.logins(), 1, "a controller that locks accounts would have counted more");
    assert!(log.contains("does not accept user") && !log.contains("wr0ng"), "{log}");
    assert!(!shown.contains("wr0ng"), "{shown}");
    assert_eq!(simulator.set(), [""; 0]);
}

#[test]
fn an_unknown_user_is_tried_once() {
    let (desk, simulator) = (Desk::new(), Simulator::start(true));
    let between = Between::new(simulator.port);
    let nobody = desk.settings(&format!(
        "driver = \"ipmi\"\naddress = \"127.0.0.1\"\nport = {}\nuser = \"nobody\"\npassword = \"x\"\ncipher = 3",
        between.port
    ));
    let (error, _) = desk.fails(&nobody, Action::Status);
    assert!(matches!(error, PowerError::WrongPassword { .. }), "{error}");
    assert_eq!(between.logins(), 1);
}

#[test]
fn a_cipher_suite_that_the_controller_lacks_is_named() {
    let (desk, simulator) = (Desk::new(), Simulator::start(true));
    let text = "driver = \"ipmi\"\naddress = \"127.0.0.1\"\nuser = \"regild\"\npassword = \"x\"";
    let settings = desk.settings(&format!("{text}\nport = {}", simulator.port));
    let (error, _) = desk.fails(&settings, Action::Status);
    assert!(matches!(error, PowerError::Cipher { cipher: 17, other: 3, .. }), "{error}");
}

/// Promise: the password is in ipmitool's environment and on no command line; ipmitool dies at its limit.
#[test]
fn a_silent_controller_is_given_up_and_nobody_sees_the_password_meanwhile() {
    let mut desk = Desk::new();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    desk.power.limits.request = Duration::from_secs(2);
    desk.power.limits.tries_max = 2;
    let settings = settings(&desk, port, PASSWORD, "");
    let (error, seen) = std::thread::scope(|scope| {
        let acting = scope.spawn(|| desk.fails(&settings, Action::BootToNetwork).0);
        let mut seen = Vec::new();
        while !acting.is_finished() {
            seen.extend(ipmitools(port));
            std::thread::sleep(Duration::from_millis(20));
        }
        (acting.join().unwrap(), seen)
    });
    assert!(matches!(error, PowerError::NoAnswer { .. } | PowerError::NotReached { .. }), "{error}");
    assert!(!seen.is_empty(), "ipmitool was never seen");
    for (command_line, environment) in seen {
        assert!(!command_line.contains(PASSWORD), "{command_line}");
        // Else the test looks at the wrong process. Empty while it is being killed.
        assert!(environment.is_empty() || environment.contains(PASSWORD), "{environment}");
    }
    assert_eq!(ipmitools(port).len(), 0, "an ipmitool outlived its limit");
}

/// Command line and environment of every ipmitool that asks this port.
fn ipmitools(port: u16) -> Vec<(String, String)> {
    let read = |path: PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).replace('\0', " ");
    let processes = Path::new("/proc").read_dir().unwrap().flatten().map(|entry| entry.path());
    let asks = |path: PathBuf| {
        let command_line = read(path.join("cmdline"));
        let ours = command_line.starts_with("ipmitool ") && command_line.contains(&format!("-p {port} "));
        ours.then(|| (command_line, read(path.join("environ"))))
    };
    processes.filter_map(asks).collect()
}

/// Between ipmitool and the controller: counts who tries to log in.
struct Between {
    port: u16,
    logins: Arc<AtomicUsize>,
}

impl Between {
    fn new(controller: u16) -> Between {
        let (near, far) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        far.connect(("127.0.0.1", controller)).unwrap();
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        }
        let (port, logins) = (near.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let count = logins.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            let mut client = None;
            // Ends with the test, which holds the other count.
            while Arc::strong_count(&count) > 1 {
                if let Ok((length, from)) = near.recv_from(&mut buffer) {
                    client = Some(from);
                    // RMCP+ (authentication type 6), payload type 0x12: RAKP message 1, IPMI 2.0 table 13-16.
                    if buffer[4] == 6 && buffer[5] & 0x3f == 0x12 {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    let _ = far.send(&buffer[..length]);
                }
                if let (Ok(length), Some(client)) = (far.recv(&mut buffer), client) {
                    let _ = near.send_to(&buffer[..length], client);
                }
            }
        });
        Between { port, logins }
    }

    fn logins(&self) -> usize {
        self.logins.load(Ordering::Relaxed)
    }
}
