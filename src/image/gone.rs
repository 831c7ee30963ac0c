//! Versions that were collected: their records stay, so that a name is never given to other content (rule 8).

use std::fs;
use std::path::PathBuf;

use super::{ImageRef, ImageStore, Record, StoreError, files, io_error, read_record};

impl ImageStore {
    /// The record of a version that was here once.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] or [`StoreError::Io`].
    pub fn gone(&self, image: &ImageRef) -> Result<Option<Record>, StoreError> {
        match read_record(&self.gone_path(image), image) {
            Ok(record) => Ok(Some(record)),
            Err(StoreError::NoImage(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes a version off the list. One rename: it is listed, or it is gone, whenever the power fails. It needs no room
    /// on the disk beyond an entry in a directory, so that a full store can be emptied.
    pub(super) fn take_off_the_list(&self, image: &ImageRef) -> Result<(), StoreError> {
        let (from, to) = (self.record_path(image), self.gone_path(image));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(io_error("rename to", &to))?,
        }
        files::sync_dir(&self.dir.join("gone"))?;
        files::sync_dir(&self.dir.join("names").join(image.name()))
    }

    fn gone_path(&self, image: &ImageRef) -> PathBuf {
        // No name and no version has a colon.
        self.dir.join("gone").join(image.to_string())
    }
}
