//! A second copy of what is small and cannot be made again: manifests and records, in `copies/`.
//!
//! They are a third of a thousandth of the data. A manifest's digest is in host records and orders, so one that was lost
//! could not be replaced by an equal import: that may be packed otherwise.

use std::fs;
use std::path::PathBuf;

use super::{ImageRef, ImageStore, Record, StoreError, files, io_error, read_record};
use crate::wire::manifest::{self, Manifest};

impl ImageStore {
    /// Makes the copies of a version; what is there stays.
    pub(super) fn keep_copies(&self, record: &Record, encoded: &[u8]) -> Result<(), StoreError> {
        self.keep_copy(&record.manifest, encoded)?;
        let json =
            fs::read(self.record_path(&record.image)).map_err(io_error("read", &self.record_path(&record.image)))?;
        // A version that was here before has the copy of its former record, with other dates.
        files::write_whole(&self.dir, &self.copy_path(&record.image.to_string()), &json)
    }

    pub(super) fn keep_copy(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let place = self.copy_path(name);
        if fs::read(&place).is_ok_and(|there| there == content) {
            return Ok(());
        }
        files::write_whole(&self.dir, &place, content)
    }

    /// Puts a manifest back from its copy. `Ok(false)`: there is no good one.
    pub(super) fn manifest_from_copy(&self, digest: &str, copy: &std::path::Path) -> Result<bool, StoreError> {
        let Ok(encoded) = fs::read(copy) else { return Ok(false) };
        if Manifest::decode(&encoded, Some(digest)).is_err() {
            return Ok(false);
        }
        files::write_whole(&self.dir, &self.manifest_path(digest), &encoded)?;
        Ok(true)
    }

    /// Puts a record back from a copy, if its manifest is in this store: a name cannot come to other content by this.
    pub(super) fn record_from_copy(&self, image: &ImageRef, copy: &std::path::Path) -> Result<bool, StoreError> {
        let Ok(record) = read_record(copy, image) else { return Ok(false) };
        if self.manifest(&record.manifest).is_err() {
            self.manifest_from_copy(&record.manifest, &self.copy_path(&record.manifest))?;
        }
        let is_ours = self.manifest(&record.manifest).is_ok_and(|known| {
            manifest::to_hex(&known.content_digest) == record.content_digest && known.image_bytes == record.image_bytes
        });
        if !is_ours {
            return Ok(false);
        }
        let json = fs::read(copy).map_err(io_error("read", copy))?;
        files::write_whole(&self.dir, &self.record_path(image), &json)?;
        Ok(true)
    }

    /// Removes copies of what is not there any more, and of manifests that are about to go: a manifest is not put back that
    /// lost its packs.
    pub(super) fn remove_copies_after(&self, unneeded: &[String]) -> Result<(), StoreError> {
        let dir = self.dir.join("copies");
        for name in files::entries(&dir)? {
            let is_left = match name.parse::<ImageRef>() {
                Ok(image) => !self.record_path(&image).exists(),
                Err(_) if unneeded.contains(&name) => true,
                Err(_) => manifest::from_hex(&name).is_some() && !self.needs_copy(&name),
            };
            if is_left {
                files::remove(&dir.join(name))?;
            }
        }
        Ok(())
    }

    /// A manifest that is lost is one of which the copy is needed most.
    fn needs_copy(&self, digest: &str) -> bool {
        let is_named = || self.list().map_or(true, |records| records.iter().any(|record| record.manifest == digest));
        self.manifest_path(digest).exists() || is_named()
    }

    pub(super) fn copy_path(&self, name: &str) -> PathBuf {
        self.dir.join("copies").join(name)
    }
}
