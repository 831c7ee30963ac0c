//! The loop of one network: receive, ask, reply. It ends by shutdown only.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::codec::{PACKET_BYTES_MAX, Request};
use super::counters::{DhcpCounters, add};
use super::deliver::{Sent, Wire, destination};
use super::reply::{Reply, encode};
use super::{Authority, NetbootAnswer, Network};
use crate::clock;
use crate::decide::lease::LeaseAnswer;
use crate::decide::netboot::NetbootClient;

/// Packets that wait for the registry or the wire at once, for one network. At 4 KiB each this is 4 MiB; what
/// comes on top is dropped, and the client asks again in a few seconds as it does after any loss.
const IN_WORK_MAX: u32 = 1024;
/// Log lines of one network in one second; a flood must not fill the disk.
const LOG_LINES_PER_SECOND: u32 = 50;
/// After an error of the socket itself (the interface went away), before trying again.
const RECEIVE_ERROR_PAUSE: Duration = Duration::from_millis(200);

/// Why DHCP cannot be served on an interface.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A misspelt or missing interface.
    #[error("there is no interface {interface}; `ip link` lists what there is")]
    NoInterface {
        /// As configured.
        interface: String,
    },
    /// Another DHCP server.
    #[error("port 67 on {interface} is taken by another DHCP server on this machine; stop it (`ss -ulpn sport = :67`)")]
    PortTaken {
        /// As configured.
        interface: String,
    },
    /// Not root.
    #[error(
        "no permission for port 67 on {interface}: run as root, or with CAP_NET_BIND_SERVICE, CAP_NET_RAW and CAP_NET_ADMIN"
    )]
    NotAllowed {
        /// As configured.
        interface: String,
    },
    /// Anything else.
    #[error("cannot open port 67 on {interface}")]
    Socket {
        /// As configured.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
}

/// DHCP for one network, its socket already open.
#[derive(Debug)]
pub struct DhcpServer {
    wire: Wire,
    network: Network,
    place: usize,
}

impl DhcpServer {
    /// Opens port 67 on the network's interface; `place` is the network's number for the [`Authority`].
    /// Must be called inside a tokio runtime. The network must have been checked.
    ///
    /// # Errors
    /// Why it cannot be opened, and what to do.
    pub fn bind(network: Network, place: usize) -> Result<DhcpServer, BindError> {
        let wire = Wire::bind(&network)?;
        Ok(DhcpServer { wire, network, place })
    }

    /// Serves until `shutdown` becomes true or its sender goes; then lets what is in work finish (at most a second).
    pub async fn run<A: Authority>(
        self,
        authority: Arc<A>,
        counters: Arc<DhcpCounters>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let in_work = Arc::new(Semaphore::new(IN_WORK_MAX as usize));
        let shared = Arc::new(Shared { server: self, authority, counters, log: LogGate::default() });
        let receiving = receive_loop(&shared, &in_work);
        tokio::select! {
            () = receiving => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
        // An error is a timeout: those packets are lost, as packets are.
        let _ = tokio::time::timeout(Duration::from_secs(1), in_work.acquire_many(IN_WORK_MAX)).await;
    }
}

struct Shared<A> {
    server: DhcpServer,
    authority: Arc<A>,
    counters: Arc<DhcpCounters>,
    log: LogGate,
}

async fn receive_loop<A: Authority>(shared: &Arc<Shared<A>>, in_work: &Arc<Semaphore>) {
    // One byte more than a packet may have, so that a longer one is seen to be longer.
    let mut buffer = vec![0; PACKET_BYTES_MAX + 1];
    loop {
        match shared.server.wire.receive(&mut buffer).await {
            Ok(length) => {
                add(&shared.counters.received);
                let Ok(permit) = Arc::clone(in_work).try_acquire_owned() else {
                    add(&shared.counters.overloaded);
                    continue;
                };
                let packet = buffer[..length].to_vec();
                // A task of its own: the next packet does not wait for the disk, and a panic stays inside.
                tokio::spawn(handle(Arc::clone(shared), packet, permit));
                // Without this the loop, as long as it finds packets, starves those that it has read: of 2,500 at
                // once it dropped 102 as overloaded with nothing to wait for.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                if shared.log.may_log() {
                    let interface = &shared.server.network.interface;
                    tracing::warn!(%interface, %error, "cannot receive DHCP; trying again");
                }
                tokio::time::sleep(RECEIVE_ERROR_PAUSE).await;
            }
        }
    }
}

/// One packet, from bytes to reply. The permit is given back when it is done.
async fn handle<A: Authority>(shared: Arc<Shared<A>>, packet: Vec<u8>, _permit: OwnedSemaphorePermit) {
    let interface = shared.server.network.interface.as_str();
    let request = match Request::decode(&packet) {
        Ok(request) => request,
        Err(why) => {
            shared.counters.count_malformed(why);
            if shared.log.may_log() {
                tracing::debug!(%interface, "dropped a DHCP packet {why}");
            }
            return;
        }
    };
    let mac = request.mac;
    let answer = match shared.authority.lease(shared.server.place, request.lease_request()).await {
        Ok(answer) => answer,
        Err(error) => {
            add(&shared.counters.lease_errors);
            if shared.log.may_log() {
                tracing::error!(%interface, %mac, %error, "no answer to DHCP");
            }
            return;
        }
    };
    shared.counters.count_answer(&answer);
    log_answer(&shared, &request, &answer);
    let Some((mut reply, yiaddr)) = Reply::to(&answer, &shared.server.network) else {
        return;
    };
    reply.set_host_name(shared.authority.host_name(mac));
    if let Some(place) = reply.boot_file_mut() {
        *place = boot_file(&shared, &request).await;
    }
    let bytes = match encode(&shared.server.network, &request, &reply) {
        Ok(bytes) => bytes,
        Err(error) => {
            add(&shared.counters.send_errors);
            tracing::error!(%interface, %mac, %error, "cannot encode a DHCP reply");
            return;
        }
    };
    match shared.server.wire.send(destination(&request, yiaddr), mac, &bytes).await {
        Ok(Sent::AsChosen) => {}
        Ok(Sent::FellBackToBroadcast) => add(&shared.counters.broadcast_fallbacks),
        Err(error) => {
            add(&shared.counters.send_errors);
            if shared.log.may_log() {
                tracing::warn!(%interface, %mac, %error, "cannot send a DHCP reply");
            }
        }
    }
}

async fn boot_file<A: Authority>(shared: &Shared<A>, request: &Request) -> Option<String> {
    let client = request.netboot_client();
    if client == NetbootClient::NotNetboot {
        return None;
    }
    match shared.authority.netboot(shared.server.place, request.mac, client).await {
        NetbootAnswer::BootFile { name } => {
            add(&shared.counters.boot_files);
            Some(name)
        }
        NetbootAnswer::Silent { reason } => {
            if shared.log.may_log() {
                tracing::info!(mac = %request.mac, ?client, %reason, "no boot file");
            }
            None
        }
    }
}

fn log_answer<A>(shared: &Shared<A>, request: &Request, answer: &LeaseAnswer) {
    if !shared.log.may_log() {
        return;
    }
    let (mac, kind) = (request.mac, request.kind);
    if request.hostname.is_some() && request.lease_request().hostname.is_none() {
        let name = request.hostname.as_deref().unwrap_or_default().escape_ascii();
        tracing::debug!(%mac, "ignoring the host name \"{name}\"");
    }
    match answer {
        LeaseAnswer::Offer { ip, .. } => tracing::debug!(%mac, %ip, "offered"),
        LeaseAnswer::Ack { lease, .. } => tracing::info!(%mac, ip = %lease.ip, "leased"),
        LeaseAnswer::Nak { reason } => tracing::info!(%mac, ?kind, "refused: {reason}"),
        LeaseAnswer::Release { lease } => tracing::info!(%mac, ip = %lease.ip, "released"),
        LeaseAnswer::Decline { lease, quarantine_full } => {
            tracing::warn!(%mac, ip = %lease.ip, quarantine_full, "declined: something else uses this address");
        }
        LeaseAnswer::Inform { ip } => tracing::debug!(%mac, %ip, "informed"),
        LeaseAnswer::Silent { reason } => tracing::debug!(%mac, ?kind, "no answer: {reason}"),
    }
}

/// Lets so many lines a second through.
#[derive(Debug, Default)]
struct LogGate {
    second: Mutex<Option<(Instant, u32)>>,
}

impl LogGate {
    fn may_log(&self) -> bool {
        let now = clock::instant();
        // Two numbers that are always valid: a panic elsewhere cannot have spoilt them.
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        match second.as_mut() {
            Some((since, lines)) if now.duration_since(*since) < Duration::from_secs(1) => {
                *lines += 1;
                *lines <= LOG_LINES_PER_SECOND
            }
            _ => {
                *second = Some((now, 1));
                true
            }
        }
    }
}
