//! Two network namespaces joined by a cable: the server's end is 10.77.0.1, the client's 10.77.0.2.
#![allow(dead_code)] // Each test binary uses its own part.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

pub const SERVER_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const SERVER_LINK: &str = "rg-server";
pub const CLIENT_LINK: &str = "rg-client";

pub struct Cable {
    pub server: String,
    pub client: String,
}

impl Cable {
    pub fn new() -> Cable {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("regild-{}-{number}-{side}", std::process::id());
        let cable = Cable { server: name("s"), client: name("c") };
        ip(&["netns", "add", &cable.server]);
        ip(&["netns", "add", &cable.client]);
        let link = ["-n", &cable.server, "link", "add", SERVER_LINK, "type", "veth"];
        ip(&[&link[..], &["peer", "name", CLIENT_LINK, "netns", &cable.client]].concat());
        // The address that the kernel would reply from, were it not told otherwise.
        ip(&["-n", &cable.server, "address", "add", "10.66.0.1/24", "dev", SERVER_LINK]);
        ip(&["-n", &cable.server, "address", "add", "10.77.0.1/24", "dev", SERVER_LINK]);
        ip(&["-n", &cable.server, "link", "set", SERVER_LINK, "up"]);
        ip(&["-n", &cable.client, "address", "add", "10.77.0.2/24", "dev", CLIENT_LINK]);
        ip(&["-n", &cable.client, "link", "set", CLIENT_LINK, "up"]);
        cable.wait_until_up();
        cable
    }

    /// The kernel drops what is sent before it has noticed that the cable is in.
    fn wait_until_up(&self) {
        let is_up = |namespace: &str, link: &str| {
            let shown = Command::new("ip").args(["-n", namespace, "link", "show", link]).output();
            shown.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("state UP"))
        };
        let up = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            is_up(&self.server, SERVER_LINK) && is_up(&self.client, CLIENT_LINK)
        });
        assert!(up, "the cable between the namespaces did not come up");
    }

    /// A program at the client's end, not started yet.
    pub fn client_command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.client, program]);
        command
    }

    /// Runs a program at the client's end.
    pub fn run_client(&self, program: &str, arguments: &[&str]) -> Output {
        let output = self.client_command(program).args(arguments).output();
        output.unwrap_or_else(|error| panic!("{program}: {error}"))
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in [&self.server, &self.client] {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

/// Moves this thread, and nothing else, into a namespace.
pub fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    // SAFETY: the descriptor is open; setns changes the calling thread only.
    let result = unsafe { nix::libc::setns(file.as_raw_fd(), nix::libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
}

/// Runs something inside a namespace. A socket stays where the thread was that opened it.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        enter(namespace);
        work()
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

pub fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("the `ip` command is needed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said} (these tests need root)", arguments.join(" "));
}
