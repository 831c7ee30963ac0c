//! A DHCP server of ours at one end of a cable, with the smallest registry that can be.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use regild::decide::lease::{LeaseAnswer, LeaseRequest, LeaseTable, decide};
use regild::decide::mac::Mac;
use regild::decide::netboot::{FirmwareArch, NetbootClient};
use regild::dhcp::{Authority, BindError, DhcpCounters, DhcpServer, LeaseError, NetbootAnswer, Network};
use regild::ndp::{RecentMacs, RouterAnswers};
use tokio::sync::watch;

pub use crate::cable::{CLIENT_LINK, SERVER_IP, ip};
use crate::cable::{Cable, SERVER_LINK, enter, inside};

pub const RESERVED_MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x77]);
pub const RESERVED_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);

pub struct Lab {
    cable: Cable,
}

impl Deref for Lab {
    type Target = Cable;

    fn deref(&self) -> &Cable {
        &self.cable
    }
}

impl Lab {
    pub fn new() -> Lab {
        Lab { cable: Cable::new() }
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
        inside(&self.server, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { DhcpServer::bind(network(), 0) }).map(drop)
        })
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
