//! Baselines: which files an image consists of, made from its own bytes. `docs/drift.md` tells the form.
//!
//! ```text
//! baselines/<digest>              the list (wire::baseline); named by the digest of the file
//! baselines/by-image/<manifest>   small JSON: which list an image has, or why it has none
//! ```
//!
//! The list is on stable storage before the record that names it. One that no record names is removed when the store is
//! opened.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::mapped::MappedFile;
use super::{ImageStore, StoreError, files, io_error, pack_cache};
use crate::causes;
use crate::clock::UnixSeconds;
use crate::decide::drift::path;
use crate::volume::batch::Hashed;
use crate::volume::layout;
use crate::volume::{Tree, VolumeError};
use crate::wire::baseline::{self, BaselineError, Entry, Header, Origin, Volume};
use crate::wire::manifest;

mod host;
mod queue;
pub(super) mod survey;

pub use host::{FromHost, HostBaselineError};
pub(super) use queue::Queue;

const RECORD_FORMAT: u32 = 1;
/// A list that a host sends: as much as the agent makes. One of a million files has 60 MB.
pub const HOST_BASELINE_BYTES_MAX: u64 = 256 << 20;

/// What the store knows of an image's baseline; the JSON file under `baselines/by-image/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineRecord {
    format: u32,
    /// Hex digest of the image's manifest.
    pub manifest: String,
    pub state: BaselineState,
    /// When it was made or tried.
    pub made_at: UnixSeconds,
    /// How each part of the image is known; empty where nobody could tell.
    pub volumes: Vec<Volume>,
    /// The image's os-release(5), where the server could read it: of which distribution it is.
    pub os_release: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaselineState {
    Ready {
        /// Hex digest that names the list.
        digest: String,
        origin: Origin,
        entries: u64,
        baseline_bytes: u64,
    },
    /// The deploy environment's kernel reads it on the first host that gets the image.
    NeedsHost { reason: String },
    /// Tried again when the server starts, and when it is asked for.
    Failed { reason: String },
}

impl BaselineRecord {
    /// The digest of the list, where there is one.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        match &self.state {
            BaselineState::Ready { digest, .. } => Some(digest),
            _ => None,
        }
    }
}

/// Why an image's own bytes do not give a baseline.
#[derive(Debug, Error)]
pub enum MakeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the image's data cannot be read")]
    Read(#[source] std::io::Error),
    #[error("partition {partition} of the image cannot be read")]
    Volume { partition: u32, source: VolumeError },
    #[error("what was read cannot be written down")]
    Baseline(#[from] BaselineError),
    #[error(
        "partition {partition} is {format}: the deploy environment's kernel reads it on the first host that gets the image"
    )]
    NeedsHost { partition: u32, format: &'static str, volumes: Vec<Volume> },
    #[error("no partition of the image holds /etc/fstab or /usr, so none is known as its root (seen: {seen})")]
    NoRoot { seen: String },
    #[error("the server was stopped meanwhile")]
    Stopped,
}

impl ImageStore {
    /// What is known of an image's baseline; `None`: nobody has tried yet.
    ///
    /// # Errors
    /// [`StoreError::NoManifest`] for what is no digest, [`StoreError::Damaged`], [`StoreError::Io`].
    pub fn baseline_of(&self, manifest: &str) -> Result<Option<BaselineRecord>, StoreError> {
        let path = self.baseline_record_path(manifest)?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        let damaged = |reason: String| StoreError::Damaged { path: path.clone(), reason };
        let record: BaselineRecord = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if record.format != RECORD_FORMAT || record.manifest != manifest {
            return Err(damaged(format!("format {}, of {}", record.format, record.manifest)));
        }
        Ok(Some(record))
    }

    /// Reads an image and writes its baseline, unless it has one. Takes seconds for each GB; one at a time. What went
    /// wrong is in the record.
    ///
    /// # Errors
    /// [`MakeError::Store`] when nothing could be written down; [`MakeError::Stopped`].
    pub fn make_baseline(&self, manifest: &str, now: UnixSeconds) -> Result<BaselineRecord, MakeError> {
        // The lock guards no data.
        let _alone = self.baselining.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.baseline_of(manifest)?;
        if let Some(record) = before.as_ref().filter(|record| record.digest().is_some()) {
            return Ok(record.clone());
        }
        let failed = |reason| (BaselineState::Failed { reason }, Vec::new(), None);
        // Our own readers have no panic that is known; an image that finds one costs its own baseline only.
        let built = catch_unwind(AssertUnwindSafe(|| self.build(manifest)));
        let (state, volumes, os_release) = match built {
            Ok(Ok((state, volumes))) => (state, volumes, self.os_release_of(manifest)),
            Ok(Err(error @ (MakeError::Stopped | MakeError::Store(_)))) => return Err(error),
            Ok(Err(MakeError::NeedsHost { partition, format, volumes })) => {
                let reason = MakeError::NeedsHost { partition, format, volumes: Vec::new() }.to_string();
                if let Some(record) = before.filter(|record| host::has_tried(record, &reason)) {
                    return Ok(record);
                }
                (BaselineState::NeedsHost { reason }, volumes, None)
            }
            Ok(Err(error)) => failed(causes::in_one_line(&error)),
            Err(_) => failed("the reader of its file systems broke off".into()),
        };
        let (format, manifest) = (RECORD_FORMAT, manifest.to_owned());
        let record = BaselineRecord { format, manifest, state, made_at: now, volumes, os_release };
        self.write_record(&record)?;
        Ok(record)
    }

    /// The list on stable storage, and what names it.
    fn build(&self, digest: &str) -> Result<(BaselineState, Vec<Volume>), MakeError> {
        let manifest = self.manifest(digest)?;
        // Checked frame by frame: a damaged one would make hosts drift that are as they should be, and the name of a pack
        // that was thinned does not prove it.
        let blocks = Rc::new(self.blocks(&manifest)?);
        let mut survey = survey::survey(&manifest, self.packs_of(&manifest)?, Some(&blocks))?;
        let header = Header { image: digest.to_owned(), origin: Origin::Image, volumes: survey.volumes.clone() };
        let temp = files::TempFile::create(&self.dir)?;
        let target = BufWriter::with_capacity(1 << 16, &temp.file);
        let mut writer = baseline::Writer::new(target, &header)?;
        let mut entries = 0u64;
        let stopping = || self.wanted.is_stopping();
        let mut all = Hashed::new(&mut survey.tree, |_| true).until(&stopping);
        let failed = loop {
            match all.next() {
                None => break None,
                Some(Err(error)) => break Some(error),
                Some(Ok(found)) => {
                    writer.add(Entry { path: found.path, node: found.node })?;
                    entries += 1;
                }
            }
        };
        drop(all);
        if self.wanted.is_stopping() {
            return Err(MakeError::Stopped);
        }
        if let Some(error) = failed {
            return Err(survey.error(error));
        }
        let (mut target, name) = writer.finish()?;
        target.flush().map_err(io_error("write", temp.path()))?;
        drop(target);
        let baseline_bytes = temp.file.metadata().map_err(io_error("read", temp.path()))?.len();
        let name = manifest::to_hex(&name);
        temp.publish(&self.baseline_path(&name))?;
        let state = BaselineState::Ready { digest: name, origin: Origin::Image, entries, baseline_bytes };
        Ok((state, header.volumes))
    }

    /// One that cannot be read is none: what is common to all distributions is then allowed, and what a policy names.
    fn os_release_of(&self, manifest: &str) -> Option<String> {
        let read =
            |path: &[u8], bytes_max| Ok::<_, Infallible>(self.read_file(manifest, path, bytes_max).ok().flatten());
        let found = catch_unwind(AssertUnwindSafe(|| layout::os_release(read)));
        let (_, text) = found.ok()?.ok()??;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// A baseline for those who read it here, from its start ([`baseline::Reader`]).
    ///
    /// # Errors
    /// [`StoreError::NoBaseline`] (also when `digest` is no digest), [`StoreError::Io`].
    pub fn baseline_list(&self, digest: &str) -> Result<File, StoreError> {
        let path = self.baseline_place(digest)?;
        File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => no_baseline(digest),
            _ => io_error("open", &path)(error),
        })
    }

    /// A baseline as it is served.
    ///
    /// # Errors
    /// As [`ImageStore::baseline_list`].
    pub fn baseline_file(&self, digest: &str) -> Result<MappedFile, StoreError> {
        let path = self.baseline_place(digest)?;
        pack_cache::open(&path, |_| Ok(digest.to_owned()))?.ok_or_else(|| no_baseline(digest))
    }

    /// Where one of this digest lies; words from outside never become other paths.
    fn baseline_place(&self, digest: &str) -> Result<PathBuf, StoreError> {
        manifest::from_hex(digest).ok_or_else(|| no_baseline(digest))?;
        Ok(self.baseline_path(digest))
    }

    /// The content of one file of an image, its first `bytes_max` bytes; `path` as in its baseline. `None` where the
    /// image holds no such file, or only as blocks.
    ///
    /// # Errors
    /// As [`ImageStore::make_baseline`].
    pub fn read_file(&self, digest: &str, path: &[u8], bytes_max: usize) -> Result<Option<Vec<u8>>, MakeError> {
        let manifest = self.manifest(digest)?;
        let packs = self.packs_of(&manifest)?;
        let mut survey = survey::survey(&manifest, packs, None)?;
        let found = survey.tree.find(path).map_err(|error| survey.error(error))?;
        let is_file = |found: &crate::volume::Found| found.node.kind.word() == "file";
        let Some(file) = found.filter(is_file) else {
            return Ok(None);
        };
        let content = survey.tree.read(&file, bytes_max);
        content.map(Some).map_err(|error| survey.error(error))
    }

    /// Forgets an image's baseline; it can be made anew.
    ///
    /// # Errors
    /// As [`ImageStore::baseline_of`].
    pub fn remove_baseline(&self, manifest: &str) -> Result<(), StoreError> {
        let _alone = self.baselining.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.baseline_of(manifest)?;
        let path = self.baseline_record_path(manifest)?;
        // The record first: a list that nothing names is removed at the next start, a name without a list is damage.
        if record.is_some() {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        record.as_ref().and_then(BaselineRecord::digest).map_or(Ok(()), |digest| self.remove_list(digest))
    }

    fn remove_list(&self, digest: &str) -> Result<(), StoreError> {
        let path = self.baseline_path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    fn write_record(&self, record: &BaselineRecord) -> Result<(), StoreError> {
        let place = self.baseline_record_path(&record.manifest)?;
        let json = serde_json::to_vec_pretty(record);
        let json = json.map_err(|e| StoreError::Damaged { path: place.clone(), reason: e.to_string() })?;
        files::write_whole(&self.dir, &place, &json)
    }

    /// Lists that no record names: what a crash leaves between the two. A record that cannot be read is removed with
    /// its list; both are made anew.
    pub(super) fn sweep_baselines(&self) -> Result<(), StoreError> {
        let mut named = BTreeSet::new();
        for name in files::entries(&self.dir.join("baselines/by-image"))? {
            match self.baseline_of(&name) {
                Ok(record) => named.extend(record.and_then(|record| record.digest().map(str::to_owned))),
                Err(StoreError::Damaged { path, reason }) => {
                    tracing::warn!(path = %path.display(), reason, "the record of a baseline is damaged: it is made anew");
                    fs::remove_file(&path).map_err(io_error("remove", &path))?;
                }
                Err(StoreError::NoManifest(_)) => {}
                Err(error) => return Err(error),
            }
        }
        for name in files::entries(&self.dir.join("baselines"))? {
            if manifest::from_hex(&name).is_some() && !named.contains(&name) {
                self.remove_list(&name)?;
            }
        }
        Ok(())
    }

    fn baseline_path(&self, digest: &str) -> PathBuf {
        self.dir.join("baselines").join(digest)
    }

    fn baseline_record_path(&self, manifest: &str) -> Result<PathBuf, StoreError> {
        let missing = || StoreError::NoManifest(path::to_text(manifest.as_bytes()).chars().take(64).collect());
        manifest::from_hex(manifest).ok_or_else(missing)?;
        Ok(self.dir.join("baselines/by-image").join(manifest))
    }
}

/// With no more of the words than a digest has.
fn no_baseline(digest: &str) -> StoreError {
    StoreError::NoBaseline(digest.chars().take(64).collect())
}
