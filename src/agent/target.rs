//! The only writes to a disk: checked extents, zeros, and the boot area against proof of the body.

use std::io;
use std::ops::Range;
use std::time::Duration;

use thiserror::Error;

use super::aligned::{ALIGNMENT_BYTES, AlignedBuffer};
use super::boot_area::BootArea;
use super::device::Device;
use super::extent::VerifiedExtent;
use super::readback::ReadBack;
use crate::clock;
use crate::transfer::boot::CLEAR_BYTES;

/// A failed access is tried so many times more at the same offset: enough for a cable, not for a dying disk.
const RETRIES: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Longest single write. Longer ones gain nothing and delay the reaction to a stop.
const WRITE_BYTES_MAX: usize = 4 << 20;

/// The disk does not do what it is told.
#[derive(Debug, Error)]
#[error("disk {device} failed to {what} at byte {offset_bytes}: replace it, or its cable")]
pub struct DiskFailed {
    pub device: String,
    pub what: &'static str,
    pub offset_bytes: u64,
    pub source: io::Error,
}

/// A disk that is open for writing. It cannot be written but by these methods.
pub(super) struct Target {
    device: Box<dyn Device>,
}

impl Target {
    pub fn new(device: Box<dyn Device>) -> Target {
        Target { device }
    }

    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// Fills aligned memory from the device.
    pub fn read(&self, offset_bytes: u64, out: &mut [u8]) -> Result<(), DiskFailed> {
        self.insist("read", offset_bytes, || self.device.read(offset_bytes, out))
    }

    /// Zeros over the head and over the end of the disk, where the backup GPT of whatever was there lies; on the
    /// device before this returns. Really written: a discard does not promise zeros.
    pub fn clear_ends(&self) -> Result<(), DiskFailed> {
        let size_bytes = self.device.size_bytes();
        let zeros = AlignedBuffer::new(CLEAR_BYTES.min(size_bytes) as usize);
        self.write(0, &zeros)?;
        self.write(size_bytes - zeros.len() as u64, &zeros)?;
        self.sync()
    }

    /// What [`Target::clear_ends`] zeroes at the end of the disk.
    pub fn cleared_end(&self) -> Range<u64> {
        let size_bytes = self.device.size_bytes();
        size_bytes - CLEAR_BYTES.min(size_bytes)..size_bytes
    }

    /// Writes extents where they belong, as far as they lie inside `body`. Neighbours go out in one write.
    /// Returns the bytes written.
    pub fn write_extents(&self, extents: &[VerifiedExtent], body: &Range<u64>) -> Result<u64, DiskFailed> {
        let mut written_bytes = 0;
        for run in extents.chunk_by(VerifiedExtent::is_followed_by) {
            // chunk_by yields no empty runs.
            let (first, last) = (&run[0], &run[run.len() - 1]);
            let bytes = first.bytes_through(last);
            let offset = first.target().start;
            let from = body.start.clamp(offset, last.target().end);
            let to = body.end.clamp(from, last.target().end);
            self.write(from, &bytes[(from - offset) as usize..(to - offset) as usize])?;
            written_bytes += to - from;
        }
        Ok(written_bytes)
    }

    /// Makes a range read as zeros.
    pub fn zero(&self, range: Range<u64>) -> Result<(), DiskFailed> {
        self.insist("zero", range.start, || self.device.zero(range.clone()))
    }

    /// Makes the disk bootable. The proof can only come from reading the body back.
    ///
    /// Two steps, the first on the device before the second, so that a power cut between or inside them leaves a
    /// disk that boots whole or not at all: backup table, boot loaders and partition entries; then the two sectors
    /// without which the rest is nothing, the MBR and the table's header.
    pub fn write_boot_area(&self, boot: &BootArea, _body_is_right: &ReadBack) -> Result<(), DiskFailed> {
        if let Some((offset, tail)) = &boot.tail {
            self.write(*offset, &AlignedBuffer::copy_of(tail))?;
        }
        let seal_bytes = boot.head.len().min(2 * self.device.sector_bytes().unwrap_or(512) as usize);
        let (seal, rest) = boot.head.split_at(seal_bytes);
        self.write(seal_bytes as u64, &AlignedBuffer::copy_of(rest))?;
        self.sync()?;
        self.write(0, &AlignedBuffer::copy_of(seal))?;
        self.sync()
    }

    /// True when the device holds the boot area.
    pub fn has_boot_area(&self, boot: &BootArea) -> Result<bool, DiskFailed> {
        let holds = |offset: u64, wanted: &[u8]| {
            let mut got = AlignedBuffer::new(wanted.len());
            self.read(offset, &mut got)?;
            Ok(*got == *wanted)
        };
        let has_tail = boot.tail.as_ref().map_or(Ok(true), |(offset, tail)| holds(*offset, tail))?;
        Ok(has_tail && holds(0, &boot.head)?)
    }

    pub fn sync(&self) -> Result<(), DiskFailed> {
        // Not retried: after a failed fsync the kernel may have forgotten what was not written.
        self.device.sync().map_err(self.failed("flush", 0))
    }

    fn write(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), DiskFailed> {
        debug_assert!(bytes.is_empty() || (bytes.as_ptr() as usize).is_multiple_of(ALIGNMENT_BYTES.min(512)));
        let mut done = 0;
        while done < bytes.len() {
            let piece = &bytes[done..bytes.len().min(done + WRITE_BYTES_MAX)];
            let offset = offset_bytes + done as u64;
            done += self.insist("write", offset, || match self.device.write(offset, piece) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                result => result,
            })?;
        }
        Ok(())
    }

    /// Tries again at the same offset; then the disk has failed.
    fn insist<T>(
        &self,
        what: &'static str,
        offset_bytes: u64,
        mut access: impl FnMut() -> io::Result<T>,
    ) -> Result<T, DiskFailed> {
        let mut tries = 0;
        loop {
            match access() {
                Ok(done) => return Ok(done),
                Err(e) if tries == RETRIES => return Err(self.failed(what, offset_bytes)(e)),
                Err(e) => {
                    tracing::warn!(device = self.device.name(), offset_bytes, error = %e, "disk failed to {what}, trying again");
                    tries += 1;
                    clock::sleep(RETRY_PAUSE);
                }
            }
        }
    }

    fn failed(&self, what: &'static str, offset_bytes: u64) -> impl FnOnce(io::Error) -> DiskFailed {
        let device = self.device.name().to_owned();
        move |source| DiskFailed { device, what, offset_bytes, source }
    }
}
