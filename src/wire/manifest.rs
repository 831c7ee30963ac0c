//! The manifest: of what a golden image consists, and where its bytes lie in the packs.
//!
//! The server makes it at import, the agent deploys by it. Its digest names it, so whoever knows the digest
//! can take the manifest from anyone. `docs/image-format.md` gives every byte.
//!
//! What is absent: IO. A manifest that came out of [`Manifest::decode`] has been checked whole: no index is
//! out of range, nothing overlaps, every size has a bound, and so its users need no check of their own.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The unit by which content is known: 4 KiB, the block of every common file system.
pub const BLOCK_BYTES: usize = 4096;
/// Most blocks in one compressed frame (512 KiB raw): the least that can be fetched.
pub const FRAME_BLOCKS: usize = 128;
/// Raw bytes of such a frame.
pub const FRAME_BYTES: usize = BLOCK_BYTES * FRAME_BLOCKS;
/// No extent crosses a border of this many bytes on the target, so none is longer either.
pub const WINDOW_BYTES: u64 = 1 << 20;
/// Bytes in front of the first frame of a pack: magic, version, reserved.
pub const PACK_HEADER_BYTES: u64 = 16;
/// Largest image: 16 TiB. Keeps every sum of offsets far from 2^64.
pub const IMAGE_BYTES_MAX: u64 = 1 << 44;
/// Largest encoded manifest that is read from anyone.
pub const ENCODED_BYTES_MAX: usize = 64 << 20;

const MAGIC: &[u8; 8] = b"RGLDMAN1";
/// Of a manifest without frames that only the version below has: the same image has the same manifest as ever.
const SMALL_FRAMES_VERSION: u16 = 1;
/// With frames of more than [`SMALL_FRAME_BYTES`].
const VERSION: u16 = 2;
/// Raw bytes of a full frame in packs of before.
const SMALL_FRAME_BYTES: u32 = 256 << 10;
/// Magic, version (u16), body length before compression (u32); all numbers little-endian.
const HEADER_BYTES: usize = 14;
const BODY_BYTES_MAX: usize = 256 << 20;
/// zstd may make incompressible data a little longer.
pub(crate) const FRAME_COMPRESSED_BYTES_MAX: u32 = 2 * FRAME_BYTES as u32;
const PARTITIONS_MAX: usize = 1024;
/// EFI loaders that a manifest names.
pub const LOADERS_MAX: usize = 1024;
/// Longest path or name in the boot facts.
pub const TEXT_BYTES_MAX: usize = 512;

/// A blake3 digest.
pub type Digest = [u8; 32];

/// Everything about one golden image but the bytes themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Exact length of the image, a multiple of 512. The last block is padded with zeros to 4 KiB.
    pub image_bytes: u64,
    /// Sector size that the image was made for, 512 or 4096.
    pub sector_bytes: u32,
    /// Tells whether two imports are the same content: see [`ContentDigest`]. Independent of packs.
    pub content_digest: Digest,
    pub boot: BootFacts,
    /// Packs that this image needs, each named by the digest of its file.
    pub packs: Vec<Digest>,
    /// Frames that this image needs, by pack and then by offset.
    pub frames: Vec<Frame>,
    /// Runs of blocks by target offset. What no extent covers is a hole and reads as zeros.
    pub extents: Vec<Extent>,
}

/// What starts this image, found by reading its partition table and its EFI system partition at import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFacts {
    /// There is boot code in the MBR.
    pub bios: bool,
    /// There is a GUID partition table; otherwise an MBR table or none at all.
    pub gpt: bool,
    /// EFI loaders on the EFI system partition; none: the image does not start on UEFI.
    pub loaders: Vec<Loader>,
    pub partitions: Vec<Partition>,
}

/// A program that UEFI firmware can start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loader {
    /// `x64`, `ia32`, `aa64`, `arm`, `riscv64`, as in the file names of the UEFI specification.
    pub arch: String,
    /// From the root of its partition, `\EFI\BOOT\BOOTX64.EFI`.
    pub path: String,
    /// Number of the partition that holds it, see [`Partition::number`].
    pub partition: u32,
}

/// One entry of the image's GUID partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// From 1, as in `vda1`.
    pub number: u32,
    pub name: String,
    /// Lower case, `c12a7328-f81f-11d2-ba4b-00a0c93ec93b`.
    pub type_guid: String,
    pub unique_guid: String,
    /// First and last sector, both part of the partition.
    pub first_lba: u64,
    pub last_lba: u64,
}

/// One zstd frame in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Index into [`Manifest::packs`].
    pub pack: u32,
    pub offset_bytes: u64,
    pub compressed_bytes: u32,
    /// A multiple of 4 KiB, at most 512 KiB.
    pub raw_bytes: u32,
}

/// A run of blocks that lies together, on the target as in the pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    pub target_offset_bytes: u64,
    /// A multiple of 4 KiB. The last extent may reach over the end of the image, up to the next 4 KiB.
    pub extent_bytes: u32,
    /// Index into [`Manifest::frames`] of the frame where it begins; it may run on into the following frames
    /// of the list, which are then the next frames of the same pack.
    pub frame: u32,
    /// Where it begins in that frame, in blocks.
    pub frame_block: u32,
    /// blake3 of its `extent_bytes` bytes.
    pub digest: Digest,
}

impl Extent {
    /// Where it lies on the target, in bytes, padding included.
    #[must_use]
    pub fn target(&self) -> Range<u64> {
        self.target_offset_bytes..self.target_offset_bytes + u64::from(self.extent_bytes)
    }
}

/// Why bytes are not a manifest that this program can use.
#[derive(Debug, Error)]
pub enum ManifestError {
    #[error("not a regild manifest (it does not begin with RGLDMAN1)")]
    Magic,
    #[error("the manifest has format version {0}, this program knows version {VERSION}: use programs of one release")]
    Version(u16),
    #[error("the manifest's digest is {got}, expected {expected}: it was damaged or replaced on its way")]
    Digest { expected: String, got: String },
    #[error("the manifest is too large ({bytes} bytes, at most {max})")]
    TooLarge { bytes: usize, max: usize },
    #[error("the manifest cannot be read")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the manifest contradicts itself: {0}")]
    Invalid(String),
}

impl Manifest {
    /// The bytes that are stored and sent; [`digest_hex`] of them names the manifest.
    ///
    /// # Errors
    /// [`ManifestError::Invalid`] or `TooLarge` when [`Manifest::decode`] would refuse the result.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        self.check().map_err(ManifestError::Invalid)?;
        let body = postcard::to_stdvec(self).map_err(|e| ManifestError::Damaged(e.into()))?;
        at_most(body.len(), BODY_BYTES_MAX)?;
        let mut encoded = Vec::with_capacity(HEADER_BYTES + body.len() / 2);
        encoded.extend_from_slice(MAGIC);
        let has_small_frames = self.frames.iter().all(|frame| frame.raw_bytes <= SMALL_FRAME_BYTES);
        let version = if has_small_frames { SMALL_FRAMES_VERSION } else { VERSION };
        encoded.extend_from_slice(&version.to_le_bytes());
        // BODY_BYTES_MAX fits u32.
        encoded.extend_from_slice(&(body.len() as u32).to_le_bytes());
        let compressed = zstd::bulk::compress(&body, 3).map_err(|e| ManifestError::Damaged(e.into()))?;
        encoded.extend_from_slice(&compressed);
        at_most(encoded.len(), ENCODED_BYTES_MAX)?;
        Ok(encoded)
    }

    /// Reads a manifest from anyone. `expected_digest` is 64 lower-case hex characters.
    ///
    /// # Errors
    /// [`ManifestError`]: another digest, an unknown format version, or content that contradicts itself.
    pub fn decode(encoded: &[u8], expected_digest: Option<&str>) -> Result<Manifest, ManifestError> {
        let body = body(encoded, expected_digest)?;
        let (manifest, rest): (Manifest, _) =
            postcard::take_from_bytes(&body).map_err(|e| ManifestError::Damaged(e.into()))?;
        if !rest.is_empty() {
            return Err(ManifestError::Invalid(format!("{} bytes follow its end", rest.len())));
        }
        manifest.check().map_err(ManifestError::Invalid)?;
        Ok(manifest)
    }

    /// Packs and frames only, of a manifest whose digest is this: for whoever looks at a thousand of them. What has the
    /// digest of a manifest was checked whole when it was encoded, so it is not checked again.
    ///
    /// # Errors
    /// As [`Manifest::decode`].
    pub fn decode_frames(encoded: &[u8], digest: &str) -> Result<(Vec<Digest>, Vec<Frame>), ManifestError> {
        /// The manifest up to its frames.
        #[derive(Deserialize)]
        struct Front {
            _image_bytes: u64,
            _sector_bytes: u32,
            _content_digest: Digest,
            _boot: BootFacts,
            packs: Vec<Digest>,
            frames: Vec<Frame>,
        }
        let body = body(encoded, Some(digest))?;
        let (front, _): (Front, _) = postcard::take_from_bytes(&body).map_err(|e| ManifestError::Damaged(e.into()))?;
        Ok((front.packs, front.frames))
    }

    /// The frames that hold an extent, as indexes into [`Manifest::frames`].
    #[must_use]
    pub fn frames_of(&self, extent: &Extent) -> Range<usize> {
        let first = extent.frame as usize;
        let mut end = first;
        let mut missing = u64::from(extent.extent_bytes) + u64::from(extent.frame_block) * BLOCK_BYTES as u64;
        while missing > 0 && end < self.frames.len() {
            missing = missing.saturating_sub(u64::from(self.frames[end].raw_bytes));
            end += 1;
        }
        first..end
    }

    /// Hex id of the pack that a frame lies in.
    #[must_use]
    pub fn pack_id(&self, frame: &Frame) -> String {
        to_hex(&self.packs[frame.pack as usize])
    }

    /// Bytes that the extents hold, padding included.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.extents.iter().map(|e| u64::from(e.extent_bytes)).sum()
    }

    fn check(&self) -> Result<(), String> {
        if self.image_bytes == 0 || self.image_bytes > IMAGE_BYTES_MAX || !self.image_bytes.is_multiple_of(512) {
            return Err(format!("image of {} bytes", self.image_bytes));
        }
        if self.sector_bytes != 512 && self.sector_bytes != 4096 {
            return Err(format!("sectors of {} bytes", self.sector_bytes));
        }
        check_boot(&self.boot)?;
        self.check_frames()?;
        self.check_extents()
    }

    fn check_frames(&self) -> Result<(), String> {
        let mut packs: Vec<&Digest> = self.packs.iter().collect();
        packs.sort_unstable();
        if packs.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("a pack is listed twice".to_owned());
        }
        let mut before: Option<&Frame> = None;
        for (index, frame) in self.frames.iter().enumerate() {
            let end = frame.offset_bytes.saturating_add(u64::from(frame.compressed_bytes));
            let sound = (frame.pack as usize) < self.packs.len()
                && is_blocks(frame.raw_bytes, FRAME_BYTES)
                && (1..=FRAME_COMPRESSED_BYTES_MAX).contains(&frame.compressed_bytes)
                && frame.offset_bytes >= PACK_HEADER_BYTES
                && end <= IMAGE_BYTES_MAX;
            let in_order = before.is_none_or(|before| {
                let before_end = before.offset_bytes + u64::from(before.compressed_bytes);
                frame.pack > before.pack || (frame.pack == before.pack && frame.offset_bytes >= before_end)
            });
            if !sound || !in_order {
                return Err(format!("frame {index}: {frame:?}"));
            }
            before = Some(frame);
        }
        Ok(())
    }

    fn check_extents(&self) -> Result<(), String> {
        let padded_bytes = self.image_bytes.next_multiple_of(BLOCK_BYTES as u64);
        let mut free_from = 0;
        for (index, extent) in self.extents.iter().enumerate() {
            let offset = extent.target_offset_bytes;
            let sound = offset >= free_from
                && offset.is_multiple_of(BLOCK_BYTES as u64)
                && is_blocks(extent.extent_bytes, WINDOW_BYTES as usize)
                && offset < padded_bytes
                && extent.target().end <= padded_bytes
                && offset / WINDOW_BYTES == (extent.target().end - 1) / WINDOW_BYTES;
            if !sound {
                return Err(format!("extent {index} at {offset}, {} bytes", extent.extent_bytes));
            }
            if !self.lies_together(extent) {
                return Err(format!("extent {index} does not lie in its frames"));
            }
            free_from = extent.target().end;
        }
        Ok(())
    }

    /// The frames of an extent exist, are long enough and follow one another in one pack.
    fn lies_together(&self, extent: &Extent) -> bool {
        let begins_inside = self
            .frames
            .get(extent.frame as usize)
            .is_some_and(|first| u64::from(extent.frame_block) * (BLOCK_BYTES as u64) < u64::from(first.raw_bytes));
        if !begins_inside {
            return false;
        }
        let frames = &self.frames[self.frames_of(extent)];
        let held: u64 = frames.iter().map(|f| u64::from(f.raw_bytes)).sum();
        held >= u64::from(extent.extent_bytes) + u64::from(extent.frame_block) * BLOCK_BYTES as u64
            && frames.windows(2).all(|pair| {
                pair[0].pack == pair[1].pack
                    && pair[0].offset_bytes + u64::from(pair[0].compressed_bytes) == pair[1].offset_bytes
            })
    }
}

/// What is compressed in an encoded manifest.
fn body(encoded: &[u8], expected_digest: Option<&str>) -> Result<Vec<u8>, ManifestError> {
    at_most(encoded.len(), ENCODED_BYTES_MAX)?;
    if let Some(expected) = expected_digest {
        let got = digest_hex(encoded);
        if got != expected {
            let expected = expected.chars().take(64).collect();
            return Err(ManifestError::Digest { expected, got });
        }
    }
    let (header, compressed) = encoded.split_at_checked(HEADER_BYTES).ok_or(ManifestError::Magic)?;
    if &header[..8] != MAGIC {
        return Err(ManifestError::Magic);
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION && version != SMALL_FRAMES_VERSION {
        return Err(ManifestError::Version(version));
    }
    let body_bytes = u32::from_le_bytes([header[10], header[11], header[12], header[13]]) as usize;
    at_most(body_bytes, BODY_BYTES_MAX)?;
    let body = zstd::bulk::decompress(compressed, body_bytes).map_err(|e| ManifestError::Damaged(e.into()))?;
    if body.len() != body_bytes {
        return Err(ManifestError::Invalid("its body is shorter than its header says".to_owned()));
    }
    Ok(body)
}

fn is_blocks(bytes: u32, max: usize) -> bool {
    let bytes = bytes as usize;
    bytes > 0 && bytes <= max && bytes.is_multiple_of(BLOCK_BYTES)
}

fn check_boot(boot: &BootFacts) -> Result<(), String> {
    if boot.partitions.len() > PARTITIONS_MAX || boot.loaders.len() > LOADERS_MAX {
        return Err("too many partitions or loaders".to_owned());
    }
    let partition_texts = boot.partitions.iter().flat_map(|p| [&p.name, &p.type_guid, &p.unique_guid]);
    let loader_texts = boot.loaders.iter().flat_map(|l| [&l.arch, &l.path]);
    if partition_texts.chain(loader_texts).any(|text| text.len() > TEXT_BYTES_MAX) {
        return Err("a name in its boot facts is too long".to_owned());
    }
    let sectors_max = IMAGE_BYTES_MAX / 512;
    let backwards = |p: &Partition| p.first_lba > p.last_lba || p.last_lba >= sectors_max;
    if boot.partitions.iter().any(backwards) {
        return Err("a partition ends before it begins".to_owned());
    }
    Ok(())
}

fn at_most(bytes: usize, max: usize) -> Result<(), ManifestError> {
    if bytes > max {
        return Err(ManifestError::TooLarge { bytes, max });
    }
    Ok(())
}

/// The digest that says whether two images have the same content, however they are packed: blake3 over
/// all digests of its 4 KiB blocks in order, zero blocks included, and then its length in bytes (u64, little-endian).
#[derive(Debug, Clone)]
pub struct ContentDigest(blake3::Hasher);

impl ContentDigest {
    /// Begins with the blocks; the length goes in at the end, because a stream's length is known last.
    #[must_use]
    pub fn new() -> ContentDigest {
        ContentDigest(blake3::Hasher::new())
    }

    pub fn add_block(&mut self, block_digest: &Digest) {
        self.0.update(block_digest);
    }

    #[must_use]
    pub fn finish(mut self, image_bytes: u64) -> Digest {
        self.0.update(&image_bytes.to_le_bytes());
        *self.0.finalize().as_bytes()
    }
}

impl Default for ContentDigest {
    fn default() -> Self {
        ContentDigest::new()
    }
}

/// blake3 of any bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

/// blake3 of any bytes as 64 lower-case hex characters.
#[must_use]
pub fn digest_hex(bytes: &[u8]) -> String {
    to_hex(&digest(bytes))
}

/// 64 lower-case hex characters.
#[must_use]
pub fn to_hex(digest: &Digest) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}

/// The digest that exactly 64 lower-case hex characters stand for.
#[must_use]
pub fn from_hex(text: &str) -> Option<Digest> {
    let canonical = text.len() == 64 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    if !canonical {
        return None;
    }
    blake3::Hash::from_hex(text).ok().map(|hash| *hash.as_bytes())
}

#[cfg(test)]
mod tests;
