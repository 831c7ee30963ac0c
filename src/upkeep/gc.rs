//! Garbage collection: who uses what, what policy keeps, and then the store.

use super::{UpkeepError, blocking, refresh};
use crate::causes;
use crate::clock;
use crate::decide::version::{self, Fate, Retention, Stage, Version};
use crate::http::Shared;
use crate::image::gc::{Does, GcReport, GcRequest};
use crate::image::{ImageRef, Record, StoreError};
use crate::registry::images::{ImageFacts, Mark, MarkKind};
use crate::wire::operator_images as wire;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// An import that takes longer than this keeps data until the next run.
const PATIENCE: Duration = Duration::from_secs(20);

/// Collects what nobody uses and no policy keeps, or says what would go.
///
/// # Errors
/// [`UpkeepError`] when it cannot be known what there is; what could not be removed is in the report.
pub async fn gc(shared: &Arc<Shared>, dry_run: bool) -> Result<wire::GcReport, UpkeepError> {
    let _turn = shared.upkeep.turn().await?;
    let (records, damaged) = blocking(shared, |shared| shared.images.survey()).await??;
    let versions = versions(shared, &records, &damaged);
    let retention = shared.config.upkeep.retention.unwrap_or_default();
    let mut fates = fates(shared, &versions, retention);
    let goes = |fates: &[Fate]| -> Vec<String> {
        let going = versions.iter().zip(fates).filter(|(_, fate)| matches!(fate, Fate::Goes(_)));
        going.map(|(version, _)| named(version)).collect()
    };
    let mut taken: BTreeSet<String> = goes(&fates).into_iter().collect();
    if !dry_run {
        retire_by_policy(shared, &versions, &mut fates).await;
        // Asked of the writer, after which none of them comes into use any more.
        taken = shared.registry.collect_images(goes(&fates)).await?.into_iter().collect();
        for (version, fate) in versions.iter().zip(&mut fates) {
            if matches!(fate, Fate::Goes(_)) && !taken.contains(&named(version)) {
                *fate = Fate::Stays("it came into use meanwhile".to_string());
            }
        }
    }
    let done = sweep(shared, taken, dry_run).await?;
    if !dry_run {
        refresh(shared).await?;
    }
    Ok(report(&versions, fates, done, dry_run))
}

fn named(version: &Version) -> String {
    format!("{}:{}", version.name, version.version)
}

/// What the store has, with what the registry knows of it.
fn versions(shared: &Shared, records: &[Record], damaged: &[(ImageRef, StoreError)]) -> Vec<Version> {
    let (uses, facts) = shared.registry.read(|view| (view.image_uses(), view.images().clone()));
    let version = |image: &ImageRef, imported_at: u64| {
        let name = image.to_string();
        let used = uses.image(&name);
        Version {
            name: image.name().to_string(),
            version: image.version().to_string(),
            imported_at,
            stage: facts.stage(&name),
            used: used.first().map(|first| (first.clone(), used.len())),
        }
    };
    // Of a record that cannot be read the age is not known: it is young.
    let broken = damaged.iter().map(|(image, _)| version(image, u64::MAX));
    let mut all: Vec<Version> =
        records.iter().map(|record| version(&record.image, record.imported_at)).chain(broken).collect();
    all.sort_by_key(named);
    all
}

fn fates(shared: &Shared, versions: &[Version], retention: Retention) -> Vec<Fate> {
    let facts: Arc<ImageFacts> = shared.registry.read(|view| view.images().clone());
    let mut fates = version::fates(versions, retention, clock::now());
    for (version, fate) in versions.iter().zip(&mut fates) {
        if facts.collected.contains_key(&named(version)) {
            *fate = Fate::Goes("a collection of it had begun".to_string());
        }
    }
    fates
}

/// What only the policy lets go is retired first, by the writer, which looks once more whether it is used.
async fn retire_by_policy(shared: &Shared, versions: &[Version], fates: &mut [Fate]) {
    for (version, fate) in versions.iter().zip(fates) {
        let Fate::Goes(reason) = fate else { continue };
        if version.stage == Stage::Retired {
            continue;
        }
        let mark = Mark {
            image: named(version),
            kind: MarkKind::Retired,
            by: "retention policy".to_string(),
            reason: reason.clone(),
            at: clock::now(),
        };
        if let Err(error) = shared.registry.retire_image(mark, true).await {
            *fate = Fate::Stays(causes::in_one_line(&error));
        }
    }
}

async fn sweep(shared: &Arc<Shared>, taken: BTreeSet<String>, dry_run: bool) -> Result<GcReport, UpkeepError> {
    let in_use = shared.registry.read(|view| view.image_uses()).manifests;
    let collect: BTreeSet<ImageRef> = taken.iter().filter_map(|name| name.parse().ok()).collect();
    let done = blocking(shared, move |shared| {
        let now = clock::now();
        shared.images.gc(&GcRequest { collect: &collect, in_use: &in_use, now, patience: PATIENCE, dry_run })
    });
    Ok(done.await??)
}

fn report(versions: &[Version], fates: Vec<Fate>, done: GcReport, dry_run: bool) -> wire::GcReport {
    let fate = |(version, fate): (&Version, Fate)| {
        let (goes, why) = match fate {
            Fate::Goes(why) => (true, why),
            Fate::Stays(why) => (false, why),
        };
        wire::VersionFate { image: named(version), stage: version.stage.word().to_string(), goes, why }
    };
    let manifest = |(digest, stays): (String, Option<String>)| wire::ManifestFate {
        goes: stays.is_none(),
        why: stays.unwrap_or_else(|| "no version names it".to_string()),
        digest,
    };
    let pack = |fate: crate::image::gc::PackFate| wire::PackFate {
        id: fate.id,
        held_bytes: fate.held_bytes,
        live_bytes: fate.live_bytes,
        does: match fate.does {
            Does::Goes => "goes",
            Does::Thinned => "is thinned",
            Does::Stays => "stays",
        }
        .to_string(),
    };
    wire::GcReport {
        dry_run,
        versions: versions.iter().zip(fates).map(fate).collect(),
        manifests: done.manifests.into_iter().map(manifest).collect(),
        packs: done.packs.into_iter().map(pack).collect(),
        freed_bytes: done.freed_bytes,
        held_back: done.held_back,
        failed: done.failed,
    }
}
