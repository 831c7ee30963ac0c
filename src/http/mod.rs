//! HTTP: on each network's address for machines, on a Unix socket for operators; and, where it is configured, on an
//! address of its own for pushing images.
//!
//! Routers that share nothing: a machine can reach no operator route, whatever it sends.

pub mod agent;
pub mod assets;
pub mod body;
pub mod boot;
mod conditional;
pub mod drift;
pub mod drift_image;
mod drift_shown;
#[cfg(fuzzing)]
pub mod fuzzing;
mod guard;
pub mod host_baseline;
pub mod image_upload;
pub mod images;
pub mod listen;
pub mod listen_upload;
mod log_gate;
pub mod operator;
pub mod operator_baselines;
pub mod operator_brakes;
pub mod operator_channels;
pub mod operator_diff;
pub mod operator_drift;
pub mod operator_fleet;
pub mod operator_images;
pub mod operator_keep;
pub mod operator_ledger;
pub mod operator_list;
pub mod operator_many;
pub mod operator_power;
pub mod operator_proposals;
pub mod operator_rollouts;
pub mod operator_verify;
pub mod operator_watch;
pub mod outgoing;
pub mod pace;
pub mod peer;
pub mod probe;
pub mod problem;
mod said;
mod sending;
mod sources;
mod stall;
pub mod standby;
mod upload;
pub mod verify;

use crate::config::Config;
use crate::decide::mac::Mac;
use crate::image::ImageStore;
use crate::registry::Registry;
use assets::Assets;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{delete, get, post, put};
use listen::Peer;
use std::net::IpAddr;
use std::sync::Arc;

/// The longest body that a machine may send. An inventory of 64 disks has 20 KiB.
const MACHINE_BODY_BYTES_MAX: usize = 256 * 1024;

/// A document of 100,000 hosts with labels has 30 MB.
const FLEET_BODY_BYTES_MAX: usize = 64 << 20;
/// The longest JSON body that an operator may send.
const OPERATOR_BODY_BYTES_MAX: usize = 256 * 1024;

/// What every handler is given.
#[derive(Debug)]
pub struct Shared {
    pub registry: Registry,
    pub images: ImageStore,
    pub assets: Assets,
    pub config: Config,
    pub scheduler: crate::scheduler::run::Handle,
    pub upkeep: crate::upkeep::Upkeep,
    pub pacer: Arc<pace::Pacer>,
    /// One for all listeners: a host may be asked through one and answer through another.
    pub wishes: Arc<host_baseline::Wishes>,
}

impl Shared {
    /// The MAC to which the address of this peer is leased: the nearest thing to proof of who asks.
    fn lease_holder(&self, peer: Peer) -> Option<Mac> {
        match peer.remote.ip() {
            IpAddr::V4(ip) => self.registry.read(|view| view.lease_holder(ip)),
            IpAddr::V6(_) => None,
        }
    }
}

/// Routes for machines: firmware, iPXE, the agent, the installed system. None of them lists anything.
pub fn machine_routes(shared: Arc<Shared>) -> Router {
    let report = post(drift::report).layer(DefaultBodyLimit::max(drift::REPORT_BODY_BYTES_MAX));
    let guarded = Router::new()
        .route("/agent/v1/checkin", post(agent::check_in))
        .route("/agent/v1/report", post(agent::report))
        .route("/agent/v1/baseline", post(host_baseline::take))
        .route("/agent/v1/verify/checkin", post(verify::check_in))
        .route("/agent/v1/verify/report", post(verify::report))
        .layer(axum::Extension(shared.wishes.clone()))
        .layer(middleware::from_fn_with_state(guard::Door::of_boots(), guard::bounded_guesses));
    let signed = Router::new()
        .route("/agent/v1/drift/key", post(drift::key))
        .route("/agent/v1/drift/report", report)
        .layer(middleware::from_fn_with_state(guard::Door::of_signatures(), guard::bounded_guesses));
    Router::new()
        .merge(guarded)
        .merge(signed)
        .route("/healthz", get(async || "ok\n"))
        .route("/boot/{mac}/{firmware}", get(boot::script).layer(axum::Extension(log_gate::LogGate::new())))
        .route("/assets/{name}", get(assets::serve))
        .route("/images/refs/{name}", get(images::resolve))
        .route("/images/manifests/{digest}", get(images::manifest))
        .route("/images/packs/{id}", get(images::pack))
        .route("/images/baselines/{digest}", get(images::baseline))
        .route("/agent/v1/installed", post(agent::installed))
        .route("/agent/v1/standby", post(standby::ask))
        .route("/agent/v1/drift/terms", get(drift::terms))
        .layer(DefaultBodyLimit::max(MACHINE_BODY_BYTES_MAX))
        .with_state(shared)
}

/// Routes for operators, on the Unix socket only.
pub fn operator_routes(shared: Arc<Shared>) -> Router {
    // An image has no length limit as a body: the import stops at the configured size once unpacked.
    let image = get(operator_images::show).put(operator_images::import).layer(DefaultBodyLimit::disable());
    let ledger = Router::new()
        .route("/v1/ledger", get(operator_ledger::entries))
        .route("/v1/ledger/at", get(operator_ledger::at))
        .route("/v1/ledger/verify", post(operator_ledger::verify))
        .with_state((shared.clone(), operator_ledger::Places::default()));
    let comparisons = Router::new()
        .route("/v1/images/{name}/diff", get(operator_diff::diff))
        .route("/v1/images/{name}/plan", get(operator_diff::plan))
        .with_state((shared.clone(), operator_diff::Turns::default()));
    Router::new()
        .merge(ledger)
        .merge(comparisons)
        .route("/v1/drift", get(operator_drift::list))
        .route("/v1/drift/top", get(operator_drift::top))
        .route("/v1/drift/hosts/{id}", get(operator_drift::show))
        .route("/v1/drift/hosts/{id}/explain", get(operator_drift::explain))
        .route("/v1/drift/hosts/{id}/forget-key", post(operator_drift::forget_key))
        .route("/v1/drift/exceptions", get(operator_drift::exceptions).post(operator_drift::accept))
        .route("/v1/drift/exceptions/{number}", delete(operator_drift::end_exception))
        .route("/v1/ledger/tip", get(operator_ledger::tip))
        .route("/v1/hosts", get(operator_list::host_list))
        .route("/v1/hosts/{id}", get(operator::host_show).delete(operator::host_remove))
        .route("/v1/hosts/{id}/history", get(operator::host_history))
        .route("/v1/hosts/{id}/approve", post(operator::host_approve))
        .route("/v1/fleet", get(operator_fleet::show))
        .route("/v1/fleet/diff", post(operator_fleet::diff).layer(DefaultBodyLimit::max(FLEET_BODY_BYTES_MAX)))
        .route("/v1/fleet/apply", post(operator_fleet::apply).layer(DefaultBodyLimit::max(FLEET_BODY_BYTES_MAX)))
        .route("/v1/inventory/ansible", get(operator_fleet::inventory))
        .route("/v1/reimage", post(operator_many::reimage))
        .route("/v1/verify", post(operator_verify::ask))
        .route("/v1/proposals", get(operator_proposals::list))
        .route("/v1/proposals/{number}", delete(operator_proposals::withdraw))
        .route("/v1/proposals/{number}/confirm", post(operator_proposals::confirm))
        .route("/v1/channels", get(operator_channels::list))
        .route("/v1/channels/{name}", put(operator_channels::set))
        .route("/v1/channels/{name}/history", get(operator_channels::history))
        .route("/v1/images/{name}/mark", post(operator_channels::mark))
        .route("/v1/images/{name}/remove", post(operator_keep::remove))
        .route("/v1/images/{name}/signatures", get(operator_keep::signatures).post(operator_keep::sign))
        .route("/v1/gc", post(operator_keep::gc))
        .route("/v1/scrub", post(operator_keep::scrub))
        .route("/v1/hosts/{id}/hold", post(operator::host_hold))
        .route("/v1/hosts/{id}/release", post(operator::host_release))
        .route("/v1/brakes", get(operator_brakes::show))
        .route("/v1/stop", post(operator_brakes::stop))
        .route("/v1/resume", post(operator_brakes::resume))
        .route("/v1/breaker/reset", post(operator_brakes::reset))
        .route("/v1/clock/accept", post(operator_brakes::accept_clock))
        .route("/v1/hosts/{id}/power", put(operator_power::set))
        .route("/v1/rollouts", get(operator_rollouts::list).post(operator_rollouts::start))
        .route("/v1/rollouts/{number}", get(operator_rollouts::show))
        .route("/v1/rollouts/{number}/{verb}", post(operator_rollouts::command))
        .route("/v1/serving", get(pace::serving))
        .route("/v1/watch", get(operator_watch::watch))
        .route("/v1/images", get(operator_images::list))
        .route("/v1/images/{name}", image)
        .route("/v1/images/{name}/export", post(operator_images::export))
        .route(
            "/v1/images/{name}/baseline",
            get(operator_baselines::show).post(operator_baselines::make).delete(operator_baselines::forget),
        )
        .route("/v1/images/{name}/files", get(operator_baselines::files))
        .layer(DefaultBodyLimit::max(OPERATOR_BODY_BYTES_MAX))
        .with_state(shared)
}
