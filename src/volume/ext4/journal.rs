//! The journal (jbd2): what it holds of a file system that was not unmounted stands over the device's blocks, as it
//! would after the mount that a system makes when it boots. Nothing is written.
//!
//! ```text
//! s_start -> [descriptor | block.. | revoke | commit] [descriptor | block.. | commit] ... torn or old
//!            one transaction, s_sequence              the next number                 here it ends
//! ```

use std::collections::HashMap;
use std::io::{Read, Seek};

use super::blocks::{Blocks, Logged};
use super::checksum::crc32c;
use super::inode::Inode;
use super::superblock::Superblock;
use crate::volume::Fault;
use crate::volume::number::{array, be16, be32};

pub(super) const MAGIC: u32 = 0xc03b_3998;
/// 16 GiB of journal at 4 KiB; mke2fs makes 1 GiB at most.
const BLOCKS_MAX: usize = 4 << 20;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;

const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
/// REVOKE, 64BIT, ASYNC_COMMIT, CSUM_V2, CSUM_V3. Fast commits are another format beside this one.
const INCOMPAT_KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x10;

const FLAG_ESCAPED: u32 = 1;
const FLAG_SAME_UUID: u32 = 2;
const FLAG_LAST: u32 = 8;

struct Journal {
    /// Where its blocks lie on the device.
    places: Vec<u64>,
    first: u32,
    length: u32,
    incompat: u32,
    /// Where its checksums begin; `None`: it has none.
    seed: Option<u32>,
}

/// A block of the file system in one transaction.
struct Tag {
    target: u64,
    flags: u32,
    checksum: u32,
    /// Of the journal.
    block: u32,
    sequence: u32,
}

/// Lays the journal over the blocks; the superblock that holds then.
pub(super) fn apply<R: Read + Seek>(blocks: &mut Blocks<R>, superblock: Superblock) -> Result<Superblock, Fault> {
    if !superblock.needs_recovery {
        return Ok(superblock);
    }
    if superblock.journal_inode == 0 {
        return Err(Fault::Unsupported("it was not unmounted, and its journal is on another device".to_owned()));
    }
    let inode = Inode::read(blocks, &superblock, superblock.journal_inode)?;
    let places = blocks.list(&inode.body()?, BLOCKS_MAX)?;
    let head = match places.first() {
        Some(first) => blocks.raw(*first)?,
        None => return Fault::damaged("its journal is empty"),
    };
    let (start, sequence) = (be32(&head, 0x1c)?, be32(&head, 0x18)?);
    let journal = Journal::read(&head, places, superblock.block_bytes)?;
    if start == 0 {
        return Ok(superblock);
    }
    blocks.logged = journal.replay(blocks, start, sequence)?;
    blocks.forget_cache();
    superblock.read_again(blocks)
}

impl Journal {
    fn read(head: &[u8], places: Vec<u64>, block_bytes: u32) -> Result<Journal, Fault> {
        let kind = be32(head, 4)?;
        if be32(head, 0)? != MAGIC || !(3..=4).contains(&kind) || be32(head, 0xc)? != block_bytes {
            return Fault::damaged("its journal does not begin as one");
        }
        let incompat = if kind == 4 { be32(head, 0x28)? } else { 0 };
        if incompat & !INCOMPAT_KNOWN != 0 {
            let what = format!(
                "it was not unmounted, and its journal has features {incompat:#x} that this program does not know"
            );
            return Err(Fault::Unsupported(what));
        }
        let has_checksums = incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) != 0;
        let uuid: [u8; 16] = array(head, 0x30)?;
        let (length, first) = (be32(head, 0x10)?, be32(head, 0x14)?);
        if length as usize > places.len() || first == 0 || first >= length {
            return Fault::damaged("the numbers of its journal contradict each other");
        }
        Ok(Journal { places, first, length, incompat, seed: has_checksums.then(|| crc32c(!0, &[&uuid])) })
    }

    fn block<R: Read + Seek>(&self, blocks: &mut Blocks<R>, number: u32) -> Result<Vec<u8>, Fault> {
        match self.places.get(number as usize) {
            Some(place) => blocks.raw(*place),
            None => Fault::damaged("its journal points outside of itself"),
        }
    }

    /// The block after this one: behind the last comes the first.
    fn after(&self, number: u32) -> u32 {
        let next = number.saturating_add(1);
        if next >= self.length { self.first } else { next }
    }

    /// Whole transactions from `start` on: what a block's newest content is.
    fn replay<R: Read + Seek>(
        &self,
        blocks: &mut Blocks<R>,
        start: u32,
        first_sequence: u32,
    ) -> Result<std::collections::BTreeMap<u64, Logged>, Fault> {
        let mut tags: Vec<Tag> = Vec::new();
        // Until when a block must not be restored: the number of the last transaction that revoked it.
        let mut revoked: HashMap<u64, u32> = HashMap::new();
        let (mut whole, mut open_revoked) = (0, Vec::new());
        let (mut at, mut sequence) = (start, first_sequence);
        let mut looked = 0u32;
        while looked < self.length {
            let block = self.block(blocks, at)?;
            if be32(&block, 0)? != MAGIC || be32(&block, 8)? != sequence {
                break;
            }
            let mut step = 1;
            match be32(&block, 4)? {
                DESCRIPTOR if self.tail_is_right(&block)? => {
                    let before = tags.len();
                    self.tags(&block, at, sequence, &mut tags)?;
                    step += (tags.len() - before) as u32;
                }
                REVOKE if self.tail_is_right(&block)? => {
                    // What lies outside is never asked for.
                    let count = blocks.count();
                    open_revoked.extend(self.revoked(&block)?.into_iter().filter(|target| *target < count));
                    if open_revoked.len() + revoked.len() > BLOCKS_MAX {
                        return Err(Fault::TooMuch("its journal revokes more blocks than it has".to_owned()));
                    }
                }
                COMMIT if self.commit_is_right(&block)? => {
                    open_revoked.drain(..).for_each(|target| {
                        revoked.insert(target, sequence);
                    });
                    whole = tags.len();
                    sequence = sequence.wrapping_add(1);
                }
                // Torn: what came before is what holds.
                _ => break,
            }
            for _ in 0..step {
                at = self.after(at);
            }
            looked = looked.saturating_add(step);
        }
        tags.truncate(whole);
        self.newest(blocks, &tags, &revoked)
    }

    fn newest<R: Read + Seek>(
        &self,
        blocks: &mut Blocks<R>,
        tags: &[Tag],
        revoked: &HashMap<u64, u32>,
    ) -> Result<std::collections::BTreeMap<u64, Logged>, Fault> {
        let mut logged = std::collections::BTreeMap::new();
        for tag in tags {
            // Numbers wrap, so only their distance has a sign.
            let is_revoked = |until: &u32| until.wrapping_sub(tag.sequence).cast_signed() >= 0;
            if revoked.get(&tag.target).is_some_and(is_revoked) {
                continue;
            }
            if tag.target >= blocks.count().saturating_mul(2) {
                return Fault::damaged("its journal holds a block that lies outside");
            }
            if let Some(seed) = self.seed {
                let content = self.block(blocks, tag.block)?;
                let got = crc32c(seed, &[&tag.sequence.to_be_bytes(), &content]);
                let is_right = if self.incompat & INCOMPAT_CSUM_V3 != 0 {
                    got == tag.checksum
                } else {
                    got & 0xffff == tag.checksum
                };
                if !is_right {
                    return Fault::damaged(format!("its journal holds block {} with a wrong checksum", tag.target));
                }
            }
            let place = self.places.get(tag.block as usize).copied().unwrap_or_default();
            logged.insert(tag.target, Logged { block: place, is_escaped: tag.flags & FLAG_ESCAPED != 0 });
        }
        Ok(logged)
    }

    fn tags(&self, block: &[u8], descriptor: u32, sequence: u32, tags: &mut Vec<Tag>) -> Result<(), Fault> {
        let is_v3 = self.incompat & INCOMPAT_CSUM_V3 != 0;
        let is_wide = self.incompat & INCOMPAT_64BIT != 0;
        // fs/jbd2/journal.c, journal_tag_bytes().
        let tag_bytes = match (is_v3, self.incompat & INCOMPAT_CSUM_V2 != 0) {
            (true, _) => 16,
            (false, has_two_more) => 8 + 4 * usize::from(is_wide) + 2 * usize::from(has_two_more),
        };
        let end = block.len() - if self.seed.is_some() { 4 } else { 0 };
        let (mut at, mut data) = (12, descriptor);
        while at + tag_bytes <= end {
            data = self.after(data);
            let (flags, checksum) = if is_v3 {
                (be32(block, at + 4)?, be32(block, at + 12)?)
            } else {
                (u32::from(be16(block, at + 6)?), u32::from(be16(block, at + 4)?))
            };
            let high = if is_wide { be32(block, at + 8)? } else { 0 };
            let target = u64::from(high) << 32 | u64::from(be32(block, at)?);
            tags.push(Tag { target, flags, checksum, block: data, sequence });
            if tags.len() > BLOCKS_MAX {
                return Err(Fault::TooMuch("its journal holds more blocks than it has".to_owned()));
            }
            at += tag_bytes + if flags & FLAG_SAME_UUID == 0 { 16 } else { 0 };
            if flags & FLAG_LAST != 0 {
                break;
            }
        }
        Ok(())
    }

    fn revoked(&self, block: &[u8]) -> Result<Vec<u64>, Fault> {
        let used = (be32(block, 12)? as usize).min(block.len());
        let entries = block.get(16..used).unwrap_or_default();
        let is_wide = self.incompat & INCOMPAT_64BIT != 0;
        let entry = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        Ok(entries.chunks_exact(if is_wide { 8 } else { 4 }).map(entry).collect())
    }

    /// Descriptors and revocations end in a checksum, counted as zeros.
    fn tail_is_right(&self, block: &[u8]) -> Result<bool, Fault> {
        let Some(seed) = self.seed else { return Ok(true) };
        let tail = block.len() - 4;
        Ok(crc32c(seed, &[&block[..tail], &[0; 4]]) == be32(block, tail)?)
    }

    fn commit_is_right(&self, block: &[u8]) -> Result<bool, Fault> {
        let Some(seed) = self.seed else { return Ok(true) };
        Ok(crc32c(seed, &[&block[..0x10], &[0; 4], &block[0x14..]]) == be32(block, 0x10)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A device that says it is an ext4 of 64 blocks of 4 KiB, with this in block 5.
    fn blocks(block: &[u8]) -> Blocks<Cursor<Vec<u8>>> {
        let mut device = vec![0; 64 << 12];
        device[5 << 12..][..block.len()].copy_from_slice(block);
        Blocks::new(Cursor::new(device), &Superblock::of_size(64, 4096))
    }

    /// All of whose blocks lie in one.
    fn journal(length: u32) -> Journal {
        Journal { places: vec![5; length as usize], first: 1, length, incompat: 0, seed: None }
    }

    fn revocations(targets: impl IntoIterator<Item = u32>) -> Vec<u8> {
        let targets: Vec<u8> = targets.into_iter().flat_map(u32::to_be_bytes).collect();
        let words = [MAGIC, REVOKE, 7, 16 + targets.len() as u32];
        [words.into_iter().flat_map(u32::to_be_bytes).collect(), targets].concat()
    }

    /// Bad input: a journal that revokes without an end, in a transaction that is never finished.
    #[test]
    fn a_journal_that_revokes_without_an_end_is_too_much() {
        let mut hostile = blocks(&revocations([0; 1020]));
        let length = (BLOCKS_MAX / 1020 + 3) as u32;
        assert!(matches!(journal(length).replay(&mut hostile, 1, 7), Err(Fault::TooMuch(_))));
        let mut outside = blocks(&revocations([64; 1020]));
        assert!(journal(length).replay(&mut outside, 1, 7).unwrap().is_empty(), "what lies outside takes no memory");
    }

    /// Bad input: reads of the journal are counted as all others are.
    #[test]
    fn reading_a_journal_has_a_budget() {
        let mut all = blocks(&[]);
        let budget = (64u64 << 12) * 8 + (1 << 30);
        all.charge(budget - 4096).unwrap();
        all.raw(5).unwrap();
        assert!(matches!(all.raw(5), Err(Fault::TooMuch(_))));
    }
}
