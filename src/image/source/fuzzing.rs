//! A door for `fuzz/`: a whole source, read to its end, with a directory for what is spooled.

use std::io::{self, Read};
use std::path::Path;

use super::{Declared, open};
use crate::image::ImportError;

/// How many bytes the disk in `stream` has. `dir` is a directory with a directory `tmp` in it.
///
/// # Errors
/// As the import.
pub fn disk_bytes(stream: impl Read, image_bytes_max: u64, dir: &Path) -> Result<u64, ImportError> {
    let mut source = open(stream, &Declared::default(), image_bytes_max, dir)?;
    let bytes = io::copy(&mut source.by_ref().take(image_bytes_max + 1), &mut io::sink());
    let bytes = bytes.map_err(ImportError::from_read)?;
    source.finish()?;
    Ok(bytes)
}
