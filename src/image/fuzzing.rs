//! A door for `fuzz/`, there only when cargo-fuzz builds: what looks into images and packs, without a store.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use super::ImportError;
use super::inspect;
use super::read_files::ReadFile;
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
    let to_read = |pack: &Bytes| {
        let file = File::from(rustix::fs::memfd_create("pack", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.write_all_at(pack, 0)?;
        Ok(ReadFile::unnamed(Path::new("pack"), file))
    };
    let packs = match packs.iter().map(to_read).collect::<std::io::Result<_>>() {
        Ok(packs) => packs,
        Err(error) => return vec![Err(error)],
    };
    let mut reader = ImageReader::new(manifest, packs);
    manifest.extents.iter().map(|extent| reader.extent(extent)).collect()
}
