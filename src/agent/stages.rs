//! Rule 4 in types: half a disk never boots.
//!
//! Each stage can only be made by the one before it, takes it whole, and holds the one open target. The head
//! can be written by [`BodyVerified`] alone, and that one holds a [`ReadBack`], which only reading the body back
//! from the device makes. No order of calls that would leave a bootable half compiles.

use std::collections::HashSet;

use super::boot_area::BootArea;
use super::fetch;
use super::readback::{self, ReadBack, Wrong};
use super::target::Target;
use super::write::{Job, WriteError};
use crate::wire::agent::Step;

/// A fitting disk, open and not yet written.
pub(super) struct OpenTarget {
    target: Target,
    boot: BootArea,
}

/// No head, no backup table: firmware sees a blank disk.
pub(super) struct Cleared {
    target: Target,
    boot: BootArea,
}

/// The body was written and flushed, which proves nothing yet.
pub(super) struct BodyWritten {
    target: Target,
    boot: BootArea,
}

/// The body was read back from the device and is the image's.
pub(super) struct BodyVerified {
    target: Target,
    boot: BootArea,
    proof: ReadBack,
}

/// The disk holds the image and boots it.
pub(super) struct Deployed(());

impl OpenTarget {
    pub fn new(target: Target, boot: BootArea) -> OpenTarget {
        OpenTarget { target, boot }
    }

    /// Looks whether the disk holds the image already: a power cut may have come after the last write and before
    /// its report (faults.md P2). A look at the body is worth its time only where the boot area is right.
    pub fn survey(self, job: &Job) -> Result<Result<Deployed, OpenTarget>, WriteError> {
        if !self.target.has_boot_area(&self.boot)? {
            return Ok(Err(self));
        }
        let windows = readback::body_windows(&self.boot);
        let wrong = readback::audit(job, &self.target, &self.boot, Step::Survey, &windows)?;
        Ok(if wrong.is_empty() { Ok(Deployed(())) } else { Err(self) })
    }

    /// What has to be written: everything, or with a seed what is not in its place. Where seed and image agree,
    /// the disk itself is asked by digest, since the seed's system may have changed it.
    pub fn missing(&self, job: &Job) -> Result<Wrong, WriteError> {
        let mut wrong = Wrong::all(job, &self.boot);
        let Some(seed) = &job.options.seed else { return Ok(wrong) };
        let in_seed: HashSet<_> = seed.extents.iter().map(|e| (e.target_offset_bytes, e.digest)).collect();
        let shared = job.manifest.extents.iter().filter(|e| in_seed.contains(&(e.target_offset_bytes, e.digest)));
        let cleared = readback::windows_of(&self.target.cleared_end());
        let mut windows: Vec<u64> = shared
            .flat_map(|extent| readback::windows_of(&extent.target()))
            // What lies where the old backup table is cleared is gone then, and the head is never kept.
            .filter(|window| *window > 0 && !cleared.contains(window))
            .collect();
        windows.dedup();
        let found = readback::audit(job, &self.target, &self.boot, Step::Survey, &windows)?;
        wrong.replace(job, &windows, found);
        Ok(wrong)
    }

    /// From here on the disk does not boot until [`BodyVerified::write_head`] is done.
    pub fn clear(self, job: &Job) -> Result<Cleared, WriteError> {
        job.go_on()?;
        self.target.clear_ends()?;
        Ok(Cleared { target: self.target, boot: self.boot })
    }
}

impl Cleared {
    /// Writes what is wrong and flushes. The second value is the bytes of extents that were written.
    pub fn write_body(self, job: &Job, wrong: Wrong) -> Result<(BodyWritten, u64), WriteError> {
        let written_bytes = rewrite(job, &self.target, &self.boot, Step::WriteBody, wrong)?;
        Ok((BodyWritten { target: self.target, boot: self.boot }, written_bytes))
    }
}

impl BodyWritten {
    /// Reads everything back from the device; what is wrong is written once more and read again.
    pub fn verify_body(self, job: &Job) -> Result<BodyVerified, WriteError> {
        let again = |wrong| rewrite(job, &self.target, &self.boot, Step::VerifyBody, wrong).map(drop);
        let proof = readback::prove(job, &self.target, &self.boot, again)?;
        Ok(BodyVerified { target: self.target, boot: self.boot, proof })
    }
}

impl BodyVerified {
    /// Makes the disk bootable, and looks that it is.
    pub fn write_head(self, job: &Job) -> Result<Deployed, WriteError> {
        job.go_on()?;
        self.target.write_boot_area(&self.boot, &self.proof)?;
        if self.target.has_boot_area(&self.boot)? {
            return Ok(Deployed(()));
        }
        Err(WriteError::BootArea { device: self.target.device().name().to_owned() })
    }
}

/// Zeros the wrong holes, fetches and writes the wrong extents, flushes.
fn rewrite(job: &Job, target: &Target, boot: &BootArea, step: Step, wrong: Wrong) -> Result<u64, WriteError> {
    for hole in wrong.holes {
        job.go_on()?;
        target.zero(hole)?;
    }
    let length = |index: &usize| u64::from(job.manifest.extents[*index].extent_bytes);
    let total_bytes = wrong.extents.iter().map(length).sum();
    let (mut done_bytes, mut written_bytes) = (0, 0);
    fetch::fetch(job, wrong.extents, |batch| {
        written_bytes += target.write_extents(&batch, &boot.body)?;
        done_bytes += batch.iter().map(|extent| extent.bytes().len() as u64).sum::<u64>();
        job.progress(step, done_bytes, total_bytes);
        Ok(())
    })?;
    target.sync()?;
    Ok(written_bytes)
}
