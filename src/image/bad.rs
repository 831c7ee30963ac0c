//! What is known to be damaged: found by a scrub, kept over restarts in the file `bad`, ended by a repair.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::uses::Uses;
use super::{ImageRef, StoreError, files, io_error};
use crate::clock::UnixSeconds;
use crate::wire::manifest::{self, Digest};

pub(super) const FILE: &str = "bad";
const FORMAT: u32 = 1;
/// Damaged frames of one pack that are listed one by one; a pack with more is damaged as a whole.
const FRAMES_MAX: usize = 4096;

/// The file, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BadList {
    format: u32,
    /// When the last scrub of everything came to its end, Unix seconds; 0 before the first.
    pub scrubbed_at: UnixSeconds,
    /// By hex id: what of a pack cannot be read as it was stored.
    pub packs: BTreeMap<String, BadPack>,
    /// By hex digest: why.
    pub manifests: BTreeMap<String, String>,
    /// By reference: why.
    pub records: BTreeMap<ImageRef, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BadPack {
    /// Why none of it can be counted on, if so: it is missing, or there is too much damage to list.
    #[serde(default)]
    pub whole: Option<String>,
    /// By offset in the pack: why.
    #[serde(default)]
    pub frames: BTreeMap<u64, String>,
}

impl BadList {
    pub fn load(store: &Path) -> Result<BadList, StoreError> {
        let path = store.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BadList::default()),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        match serde_json::from_slice::<BadList>(&text) {
            Ok(list) if list.format == FORMAT => Ok(list),
            // It is found anew by the next scrub; a server that does not start helps nobody.
            other => {
                let reason = other.map_or_else(|error| error.to_string(), |list| format!("format {}", list.format));
                tracing::warn!(path = %path.display(), reason, "the list of damage is not understood; scrub the store");
                Ok(BadList::default())
            }
        }
    }

    pub fn store(&self, store: &Path) -> Result<(), StoreError> {
        let path = store.join(FILE);
        let list = BadList { format: FORMAT, ..self.clone() };
        // Texts and numbers: serialising them cannot fail but for want of memory.
        let json = serde_json::to_vec_pretty(&list)
            .map_err(|error| StoreError::Damaged { path: path.clone(), reason: error.to_string() })?;
        files::write_whole(store, &path, &json)
    }

    pub fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.manifests.is_empty() && self.records.is_empty()
    }

    pub fn has_frame(&self, pack: &Digest, offset: u64) -> bool {
        if self.packs.is_empty() {
            return false;
        }
        let pack = self.packs.get(&manifest::to_hex(pack));
        pack.is_some_and(|pack| pack.whole.is_some() || pack.frames.contains_key(&offset))
    }

    pub fn add_frame(&mut self, pack: &str, offset: u64, why: String) {
        let bad = self.packs.entry(pack.to_owned()).or_default();
        bad.frames.insert(offset, why);
        if bad.frames.len() > FRAMES_MAX {
            bad.frames.clear();
            bad.whole = Some(format!("more than {FRAMES_MAX} of its frames are damaged"));
        }
    }

    pub fn frame_is_mended(&mut self, pack: &str, offset: u64) {
        if let Some(bad) = self.packs.get_mut(pack) {
            bad.frames.remove(&offset);
            if bad.frames.is_empty() && bad.whole.is_none() {
                self.packs.remove(pack);
            }
        }
    }

    /// Why something with these needs cannot be counted on.
    pub fn concerns(&self, uses: &Uses) -> Option<String> {
        if self.packs.is_empty() {
            return None;
        }
        let mut first = None;
        let mut count = 0;
        for (id, ranges) in &uses.packs {
            let id = manifest::to_hex(id);
            let Some(bad) = self.packs.get(&id) else { continue };
            if let Some(why) = &bad.whole {
                return Some(format!("its pack {id} is damaged: {why}"));
            }
            let needed = ranges.iter().flat_map(|range| bad.frames.range(range.clone()));
            for (offset, why) in needed {
                count += 1;
                first.get_or_insert_with(|| format!("the frame at {offset} of pack {id}: {why}"));
            }
        }
        first.map(|first| format!("{count} of its frames are damaged, the first one is {first}"))
    }
}
