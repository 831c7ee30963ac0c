//! An image out of the store again, byte for byte what was imported.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use thiserror::Error;

use super::reader::ImageReader;
use super::{ImageRef, ImageStore, StoreError};
use crate::wire::manifest::{self, BLOCK_BYTES, ContentDigest, Manifest};

/// Why an image could not be exported. The output file is then incomplete.
#[derive(Debug, Error)]
pub enum ExportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot write the exported image")]
    Write(#[source] io::Error),
    #[error("{image} cannot be read from the store")]
    Read { image: ImageRef, source: io::Error },
    #[error("{image} came out with content digest {got}, it was imported as {expected}: the store is damaged")]
    Content { image: ImageRef, expected: String, got: String },
}

impl ImageStore {
    /// Writes an image into a file, which is emptied first; holes stay holes. Every extent is checked, and in
    /// the end the whole content.
    ///
    /// # Errors
    /// [`ExportError`]: no such image, damage in the store, or the output cannot be written.
    pub fn export(&self, image: &ImageRef, out: &File) -> Result<(), ExportError> {
        let record = self.show(image)?;
        let manifest = self.manifest(&record.manifest)?;
        out.set_len(0).map_err(ExportError::Write)?;
        out.set_len(manifest.image_bytes).map_err(ExportError::Write)?;
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
            out.write_all_at(&bytes[..inside], extent.target_offset_bytes).map_err(ExportError::Write)?;
        }
        add_hole(&mut content, done_bytes, manifest.image_bytes.next_multiple_of(BLOCK_BYTES as u64));
        let got = manifest::to_hex(&content.finish(manifest.image_bytes));
        if got != record.content_digest {
            return Err(ExportError::Content { image: image.clone(), expected: record.content_digest, got });
        }
        out.sync_all().map_err(ExportError::Write)
    }

    /// Every pack of a manifest, in its order.
    pub(super) fn packs_of(&self, manifest: &Manifest) -> Result<Vec<Bytes>, StoreError> {
        manifest.packs.iter().map(|id| self.pack(&manifest::to_hex(id))).collect()
    }
}
