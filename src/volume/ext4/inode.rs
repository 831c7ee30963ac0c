//! Inodes: what `lstat` tells, and where the content lies.

use std::io::{Read, Seek};

use super::blocks::Blocks;
use super::checksum::crc32c;
use super::map::Body;
use super::superblock::Superblock;
use super::xattr;
use crate::volume::Fault;
use crate::volume::number::{array, le16, le32};

const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_INLINE: u32 = 0x1000_0000;
/// Before the part that larger inodes have.
pub(super) const OLD_BYTES: usize = 128;
/// `i_block`: block map, device number, or what is small enough.
pub(super) const MAP_BYTES: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    File,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub number: u32,
    /// Type and permissions.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub links: u16,
    pub modified: i64,
    /// The block with extended attributes; 0: none.
    pub xattr_block: u64,
    pub map: [u8; MAP_BYTES],
    /// All of it, as it lies on the disk.
    pub raw: Vec<u8>,
    flags: u32,
    sectors: u32,
}

impl Inode {
    pub fn read<R: Read + Seek>(blocks: &mut Blocks<R>, superblock: &Superblock, number: u32) -> Result<Inode, Fault> {
        let offset = superblock.inode_offset(blocks, number)?;
        let block = blocks.block(offset / blocks.block_bytes())?;
        let at = (offset % blocks.block_bytes()) as usize;
        let raw = block.get(at..at + usize::from(superblock.inode_bytes));
        let raw = raw.ok_or_else(|| Fault::Damaged(format!("inode {number} stands across two blocks")))?.to_vec();
        let inode = Inode::parse(number, raw)?;
        if let Some(seed) = superblock.checksum_seed {
            inode.verify(seed)?;
        }
        if inode.mode == 0 || inode.links == 0 {
            return Fault::damaged(format!("a name leads to inode {number}, which is free"));
        }
        Ok(inode)
    }

    fn parse(number: u32, raw: Vec<u8>) -> Result<Inode, Fault> {
        let extra_bytes = if raw.len() > OLD_BYTES { usize::from(le16(&raw, OLD_BYTES)?) } else { 0 };
        if OLD_BYTES + extra_bytes > raw.len() || !extra_bytes.is_multiple_of(4) {
            return Fault::damaged(format!("inode {number} says that it is longer than inodes are"));
        }
        let wide = |low: usize, high: usize| -> Result<u32, Fault> {
            Ok(u32::from(le16(&raw, high)?) << 16 | u32::from(le16(&raw, low)?))
        };
        // Seconds are signed 32 bits, and two more bits where the inode has room for them.
        let epoch = if extra_bytes >= 12 { i64::from(le32(&raw, 0x88)? & 3) << 32 } else { 0 };
        Ok(Inode {
            number,
            mode: le16(&raw, 0)?,
            uid: wide(2, 0x78)?,
            gid: wide(0x18, 0x7a)?,
            size: u64::from(le32(&raw, 0x6c)?) << 32 | u64::from(le32(&raw, 4)?),
            links: le16(&raw, 0x1a)?,
            modified: i64::from(le32(&raw, 0x10)?.cast_signed()) + epoch,
            xattr_block: u64::from(le16(&raw, 0x76)?) << 32 | u64::from(le32(&raw, 0x68)?),
            map: array(&raw, 0x28)?,
            flags: le32(&raw, 0x20)?,
            sectors: le32(&raw, 0x1c)?,
            raw,
        })
    }

    /// fs/ext4/inode.c, ext4_inode_csum(): over all of it, the two halves of the checksum itself as zeros.
    fn verify(&self, seed: u32) -> Result<(), Fault> {
        let generation: [u8; 4] = array(&self.raw, 0x64)?;
        let own = crc32c(seed, &[&self.number.to_le_bytes(), &generation]);
        let has_high = self.raw.len() > OLD_BYTES && le16(&self.raw, OLD_BYTES)? >= 4;
        let mut zeroed = self.raw.clone();
        let mut expected = u32::from(le16(&self.raw, 0x7c)?);
        zeroed.get_mut(0x7c..0x7e).into_iter().for_each(|half| half.fill(0));
        if has_high {
            expected |= u32::from(le16(&self.raw, 0x82)?) << 16;
            zeroed.get_mut(0x82..0x84).into_iter().for_each(|half| half.fill(0));
        }
        let got = crc32c(own, &[&zeroed]);
        let is_right = if has_high { got == expected } else { got & 0xffff == expected };
        if is_right { Ok(()) } else { Fault::damaged(format!("the checksum of inode {} is wrong", self.number)) }
    }

    pub fn file_type(&self) -> Result<Type, Fault> {
        Ok(match self.mode & 0o170_000 {
            0o100_000 => Type::File,
            0o040_000 => Type::Directory,
            0o120_000 => Type::Symlink,
            0o020_000 => Type::CharDevice,
            0o060_000 => Type::BlockDevice,
            0o010_000 => Type::Fifo,
            0o140_000 => Type::Socket,
            other => return Fault::damaged(format!("inode {} has the unknown type {other:o}", self.number)),
        })
    }

    /// Major and minor number: the old form of 16 bits first, else the new one of 32 (include/linux/kdev_t.h).
    pub fn device(&self) -> (u32, u32) {
        let old = u32::from_le_bytes([self.map[0], self.map[1], self.map[2], self.map[3]]);
        let new = u32::from_le_bytes([self.map[4], self.map[5], self.map[6], self.map[7]]);
        if old != 0 {
            return (old >> 8 & 0xff, old & 0xff);
        }
        ((new & 0xf_ff00) >> 8, (new & 0xff) | (new >> 12 & 0xf_ff00))
    }

    /// A symlink's target where it stands in the inode: where no block is allocated, as the kernel has it.
    pub fn fast_target(&self) -> Option<Vec<u8>> {
        // A block of attributes is counted too, in clusters; then the flag tells, which the kernel clears for these.
        let has_blocks = if self.xattr_block == 0 { self.sectors > 0 } else { self.flags & FLAG_EXTENTS != 0 };
        if self.flags & FLAG_INLINE != 0 || has_blocks || self.size >= MAP_BYTES as u64 {
            return None;
        }
        self.map.get(..self.size as usize).map(<[u8]>::to_vec)
    }

    pub fn body(&self) -> Result<Body, Fault> {
        if self.flags & FLAG_INLINE != 0 {
            let rest = xattr::inline_rest(self)?;
            let mut bytes = [&self.map[..], &rest].concat();
            // A file that is longer than what it holds ends in zeros, but only up to the room that inodes have.
            let size = usize::try_from(self.size).unwrap_or(usize::MAX);
            if size > bytes.len() {
                return Fault::damaged(format!("inode {} holds less than its size says", self.number));
            }
            bytes.truncate(size);
            return Ok(Body::Inline(bytes));
        }
        Ok(Body::Mapped { map: self.map, has_extents: self.flags & FLAG_EXTENTS != 0, bytes: self.size })
    }

    /// An inline directory's two regions of entries; `None` for one in blocks.
    pub fn inline_regions(&self) -> Result<Option<[Vec<u8>; 2]>, Fault> {
        if self.flags & FLAG_INLINE == 0 {
            return Ok(None);
        }
        // The first four bytes are the parent's inode number.
        Ok(Some([self.map[4..].to_vec(), xattr::inline_rest(self)?]))
    }
}
