//! The keeping of images: what registry and image store must agree on. Garbage collection, scrub, signatures.
//!
//! The store knows contents and not who uses them; the registry knows who uses what and not whether it can be read. Here
//! the two are asked, one turn at a time, and `decide::version` says what follows.

pub mod gc;
pub mod scrub;

use crate::causes;
use crate::clock;
use crate::config;
use crate::http::Shared;
use crate::image::signature::PublicKey;
use crate::image::{ImageRef, Record, StoreError};
use crate::registry::RegistryError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How often it is looked whether something is due.
const LOOK: Duration = Duration::from_secs(30);

/// Why the keeping of images failed.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the work ended by itself: {0}")]
    Ended(String),
    #[error("a scrub is running, which can take hours; ask again when it has ended")]
    Scrubbing,
}

/// What is kept in memory about it.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// One collection or scrub at a time.
    turn: tokio::sync::Mutex<()>,
    /// Whose turn it is: nobody waits behind a scrub.
    is_scrubbing: AtomicBool,
    /// One at a time finds out what may be ordered and says so: what was found out earlier must not be said later.
    refreshing: tokio::sync::Mutex<()>,
    trusted: Mutex<Trusted>,
    /// The server stops.
    stopping: Arc<AtomicBool>,
}

/// Of which versions a trusted key has signed name and content.
#[derive(Debug, Default)]
struct Trusted {
    /// Digests of their manifests: what is served to agents where signatures are required.
    manifests: BTreeSet<String>,
    signed_by: BTreeMap<String, Vec<String>>,
}

impl Upkeep {
    /// # Errors
    /// [`UpkeepError::Scrubbing`].
    async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, UpkeepError> {
        match self.turn.try_lock() {
            Ok(turn) => Ok(turn),
            Err(_) if self.is_scrubbing.load(Ordering::Relaxed) => Err(UpkeepError::Scrubbing),
            Err(_) => Ok(self.turn.lock().await),
        }
    }

    fn trusted(&self) -> std::sync::MutexGuard<'_, Trusted> {
        // Replaced whole.
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trusted keys that signed a version.
    #[must_use]
    pub fn signed_by(&self, image: &str) -> Vec<String> {
        self.trusted().signed_by.get(image).cloned().unwrap_or_default()
    }

    /// Whether machines may have this manifest.
    #[must_use]
    pub fn may_serve(&self, config: &config::Upkeep, digest: &str) -> bool {
        !config.trust_required || self.trusted().manifests.contains(digest)
    }
}

/// Looks again which versions may be ordered, and tells the registry. After whatever may have changed it: an import, a
/// signature, a scrub, a collection.
///
/// # Errors
/// [`UpkeepError`]; what was known before holds then.
pub async fn refresh(shared: &Arc<Shared>) -> Result<(), UpkeepError> {
    let _alone = shared.upkeep.refreshing.lock().await;
    let (unfit, trusted) = blocking(shared, judge).await??;
    let required = shared.config.upkeep.trust_required;
    let signed = required.then(|| trusted.signed_by.keys().cloned().collect());
    *shared.upkeep.trusted() = trusted;
    Ok(shared.registry.set_unfit_images(unfit, signed).await?)
}

fn judge(shared: &Shared) -> Result<(BTreeMap<String, String>, Trusted), StoreError> {
    let config = &shared.config.upkeep;
    let mut unfit: BTreeMap<String, String> =
        shared.images.damaged()?.into_iter().map(|(image, why)| (image.to_string(), why)).collect();
    let mut trusted = Trusted::default();
    if config.trusted_keys.is_empty() && !config.trust_required {
        return Ok((unfit, trusted));
    }
    for record in shared.images.survey()?.0 {
        let keys = signers(shared, &record, &config.trusted_keys);
        let name = record.image.to_string();
        match keys {
            Ok(keys) if !keys.is_empty() => {
                trusted.manifests.insert(record.manifest);
                trusted.signed_by.insert(name, keys);
            }
            _ if !config.trust_required => {}
            Ok(_) => {
                let why = "no trusted key has signed it (`image sign`, [image.trust] in the configuration)";
                unfit.entry(name).or_insert_with(|| why.to_string());
            }
            Err(error) => {
                unfit.entry(name).or_insert_with(|| causes::in_one_line(&error));
            }
        }
    }
    Ok((unfit, trusted))
}

fn signers(shared: &Shared, record: &Record, keys: &[PublicKey]) -> Result<Vec<String>, StoreError> {
    Ok(shared.images.verify(record, keys)?.into_iter().filter_map(|verdict| verdict.key).collect())
}

/// Work on the store, away from the threads that answer.
async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> T + Send + 'static,
) -> Result<T, UpkeepError> {
    let shared = shared.clone();
    let done = tokio::task::spawn_blocking(move || work(&shared)).await;
    done.map_err(|error| UpkeepError::Ended(error.to_string()))
}

/// Whether an import of this version must wait: a collection has begun that will take it off the list.
#[must_use]
pub fn is_being_collected(shared: &Shared, image: &ImageRef) -> bool {
    let is_collected = shared.registry.read(|view| view.images().collected.contains_key(&image.to_string()));
    // A record that cannot be read is there as well.
    is_collected && !matches!(shared.images.show(image), Err(StoreError::NoImage(_)))
}

/// A version was imported: it may have been collected before, and it may have mended others.
///
/// # Errors
/// [`UpkeepError`]: the image is there all the same.
pub async fn imported(shared: &Arc<Shared>, image: &ImageRef) -> Result<(), UpkeepError> {
    let name = image.to_string();
    if shared.registry.read(|view| view.images().collected.contains_key(&name)) {
        shared.registry.image_restored(name).await?;
    }
    refresh(shared).await
}

/// Collects and scrubs when it is due, until the server stops.
pub async fn run(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let stopping = shared.upkeep.stopping.clone();
    let looking = async {
        let mut collected_at = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            let config = &shared.config.upkeep;
            let now = clock::now();
            if config.retention.is_some() && now.saturating_sub(collected_at) >= config.collect_every_seconds {
                collected_at = now;
                match gc::gc(&shared, false).await {
                    Ok(report) => tracing::info!(freed_bytes = report.freed_bytes, "images were collected"),
                    // At the next look, then.
                    Err(UpkeepError::Scrubbing) => collected_at = 0,
                    Err(error) => {
                        tracing::error!(error = causes::in_one_line(&error), "images could not be collected");
                    }
                }
            }
            let is_due = |every: u64| now.saturating_sub(shared.images.scrubbed_at()) >= every;
            if config.scrub_every_seconds.is_some_and(is_due)
                && let Err(error) = scrub::scrub(&shared, None, None).await
            {
                tracing::error!(error = causes::in_one_line(&error), "the image store could not be scrubbed");
            }
        }
    };
    tokio::select! {
        () = looking => {}
        _ = stopped.changed() => {}
    }
    stopping.store(true, Ordering::Relaxed);
}
