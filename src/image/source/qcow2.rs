//! A qcow2 image as the raw disk that it stands for, in order. `imago` reads it, after `qcow2_check` has judged it.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping};

use super::SourceError;
use super::qcow2_check::check;
use super::spool::Spool;

pub(super) struct Reader {
    image: FormatAccess<File>,
    image_bytes: u64,
    position: u64,
    /// Up to here the image reads as zeros.
    zeros_end: u64,
    /// Up to here it is data.
    data_end: u64,
    /// Holds the file as long as it is read.
    _spool: Spool,
}

impl Reader {
    /// # Errors
    /// [`SourceError`]: no qcow2 that is taken, or one that is damaged.
    pub fn open(spool: Spool, image_bytes_max: u64) -> Result<Reader, SourceError> {
        let image_bytes = check(spool.file(), spool.bytes, image_bytes_max)?;
        let file = spool.file().try_clone().map_err(SourceError::Qcow2Read)?;
        let open = || {
            let file = File::try_from(file)?;
            // No file that the image names is ever opened.
            Qcow2::<File>::builder(file).write(false).open(DenyImplicitOpenGate::default()).map(FormatAccess::new)
        };
        let image = caught(open).map_err(SourceError::Qcow2Read)?;
        Ok(Reader { image, image_bytes, position: 0, zeros_end: 0, data_end: 0, _spool: spool })
    }

    /// Looks at what is at the position; one of the two ends lies behind it afterwards.
    fn look(&mut self) -> io::Result<()> {
        let left = self.image_bytes - self.position;
        let (mapping, length) = self.image.get_mapping(self.position, left)?;
        let end = self.position + length.min(left);
        match mapping {
            Mapping::Zero { .. } => self.zeros_end = end,
            Mapping::Raw { .. } | Mapping::Special { .. } => self.data_end = end,
            _ => {}
        }
        if length == 0 || end == self.position || self.zeros_end.max(self.data_end) <= self.position {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before its size"));
        }
        Ok(())
    }

    fn read_next(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.zeros_end.max(self.data_end) {
            self.look()?;
        }
        let is_zeros = self.position < self.zeros_end;
        let end = if is_zeros { self.zeros_end } else { self.data_end };
        let count = usize::try_from(end - self.position).map_or(out.len(), |left| left.min(out.len()));
        let out = &mut out[..count];
        if is_zeros {
            out.fill(0)
        } else {
            self.image.read(&mut *out, self.position)?
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.image_bytes || out.is_empty() {
            return Ok(0);
        }
        caught(|| self.read_next(out)).map_err(|error| io::Error::other(SourceError::Qcow2Read(error)))
    }
}

/// An image is outside text, and the library has assertions: one that fails means that this image cannot be read.
fn caught<T>(read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let broken = |_| Err(io::Error::other("its tables contradict themselves"));
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(broken)
}
