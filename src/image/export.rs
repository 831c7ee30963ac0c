//! An image out of the store again, byte for byte the disk that was imported.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use thiserror::Error;

use super::mapped::Mapped;
use super::reader::ImageReader;
use super::{Format, ImageRef, ImageStore, StoreError};
use crate::clock;
use crate::wire::manifest::{self, BLOCK_BYTES, ContentDigest, Manifest};

mod qcow2;

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

/// Where the disk's data goes, in ascending order; what is not written reads as zeros.
trait Sink {
    fn put(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// On stable storage afterwards.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

struct Raw<'f>(&'f File);

impl Sink for Raw<'_> {
    fn put(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.sync_all()
    }
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

    /// Writes a raw image into a file, which is emptied first; holes stay holes. Every extent is checked, and in
    /// the end the whole content. After an error the file is incomplete.
    ///
    /// # Errors
    /// [`ExportError`]: no such image, damage in the store, or the output cannot be written.
    pub fn export(&self, image: &ImageRef, out: &File) -> Result<(), ExportError> {
        self.export_as(image, out, Format::Raw)
    }

    fn export_as(&self, image: &ImageRef, out: &File, format: Format) -> Result<(), ExportError> {
        let record = self.show(image)?;
        let manifest = self.manifest(&record.manifest)?;
        out.set_len(0).map_err(ExportError::Write)?;
        let mut sink: Box<dyn Sink + '_> = match format {
            Format::Raw => {
                out.set_len(manifest.image_bytes).map_err(ExportError::Write)?;
                Box::new(Raw(out))
            }
            Format::Qcow2 => Box::new(qcow2::Writer::create(out, manifest.image_bytes).map_err(ExportError::Write)?),
        };
        let mut reader = ImageReader::new(&manifest, self.packs_of(&manifest)?);
        let mut content = ContentDigest::new();
        let zero_digest = manifest::digest(&[0; BLOCK_BYTES]);
        let mut done_bytes = 0;
        let add_hole = |content: &mut ContentDigest, from: u64, to: u64| {
            (0..(to - from) / BLOCK_BYTES as u64).for_each(|_| content.add_block(&zero_digest));
        };
        for extent in &manifest.extents {
            let read = reader.extent(extent);
            let bytes = read.map_err(|source| ExportError::Read { image: image.clone(), source })?;
            add_hole(&mut content, done_bytes, extent.target_offset_bytes);
            bytes.chunks(BLOCK_BYTES).for_each(|block| content.add_block(&manifest::digest(block)));
            done_bytes = extent.target().end;
            let inside = (manifest.image_bytes - extent.target_offset_bytes).min(bytes.len() as u64) as usize;
            sink.put(&bytes[..inside], extent.target_offset_bytes).map_err(ExportError::Write)?;
        }
        add_hole(&mut content, done_bytes, manifest.image_bytes.next_multiple_of(BLOCK_BYTES as u64));
        let got = manifest::to_hex(&content.finish(manifest.image_bytes));
        if got != record.content_digest {
            return Err(ExportError::Content { image: image.clone(), expected: record.content_digest, got });
        }
        sink.finish().map_err(ExportError::Write)
    }

    /// Every pack of a manifest, in its order.
    pub(super) fn packs_of(&self, manifest: &Manifest) -> Result<Vec<Mapped>, StoreError> {
        manifest.packs.iter().map(|id| self.mapped(&manifest::to_hex(id))).collect()
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
