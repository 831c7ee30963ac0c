//! Restarts the machine: asks the init system, so that services end in their order, and does it itself where there is
//! none to ask or where it does not come to an end.

use crate::clock;
use rustix::process::{Pid, Signal};
use rustix::system::RebootCommand;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A service may need its time to end (systemd gives each 90 s); a machine that hangs in it must come all the same.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(180);
/// reboot(2) itself has been seen to hang in a RAID controller's driver.
const SYSCALL_LIMIT: Duration = Duration::from_secs(10);
const REMOUNT_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Firmware,
    /// Into the kernel that was loaded.
    Kexec,
}

/// Restarts the machine; returns only when it may not.
pub fn restart(how: How) -> io::Error {
    // From the side: sync(2) waits for disks, and one that is gone never answers.
    std::thread::spawn(move || {
        clock::sleep(SHUTDOWN_LIMIT);
        println!("regild-agent: the shutdown does not end; rebooting without it");
        at_once(how)
    });
    rustix::fs::sync();
    if init_is_asked(how) {
        clock::sleep(SHUTDOWN_LIMIT * 2);
    }
    at_once(how)
}

/// Whether the init system took it.
fn init_is_asked(how: How) -> bool {
    // As sd_booted(3) finds out.
    if Path::new("/run/systemd/system").is_dir() {
        let verb = if how == How::Kexec { "kexec" } else { "reboot" };
        let asked = Command::new("systemctl").args(["--no-block", verb]).stdin(Stdio::null()).status();
        return asked.is_ok_and(|status| status.success());
    }
    // busybox init: SIGTERM is its reboot, and it has nothing for kexec.
    how == How::Firmware
        && is_busybox_init()
        && Pid::from_raw(1).is_some_and(|init| rustix::process::kill_process(init, Signal::TERM).is_ok())
}

/// PID 1 is busybox's init. A shell script as PID 1 is run by busybox, too, and would not notice a signal.
fn is_busybox_init() -> bool {
    let program = std::fs::read_link("/proc/1/exe").unwrap_or_default();
    let arguments = std::fs::read("/proc/1/cmdline").unwrap_or_default();
    program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("busybox")) && is_called_init(&arguments)
}

/// Of /proc/PID/cmdline: busybox is what it is called. The signal masks do not tell: sigtimedwait(2) takes what it
/// waits for out of them.
fn is_called_init(arguments: &[u8]) -> bool {
    let called = |argument: &[u8]| argument.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    let mut words = arguments.split(|byte| *byte == 0).map(called);
    let first = words.next().unwrap_or_default();
    let name = if first == b"busybox" { words.next().unwrap_or_default() } else { first };
    name == b"init" || name == b"linuxrc"
}

fn at_once(how: How) -> io::Error {
    std::thread::spawn(|| {
        clock::sleep(SYSCALL_LIMIT);
        sysrq("b");
    });
    // What is not clean by then stays in its journal: file systems are made read-only, in the background.
    sysrq("s");
    sysrq("u");
    clock::sleep(REMOUNT_PAUSE);
    let command = if how == How::Kexec { RebootCommand::Kexec } else { RebootCommand::Restart };
    match rustix::system::reboot(command) {
        Err(error) => error.into(),
        Ok(()) => io::Error::other("reboot(2) returned"),
    }
}

fn sysrq(key: &str) {
    // Without it reboot(2) is what is left.
    let _ = std::fs::write("/proc/sysrq-trigger", key);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busybox_is_known_as_init_by_its_name_and_a_script_called_init_is_not() {
        for init in [&b"init\0"[..], b"/sbin/init\0", b"/sbin/init\0splash\0", b"/bin/busybox\0init\0", b"linuxrc\0"] {
            assert!(is_called_init(init), "{init:?}");
        }
        for other in [&b"/bin/sh\0/sbin/init\0"[..], b"sh\0", b"/bin/busybox\0sh\0/init\0", b"/bin/busybox\0", b""] {
            assert!(!is_called_init(other), "{other:?}");
        }
    }
}
