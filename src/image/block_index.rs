//! Every block of the store by its digest, for the length of one import.
//!
//! Memory: 17 to 34 bytes a block (the full digests stay in the index files), so about 150 MB for a
//! store of 20 GB of different blocks.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::StoreError;
use super::bad::BadList;
use super::files;
use super::pack::PackIndex;
use crate::wire::manifest::{self, Digest};

/// Where a block lies: which pack of [`BlockIndex::packs`] (one past its end is the pack that is being
/// written), and which of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub pack: u32,
    pub block: u32,
}

#[derive(Debug)]
pub(super) struct KnownPack {
    pub id: Digest,
    pub index: PackIndex,
    /// That it cannot be read: once, not for each block.
    is_said: AtomicBool,
}

#[derive(Debug)]
pub(super) struct BlockIndex {
    pub packs: Vec<KnownPack>,
    /// By the first 8 bytes of the digest. Whoever finds something here compares the whole digest.
    by_prefix: HashMap<u64, Location, BuildHasherDefault<PrefixHasher>>,
}

impl KnownPack {
    /// The digest of one of its blocks. An index that cannot be read any more knows none: what is then stored once more
    /// costs space, and the import works.
    pub fn digest(&self, block: u32) -> Option<Digest> {
        self.index.digest(block).unwrap_or_else(|error| {
            if !self.is_said.swap(true, Ordering::Relaxed) {
                let error = crate::causes::in_one_line(&error);
                tracing::warn!(error, "an index cannot be read: what only it knows is stored once more");
            }
            None
        })
    }
}

impl BlockIndex {
    pub fn load(store: &Path, bad: &BadList) -> Result<BlockIndex, StoreError> {
        let dir = store.join("packs");
        let mut packs = Vec::new();
        for name in files::entries(&dir)? {
            let id = name.strip_suffix(".pack").and_then(manifest::from_hex);
            if let Some(id) = id {
                let path = dir.join(&name).with_extension("idx");
                match PackIndex::open(&path) {
                    Ok(index) => packs.push(KnownPack { id, index, is_said: AtomicBool::new(false) }),
                    // Its blocks are stored once more where they are needed: that costs space, and the import works.
                    Err(StoreError::Damaged { reason, .. }) => {
                        tracing::warn!(path = %path.display(), reason, "an index is damaged; `regild image scrub` mends it");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let blocks = packs.iter().map(|pack| pack.index.blocks()).sum();
        let mut by_prefix = HashMap::with_capacity_and_hasher(blocks, BuildHasherDefault::default());
        for (pack, known) in (0..).zip(&packs) {
            for frame in 0..known.index.frames() {
                // What is dropped is not there any more, and what is damaged had better be stored anew.
                if known.index.is_dropped(frame) || bad.has_frame(&known.id, known.index.frame(frame).offset_bytes) {
                    continue;
                }
                for block in known.index.blocks_of(frame) {
                    if let Some(digest) = known.digest(block) {
                        by_prefix.entry(prefix(&digest)).or_insert(Location { pack, block });
                    }
                }
            }
        }
        Ok(BlockIndex { packs, by_prefix })
    }

    /// Where a block with this digest may lie; the caller compares the digest that is there.
    pub fn candidate(&self, digest: &Digest) -> Option<Location> {
        self.by_prefix.get(&prefix(digest)).copied()
    }

    /// Remembers a new block. Where two digests share their first 8 bytes the first one stays: the second
    /// content is then stored each time it occurs, which costs space and nothing else.
    pub fn insert(&mut self, digest: &Digest, location: Location) {
        self.by_prefix.entry(prefix(digest)).or_insert(location);
    }
}

fn prefix(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// A digest is already as random as a hash can be.
#[derive(Debug, Default)]
pub(super) struct PrefixHasher(u64);

impl Hasher for PrefixHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = prefix(bytes);
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}
