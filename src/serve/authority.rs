//! What DHCP asks: leases from the registry, boot files from the one boot decision.

use crate::clock;
use crate::decide::boot::{BootDecision, IgnoreReason};
use crate::decide::lease::{LeaseAnswer, LeaseRequest, hostname};
use crate::decide::mac::Mac;
use crate::decide::netboot::{FirmwareArch, NetbootClient};
use crate::dhcp::{Authority, LeaseError, NetbootAnswer};
use crate::http::Shared;
use crate::ndp::RecentMacs;
use std::sync::Arc;

/// The registry and the boot decision, in the words of a DHCP answer.
#[derive(Debug)]
pub struct Deciding {
    shared: Arc<Shared>,
    /// Those that asked as iPXE.
    ipxe: Arc<RecentMacs>,
}

impl Deciding {
    pub fn new(shared: Arc<Shared>, ipxe: Arc<RecentMacs>) -> Deciding {
        Deciding { shared, ipxe }
    }

    /// The boot file for a decision. iPXE is always sent to its script: the script is the decision.
    fn boot_file(&self, network: usize, mac: Mac, client: NetbootClient, decision: &BootDecision) -> NetbootAnswer {
        let file = |name: &str| NetbootAnswer::BootFile { name: name.to_string() };
        let silent = |reason: &str| NetbootAnswer::Silent { reason: reason.to_string() };
        match (decision, client) {
            (BootDecision::Ignore { reason: IgnoreReason::NotNetboot }, _) => silent("asks for an address only"),
            (BootDecision::Ignore { reason }, _) => silent(&format!("no boot file: {reason:?}")),
            (_, NetbootClient::Ipxe { uefi }) => {
                let server = self.shared.config.networks[network].server_ip;
                let port = self.shared.config.http.port;
                let firmware = if uefi { "uefi" } else { "bios" };
                let mac = mac.to_string().replace(':', "-");
                file(&format!("http://{server}:{port}/boot/{mac}/{firmware}"))
            }
            (BootDecision::Chainload { arch: FirmwareArch::Bios }, _) => file("undionly.kpxe"),
            (BootDecision::Chainload { arch: FirmwareArch::UefiX64 }, _) => file("ipxe.efi"),
            // UEFI tries every network entry for minutes when it gets no boot file: it needs a program that
            // starts the disk's loader (design.md section 9).
            (BootDecision::BootLocal { .. }, NetbootClient::Firmware { arch: FirmwareArch::UefiX64 }) => {
                file("local-boot.efi")
            }
            // A BIOS ROM without a boot file gives up at once, and the BIOS goes on to the disk.
            (BootDecision::BootLocal { reason }, _) => silent(reason.sentence()),
            (BootDecision::BootAgent { .. } | BootDecision::BootVerify { .. }, _) => {
                silent("only iPXE boots the agent")
            }
        }
    }
}

impl Authority for Deciding {
    async fn lease(&self, network: usize, request: LeaseRequest) -> Result<LeaseAnswer, LeaseError> {
        self.shared
            .registry
            .lease(network, request)
            .await
            .map_err(|error| LeaseError::NotStored { reason: error.to_string() })
    }

    fn host_name(&self, mac: Mac) -> Option<String> {
        let recorded = self.shared.registry.read(|view| view.by_mac(mac)).and_then(|view| view.host.name.clone());
        // A machine that has no record yet may have a name in the configuration.
        let name = recorded.or_else(|| self.shared.config.names.get(&mac).cloned())?;
        // What follows the first dot is the domain's.
        hostname(name.split('.').next()?.as_bytes())
    }

    async fn netboot(&self, network: usize, mac: Mac, client: NetbootClient) -> NetbootAnswer {
        if matches!(client, NetbootClient::Ipxe { .. }) {
            self.ipxe.note(mac, clock::instant());
        }
        match self.shared.registry.netboot(mac, client).await {
            Ok(decision) => {
                let answer = self.boot_file(network, mac, client, &decision);
                if client != NetbootClient::NotNetboot {
                    tracing::debug!(%mac, ?client, ?decision, ?answer, "netboot client answered");
                }
                answer
            }
            Err(error) => {
                tracing::error!(%mac, %error, "no decision could be made; local boot");
                let reason = crate::decide::boot::LocalReason::NoOpenOrder;
                self.boot_file(network, mac, client, &BootDecision::BootLocal { reason })
            }
        }
    }
}
