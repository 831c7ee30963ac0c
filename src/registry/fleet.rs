//! What fleet documents set: groups, policy, what hosts belong to, reservations. The one place where `regild apply`
//! becomes state. Nothing in here opens an order.

use super::admission::Fleet;
use super::load::POWER;
use super::writer::{Batch, Writer};
use super::{HostView, RegistryError};
use crate::config::fleet::diff::Write;
use crate::config::fleet::drift::{self, Drift};
use crate::config::fleet::{HostEntry, check, file};
use crate::db::{DbError, Item};
use crate::decide::brakes::Policy;
use crate::decide::host::{Declared, Event, Host, ImageChoice};
use crate::decide::mac::Mac;
use crate::decide::version::Stage;
use crate::power::Settings;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

const GROUPS: &str = "group/";
const DRIFT: &str = "drift/policy/";
const POLICY_KEY: &str = "fleet/policy";
const RESERVATIONS: &str = "reservation/";

/// The contents of the images that an apply names, found before it: the writer knows no image store.
pub type Images = BTreeMap<String, ImageChoice>;

impl Writer {
    pub(super) fn load_fleet(&mut self, own_macs: &BTreeSet<Mac>) -> Result<(), DbError> {
        let mut fleet = Fleet::default();
        for item in self.db.scan(GROUPS)? {
            let name = item.key.strip_prefix(GROUPS).unwrap_or_default().to_string();
            let group =
                check::group(&name, parse(&item)?).map_err(|(key, why)| untrusted(&item, &format!("{key}: {why}")))?;
            fleet.groups.insert(name, group);
        }
        for item in self.db.scan(DRIFT)? {
            let name = item.key.strip_prefix(DRIFT).unwrap_or_default().to_string();
            let policy = drift::check(&name, parse::<Drift>(&item)?)
                .map_err(|(key, why)| untrusted(&item, &format!("{key}: {why}")))?;
            Arc::make_mut(&mut fleet.drift).insert(name, policy);
        }
        if let Some(item) = self.db.get(POLICY_KEY)? {
            fleet.policy =
                check::policy(parse(&item)?).map_err(|(key, why)| untrusted(&item, &format!("{key}: {why}")))?;
        }
        self.own_macs.clone_from(own_macs);
        fleet.policy.denied.extend(own_macs);
        self.brakes.fleet = Arc::new(fleet);
        for item in self.db.scan(RESERVATIONS)? {
            let mac: Mac = item.key[RESERVATIONS.len()..].parse().map_err(|_| untrusted(&item, "it names no MAC"))?;
            self.reservations.insert(mac, parse(&item)?);
        }
        self.leases.reserve(&self.reservations);
        Ok(())
    }

    /// All of it or nothing.
    pub(super) fn apply_fleet(
        &mut self,
        writes: Vec<Write>,
        images: &Images,
        by: &str,
        batch: &mut Batch,
        now: u64,
    ) -> Result<(), RegistryError> {
        for write in &writes {
            self.check_write(write, images)?;
        }
        for write in writes {
            self.write(write, images, by, batch, now)?;
        }
        // They were judged by the documents as they were: automatic causes wait until the next tick has judged anew.
        self.brakes.schedule.clear();
        self.drift.all_due(now);
        Ok(())
    }

    /// The fleet may have moved since the diff was made.
    fn check_write(&self, write: &Write, images: &Images) -> Result<(), RegistryError> {
        let known = |id: &String| self.hosts.get(id).ok_or_else(|| RegistryError::UnknownHost(id.clone()));
        match write {
            Write::Host { id, new, entry } => {
                if new.is_none() {
                    known(id)?;
                }
                match entry.image.as_ref().map(ToString::to_string) {
                    Some(image) if !images.contains_key(&image) => Err(RegistryError::UnknownImage(image)),
                    // Its data may be on its way out; a host that has it already is one of those it waits for.
                    Some(image) if self.images.stage(&image) == Stage::Retired && !self.has(id, &image) => {
                        Err(RegistryError::ImageRefused(self.images.refused(&image).unwrap_or_default()))
                    }
                    _ => Ok(()),
                }
            }
            Write::RemoveHost(id) => match &known(id)?.host.order {
                Some(order) => {
                    let open = crate::decide::host::Refusal::OrderOpen { generation: order.generation };
                    Err(RegistryError::Refused(open))
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn has(&self, id: &str, image: &str) -> bool {
        let desired = self.hosts.get(id).and_then(|view| view.host.desired.as_ref());
        desired.is_some_and(|desired| desired.name == image)
    }

    fn write(
        &mut self,
        write: Write,
        images: &Images,
        by: &str,
        batch: &mut Batch,
        now: u64,
    ) -> Result<(), RegistryError> {
        match write {
            Write::Group(group) => {
                batch.put(format!("{GROUPS}{}", group.name), json(&file::Group::from(&*group)));
                Arc::make_mut(&mut self.brakes.fleet).groups.insert(group.name.clone(), *group);
            }
            Write::RemoveGroup(name) => {
                batch.put(format!("{GROUPS}{name}"), None);
                Arc::make_mut(&mut self.brakes.fleet).groups.remove(&name);
            }
            Write::Policy(policy) => {
                batch.put(POLICY_KEY.to_string(), json(&file::Policy::from(&policy)));
                // The server's own MACs are on the deny list whatever a document says.
                let denied = policy.denied.union(&self.own_macs).copied().collect();
                Arc::make_mut(&mut self.brakes.fleet).policy = Policy { denied, ..policy };
            }
            Write::Drift(policy) => {
                batch.put(format!("{DRIFT}{}", policy.name), json(&Drift::from(&*policy)));
                let fleet = Arc::make_mut(&mut self.brakes.fleet);
                Arc::make_mut(&mut fleet.drift).insert(policy.name.clone(), *policy);
            }
            Write::RemoveDrift(name) => {
                batch.put(format!("{DRIFT}{name}"), None);
                let fleet = Arc::make_mut(&mut self.brakes.fleet);
                Arc::make_mut(&mut fleet.drift).remove(&name);
            }
            Write::Reservation { mac, address } => {
                batch.put(format!("{RESERVATIONS}{mac}"), json(&address));
                self.reservations.insert(mac, address);
                self.leases.reserve(&self.reservations);
            }
            Write::RemoveReservation(mac) => {
                batch.put(format!("{RESERVATIONS}{mac}"), None);
                self.reservations.remove(&mac);
                self.leases.reserve(&self.reservations);
            }
            Write::RemoveHost(id) => {
                self.forget(&id, by, batch, now)?;
            }
            Write::Host { id, new, entry } => self.write_host(&id, new, entry, images, by, batch, now)?,
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // one call, from right above
    fn write_host(
        &mut self,
        id: &str,
        new: Option<Mac>,
        entry: HostEntry,
        images: &Images,
        by: &str,
        batch: &mut Batch,
        now: u64,
    ) -> Result<(), RegistryError> {
        if let (Some(mac), false) = (new, self.hosts.contains_key(id)) {
            let mut host = Host::discovered(mac, crate::config::DEFAULT_GROUP, now);
            host.history_length = self.history_length(id, batch)?;
            self.replace(HostView { host, inventory: None, waits: None, power: None }, &[], batch, now)?;
        }
        let image = entry.image.and_then(|image| images.get(&image.to_string()).cloned());
        let HostEntry { name, group, labels, drift, .. } = entry;
        let declared = Declared { name, group, labels, image, drift };
        self.apply(id, &Event::Declared { declared, by: by.to_string() }, None, batch, now)?;
        Ok(())
    }

    /// How a host's power is reached; passwords in it are sealed.
    pub(super) fn set_power(&mut self, name: &str, settings: Settings, batch: &mut Batch) -> Result<(), RegistryError> {
        let id = self.id_of(name)?;
        batch.put(format!("{POWER}{id}"), json(&settings));
        if let Some(view) = self.hosts.get_mut(&id) {
            Arc::make_mut(view).power = Some(Arc::new(settings));
            batch.hosts.push(id);
        }
        Ok(())
    }
}

/// Addresses, numbers and words: serialising them cannot fail.
fn json(value: &impl serde::Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(value).ok()
}

pub(super) fn parse<T: DeserializeOwned>(item: &Item) -> Result<T, DbError> {
    serde_json::from_slice(&item.value).map_err(|error| untrusted(item, &error.to_string()))
}

/// A limit that is not understood must not become "no limit": the server does not start.
pub(super) fn untrusted(item: &Item, why: &str) -> DbError {
    DbError::Untrusted { dir: PathBuf::from("store"), reason: format!("record {} is not understood: {why}", item.key) }
}

/// Reservations of the documents, by MAC.
pub(super) type Reservations = BTreeMap<Mac, Ipv4Addr>;
