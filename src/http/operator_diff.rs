//! The operator API's comparisons: what differs between two images, and what a machine would fetch.

use super::Shared;
use super::agent::is_seed;
use super::problem::Problem;
use crate::causes;
use crate::image::ImageRef;
use crate::image::diff::{DiffError, Page};
use crate::image::plan::PlanError;
use crate::transfer::forecast::Fetch;
use crate::wire::operator_diff::{ImageDiff, ImagePlan, PlannedFetch};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Files in one answer.
const LIMIT_MAX: u64 = 100_000;
const LIMIT: u64 = 100;
/// Who waits for a turn. Each comparison takes a processor and up to some hundred MB while it runs.
const WAITING_MAX: usize = 8;

/// One comparison at a time.
#[derive(Debug, Clone)]
pub struct Turns {
    /// The one that runs and those that wait.
    places: Arc<Semaphore>,
    turn: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { places: Arc::new(Semaphore::new(WAITING_MAX + 1)), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Turns {
    async fn take(&self) -> Result<[OwnedSemaphorePermit; 2], Problem> {
        let busy = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "others compare images already; try again later");
        let place = self.places.clone().try_acquire_owned().map_err(|_| busy())?;
        // Never closed.
        Ok([place, self.turn.clone().acquire_owned().await.map_err(|_| busy())?])
    }
}

type Server = State<(Arc<Shared>, Turns)>;

/// What an image is compared with, and which of the files that differ are told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    to: String,
    limit: Option<u64>,
    skip: Option<u64>,
}

/// What is on the disk, and how long it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    from: Option<String>,
    disk_bytes: Option<u64>,
}

/// `GET /v1/images/{REF}/diff?to=&limit=&skip=`.
///
/// # Errors
/// 400, 404 for either image; 500 for damage in the store, which it names; 503 when too many wait.
pub async fn diff(
    State((shared, turns)): Server,
    Path(name): Path<String>,
    query: Result<Query<Compared>, QueryRejection>,
) -> Result<Json<ImageDiff>, Problem> {
    let Query(asked) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let page = Page { skip: asked.skip.unwrap_or(0), limit: asked.limit.unwrap_or(LIMIT) };
    if page.limit > LIMIT_MAX {
        return Err(bad(format!("at most {LIMIT_MAX} files in one answer; the others by skip=")));
    }
    let (from, to) = (resolve(&shared, &name)?, resolve(&shared, &asked.to)?);
    let turn = turns.take().await?;
    // Whoever does not wait any more gets no work done.
    let gone = Gone::default();
    let is_gone = Arc::clone(&gone.0);
    let work = move || {
        let _turn = turn;
        shared.images.diff(&from, &to, page, &|| is_gone.load(Ordering::Relaxed))
    };
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| failed(format!("the comparison failed: {error}")))?;
    Ok(Json(done?))
}

/// Set when the handler is dropped, with its connection.
#[derive(Debug, Default)]
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `GET /v1/images/{REF}/plan?from=&disk_bytes=`.
///
/// # Errors
/// 400, 404 for either image; 409 where it does not fit the disk; 500 for damage in the store; 503 when too many wait.
pub async fn plan(
    State((shared, turns)): Server,
    Path(name): Path<String>,
    query: Result<Query<Planned>, QueryRejection>,
) -> Result<Json<ImagePlan>, Problem> {
    let Query(asked) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let to = resolve(&shared, &name)?;
    let from = asked.from.map(|from| resolve(&shared, &from)).transpose()?;
    let turn = turns.take().await?;
    let names = (to.to_string(), from.as_ref().map(ToString::to_string));
    let work = move || {
        let _turn = turn;
        let plan = shared.images.plan(from.as_ref(), &to, asked.disk_bytes)?;
        let digests = (from.as_ref().map(|from| shared.images.resolve(from)).transpose()?, shared.images.resolve(&to)?);
        let is_seeded = digests.0.is_some_and(|from| is_seed(&shared, &from, &digests.1));
        Ok::<_, PlanError>((plan, is_seeded))
    };
    let done = tokio::task::spawn_blocking(work).await;
    let (plan, is_seeded) = done.map_err(|error| failed(format!("the count failed: {error}")))??;
    Ok(Json(ImagePlan {
        image: names.0,
        from: names.1,
        disk_bytes: plan.disk_bytes,
        manifest_bytes: plan.manifest_bytes,
        order: planned(plan.order(is_seeded)),
        unseeded: plan.unseeded.filter(|_| is_seeded).map(planned),
        blank: planned(plan.blank),
    }))
}

fn planned(fetch: Fetch) -> PlannedFetch {
    PlannedFetch {
        fetched_bytes: fetch.bytes,
        requests: fetch.requests,
        kept_bytes: fetch.kept_bytes,
        copied_bytes: fetch.copied_bytes,
    }
}

/// NAME:VERSION, or what NAME@CHANNEL points to now.
fn resolve(shared: &Shared, name: &str) -> Result<ImageRef, Problem> {
    let image = if name.contains('@') {
        let channel = shared.registry.read(|view| view.images().channels.get(name).cloned());
        let missing = || {
            let shown: String = name.chars().take(140).collect();
            Problem::new(StatusCode::NOT_FOUND, format!("no channel {shown:?}; `regild image channel list` shows all"))
        };
        channel.ok_or_else(missing)?.image
    } else {
        name.to_owned()
    };
    let image: ImageRef = image.parse().map_err(|error| bad(format!("{error}")))?;
    shared.images.show(&image)?;
    Ok(image)
}

fn bad(error: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, error)
}

fn failed(error: String) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error)
}

impl From<DiffError> for Problem {
    fn from(error: DiffError) -> Problem {
        match error {
            DiffError::Store(error) => error.into(),
            DiffError::Stopped => Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            other => failed(causes::in_one_line(&other)),
        }
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Problem {
        match error {
            PlanError::Store(error) => error.into(),
            PlanError::DoesNotFit { .. } | PlanError::Fit { .. } => {
                Problem::new(StatusCode::CONFLICT, causes::in_one_line(&error))
            }
            other => failed(causes::in_one_line(&other)),
        }
    }
}
