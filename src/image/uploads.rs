//! Files that come in pieces, from afar, and become images when they are whole.
//!
//! ```text
//! ID.json    what it is to be; written before the first byte is taken
//! ID.part    what came so far; its length is the offset to go on from
//! ```
//!
//! Both outlive the server. They do not lie in the store's `tmp/`, which is emptied at each start. After a power cut the
//! end of a part may be other than what came: the digest, which every upload has, finds that.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::{self, UnixSeconds};
use crate::wire::upload::{Create, Upload};

const FORMAT: u32 = 1;
/// Uploads that are over and still remembered, so that a client that did not hear the answer can ask again.
const FINISHED_MAX: usize = 256;

/// How much may lie about.
#[derive(Debug, Clone, Copy)]
pub struct UploadLimits {
    /// Unfinished ones.
    pub uploads_max: usize,
    /// Of all unfinished ones when they are whole.
    pub bytes_max: u64,
    /// An upload to which nothing came for so long is removed.
    pub keep_seconds: u64,
}

/// Why an upload does not go on.
#[derive(Debug, Error)]
pub enum UploadError {
    #[error("there is no such upload (any more): begin anew")]
    NotThere,
    #[error("the upload is at byte {offset}, not at {asked}: go on from there")]
    OtherOffset { asked: u64, offset: u64 },
    #[error("somebody is at this upload just now (or its last connection is not known to be dead yet); try again soon")]
    Busy,
    #[error("{offset} of {bytes} bytes are there: it is not whole yet")]
    NotWhole { offset: u64, bytes: u64 },
    #[error("the upload was said to have {bytes} bytes, and more came")]
    TooLong { bytes: u64 },
    #[error(
        "{count} uploads are unfinished already, as many as are allowed ([http.upload] uploads_max); try again later"
    )]
    TooMany { count: usize },
    #[error(
        "there is room for {left} bytes more of unfinished uploads ([http.upload] bytes_max), this one has {bytes}"
    )]
    NoRoom { left: u64, bytes: u64 },
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UploadError {
    let path = path.to_owned();
    move |source| UploadError::Io { what, path, source }
}

/// What is written beside the bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    format: u32,
    /// The name of the token that began it; nobody else sees it.
    owner: String,
    wish: Create,
    touched_at: UnixSeconds,
    finished: bool,
}

#[derive(Debug)]
struct Entry {
    kept: Kept,
    offset: u64,
    busy: bool,
}

/// All uploads, in a directory of their own.
#[derive(Debug)]
pub struct Uploads {
    dir: PathBuf,
    limits: UploadLimits,
    entries: Mutex<BTreeMap<String, Entry>>,
}

impl Uploads {
    /// Takes up what a former server left.
    ///
    /// # Errors
    /// [`UploadError::Io`].
    pub fn open(dir: &Path, limits: UploadLimits) -> Result<Uploads, UploadError> {
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let mut entries = BTreeMap::new();
        for file in fs::read_dir(dir).map_err(failed("list", dir))? {
            let path = file.map_err(failed("list", dir))?.path();
            let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match read_entry(&path, dir) {
                Some(entry) => {
                    entries.insert(id, entry);
                }
                // Half of a pair, or an unfinished json: nobody was told of it.
                None if !dir.join(format!("{id}.json")).exists()
                    || path.extension().is_none_or(|end| end != "part") =>
                {
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                }
                None => {}
            }
        }
        Ok(Uploads { dir: dir.to_owned(), limits, entries: Mutex::new(entries) })
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // Each change is one assignment: a panic elsewhere cannot have left half of one.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: &str, ending: &str) -> PathBuf {
        self.dir.join(format!("{id}.{ending}"))
    }

    /// Begins an upload, or finds the one that was begun with the same words: so a client needs to remember nothing.
    ///
    /// # Errors
    /// [`UploadError::TooMany`], [`UploadError::NoRoom`], [`UploadError::Io`].
    pub fn create(&self, owner: &str, wish: &Create, now: UnixSeconds) -> Result<Upload, UploadError> {
        self.expire(now);
        let mut entries = self.entries();
        let same = |entry: &Entry| entry.kept.owner == owner && entry.kept.wish == *wish;
        if let Some((id, entry)) = entries.iter().find(|(_, entry)| same(entry)) {
            return Ok(self.shown(id, entry));
        }
        let unfinished: Vec<u64> =
            entries.values().filter(|entry| !entry.kept.finished).map(|entry| entry.kept.wish.bytes).collect();
        if unfinished.len() >= self.limits.uploads_max {
            return Err(UploadError::TooMany { count: unfinished.len() });
        }
        let taken = unfinished.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
        let left = self.limits.bytes_max.saturating_sub(taken);
        if wish.bytes > left {
            return Err(UploadError::NoRoom { left, bytes: wish.bytes });
        }
        let id = clock::random_hex::<16>();
        let kept =
            Kept { format: FORMAT, owner: owner.to_owned(), wish: wish.clone(), touched_at: now, finished: false };
        let part = self.path(&id, "part");
        File::create_new(&part).map_err(failed("create", &part))?;
        self.write_json(&id, &kept)?;
        let entry = Entry { kept, offset: 0, busy: false };
        let shown = self.shown(&id, &entry);
        entries.insert(id, entry);
        Ok(shown)
    }

    /// # Errors
    /// [`UploadError::NotThere`].
    pub fn show(&self, owner: &str, id: &str) -> Result<Upload, UploadError> {
        let entries = self.entries();
        let entry = entries.get(id).filter(|entry| entry.kept.owner == owner).ok_or(UploadError::NotThere)?;
        Ok(self.shown(id, entry))
    }

    fn shown(&self, id: &str, entry: &Entry) -> Upload {
        Upload {
            id: id.to_owned(),
            image: entry.kept.wish.image.clone(),
            bytes: entry.kept.wish.bytes,
            offset: entry.offset,
            expires_at: entry.kept.touched_at.saturating_add(self.limits.keep_seconds),
            finished: entry.kept.finished,
        }
    }

    /// The one who may go on with an upload, until he is dropped.
    ///
    /// # Errors
    /// [`UploadError::NotThere`], [`UploadError::Busy`], [`UploadError::Io`].
    pub fn take(&self, owner: &str, id: &str) -> Result<Taken<'_>, UploadError> {
        let mut entries = self.entries();
        let entry = entries.get_mut(id).filter(|entry| entry.kept.owner == owner).ok_or(UploadError::NotThere)?;
        if entry.busy {
            return Err(UploadError::Busy);
        }
        let path = self.path(id, "part");
        let file = if entry.kept.finished {
            None
        } else {
            Some(OpenOptions::new().read(true).write(true).open(&path).map_err(failed("open", &path))?)
        };
        entry.busy = true;
        Ok(Taken { uploads: self, id: id.to_owned(), path, file, offset: entry.offset, kept: entry.kept.clone() })
    }

    /// Removes what nobody came back to. Called now and then, and before there is said to be no room.
    pub fn expire(&self, now: UnixSeconds) {
        let mut entries = self.entries();
        let is_over = |entry: &Entry| entry.kept.touched_at.saturating_add(self.limits.keep_seconds) <= now;
        let mut over: Vec<String> = Vec::new();
        over.extend(entries.iter().filter(|(_, entry)| !entry.busy && is_over(entry)).map(|(id, _)| id.clone()));
        let mut finished: Vec<(UnixSeconds, &String)> = Vec::new();
        finished
            .extend(entries.iter().filter(|(_, e)| !e.busy && e.kept.finished).map(|(id, e)| (e.kept.touched_at, id)));
        finished.sort_unstable();
        let too_many = finished.len().saturating_sub(FINISHED_MAX);
        over.extend(finished.iter().take(too_many).map(|(_, id)| (*id).clone()));
        for id in over {
            entries.remove(&id);
            self.remove_files(&id);
        }
    }

    fn remove_files(&self, id: &str) {
        for ending in ["json", "part"] {
            let path = self.path(id, ending);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "an upload that is over cannot be removed");
                }
                _ => {}
            }
        }
    }

    fn write_json(&self, id: &str, kept: &Kept) -> Result<(), UploadError> {
        let (temporary, place) = (self.path(id, "new"), self.path(id, "json"));
        let json = serde_json::to_vec(kept).map_err(|error| failed("write", &place)(error.into()))?;
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&json)?;
            file.sync_all()?;
            fs::rename(&temporary, &place)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(failed("write", &place))
    }
}

/// A json with its part, or one that is finished.
fn read_entry(path: &Path, dir: &Path) -> Option<Entry> {
    if path.extension()? != "json" {
        return None;
    }
    let kept: Kept = serde_json::from_slice(&fs::read(path).ok()?).ok().filter(|kept: &Kept| kept.format == FORMAT)?;
    let part = dir.join(path.file_stem()?).with_extension("part");
    let offset = if kept.finished { kept.wish.bytes } else { fs::metadata(part).ok()?.len() };
    Some(Entry { offset, kept, busy: false })
}

/// An upload in the hands of one request.
#[derive(Debug)]
pub struct Taken<'u> {
    uploads: &'u Uploads,
    id: String,
    path: PathBuf,
    /// `None` when it is finished.
    file: Option<File>,
    offset: u64,
    kept: Kept,
}

impl Taken<'_> {
    #[must_use]
    pub fn wish(&self) -> &Create {
        &self.kept.wish
    }

    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.kept.finished
    }

    /// # Errors
    /// [`UploadError::OtherOffset`].
    pub fn is_at(&self, asked: u64) -> Result<(), UploadError> {
        if asked == self.offset { Ok(()) } else { Err(UploadError::OtherOffset { asked, offset: self.offset }) }
    }

    /// Adds what came.
    ///
    /// # Errors
    /// [`UploadError::TooLong`], [`UploadError::Io`] (a full disk); what was there before stays.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        let whole = self.kept.wish.bytes;
        let file = self.file.as_ref().filter(|_| self.offset + bytes.len() as u64 <= whole);
        let file = file.ok_or(UploadError::TooLong { bytes: whole })?;
        file.write_all_at(bytes, self.offset).map_err(failed("write", &self.path))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// What came in this request is kept from now on.
    ///
    /// # Errors
    /// [`UploadError::Io`].
    pub fn sync(&mut self, now: UnixSeconds) -> Result<(), UploadError> {
        self.file.iter().try_for_each(File::sync_data).map_err(failed("sync", &self.path))?;
        self.kept.touched_at = now;
        self.uploads.write_json(&self.id, &self.kept)
    }

    /// The whole file, from its start.
    ///
    /// # Errors
    /// [`UploadError::NotWhole`], [`UploadError::NotThere`] when it is finished.
    pub fn whole(&self) -> Result<&File, UploadError> {
        let bytes = self.kept.wish.bytes;
        if self.offset < bytes {
            return Err(UploadError::NotWhole { offset: self.offset, bytes });
        }
        self.file.as_ref().ok_or(UploadError::NotThere)
    }

    /// It is an image now; its bytes go, that it was is kept for a while.
    ///
    /// # Errors
    /// [`UploadError::Io`].
    pub fn finish(&mut self, now: UnixSeconds) -> Result<(), UploadError> {
        self.kept.finished = true;
        self.kept.touched_at = now;
        self.uploads.write_json(&self.id, &self.kept)?;
        self.file = None;
        fs::remove_file(&self.path).map_err(failed("remove", &self.path))
    }

    /// It is of no use any more.
    pub fn give_up(self) {
        self.uploads.remove_files(&self.id);
        self.uploads.entries().remove(&self.id);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // It is not there any more after `give_up`.
        if let Some(entry) = self.uploads.entries().get_mut(&self.id) {
            entry.kept = self.kept.clone();
            // The length of the file is what a restart would find, too; a piece that was cut by a full disk is written over.
            entry.offset = self.offset;
            entry.busy = false;
        }
    }
}

#[cfg(test)]
mod tests;
