//! `regild serve`: open what is on disk, bind every socket, only then start the loops; stop together.

mod authority;
mod pushes;

use crate::causes;
use crate::clock;
use crate::config::{Config, ConfigError};
use crate::db::DbError;
use crate::db::sled::SledDb;
use crate::dhcp;
use crate::http::{self, Shared, assets, listen};
use crate::image::{self, ImageStore};
use crate::ndp::{RecentMacs, RouterAnswers};
use crate::power::{self, Power};
use crate::registry::Registry;
use crate::scheduler;
use crate::tftp;
use crate::upkeep::{self, Upkeep};
use authority::Deciding;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Bootloaders that TFTP hands out; everything larger goes over HTTP.
const TFTP_NAMES: [&str; 3] = ["ipxe.efi", "undionly.kpxe", "local-boot.efi"];

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    #[error("the store cannot be used")]
    Store(#[from] DbError),
    #[error("the image store cannot be used")]
    Images(#[from] image::StoreError),
    #[error("the boot assets cannot be used")]
    Assets(#[from] assets::AssetError),
    #[error("the key of the power passwords cannot be used")]
    PowerKey(#[from] power::seal::SealError),
    #[error("it cannot be said which images may be used")]
    Upkeep(#[from] upkeep::UpkeepError),
    #[error("DHCP cannot be served")]
    Dhcp(#[from] dhcp::BindError),
    #[error("TFTP cannot be served")]
    Tftp(#[from] tftp::BindError),
    #[error("cannot listen on {what}")]
    Bind { what: String, source: std::io::Error },
    #[error("the directory of uploads cannot be used")]
    Uploads(#[from] image::uploads::UploadError),
    #[error("cannot start")]
    Start(#[from] std::io::Error),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`ServeError`] before anything is served; once all sockets are bound it runs.
pub fn run(config: &Path) -> Result<(), ServeError> {
    crate::cli::log_to_stderr();
    share_one_heap();
    let began = clock::instant();
    let config = Config::load(config)?;
    let store = SledDb::open(&config.state_dir)?;
    let assets = assets::Assets::open(&config.boot_assets)?;
    let images = ImageStore::open(&config.state_dir.join("images"))?;
    let (registry, writer) = Registry::start(Box::new(store), &config)?;
    // Two workers: the machine's other cores belong to hashing and compressing (spawn_blocking).
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let power = Power {
        key_file: config.state_dir.join("power.key"),
        command_dir: config.state_dir.join("power.d"),
        limits: power::Limits::default(),
    };
    power.check_key_file()?;
    let (scheduler, handle) = scheduler::run::Loop::new(registry.clone(), power);
    let upkeep = Upkeep::default();
    let pacer = http::pace::Pacer::new(config.http.bandwidth.map(|bandwidth| bandwidth.0));
    let wishes = http::host_baseline::Wishes::new();
    let shared = Arc::new(Shared { registry, images, assets, config, scheduler: handle, upkeep, pacer, wishes });
    // Before anybody is judged: by the defaults of another distribution hosts would drift, or not, for a moment.
    crate::http::drift_image::note_distributions(&shared);
    let images = shared.clone();
    let baselines = std::thread::Builder::new().name("baselines".into());
    let baselines = baselines.spawn(move || images.images.make_wanted_baselines())?;
    let served = runtime.block_on(serve(shared.clone(), scheduler, began));
    shared.images.stop_baselines();
    drop((runtime, shared));
    let _ = baselines.join();
    served?;
    // Every handle is gone now, so the writer ends after what it still had to commit.
    let _ = writer.join();
    tracing::info!("stopped");
    Ok(())
}

/// One heap for all threads, and large pieces outside of it. glibc gives each thread its own, and what a list of 100,000
/// hosts or 5,000 orders leave free in one is of no use to the others: 481 MB became 403 (`make bench-fleet`), and nothing
/// became slower. (With a threshold of 128 KiB 397, but the buffers of an import were mapped anew again and again, and it
/// took a fifth longer.)
fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) only sets numbers of the allocator, before the server's threads are there.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 2 << 20);
    }
}

/// Of each connection: its socket, and where a thread waits for the disk the same once more and a file of its own. Beside them at
/// most 256 packs that are served, 256 that are read and 128 indexes.
const DESCRIPTORS_EACH: u64 = 3;
const DESCRIPTORS_BESIDE: u64 = 1024;

/// Connections are descriptors, and the usual soft limit (1,024) is for programs that use select(2); the hard limit is
/// what the administrator allows.
fn allow_descriptors(connections_max: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit);
    let enough = limit.current.is_none_or(|most| most > connections_max as u64 * DESCRIPTORS_EACH + DESCRIPTORS_BESIDE);
    if raised.is_err() || !enough {
        let allowed = limit.current.unwrap_or(u64::MAX);
        tracing::warn!(
            allowed,
            connections_max,
            "fewer open files are allowed than [http] requests_max may need (three each, and 1,024); raise LimitNOFILE= of the service"
        );
    }
}

async fn serve(
    shared: Arc<Shared>,
    scheduler: scheduler::run::Loop,
    began: std::time::Instant,
) -> Result<(), ServeError> {
    // Before any machine is answered: what is damaged or unsigned must not begin.
    upkeep::refresh(&shared).await?;
    let sockets = bind(&shared).await?;
    let (stop, stopped) = watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    let ipxe = Arc::new(RecentMacs::default());
    let authority = Arc::new(Deciding::new(shared.clone(), ipxe.clone()));
    let connections_max = shared.config.http.requests_max;
    let connections =
        listen::Connections { max: connections_max, of_one_max: shared.config.http.requests_of_one_max() };
    allow_descriptors(connections_max);
    let counters = Arc::new(dhcp::DhcpCounters::default());
    for server in sockets.dhcp {
        tasks.spawn(server.run(authority.clone(), counters.clone(), stopped.clone()));
    }
    for answers in sockets.router_answers {
        tasks.spawn(answers.run(ipxe.clone(), stopped.clone()));
    }
    let files = Arc::new(boot_files(&shared.assets));
    let tftp_counters = Arc::new(tftp::TftpCounters::default());
    for server in sockets.tftp {
        tasks.spawn(server.run(files.clone(), tftp_counters.clone(), stopped.clone()));
    }
    for listener in sockets.http {
        let routes = http::machine_routes(shared.clone());
        tasks.spawn(listen::machines(listener, routes, connections, stopped.clone()));
    }
    tasks.spawn(shared.pacer.clone().run(stopped.clone()));
    tasks.spawn(upkeep::run(shared.clone(), stopped.clone()));
    if let Some(pushing) = sockets.pushing {
        pushing.start(shared.clone(), &mut tasks, &stopped)?;
    }
    tasks.spawn(listen::operators(sockets.operators, http::operator_routes(shared.clone()), stopped));
    tasks.spawn(scheduler.run());
    tracing::info!(
        millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        hosts = shared.registry.read(|view| view.hosts().count()),
        "serving"
    );
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
        ended = tasks.join_next() => tracing::error!(?ended, "a server loop ended by itself; stopping all"),
    }
    // Nobody left to hear it is fine: then everything has stopped already.
    let _ = stop.send(true);
    tasks.shutdown().await;
    let _ = std::fs::remove_file(&shared.config.socket);
    Ok(())
}

struct Sockets {
    dhcp: Vec<dhcp::DhcpServer>,
    tftp: Vec<tftp::TftpServer>,
    http: Vec<TcpListener>,
    router_answers: Vec<RouterAnswers>,
    operators: UnixListener,
    pushing: Option<pushes::Pushing>,
}

/// All sockets or none: a server that answers DHCP but not HTTP would strand every machine that asks.
async fn bind(shared: &Shared) -> Result<Sockets, ServeError> {
    let config = &shared.config;
    let mut sockets = Sockets {
        dhcp: Vec::new(),
        tftp: Vec::new(),
        http: Vec::new(),
        router_answers: Vec::new(),
        operators: listen::bind_operators(&config.socket, config.socket_group.as_deref())
            .map_err(|source| ServeError::Bind { what: config.socket.display().to_string(), source })?,
        pushing: match &config.http.upload {
            Some(upload) => Some(pushes::Pushing::bind(upload).await?),
            None => None,
        },
    };
    for (place, network) in config.networks.iter().enumerate() {
        let failed = |what: String| move |source| ServeError::Bind { what, source };
        sockets.dhcp.push(dhcp::DhcpServer::bind(network.clone(), place)?);
        let tftp = SocketAddrV4::new(network.server_ip, config.tftp.port);
        sockets.tftp.push(tftp::TftpServer::bind(tftp, None)?);
        let http = SocketAddr::from((network.server_ip, config.http.port));
        sockets.http.push(TcpListener::bind(http).await.map_err(failed(format!("HTTP {http}")))?);
        if config.ipv6.answer_router_solicitations {
            // Machines boot without it, some seconds later: no reason not to serve.
            match RouterAnswers::bind(&network.interface) {
                Ok(answers) => sockets.router_answers.push(answers),
                Err(error) => {
                    let error = causes::in_one_line(&error);
                    tracing::warn!(%error, "iPXE will wait for an IPv6 router");
                }
            }
        }
    }
    Ok(sockets)
}

fn boot_files(assets: &assets::Assets) -> tftp::BootFiles {
    let found = TFTP_NAMES.iter().filter_map(|name| Some((name.to_string(), assets.get(name)?)));
    tftp::BootFiles::new(found)
}
