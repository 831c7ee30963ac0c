//! Baselines (lists of an image's files, for drift) go with the manifest that they were made from.
//!
//! `baselines/<digest>` is a list, `baselines/by-image/<manifest>` says which list a manifest has; several manifests may
//! have one list. The list goes first and what points to it last: a crash between leaves a pointer of a manifest that is
//! not there, which the next run removes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::gc::GRACE_SECONDS;
use super::uses::digests_in;
use super::{ImageStore, StoreError, files, io_error};
use crate::clock::UnixSeconds;

/// Longest pointer that is read; a digest has 64 characters.
const POINTER_BYTES_MAX: u64 = 64 << 10;

impl ImageStore {
    /// `unneeded`: manifests that are about to go.
    pub(super) fn remove_baselines(&self, unneeded: &[String], now: UnixSeconds) -> Result<(), StoreError> {
        let dir = self.dir.join("baselines");
        let pointers = dir.join("by-image");
        if !pointers.is_dir() {
            return Ok(());
        }
        let lists = digests_in(&dir, "")?;
        let going = |manifest: &String| unneeded.contains(manifest) || !self.manifest_path(manifest).exists();
        let (gone, stay): (Vec<String>, Vec<String>) = digests_in(&pointers, "")?.into_iter().partition(going);
        let mut needed = BTreeSet::new();
        for manifest in &stay {
            let text = pointer(&pointers.join(manifest))?;
            let named: Vec<&String> = lists.iter().filter(|list| text.contains(list.as_str())).collect();
            if named.is_empty() {
                // A form that this program does not know, or a list that is just being written: it cannot be said what
                // is needed.
                return Ok(());
            }
            needed.extend(named);
        }
        for list in lists.iter().filter(|list| !needed.contains(list)) {
            let path = dir.join(list);
            if is_older(&path, GRACE_SECONDS, now)? || gone_names(&pointers, &gone, list)? {
                files::remove(&path)?;
            }
        }
        files::sync_dir(&dir)?;
        for manifest in gone {
            files::remove(&pointers.join(manifest))?;
        }
        files::sync_dir(&pointers)
    }
}

fn gone_names(pointers: &Path, gone: &[String], list: &str) -> Result<bool, StoreError> {
    for manifest in gone {
        if pointer(&pointers.join(manifest))?.contains(list) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn pointer(path: &Path) -> Result<String, StoreError> {
    use std::io::Read;
    let file = fs::File::open(path).map_err(io_error("open", path))?;
    let mut bytes = Vec::new();
    file.take(POINTER_BYTES_MAX).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether nobody can be in the middle of writing it and what points to it.
fn is_older(path: &Path, seconds: u64, now: UnixSeconds) -> Result<bool, StoreError> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path).map_err(io_error("look at", path))?;
    Ok(u64::try_from(metadata.mtime()).unwrap_or(0) + seconds < now)
}
