//! Host records as a starting server finds them.

use super::fleet::parse;
use super::inventory::Packed;
use super::stored;
use super::view::HostView;
use crate::db::{Db, DbError, Item};
use crate::power::Settings;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const HOSTS: &str = "host/";
pub(super) const POWER: &str = "power/";

/// All records, by id. One after another: what they take in the store is several times what is kept of them.
pub(super) fn records(db: &dyn Db, state_dir: &Path) -> Result<Vec<Arc<HostView>>, DbError> {
    let mut power: BTreeMap<String, Arc<Settings>> = BTreeMap::new();
    db.each(POWER, &mut |item| {
        power.insert(item.key[POWER.len()..].to_string(), parse(&item).map(Arc::new)?);
        Ok(())
    })?;
    let mut records = Vec::new();
    db.each(HOSTS, &mut |item: Item| {
        let unreadable = |error: stored::StoredError| DbError::Untrusted {
            dir: state_dir.join("store"),
            reason: format!("record {} is not understood: {error}", item.key),
        };
        let (host, inventory) = stored::decode(&item.value).map_err(unreadable)?;
        let inventory = inventory.as_ref().map(Packed::of);
        let power = power.remove(&host.id);
        records.push(Arc::new(HostView { host, inventory, waits: None, power }));
        Ok(())
    })?;
    Ok(records)
}
