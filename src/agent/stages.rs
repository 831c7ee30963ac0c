//! The order of a deploy, in types. Each stage can only be made from the one before:
//!
//! ```text
//!   OpenTarget ---survey---> Deployed          head, tail and body are already right
//!       | clear                                first and last MiB are zeros, on the device
//!   Cleared
//!       | write_body                           everything between head and backup table
//!   BodyWritten
//!       | verify_body                          read back from the device, compared with the manifest
//!   BodyVerified
//!       | write_head                           backup table, head; read back
//!   Deployed
//! ```
//!
//! A power cut leaves the disk in the stage that was reached. Up to `BodyVerified` its head is zeros, which no
//! firmware boots.

use std::sync::atomic::Ordering;

use super::aligned::AlignedBuffer;
use super::boot_area::BootArea;
use super::device::Device;
use super::readback::{self, ReadBack, Wrong};
use super::target::{DiskFailed, Target};
use super::write::{Job, WriteError};
use super::{fetch, moved};
use crate::causes;
use crate::transfer::{self, boot, segments};
use crate::wire::agent::Step;
use crate::wire::manifest::{Manifest, digest};

/// Holes are zeroed in pieces, so that a stop is noticed and progress is seen.
const ZERO_BYTES_MAX: u64 = 64 << 20;

/// The disk is open, the image fits it, nothing was written.
pub(super) struct OpenTarget<'j> {
    job: &'j Job<'j>,
    target: Target,
    boot: BootArea,
}

/// What a look at the disk found.
pub(super) enum Survey<'j> {
    Deployed(Deployed),
    /// The image must be written; what is known to be right of it need not be.
    Write(OpenTarget<'j>, Option<Wrong>),
}

impl<'j> OpenTarget<'j> {
    /// Checks that the image fits this disk, and fetches its head.
    pub fn new(job: &'j Job<'j>, device: Box<dyn Device>) -> Result<OpenTarget<'j>, WriteError> {
        job.check_fit(&*device)?;
        let boot = BootArea::prepare(job, device.size_bytes())?;
        let target = Target::new(device);
        Ok(OpenTarget { job, target, boot })
    }

    /// Looks whether the disk already holds the image. Writes nothing.
    pub fn survey(self) -> Result<Survey<'j>, WriteError> {
        self.job.step(Step::Survey)?;
        if !self.target.has_boot_area(&self.boot)? {
            return Ok(Survey::Write(self, None));
        }
        let windows = readback::body_windows(&self.boot);
        let wrong = readback::audit(self.job, &self.target, &self.boot, Step::Survey, &windows)?;
        if wrong.is_empty() {
            return Ok(Survey::Deployed(Deployed { found: true }));
        }
        Ok(Survey::Write(self, Some(wrong)))
    }

    /// Makes the disk unbootable.
    pub fn clear(self) -> Result<Cleared<'j>, WriteError> {
        self.job.step(Step::ClearHead)?;
        self.target.clear_ends()?;
        let OpenTarget { job, target, boot } = self;
        Ok(Cleared { job, target, boot })
    }
}

/// Both ends of the disk are zeros.
pub(super) struct Cleared<'j> {
    job: &'j Job<'j>,
    target: Target,
    boot: BootArea,
}

impl<'j> Cleared<'j> {
    /// Writes what is not right yet. `surveyed` is what the survey knows of the whole body.
    pub fn write_body(self, surveyed: Option<Wrong>) -> Result<BodyWritten<'j>, WriteError> {
        self.job.step(Step::WriteBody)?;
        let Cleared { job, target, boot } = self;
        let all = Wrong::all(job, &boot);
        let seed = seed_on(job, &target, &all)?;
        let all_bytes = job.bytes_of(&all.extents);
        let wrong = match surveyed {
            Some(mut wrong) => {
                // Clearing the end of the disk may have cleared a piece of the body.
                let cleared = target.cleared_end();
                let cleared = cleared.start.clamp(boot.body.start, boot.body.end)..boot.body.end;
                let windows: Vec<u64> = readback::windows_of(&cleared).collect();
                let found = readback::audit(job, &target, &boot, Step::WriteBody, &windows)?;
                wrong.replace(job, &windows, found);
                wrong
            }
            None if seed.is_some() || was_cut(job, &target, &all) => {
                let windows = readback::body_windows(&boot);
                match readback::audit(job, &target, &boot, Step::Survey, &windows) {
                    // A place that cannot be read may be one that can be written.
                    Err(WriteError::Disk(failed)) => {
                        tracing::warn!(error = %causes::in_one_line(&failed), "all of the image is written anew");
                        all
                    }
                    audited => audited?,
                }
            }
            None => all,
        };
        job.kept_bytes.fetch_add(all_bytes - job.bytes_of(&wrong.extents), Ordering::Relaxed);
        write_wrong(job, &target, &boot, wrong, seed)?;
        Ok(BodyWritten { job, target, boot })
    }
}

/// True when the disk holds some of what is to be written: then an earlier write was cut (or another version is
/// there), and what is right need not be fetched again. A wrong guess costs time, never correctness.
fn was_cut(job: &Job, target: &Target, all: &Wrong) -> bool {
    holds_some(job.manifest, all.extents.clone(), target).unwrap_or_else(|failed| {
        tracing::warn!(error = %causes::in_one_line(&failed), "the disk is not asked for what an earlier write left");
        false
    })
}

/// The seed, when it has enough in common with what is to be written and the disk holds some of it. One that is of another
/// image or another disk, or was overwritten since, is no reason to read the whole disk. It is a hint: that the disk cannot
/// be read there ends the hint and not the write.
fn seed_on<'j>(job: &Job<'j>, target: &Target, all: &Wrong) -> Result<Option<&'j Manifest>, WriteError> {
    let Some(seed) = &job.options.seed else { return Ok(None) };
    job.go_on()?;
    if !transfer::moved::is_worth_a_look(job.manifest, seed, &all.extents) {
        tracing::info!("the image that was on the disk has little in common with the new one; all of it is fetched");
        return Ok(None);
    }
    let extents = boot::inside(seed, &boot::kept_body(seed, target.device().size_bytes()));
    match holds_some(seed, extents, target) {
        Ok(true) => return Ok(Some(seed)),
        Ok(false) => {
            tracing::warn!("the disk does not hold the image that it was said to hold; it is not asked for it")
        }
        Err(failed) => tracing::warn!(error = %causes::in_one_line(&failed), "the disk is not asked for its old image"),
    }
    Ok(None)
}

fn holds_some(manifest: &Manifest, extents: Vec<usize>, target: &Target) -> Result<bool, DiskFailed> {
    for index in segments::samples(manifest, extents) {
        let extent = &manifest.extents[index];
        if extent.target().end > target.device().size_bytes() {
            continue;
        }
        let mut bytes = AlignedBuffer::new(extent.extent_bytes as usize);
        target.read(extent.target_offset_bytes, &mut bytes)?;
        if digest(&bytes) == extent.digest {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Copies, fetches and zeroes until everything that was wrong is written, and on the device.
fn write_wrong(
    job: &Job,
    target: &Target,
    boot: &BootArea,
    wrong: Wrong,
    seed: Option<&Manifest>,
) -> Result<(), WriteError> {
    let total_bytes = job.bytes_of(&wrong.extents) + wrong.holes.iter().map(|h| h.end - h.start).sum::<u64>();
    let mut done_bytes = job.bytes_of(&wrong.extents);
    // Copies first: everything else overwrites what they read. Holes last, for the same reason.
    let missing = match seed {
        Some(seed) => moved::copy(job, target, boot, seed, wrong.extents)?,
        None => wrong.extents,
    };
    done_bytes -= job.bytes_of(&missing);
    fetch::fetch(job, missing, |batch| {
        let written_bytes = target.write_extents(&batch, &boot.body)?;
        job.written_bytes.fetch_add(written_bytes, Ordering::Relaxed);
        done_bytes += written_bytes;
        job.progress(Step::WriteBody, done_bytes, total_bytes);
        Ok(())
    })?;
    for hole in wrong.holes {
        let mut at = hole.start;
        while at < hole.end {
            job.go_on()?;
            let end = hole.end.min(at + ZERO_BYTES_MAX);
            target.zero(at..end)?;
            job.zeroed_bytes.fetch_add(end - at, Ordering::Relaxed);
            done_bytes += end - at;
            job.progress(Step::WriteBody, done_bytes, total_bytes);
            at = end;
        }
    }
    Ok(target.sync()?)
}

/// Everything was written, which proves nothing yet.
pub(super) struct BodyWritten<'j> {
    job: &'j Job<'j>,
    target: Target,
    boot: BootArea,
}

impl<'j> BodyWritten<'j> {
    /// Reads the body back; what differs is fetched and written once more.
    pub fn verify_body(self) -> Result<BodyVerified<'j>, WriteError> {
        self.job.step(Step::VerifyBody)?;
        let BodyWritten { job, target, boot } = self;
        let proof = readback::prove(job, &target, &boot, |wrong| write_wrong(job, &target, &boot, wrong, None))?;
        Ok(BodyVerified { job, target, boot, proof })
    }
}

/// The device holds the whole body.
pub(super) struct BodyVerified<'j> {
    job: &'j Job<'j>,
    target: Target,
    boot: BootArea,
    proof: ReadBack,
}

impl BodyVerified<'_> {
    /// Makes the disk bootable.
    pub fn write_head(self) -> Result<Deployed, WriteError> {
        self.job.step(Step::WriteHead)?;
        self.target.write_boot_area(&self.boot, &self.proof)?;
        if !self.target.has_boot_area(&self.boot)? {
            // What is there now must not boot.
            self.target.clear_ends()?;
            return Err(WriteError::BootArea { device: self.target.device().name().to_owned() });
        }
        Ok(Deployed { found: false })
    }
}

/// The disk holds the image and boots it.
pub(super) struct Deployed {
    /// It did already, nothing was written.
    pub found: bool,
}
