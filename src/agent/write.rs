//! The write path as one call: [`write_image`], and [`verify_image`], which only looks.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use super::boot_area::BootArea;
use super::device::{Access, Device, DirectDevice, OpenError};
use super::readback;
use super::source::{self, GaveUp, ImageSource, SourceError};
use super::stages::{OpenTarget, Survey};
pub use super::target::DiskFailed;
use super::target::Target;
use crate::gpt::GptError;
use crate::wire::agent::{Progress, Step};
use crate::wire::manifest::{Manifest, ManifestError};

/// How to write.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// The image that is on the disk now: what they share is not fetched.
    pub seed: Option<Manifest>,
    /// What the disk was when it was chosen.
    pub expected: Option<Expected>,
    /// How long to wait for a server that does not answer, each time.
    pub patience: Duration,
}

impl Default for WriteOptions {
    fn default() -> Self {
        WriteOptions {
            seed: None,
            expected: None,
            // Long enough for a server to be restarted or upgraded.
            patience: Duration::from_secs(300),
        }
    }
}

/// The size by which the opened disk is recognised as the one that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub size_bytes: u64,
    pub sector_bytes: u32,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in sectors of {}", self.size_bytes, self.sector_bytes)
    }
}

/// Who is told how it goes, and may end it. Called from several threads, up to some hundred times a second.
pub trait Observer: Sync {
    /// A step begins.
    fn step(&self, step: Step);
    /// Bytes of the current step.
    fn progress(&self, progress: Progress);
    /// False ends the write before its next access to the disk, with [`WriteError::Stopped`].
    fn may_go_on(&self) -> bool;
}

/// What a finished write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The disk held the image already; nothing was written.
    pub already_there: bool,
    /// Compressed bytes from the server.
    pub fetched_bytes: u64,
    /// Bytes of extents written to the body.
    pub written_bytes: u64,
    /// Of these, bytes that were found elsewhere on the disk instead of fetched.
    pub copied_bytes: u64,
    /// Bytes of extents that were right already.
    pub kept_bytes: u64,
    /// Bytes of holes that were zeroed.
    pub zeroed_bytes: u64,
    /// Reading back went past the page cache (O_DIRECT). False on file systems that cannot.
    pub direct: bool,
}

/// What a comparison of a disk with an image found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The first MiB and the backup table are those of the image, fitted to this disk.
    pub boot_area_right: bool,
    pub wrong_extents: u64,
    /// Bytes of those extents.
    pub wrong_bytes: u64,
    /// Holes of the image that do not read as zeros.
    pub wrong_holes: u64,
    /// Where the first difference in the body is.
    pub first_wrong_byte: Option<u64>,
    pub direct: bool,
}

impl Verified {
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.boot_area_right && self.wrong_extents == 0 && self.wrong_holes == 0
    }
}

/// Why an image was not written. Unless said otherwise the disk is as it was, or does not boot.
#[derive(Debug, Error)]
pub enum WriteError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{device} is not the disk that was chosen: {now} where {chosen} was expected; nothing was written")]
    Swapped { device: String, chosen: String, now: String },
    #[error("{device} has {disk_bytes} bytes, the image needs {image_bytes}; nothing was written")]
    DoesNotFit { device: String, disk_bytes: u64, image_bytes: u64 },
    #[error("{device} has sectors of {disk} bytes, the image was made for {image}; nothing was written")]
    SectorSize { device: String, disk: u32, image: u32 },
    #[error(transparent)]
    PartitionTable(#[from] GptError),
    #[error("the server did not give what is needed")]
    Source(#[source] SourceError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("the server's data is wrong, twice: pack {pack}, frame at byte {offset_bytes}; scrub the image store")]
    BadData { pack: String, offset_bytes: u64 },
    #[error(transparent)]
    Disk(#[from] DiskFailed),
    #[error(
        "{device} does not keep what is written: {extents} extents and {holes} holes differ after writing them \
             twice, the first at byte {offset_bytes}; replace the disk"
    )]
    ReadBack { device: String, offset_bytes: u64, extents: usize, holes: usize },
    #[error("{device} does not keep the boot area that is written to it, which is zeros again; replace the disk")]
    BootArea { device: String },
    #[error("stopped, because the order is closed or held")]
    Stopped,
}

/// What every part of one write needs.
pub(super) struct Job<'a> {
    pub source: &'a dyn ImageSource,
    pub manifest: &'a Manifest,
    pub options: &'a WriteOptions,
    pub observer: &'a dyn Observer,
    pub fetched_bytes: AtomicU64,
    pub written_bytes: AtomicU64,
    pub copied_bytes: AtomicU64,
    pub kept_bytes: AtomicU64,
    pub zeroed_bytes: AtomicU64,
}

impl<'a> Job<'a> {
    pub fn new(
        source: &'a dyn ImageSource,
        manifest: &'a Manifest,
        options: &'a WriteOptions,
        observer: &'a dyn Observer,
    ) -> Job<'a> {
        Job {
            source,
            manifest,
            options,
            observer,
            fetched_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            copied_bytes: AtomicU64::new(0),
            kept_bytes: AtomicU64::new(0),
            zeroed_bytes: AtomicU64::new(0),
        }
    }

    pub fn go_on(&self) -> Result<(), WriteError> {
        if self.observer.may_go_on() { Ok(()) } else { Err(WriteError::Stopped) }
    }

    pub fn step(&self, step: Step) -> Result<(), WriteError> {
        self.observer.step(step);
        self.go_on()
    }

    pub fn progress(&self, step: Step, done_bytes: u64, total_bytes: u64) {
        self.observer.progress(Progress {
            step,
            done_bytes,
            total_bytes,
            fetched_bytes: self.fetched_bytes.load(Ordering::Relaxed),
        });
    }

    pub fn bytes_of(&self, extents: &[usize]) -> u64 {
        extents.iter().map(|&i| u64::from(self.manifest.extents[i].extent_bytes)).sum()
    }

    /// Before the first write: is this the disk that was chosen, and does the image fit it?
    pub fn check_fit(&self, device: &dyn Device) -> Result<(), WriteError> {
        let name = || device.name().to_owned();
        let (disk_bytes, sector_bytes) = (device.size_bytes(), device.sector_bytes());
        if let Some(chosen) = self.options.expected {
            let sector_bytes = sector_bytes.unwrap_or(chosen.sector_bytes);
            let now = Expected { size_bytes: disk_bytes, sector_bytes };
            if now != chosen {
                let (chosen, now) = (chosen.to_string(), now.to_string());
                return Err(WriteError::Swapped { device: name(), chosen, now });
            }
        }
        if disk_bytes < self.manifest.image_bytes {
            let image_bytes = self.manifest.image_bytes;
            return Err(WriteError::DoesNotFit { device: name(), disk_bytes, image_bytes });
        }
        match sector_bytes {
            Some(disk) if disk != self.manifest.sector_bytes => {
                Err(WriteError::SectorSize { device: name(), image: self.manifest.sector_bytes, disk })
            }
            _ => Ok(()),
        }
    }
}

/// Gets a manifest and checks it against its digest.
///
/// # Errors
/// [`WriteError::Source`], [`WriteError::Manifest`] or [`WriteError::Stopped`].
pub fn fetch_manifest(
    source: &dyn ImageSource,
    digest: &str,
    patience: Duration,
    observer: &dyn Observer,
) -> Result<Manifest, WriteError> {
    let encoded = source::ask(patience, &|| !observer.may_go_on(), || source.manifest(digest)).map_err(gave_up)?;
    Ok(Manifest::decode(&encoded, Some(digest))?)
}

/// Asks for the manifest digest of `NAME:VERSION`.
///
/// # Errors
/// [`WriteError::Source`] or [`WriteError::Stopped`].
pub fn resolve(
    source: &dyn ImageSource,
    image: &crate::wire::reference::ImageRef,
    patience: Duration,
    observer: &dyn Observer,
) -> Result<String, WriteError> {
    source::ask(patience, &|| !observer.may_go_on(), || source.resolve(image)).map_err(gave_up)
}

pub(super) fn gave_up(reason: GaveUp) -> WriteError {
    match reason {
        GaveUp::Stopped => WriteError::Stopped,
        GaveUp::Failed(source) => WriteError::Source(source),
    }
}

/// Makes a disk, or a file, hold and boot an image.
///
/// Until the body was read back and matches, the disk's first MiB is zeros; a run that was cut is continued by
/// the next one. A disk that holds the image already is not written at all.
///
/// # Errors
/// [`WriteError`].
pub fn write_image(
    source: &dyn ImageSource,
    manifest: &Manifest,
    target: &Path,
    options: &WriteOptions,
    observer: &dyn Observer,
) -> Result<Outcome, WriteError> {
    let device = DirectDevice::open(target, Access::Write)?;
    write_to(source, manifest, Box::new(device), options, observer)
}

/// [`write_image`] on a device that is open.
///
/// # Errors
/// [`WriteError`].
pub fn write_to(
    source: &dyn ImageSource,
    manifest: &Manifest,
    device: Box<dyn Device>,
    options: &WriteOptions,
    observer: &dyn Observer,
) -> Result<Outcome, WriteError> {
    let direct = device.is_direct();
    let job = Job::new(source, manifest, options, observer);
    let deployed = match OpenTarget::new(&job, device)?.survey()? {
        Survey::Deployed(deployed) => deployed,
        Survey::Write(open, wrong) => open.clear()?.write_body(wrong)?.verify_body()?.write_head()?,
    };
    Ok(Outcome {
        already_there: deployed.found,
        fetched_bytes: job.fetched_bytes.into_inner(),
        written_bytes: job.written_bytes.into_inner(),
        copied_bytes: job.copied_bytes.into_inner(),
        kept_bytes: job.kept_bytes.into_inner(),
        zeroed_bytes: job.zeroed_bytes.into_inner(),
        direct,
    })
}

/// Compares a disk, or a file, with an image. Writes nothing; the disk may be in use, and what its programs are
/// writing at this moment shows as a difference.
///
/// # Errors
/// [`WriteError`] when the disk or the image cannot be read; a difference is no error.
pub fn verify_image(
    source: &dyn ImageSource,
    manifest: &Manifest,
    target: &Path,
    options: &WriteOptions,
    observer: &dyn Observer,
) -> Result<Verified, WriteError> {
    let device = DirectDevice::open(target, Access::Read)?;
    let direct = device.is_direct();
    let job = Job::new(source, manifest, options, observer);
    job.check_fit(&device)?;
    let boot = BootArea::prepare(&job, device.size_bytes())?;
    let target = Target::new(Box::new(device));
    job.step(Step::VerifyBody)?;
    let wrong = readback::audit(&job, &target, &boot, Step::VerifyBody, &readback::body_windows(&boot))?;
    Ok(Verified {
        boot_area_right: target.has_boot_area(&boot)?,
        wrong_extents: wrong.extents.len() as u64,
        wrong_bytes: job.bytes_of(&wrong.extents),
        wrong_holes: wrong.holes.len() as u64,
        first_wrong_byte: (!wrong.is_empty()).then(|| wrong.first_byte(&job)),
        direct,
    })
}
