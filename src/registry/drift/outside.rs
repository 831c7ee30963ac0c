//! A host that netboots anyway is looked at from outside when its policy says that it is time (`verify_every`).

use crate::decide::host::{Event, Host};
use crate::decide::netboot::NetbootClient;
use crate::decide::span::span;
use crate::registry::writer::{Batch, Writer};
use crate::registry::{RegistryError, View};

impl View {
    /// Whether this boot is one by which the host is looked at.
    #[must_use]
    pub(in crate::registry) fn is_verify_due(&self, host: &Host, now: u64) -> bool {
        host.is_verify_due(self.drift_rules(host, now).pace.verify_every_seconds, now)
    }
}

impl Writer {
    /// Asks for the look, where it is due and nothing is stopped: the boot that is being answered serves it.
    pub(in crate::registry) fn ask_due_verification(
        &mut self,
        id: &str,
        client: NetbootClient,
        batch: &mut Batch,
        now: u64,
    ) -> Result<(), RegistryError> {
        let comes = matches!(client, NetbootClient::Ipxe { .. } | NetbootClient::Firmware { .. });
        let Some(host) = self.hosts.get(id).map(|view| &view.host).filter(|_| comes) else { return Ok(()) };
        let every = self.drift_rules(host, now).pace.verify_every_seconds;
        if !host.is_verify_due(every, now) || self.stop.pressed().is_some() {
            return Ok(());
        }
        let reason = format!("not looked at from outside for {}", span(every.unwrap_or_default()));
        let event = Event::AskVerify { by: "policy".to_string(), reason, power: false };
        self.host_event(id, &event, None, batch, now).map(drop)
    }
}
