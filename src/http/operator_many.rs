//! Orders for many hosts: selected or listed, counted, and above a number confirmed by a second person.

use super::Shared;
use super::body::JsonBody;
use super::operator::{assignable, image_choice, one_line};
use super::operator_proposals::{request_of, take};
use super::peer::Operator;
use super::problem::Problem;
use crate::clock;
use crate::decide::cause::{Cause, CauseKind};
use crate::decide::host::{Host, ImageChoice};
use crate::decide::select::{self, Count, Selector};
use crate::decide::version::Asker;
use crate::registry::requests::{Asked, Proposal, ProposalKind, digest_of};
use crate::registry::{HostView, RegistryError};
use crate::wire::operator as wire;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use std::sync::Arc;

type Server = State<Arc<Shared>>;

/// `POST /v1/reimage`.
///
/// # Errors
/// 400 for a selector that is none; 404 for an unknown host or image; 422 when the number of hosts is not confirmed or a
/// host is on the deny list. Then nothing at all was done.
pub async fn reimage(
    State(shared): Server,
    operator: Operator,
    JsonBody(mut asked): JsonBody<wire::ReimageMany>,
) -> Result<Json<wire::Asked>, Problem> {
    asked.by = operator.called(&asked.by)?;
    one_line(&asked.reason)?;
    asked.key.as_deref().map(one_line).transpose()?;
    let hosts = meant(&shared, &asked)?;
    // Before anything is proposed: otherwise it would be the second person who is told, and the proposal used up.
    if let Some(name) = &asked.image {
        let has = |choice: &Option<ImageChoice>| choice.as_ref().is_some_and(|image| image.name == *name);
        let have_it = hosts.iter().all(|host| has(&host.host.desired) || has(&host.host.reported));
        let asker = if asked.select.is_some() { Asker::Many } else { Asker::NamedHosts { have_it } };
        assignable(&shared, name, asker)?;
    }
    if !needs_second(&shared, hosts.iter().map(|host| &host.host)) {
        return carry_out(&shared, &asked, ids(&hosts)).await.map(Json);
    }
    let image = asked.image.as_deref().unwrap_or("its desired image");
    let proposal = Proposal {
        number: 0,
        at: 0,
        kind: ProposalKind::Reimage,
        summary: format!("rebuild {} hosts to {image}: {}", hosts.len(), asked.reason),
        hosts: hosts.len() as u64,
        digest: what(&shared, &asked, &hosts)?,
        by: asked.by.clone(),
        by_uid: operator.uid,
        // What was parsed from JSON a moment ago.
        request: serde_json::to_string(&asked).unwrap_or_default(),
    };
    let number = shared.registry.propose(proposal).await?;
    Ok(Json(wire::Asked { proposal: Some(number), hosts: Vec::new() }))
}

/// Whether one person alone may not have these hosts rebuilt.
pub(super) fn needs_second<'a>(shared: &Shared, hosts: impl Iterator<Item = &'a Host>) -> bool {
    shared.registry.read(|view| {
        let (mut count, mut marked) = (0, false);
        for host in hosts {
            count += 1;
            marked |= view.groups().get(&host.group).is_some_and(|group| group.confirm);
        }
        marked || count > view.policy().confirm_above as usize
    })
}

/// Carries out what a second person confirms, when it still means the same hosts.
pub(super) async fn confirmed(
    shared: &Shared,
    operator: &Operator,
    proposal: &Proposal,
) -> Result<wire::Asked, Problem> {
    let mut request: wire::ReimageMany = request_of(proposal)?;
    request.expect_count = Some(proposal.hosts as usize);
    let hosts = meant(shared, &request).map_err(|problem| problem.changed(proposal))?;
    if what(shared, &request, &hosts)? != proposal.digest {
        let error = "it meant other hosts or another image than it does now";
        return Err(Problem::new(StatusCode::CONFLICT, error).changed(proposal));
    }
    let by = take(shared, operator, proposal).await?;
    request.reason = format!("{} (confirmed by {by})", request.reason);
    carry_out(shared, &request, ids(&hosts)).await
}

/// Digest of what a request would do: each host, and the content that it would get.
fn what(shared: &Shared, asked: &wire::ReimageMany, hosts: &[Arc<HostView>]) -> Result<String, Problem> {
    let named = asked.image.as_deref().map(|name| image_choice(shared, name)).transpose()?;
    let one = |host: &Arc<HostView>| {
        let image = named.as_ref().or(host.host.desired.as_ref());
        format!("{} {}", host.host.id, image.map_or("-", |image| &image.manifest))
    };
    Ok(digest_of(&hosts.iter().map(one).collect::<Vec<_>>()))
}

fn ids(hosts: &[Arc<HostView>]) -> Vec<String> {
    hosts.iter().map(|host| host.host.id.clone()).collect()
}

/// The hosts that a request means; all of them exist and may be rebuilt, and their number is confirmed.
fn meant(shared: &Shared, asked: &wire::ReimageMany) -> Result<Vec<Arc<HostView>>, Problem> {
    let unprocessable = |error: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error);
    let hosts = match (&asked.select, asked.ids.as_slice()) {
        (Some(text), []) => {
            let selector = Selector::parse(text)
                .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the selector {text:?}: {error}")))?;
            selected(shared, &selector)
        }
        (None, ids) => named(shared, ids)?,
        (Some(_), _) => return Err(unprocessable("name hosts or a selector, not both".to_string())),
    };
    may_be_stopped(shared, &hosts, asked.expect_count, "nothing was done")?;
    Ok(hosts)
}

/// Hosts by id, MAC or name, each once; all of them exist.
pub(super) fn named(shared: &Shared, ids: &[String]) -> Result<Vec<Arc<HostView>>, Problem> {
    let mut hosts: Vec<Arc<HostView>> = Vec::new();
    for id in ids {
        let host = shared.registry.find(id).ok_or_else(|| RegistryError::UnknownHost(id.clone()))?;
        if !hosts.iter().any(|known| known.host.id == host.host.id) {
            hosts.push(host);
        }
    }
    Ok(hosts)
}

/// Whether what runs on these hosts may be stopped: their number is confirmed, and none of them is protected. `so` is what
/// follows from a protected one.
pub(super) fn may_be_stopped(
    shared: &Shared,
    hosts: &[Arc<HostView>],
    expect_count: Option<usize>,
    so: &str,
) -> Result<(), Problem> {
    let unprocessable = |error: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error);
    let threshold = shared.registry.read(|view| view.policy().expect_above) as usize;
    match select::confirm(hosts.len(), threshold, expect_count) {
        Count::Confirmed => {}
        count => return Err(unprocessable(count.to_string())),
    }
    for host in hosts {
        let name = host.host.name.as_ref().unwrap_or(&host.host.id);
        let denied = shared.registry.read(|view| view.allowed(&host.host));
        denied.map_err(|deny| unprocessable(format!("{name}: {deny}; {so}")))?;
    }
    Ok(())
}

/// The hosts that a selector matches, by id. Machines that nobody approved are never among them.
pub fn selected(shared: &Shared, selector: &Selector) -> Vec<Arc<HostView>> {
    shared.registry.read(|view| {
        let approved = view.hosts().filter(|host| host.host.state != crate::decide::host::State::Discovered);
        approved.filter(|host| selector.matches(&facts(host))).cloned().collect()
    })
}

/// What a selector sees of a host.
#[must_use]
pub fn facts(view: &HostView) -> select::Facts<'_> {
    let host = &view.host;
    select::Facts {
        id: &host.id,
        name: host.name.as_deref(),
        macs: &host.macs,
        group: &host.group,
        image: host.reported.as_ref().map(|image| image.name.as_str()),
        state: &host.state,
        labels: &host.labels,
    }
}

async fn carry_out(shared: &Shared, asked: &wire::ReimageMany, ids: Vec<String>) -> Result<wire::Asked, Problem> {
    let image = asked.image.as_deref().map(|name| image_choice(shared, name)).transpose()?;
    let cause = Cause {
        image,
        releases_disk: asked.release_disk,
        key: asked.key.clone(),
        ..Cause::new(CauseKind::Operator, &asked.reason, &asked.by, clock::now())
    };
    let done: Asked = shared.registry.ask_many(ids, cause).await?;
    let shown = |(id, done): (String, Result<Arc<HostView>, RegistryError>)| match done {
        Ok(view) => wire::AskedHost {
            id,
            name: view.host.name.clone(),
            order: view.host.order.as_ref().map(|order| order.generation),
            image: view.host.desired.as_ref().map(|image| image.name.clone()),
            waits: view.waits.clone(),
            refused: None,
            power: shared.registry.read(|all| all.driver(&view)).to_string(),
        },
        Err(error) => wire::AskedHost { id, refused: Some(error.to_string()), ..wire::AskedHost::default() },
    };
    Ok(wire::Asked { proposal: None, hosts: done.into_iter().map(shown).collect() })
}
