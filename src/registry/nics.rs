//! Whose NIC a MAC is, when a machine's inventory names one that another record has.
//!
//! A server with two NICs netboots by each of them until it is approved, and is then two Discovered records. Its
//! inventory shows that they are one machine: the record that nobody approved is merged into the approved one.
//! An approved record keeps its MACs whatever an inventory says: an agent must not take another host over.

use super::RegistryError;
use super::writer::{Batch, Writer};
use crate::decide::host::{Entry, Event, State};
use crate::decide::mac::Mac;

impl Writer {
    /// The check-in without MACs that belong to approved hosts, and the Discovered records that it absorbs.
    pub(super) fn own_nics(&self, id: &str, event: &Event) -> (Event, Vec<String>) {
        let mut event = event.clone();
        let mut absorbed = Vec::new();
        if let Event::CheckedIn { identity, .. } = &mut event {
            // Without a system UUID nothing would tell the machine that has such a NIC from this one, and it would be
            // written under this host's order.
            let (own, has_uuid) = (&self.hosts[id].host.macs, identity.system_uuid.is_some());
            identity.macs.retain(|mac| own.contains(mac) || has_uuid);
            identity.macs.retain(|mac| match self.holder_of(*mac) {
                Some(other) if other != id => {
                    let is_free = self.hosts[other].host.state == State::Discovered;
                    if is_free && !absorbed.iter().any(|known| known == other) {
                        absorbed.push(other.to_string());
                    } else if !is_free {
                        tracing::warn!(host = id, %mac, other, "an inventory names a NIC of another approved host; left with that host");
                    }
                    is_free
                }
                _ => true,
            });
        }
        (event, absorbed)
    }

    /// Removes the absorbed records and gives their MACs to the host that they are part of.
    pub(super) fn absorb(
        &mut self,
        id: &str,
        absorbed: &[String],
        batch: &mut Batch,
        now: u64,
    ) -> Result<(), RegistryError> {
        for other in absorbed {
            self.forget(other, "machine", batch, now)?;
        }
        for mac in self.hosts[id].host.macs.clone() {
            self.by_mac.entry(mac).or_insert_with(|| id.to_string());
        }
        Ok(())
    }

    fn holder_of(&self, mac: Mac) -> Option<&str> {
        self.by_mac.get(&mac).map(String::as_str)
    }
}

/// What the history of the host says of the records that it absorbs.
pub(super) fn merged(absorbed: &[String], state: &State) -> Vec<Entry> {
    let line = |other: &String| Entry {
        from: state.clone(),
        to: state.clone(),
        cause: format!("{other} is a NIC of this machine: that record, which nobody approved, is merged"),
        actor: "machine".to_string(),
    };
    absorbed.iter().map(line).collect()
}
