//! Orders of hosts whose record was removed: the hourly caps count them on. Otherwise removing a host and approving it
//! again would be a way round every cap.
//!
//! What is left of such a host is a record without name, order and state that counts for anything, under
//! `gone/<id>/<its last order>`, until the hour is over.

use super::fleet::untrusted;
use super::stored;
use super::writer::{Batch, Writer};
use crate::db::DbError;
use crate::decide::host::Host;
use std::collections::BTreeMap;

const PREFIX: &str = "gone/";
const HOUR_SECONDS: u64 = 3600;

/// What is left, by its key.
pub(super) type Gone = BTreeMap<String, Host>;

impl Writer {
    /// Keeps the times of a removed host's orders.
    pub(super) fn keep_orders_of(&mut self, host: &Host, batch: &mut Batch) {
        let (Some(last), Some(mac)) = (host.ordered_at.iter().max(), host.macs.first()) else { return };
        let key = format!("{PREFIX}{}/{last}", host.id);
        // Another id: a new record of the same machine counts beside it.
        let blank = Host::discovered(*mac, &host.group, host.since);
        let (labels, ordered_at) = (host.labels.clone(), host.ordered_at.clone());
        let left = Host { id: key.clone(), labels, ordered_at, ..blank };
        // A record without inventory, of bounded texts: serialising it cannot fail.
        batch.put(key.clone(), stored::encode(&left, None).ok());
        self.brakes.usage.count(&left);
        self.gone.insert(key, left);
    }

    pub(super) fn load_gone(&mut self) -> Result<(), DbError> {
        for item in self.db.scan(PREFIX)? {
            let (left, _) = stored::decode(&item.value).map_err(|error| untrusted(&item, &error.to_string()))?;
            self.brakes.usage.count(&left);
            self.gone.insert(item.key, left);
        }
        Ok(())
    }

    /// Forgets those whose hour is over.
    pub(super) fn forget_gone(&mut self, batch: &mut Batch, now: u64) {
        let is_over = |host: &Host| host.ordered_at.iter().all(|at| at + HOUR_SECONDS <= now);
        let over: Vec<String> =
            self.gone.iter().filter(|(_, left)| is_over(left)).map(|(key, _)| key.clone()).collect();
        for key in over {
            if let Some(left) = self.gone.remove(&key) {
                self.brakes.usage.discount(&left);
            }
            batch.put(key, None);
        }
    }
}
