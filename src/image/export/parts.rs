//! An image's data on its way out: parts of a few MiB, each unpacked, hashed and written by one of some threads.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use crate::image::files;
use crate::image::read_files::Packs;
use crate::image::reader::ImageReader;
use crate::wire::manifest::{self, BLOCK_BYTES, ContentDigest, Digest, Extent, Manifest};

/// A server has more to do than an export.
const THREADS_MAX: usize = 4;
/// Of the image. With what waits, 12 MiB for each thread where the data goes in order.
const PART_BYTES: u64 = 4 << 20;
/// Parts of each thread that are done and wait for those before them.
const WAITING: usize = 1;
/// Frames that each thread keeps, 16 MiB of them: a later version's blocks lie in a first one's pack in its order, a rebuilt
/// file system has them in another.
const FRAMES_KEPT: usize = 32;

/// Where the data goes.
pub(super) enum Sink<'f> {
    /// To its offset in this file, in whatever order it is done.
    Direct(&'f File),
    /// To one who must have it in order.
    InOrder,
}

/// Which side failed.
#[derive(Debug)]
pub(super) enum Failed {
    Read(io::Error),
    Write(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Read(error)
    }
}

/// A part that is done.
#[derive(Debug, Default)]
struct Part {
    /// Of each block of its extents, in order.
    digests: Vec<Digest>,
    /// Data with its offset, for [`Sink::InOrder`].
    data: Vec<(u64, Vec<u8>)>,
}

/// Writes all data of an image, and gives its content digest as it was read: whoever called compares it. `put` is
/// called for [`Sink::InOrder`] only, with data and offsets that ascend.
///
/// # Errors
/// [`Failed`]; what was written by then is of no use.
pub(super) fn write(
    manifest: &Manifest,
    packs: &Packs,
    sink: &Sink,
    mut put: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> Result<Digest, Failed> {
    let parts = parts(&manifest.extents);
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX));
    thread::scope(|scope| {
        let mut receivers = Vec::new();
        for first in 0..threads {
            let (sender, receiver) = sync_channel(WAITING);
            let own = parts.iter().skip(first).step_by(threads);
            scope.spawn(move || work(manifest, packs.clone(), sink, own, &sender));
            receivers.push(receiver);
        }
        let mut content = Content { digest: ContentDigest::new(), done_bytes: 0 };
        for (extents, receiver) in parts.iter().zip(receivers.iter().cycle()) {
            let panicked = || Failed::Read(io::Error::other("a thread that reads the image panicked"));
            let part = receiver.recv().map_err(|_| panicked())??;
            content.add(&manifest.extents[extents.clone()], &part.digests);
            for (offset, bytes) in &part.data {
                put(bytes, *offset).map_err(Failed::Write)?;
            }
        }
        content.add_hole(manifest.image_bytes.next_multiple_of(BLOCK_BYTES as u64));
        Ok(content.digest.finish(manifest.image_bytes))
    })
}

/// Runs of extents that begin in the same stretch of the image.
fn parts(extents: &[Extent]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let stretch = |extent: &Extent| extent.target_offset_bytes / PART_BYTES;
    for (index, extent) in extents.iter().enumerate() {
        match parts.last_mut() {
            Some(part) if stretch(&extents[part.start]) == stretch(extent) => part.end = index + 1,
            _ => parts.push(index..index + 1),
        }
    }
    parts
}

/// One of the threads.
fn work<'p>(
    manifest: &Manifest,
    packs: Packs,
    sink: &Sink,
    parts: impl Iterator<Item = &'p Range<usize>>,
    done: &SyncSender<Result<Part, Failed>>,
) {
    let mut reader = ImageReader::new(manifest, packs).keeping(FRAMES_KEPT);
    for extents in parts {
        let part = read(manifest, &mut reader, sink, &manifest.extents[extents.clone()]);
        let is_over = part.is_err();
        if done.send(part).is_err() || is_over {
            return;
        }
    }
}

fn read(manifest: &Manifest, reader: &mut ImageReader, sink: &Sink, extents: &[Extent]) -> Result<Part, Failed> {
    let mut part = Part::default();
    for extent in extents {
        let mut at = extent.target_offset_bytes;
        reader.pieces(extent, 0, extent.extent_bytes as usize, |piece| {
            part.digests.extend(piece.chunks(BLOCK_BYTES).map(manifest::digest));
            // The last block may reach over the end.
            let inside = (manifest.image_bytes.saturating_sub(at)).min(piece.len() as u64) as usize;
            match sink {
                Sink::Direct(file) => file.write_all_at(&piece[..inside], at).map_err(Failed::Write)?,
                Sink::InOrder => part.data.push((at, piece[..inside].to_vec())),
            }
            at += piece.len() as u64;
            Ok::<(), Failed>(())
        })?;
    }
    if let (Sink::Direct(file), Some(first), Some(last)) = (sink, extents.first(), extents.last()) {
        files::begin_writeback(file, first.target_offset_bytes, last.target().end - first.target_offset_bytes);
    }
    Ok(part)
}

/// The digest of the content so far.
struct Content {
    digest: ContentDigest,
    done_bytes: u64,
}

impl Content {
    fn add(&mut self, extents: &[Extent], digests: &[Digest]) {
        let mut digests = digests.iter();
        for extent in extents {
            self.add_hole(extent.target_offset_bytes);
            let blocks = extent.extent_bytes as usize / BLOCK_BYTES;
            digests.by_ref().take(blocks).for_each(|digest| self.digest.add_block(digest));
            self.done_bytes = extent.target().end;
        }
    }

    /// Zeros up to `to`.
    fn add_hole(&mut self, to: u64) {
        let zero_digest = manifest::digest(&[0; BLOCK_BYTES]);
        let blocks = to.saturating_sub(self.done_bytes) / BLOCK_BYTES as u64;
        (0..blocks).for_each(|_| self.digest.add_block(&zero_digest));
    }
}
