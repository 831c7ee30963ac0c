//! The superblock: which file system it is, and whether this program knows all that it needs to.

use std::io::{Read, Seek, SeekFrom};

use super::blocks::Blocks;
use super::checksum::crc32c;
use crate::volume::Fault;
use crate::volume::number::{array, le16, le32};

const OFFSET_BYTES: u64 = 1024;
const MAGIC: u16 = 0xef53;

const COMPAT_JOURNAL: u32 = 0x4;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_CSUM_SEED: u32 = 0x2000;
const INCOMPAT_ENCRYPT: u32 = 0x1_0000;
/// FILETYPE, RECOVER, META_BG, EXTENTS, 64BIT, MMP, FLEX_BG, EA_INODE, CSUM_SEED, LARGEDIR, INLINE_DATA, CASEFOLD.
const INCOMPAT_KNOWN: u32 =
    0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x2_0000;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;

#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub block_bytes: u32,
    pub blocks: u64,
    pub inodes: u32,
    pub inode_bytes: u16,
    /// Of the journal's; 0: none inside.
    pub journal_inode: u32,
    pub needs_recovery: bool,
    /// Where each checksum of metadata begins; `None`: it has none.
    pub checksum_seed: Option<u32>,
    first_data_block: u32,
    blocks_per_group: u32,
    inodes_per_group: u32,
    descriptor_bytes: u16,
    is_64bit: bool,
    first_meta_group: Option<u32>,
    compat: u32,
    ro_compat: u32,
    backup_groups: [u32; 2],
}

impl Superblock {
    /// One that has nothing but a size.
    #[cfg(test)]
    pub fn of_size(blocks: u64, block_bytes: u32) -> Superblock {
        Superblock {
            block_bytes,
            blocks,
            inodes: 16,
            inode_bytes: 256,
            journal_inode: 0,
            needs_recovery: false,
            checksum_seed: None,
            first_data_block: 0,
            blocks_per_group: 32768,
            inodes_per_group: 16,
            descriptor_bytes: 32,
            is_64bit: false,
            first_meta_group: None,
            compat: 0,
            ro_compat: 0,
            backup_groups: [0; 2],
        }
    }

    pub fn read(device: &mut (impl Read + Seek)) -> Result<Superblock, Fault> {
        let mut bytes = [0; 1024];
        device.seek(SeekFrom::Start(OFFSET_BYTES))?;
        device.read_exact(&mut bytes)?;
        Superblock::parse(&bytes)
    }

    /// Again, once the journal stands over the device.
    pub fn read_again<R: Read + Seek>(&self, blocks: &mut Blocks<R>) -> Result<Superblock, Fault> {
        let block_bytes = u64::from(self.block_bytes);
        let block = blocks.block(OFFSET_BYTES / block_bytes)?;
        let bytes: [u8; 1024] = array(&block, (OFFSET_BYTES % block_bytes) as usize)?;
        let again = Superblock::parse(&bytes)?;
        if again.block_bytes != self.block_bytes || again.blocks > self.blocks.saturating_mul(2) {
            return Fault::damaged("its journal replaces the superblock by that of another file system");
        }
        Ok(again)
    }

    fn parse(bytes: &[u8; 1024]) -> Result<Superblock, Fault> {
        if le16(bytes, 0x38)? != MAGIC {
            return Err(Fault::Unsupported("it is no ext2, ext3 or ext4 file system".to_owned()));
        }
        let (compat, incompat, ro_compat) = (le32(bytes, 0x5c)?, le32(bytes, 0x60)?, le32(bytes, 0x64)?);
        check_features(incompat)?;
        let log_block_bytes = le32(bytes, 0x18)?;
        if log_block_bytes > 6 {
            return Fault::damaged("blocks of more than 64 KiB");
        }
        let block_bytes = 1024u32 << log_block_bytes;
        let is_64bit = incompat & INCOMPAT_64BIT != 0;
        let blocks_high = if is_64bit { le32(bytes, 0x150)? } else { 0 };
        let uuid: [u8; 16] = array(bytes, 0x68)?;
        let seed = if incompat & INCOMPAT_CSUM_SEED != 0 { le32(bytes, 0x270)? } else { crc32c(!0, &[&uuid]) };
        let is_old = le32(bytes, 0x4c)? == 0;
        let superblock = Superblock {
            block_bytes,
            blocks: u64::from(blocks_high) << 32 | u64::from(le32(bytes, 4)?),
            inodes: le32(bytes, 0)?,
            inode_bytes: if is_old { 128 } else { le16(bytes, 0x58)? },
            journal_inode: if compat & COMPAT_JOURNAL != 0 { le32(bytes, 0xe0)? } else { 0 },
            needs_recovery: incompat & INCOMPAT_RECOVER != 0,
            checksum_seed: (ro_compat & RO_COMPAT_METADATA_CSUM != 0).then_some(seed),
            first_data_block: le32(bytes, 0x14)?,
            blocks_per_group: le32(bytes, 0x20)?,
            inodes_per_group: le32(bytes, 0x28)?,
            descriptor_bytes: if is_64bit { le16(bytes, 0xfe)? } else { 32 },
            is_64bit,
            first_meta_group: if incompat & INCOMPAT_META_BG != 0 { Some(le32(bytes, 0x104)?) } else { None },
            compat,
            ro_compat,
            backup_groups: [le32(bytes, 0x24c)?, le32(bytes, 0x250)?],
        };
        superblock.check()
    }

    fn check(self) -> Result<Superblock, Fault> {
        let inode = u32::from(self.inode_bytes);
        let descriptor = u32::from(self.descriptor_bytes);
        let has_sense = inode.is_power_of_two()
            && (128..=self.block_bytes).contains(&inode)
            && descriptor.is_power_of_two()
            && (32..=self.block_bytes.min(1024)).contains(&descriptor)
            && (!self.is_64bit || descriptor >= 64)
            && self.blocks_per_group > 0
            && self.inodes_per_group > 0
            && u64::from(self.first_data_block) < self.blocks
            // Keeps offsets in bytes far from 2^64.
            && self.blocks < 1 << 46;
        if has_sense { Ok(self) } else { Fault::damaged("the numbers in its superblock contradict each other") }
    }

    /// Where an inode lies: byte offset in the file system.
    pub fn inode_offset<R: Read + Seek>(&self, blocks: &mut Blocks<R>, number: u32) -> Result<u64, Fault> {
        if number == 0 || number > self.inodes {
            return Fault::damaged(format!("inode {number} of {}", self.inodes));
        }
        let group = (number - 1) / self.inodes_per_group;
        let index = (number - 1) % self.inodes_per_group;
        let per_block = self.block_bytes / u32::from(self.descriptor_bytes);
        let block = blocks.block(self.descriptor_block(group / per_block, per_block))?;
        let at = (group % per_block) as usize * usize::from(self.descriptor_bytes);
        let low = le32(&block, at + 8)?;
        let high = if self.is_64bit { le32(&block, at + 0x28)? } else { 0 };
        let table = u64::from(high) << 32 | u64::from(low);
        if table >= self.blocks {
            return Fault::damaged(format!("the inode table of group {group} lies outside"));
        }
        // `table` < 2^46 blocks of at most 2^16 bytes: below 2^62; an index times an inode's length is below 2^48.
        Ok(table * u64::from(self.block_bytes) + u64::from(index) * u64::from(self.inode_bytes))
    }

    /// The `number`th block of group descriptors.
    fn descriptor_block(&self, number: u32, per_block: u32) -> u64 {
        // Behind the superblock, which stands in block 1 of 1 KiB, else in block 0.
        let plain = u64::from(self.block_bytes == 1024) + u64::from(number) + 1;
        match self.first_meta_group {
            Some(first) if number >= first => {
                let group = number.saturating_mul(per_block);
                let start = u64::from(self.first_data_block) + u64::from(group) * u64::from(self.blocks_per_group);
                // fs/ext4/super.c, descriptor_loc(): block 0 holds the boot sector, the superblock stands in block 1.
                let is_shifted = self.block_bytes == 1024 && number == 0 && self.first_data_block == 0;
                start + u64::from(self.has_superblock(group)) + u64::from(is_shifted)
            }
            _ => plain,
        }
    }

    fn has_superblock(&self, group: u32) -> bool {
        if group == 0 {
            return true;
        }
        if self.compat & COMPAT_SPARSE_SUPER2 != 0 {
            return self.backup_groups.contains(&group);
        }
        if group <= 1 || self.ro_compat & RO_COMPAT_SPARSE_SUPER == 0 {
            return true;
        }
        let is_power_of = |base: u32| {
            let mut rest = group;
            while rest.is_multiple_of(base) {
                rest /= base;
            }
            rest == 1
        };
        group % 2 == 1 && [3, 5, 7].into_iter().any(is_power_of)
    }
}

fn check_features(incompat: u32) -> Result<(), Fault> {
    if incompat & INCOMPAT_ENCRYPT != 0 {
        return Err(Fault::Unsupported("it has encrypted files, which only the running system can read".to_owned()));
    }
    let unknown = incompat & !INCOMPAT_KNOWN;
    if unknown != 0 {
        return Err(Fault::Unsupported(format!("it has features that this program does not know ({unknown:#x})")));
    }
    Ok(())
}
