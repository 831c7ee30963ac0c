//! What makes a disk bootable: its first MiB, and the backup partition table in its last sectors.

use std::ops::Range;

use super::fetch;
use super::write::{Job, WriteError};
use crate::transfer::boot::{self, Fitted};
use crate::wire::manifest::WINDOW_BYTES;

/// The boot area of this image on this disk. What lies between its two parts is the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootArea {
    /// The image's head, its partition table fitted to this disk.
    pub head: Vec<u8>,
    /// The fitted backup table and its offset; `None` when the image has no GUID partition table.
    pub tail: Option<(u64, Vec<u8>)>,
    /// What the image itself has from the end of the body on, when it is about as long as the disk: its own
    /// backup table, which never reaches the disk but belongs to the digest of an extent.
    pub image_tail: Vec<u8>,
    /// Where the body lies on the target.
    pub body: Range<u64>,
}

impl BootArea {
    /// Fetches the image's head and fits it to a disk of this size.
    pub fn prepare(job: &Job, disk_bytes: u64) -> Result<BootArea, WriteError> {
        let image_bytes = job.manifest.image_bytes;
        let image_head = image_range(job, 0..WINDOW_BYTES.min(image_bytes))?;
        let Fitted { head, tail, body } = boot::fit(image_head, image_bytes, disk_bytes)?;
        Ok(BootArea { image_tail: image_range(job, body.end..image_bytes)?, head, tail, body })
    }
}

/// Bytes of the image itself, checked; at most some MiB.
pub(super) fn image_range(job: &Job, range: Range<u64>) -> Result<Vec<u8>, WriteError> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let extents = boot::overlapping(job.manifest, &range);
    fetch::fetch(job, extents, |batch| {
        for extent in batch {
            let target = extent.target();
            let (from, to) = (target.start.max(range.start), target.end.min(range.end));
            if from < to {
                let source = &extent.bytes()[(from - target.start) as usize..(to - target.start) as usize];
                bytes[(from - range.start) as usize..(to - range.start) as usize].copy_from_slice(source);
            }
        }
        Ok(())
    })?;
    Ok(bytes)
}
