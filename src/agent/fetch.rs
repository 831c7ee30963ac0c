//! Threads that fetch, unpack and check, while the caller writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use super::aligned::AlignedBuffer;
use super::extent::VerifiedExtent;
use super::source::{self, GaveUp};
use super::write::{Job, WriteError};
use crate::transfer::segments::{self, FETCHERS, Segment};
use crate::wire::manifest::Manifest;

/// Beside the requests that are under way ([`FETCHERS`]) one is waiting in the queue and one is being written, so
/// memory stays below 100 MiB.
const QUEUE: usize = 1;

/// Brings all these extents (indexes into the manifest's) to `sink`, in the order of the packs. Ends at the first
/// error and when the observer says stop.
pub(super) fn fetch(
    job: &Job,
    extents: Vec<usize>,
    mut sink: impl FnMut(Vec<VerifiedExtent>) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let segments = segments::segments(job.manifest, extents);
    let next = AtomicUsize::new(0);
    let cancelled = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(QUEUE);
        for _ in 0..FETCHERS.min(segments.len()) {
            let sender = sender.clone();
            scope.spawn(|| work(job, &segments, &next, &cancelled, sender));
        }
        drop(sender);
        // The receiver is gone when this ends, which ends the threads as well.
        let result = receiver.into_iter().try_for_each(|batch| {
            let batch = batch?;
            job.go_on()?;
            sink(batch)
        });
        cancelled.store(true, Ordering::Relaxed);
        result
    })
}

fn work(
    job: &Job,
    segments: &[Segment],
    next: &AtomicUsize,
    cancelled: &AtomicBool,
    sender: SyncSender<Result<Vec<VerifiedExtent>, WriteError>>,
) {
    while let Some(segment) = segments.get(next.fetch_add(1, Ordering::Relaxed)) {
        let batch = load(job, segment, cancelled);
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            break;
        }
    }
}

/// One request. What does not match is asked for once more: memory, wire or proxy may have hurt it, and the
/// server may have been told of a bad disk meanwhile.
fn load(job: &Job, segment: &Segment, cancelled: &AtomicBool) -> Result<Vec<VerifiedExtent>, WriteError> {
    let pack = job.manifest.pack_id(&job.manifest.frames[segment.frames.start]);
    let range = segment.range(job.manifest);
    let is_stopped = || cancelled.load(Ordering::Relaxed) || !job.observer.may_go_on();
    let mut tries = 0;
    loop {
        let question = || job.source.range(&pack, range.clone());
        let bytes = source::ask(job.options.patience, &is_stopped, question).map_err(|e| match e {
            GaveUp::Stopped => WriteError::Stopped,
            GaveUp::Failed(source) => WriteError::Source(source),
        })?;
        job.fetched_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        match unpack(job.manifest, segment, &bytes, range.start) {
            Ok(extents) => return Ok(extents),
            Err(frame) if tries == 1 => {
                let offset_bytes = job.manifest.frames[frame].offset_bytes;
                return Err(WriteError::BadData { pack, offset_bytes });
            }
            Err(_) => tries += 1,
        }
        tracing::warn!(%pack, offset_bytes = range.start, "the server's bytes do not match the manifest, asking once more");
    }
}

/// The extents of a segment out of its compressed bytes, or the index of a frame that is not right.
pub(super) fn unpack(
    manifest: &Manifest,
    segment: &Segment,
    compressed: &[u8],
    offset: u64,
) -> Result<Vec<VerifiedExtent>, usize> {
    let frames = &manifest.frames;
    // Raw frames one behind the other, so that an extent over a frame border is one slice.
    let mut starts = vec![0];
    for frame in &frames[segment.frames.clone()] {
        starts.push(starts[starts.len() - 1] + frame.raw_bytes as usize);
    }
    let mut buffer = AlignedBuffer::new(starts[starts.len() - 1]);
    let mut decompressor = zstd::bulk::Decompressor::new().map_err(|_| segment.frames.start)?;
    for (number, index) in segment.frames.clone().enumerate() {
        let from = (frames[index].offset_bytes - offset) as usize;
        let source = compressed.get(from..from + frames[index].compressed_bytes as usize).ok_or(index)?;
        let place = &mut buffer[starts[number]..starts[number + 1]];
        let wanted = place.len();
        if decompressor.decompress_to_buffer(source, place).ok() != Some(wanted) {
            return Err(index);
        }
    }
    let buffer = Arc::new(buffer);
    let mut verified = Vec::with_capacity(segment.extents.len());
    for &index in &segment.extents {
        let extent = &manifest.extents[index];
        let frame = extent.frame as usize;
        let start =
            starts[frame - segment.frames.start] + extent.frame_block as usize * crate::wire::manifest::BLOCK_BYTES;
        verified.push(VerifiedExtent::check(extent, &buffer, start).ok_or(frame)?);
    }
    // Blocks that lie together in the pack often lie together on the target: then they go out in one write.
    verified.sort_by_key(|extent| extent.target().start);
    Ok(verified)
}
