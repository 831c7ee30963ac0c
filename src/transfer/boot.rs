//! Where an image's boot area lies on a disk, and what the body between its two parts is.

use std::ops::Range;

use crate::gpt::{self, GptError};
use crate::wire::manifest::{BLOCK_BYTES, Manifest};

/// What is cleared at each end of a disk before anything else: the head, and at the other end room for every backup GPT.
pub const CLEAR_BYTES: u64 = 1 << 20;

/// The boot area of an image, fitted to one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted {
    /// The image's head, its partition table fitted to this disk.
    pub head: Vec<u8>,
    /// The fitted backup table and its offset; `None` when the image has no GUID partition table.
    pub tail: Option<(u64, Vec<u8>)>,
    /// Where the body lies on the target.
    pub body: Range<u64>,
}

/// Fits the image's first MiB to a disk of this size.
///
/// # Errors
/// [`GptError`]: the table is damaged, or does not fit the disk.
pub fn fit(image_head: Vec<u8>, image_bytes: u64, disk_bytes: u64) -> Result<Fitted, GptError> {
    let head_bytes = image_head.len() as u64;
    let (head, tail) = match gpt::read(&image_head)? {
        Some(table) => {
            let fitted = table.fit(&image_head, disk_bytes)?;
            (fitted.head, Some((fitted.tail_offset_bytes, fitted.tail)))
        }
        None => (image_head, None),
    };
    let body_end = tail.as_ref().map_or(image_bytes, |(offset, _)| image_bytes.min(*offset));
    Ok(Fitted { head, tail, body: head_bytes..body_end.max(head_bytes) })
}

/// Where a disk of this length holds what the manifest says, after the image was written to it and both ends were cleared
/// since. A disk has what it had before behind the image's end, so its last block counts only when it is full.
#[must_use]
pub fn kept_body(manifest: &Manifest, disk_bytes: u64) -> Range<u64> {
    let image_end = manifest.image_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let end = image_end.min(disk_bytes.saturating_sub(CLEAR_BYTES));
    CLEAR_BYTES..end.max(CLEAR_BYTES)
}

/// The extents that lie in a range with all that they are, as indexes into the manifest's.
#[must_use]
pub fn inside(manifest: &Manifest, range: &Range<u64>) -> Vec<usize> {
    let all = manifest.extents.iter().enumerate();
    let lies_in = all.filter(|(_, e)| range.start <= e.target().start && e.target().end <= range.end);
    lies_in.map(|(index, _)| index).collect()
}

/// The extents of which something lies in a range, as indexes into the manifest's.
#[must_use]
pub fn overlapping(manifest: &Manifest, range: &Range<u64>) -> Vec<usize> {
    let all = manifest.extents.iter().enumerate();
    let overlaps = all.filter(|(_, e)| e.target().start < range.end && range.start < e.target().end);
    overlaps.map(|(index, _)| index).collect()
}
