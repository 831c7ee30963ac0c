//! An image as a file again: random access to its bytes by the manifest and the packs.

use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use thiserror::Error;
use zstd::bulk::Decompressor;

use super::blocks::Blocks;
use super::read_files::Packs;
use crate::wire::manifest::{self, BLOCK_BYTES, Extent, FRAME_BYTES, FRAME_COMPRESSED_BYTES_MAX, Manifest};

/// Decompressed frames that are kept: a FAT, a directory and a file are read in turn.
const FRAMES_KEPT: usize = 16;
/// What the shortest read costs of a budget: fatfs reads a directory field by field.
const READ_COST_BYTES_MIN: usize = 256;
/// What reading all of an image may cost whatever lies in it: directories are read again and again, holes are read too.
const ALL_BYTES_MIN: u64 = 64 << 30;

/// Reads what the manifest describes. Bytes are checked by [`ImageReader::extent`], and where the
/// reader was made so ([`ImageReader::checked_by`]).
pub(super) struct ImageReader<'m> {
    manifest: &'m Manifest,
    packs: Packs,
    /// A frame as it is in its pack, at the start of this.
    compressed: Vec<u8>,
    /// The newest last.
    frames: Vec<(usize, Vec<u8>)>,
    frames_kept: usize,
    /// What may be spent on reading yet.
    budget_bytes: u64,
    /// Asked before each read, since what reads may never come back to whoever started it.
    stop: Option<&'m dyn Fn() -> bool>,
    /// Kept: making one for each frame took longer than the frame. `None` before the first.
    decompressor: Option<Decompressor<'static>>,
    position: u64,
    /// What each frame must hold.
    blocks: Option<Rc<Blocks<'m>>>,
    damaged: Option<DamagedFrame>,
}

/// Bytes in a pack that the disk does not give, or that are not what the store's index says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the frame at byte {offset_bytes} of {pack}.pack {what}: run `regild image scrub`, then import the same content again"
)]
pub struct DamagedFrame {
    pub pack: String,
    pub offset_bytes: u64,
    /// What is wrong with it: how the sentence goes on.
    pub what: String,
}

impl<'m> ImageReader<'m> {
    /// `packs`: every pack in the manifest's list, in its order.
    pub fn new(manifest: &'m Manifest, packs: Packs) -> ImageReader<'m> {
        ImageReader {
            manifest,
            packs,
            compressed: Vec::new(),
            frames: Vec::new(),
            frames_kept: FRAMES_KEPT,
            budget_bytes: u64::MAX,
            stop: None,
            decompressor: None,
            position: 0,
            blocks: None,
            damaged: None,
        }
    }

    /// Checks every frame that is unpacked, block by block.
    pub fn checked_by(self, blocks: &Rc<Blocks<'m>>) -> ImageReader<'m> {
        ImageReader { blocks: Some(Rc::clone(blocks)), ..self }
    }

    /// The first damage that the reader came upon, whatever became of the error that said so.
    pub fn damaged(&self) -> Option<&DamagedFrame> {
        self.damaged.as_ref()
    }

    /// Keeps so many decompressed frames, of 512 KiB each.
    pub fn keeping(self, frames_kept: usize) -> ImageReader<'m> {
        ImageReader { frames_kept, ..self }
    }

    /// Ends in an error when more is spent: bytes that are read, be they of a hole, and whole frames for what is
    /// decompressed. Directories and chains of clusters can run in a circle.
    pub fn spending(self, budget_bytes: u64) -> ImageReader<'m> {
        ImageReader { budget_bytes, ..self }
    }

    /// As [`ImageReader::spending`], for who reads all files: some times what the image holds, however long it claims to be.
    pub fn spending_by_data(self) -> ImageReader<'m> {
        let budget_bytes = self.manifest.data_bytes().saturating_mul(8).saturating_add(ALL_BYTES_MIN);
        self.spending(budget_bytes)
    }

    /// Ends in an error as soon as `stop` says so.
    pub fn until(self, stop: &'m dyn Fn() -> bool) -> ImageReader<'m> {
        ImageReader { stop: Some(stop), ..self }
    }

    fn spend(&mut self, bytes: usize) -> io::Result<()> {
        if self.stop.is_some_and(|stop| stop()) {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        let left = self.budget_bytes.checked_sub(bytes as u64);
        self.budget_bytes = left.ok_or_else(|| io::Error::other("it takes more reading than is spent on it"))?;
        Ok(())
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
            self.checked(index, &mut buffer)?;
            self.frames.push((index, buffer));
        }
        // One was just pushed.
        Ok(self.frames.last().map_or(&[], |(_, frame)| frame))
    }

    /// Fills `buffer`, which has room for a frame.
    fn checked(&mut self, index: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
        self.spend(FRAME_BYTES)?;
        let what = match self.decompress(index, buffer) {
            Err(what) => what,
            Ok(()) if self.is_right(index, buffer)? => return Ok(()),
            Ok(()) => "is damaged".to_owned(),
        };
        let frame = &self.manifest.frames[index];
        let (pack, offset_bytes) = (self.manifest.pack_id(frame), frame.offset_bytes);
        let damaged = DamagedFrame { pack, offset_bytes, what };
        self.damaged.get_or_insert_with(|| damaged.clone());
        Err(io::Error::new(io::ErrorKind::InvalidData, damaged))
    }

    /// As far as somebody asked for it.
    fn is_right(&self, index: usize, raw: &[u8]) -> io::Result<bool> {
        let Some(blocks) = &self.blocks else { return Ok(true) };
        for (block, bytes) in (0..).zip(raw.chunks(BLOCK_BYTES)) {
            if blocks.in_frame(index, block).map_err(io::Error::other)? != Some(manifest::digest(bytes)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The error says what is wrong with the frame.
    fn decompress(&mut self, index: usize, buffer: &mut Vec<u8>) -> Result<(), String> {
        let frame = &self.manifest.frames[index];
        // The manifest was checked for it when it was read.
        let length = frame.compressed_bytes.min(FRAME_COMPRESSED_BYTES_MAX) as usize;
        if self.compressed.len() < length {
            self.compressed.resize(length, 0);
        }
        let compressed = &mut self.compressed[..length];
        let pack = self.packs.get(frame.pack).ok_or("is in no pack that is open")?;
        pack.read_exact_at(compressed, frame.offset_bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => "is not there, the file ends before".to_owned(),
            _ => format!("cannot be read ({error})"),
        })?;
        let mut unpack = || {
            let decompressor = match &mut self.decompressor {
                Some(kept) => kept,
                none => none.insert(Decompressor::new()?),
            };
            decompressor.decompress_to_buffer(&*compressed, buffer)
        };
        unpack().map_err(|error| format!("is damaged ({error})"))?;
        if buffer.len() != frame.raw_bytes as usize {
            return Err("is damaged (it is shorter than the manifest says)".to_owned());
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
        // So that endless reads of next to nothing end, too.
        self.spend(count.max(READ_COST_BYTES_MIN))?;
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
