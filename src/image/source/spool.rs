//! A stream as a file, for formats that are read in any order.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::SourceError;
use crate::image::files::TempFile;
use crate::image::{ImportError, io_error, pack};

const PIECE_BYTES: usize = 256 << 10;
const BLOCK_BYTES: usize = 4096;

/// A file in the store's `tmp/` that is gone when this is dropped, and when the store is opened after a crash.
#[derive(Debug)]
pub(super) struct Spool {
    temp: TempFile,
    pub bytes: u64,
}

impl Spool {
    /// Everything that comes; zeros become holes, so that a packed sparse file takes no more room than it has data.
    ///
    /// # Errors
    /// [`SourceError::FileTooLarge`]; what the stream says; the store when its disk is full.
    pub fn fill(mut reader: impl Read, store: &Path, bytes_max: u64) -> Result<Spool, ImportError> {
        let temp = TempFile::create(store)?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut bytes = 0;
        loop {
            let count = match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ImportError::from_read(error)),
            };
            if bytes + count as u64 > bytes_max {
                return Err(SourceError::FileTooLarge { bytes_max }.into());
            }
            for (number, block) in (0..).zip(piece[..count].chunks(BLOCK_BYTES)) {
                if !pack::is_zero(block) {
                    let at = bytes + number * BLOCK_BYTES as u64;
                    temp.file.write_all_at(block, at).map_err(io_error("write", temp.path()))?;
                }
            }
            bytes += count as u64;
        }
        temp.file.set_len(bytes).map_err(io_error("write", temp.path()))?;
        Ok(Spool { temp, bytes })
    }

    pub fn file(&self) -> &File {
        &self.temp.file
    }
}
