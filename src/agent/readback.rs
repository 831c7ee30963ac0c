//! The body as the device has it, against the manifest: every extent by its digest, every hole as zeros.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::aligned::AlignedBuffer;
use super::boot_area::BootArea;
use super::target::Target;
use super::write::{Job, WriteError};
use crate::wire::agent::Step;
use crate::wire::manifest::{self, BLOCK_BYTES, WINDOW_BYTES};

/// Two: one reads while the other hashes. More only compete for the disk's arm.
const READERS: usize = 2;

/// Proof that the whole body was read from the device and is what the manifest says. Only [`prove`] makes it.
#[derive(Debug)]
pub(super) struct ReadBack(());

/// What on the disk is not as the manifest says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Indexes into the manifest's extents.
    pub extents: Vec<usize>,
    /// Ranges of the body that should read as zeros.
    pub holes: Vec<Range<u64>>,
}

impl Wrong {
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty() && self.holes.is_empty()
    }

    /// Where the first difference is, for a message.
    pub fn first_byte(&self, job: &Job) -> u64 {
        let extents = self.extents.iter().map(|&i| job.manifest.extents[i].target_offset_bytes);
        extents.chain(self.holes.iter().map(|hole| hole.start)).min().unwrap_or(0)
    }

    /// Every extent and every hole of the body, for a disk of which nothing is known.
    pub fn all(job: &Job, boot: &BootArea) -> Wrong {
        let mut wrong = Wrong::default();
        let mut free_from = boot.body.start;
        let mut hole = |from: u64, to: u64| {
            let hole = from.max(boot.body.start)..to.min(boot.body.end);
            if hole.start < hole.end {
                wrong.holes.push(hole);
            }
        };
        for (index, extent) in job.manifest.extents.iter().enumerate() {
            let target = extent.target();
            if target.end <= boot.body.start || target.start >= boot.body.end {
                continue;
            }
            hole(free_from, target.start);
            wrong.extents.push(index);
            free_from = target.end;
        }
        hole(free_from, boot.body.end);
        wrong
    }

    /// The windows that hold what is wrong, in order, each once.
    fn windows(&self, job: &Job) -> Vec<u64> {
        let extents = self.extents.iter().map(|&i| job.manifest.extents[i].target());
        let mut windows: Vec<u64> = extents.chain(self.holes.iter().cloned()).flat_map(|r| windows_of(&r)).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }

    /// Drops what was known of these windows and takes what was found there anew.
    pub fn replace(&mut self, job: &Job, windows: &[u64], found: Wrong) {
        let is_old = |offset: u64| windows.contains(&(offset / WINDOW_BYTES));
        self.extents.retain(|&i| !is_old(job.manifest.extents[i].target_offset_bytes));
        self.holes.retain(|hole| !is_old(hole.start));
        self.extents.extend(found.extents);
        self.holes.extend(found.holes);
    }
}

/// Windows are the MiBs of the target; no extent crosses their borders.
pub(super) fn windows_of(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() {
        return 0..0;
    }
    range.start / WINDOW_BYTES..range.end.div_ceil(WINDOW_BYTES)
}

/// All windows of the body.
pub(super) fn body_windows(boot: &BootArea) -> Vec<u64> {
    windows_of(&boot.body).collect()
}

/// Reads the whole body. What is wrong goes to `rewrite` once and is read again; if it is still wrong, there is
/// no proof.
pub(super) fn prove(
    job: &Job,
    target: &Target,
    boot: &BootArea,
    rewrite: impl FnOnce(Wrong) -> Result<(), WriteError>,
) -> Result<ReadBack, WriteError> {
    let wrong = audit(job, target, boot, Step::VerifyBody, &body_windows(boot))?;
    if wrong.is_empty() {
        return Ok(ReadBack(()));
    }
    tracing::warn!(
        device = target.device().name(),
        offset_bytes = wrong.first_byte(job),
        extents = wrong.extents.len(),
        holes = wrong.holes.len(),
        "what was read back is not what was written, writing it once more"
    );
    let windows = wrong.windows(job);
    rewrite(wrong)?;
    let wrong = audit(job, target, boot, Step::VerifyBody, &windows)?;
    if wrong.is_empty() {
        return Ok(ReadBack(()));
    }
    Err(WriteError::ReadBack {
        device: target.device().name().to_owned(),
        offset_bytes: wrong.first_byte(job),
        extents: wrong.extents.len(),
        holes: wrong.holes.len(),
    })
}

/// Compares some windows of the body with the manifest.
pub(super) fn audit(
    job: &Job,
    target: &Target,
    boot: &BootArea,
    step: Step,
    windows: &[u64],
) -> Result<Wrong, WriteError> {
    let next = AtomicU64::new(0);
    let done_bytes = AtomicU64::new(0);
    let total_bytes = windows.len() as u64 * WINDOW_BYTES;
    let wrong = Mutex::new(Wrong::default());
    let read = || {
        let mut buffer = AlignedBuffer::new(WINDOW_BYTES as usize);
        // An index into a slice fits usize.
        while let Some(window) = windows.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            job.go_on()?;
            let found = audit_window(job, target, boot, *window, &mut buffer)?;
            if !found.is_empty() {
                let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
                wrong.extents.extend(found.extents);
                wrong.holes.extend(found.holes);
            }
            let done = done_bytes.fetch_add(WINDOW_BYTES, Ordering::Relaxed) + WINDOW_BYTES;
            job.progress(step, done, total_bytes);
        }
        Ok::<(), WriteError>(())
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
        readers.into_iter().try_for_each(|reader| match reader.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let mut wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    wrong.extents.sort_unstable();
    wrong.holes.sort_unstable_by_key(|hole| hole.start);
    Ok(wrong)
}

fn audit_window(
    job: &Job,
    target: &Target,
    boot: &BootArea,
    window: u64,
    buffer: &mut AlignedBuffer,
) -> Result<Wrong, WriteError> {
    let start = window * WINDOW_BYTES;
    let end = (start + WINDOW_BYTES).min(job.manifest.image_bytes.next_multiple_of(BLOCK_BYTES as u64));
    // What belongs to the body comes from the device, the rest of the image's tail from the image, and behind the
    // image is the padding of its last block.
    let body_end = boot.body.end.clamp(start, end);
    let bytes = &mut buffer[..(end - start) as usize];
    bytes[(body_end - start) as usize..].fill(0);
    target.read(start, &mut bytes[..(body_end - start) as usize])?;
    let tail_bytes = (end - body_end).min(boot.image_tail.len() as u64) as usize;
    if body_end == boot.body.end {
        bytes[(body_end - start) as usize..][..tail_bytes].copy_from_slice(&boot.image_tail[..tail_bytes]);
    }

    let mut wrong = Wrong::default();
    let mut free_from = start;
    let extents = &job.manifest.extents;
    let first = extents.partition_point(|e| e.target_offset_bytes < start);
    for (index, extent) in extents.iter().enumerate().skip(first) {
        let place = extent.target();
        if place.start >= body_end {
            break;
        }
        find_nonzero(&mut wrong, bytes, start, free_from..place.start);
        let got = &bytes[(place.start - start) as usize..(place.end - start) as usize];
        if manifest::digest(got) != extent.digest {
            wrong.extents.push(index);
        }
        free_from = place.end;
    }
    find_nonzero(&mut wrong, bytes, start, free_from..body_end);
    Ok(wrong)
}

/// Adds the hole when it does not read as zeros.
fn find_nonzero(wrong: &mut Wrong, bytes: &[u8], start: u64, hole: Range<u64>) {
    static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    if hole.start < hole.end {
        let got = &bytes[(hole.start - start) as usize..(hole.end - start) as usize];
        if got.chunks(BLOCK_BYTES).any(|block| *block != ZEROS[..block.len()]) {
            wrong.holes.push(hole);
        }
    }
}
