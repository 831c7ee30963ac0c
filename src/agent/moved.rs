//! Content that the disk already holds at another place: copied by the rules of [`crate::transfer::moved`].

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::aligned::AlignedBuffer;
use super::boot_area::BootArea;
use super::extent::VerifiedExtent;
use super::target::Target;
use super::write::{Job, WriteError};
use crate::causes;
use crate::transfer::moved::{self, Surface};
use crate::wire::agent::Step;
use crate::wire::manifest::Manifest;

/// The disk that is being written.
struct Disk<'a> {
    job: &'a Job<'a>,
    target: &'a Target,
    boot: &'a BootArea,
    done_bytes: u64,
    total_bytes: u64,
    /// A read failed: what else the disk could give is fetched instead.
    is_failing: bool,
}

/// Writes those of `extents` whose content is on the disk; returns the others, which must be fetched.
pub(super) fn copy(
    job: &Job,
    target: &Target,
    boot: &BootArea,
    seed: &Manifest,
    extents: Vec<usize>,
) -> Result<Vec<usize>, WriteError> {
    let total_bytes = job.bytes_of(&extents);
    let mut disk = Disk { job, target, boot, done_bytes: 0, total_bytes, is_failing: false };
    moved::copy(job.manifest, seed, extents, &mut disk)
}

impl Surface for Disk<'_> {
    type Held = VerifiedExtent;
    type Error = WriteError;

    /// `None` when what lies there is not its content: the seed is only a hint.
    fn read(&mut self, extent: usize, sources: &[Range<u64>]) -> Result<Option<VerifiedExtent>, WriteError> {
        self.job.go_on()?;
        if self.is_failing {
            return Ok(None);
        }
        let extent = &self.job.manifest.extents[extent];
        let mut buffer = AlignedBuffer::new(extent.extent_bytes as usize);
        let mut at = 0;
        for source in sources {
            let len = (source.end - source.start) as usize;
            if source.end > self.target.device().size_bytes() {
                return Ok(None);
            }
            if let Err(failed) = self.target.read(source.start, &mut buffer[at..at + len]) {
                // It was not ours to read, so it does not end the write; and once is enough, since failing disks take
                // their time.
                tracing::warn!(error = %causes::in_one_line(&failed), "the disk is not asked for its old image any more");
                self.is_failing = true;
                return Ok(None);
            }
            at += len;
        }
        Ok(VerifiedExtent::check(extent, &Arc::new(buffer), 0))
    }

    fn write(&mut self, extent: usize, held: VerifiedExtent) -> Result<(), WriteError> {
        self.job.go_on()?;
        let written_bytes = self.target.write_extents(&[held], &self.boot.body)?;
        self.job.copied_bytes.fetch_add(written_bytes, Ordering::Relaxed);
        self.job.written_bytes.fetch_add(written_bytes, Ordering::Relaxed);
        self.done_bytes += u64::from(self.job.manifest.extents[extent].extent_bytes);
        self.job.progress(Step::WriteBody, self.done_bytes, self.total_bytes);
        Ok(())
    }
}
