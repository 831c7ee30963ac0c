//! A stream as a file, for formats that are read in any order.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{SourceError, qcow2_check};
use crate::image::files::TempFile;
use crate::image::{ImportError, io_error, pack};

const PIECE_BYTES: usize = 256 << 10;
const BLOCK_BYTES: usize = 4096;
/// After so much of the file its header is judged: most of what is refused is refused here, before it fills the disk.
const HEADER_BYTES: u64 = 64 << 10;
/// How often it is looked whether the disk has room.
const LOOK_BYTES: u64 = 64 << 20;
/// What a spooled file leaves free for everybody else of the disk: one part in so many, and at most so much.
const FREE_ONE_IN: u64 = 20;
const FREE_BYTES_MAX: u64 = 1 << 30;

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
    /// [`SourceError::FileTooLarge`], and what is wrong with its header; what the stream says; the store when its disk is
    /// as good as full.
    pub fn fill(mut reader: impl Read, store: &Path, bytes_max: u64) -> Result<Spool, ImportError> {
        let temp = TempFile::create(store)?;
        let mut piece = vec![0; PIECE_BYTES];
        let (mut bytes, mut is_judged, mut until_look) = (0, false, 0);
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
                    if until_look == 0 {
                        leave_room(&temp).map_err(io_error("write", temp.path()))?;
                        until_look = LOOK_BYTES / BLOCK_BYTES as u64;
                    }
                    until_look -= 1;
                    let at = bytes + number * BLOCK_BYTES as u64;
                    temp.file.write_all_at(block, at).map_err(io_error("write", temp.path()))?;
                }
            }
            bytes += count as u64;
            if !is_judged && bytes >= HEADER_BYTES {
                is_judged = true;
                qcow2_check::check_header(&temp.file, bytes_max)?;
            }
        }
        temp.file.set_len(bytes).map_err(io_error("write", temp.path()))?;
        Ok(Spool { temp, bytes })
    }

    pub fn file(&self) -> &File {
        &self.temp.file
    }
}

fn leave_room(temp: &TempFile) -> io::Result<()> {
    let disk = rustix::fs::fstatvfs(&temp.file)?;
    let (all, free) = (disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize));
    let reserve = (all / FREE_ONE_IN).min(FREE_BYTES_MAX);
    if free >= reserve + LOOK_BYTES {
        return Ok(());
    }
    let said = format!("a qcow2 image is kept there while it is imported, and only {free} bytes are free");
    Err(io::Error::new(io::ErrorKind::StorageFull, said))
}
