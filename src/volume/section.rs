//! A range of a larger file or device, as a file of its own.

use std::io::{self, Read, Seek, SeekFrom, Write};

/// Read-only; reads end at the range's end.
#[derive(Debug)]
pub struct Section<R> {
    inner: R,
    start: u64,
    length: u64,
    position: u64,
}

impl<R: Read + Seek> Section<R> {
    /// Offsets in bytes.
    pub fn new(inner: R, start: u64, length: u64) -> Section<R> {
        Section { inner, start, length, position: 0 }
    }
}

impl<R: Read + Seek> Read for Section<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.length.saturating_sub(self.position);
        let count = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if count == 0 {
            return Ok(0);
        }
        let at = self.start.checked_add(self.position).ok_or(io::ErrorKind::InvalidInput)?;
        self.inner.seek(SeekFrom::Start(at))?;
        let count = self.inner.read(&mut out[..count])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl<R> Seek for Section<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// fatfs asks for a writer; nothing here is ever written.
impl<R> Write for Section<R> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
