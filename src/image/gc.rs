//! Garbage collection: versions that are to go, manifests that nothing names, packs that no manifest needs, and room
//! in packs of which little is needed.
//!
//! What stays is marked from the records, from the manifests that the caller knows to be in use, and from what was served
//! a short while ago. What goes, goes in this order, each step on stable storage before the next:
//!
//! ```text
//! names/ -> gone/   one rename for each version
//! signatures, baselines and manifests of what is not named any more
//! packs without a reader, then their indexes
//! indexes of thinned packs without the dropped frames, and then the packs themselves (compact.rs)
//! ```
//!
//! So a crash leaves data without a name, which the next run finds, and never a name without its data. Imports wait while
//! things are removed (but not while packs are copied); what an import is in the middle of is under `tmp/`, where nothing
//! is collected.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::uses::{Live, digests_in};
use super::{ImageRef, ImageStore, StoreError, files};
use crate::clock::{self, UnixSeconds};
use crate::wire::manifest;

/// A manifest that was served stays so long, with its packs: somebody may be writing a disk by it without an order (the
/// agent by hand). An order keeps it however long it takes.
pub const GRACE_SECONDS: u64 = 3600;
const PAUSE: Duration = Duration::from_millis(50);

/// What a run is to do.
#[derive(Debug)]
pub struct GcRequest<'a> {
    /// Versions that go. Whoever says so has made sure that none of them comes into use meanwhile.
    pub collect: &'a BTreeSet<ImageRef>,
    /// Manifests (hex digests) that stay though nothing in the store names them: why.
    pub in_use: &'a BTreeMap<String, String>,
    pub now: UnixSeconds,
    /// How long to wait for an import that is under way; then the data is left to the next run.
    pub patience: Duration,
    pub dry_run: bool,
}

/// What a run did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    pub collected: Vec<ImageRef>,
    /// Manifests without a name: the digest, and why it stays if it does.
    pub manifests: Vec<(String, Option<String>)>,
    /// Every pack with something in it that is not needed.
    pub packs: Vec<PackFate>,
    /// Compressed bytes of packs, indexes not counted.
    pub freed_bytes: u64,
    /// Why data stays that would have gone.
    pub held_back: Option<String>,
    /// What was tried and failed; the store is whole all the same.
    pub failed: Vec<String>,
}

impl GcReport {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let goes = |fate: &PackFate| fate.does != Does::Stays;
        self.collected.is_empty()
            && self.manifests.iter().all(|(_, stays)| stays.is_some())
            && !self.packs.iter().any(goes)
            && self.held_back.is_none()
            && self.failed.is_empty()
    }
}

/// What becomes of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackFate {
    pub id: String,
    /// Bytes of frames that are in it now.
    pub held_bytes: u64,
    /// Bytes of them that versions need.
    pub live_bytes: u64,
    pub does: Does,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// Nothing needs it.
    Goes,
    /// Written anew with what is needed.
    Thinned,
    /// Too little in it is unneeded for the copying to be worth while.
    Stays,
}

/// All records, and the versions of which the record cannot be read.
pub type Survey = (Vec<super::Record>, Vec<(ImageRef, StoreError)>);

/// Manifests that were served, and when.
#[derive(Debug, Default)]
pub(super) struct Served(Mutex<BTreeMap<String, UnixSeconds>>);

impl Served {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, UnixSeconds>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is there, and what of it is needed.
struct Marked {
    /// Manifests that nothing needs.
    unneeded: Vec<String>,
    live: Live,
}

impl ImageStore {
    /// Notes that a manifest was given to somebody, who will now fetch what it names.
    pub fn note_served(&self, digest: &str, now: UnixSeconds) {
        self.served.lock().insert(digest.to_owned(), now);
    }

    /// Removes what is not needed, or says what would be removed.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be looked through; what failed to be removed is in the report.
    pub fn gc(&self, request: &GcRequest<'_>) -> Result<GcReport, StoreError> {
        let mut report = GcReport::default();
        let thinned = {
            let alone = self.alone(if request.dry_run { Duration::ZERO } else { request.patience });
            if alone.is_none() {
                report.held_back = Some("an import is running; the next run looks at the data".to_string());
            }
            // A version is taken off the list beside an import: that is one rename, and the caller has seen to it that
            // the version is not the import's.
            for image in request.collect {
                self.collect_one(image, request.dry_run, &mut report);
            }
            if alone.is_none() && !request.dry_run {
                return Ok(report);
            }
            match self.mark(request, &mut report)? {
                Some(marked) => self.sweep(&marked, request.dry_run, request.now, &mut report)?,
                None => return Ok(report),
            }
        };
        // From here on beside imports: what is dropped from the indexes no import builds on.
        for id in thinned {
            if let Err(error) = self.thin(&id) {
                report.failed.push(crate::causes::in_one_line(&error));
            }
        }
        Ok(report)
    }

    /// Keeps imports away, if they let us in.
    pub(super) fn alone(&self, patience: Duration) -> Option<MutexGuard<'_, ()>> {
        let since = clock::instant();
        loop {
            match self.importing.try_lock() {
                Ok(guard) => return Some(guard),
                // It guards no data.
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if since.elapsed() >= patience => return None,
                Err(TryLockError::WouldBlock) => clock::sleep(PAUSE),
            }
        }
    }

    fn collect_one(&self, image: &ImageRef, dry_run: bool, report: &mut GcReport) {
        if !self.record_path(image).exists() {
            return;
        }
        let done = if dry_run { Ok(()) } else { self.take_off_the_list(image) };
        match done {
            Ok(()) => report.collected.push(image.clone()),
            Err(error) => report.failed.push(crate::causes::in_one_line(&error)),
        }
    }

    /// `None`: it cannot be known what is needed, so nothing of the data may go. The report says why.
    fn mark(&self, request: &GcRequest<'_>, report: &mut GcReport) -> Result<Option<Marked>, StoreError> {
        let mut kept: BTreeMap<String, Option<String>> = BTreeMap::new();
        let (records, damaged) = self.survey()?;
        if let Some((image, error)) = damaged.iter().find(|(image, _)| !request.collect.contains(image)) {
            let why = crate::causes::in_one_line(error);
            report.held_back =
                Some(format!("{image}: {why}; it is not known what it needs: import it again, or remove it"));
            return Ok(None);
        }
        for record in records.iter().filter(|record| !request.collect.contains(&record.image)) {
            kept.insert(record.manifest.clone(), None);
        }
        let mut served = self.served.lock();
        served.retain(|_, at| *at + GRACE_SECONDS > request.now);
        let recently = served.keys().map(|digest| (digest, "it was served within the last hour".to_string()));
        let in_use = request.in_use.iter().map(|(digest, why)| (digest, why.clone()));
        for (digest, why) in in_use.chain(recently) {
            kept.entry(digest.clone()).or_insert(Some(why));
        }
        drop(served);
        let there = digests_in(&self.dir.join("manifests"), "")?;
        // By name, which is in order.
        let is_lost = |digest: &str| there.binary_search_by(|known| known.as_str().cmp(digest)).is_err();
        if let Some((digest, _)) = kept.iter().find(|(digest, why)| why.is_none() && is_lost(digest)) {
            report.held_back = Some(format!(
                "manifest {digest} of a listed version is missing; it is not known what it needs: `regild image scrub`"
            ));
            return Ok(None);
        }
        let mut uses = Vec::with_capacity(there.len());
        let mut unneeded = Vec::new();
        for digest in there {
            match kept.get(&digest) {
                Some(stays) => {
                    match self.uses(&digest) {
                        Ok(known) => uses.push(known),
                        Err(error) => {
                            let why = crate::causes::in_one_line(&error);
                            report.held_back =
                                Some(format!("{why}; it is not known what it needs: `regild image scrub`"));
                            return Ok(None);
                        }
                    }
                    report.manifests.extend(stays.clone().map(|why| (digest, Some(why))));
                }
                None => unneeded.push(digest),
            }
        }
        Ok(Some(Marked { unneeded, live: Live::of(&uses) }))
    }

    /// Removes, and gives the packs that are to be thinned.
    fn sweep(
        &self,
        marked: &Marked,
        dry_run: bool,
        now: UnixSeconds,
        report: &mut GcReport,
    ) -> Result<Vec<String>, StoreError> {
        report.manifests.extend(marked.unneeded.iter().map(|digest| (digest.clone(), None)));
        let fates = self.pack_fates(&marked.live, report)?;
        for fate in &fates {
            report.freed_bytes += if fate.does == Does::Stays { 0 } else { fate.held_bytes - fate.live_bytes };
        }
        report.packs = fates;
        if dry_run {
            return Ok(Vec::new());
        }
        for name in files::entries(&self.dir.join("names"))? {
            // Of names without versions; a directory that is not empty stays.
            let _ = fs::remove_dir(self.dir.join("names").join(name));
        }
        self.remove_signatures_of_nothing()?;
        self.remove_copies_after(&marked.unneeded)?;
        self.remove_baselines(&marked.unneeded, now)?;
        let manifests = self.dir.join("manifests");
        for digest in &marked.unneeded {
            self.uses.forget(digest);
            files::remove(&manifests.join(digest))?;
        }
        files::sync_dir(&manifests)?;
        let with_fate = |does: Does| report.packs.iter().filter(move |fate| fate.does == does);
        self.remove_packs(with_fate(Does::Goes).map(|fate| fate.id.as_str()))?;
        self.forget_damage(&marked.live)?;
        let mut thinned = Vec::new();
        let mut failed = Vec::new();
        for fate in with_fate(Does::Thinned) {
            match self.drop_frames(&fate.id, &marked.live) {
                Ok(()) => thinned.push(fate.id.clone()),
                Err(error) => failed.push(crate::causes::in_one_line(&error)),
            }
        }
        report.failed.append(&mut failed);
        Ok(thinned)
    }

    /// The pack first: an index without a pack is rubbish by itself, a pack without an index is not.
    fn remove_packs<'a>(&self, ids: impl Iterator<Item = &'a str> + Clone) -> Result<(), StoreError> {
        let dir = self.dir.join("packs");
        for id in ids.clone() {
            self.packs.forget(id);
            files::remove(&dir.join(format!("{id}.pack")))?;
        }
        files::sync_dir(&dir)?;
        for index in digests_in(&dir, ".idx")? {
            if !dir.join(format!("{index}.pack")).exists() {
                files::remove(&dir.join(format!("{index}.idx")))?;
            }
        }
        Ok(())
    }

    fn remove_signatures_of_nothing(&self) -> Result<(), StoreError> {
        let dir = self.dir.join("signatures");
        if !dir.exists() {
            return Ok(());
        }
        for name in files::entries(&dir)? {
            let image: Option<ImageRef> = name.parse().ok();
            if image.is_some_and(|image| !self.record_path(&image).exists()) {
                files::remove(&dir.join(name))?;
            }
        }
        Ok(())
    }

    /// What was damaged and is gone is no damage any more; a pack that is missing and needed is.
    fn forget_damage(&self, live: &Live) -> Result<(), StoreError> {
        self.update_bad(|list| {
            list.packs.retain(|id, _| self.pack_path(id).exists() || live.bytes(&pack_digest(id)) > 0);
            list.manifests.retain(|digest, _| self.manifest_path(digest).exists());
            list.records.retain(|image, _| self.record_path(image).exists());
        })
    }

    /// All records, and those that cannot be read.
    ///
    /// # Errors
    /// When the list of names cannot be read.
    pub fn survey(&self) -> Result<Survey, StoreError> {
        let (mut records, mut damaged) = (Vec::new(), Vec::new());
        for image in self.names()? {
            match self.show(&image) {
                Ok(record) => records.push(record),
                // Taken off the list since the directory was read.
                Err(StoreError::NoImage(_)) => {}
                Err(error) => damaged.push((image, error)),
            }
        }
        Ok((records, damaged))
    }

    /// Every reference that is listed, whether its record can be read or not.
    pub(super) fn names(&self) -> Result<Vec<ImageRef>, StoreError> {
        let mut images = Vec::new();
        let names = self.dir.join("names");
        for name in files::entries(&names)? {
            let versions = match fs::metadata(names.join(&name)) {
                Ok(metadata) if metadata.is_dir() => files::entries(&names.join(&name)),
                // Collected since, or a file that a person put there.
                _ => continue,
            };
            // Files that people put there are not ours to judge.
            images.extend(versions?.iter().filter_map(|version| ImageRef::new(&name, version).ok()));
        }
        images.sort();
        Ok(images)
    }
}

/// Hex id of a pack as bytes; ids come from `digests_in`, which lets nothing else through.
pub(super) fn pack_digest(id: &str) -> manifest::Digest {
    manifest::from_hex(id).unwrap_or_default()
}

#[cfg(test)]
mod tests;
