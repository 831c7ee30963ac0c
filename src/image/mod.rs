//! The golden image store: import, manifests, packs, export.
//!
//! ```text
//! format                     version number of the store
//! lock                       one process at a time
//! names/<NAME>/<VERSION>     small JSON: what this version is; an image is listed when this exists
//! manifests/<digest>         of which blocks it consists; named by the digest of the file
//! packs/<id>.pack            compressed blocks; named by the digest of the file; never changed
//! packs/<id>.idx             digests of the pack's blocks, for the next import
//! baselines/                 lists of files, made from the images (`baseline`)
//! gone/<NAME>:<VERSION>      records of versions that were collected: their names are never given to other content
//! signatures/<NAME>:<VERSION> who vouches for a version
//! copies/                    manifests and records once more
//! bad                        what a scrub found damaged
//! tmp/                       unfinished files; emptied when the store is opened
//! ```
//!
//! Every file is written in `tmp/`, synced, and renamed to its place, in the order pack, manifest, name. So a
//! crash at any instant leaves a version that is listed and whole, or one that is not listed.
//! `docs/image-format.md` gives every byte of the formats.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::UnixSeconds;
use crate::wire::image_facts::{Facts, Provenance};
use crate::wire::manifest::{self, Manifest, ManifestError};
pub use crate::wire::reference::{ImageRef, RefError};

mod bad;
pub mod baseline;
mod baselines_gc;
mod block_index;
mod blocks;
mod compact;
mod compressing;
mod copies;
pub mod diff;
mod digest_log;
mod export;
mod facts;
mod files;
mod format;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod gc;
mod gone;
mod import;
mod inspect;
pub mod mapped;
mod mend;
mod pack;
mod pack_cache;
pub mod plan;
mod read_files;
mod reader;
mod recent;
mod scrub;
pub mod signature;
mod source;
pub mod uploads;
mod uses;
mod windows;

pub use export::ExportError;
pub use import::{ImportError, ImportRequest, Imported};
pub use scrub::{ScrubReport, ScrubRequest};
pub use source::{Compression, Declared, FileDigest, Format, SPARSE_HEADER, SourceError};

const RECORD_FORMAT: u32 = 1;

/// Golden images in a directory. Methods take `&self` and may be called from any thread; they block on files.
#[derive(Debug)]
pub struct ImageStore {
    dir: PathBuf,
    /// Only one import at a time: the second would not know the first one's blocks.
    importing: Mutex<()>,
    packs: pack_cache::PackCache,
    /// Only one baseline at a time: each takes a processor and tens of MB.
    baselining: Mutex<()>,
    wanted: baseline::Queue,
    /// Only one image at a time is looked into for its facts.
    looking: Mutex<()>,
    /// What each manifest needs, as far as it was read.
    uses: uses::UsesCache,
    bad: Mutex<bad::BadList>,
    /// One at a time replaces packs.
    rewriting: Mutex<()>,
    served: gc::Served,
    /// Held open for its lock.
    _lock: File,
}

/// What the store knows of one version without reading its manifest; the JSON file under `names/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    pub image: ImageRef,
    /// Hex digest of the encoded manifest: what a deploy refers to.
    pub manifest: String,
    /// Hex digest of the content, equal for equal images however they are packed.
    pub content_digest: String,
    pub image_bytes: u64,
    /// Bytes of the image that are no holes.
    pub data_bytes: u64,
    /// Compressed bytes that this import added to the store.
    pub added_bytes: u64,
    pub imported_at: UnixSeconds,
    /// Where it came from, for people: a file name.
    pub source: String,
    /// What its maker said of it.
    #[serde(default, skip_serializing_if = "Provenance::is_empty")]
    pub provenance: Provenance,
    /// What it says of itself; `None`: it was imported before records had this, see [`ImageStore::facts`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Box<Facts>>,
}

/// Why the store cannot give what it was asked for.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("no image {0} in the store")]
    NoImage(ImageRef),
    #[error("no manifest {0} in the store")]
    NoManifest(String),
    #[error("no pack {0} in the store")]
    NoPack(String),
    #[error("no baseline {0} in the store")]
    NoBaseline(String),
    #[error("the image store {0} is in use by another process")]
    Locked(PathBuf),
    #[error(
        "{path} has format version {version}, this program knows 1 to {known}: use a regild of the release that wrote it"
    )]
    Version { path: PathBuf, version: u32, known: u32 },
    #[error("{path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("{path} is no manifest that this program can use")]
    Manifest { path: PathBuf, source: ManifestError },
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
}

impl StoreError {
    /// True where asking for another name may help: nothing is wrong with the store.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(
            self,
            StoreError::NoImage(_) | StoreError::NoManifest(_) | StoreError::NoPack(_) | StoreError::NoBaseline(_)
        )
    }
}

/// For `map_err`: which file it was and what was tried.
fn io_error(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { what, path, source }
}

impl ImageStore {
    /// Opens a store, makes an empty one where there is none, and removes what cut imports left behind.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open; [`StoreError::Io`].
    pub fn open(dir: &Path) -> Result<ImageStore, StoreError> {
        format::check(dir)?;
        for part in ["", "names", "manifests", "packs", "baselines", "baselines/by-image", "tmp", "gone", "copies"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(io_error("create", &path))?;
        }
        let lock = files::lock(&dir.join("lock"), dir)?;
        files::remove_leftovers(dir)?;
        format::raise(dir)?;
        let store = ImageStore {
            dir: dir.to_owned(),
            importing: Mutex::new(()),
            packs: pack_cache::PackCache::default(),
            baselining: Mutex::new(()),
            wanted: baseline::Queue::default(),
            looking: Mutex::new(()),
            uses: uses::UsesCache::default(),
            bad: Mutex::new(bad::BadList::load(dir)?),
            rewriting: Mutex::new(()),
            served: gc::Served::default(),
            _lock: lock,
        };
        store.sweep_baselines()?;
        Ok(store)
    }

    /// All versions of all images, by name and version.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Damaged`].
    pub fn list(&self) -> Result<Vec<Record>, StoreError> {
        self.names()?.iter().map(|image| self.show(image)).collect()
    }

    /// One version.
    ///
    /// # Errors
    /// [`StoreError::NoImage`], [`StoreError::Io`] or [`StoreError::Damaged`].
    pub fn show(&self, image: &ImageRef) -> Result<Record, StoreError> {
        read_record(&self.record_path(image), image)
    }

    /// Hex digest of a version's manifest.
    ///
    /// # Errors
    /// As [`ImageStore::show`].
    pub fn resolve(&self, image: &ImageRef) -> Result<String, StoreError> {
        Ok(self.show(image)?.manifest)
    }

    /// An encoded manifest, checked against its digest.
    ///
    /// # Errors
    /// [`StoreError::NoManifest`] (also when `digest` is no digest), [`StoreError::Damaged`], [`StoreError::Io`].
    pub fn manifest_bytes(&self, digest: &str) -> Result<Bytes, StoreError> {
        let missing = || StoreError::NoManifest(digest.chars().take(64).collect());
        // A digest from outside becomes a path only when it is nothing but a digest.
        manifest::from_hex(digest).ok_or_else(missing)?;
        let path = self.manifest_path(digest);
        let encoded = match fs::read(&path) {
            Ok(encoded) => encoded,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        let got = manifest::digest_hex(&encoded);
        if got != digest {
            let reason = format!("its digest is {got}");
            return Err(StoreError::Damaged { path, reason });
        }
        Ok(Bytes::from(encoded))
    }

    /// A manifest, decoded.
    ///
    /// # Errors
    /// As [`ImageStore::manifest_bytes`], and [`StoreError::Manifest`].
    pub fn manifest(&self, digest: &str) -> Result<Manifest, StoreError> {
        let encoded = self.manifest_bytes(digest)?;
        Manifest::decode(&encoded, None)
            .map_err(|source| StoreError::Manifest { path: self.manifest_path(digest), source })
    }

    /// Whether there is a manifest of this digest. Whether it can be read shows when it is.
    #[must_use]
    pub fn has_manifest(&self, digest: &str) -> bool {
        manifest::from_hex(digest).is_some() && self.manifest_path(digest).exists()
    }

    /// A pack as it is served.
    ///
    /// # Errors
    /// [`StoreError::NoPack`] (also when `id` is no id) or [`StoreError::Io`].
    pub fn pack_file(&self, id: &str) -> Result<mapped::MappedFile, StoreError> {
        let missing = || StoreError::NoPack(id.chars().take(64).collect());
        manifest::from_hex(id).ok_or_else(missing)?;
        self.packs.get(id, &self.pack_path(id))?.ok_or_else(missing)
    }

    /// A pack for those who read it here.
    fn read_pack(&self, id: &str) -> Result<read_files::ReadFile, StoreError> {
        let missing = || StoreError::NoPack(id.chars().take(64).collect());
        read_files::open_pack(&self.pack_path(id))?.ok_or_else(missing)
    }

    /// The same without a look at any file, when it is in use.
    #[must_use]
    pub fn known_pack_file(&self, id: &str) -> Option<mapped::MappedFile> {
        self.packs.known(id)
    }

    /// A pack could not be read: the next one who asks gets the file that is in its place then.
    pub fn pack_failed(&self, id: &str) {
        self.packs.forget(id);
    }

    /// What is known to be damaged, as it is now.
    fn bad_list(&self) -> bad::BadList {
        // A list is replaced whole.
        self.bad.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Changes the list and writes it down, in one turn: a scrub and an import may both have something to say.
    fn update_bad(&self, change: impl FnOnce(&mut bad::BadList)) -> Result<(), StoreError> {
        let mut known = self.bad.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut list = known.clone();
        change(&mut list);
        if list != *known {
            list.store(&self.dir)?;
            *known = list;
        }
        Ok(())
    }

    /// A pack was just written from its blocks, perhaps in place of one that was thinned or damaged.
    fn pack_is_whole(&self, id: &str) -> Result<(), StoreError> {
        self.packs.forget(id);
        self.update_bad(|list| drop(list.packs.remove(id)))
    }

    fn record_path(&self, image: &ImageRef) -> PathBuf {
        self.dir.join("names").join(image.name()).join(image.version())
    }

    fn manifest_path(&self, digest: &str) -> PathBuf {
        self.dir.join("manifests").join(digest)
    }

    fn pack_path(&self, id: &str) -> PathBuf {
        self.dir.join("packs").join(format!("{id}.pack"))
    }
}

/// A record, whether listed or gone.
fn read_record(path: &Path, image: &ImageRef) -> Result<Record, StoreError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(StoreError::NoImage(image.clone())),
        Err(e) => return Err(io_error("read", path)(e)),
    };
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
    let record: Record = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if record.format != RECORD_FORMAT || record.image != *image {
        return Err(damaged(format!("format {}, of {}", record.format, record.image)));
    }
    Ok(record)
}

#[cfg(test)]
mod tests;
