//! Two network namespaces joined by a cable: the server's end is 10.77.0.1, the client's 10.77.0.2.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use regild::decide::lease::{LeaseAnswer, LeaseRequest, LeaseTable, decide};
use regild::decide::mac::Mac;
use regild::decide::netboot::{FirmwareArch, NetbootClient};
use regild::dhcp::{Authority, BindError, DhcpCounters, DhcpServer, LeaseError, NetbootAnswer, Network};
use regild::ndp::{RecentMacs, RouterAnswers};
use tokio::sync::watch;

pub const SERVER_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const RESERVED_MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x77]);
pub const RESERVED_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);
const SERVER_LINK: &str = "rg-server";
pub const CLIENT_LINK: &str = "rg-client";

pub struct Lab {
    server: String,
    pub client: String,
}

impl Lab {
    pub fn new() -> Lab {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("regild-{}-{number}-{side}", std::process::id());
        let lab = Lab { server: name("s"), client: name("c") };
        ip(&["netns", "add", &lab.server]);
        ip(&["netns", "add", &lab.client]);
        let cable = ["-n", &lab.server, "link", "add", SERVER_LINK, "type", "veth"];
        ip(&[&cable[..], &["peer", "name", CLIENT_LINK, "netns", &lab.client]].concat());
        // The address that the kernel would reply from, were it not told otherwise.
        ip(&["-n", &lab.server, "address", "add", "10.66.0.1/24", "dev", SERVER_LINK]);
        ip(&["-n", &lab.server, "address", "add", "10.77.0.1/24", "dev", SERVER_LINK]);
        ip(&["-n", &lab.server, "link", "set", SERVER_LINK, "up"]);
        ip(&["-n", &lab.client, "address", "add", "10.77.0.2/24", "dev", CLIENT_LINK]);
        ip(&["-n", &lab.client, "link", "set", CLIENT_LINK, "up"]);
        lab.wait_until_up();
        lab
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

    /// Runs a program at the client's end.
    pub fn run_client(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.client, program])
            .args(arguments)
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    /// Answers router solicitations at the server's end, of those in `recent`, until the answer is dropped.
    pub fn answer_solicitations(&self, recent: Arc<RecentMacs>) -> watch::Sender<bool> {
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = mpsc::channel();
        let namespace = self.server.clone();
        std::thread::spawn(move || {
            enter(&namespace);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let answers = RouterAnswers::bind(SERVER_LINK).unwrap();
                ready.send(()).unwrap();
                answers.run(recent, stopped).await;
            });
        });
        is_ready.recv().expect("the answers did not start");
        stop
    }

    /// Opens port 67 at the server's end once more, and says what came of it.
    pub fn bind_again(&self) -> Result<(), BindError> {
        let namespace = self.server.clone();
        let bind = move || {
            enter(&namespace);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { DhcpServer::bind(network(), 0) }).map(drop)
        };
        std::thread::spawn(bind).join().unwrap()
    }

    /// Serves DHCP at the server's end until dropped.
    pub fn serve<A: Authority>(&self, authority: Arc<A>) -> Server {
        let counters = Arc::new(DhcpCounters::default());
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = mpsc::channel();
        let (namespace, counted) = (self.server.clone(), Arc::clone(&counters));
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = DhcpServer::bind(network(), 0).unwrap();
                ready.send(()).unwrap();
                server.run(authority, counted, stopped).await;
            });
        });
        is_ready.recv().expect("the server did not start");
        Server { counters, stop, thread: Some(thread) }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [&self.server, &self.client] {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

/// A running server; dropping it stops it, and fails the test if it does not stop.
pub struct Server {
    pub counters: Arc<DhcpCounters>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the server panicked");
        }
    }
}

pub fn network() -> Network {
    let network = Network {
        interface: SERVER_LINK.into(),
        server_ip: SERVER_IP,
        prefix_len: 24,
        router: Some([10, 77, 0, 254].into()),
        dns: vec![SERVER_IP],
        lease_seconds: 3600,
        pools: vec![([10, 77, 0, 100].into(), [10, 77, 0, 109].into())],
        reservations: BTreeMap::from([(RESERVED_MAC, RESERVED_IP)]),
    };
    network.check().unwrap();
    network
}

/// The smallest registry: one table behind a lock, and a fixed answer for each kind of netboot client.
pub struct SmallAuthority {
    pub table: Mutex<LeaseTable>,
}

impl SmallAuthority {
    pub fn new() -> Arc<Self> {
        Arc::new(SmallAuthority { table: Mutex::new(LeaseTable::new(network().subnet())) })
    }
}

impl Authority for SmallAuthority {
    async fn lease(&self, place: usize, request: LeaseRequest) -> Result<LeaseAnswer, LeaseError> {
        assert_eq!(place, 0);
        let mut table = self.table.lock().unwrap();
        let answer = decide(&table, &request, regild::clock::now());
        if let Some(change) = answer.change() {
            table.apply(change);
        }
        Ok(answer)
    }

    async fn netboot(&self, _: usize, _: Mac, client: NetbootClient) -> NetbootAnswer {
        let name = match client {
            NetbootClient::Firmware { arch: FirmwareArch::Bios } => "undionly.kpxe",
            NetbootClient::Firmware { arch: FirmwareArch::UefiX64 } => "ipxe.efi",
            NetbootClient::Ipxe { .. } => "http://10.77.0.1/boot.ipxe",
            other => {
                return NetbootAnswer::Silent { reason: format!("nothing for {other:?}") };
            }
        };
        NetbootAnswer::BootFile { name: name.into() }
    }
}

/// Moves this thread, and nothing else, into a namespace.
pub fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    // SAFETY: the descriptor is open; setns changes the calling thread only.
    let result = unsafe { nix::libc::setns(file.as_raw_fd(), nix::libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
}

pub fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("the `ip` command is needed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said} (these tests need root)", arguments.join(" "));
}
