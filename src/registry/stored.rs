//! How host records and history lie in the store (JSON, so that a person can read a dump).
//!
//! `decide` keeps its own types free of serde; these copies are the only place where the stored form is
//! defined, so it cannot change by accident.

use super::stored_verify::StoredVerification;
use crate::decide::cause::{Cause, CauseKind};
use crate::decide::host::{Claim, DiskId, Host, ImageChoice, Order, State, Step, Verification};
use crate::decide::labels::Labels;
use crate::decide::stable_hash::stable_hash;
use crate::wire;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A host record with the last inventory beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredHost {
    id: String,
    macs: Vec<String>,
    name: Option<String>,
    group: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drift: Option<Box<str>>,
    system_uuid: Option<String>,
    serial: Option<String>,
    state: StoredState,
    since: u64,
    desired: Option<StoredImage>,
    reported: Option<StoredImage>,
    generation: u64,
    reported_generation: u64,
    #[serde(default)]
    built_at: u64,
    order: Option<StoredOrder>,
    /// Records from before there were verifications have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verify: Option<StoredVerification>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    asks: Vec<StoredCause>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ordered_at: Vec<u64>,
    #[serde(default)]
    drift_asked_at: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    request_keys: Vec<u64>,
    /// Of records from before `request_keys`; read, not written.
    #[serde(default, skip_serializing)]
    last_key: Option<String>,
    own_disk: Option<wire::agent::DiskId>,
    history_length: u64,
    inventory: Option<wire::agent::Inventory>,
}

/// An image as stored, wherever a record names one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredImage {
    name: String,
    manifest: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredOrder {
    generation: u64,
    image: StoredImage,
    causes: Vec<StoredCause>,
    opened_at: u64,
    attempts: u32,
    foreign_released: bool,
    power_cycles: u32,
    powered_at: Option<u64>,
    #[serde(default)]
    from_ready: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocked: Option<String>,
    token_digest: Option<String>,
    session_digest: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredCause {
    kind: String,
    /// Of a rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    reason: String,
    by: String,
    at: u64,
    image: Option<StoredImage>,
    releases_disk: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "word")]
enum StoredState {
    Discovered,
    Enrolled,
    Queued,
    Netbooting,
    Deploying { step: String },
    Verifying,
    Rebooting,
    Ready { confirmed: bool },
    Failed { step: String, attempts: u32, reason: String },
    Held { by: String, reason: String, until: Option<u64> },
}

/// Why a stored record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    #[error("it is not the JSON of a host record")]
    Json(#[from] serde_json::Error),
    #[error("{0:?} is no step")]
    Step(String),
    #[error("{0:?} is no cause")]
    Cause(String),
    #[error(transparent)]
    Label(#[from] crate::decide::labels::LabelError),
    #[error(transparent)]
    Mac(#[from] crate::decide::mac::MacParseError),
}

/// Encodes a record for the store.
///
/// # Errors
/// Only when serde fails, which these types give it no reason to.
pub fn encode(host: &Host, inventory: Option<&wire::agent::Inventory>) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&StoredHost {
        id: host.id.clone(),
        macs: host.macs.iter().map(ToString::to_string).collect(),
        name: host.name.clone(),
        group: host.group.clone(),
        labels: host.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        drift: host.drift.clone(),
        system_uuid: host.system_uuid.clone(),
        serial: host.serial.clone(),
        state: store_state(&host.state),
        since: host.since,
        desired: host.desired.as_ref().map(store_image),
        reported: host.reported.as_ref().map(store_image),
        generation: host.generation,
        reported_generation: host.reported_generation,
        built_at: host.built_at,
        order: host.order.as_ref().map(store_order),
        verify: (host.verify != Verification::default()).then(|| (&host.verify).into()),
        asks: host.asks.iter().map(store_cause).collect(),
        ordered_at: host.ordered_at.clone(),
        drift_asked_at: host.drift_asked_at,
        request_keys: host.request_keys.clone(),
        last_key: None,
        own_disk: host.own_disk.clone().map(Into::into),
        history_length: host.history_length,
        inventory: inventory.cloned(),
    })
}

/// Reads a record back.
///
/// # Errors
/// [`StoredError`] names what is not as this version writes it.
pub fn decode(raw: &[u8]) -> Result<(Host, Option<wire::agent::Inventory>), StoredError> {
    let stored: StoredHost = serde_json::from_slice(raw)?;
    let mut labels = Labels::default();
    for (key, value) in &stored.labels {
        labels.set(key, value)?;
    }
    let last_key = stored.last_key.iter().map(|key| stable_hash(&[key.as_str()]));
    let host = Host {
        labels,
        built_at: stored.built_at,
        asks: stored.asks.into_iter().map(load_cause).collect::<Result<_, _>>()?,
        ordered_at: stored.ordered_at,
        drift_asked_at: stored.drift_asked_at,
        request_keys: last_key.chain(stored.request_keys).collect(),
        macs: stored.macs.iter().map(|mac| mac.parse()).collect::<Result<_, _>>()?,
        state: load_state(stored.state)?,
        desired: stored.desired.map(load_image),
        reported: stored.reported.map(load_image),
        order: stored.order.map(load_order).transpose()?,
        verify: stored.verify.map(Into::into).unwrap_or_default(),
        own_disk: stored.own_disk.map(Into::into),
        id: stored.id,
        name: stored.name,
        group: stored.group,
        drift: stored.drift,
        system_uuid: stored.system_uuid,
        serial: stored.serial,
        since: stored.since,
        generation: stored.generation,
        reported_generation: stored.reported_generation,
        history_length: stored.history_length,
    };
    Ok((host, stored.inventory))
}

pub(super) fn store_image(image: &ImageChoice) -> StoredImage {
    StoredImage { name: image.name.clone(), manifest: image.manifest.clone() }
}

pub(super) fn load_image(stored: StoredImage) -> ImageChoice {
    ImageChoice { name: stored.name, manifest: stored.manifest }
}

fn store_order(order: &Order) -> StoredOrder {
    StoredOrder {
        generation: order.generation,
        causes: order.causes.iter().map(store_cause).collect(),
        image: store_image(&order.image),
        power_cycles: order.power_cycles,
        powered_at: order.powered_at,
        from_ready: order.from_ready,
        blocked: order.blocked.clone(),
        opened_at: order.opened_at,
        attempts: order.attempts,
        foreign_released: order.foreign_released,
        token_digest: order.claim.as_ref().map(|claim| claim.token_digest.clone()),
        session_digest: order.claim.as_ref().and_then(|claim| claim.session_digest.clone()),
    }
}

fn load_order(stored: StoredOrder) -> Result<Order, StoredError> {
    let session_digest = stored.session_digest;
    Ok(Order {
        generation: stored.generation,
        causes: stored.causes.into_iter().map(load_cause).collect::<Result<_, _>>()?,
        image: load_image(stored.image),
        power_cycles: stored.power_cycles,
        powered_at: stored.powered_at,
        from_ready: stored.from_ready,
        blocked: stored.blocked,
        opened_at: stored.opened_at,
        attempts: stored.attempts,
        foreign_released: stored.foreign_released,
        claim: stored.token_digest.map(|token_digest| Claim { token_digest, session_digest }),
    })
}

fn store_cause(cause: &Cause) -> StoredCause {
    let number = if let CauseKind::Rollout { number } = cause.kind { Some(number) } else { None };
    StoredCause {
        kind: cause.kind.word().to_string(),
        number,
        reason: cause.reason.clone(),
        by: cause.by.clone(),
        at: cause.at,
        image: cause.image.as_ref().map(store_image),
        releases_disk: cause.releases_disk,
        key: cause.key.clone(),
    }
}

fn load_cause(stored: StoredCause) -> Result<Cause, StoredError> {
    let kinds = [
        CauseKind::Operator,
        CauseKind::Rollout { number: stored.number.unwrap_or_default() },
        CauseKind::Schedule,
        CauseKind::MaxAge,
        CauseKind::Drift,
        CauseKind::Channel,
        CauseKind::ImageDeprecated,
        CauseKind::ImageBlocked,
    ];
    let kind = kinds.into_iter().find(|kind| kind.word() == stored.kind);
    Ok(Cause {
        kind: kind.ok_or(StoredError::Cause(stored.kind))?,
        reason: stored.reason,
        by: stored.by,
        at: stored.at,
        image: stored.image.map(load_image),
        releases_disk: stored.releases_disk,
        key: stored.key,
    })
}

fn store_state(state: &State) -> StoredState {
    match state.clone() {
        State::Discovered => StoredState::Discovered,
        State::Enrolled => StoredState::Enrolled,
        State::Queued => StoredState::Queued,
        State::Netbooting => StoredState::Netbooting,
        State::Deploying(step) => StoredState::Deploying { step: step.word().to_string() },
        State::Verifying => StoredState::Verifying,
        State::Rebooting => StoredState::Rebooting,
        State::Ready { confirmed } => StoredState::Ready { confirmed },
        State::Failed { step, attempts, reason } => {
            StoredState::Failed { step: step.word().to_string(), attempts, reason }
        }
        State::Held { by, reason, until } => StoredState::Held { by, reason, until },
    }
}

fn load_state(stored: StoredState) -> Result<State, StoredError> {
    Ok(match stored {
        StoredState::Discovered => State::Discovered,
        StoredState::Enrolled => State::Enrolled,
        StoredState::Queued => State::Queued,
        StoredState::Netbooting => State::Netbooting,
        StoredState::Deploying { step } => State::Deploying(load_step(&step)?),
        StoredState::Verifying => State::Verifying,
        StoredState::Rebooting => State::Rebooting,
        StoredState::Ready { confirmed } => State::Ready { confirmed },
        StoredState::Failed { step, attempts, reason } => State::Failed { step: load_step(&step)?, attempts, reason },
        StoredState::Held { by, reason, until } => State::Held { by, reason, until },
    })
}

fn load_step(word: &str) -> Result<Step, StoredError> {
    let found = Step::ALL.into_iter().find(|step| step.word() == word);
    found.ok_or_else(|| StoredError::Step(word.to_string()))
}

impl From<DiskId> for wire::agent::DiskId {
    fn from(disk: DiskId) -> Self {
        wire::agent::DiskId { serial: disk.serial, wwn: disk.wwn, size_bytes: disk.size_bytes }
    }
}

impl From<wire::agent::DiskId> for DiskId {
    fn from(disk: wire::agent::DiskId) -> Self {
        DiskId { serial: disk.serial, wwn: disk.wwn, size_bytes: disk.size_bytes }
    }
}

impl From<crate::decide::disk::Rule> for wire::agent::DiskRule {
    fn from(rule: crate::decide::disk::Rule) -> Self {
        let crate::decide::disk::Rule { serial, wwn, model, transport, min_bytes, max_bytes } = rule;
        wire::agent::DiskRule { serial, wwn, model, transport, min_bytes, max_bytes }
    }
}

impl From<wire::agent::Step> for Step {
    fn from(step: wire::agent::Step) -> Self {
        use wire::agent::Step as Said;
        match step {
            Said::CheckIn => Step::CheckIn,
            Said::ChooseDisk => Step::ChooseDisk,
            Said::Survey => Step::Survey,
            Said::ClearHead => Step::ClearHead,
            Said::WriteBody => Step::WriteBody,
            Said::VerifyBody => Step::VerifyBody,
            Said::WriteHead => Step::WriteHead,
            Said::BootEntry => Step::BootEntry,
            Said::Reboot => Step::Reboot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_every_field_comes_back_from_the_store_as_it_went_in() {
        let mac = "52:54:00:00:00:01".parse().unwrap();
        let image = |name: &str| Some(ImageChoice { name: name.into(), manifest: "ab".into() });
        let kinds = [
            CauseKind::Operator,
            CauseKind::Rollout { number: 7 },
            CauseKind::Schedule,
            CauseKind::MaxAge,
            CauseKind::Drift,
            CauseKind::Channel,
            CauseKind::ImageDeprecated,
            CauseKind::ImageBlocked,
        ];
        let cause = |kind| Cause {
            image: image("a:2"),
            releases_disk: true,
            key: Some("k".into()),
            ..Cause::new(kind, "r", "b", 6)
        };
        let mut labels = Labels::default();
        labels.set("rack", "12").unwrap();
        let order = Order {
            generation: 3,
            causes: kinds.iter().map(|kind| cause(*kind)).collect(),
            opened_at: 5,
            attempts: 2,
            foreign_released: true,
            power_cycles: 1,
            powered_at: Some(4),
            from_ready: true,
            blocked: Some("w".into()),
            image: ImageChoice { name: "a:2".into(), manifest: "ab".into() },
            claim: Some(Claim { token_digest: "t".into(), session_digest: Some("s".into()) }),
        };
        let full = Host {
            name: Some("n".into()),
            drift: Some("web".into()),
            system_uuid: Some("u".into()),
            serial: Some("x".into()),
            desired: image("a:2"),
            reported: image("a:1"),
            generation: 3,
            reported_generation: 2,
            order: Some(order),
            verify: crate::registry::stored_verify::tests::full(),
            own_disk: Some(DiskId { serial: Some("s".into()), wwn: None, size_bytes: 7 }),
            history_length: 9,
            labels,
            built_at: 8,
            asks: vec![cause(CauseKind::Drift)],
            ordered_at: vec![5, 6],
            drift_asked_at: 4,
            request_keys: vec![7],
            ..Host::discovered(mac, "default", 1)
        };
        for host in any_state(&full) {
            let (read, _) = decode(&encode(&host, None).unwrap()).unwrap();
            assert_eq!(read, host);
        }
    }

    fn any_state(full: &Host) -> Vec<Host> {
        let mut states = vec![
            State::Discovered,
            State::Enrolled,
            State::Queued,
            State::Netbooting,
            State::Verifying,
            State::Rebooting,
            State::Ready { confirmed: true },
            State::Held { by: "b".into(), reason: "r".into(), until: Some(4) },
        ];
        states.extend(Step::ALL.map(State::Deploying));
        states.push(State::Failed { step: Step::WriteBody, attempts: 3, reason: "r".into() });
        states.into_iter().map(|state| Host { state, ..full.clone() }).collect()
    }

    /// A store of the release before verifications.
    #[test]
    fn a_record_without_verifications_is_read_as_one_that_had_none() {
        let host = Host::discovered("52:54:00:00:00:01".parse().unwrap(), "default", 1);
        let json: serde_json::Value = serde_json::from_slice(&encode(&host, None).unwrap()).unwrap();
        assert!(json.get("verify").is_none(), "what a host does not have takes no room");
        assert_eq!(decode(json.to_string().as_bytes()).unwrap().0.verify, Verification::default());
    }

    /// A request that was carried out before the upgrade is no new one after it.
    #[test]
    fn the_one_key_of_an_older_record_is_among_the_recent_ones() {
        let host = Host::discovered("52:54:00:00:00:01".parse().unwrap(), "default", 1);
        let mut json: serde_json::Value = serde_json::from_slice(&encode(&host, None).unwrap()).unwrap();
        json["last_key"] = "nightly-7".into();
        let (read, _) = decode(json.to_string().as_bytes()).unwrap();
        assert_eq!(read.request_keys, [stable_hash(&["nightly-7"])]);
    }
}
