//! Fleet documents, for operators: what is, what a document would change, and the change itself.

use super::Shared;
use super::body::JsonBody;
use super::operator::image_choice;
use super::operator_power;
use super::operator_proposals::{find, take};
use super::peer::Operator;
use super::problem::Problem;
use crate::clock;
use crate::config::fleet::diff::{self, Now, NowHost, PRUNE_MAX, Prune};
use crate::config::fleet::file::Document;
use crate::config::fleet::settings::PowerSettings;
use crate::config::fleet::{Fleet, ansible, export, read};
use crate::decide::host::State as HostState;
use crate::power::{Settings, Written};
use crate::registry::HostView;
use crate::registry::fleet::Images;
use crate::registry::requests::{Proposal, ProposalKind};
use crate::wire::fleet as wire;
use crate::wire::operator::ApplyDone;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

type Server = State<Arc<Shared>>;

/// Loosened brakes that a proposal names.
const LOOSENED_SHOWN_MAX: usize = 10;

/// `POST /v1/fleet/diff` and `/v1/fleet/apply`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// All documents as one, in the form in which people write them.
    pub document: Document,
    /// Remove what is not in it.
    pub prune: bool,
    /// How many hosts, groups or reservations that may remove; above a number it must be said.
    pub prune_max: Option<usize>,
    /// The document makes a brake hold less, and that is meant.
    pub loosen: bool,
    /// The proposal of somebody else that this confirms.
    #[serde(default)]
    pub confirm: Option<u64>,
    /// On whose behalf; see [`crate::wire::operator::Release::by`].
    #[serde(default)]
    pub by: String,
}

/// `GET /v1/fleet`: the fleet as one document.
pub async fn show(State(shared): Server) -> Json<Document> {
    Json(export::document(&now(&shared).fleet()))
}

/// `POST /v1/fleet/diff`: changes nothing.
///
/// # Errors
/// 400 names what is wrong in the document.
pub async fn diff(State(shared): Server, JsonBody(asked): JsonBody<Apply>) -> Result<Json<wire::Diff>, Problem> {
    Ok(Json(compare(&shared, &asked)?.1.shown()))
}

/// `POST /v1/fleet/apply`: all of it in one commit, or nothing. Opens no order. Where a brake would hold less it is only
/// proposed, until another user applies the same documents and confirms that.
///
/// # Errors
/// 400 as above; 404 for an image that is not there; 409 with everything that forbids it, and when the documents are not
/// what was proposed; 422 when a brake would hold less and nobody said that this is meant.
pub async fn apply(
    State(shared): Server,
    operator: Operator,
    JsonBody(asked): JsonBody<Apply>,
) -> Result<Json<ApplyDone>, Problem> {
    let mut by = operator.called(&asked.by)?;
    let (fleet, diff) = compare(&shared, &asked)?;
    if diff.loosens() && !asked.loosen {
        let error = format!("{}\na brake would hold less than now; if that is meant, apply with --loosen", diff.text());
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error));
    }
    let (needs_second, shown) = (diff.loosens() && has_hosts(&shared), diff.shown());
    let images = images(&shared, &fleet)?;
    let power = settings(&shared, &fleet)?;
    let text = diff.text();
    // Before anything is proposed: otherwise it would be the second person who is told.
    let writes = diff.accept().map_err(|refused| Problem::new(StatusCode::CONFLICT, refused.to_string()))?;
    match (needs_second, asked.confirm) {
        (false, None) => {}
        (false, Some(_)) => {
            let error = "these documents loosen no brake as things are now; apply them without --confirm";
            return Err(Problem::new(StatusCode::CONFLICT, error));
        }
        (true, None) => {
            let number = shared.registry.propose(proposal(&operator, by, &shown)).await?;
            return Ok(Json(ApplyDone { changes: 0, proposal: Some(number), text }));
        }
        (true, Some(number)) => {
            let proposal = find(&shared, number, &operator).await?;
            if proposal.kind != ProposalKind::Apply || proposal.digest != digest(&shown) {
                let error = "these documents would not change what was proposed";
                return Err(Problem::new(StatusCode::CONFLICT, error).changed(&proposal));
            }
            let second = take(&shared, &operator, &proposal).await?;
            by = format!("{} (confirmed by {second})", proposal.by);
        }
    }
    let changes = writes.len();
    shared.registry.apply(writes, images, by).await?;
    for (host, settings) in power {
        shared.registry.set_power(&host, settings).await?;
    }
    Ok(Json(ApplyDone { changes, proposal: None, text }))
}

/// Before the first host is ours there is nothing that a brake could hold back, and often nobody but one person.
fn has_hosts(shared: &Shared) -> bool {
    shared.registry.read(|view| view.hosts().any(|host| host.host.state != HostState::Discovered))
}

fn proposal(operator: &Operator, by: String, diff: &wire::Diff) -> Proposal {
    let loosened = diff.changes.iter().flat_map(|change| {
        let fields = change.fields.iter().filter(|field| field.loosens);
        fields.map(|field| format!("{} {}", change.name.as_ref().unwrap_or(&change.id), field.field))
    });
    let loosened: Vec<String> = loosened.collect();
    let more = loosened.len().saturating_sub(LOOSENED_SHOWN_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let shown = loosened.iter().take(LOOSENED_SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
    let hosts = diff.changes.iter().filter(|change| change.kind == wire::Kind::Host).count();
    Proposal {
        number: 0,
        at: 0,
        kind: ProposalKind::Apply,
        request: String::new(),
        summary: format!("{} changes, by which a brake holds less: {shown}{more}", diff.changes.len()),
        hosts: hosts as u64,
        digest: digest(diff),
        by,
        by_uid: operator.uid,
    }
}

/// Of what documents would change now.
fn digest(diff: &wire::Diff) -> String {
    // What goes over the wire as JSON anyway.
    blake3::hash(&serde_json::to_vec(&diff.changes).unwrap_or_default()).to_hex().to_string()
}

/// `GET /v1/inventory/ansible`: a dynamic inventory.
pub async fn inventory(State(shared): Server) -> Json<serde_json::Value> {
    let hosts: Vec<_> = shared.registry.read(|view| {
        let address = |host: &HostView| host.host.macs.iter().find_map(|mac| view.address_of(*mac));
        let ours = view.hosts().filter(|host| host.host.state != HostState::Discovered);
        ours.map(|view| inventory_host(view, address(view))).collect()
    });
    Json(ansible::inventory(&hosts))
}

fn inventory_host(view: &HostView, address: Option<std::net::Ipv4Addr>) -> ansible::InventoryHost {
    let host = &view.host;
    ansible::InventoryHost {
        id: host.id.clone(),
        name: host.name.clone(),
        macs: host.macs.clone(),
        address,
        group: host.group.clone(),
        labels: host.labels.clone(),
        state: host.state.word().to_string(),
        reported: host.reported.as_ref().map(|image| image.name.clone()),
        desired: host.desired.as_ref().map(|image| image.name.clone()),
    }
}

fn compare(shared: &Shared, asked: &Apply) -> Result<(Fleet, diff::Diff), Problem> {
    let bad = |error: &dyn std::error::Error| Problem::new(StatusCode::BAD_REQUEST, error.to_string());
    let fleet = read::of_document(Path::new("document"), asked.document.clone());
    let mut fleet = fleet.map_err(|error| bad(&error))?;
    // As they will be shown again: a default that is spelled out is no change.
    for (key, settings) in settings(shared, &fleet)? {
        let entry = fleet.hosts.iter_mut().find(|(known, _)| known.to_string() == key);
        if let Some((_, entry)) = entry {
            entry.power = table(&settings);
        }
    }
    let prune = if asked.prune { Prune::UpTo(asked.prune_max.unwrap_or(PRUNE_MAX)) } else { Prune::No };
    // They are denied whatever a document says, and are not among those that documents set.
    if let Some(policy) = &mut fleet.policy {
        policy.denied.retain(|mac| !shared.config.own_macs.contains(mac));
    }
    let diff = diff::diff(&now(shared), &fleet, prune);
    Ok((fleet, diff))
}

/// The power settings of the documents, checked, by the host as the document names it.
fn settings(shared: &Shared, fleet: &Fleet) -> Result<Vec<(String, Settings)>, Problem> {
    let mut all = Vec::new();
    for (key, entry) in &fleet.hosts {
        let Some(power) = &entry.power else { continue };
        let name = key.to_string();
        let wrong = |error: String| Problem::new(StatusCode::BAD_REQUEST, format!("host {name}: power: {error}"));
        let written: Written =
            serde_json::from_value(power.table().clone().into()).map_err(|error| wrong(error.to_string()))?;
        let Some(view) = shared.registry.find(&name) else {
            // Its record comes with this very apply; what needs no password can be applied once it is there.
            return Err(wrong("the host is not known yet; apply it first without power, then with it".to_string()));
        };
        all.push((name.clone(), operator_power::checked(shared, &view, written).map_err(|why| wrong(why.error))?));
    }
    Ok(all)
}

fn table(settings: &Settings) -> Option<PowerSettings> {
    let written = serde_json::to_value(settings.written()).ok()?;
    PowerSettings::new(written.as_object()?.clone()).ok()
}

/// Every image that the documents name, as the content that it is now.
fn images(shared: &Shared, fleet: &Fleet) -> Result<Images, Problem> {
    let named = fleet.hosts.values().filter_map(|entry| entry.image.as_ref());
    named.map(|image| Ok((image.to_string(), image_choice(shared, &image.to_string())?))).collect()
}

fn now(shared: &Shared) -> Now {
    let own = &shared.config.own_macs;
    shared.registry.read(|view| {
        let mut groups = view.groups().clone();
        groups
            .entry(crate::config::DEFAULT_GROUP.to_string())
            .or_insert_with(|| view.group(crate::config::DEFAULT_GROUP));
        let mut policy = view.policy().clone();
        policy.denied.retain(|mac| !own.contains(mac));
        let hosts = view.hosts().map(|host| (host.host.id.clone(), now_host(host))).collect();
        Now {
            groups,
            policy,
            hosts,
            reservations: view.reservations().clone(),
            drift: view.drift_policies().clone(),
            at: clock::now(),
        }
    })
}

fn now_host(view: &HostView) -> NowHost {
    let host = &view.host;
    NowHost {
        macs: host.macs.clone(),
        name: host.name.clone(),
        group: host.group.clone(),
        labels: host.labels.clone(),
        image: host.desired.as_ref().and_then(|image| image.name.parse().ok()),
        power: view.power.as_deref().and_then(table),
        order: host.order.as_ref().map(|order| order.generation),
        declared: host.state != HostState::Discovered,
        drift: host.drift.as_deref().map(String::from),
    }
}
