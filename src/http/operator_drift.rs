//! Drift, for operators: which hosts differ from their image, in what, by which rule; exceptions.

use super::Shared;
use super::body::JsonBody;
use super::operator::one_line;
use super::operator_many::facts;
use super::peer::Operator;
use super::problem::Problem;
use super::{drift_image, drift_shown};
use crate::clock;
use crate::decide::drift::finding::{Aspect, Aspects};
use crate::decide::drift::path;
use crate::decide::drift::policy::{Action, Pattern};
use crate::decide::host::State as HostState;
use crate::decide::select::Selector;
use crate::registry::drift::exceptions::Scope;
use crate::registry::drift::{Counted, Exception, NewException, Watched};
use crate::registry::{HostView, RegistryError};
use crate::wire::operator_drift as wire;
use crate::wire::reference::ImageRef;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

type Server = State<Arc<Shared>>;

/// The longest that an exception holds: one that is needed for longer belongs into the image or a policy.
const EXCEPTION_SECONDS_MAX: u64 = 366 * 86_400;
const TOP_DEFAULT: usize = 50;
const TOP_MAX: usize = 1000;

/// Which hosts; what is absent asks nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    select: Option<String>,
    group: Option<String>,
    standing: Option<String>,
}

/// `GET /v1/drift?select=&group=&standing=`: by id; of several filters all must hold. Machines that nobody approved are
/// not listed.
///
/// # Errors
/// 400 for a selector or standing that is none, and any other key.
pub async fn list(
    State(shared): Server,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Vec<wire::Line>>, Problem> {
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error);
    let Query(filter) = filter.map_err(|rejection| bad(rejection.body_text()))?;
    let selector = filter.select.map(|text| Selector::parse(&text).map_err(|error| bad(error.to_string())));
    let selector = selector.transpose()?;
    if let Some(word) = filter.standing.as_ref().filter(|word| !drift_shown::STANDINGS.contains(&word.as_str())) {
        return Err(bad(format!("{word:?} is no standing; there are {}", drift_shown::STANDINGS.join(", "))));
    }
    let is_meant = |view: &HostView| {
        view.host.state != HostState::Discovered
            && filter.group.as_ref().is_none_or(|group| view.host.group == *group)
            && selector.as_ref().is_none_or(|selector| selector.matches(&facts(view)))
    };
    let hosts: Vec<(Arc<HostView>, Option<Arc<Watched>>)> = shared.registry.read(|all| {
        let meant = all.hosts().filter(|view| is_meant(view));
        meant.map(|view| (view.clone(), all.drift().host(&view.host.id).cloned())).collect()
    });
    // A fleet runs few images.
    let mut baselines: BTreeMap<String, bool> = BTreeMap::new();
    for image in hosts.iter().filter_map(|(view, _)| view.host.reported.as_ref()) {
        if !baselines.contains_key(&image.manifest) {
            let has = drift_image::baseline_of(&shared, &image.manifest).await.is_ok();
            baselines.insert(image.manifest.clone(), has);
        }
    }
    let line = |(view, watched): (Arc<HostView>, Option<Arc<Watched>>)| {
        let image = view.host.reported.as_ref();
        let has_baseline = image.is_some_and(|image| baselines.get(&image.manifest) == Some(&true));
        drift_shown::line(&view, watched.as_deref(), has_baseline)
    };
    let is_wanted = |line: &wire::Line| filter.standing.as_ref().is_none_or(|word| line.standing == *word);
    Ok(Json(hosts.into_iter().map(line).filter(is_wanted).collect()))
}

/// `GET /v1/drift/hosts/{id}`.
///
/// # Errors
/// 404, 503.
pub async fn show(State(shared): Server, Path(id): Path<String>) -> Result<Json<wire::Shown>, Problem> {
    let view = shared.registry.find(&id).ok_or(RegistryError::UnknownHost(id))?;
    Ok(Json(drift_shown::shown(&shared, &view).await?))
}

/// The path of `drift explain`, as `path::to_text` writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    path: String,
}

/// `GET /v1/drift/hosts/{id}/explain?path=TEXT`.
///
/// # Errors
/// 400 for no absolute path; 404, 503.
pub async fn explain(
    State(shared): Server,
    Path(id): Path<String>,
    asked: Result<Query<Explain>, QueryRejection>,
) -> Result<Json<wire::Explained>, Problem> {
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error);
    let Query(asked) = asked.map_err(|rejection| bad(rejection.body_text()))?;
    let view = shared.registry.find(&id).ok_or(RegistryError::UnknownHost(id))?;
    let bytes = path::from_text(&asked.path).filter(|path| path.first() == Some(&b'/') && !path.contains(&0));
    let bytes = bytes.ok_or_else(|| bad("path: an absolute path; a backslash in it is \\\\ or \\xNN".to_string()))?;
    Ok(Json(drift_shown::explained(&shared, &view, &bytes).await?))
}

/// Of which hosts, and how many paths.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopFilter {
    group: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/drift/top?group=&limit=`: the paths that differ on most hosts.
///
/// # Errors
/// 400 for a limit that is none; 503.
pub async fn top(
    State(shared): Server,
    filter: Result<Query<TopFilter>, QueryRejection>,
) -> Result<Json<Vec<wire::Top>>, Problem> {
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error);
    let Query(filter) = filter.map_err(|rejection| bad(rejection.body_text()))?;
    let limit = filter.limit.unwrap_or(TOP_DEFAULT);
    if !(1..=TOP_MAX).contains(&limit) {
        return Err(bad(format!("limit: from 1 to {TOP_MAX}")));
    }
    let counted = tokio::task::spawn_blocking(move || shared.registry.drift_top(filter.group.as_deref(), limit));
    let failed = |error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("counting failed: {error}"));
    let top = |counted: Counted| wire::Top {
        path: path::to_text(&counted.path),
        aspects: drift_shown::words(counted.aspects),
        hosts: counted.hosts,
        same_content: counted.same_content,
        groups: counted.groups,
    };
    Ok(Json(counted.await.map_err(failed)??.into_iter().map(top).collect()))
}

/// `GET /v1/drift/exceptions`: by number; those that ended are kept for a month.
pub async fn exceptions(State(shared): Server) -> Json<Vec<wire::Exception>> {
    let now = clock::now();
    let all = shared.registry.read(|view| view.drift().exceptions().clone());
    Json(all.iter().map(|exception| shown_exception(exception, now)).collect())
}

/// `POST /v1/drift/exceptions`: `drift accept`.
///
/// # Errors
/// 400 for a pattern, way to differ, end or reason that is none; 404 for a host, group or image that is not there; 409
/// when there are too many.
pub async fn accept(
    State(shared): Server,
    operator: Operator,
    JsonBody(asked): JsonBody<wire::Accept>,
) -> Result<Json<wire::Exception>, Problem> {
    let bad = |error: String| Problem::new(StatusCode::BAD_REQUEST, error);
    let now = clock::now();
    let bytes = path::from_text(&asked.pattern);
    let bytes = bytes.ok_or_else(|| bad("pattern: a backslash in it is \\\\ or \\xNN".to_string()))?;
    let pattern = Pattern::new(&bytes).map_err(|error| bad(format!("pattern: {}", error.sentence())))?;
    if pattern.takes_in_a_tree() {
        let error = "pattern: it takes in a whole tree; name a directory below it, or write a policy in a fleet document, \
                     which a second person confirms";
        return Err(bad(error.to_string()));
    }
    let aspects = Aspects::from_words(asked.aspects.iter().map(String::as_str)).map_err(|word| {
        let words: Vec<&str> = Aspect::ALL.iter().map(|aspect| aspect.word()).collect();
        bad(format!("aspects: {word:?} is none; there are {}", words.join(", ")))
    })?;
    let aspects = if asked.aspects.is_empty() { Action::Allow.aspects_unnamed() } else { aspects };
    if asked.until <= now || asked.until > now + EXCEPTION_SECONDS_MAX {
        return Err(bad(
            "until: an exception ends in the future, and within a year; what is to stay belongs into the \
                        image or a policy"
                .to_string(),
        ));
    }
    let scope = checked_scope(&shared, &asked.scope)?;
    let (why, by, until) = (one_line(&asked.why)?, operator.called("")?, asked.until);
    let new = NewException { pattern, aspects, scope, until, why, by };
    let exception = shared.registry.accept_drift(new).await?;
    Ok(Json(shown_exception(&exception, now)))
}

/// `DELETE /v1/drift/exceptions/{number}`: ends it now.
///
/// # Errors
/// 404.
pub async fn end_exception(
    State(shared): Server,
    Path(number): Path<u64>,
    operator: Operator,
) -> Result<StatusCode, Problem> {
    shared.registry.end_drift_exception(number, &operator.called("")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/drift/hosts/{id}/forget-key`: the next key of its agent is taken.
///
/// # Errors
/// 404.
pub async fn forget_key(
    State(shared): Server,
    Path(id): Path<String>,
    operator: Operator,
) -> Result<StatusCode, Problem> {
    shared.registry.forget_drift_key(&id, &operator.called("")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A scope that is mistyped would silence nothing, and its author would believe it did.
fn checked_scope(shared: &Shared, scope: &wire::Scope) -> Result<Scope, Problem> {
    let missing = |what: String| Problem::new(StatusCode::NOT_FOUND, what);
    match scope {
        wire::Scope::Group(name) => {
            let is_there = shared
                .registry
                .read(|all| all.groups().contains_key(name) || all.hosts().any(|view| view.host.group == *name));
            if is_there { Ok(Scope::Group(name.clone())) } else { Err(missing(format!("there is no group {name:?}"))) }
        }
        wire::Scope::Host(name) => {
            let view = shared.registry.find(name).ok_or_else(|| RegistryError::UnknownHost(name.clone()))?;
            Ok(Scope::Host(view.host.id.clone()))
        }
        wire::Scope::Image(name) => {
            let is_version = name.contains(':');
            let of_host = |view: &HostView| {
                let reported = view.host.reported.as_ref().map(|image| image.name.as_str());
                reported.is_some_and(|image| image == name || image.split_once(':').is_some_and(|(of, _)| of == name))
            };
            let is_there = if is_version {
                name.parse::<ImageRef>().is_ok_and(|image| shared.images.resolve(&image).is_ok())
            } else {
                shared.images.list()?.iter().any(|record| record.image.name() == *name)
            };
            if is_there || shared.registry.read(|all| all.hosts().any(|view| of_host(view))) {
                return Ok(Scope::Image(name.clone()));
            }
            Err(missing(format!("there is no image {name:?}; `regild image list` shows them")))
        }
    }
}

fn shown_exception(exception: &Exception, now: u64) -> wire::Exception {
    let rule = &exception.rule;
    let is_unnamed = rule.aspects == rule.action.aspects_unnamed();
    let accepted = wire::Accept {
        pattern: path::to_text(rule.pattern.bytes()),
        aspects: if is_unnamed { Vec::new() } else { drift_shown::words(rule.aspects) },
        scope: match &exception.scope {
            Scope::Group(name) => wire::Scope::Group(name.clone()),
            Scope::Host(id) => wire::Scope::Host(id.clone()),
            Scope::Image(name) => wire::Scope::Image(name.clone()),
        },
        until: exception.until(),
        why: rule.why.clone(),
    };
    let ended = exception.until() <= now;
    wire::Exception { number: exception.number, accepted, by: exception.by.clone(), at: exception.at, ended }
}
