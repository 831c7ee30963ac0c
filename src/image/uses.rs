//! Which bytes of which packs a manifest needs, in a form small enough to be kept for every version.
//!
//! A manifest of a real image has some thousand frames; they lie together, so as ranges they are some hundred. Manifests
//! never change, so what was read once is kept in memory: a thousand versions cost some megabytes, and a second look at
//! all of them costs no read at all.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::{ImageStore, StoreError};
use crate::wire::manifest::{self, Digest, Frame, Manifest};

/// By pack: byte ranges that hold its frames, in order and apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    pub packs: Vec<(Digest, Vec<Range<u64>>)>,
}

impl Uses {
    pub fn of(packs: &[Digest], frames: &[Frame]) -> Uses {
        let mut packs: Vec<(Digest, Vec<Range<u64>>)> = packs.iter().map(|id| (*id, Vec::new())).collect();
        for frame in frames {
            let range = frame.offset_bytes..frame.offset_bytes + u64::from(frame.compressed_bytes);
            // A manifest's frames name packs of its own list, and come by offset: both were checked when it was read.
            if let Some((_, ranges)) = packs.get_mut(frame.pack as usize) {
                push(ranges, range);
            }
        }
        Uses { packs }
    }
}

/// Adds a range that begins nowhere before the last one.
fn push(ranges: &mut Vec<Range<u64>>, next: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if next.start <= last.end => last.end = last.end.max(next.end),
        _ => ranges.push(next),
    }
}

/// What all kept manifests need of each pack.
#[derive(Debug, Default)]
pub(super) struct Live {
    packs: BTreeMap<Digest, Vec<Range<u64>>>,
}

impl Live {
    pub fn of(all: &[Arc<Uses>]) -> Live {
        let mut packs: BTreeMap<Digest, Vec<Range<u64>>> = BTreeMap::new();
        for (id, ranges) in all.iter().flat_map(|uses| &uses.packs) {
            packs.entry(*id).or_default().extend(ranges.iter().cloned());
        }
        for ranges in packs.values_mut() {
            ranges.sort_unstable_by_key(|range| (range.start, range.end));
            let mut merged = Vec::with_capacity(ranges.len());
            ranges.drain(..).for_each(|range| push(&mut merged, range));
            merged.shrink_to_fit();
            *ranges = merged;
        }
        Live { packs }
    }

    pub fn ranges(&self, pack: &Digest) -> &[Range<u64>] {
        self.packs.get(pack).map_or(&[], Vec::as_slice)
    }

    pub fn bytes(&self, pack: &Digest) -> u64 {
        self.ranges(pack).iter().map(|range| range.end - range.start).sum()
    }

    /// Whether the frame that begins here is needed.
    pub fn holds(&self, pack: &Digest, offset: u64) -> bool {
        let ranges = self.ranges(pack);
        let after = ranges.partition_point(|range| range.start <= offset);
        after > 0 && ranges[after - 1].contains(&offset)
    }
}

/// What was read of manifests so far, by their digest.
#[derive(Debug, Default)]
pub(super) struct UsesCache(Mutex<HashMap<String, Arc<Uses>>>);

impl UsesCache {
    pub fn get(&self, digest: &str) -> Option<Arc<Uses>> {
        self.lock().get(digest).cloned()
    }

    pub fn put(&self, digest: &str, uses: Uses) -> Arc<Uses> {
        let uses = Arc::new(uses);
        self.lock().insert(digest.to_owned(), uses.clone());
        uses
    }

    pub fn forget(&self, digest: &str) {
        self.lock().remove(digest);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Uses>>> {
        // Entries are whole or absent, whoever panicked elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ImageStore {
    /// What a manifest needs; its file is read and checked only the first time.
    pub(super) fn uses(&self, digest: &str) -> Result<Arc<Uses>, StoreError> {
        if let Some(known) = self.uses.get(digest) {
            return Ok(known);
        }
        let encoded = self.manifest_bytes(digest)?;
        let (packs, frames) = Manifest::decode_frames(&encoded, digest)
            .map_err(|source| StoreError::Manifest { path: self.manifest_path(digest), source })?;
        Ok(self.uses.put(digest, Uses::of(&packs, &frames)))
    }

    /// The compressed bytes that a version's manifest refers to, shared ones included.
    ///
    /// # Errors
    /// As [`ImageStore::manifest`].
    pub fn referred_bytes(&self, digest: &str) -> Result<u64, StoreError> {
        let ranges =
            |(_, ranges): &(Digest, Vec<Range<u64>>)| ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        Ok(self.uses(digest)?.packs.iter().map(ranges).sum())
    }
}

/// Hex digests of a directory's files, sorted; what people put there is left alone.
pub(super) fn digests_in(dir: &std::path::Path, ending: &str) -> Result<Vec<String>, StoreError> {
    let names = super::files::entries(dir)?;
    let digest = |name: String| name.strip_suffix(ending).map(str::to_owned);
    Ok(names.into_iter().filter_map(digest).filter(|name| manifest::from_hex(name).is_some()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_manifests_need_is_merged_and_found_by_offset() {
        let uses = |ranges: &[Range<u64>]| Arc::new(Uses { packs: vec![([1; 32], ranges.to_vec())] });
        let live = Live::of(&[uses(&[16..50, 80..90]), uses(&[40..60, 90..95]), uses(&[])]);
        assert_eq!(live.ranges(&[1; 32]), [16..60, 80..95]);
        assert_eq!(live.bytes(&[1; 32]), 59);
        let held = [0, 15, 16, 59, 60, 79, 80, 94, 95].map(|offset| live.holds(&[1; 32], offset));
        assert_eq!(held, [false, false, true, true, false, false, true, true, false]);
        assert!(!live.holds(&[2; 32], 16));
    }
}
