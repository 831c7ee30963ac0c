//! Where a file's content lies: extents, the block map of ext2 and ext3, or in the inode itself.

use std::io::{Read, Seek};

use super::blocks::{Blocks, READ_BYTES_MAX};
use super::inode::MAP_BYTES;
use crate::volume::Fault;
use crate::volume::number::{le16, le32};

const EXTENT_MAGIC: u16 = 0xf30a;
/// fs/ext4/ext4_extents.h: no tree is deeper.
const DEPTH_MAX: u16 = 5;
const ENTRY_BYTES: usize = 12;
/// An extent of more blocks than this is that many fewer, reserved and not yet written: it reads as zeros.
const WRITTEN_BLOCKS_MAX: u16 = 32768;
/// Direct blocks of the old map.
const DIRECT: usize = 12;

/// What an inode says of its content.
#[derive(Debug, Clone)]
pub enum Body {
    Inline(Vec<u8>),
    Mapped { map: [u8; MAP_BYTES], has_extents: bool, bytes: u64 },
}

/// A stretch of content.
#[derive(Debug)]
pub(super) enum Part<'b> {
    Bytes(&'b [u8]),
    Zeros(u64),
}

/// A run of blocks: of the file, and of the device.
#[derive(Debug, Clone, Copy)]
struct Run {
    logical: u64,
    physical: u64,
    blocks: u64,
    is_written: bool,
}

/// Takes each run, in order; false: enough.
type Visit<'v, R> = &'v mut dyn FnMut(&mut Blocks<R>, Run) -> Result<bool, Fault>;

impl Body {
    /// Roughly: the block that it begins with, or the one that says where.
    pub fn first_block(&self) -> u64 {
        let Body::Mapped { map, has_extents, .. } = self else {
            return 0;
        };
        if !has_extents {
            return le32(map, 0).map_or(0, u64::from);
        }
        let depth = le16(map, 6).unwrap_or(0);
        // A leaf ends in high and low half of the block; an index begins with its low half.
        let (low, high) = if depth == 0 { (20, 18) } else { (16, 20) };
        u64::from(le16(map, high).unwrap_or(0)) << 32 | u64::from(le32(map, low).unwrap_or(0))
    }

    pub fn held_bytes(&self) -> usize {
        match self {
            Body::Inline(bytes) => bytes.len(),
            Body::Mapped { .. } => 0,
        }
    }
}

impl<R: Read + Seek> Blocks<R> {
    /// All of the content, in order, holes included; `take` says whether to go on. False: it did not want to.
    pub fn each_part(&mut self, body: &Body, take: &mut dyn FnMut(Part<'_>) -> bool) -> Result<bool, Fault> {
        let (map, has_extents, size) = match body {
            Body::Inline(bytes) => return Ok(take(Part::Bytes(bytes))),
            Body::Mapped { map, has_extents, bytes } => (map, *has_extents, *bytes),
        };
        let block_bytes = self.block_bytes();
        let mut buffer = Vec::new();
        let mut at = 0u64;
        let mut goes_on = true;
        let mut visit = |blocks: &mut Blocks<R>, run: Run| -> Result<bool, Fault> {
            // Logical blocks fit 32 bits, and a block 17.
            let start = run.logical * block_bytes;
            if start >= size {
                return Ok(false);
            }
            if start > at {
                goes_on = take(Part::Zeros(start - at));
            }
            let mut left = (run.blocks * block_bytes).min(size - start);
            at = start + left;
            if !run.is_written && goes_on {
                goes_on = take(Part::Zeros(left));
                return Ok(goes_on);
            }
            let mut block = run.physical;
            while left > 0 && goes_on {
                let now = left.min(READ_BYTES_MAX as u64);
                buffer.resize(now as usize, 0);
                blocks.read_at(block, 0, &mut buffer)?;
                goes_on = take(Part::Bytes(&buffer));
                // READ_BYTES_MAX is a multiple of every block size.
                block += now / block_bytes;
                left -= now;
            }
            Ok(goes_on)
        };
        if has_extents {
            self.extents(map, None, &mut 0, &mut visit)?;
        } else {
            self.old_map(map, size.div_ceil(block_bytes), &mut visit)?;
        }
        if goes_on && at < size {
            goes_on = take(Part::Zeros(size - at));
        }
        Ok(goes_on)
    }

    /// The first bytes of a content, at most so many.
    pub fn content(&mut self, body: &Body, bytes_max: usize) -> Result<Vec<u8>, Fault> {
        let mut content = Vec::new();
        self.each_part(body, &mut |part| {
            let left = bytes_max - content.len();
            match part {
                Part::Bytes(bytes) => content.extend_from_slice(&bytes[..bytes.len().min(left)]),
                Part::Zeros(count) => {
                    let count = usize::try_from(count).unwrap_or(usize::MAX).min(left);
                    content.resize(content.len() + count, 0);
                }
            }
            content.len() < bytes_max
        })?;
        Ok(content)
    }

    /// The physical blocks of a whole file that has no holes: the journal.
    pub fn list(&mut self, body: &Body, count_max: usize) -> Result<Vec<u64>, Fault> {
        let Body::Mapped { map, has_extents, bytes } = body else {
            return Fault::damaged("its journal lies in an inode");
        };
        let count = bytes / self.block_bytes();
        if count > count_max as u64 {
            return Err(Fault::TooMuch(format!("a journal of {count} blocks")));
        }
        let mut list: Vec<u64> = Vec::new();
        let mut visit = |_: &mut Blocks<R>, run: Run| -> Result<bool, Fault> {
            if run.logical != list.len() as u64 || !run.is_written {
                return Fault::damaged("its journal has holes");
            }
            let wanted = run.blocks.min(count - list.len() as u64);
            list.extend(run.physical..run.physical + wanted);
            Ok((list.len() as u64) < count)
        };
        if *has_extents {
            self.extents(map, None, &mut 0, &mut visit)?;
        } else {
            self.old_map(map, count, &mut visit)?;
        }
        if list.len() as u64 == count { Ok(list) } else { Fault::damaged("its journal has holes") }
    }

    /// Goes through a node of an extent tree. `next` is the first logical block that may come; depths fall.
    fn extents(&mut self, node: &[u8], depth: Option<u16>, next: &mut u64, visit: Visit<'_, R>) -> Result<bool, Fault> {
        let (magic, entries, own) = (le16(node, 0)?, le16(node, 2)?, le16(node, 6)?);
        let is_right = match depth {
            None => own <= DEPTH_MAX,
            // A node without entries below the root would let a tree take time and hold nothing.
            Some(depth) => own == depth && entries > 0,
        };
        let fits = (usize::from(entries) + 1) * ENTRY_BYTES <= node.len();
        if magic != EXTENT_MAGIC || !is_right || !fits {
            return Fault::damaged("a node of its extent tree is none");
        }
        for entry in node.chunks_exact(ENTRY_BYTES).skip(1).take(usize::from(entries)) {
            let logical = u64::from(le32(entry, 0)?);
            if logical < *next {
                return Fault::damaged("its extents overlap or are out of order");
            }
            self.charge(self.block_bytes())?;
            if own == 0 {
                let length = le16(entry, 4)?;
                let is_written = length <= WRITTEN_BLOCKS_MAX;
                let blocks = u64::from(if is_written { length } else { length - WRITTEN_BLOCKS_MAX });
                if blocks == 0 {
                    return Fault::damaged("an extent of no blocks");
                }
                *next = logical + blocks;
                let physical = u64::from(le16(entry, 6)?) << 32 | u64::from(le32(entry, 8)?);
                if !visit(self, Run { logical, physical, blocks, is_written })? {
                    return Ok(false);
                }
            } else {
                let child = u64::from(le16(entry, 8)?) << 32 | u64::from(le32(entry, 4)?);
                let child = self.block(child)?;
                // `own` is not 0 here.
                if !self.extents(&child, Some(own - 1), next, visit)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn old_map(&mut self, map: &[u8; MAP_BYTES], blocks: u64, visit: Visit<'_, R>) -> Result<bool, Fault> {
        let mut logical = 0;
        if !self.pointers(&map[..DIRECT * 4], 0, blocks, &mut logical, visit)? {
            return Ok(false);
        }
        // One pointer to a block of pointers, one to two levels of them, one to three.
        for (level, pointer) in (1..).zip(map[DIRECT * 4..].chunks_exact(4)) {
            if !self.pointers(pointer, level, blocks, &mut logical, visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes through pointers that stand `level` levels above content. Pointer 0 is a hole of all that it spans.
    fn pointers(
        &mut self,
        pointers: &[u8],
        level: u32,
        blocks: u64,
        logical: &mut u64,
        visit: Visit<'_, R>,
    ) -> Result<bool, Fault> {
        let span = (self.block_bytes() / 4).pow(level);
        let mut run: Option<Run> = None;
        for pointer in pointers.chunks_exact(4) {
            if *logical >= blocks {
                break;
            }
            let physical = u64::from(le32(pointer, 0)?);
            if level > 0 && physical != 0 {
                self.charge(self.block_bytes())?;
                let below = self.block(physical)?;
                if !self.pointers(&below, level - 1, blocks, logical, visit)? {
                    return Ok(false);
                }
                continue;
            }
            let at = *logical;
            *logical += span;
            match &mut run {
                _ if physical == 0 => {}
                Some(open) if open.physical + open.blocks == physical && open.logical + open.blocks == at => {
                    open.blocks += 1;
                }
                _ => {
                    let next = Run { logical: at, physical, blocks: 1, is_written: true };
                    if let Some(done) = run.replace(next)
                        && !visit(self, done)?
                    {
                        return Ok(false);
                    }
                }
            }
        }
        match run {
            Some(done) => visit(self, done),
            None => Ok(true),
        }
    }
}
