//! An image out of the store again, byte for byte the disk that was imported.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use thiserror::Error;

use super::read_files::Packs;
use super::reader::ImageReader;
use super::{Format, ImageRef, ImageStore, StoreError};
use crate::clock;
use crate::wire::manifest::{self, Manifest};

mod parts;
mod qcow2;

use parts::{Failed, Sink};

/// Why an image could not be exported.
#[derive(Debug, Error)]
pub enum ExportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path} exists; name another file, or replace it with --force")]
    Exists { path: PathBuf },
    #[error("{path} is no regular file: nothing is put in its place, also not with --force")]
    NotAFile { path: PathBuf },
    #[error("cannot create {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot write the exported image")]
    Write(#[source] io::Error),
    #[error("{image} cannot be read from the store")]
    Read { image: ImageRef, source: io::Error },
    #[error("{image} came out with content digest {got}, it was imported as {expected}: the store is damaged")]
    Content { image: ImageRef, expected: String, got: String },
}

impl ImageStore {
    /// Writes an image to `path`: the whole of it is there, or nothing of it. It grows under another name beside it.
    ///
    /// # Errors
    /// [`ExportError`]: no such image, a file that is there, damage in the store, a full disk.
    pub fn export_file(
        &self,
        image: &ImageRef,
        path: &Path,
        format: Format,
        may_replace: bool,
    ) -> Result<(), ExportError> {
        self.show(image)?;
        // Looked at first, so that it is not found out after minutes; the rename looks again.
        match fs::symlink_metadata(path) {
            Ok(_) if !may_replace => return Err(ExportError::Exists { path: path.to_owned() }),
            Ok(metadata) if !metadata.is_file() => return Err(ExportError::NotAFile { path: path.to_owned() }),
            _ => {}
        }
        let growing = Growing::create(path)?;
        self.export_as(image, &growing.file, format)?;
        growing.put_in_place(path, may_replace)
    }

    /// Writes a raw image into a file, which is emptied first; holes stay holes. Every block is checked. After an error
    /// the file is incomplete or wrong.
    ///
    /// # Errors
    /// [`ExportError`]: no such image, damage in the store, or the output cannot be written.
    pub fn export(&self, image: &ImageRef, out: &File) -> Result<(), ExportError> {
        self.export_as(image, out, Format::Raw)
    }

    fn export_as(&self, image: &ImageRef, out: &File, format: Format) -> Result<(), ExportError> {
        let record = self.show(image)?;
        let manifest = self.manifest(&record.manifest)?;
        let packs = self.packs_of(&manifest)?;
        out.set_len(0).map_err(ExportError::Write)?;
        let written = match format {
            Format::Raw => out
                .set_len(manifest.image_bytes)
                .map_err(Failed::Write)
                .and_then(|()| parts::write(&manifest, &packs, &Sink::Direct(out), |_, _| Ok(())))
                .and_then(|got| out.sync_all().map_err(Failed::Write).map(|()| got)),
            Format::Qcow2 => {
                qcow2::Writer::create(out, manifest.image_bytes).map_err(Failed::Write).and_then(|mut qcow2| {
                    let got = parts::write(&manifest, &packs, &Sink::InOrder, |bytes, at| qcow2.put(bytes, at))?;
                    qcow2.finish().map_err(Failed::Write)?;
                    Ok(got)
                })
            }
        };
        let unreadable = |source| ExportError::Read { image: image.clone(), source };
        let got = written.map_err(|failed| match failed {
            Failed::Read(source) => unreadable(source),
            Failed::Write(source) => ExportError::Write(source),
        })?;
        let got = manifest::to_hex(&got);
        if got != record.content_digest {
            // Where it is, the extents know.
            let mut reader = ImageReader::new(&manifest, packs);
            for extent in &manifest.extents {
                reader.extent(extent).map_err(unreadable)?;
            }
            return Err(ExportError::Content { image: image.clone(), expected: record.content_digest, got });
        }
        Ok(())
    }

    /// Every pack of a manifest, in its order.
    pub(super) fn packs_of(&self, manifest: &Manifest) -> Result<Packs, StoreError> {
        manifest.packs.iter().map(|id| self.read_pack(&manifest::to_hex(id))).collect()
    }
}

/// A file beside the one that it is to be; gone when it did not become that.
struct Growing {
    file: File,
    path: PathBuf,
}

impl Growing {
    fn create(place: &Path) -> Result<Growing, ExportError> {
        let failed = |source| ExportError::Create { path: place.to_owned(), source };
        let name = place.file_name().ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
        let mut growing = std::ffi::OsString::from(".");
        // A name may have 255 bytes.
        growing.push(name.to_string_lossy().chars().take(50).collect::<String>());
        growing.push(format!(".regild-{}", clock::random_hex::<6>()));
        let path = place.with_file_name(growing);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        Ok(Growing { file, path })
    }

    fn put_in_place(self, place: &Path, may_replace: bool) -> Result<(), ExportError> {
        let failed = |source: io::Error| ExportError::Create { path: place.to_owned(), source };
        if may_replace {
            fs::rename(&self.path, place).map_err(failed)?;
        } else {
            let renamed = match renameat_with(CWD, &self.path, CWD, place, RenameFlags::NOREPLACE) {
                // Not on every file system (NFS): a second name is not given either where there is one.
                Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(&self.path, place),
                renamed => renamed.map_err(io::Error::from),
            };
            match renamed {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(ExportError::Exists { path: place.to_owned() });
                }
                renamed => renamed.map_err(failed)?,
            }
        }
        let directory = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        // After a rename there is nothing by this name any more.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests;
