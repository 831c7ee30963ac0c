//! What drift needs of images: the one place that asks the image store for a baseline, or for a file of an image.

use super::Shared;
use crate::decide::drift::path;
use crate::image::baseline::{BaselineRecord, BaselineState};
use crate::wire::baseline::{Origin, Reader};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A baseline that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub digest: String,
    /// Where it comes from, for people.
    pub origin: String,
}

/// The baseline of an image, by its manifest's digest. One that nobody has tried to make yet is made from then on.
///
/// # Errors
/// Why there is none, for people.
pub(super) async fn baseline_of(shared: &Arc<Shared>, manifest: &str) -> Result<Known, String> {
    let (shared, manifest) = (shared.clone(), manifest.to_string());
    let found = tokio::task::spawn_blocking(move || baseline(&shared, &manifest));
    found.await.unwrap_or_else(|error| Err(format!("the baseline cannot be looked up: {error}")))
}

fn baseline(shared: &Shared, manifest: &str) -> Result<Known, String> {
    let record = shared.images.baseline_of(manifest).map_err(|error| error.to_string())?;
    let Some(record) = record else {
        shared.images.want_baseline(manifest);
        return Err("its baseline is being made".to_string());
    };
    note_distribution(shared, &record);
    match record.state {
        BaselineState::Ready { digest, origin, entries, .. } => {
            let origin = match origin {
                Origin::Image => format!("{entries} paths, read from the image"),
                Origin::Host { id, .. } => format!("{entries} paths, read by the deploy environment of {id}"),
            };
            Ok(Known { digest, origin })
        }
        BaselineState::NeedsHost { reason } | BaselineState::Failed { reason } => Err(reason),
    }
}

/// Whether a path is in the image's baseline; `None`: there is none, or it cannot be read.
pub(super) async fn holds(shared: &Arc<Shared>, manifest: &str, at: &[u8]) -> Option<bool> {
    let (shared, manifest, at) = (shared.clone(), manifest.to_string(), at.to_vec());
    let looked = tokio::task::spawn_blocking(move || {
        let known = baseline(&shared, &manifest).ok()?;
        let list = shared.images.baseline_list(&known.digest).ok()?;
        for entry in Reader::new(list).ok()? {
            match path::order(&entry.ok()?.path, &at) {
                Ordering::Less => {}
                Ordering::Equal => return Some(true),
                Ordering::Greater => return Some(false),
            }
        }
        Some(false)
    });
    looked.await.ok().flatten()
}

/// The first bytes of a file of an image. Reads the image's file system, so not where others wait.
pub(super) fn file(shared: &Shared, manifest: &str, path: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let read = shared.images.read_file(manifest, path, bytes_max);
    read.inspect_err(|error| tracing::debug!(manifest, %error, "a file of an image cannot be read")).ok().flatten()
}

/// For each image whose hosts have reported: of which distribution it is. For the start of the server.
pub fn note_distributions(shared: &Shared) {
    let images: BTreeSet<String> = shared.registry.read(|all| {
        let watched = all.hosts().filter(|view| all.drift().host(&view.host.id).is_some());
        watched.filter_map(|view| Some(view.host.reported.as_ref()?.manifest.clone())).collect()
    });
    let records = images.iter().filter_map(|manifest| shared.images.baseline_of(manifest).ok().flatten());
    records.for_each(|record| note_distribution(shared, &record));
}

/// One that nobody could read is that of no distribution that is known.
fn note_distribution(shared: &Shared, record: &BaselineRecord) {
    let os_release = record.os_release.as_deref().unwrap_or_default();
    shared.registry.read(|all| {
        if record.digest().is_some() && !all.knows_os_release(&record.manifest) {
            all.note_os_release(&record.manifest, os_release);
        }
    });
}
