//! Packs: the files that hold compressed blocks, and beside each the index of its blocks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, Strategy};

use super::compressing::{Compressed, Compressing};
use super::digest_log::DigestLog;
use super::files::TempFile;
use super::read_files::ReadFile;
use super::{StoreError, files, io_error};
use crate::wire::manifest::{self, BLOCK_BYTES, Digest, FRAME_BLOCKS, FRAME_BYTES, PACK_HEADER_BYTES};

const PACK_MAGIC: &[u8; 8] = b"RGLDPAK1";
const INDEX_MAGIC: &[u8; 8] = b"RGLDIDX1";
const VERSION: u16 = 1;
/// Of an index of which frames were dropped: a program that does not know that would build images on them.
const DROPPED_VERSION: u16 = 2;
/// On which the parameters below are built, and what packs were written with before them.
pub(super) const ZSTD_LEVEL: i32 = 3;
/// How frames are packed: level 3 with shorter matches. zstd's levels are made for whole files; a frame finds less that repeats.
/// Measured on the 810 MB of blocks of a Debian, one core, where `zstd -3` makes 239.8 MB of the whole file: in frames of
/// 256 KiB level 3 252.0 MB in 1.7 s, greedy matching 246.7 in 3.4; in frames of 512 KiB level 3 246.5 in 1.6, and this 245.4
/// in 1.7.
const ZSTD_PARAMETERS: [CParameter; 5] = [
    CParameter::Strategy(Strategy::ZSTD_dfast),
    CParameter::WindowLog(19),
    CParameter::ChainLog(16),
    CParameter::HashLog(16),
    CParameter::MinMatch(4),
];
/// Magic, version (u16), reserved (u16), frames (u32), blocks (u32).
const INDEX_HEADER_BYTES: usize = 20;
const INDEX_FRAME_BYTES: usize = 16;
const DIGEST_BYTES: usize = 32;
/// Digests that are read at once: blocks are asked for in order, mostly, and an extent has at most so many.
const DIGESTS_READ: usize = 256;
/// Blocks in one pack are counted in 32 bits; this is 4 TiB of new data in one import.
const BLOCKS_MAX: u32 = 1 << 30;

/// Where one frame lies in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameSpan {
    pub offset_bytes: u64,
    pub compressed_bytes: u32,
    pub raw_bytes: u32,
}

/// Takes new blocks, which other threads compress while the importer reads and hashes on.
#[derive(Debug)]
pub(super) struct PackWriter {
    frame: Vec<u8>,
    digests: DigestLog,
    compressing: Compressing,
}

/// A pack that is complete and not yet in its place.
#[derive(Debug)]
pub(super) struct FinishedPack {
    temp: TempFile,
    pub id: Digest,
    pub frames: Vec<FrameSpan>,
    pub pack_bytes: u64,
    digests: DigestLog,
}

impl PackWriter {
    pub fn create(store: &Path) -> Result<PackWriter, StoreError> {
        let (digests, temp) = (DigestLog::create(store)?, TempFile::create(store)?);
        Ok(PackWriter { frame: Vec::with_capacity(FRAME_BYTES), digests, compressing: Compressing::begin(temp) })
    }

    /// Number that the next block will have in this pack.
    pub fn next_block(&self) -> u32 {
        self.digests.count()
    }

    pub fn digest(&self, block: u32) -> Result<Option<Digest>, StoreError> {
        self.digests.get(block)
    }

    /// Appends one block of 4 KiB.
    pub fn push(&mut self, block: &[u8], digest: Digest) -> Result<(), StoreError> {
        if self.digests.count() >= BLOCKS_MAX {
            let full = io::Error::other("more new data in one import than a pack can count");
            return Err(io_error("write", Path::new("pack"))(full));
        }
        self.frame.extend_from_slice(block);
        self.digests.push(digest)?;
        if self.frame.len() == FRAME_BYTES {
            self.send_frame()?;
        }
        Ok(())
    }

    fn send_frame(&mut self) -> Result<(), StoreError> {
        let frame = std::mem::replace(&mut self.frame, Vec::with_capacity(FRAME_BYTES));
        self.compressing.take(frame)
    }

    /// The pack as a synced file, or `None` when no block was new.
    pub fn finish(mut self) -> Result<Option<FinishedPack>, StoreError> {
        if !self.frame.is_empty() {
            self.send_frame()?;
        }
        let Compressed { temp, id, frames, pack_bytes } = self.compressing.join()?;
        if self.digests.count() == 0 {
            return Ok(None);
        }
        // A thread that panicked looks like one that was done.
        if frames.len() != (self.digests.count() as usize).div_ceil(FRAME_BLOCKS) {
            return Err(io_error("write", temp.path())(io::Error::other("a compressing thread ended before its time")));
        }
        Ok(Some(FinishedPack { temp, id, frames, pack_bytes, digests: self.digests }))
    }
}

/// What makes frames: the same bytes from the same blocks, as long as zstd is the same.
pub(super) fn compressor() -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(ZSTD_LEVEL)?;
    ZSTD_PARAMETERS.into_iter().try_for_each(|parameter| compressor.set_parameter(parameter))?;
    Ok(compressor)
}

/// With what a pack begins.
pub(super) fn header() -> [u8; PACK_HEADER_BYTES as usize] {
    let mut header = [0; PACK_HEADER_BYTES as usize];
    header[..8].copy_from_slice(PACK_MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header
}

impl FinishedPack {
    /// The pack's bytes before it is published, for looking into the image.
    pub fn to_read(&self) -> Result<ReadFile, StoreError> {
        let file = self.temp.file.try_clone().map_err(io_error("open", self.temp.path()))?;
        Ok(ReadFile::unnamed(self.temp.path(), file))
    }

    /// One of its frames, unpacked.
    pub fn frame(&self, frame: usize) -> Option<Vec<u8>> {
        read_frame(&self.temp.file, *self.frames.get(frame)?).ok()
    }

    /// Puts index and pack at their places: the index first, since an index without a pack is known to be rubbish.
    ///
    /// A pack of this very content may be there, thinned or damaged (the same import into a store that lost it): then the
    /// pack goes first, since the index that is there promises no more than what both of them hold.
    pub fn publish(self, store: &Path) -> Result<(), StoreError> {
        let place = store.join("packs").join(format!("{}.pack", manifest::to_hex(&self.id)));
        let index = place.with_extension("idx");
        if place.exists() {
            self.temp.publish(&place)?;
            return write_index(store, &index, &self.frames, &self.digests);
        }
        write_index(store, &index, &self.frames, &self.digests)?;
        self.temp.publish(&place)
    }
}

fn write_index(store: &Path, place: &Path, frames: &[FrameSpan], digests: &DigestLog) -> Result<(), StoreError> {
    let temp = TempFile::create(store)?;
    let mut out = BufWriter::new(&temp.file);
    let mut hasher = blake3::Hasher::new();
    let mut put = |bytes: &[u8]| {
        hasher.update(bytes);
        out.write_all(bytes).map_err(io_error("write", temp.path()))
    };
    put(INDEX_MAGIC)?;
    put(&VERSION.to_le_bytes())?;
    put(&[0; 2])?;
    // Both are bounded by BLOCKS_MAX.
    put(&(frames.len() as u32).to_le_bytes())?;
    put(&digests.count().to_le_bytes())?;
    for frame in frames {
        put(&frame.offset_bytes.to_le_bytes())?;
        put(&frame.compressed_bytes.to_le_bytes())?;
        put(&frame.raw_bytes.to_le_bytes())?;
    }
    digests.for_each_piece(&mut put)?;
    let checksum = hasher.finalize();
    out.write_all(checksum.as_bytes()).and_then(|()| out.flush()).map_err(io_error("write", temp.path()))?;
    drop(out);
    temp.publish(place)
}

/// A frame as it is in its pack, unpacked and otherwise unchecked.
pub(super) fn read_frame(pack: &File, span: FrameSpan) -> io::Result<Vec<u8>> {
    // zstd makes nothing this much longer.
    if span.compressed_bytes > manifest::FRAME_COMPRESSED_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than a frame can be"));
    }
    let mut compressed = vec![0; span.compressed_bytes as usize];
    pack.read_exact_at(&mut compressed, span.offset_bytes)?;
    zstd::bulk::decompress(&compressed, FRAME_BYTES)
}

/// The digest of a block of which it is not known what it was: no content has it, so nothing is built on the block, and
/// the next scrub finds it damaged still.
const UNKNOWN_BLOCK: Digest = [0xff; DIGEST_BYTES];

/// Makes the index of a pack again from where its frames lie: what their blocks are the pack itself says, but for those
/// frames (`bad`, by offset) that are known to be damaged.
pub(super) fn rebuild_index(
    store: &Path,
    pack: &Path,
    frames: &[manifest::Frame],
    bad: &BTreeMap<u64, String>,
) -> Result<(), StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: pack.to_owned(), reason };
    let file = File::open(pack).map_err(io_error("open", pack))?;
    let mut digests = DigestLog::create(store)?;
    let mut spans = Vec::with_capacity(frames.len());
    for (number, frame) in frames.iter().enumerate() {
        let is_last = number + 1 == frames.len();
        if frame.raw_bytes != frames[0].raw_bytes && !is_last {
            return Err(damaged("a frame in the middle is not full: its blocks cannot be numbered".to_string()));
        }
        let (offset_bytes, compressed_bytes, raw_bytes) = (frame.offset_bytes, frame.compressed_bytes, frame.raw_bytes);
        let span = FrameSpan { offset_bytes, compressed_bytes, raw_bytes };
        spans.push(span);
        let raw = if bad.contains_key(&offset_bytes) { None } else { read_frame(&file, span).ok() };
        match raw.filter(|raw| raw.len() == raw_bytes as usize) {
            Some(raw) => raw.chunks(BLOCK_BYTES).try_for_each(|block| digests.push(manifest::digest(block)))?,
            None => (0..raw_bytes as usize / BLOCK_BYTES).try_for_each(|_| digests.push(UNKNOWN_BLOCK))?,
        }
    }
    write_index(store, &pack.with_extension("idx"), &spans, &digests)
}

/// Whether an index has the checksum that it ends with. All of it is read.
fn is_index_sound(mut file: &File, content_bytes: u64) -> io::Result<bool> {
    let mut hasher = blake3::Hasher::new();
    file.rewind()?;
    hasher.update_reader(file.take(content_bytes))?;
    let mut checksum = [0; DIGEST_BYTES];
    file.read_exact_at(&mut checksum, content_bytes)?;
    Ok(checksum == *hasher.finalize().as_bytes())
}

/// The index of a published pack: its frames, and where the digests of its blocks are read when they are asked for. Held
/// in memory they would be 8 GB for each TB of blocks.
#[derive(Debug)]
pub(super) struct PackIndex {
    file: ReadFile,
    /// 16 bytes for each frame.
    frames: Vec<FrameSpan>,
    /// Of each frame but the last, which may have fewer: 128, or 64 in a pack of before.
    frame_blocks: usize,
    blocks: usize,
    read: Mutex<ReadDigests>,
}

/// Some digests that lie side by side.
#[derive(Debug, Default)]
struct ReadDigests {
    first: usize,
    digests: Vec<u8>,
}

impl PackIndex {
    /// Reads and checks an index.
    pub fn open(path: &Path) -> Result<PackIndex, StoreError> {
        PackIndex::read(path, true)
    }

    /// Only for counting: its checksum is not looked at, so that the digests of all blocks need not be read.
    pub fn open_unchecked(path: &Path) -> Result<PackIndex, StoreError> {
        PackIndex::read(path, false)
    }

    fn read(path: &Path, is_checked: bool) -> Result<PackIndex, StoreError> {
        let damaged = |reason: &str| StoreError::Damaged { path: PathBuf::from(path), reason: reason.to_owned() };
        let unread = |error: io::Error| damaged(&format!("it cannot be read: {error}"));
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged("it is missing, though its pack is there"),
            _ => io_error("open", path)(error),
        })?;
        let length = file.metadata().map_err(unread)?.len();
        let mut header = [0; INDEX_HEADER_BYTES];
        let is_long_enough = length >= (INDEX_HEADER_BYTES + DIGEST_BYTES) as u64;
        if is_long_enough {
            file.read_exact_at(&mut header, 0).map_err(unread)?;
        }
        if &header[..8] != INDEX_MAGIC {
            return Err(damaged("it is no index of a pack"));
        }
        if header[8..10] != VERSION.to_le_bytes() && header[8..10] != DROPPED_VERSION.to_le_bytes() {
            return Err(damaged("it has an unknown format version"));
        }
        let content_bytes = length - DIGEST_BYTES as u64;
        if is_checked && !is_index_sound(&file, content_bytes).map_err(unread)? {
            return Err(damaged("its checksum is wrong"));
        }
        let (frames, blocks) = (word(&header, 12) as usize, word(&header, 16) as usize);
        let expected = INDEX_HEADER_BYTES + frames * INDEX_FRAME_BYTES + blocks * DIGEST_BYTES;
        if content_bytes != expected as u64 {
            return Err(damaged("its length is wrong"));
        }
        // No longer than the file, by now.
        let mut table = vec![0; frames * INDEX_FRAME_BYTES];
        file.read_exact_at(&mut table, INDEX_HEADER_BYTES as u64).map_err(unread)?;
        let frames = table.chunks_exact(INDEX_FRAME_BYTES).map(|frame| FrameSpan {
            offset_bytes: u64::from(word(frame, 0)) | u64::from(word(frame, 4)) << 32,
            compressed_bytes: word(frame, 8),
            raw_bytes: word(frame, 12),
        });
        let frames: Vec<FrameSpan> = frames.collect();
        let raw_bytes = frames.first().map_or(0, |frame| frame.raw_bytes as usize);
        let frame_blocks = if frames.len() > 1 { raw_bytes / BLOCK_BYTES } else { FRAME_BLOCKS };
        if !(1..=FRAME_BLOCKS).contains(&frame_blocks) || frames.len() != blocks.div_ceil(frame_blocks) {
            return Err(damaged("it has another number of frames than its blocks fill"));
        }
        let read = Mutex::default();
        Ok(PackIndex { file: ReadFile::index(path, file), frames, frame_blocks, blocks, read })
    }

    fn unread(&self, error: &io::Error) -> StoreError {
        StoreError::Damaged { path: self.file.path().to_owned(), reason: format!("it cannot be read: {error}") }
    }

    pub fn blocks(&self) -> usize {
        self.blocks
    }

    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Number of the frame that holds a block, and where in it.
    pub fn frame_of(&self, block: u32) -> (u32, u32) {
        // At most 128.
        (block / self.frame_blocks as u32, block % self.frame_blocks as u32)
    }

    /// The numbers of a frame's blocks.
    pub fn blocks_of(&self, frame: usize) -> Range<u32> {
        let first = frame * self.frame_blocks;
        // Blocks of one pack are counted in 32 bits.
        first as u32..(first + self.frame_blocks).min(self.blocks) as u32
    }

    /// Whether the frame is no longer in its pack: what no version needed when the pack was compacted.
    pub fn is_dropped(&self, frame: usize) -> bool {
        self.frame(frame).compressed_bytes == 0
    }

    /// Writes this index anew, with these frames dropped as well. Their places stay, so that blocks keep their numbers;
    /// their lengths become 0.
    pub fn write_without(&self, store: &Path, place: &Path, dropped: &[usize]) -> Result<(), StoreError> {
        let digests_bytes = self.blocks * DIGEST_BYTES;
        let mut content = vec![0; INDEX_HEADER_BYTES + self.frames.len() * INDEX_FRAME_BYTES + digests_bytes];
        self.file.read_exact_at(&mut content, 0).map_err(|error| self.unread(&error))?;
        content[8..10].copy_from_slice(&DROPPED_VERSION.to_le_bytes());
        for frame in dropped {
            let at = INDEX_HEADER_BYTES + frame * INDEX_FRAME_BYTES + 8;
            content[at..at + 4].fill(0);
        }
        let checksum = manifest::digest(&content);
        content.extend_from_slice(&checksum);
        files::write_whole(store, place, &content)
    }

    /// The digest of a block; `None` where the pack has no such block.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]: it cannot be read any more.
    pub fn digest(&self, block: u32) -> Result<Option<Digest>, StoreError> {
        let block = block as usize;
        if block >= self.blocks {
            return Ok(None);
        }
        // Whoever panicked with the lock left digests that are not there, and below they are read again.
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = read.get(block) {
            return Ok(Some(digest));
        }
        let first = block / DIGESTS_READ * DIGESTS_READ;
        let count = DIGESTS_READ.min(self.blocks - first);
        let at = INDEX_HEADER_BYTES + self.frames.len() * INDEX_FRAME_BYTES + first * DIGEST_BYTES;
        let mut digests = std::mem::take(&mut read.digests);
        digests.resize(count * DIGEST_BYTES, 0);
        self.file.read_exact_at(&mut digests, at as u64).map_err(|error| self.unread(&error))?;
        *read = ReadDigests { first, digests };
        Ok(read.get(block))
    }

    /// # Panics
    /// When the pack has no such frame: frames are asked for by numbers of its blocks.
    pub fn frame(&self, frame: usize) -> FrameSpan {
        assert!(frame < self.frames.len(), "frame {frame} of {}", self.frames.len());
        self.frames[frame]
    }
}

impl ReadDigests {
    fn get(&self, block: usize) -> Option<Digest> {
        let at = block.checked_sub(self.first)?.checked_mul(DIGEST_BYTES)?;
        self.digests.get(at..at.checked_add(DIGEST_BYTES)?)?.try_into().ok()
    }
}

/// The little-endian number at a place; the caller has as many bytes.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Number of the frame that holds a block of a new pack, and where in it.
pub(super) fn frame_of(block: u32) -> (u32, u32) {
    (block / FRAME_BLOCKS as u32, block % FRAME_BLOCKS as u32)
}

/// True for a block of zeros, which is never stored.
pub(super) fn is_zero(block: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    block == ZEROS
}
