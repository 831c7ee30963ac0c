//! Which blocks are the same, have moved, are new: by digests alone, nothing is unpacked.

use super::Side;
use crate::image::StoreError;
use crate::volume::layout::parts::Part;
use crate::wire::manifest::BLOCK_BYTES;
use crate::wire::operator_diff::BlockSums;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Sums of the whole, and of its parts.
pub(super) struct Sums {
    pub whole: BlockSums,
    pub outside: BlockSums,
    /// By the newer side's parts, with the part's number.
    pub parts: Vec<(u32, BlockSums)>,
}

/// A stretch of the newer image and what it is compared with.
struct Stretch {
    number: u32,
    start: u64,
    end: u64,
    /// Where the older side's part begins and ends; `None`: there is none, or blocks do not lie alike in both.
    old: Option<(u64, u64)>,
}

/// All sums; an error where the index of a pack cannot be read. A block belongs to the part in which it begins; of parts that lie on each other, to the one that begins last.
pub(super) fn sums(old: &Side, new: &Side) -> Result<Sums, StoreError> {
    let mut stretches: Vec<Stretch> = new.parts.iter().map(|part| stretch(part, old.part(part.number))).collect();
    stretches.sort_by_key(|stretch| stretch.start);
    let mut known = Vec::new();
    for block in old.blocks.iter() {
        known.push(prefix(&block?.1));
    }
    known.sort_unstable();
    let mut sums = Sums {
        whole: BlockSums::default(),
        outside: BlockSums::default(),
        parts: stretches.iter().map(|stretch| (stretch.number, BlockSums::default())).collect(),
    };
    for block in new.blocks.iter() {
        let (offset, digest) = block?;
        let at = within(&stretches, offset);
        let before = match at.and_then(|at| stretches.get(at)) {
            Some(stretch) => stretch.old.and_then(|(start, end)| {
                let place = start + (offset - stretch.start);
                (place < end).then_some(place)
            }),
            None => Some(offset),
        };
        // The prefix stands for the digest: two blocks that share 64 bits by chance are counted as one, and nothing else.
        let add = if before.map_or(Ok(None), |place| old.blocks.at(place))? == Some(digest) {
            |sums: &mut BlockSums| sums.same_bytes += BLOCK
        } else if known.binary_search(&prefix(&digest)).is_ok() {
            |sums: &mut BlockSums| sums.moved_bytes += BLOCK
        } else {
            |sums: &mut BlockSums| sums.new_bytes += BLOCK
        };
        sums.add(at, add);
    }
    add_zeroed(old, new, &stretches, &mut sums);
    Ok(sums)
}

/// What the older side has where the newer one has a hole, or ends.
fn add_zeroed(old: &Side, new: &Side, stretches: &[Stretch], sums: &mut Sums) {
    let mut parts: Vec<(&Part, Option<usize>)> = Vec::new();
    for part in &old.parts {
        parts.push((part, stretches.iter().position(|stretch| stretch.number == part.number)));
    }
    parts.sort_by_key(|(part, _)| part.offset_bytes);
    for offset in old.blocks.offsets() {
        let next = parts.partition_point(|(part, _)| part.offset_bytes <= offset);
        let holds = |(part, _): &&(&Part, _)| offset < part.offset_bytes.saturating_add(part.length_bytes);
        let holder = parts.iter().take(next).rev().find(holds);
        let place = match holder {
            // A partition that is gone is told as such.
            Some((_, None)) => continue,
            Some((_, Some(at))) => match stretches.get(*at) {
                Some(Stretch { start, end, old: Some((from, _)), .. }) => {
                    Some(start + (offset - from)).filter(|place| place < end)
                }
                _ => continue,
            },
            None => Some(offset).filter(|offset| within(stretches, *offset).is_none()),
        };
        if !place.is_some_and(|place| new.blocks.holds(place)) {
            sums.add(holder.and_then(|(_, at)| *at), |sums: &mut BlockSums| sums.zeroed_bytes += BLOCK);
        }
    }
}

impl Sums {
    fn add(&mut self, part: Option<usize>, add: impl Fn(&mut BlockSums)) {
        add(&mut self.whole);
        match part.and_then(|part| self.parts.get_mut(part)) {
            Some((_, sums)) => add(sums),
            None => add(&mut self.outside),
        }
    }
}

fn stretch(part: &Part, old: Option<&Part>) -> Stretch {
    let end = |part: &Part| part.offset_bytes.saturating_add(part.length_bytes);
    let is_alike = |old: &&Part| old.offset_bytes % BLOCK == part.offset_bytes % BLOCK;
    let old = old.filter(is_alike).map(|old| (old.offset_bytes, end(old)));
    Stretch { number: part.number, start: part.offset_bytes, end: end(part), old }
}

fn within(stretches: &[Stretch], offset: u64) -> Option<usize> {
    let next = stretches.partition_point(|stretch| stretch.start <= offset);
    stretches.iter().take(next).rposition(|stretch| offset < stretch.end)
}

fn prefix(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte))
}
