//! The digest of every block of an image, from the indexes of its packs: for comparing images without unpacking them.

use super::pack::PackIndex;
use super::{ImageStore, StoreError};
use crate::wire::manifest::{self, BLOCK_BYTES, Digest, Extent, Manifest};

/// One image's blocks.
#[derive(Debug)]
pub(super) struct Blocks<'m> {
    pub manifest: &'m Manifest,
    /// By the manifest's packs.
    indexes: Vec<PackIndex>,
    /// By the manifest's frames: the number of each one's first block in its pack.
    firsts: Vec<u32>,
}

impl ImageStore {
    /// The blocks of an image.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where an index is, or does not know a frame that the manifest names.
    pub(super) fn blocks<'m>(&self, manifest: &'m Manifest) -> Result<Blocks<'m>, StoreError> {
        let path = |pack: &manifest::Digest| self.pack_path(&manifest::to_hex(pack)).with_extension("idx");
        let open = |pack| PackIndex::open(&path(pack)).map_err(with_advice);
        let indexes = manifest.packs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let mut firsts = Vec::with_capacity(manifest.frames.len());
        for frame in &manifest.frames {
            let index = &indexes[frame.pack as usize];
            let number = find(index, frame.offset_bytes).ok_or_else(|| {
                let reason = format!("it knows no frame at byte {} of its pack", frame.offset_bytes);
                with_advice(StoreError::Damaged { path: path(&manifest.packs[frame.pack as usize]), reason })
            })?;
            firsts.push(index.blocks_of(number).start);
        }
        Ok(Blocks { manifest, indexes, firsts })
    }
}

fn with_advice(error: StoreError) -> StoreError {
    match error {
        StoreError::Damaged { path, reason } => {
            StoreError::Damaged { path, reason: reason + "; `regild image scrub` makes it anew" }
        }
        other => other,
    }
}

/// The frame at an offset; the frames of an index are in the order of their offsets.
fn find(index: &PackIndex, offset_bytes: u64) -> Option<usize> {
    let (mut low, mut high) = (0, index.frames());
    while low < high {
        let middle = low + (high - low) / 2;
        if index.frame(middle).offset_bytes < offset_bytes { low = middle + 1 } else { high = middle }
    }
    (low < index.frames() && index.frame(low).offset_bytes == offset_bytes).then_some(low)
}

impl Blocks<'_> {
    /// The digest of a frame's block; `None` past its end.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where an index cannot be read any more; so are those of the functions below.
    pub fn in_frame(&self, frame: usize, block: u32) -> Result<Option<Digest>, StoreError> {
        let of = || {
            let lies_in = self.manifest.frames.get(frame)?;
            Some((self.indexes.get(lies_in.pack as usize)?, self.firsts.get(frame)?.checked_add(block)?))
        };
        of().map_or(Ok(None), |(index, block)| index.digest(block).map_err(with_advice))
    }

    /// Every block that is no hole, in order: its offset on the target and its digest.
    pub fn iter(&self) -> impl Iterator<Item = Result<(u64, Digest), StoreError>> {
        self.manifest.extents.iter().flat_map(|extent| self.of(extent))
    }

    /// The blocks of one extent.
    pub fn of(&self, extent: &Extent) -> impl Iterator<Item = Result<(u64, Digest), StoreError>> {
        let extent = *extent;
        offsets(extent).enumerate().filter_map(move |(block, offset)| {
            // An extent that runs on does so into the next frames of its pack, whose blocks go on counting. At most 256.
            let digest = self.in_frame(extent.frame as usize, extent.frame_block + block as u32);
            digest.map(|digest| Some((offset, digest?))).transpose()
        })
    }

    /// Where on the target the blocks lie that are no holes, in order.
    pub fn offsets(&self) -> impl Iterator<Item = u64> {
        self.manifest.extents.iter().flat_map(|extent| offsets(*extent))
    }

    /// Whether the block at an offset on the target (a multiple of 4096) lies in no hole.
    pub fn holds(&self, offset: u64) -> bool {
        self.extent_at(offset).is_some()
    }

    /// The digest of the block at an offset on the target (a multiple of 4096); `None` in a hole.
    pub fn at(&self, offset: u64) -> Result<Option<Digest>, StoreError> {
        let Some((extent, into)) = self.extent_at(offset) else { return Ok(None) };
        self.in_frame(extent.frame as usize, extent.frame_block + (into / BLOCK_BYTES as u64) as u32)
    }

    /// With how far into it the offset is.
    fn extent_at(&self, offset: u64) -> Option<(&Extent, u64)> {
        let extents = &self.manifest.extents;
        let extent = extents.get(extents.partition_point(|extent| extent.target().end <= offset))?;
        Some((extent, offset.checked_sub(extent.target_offset_bytes)?))
    }
}

fn offsets(extent: Extent) -> impl Iterator<Item = u64> {
    (0..u64::from(extent.extent_bytes) / BLOCK_BYTES as u64)
        .map(move |block| extent.target_offset_bytes + block * BLOCK_BYTES as u64)
}
