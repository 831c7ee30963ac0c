//! A door for `fuzz/`, there only when cargo-fuzz builds: what looks into images and packs, without a store.

use std::io::{Read, Seek};

use bytes::Bytes;

use super::ImportError;
use super::inspect;
use super::mapped::Mapped;
use super::reader::ImageReader;
pub use super::source::fuzzing::disk_bytes;
use crate::wire::manifest::{BootFacts, Manifest};

/// What an import finds out about an image.
///
/// # Errors
/// As the import.
pub fn inspect(image: impl Read + Seek, image_bytes: u64) -> Result<(BootFacts, u32), ImportError> {
    inspect::inspect(image, image_bytes)
}

/// Every extent as the server's own reader gives it (export, inspection); `packs` in the manifest's order.
#[must_use]
pub fn read_extents(manifest: &Manifest, packs: &[Bytes]) -> Vec<std::io::Result<Vec<u8>>> {
    let mut reader = ImageReader::new(manifest, packs.iter().cloned().map(Mapped::from).collect());
    manifest.extents.iter().map(|extent| reader.extent(extent)).collect()
}
