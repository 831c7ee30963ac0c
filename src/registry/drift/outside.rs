//! A host that netboots anyway is looked at from outside when its policy says that it is time (`verify_every`).

use crate::decide::brakes;
use crate::decide::host::{Event, Host};
use crate::decide::netboot::NetbootClient;
use crate::decide::span::span;
use crate::registry::View;
use crate::registry::writer::{Batch, Writer};

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
    ) {
        let comes = matches!(client, NetbootClient::Ipxe { .. } | NetbootClient::Firmware { .. });
        let Some(host) = self.hosts.get(id).map(|view| &view.host).filter(|_| comes) else { return };
        let every = self.drift_rules(host, now).pace.verify_every_seconds;
        let group = self.brakes.fleet.group(&host.group);
        let is_denied = brakes::allowed(host, &group, &self.brakes.fleet.policy).is_err();
        // At one of its next boots, then: a wish that waits for the others would end with its day as one that failed.
        let may = host.is_verify_due(every, now) && !is_denied && self.stop.pressed().is_none();
        if !may || self.is_look_too_many(host, now) {
            return;
        }
        let reason = format!("not looked at from outside for {}", span(every.unwrap_or_default()));
        let event = Event::AskVerify { by: "policy".to_string(), reason, power: false };
        // A look that cannot be asked for is asked for at the next boot: this one gets its answer.
        if let Err(error) = self.host_event(id, &event, None, batch, now) {
            tracing::warn!(host = id, %error, "no look from outside could be asked for");
        }
    }
}
