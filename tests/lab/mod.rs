//! The lab: real machines (QEMU with SeaBIOS or OVMF) on a real network (a bridge in a network namespace),
//! for the integration tests and the demo. No root daemon, no leftovers, no mocks.
//!
//! The thread that calls [`Lab::new`] moves into an anonymous network namespace, and everything it starts
//! lives there. The namespace has no name and no file: it is gone when its last process is, and every
//! process here dies with the thread that started it (PR_SET_PDEATHSIG). A crashed test leaks nothing.
//!
//! ```text
//!   the test's thread, the server under test           10.77.0.1
//!        |                                                 |
//!   ---- br-lab ------------------------------------------------ anonymous network namespace
//!        |              |
//!      tap0           tap1        one for each machine
//!      QEMU           QEMU
//! ```
//!
//! Absent on purpose: the outside world. Nothing in the namespace can reach the host's network.

// Each test binary compiles this module anew and uses only the part of it that it needs.
#![allow(dead_code, unused_imports)]

mod disk;
mod machine;
mod nvram;
mod process;
mod qmp;
pub mod redfish;
pub mod road;
mod server;
mod shell;

pub use disk::{Bus, DiskSpec, Throttle};
pub use machine::{BootOrder, Firmware, Machine, MachineSpec};
pub use nvram::BootEntries;
pub use process::Process;
pub use server::Server;
pub use shell::Shell;

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;

const BRIDGE: &str = "br-lab";
const SERVER_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

#[derive(Debug)]
pub struct Lab {
    /// `None` only while it is being dropped.
    dir: Option<tempfile::TempDir>,
    taps: Cell<u32>,
    /// The namespace belongs to the thread that made it: a Lab must not travel to another one.
    _thread_bound: std::marker::PhantomData<Rc<()>>,
}

impl Lab {
    /// Moves the calling thread into a new network namespace with a bridge at 10.77.0.1/24.
    ///
    /// Threads started afterwards by this thread are inside too; threads that exist already are not.
    pub fn new(name: &str) -> Lab {
        check_tools();
        // SAFETY: CLONE_NEWNET changes nothing but this thread's network namespace; no memory, file
        // descriptor or file system state, which is what the function's safety section is about.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap_or_else(|error| {
            panic!("a network namespace of our own: {error}; the lab needs root (CAP_SYS_ADMIN)")
        });
        // No IPv6 chatter in captures; absent where the kernel has no IPv6, and then there is nothing to do.
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        ip("link set lo up");
        // Without a forward delay a port forwards at once; with it, the firmware's first DHCP packets are lost.
        ip(&format!("link add {BRIDGE} type bridge forward_delay 0 stp_state 0"));
        ip(&format!("addr add {SERVER_IP}/24 dev {BRIDGE}"));
        ip(&format!("link set {BRIDGE} up"));
        let dir = tempfile::Builder::new()
            .prefix(&format!("regild-lab-{name}-"))
            .tempdir()
            .expect("a temporary directory for the lab");
        Lab { dir: Some(dir), taps: Cell::new(0), _thread_bound: std::marker::PhantomData }
    }

    /// Logs, disks and firmware variables; removed with the lab, kept and named when the test fails.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("the lab is not dropped").path()
    }

    pub fn bridge(&self) -> &str {
        BRIDGE
    }

    pub fn server_ip(&self) -> Ipv4Addr {
        SERVER_IP
    }

    /// A machine that is switched off and cabled to the bridge.
    pub fn machine(&self, spec: MachineSpec) -> Machine {
        let tap = format!("tap{}", self.taps.replace(self.taps.get() + 1));
        ip(&format!("tuntap add dev {tap} mode tap"));
        ip(&format!("link set {tap} master {BRIDGE} up"));
        Machine::new(self.dir(), spec, tap)
    }

    /// Starts a program inside the lab. It is killed when the answer is dropped or this thread ends.
    pub fn spawn(&self, command: Command, log_name: &str) -> Process {
        Process::spawn(command, &self.dir().join(log_name))
    }

    /// Pulls (or plugs in again) the network cable of a machine.
    pub fn set_link(&self, machine: &Machine, up: bool) {
        let state = if up { "up" } else { "down" };
        ip(&format!("link set {} {state}", machine.tap()));
    }

    /// Everything that passes the bridge, as DIR/NAME.pcap, until the answer is dropped.
    pub fn capture(&self, name: &str) -> Process {
        let mut tcpdump = Command::new("tcpdump");
        // A buffer of 64 MiB: with the default of 2 MiB a busy machine lost packets of the kernel's download.
        tcpdump.args(["-i", BRIDGE, "-U", "-s", "0", "-B", "65536", "-w"]).arg(self.dir().join(format!("{name}.pcap")));
        self.spawn(tcpdump, &format!("{name}.tcpdump.log"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        if std::thread::panicking() {
            eprintln!("lab: logs and disks are kept in {}", dir.keep().display());
        }
    }
}

/// The SHA-256 of a file, as sha256sum prints it.
pub fn sha256_file(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let output = Command::new("sha256sum").arg(path).stderr(Stdio::inherit()).output().expect("running sha256sum");
    assert!(output.status.success(), "sha256sum {} failed", path.display());
    String::from_utf8_lossy(&output.stdout)[..64].to_owned()
}

/// The tiny golden image of the given version, built once for all tests (about 10 s) under target/lab.
///
/// Two test binaries may ask for the same one at the same time; the script moves the finished file into
/// place, and both make the same bytes.
pub fn tiny_image(version: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let image = root.join(format!("target/lab/tiny-{version}.raw"));
    if !image.exists() {
        let status = Command::new(root.join("tests/images/build-tiny.sh"))
            .arg(version)
            .arg(&image)
            .status()
            .expect("running tests/images/build-tiny.sh");
        assert!(status.success(), "tests/images/build-tiny.sh {version} failed; see above");
    }
    image
}

fn ip(arguments: &str) {
    let output =
        Command::new("ip").args(arguments.split(' ')).output().expect("running ip; do: apt-get install iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn check_tools() {
    let needed = [
        ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
        ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
        ("/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu"),
    ];
    let missing: Vec<_> =
        needed.iter().filter(|(path, _)| !Path::new(path).exists()).map(|(_, package)| *package).collect();
    assert!(
        missing.is_empty(),
        "the lab misses Debian packages; do: apt-get install {}   (or: make setup)",
        missing.join(" ")
    );
}
