//! Damaged frames are written anew, from the same blocks out of another place, so that every manifest that refers to them
//! is right again.
//!
//! A manifest says where a frame lies and how long it is: the new one must fit into the old one's place. The same blocks
//! compressed by the same zstd give the same bytes; another zstd may give others, and then levels are tried until one
//! fits, and what is left over is filled with a skippable frame (RFC 8878, section 3.1.2), which every decoder passes over.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use super::block_index::{BlockIndex, Location};
use super::pack::{self, FrameSpan, PackIndex, ZSTD_LEVEL};
use super::{ImageStore, StoreError};
use crate::wire::manifest::{self, BLOCK_BYTES, Digest, FRAME_BYTES};

const SKIPPABLE_MAGIC: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
const SKIPPABLE_HEADER_BYTES: usize = 8;

/// Blocks by their digest: from the import that is just running, or from another store.
pub(super) struct Blocks<'a> {
    pub index: &'a BlockIndex,
    /// The directory of packs that `index` knows.
    pub packs: PathBuf,
    /// The pack that is one past the index's end.
    pub new: Option<&'a pack::FinishedPack>,
    /// The last frame that was read: blocks are asked for in order.
    pub last: HashMap<(u32, u32), Vec<u8>>,
}

impl Blocks<'_> {
    /// `None` when it is not there, or is damaged there too.
    fn find(&mut self, digest: &Digest) -> Option<Vec<u8>> {
        let found = self.index.candidate(digest)?;
        let (frame, block) = match self.index.packs.get(found.pack as usize) {
            Some(known) => known.index.frame_of(found.block),
            None => pack::frame_of(found.block),
        };
        if !self.last.contains_key(&(found.pack, frame)) {
            let raw = self.frame(found, frame as usize)?;
            self.last.clear();
            self.last.insert((found.pack, frame), raw);
        }
        let raw = self.last.get(&(found.pack, frame))?;
        let at = block as usize * BLOCK_BYTES;
        let bytes = raw.get(at..at + BLOCK_BYTES)?;
        // Neither the index's word nor the pack's is taken for it.
        (manifest::digest(bytes) == *digest).then(|| bytes.to_vec())
    }

    fn frame(&self, found: Location, frame: usize) -> Option<Vec<u8>> {
        match (self.index.packs.get(found.pack as usize), self.new) {
            (Some(known), _) => {
                let path = self.packs.join(format!("{}.pack", manifest::to_hex(&known.id)));
                pack::read_frame(&File::open(&path).ok()?, known.index.frame(frame)).ok()
            }
            (None, Some(new)) => new.frame(frame),
            (None, None) => None,
        }
    }
}

impl ImageStore {
    /// Mends what it can of the damaged frames; gives a sentence for each pack that it wrote anew.
    pub(super) fn mend(&self, blocks: &mut Blocks<'_>) -> Result<Vec<String>, StoreError> {
        let mut said = Vec::new();
        for (id, bad) in self.bad_list().packs {
            if !self.pack_path(&id).exists() {
                continue;
            }
            let _alone = self.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(index) = PackIndex::open(&self.pack_path(&id).with_extension("idx")) else { continue };
            let numbers = (0..index.frames()).filter(|number| !index.is_dropped(*number));
            let is_bad =
                |number: &usize| bad.whole.is_some() || bad.frames.contains_key(&index.frame(*number).offset_bytes);
            let (broken, good): (Vec<usize>, Vec<usize>) = numbers.partition(is_bad);
            let mut mended = Vec::new();
            for number in &broken {
                let span = index.frame(*number);
                let fitted = raw(&index, *number, blocks).and_then(|raw| fit(&raw, span.compressed_bytes as usize));
                mended.extend(fitted.map(|bytes| (span.offset_bytes, bytes)));
            }
            // A pack is not written anew without a part that may be read once the disk is in a better mood.
            if mended.is_empty() || (bad.whole.is_some() && mended.len() < broken.len()) {
                continue;
            }
            let kept: Vec<FrameSpan> = match bad.whole {
                Some(_) => Vec::new(),
                None => good.iter().chain(&broken).map(|number| index.frame(*number)).collect(),
            };
            let mut kept = kept;
            kept.sort_by_key(|span| span.offset_bytes);
            self.rewrite_pack(&id, &kept, &mended)?;
            said.push(format!("pack {id}: {} of {} damaged frames are whole again", mended.len(), broken.len()));
            self.update_bad(|list| {
                for (offset, _) in &mended {
                    list.frame_is_mended(&id, *offset);
                }
                if bad.whole.is_some() {
                    list.packs.remove(&id);
                }
            })?;
        }
        Ok(said)
    }

    /// As [`ImageStore::mend`], with the blocks of another store.
    pub(super) fn mend_from(&self, other: &Path) -> Result<Vec<String>, StoreError> {
        let index = BlockIndex::load(other, &super::bad::BadList::load(other)?)?;
        self.mend(&mut Blocks { index: &index, packs: other.join("packs"), new: None, last: HashMap::new() })
    }
}

/// The blocks of one frame, put together.
fn raw(index: &PackIndex, frame: usize, blocks: &mut Blocks<'_>) -> Option<Vec<u8>> {
    let mut raw = Vec::with_capacity(FRAME_BYTES);
    for block in index.blocks_of(frame) {
        let digest = index.digest(block).ok()??;
        raw.extend_from_slice(&blocks.find(&digest)?);
    }
    Some(raw)
}

/// A frame of exactly this length that holds these bytes.
fn fit(raw: &[u8], length: usize) -> Option<Vec<u8>> {
    let as_ever = pack::compressor().and_then(|mut compressor| compressor.compress(raw));
    // Level 3 made the packs of former releases.
    let others = std::iter::once(ZSTD_LEVEL).chain(1..=19).map(|level| zstd::bulk::compress(raw, level));
    for packed in std::iter::once(as_ever).chain(others) {
        let Ok(mut bytes) = packed else { continue };
        let left = length.checked_sub(bytes.len());
        match left {
            Some(0) => return Some(bytes),
            Some(left) if left >= SKIPPABLE_HEADER_BYTES => {
                // A frame has at most 512 KiB.
                let filling = (left - SKIPPABLE_HEADER_BYTES) as u32;
                bytes.extend_from_slice(&SKIPPABLE_MAGIC);
                bytes.extend_from_slice(&filling.to_le_bytes());
                bytes.resize(length, 0);
                return Some(bytes);
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_made_to_fit_its_place_and_reads_the_same() {
        let raw: Vec<u8> =
            (0..FRAME_BYTES as u32).flat_map(|number| (number / 7).to_le_bytes()).take(FRAME_BYTES).collect();
        let natural = pack::compressor().unwrap().compress(&raw).unwrap();
        assert_eq!(fit(&raw, natural.len()).unwrap(), natural, "the same zstd gives the same bytes");
        let former = zstd::bulk::compress(&raw, ZSTD_LEVEL).unwrap();
        assert_eq!(fit(&raw, former.len()).unwrap().len(), former.len(), "a pack of a former release");
        for longer in [8, 9, 4096] {
            let fitted = fit(&raw, natural.len() + longer).unwrap();
            assert_eq!(fitted.len(), natural.len() + longer);
            assert!(zstd::bulk::decompress(&fitted, FRAME_BYTES).unwrap() == raw);
            // As the agent does it.
            assert!(zstd::bulk::Decompressor::new().unwrap().decompress(&fitted, FRAME_BYTES).unwrap() == raw);
        }
        assert_eq!(fit(&raw, 4), None);
    }
}
