//! An image as a file again: random access to its bytes by the manifest and the packs.

use std::io::{self, Read, Seek, SeekFrom};

use bytes::Bytes;
use zstd::bulk::Decompressor;

use crate::wire::manifest::{self, BLOCK_BYTES, Extent, FRAME_BYTES, Manifest};

/// Decompressed frames that are kept: a FAT, a directory and a file are read in turn.
const FRAMES_KEPT: usize = 16;

/// Reads what the manifest describes. Bytes are checked only by [`ImageReader::extent`].
pub(super) struct ImageReader<'m> {
    manifest: &'m Manifest,
    /// In the order of the manifest's list of packs.
    packs: Vec<Bytes>,
    /// The newest last.
    frames: Vec<(usize, Vec<u8>)>,
    frames_kept: usize,
    /// Kept: making one for each frame took longer than the frame. `None` before the first.
    decompressor: Option<Decompressor<'static>>,
    position: u64,
}

impl<'m> ImageReader<'m> {
    /// `packs`: the bytes of every pack in the manifest's list, in its order.
    pub fn new(manifest: &'m Manifest, packs: Vec<Bytes>) -> ImageReader<'m> {
        ImageReader { manifest, packs, frames: Vec::new(), frames_kept: FRAMES_KEPT, decompressor: None, position: 0 }
    }

    /// Keeps so many decompressed frames, of 256 KiB each.
    pub fn keeping(self, frames_kept: usize) -> ImageReader<'m> {
        ImageReader { frames_kept, ..self }
    }

    /// The bytes of one extent, padding included, checked against its digest.
    pub fn extent(&mut self, extent: &Extent) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; extent.extent_bytes as usize];
        self.read_extent(extent, 0, &mut bytes)?;
        if manifest::digest(&bytes) != extent.digest {
            let offset = extent.target_offset_bytes;
            let reason = format!("the blocks for offset {offset} of the image are damaged in their pack");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(bytes)
    }

    /// Fills `out` with an extent's bytes from `skip` on.
    fn read_extent(&mut self, extent: &Extent, skip: usize, out: &mut [u8]) -> io::Result<()> {
        let (mut done, wanted) = (0, out.len());
        self.pieces(extent, skip, wanted, |piece| {
            out[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
            Ok(())
        })
    }

    /// Gives `bytes` bytes of an extent from `skip` on, in order: a piece from each frame, unchecked. Where extent and skip
    /// are whole blocks, as extents are, so are the pieces.
    ///
    /// # Errors
    /// When a frame cannot be read, and what `take` says.
    pub fn pieces<E: From<io::Error>>(
        &mut self,
        extent: &Extent,
        skip: usize,
        bytes: usize,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = extent.frame_block as usize * BLOCK_BYTES + skip;
        let mut left = bytes;
        for frame in self.manifest.frames_of(extent) {
            let raw_bytes = self.manifest.frames[frame].raw_bytes as usize;
            if at >= raw_bytes {
                at -= raw_bytes;
                continue;
            }
            let count = left.min(raw_bytes - at);
            take(&self.frame(frame)?[at..at + count])?;
            left -= count;
            at = 0;
            if left == 0 {
                break;
            }
        }
        Ok(())
    }

    fn frame(&mut self, index: usize) -> io::Result<&[u8]> {
        if let Some(kept) = self.frames.iter().position(|(kept, _)| *kept == index) {
            let frame = self.frames.remove(kept);
            self.frames.push(frame);
        } else {
            let is_full = self.frames.len() >= self.frames_kept.max(1);
            let mut buffer = if is_full { self.frames.remove(0).1 } else { Vec::with_capacity(FRAME_BYTES) };
            self.decompress(index, &mut buffer)?;
            self.frames.push((index, buffer));
        }
        // One was just pushed.
        Ok(self.frames.last().map_or(&[], |(_, frame)| frame))
    }

    /// Into `buffer`, which has room for a frame.
    fn decompress(&mut self, index: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
        let frame = &self.manifest.frames[index];
        let pack = &self.packs[frame.pack as usize];
        let start = frame.offset_bytes as usize;
        let compressed = pack.get(start..start + frame.compressed_bytes as usize);
        let compressed = compressed.ok_or_else(|| io::Error::other("a pack is shorter than the manifest says"))?;
        let decompressor = match &mut self.decompressor {
            Some(kept) => kept,
            none => none.insert(Decompressor::new()?),
        };
        decompressor.decompress_to_buffer(compressed, buffer)?;
        if buffer.len() != frame.raw_bytes as usize {
            return Err(io::Error::other("a frame of a pack is shorter than the manifest says"));
        }
        Ok(())
    }
}

impl Read for ImageReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.manifest.image_bytes.saturating_sub(self.position);
        let count = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if count == 0 {
            return Ok(0);
        }
        let manifest = self.manifest;
        let next = manifest.extents.partition_point(|e| e.target().end <= self.position);
        let count = match manifest.extents.get(next) {
            Some(extent) if extent.target_offset_bytes <= self.position => {
                let skip = (self.position - extent.target_offset_bytes) as usize;
                let count = count.min(extent.extent_bytes as usize - skip);
                self.read_extent(extent, skip, &mut out[..count])?;
                count
            }
            after => {
                let hole = after.map_or(u64::MAX, |extent| extent.target_offset_bytes - self.position);
                let count = count.min(usize::try_from(hole).unwrap_or(usize::MAX));
                out[..count].fill(0);
                count
            }
        };
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for ImageReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.manifest.image_bytes.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
