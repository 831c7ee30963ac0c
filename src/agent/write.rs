//! The whole write as one call: survey, clear, write, read back, make bootable.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;

use super::boot_area::BootArea;
use super::device::{Access, Device, DirectDevice, OpenError};
use super::readback::{self, Wrong};
use super::source::{ImageSource, SourceError};
use super::stages::OpenTarget;
use super::target::{DiskFailed, Target};
use crate::gpt::GptError;
use crate::wire::agent::{Progress, Step};
use crate::wire::manifest::Manifest;

/// How to write.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// How long a server that does not answer is asked again, from its first silence on.
    pub patience: Duration,
    /// What the chosen disk must still be once it is open: between the choice and the open it may have been
    /// swapped (faults.md A4). `None` for a target that a person named.
    pub expected: Option<Expected>,
    /// A version that was on this disk before: what of it is still in its place is not fetched again.
    pub seed: Option<Manifest>,
}

/// The size and sector size that a disk had when it was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub size_bytes: u64,
    pub sector_bytes: u32,
}

/// Who is told what happens, and who may end it. Called from several threads.
pub trait Observer: Sync {
    /// A step begins.
    fn step(&self, step: Step);
    /// Bytes moved.
    fn progress(&self, progress: Progress);
    /// False: stop before the next write.
    fn may_go_on(&self) -> bool;
}

/// What a good write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The disk held the image before: nothing was written.
    pub already_there: bool,
    /// Bytes of extents that were written.
    pub written_bytes: u64,
    /// Bytes of extents that were in their place already.
    pub kept_bytes: u64,
    /// Compressed bytes that came over the network.
    pub fetched_bytes: u64,
    /// The read-back went past the page cache.
    pub direct: bool,
}

/// What a comparison of a disk with an image found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Head and backup partition table are as written for this disk.
    pub boot_area_right: bool,
    pub wrong_extents: usize,
    pub wrong_holes: usize,
    pub direct: bool,
}

impl Verified {
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.boot_area_right && self.wrong_extents == 0 && self.wrong_holes == 0
    }
}

/// Why an image is not on the disk. After the first write the disk has no head and no partition table.
#[derive(Debug, Error)]
pub enum WriteError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{device} is not the disk that was chosen: {now} where {chosen} was expected; nothing was written")]
    Swapped { device: String, chosen: String, now: String },
    #[error("{device} has {disk_bytes} bytes, the image needs {image_bytes}; nothing was written")]
    DoesNotFit { device: String, disk_bytes: u64, image_bytes: u64 },
    #[error(
        "{device} has sectors of {disk_sector_bytes} bytes, the image was made for {image_sector_bytes}; nothing was written"
    )]
    SectorSize { device: String, disk_sector_bytes: u32, image_sector_bytes: u32 },
    #[error("the image's partition table cannot be fitted to this disk")]
    PartitionTable(#[from] GptError),
    #[error("the server does not give the image")]
    Source(#[source] SourceError),
    #[error("what the server sent of pack {pack} at byte {offset_bytes} does not match the manifest, twice")]
    BadData { pack: String, offset_bytes: u64 },
    #[error(transparent)]
    Disk(#[from] DiskFailed),
    #[error(
        "{device} does not give back what was written: {extents} extents and {holes} holes are wrong, the first at \
         byte {offset_bytes}, after a second try"
    )]
    ReadBack { device: String, offset_bytes: u64, extents: usize, holes: usize },
    #[error("{device} does not give back the boot area that was written")]
    BootArea { device: String },
    #[error("stopped before the end, as asked; the disk is not bootable")]
    Stopped,
}

/// What all steps of one write share.
pub(super) struct Job<'a> {
    pub source: &'a dyn ImageSource,
    pub manifest: &'a Manifest,
    pub options: &'a WriteOptions,
    pub observer: &'a dyn Observer,
    pub fetched_bytes: AtomicU64,
}

impl Job<'_> {
    pub fn go_on(&self) -> Result<(), WriteError> {
        if self.observer.may_go_on() { Ok(()) } else { Err(WriteError::Stopped) }
    }

    pub fn progress(&self, step: Step, done_bytes: u64, total_bytes: u64) {
        let fetched_bytes = self.fetched_bytes.load(Ordering::Relaxed);
        self.observer.progress(Progress { step, done_bytes, total_bytes, fetched_bytes });
    }
}

/// Puts an image onto a block device or into a file of a fitting length.
///
/// # Errors
/// [`WriteError`]. Up to and including `SectorSize` nothing was written.
pub fn write_image(
    source: &dyn ImageSource,
    manifest: &Manifest,
    path: &Path,
    options: &WriteOptions,
    observer: &dyn Observer,
) -> Result<Outcome, WriteError> {
    let job = Job { source, manifest, options, observer, fetched_bytes: AtomicU64::new(0) };
    write_to(&job, Box::new(DirectDevice::open(path, Access::Write)?))
}

pub(super) fn write_to(job: &Job, device: Box<dyn Device>) -> Result<Outcome, WriteError> {
    check_device(job, &*device)?;
    let direct = device.is_direct();
    let outcome = |already_there, written_bytes, kept_bytes| Outcome {
        already_there,
        written_bytes,
        kept_bytes,
        fetched_bytes: job.fetched_bytes.load(Ordering::Relaxed),
        direct,
    };
    job.observer.step(Step::Survey);
    let boot = BootArea::prepare(job, device.size_bytes())?;
    let open = OpenTarget::new(Target::new(device), boot);
    let open = match open.survey(job)? {
        Ok(_deployed) => return Ok(outcome(true, 0, job.manifest.data_bytes())),
        Err(open) => open,
    };
    let wrong = open.missing(job)?;
    job.observer.step(Step::ClearHead);
    let cleared = open.clear(job)?;
    job.observer.step(Step::WriteBody);
    let (body, written_bytes) = cleared.write_body(job, wrong)?;
    job.observer.step(Step::VerifyBody);
    let verified = body.verify_body(job)?;
    job.observer.step(Step::WriteHead);
    let _deployed = verified.write_head(job)?;
    Ok(outcome(false, written_bytes, job.manifest.data_bytes().saturating_sub(written_bytes)))
}

fn check_device(job: &Job, device: &dyn Device) -> Result<(), WriteError> {
    let name = || device.name().to_owned();
    let (disk_bytes, image_bytes) = (device.size_bytes(), job.manifest.image_bytes);
    if let Some(expected) = job.options.expected {
        let now =
            Expected { size_bytes: disk_bytes, sector_bytes: device.sector_bytes().unwrap_or(expected.sector_bytes) };
        if now != expected {
            let (chosen, now) = (format!("{expected:?}"), format!("{now:?}"));
            return Err(WriteError::Swapped { device: name(), chosen, now });
        }
    }
    if disk_bytes < image_bytes {
        return Err(WriteError::DoesNotFit { device: name(), disk_bytes, image_bytes });
    }
    match device.sector_bytes() {
        Some(disk_sector_bytes) if disk_sector_bytes != job.manifest.sector_bytes => Err(WriteError::SectorSize {
            device: name(),
            disk_sector_bytes,
            image_sector_bytes: job.manifest.sector_bytes,
        }),
        _ => Ok(()),
    }
}

/// Compares a disk with an image and writes nothing.
///
/// # Errors
/// [`WriteError`] where the disk cannot be read or the server does not give the image's head.
pub fn verify_image(
    source: &dyn ImageSource,
    manifest: &Manifest,
    path: &Path,
    options: &WriteOptions,
    observer: &dyn Observer,
) -> Result<Verified, WriteError> {
    let job = Job { source, manifest, options, observer, fetched_bytes: AtomicU64::new(0) };
    let device = DirectDevice::open(path, Access::Read)?;
    check_device(&job, &device)?;
    observer.step(Step::VerifyBody);
    let boot = BootArea::prepare(&job, device.size_bytes())?;
    let direct = device.is_direct();
    let target = Target::new(Box::new(device));
    let wrong: Wrong = readback::audit(&job, &target, &boot, Step::VerifyBody, &readback::body_windows(&boot))?;
    let boot_area_right = target.has_boot_area(&boot)?;
    Ok(Verified { boot_area_right, wrong_extents: wrong.extents.len(), wrong_holes: wrong.holes.len(), direct })
}
