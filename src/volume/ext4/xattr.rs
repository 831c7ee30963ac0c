//! Extended attributes: in the inode behind its fields, in a block of their own, and large ones in an inode of their own.
//! Given as `llistxattr` and `getxattr` of root give them.

use std::io::{Read, Seek};

use super::acl;
use super::blocks::Blocks;
use super::inode::{Inode, OLD_BYTES};
use super::superblock::Superblock;
use crate::volume::Fault;
use crate::volume::number::{le16, le32};

const MAGIC: u32 = 0xea02_0000;
const ENTRY_BYTES: usize = 16;
/// In front of the entries of a block.
const BLOCK_HEADER_BYTES: usize = 32;
/// All attributes of one file, as a baseline takes them.
const ALL_BYTES_MAX: usize = 224 << 10;

/// Names and values.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Those of one file, so far.
#[derive(Debug, Default)]
struct Collected {
    all: Xattrs,
    bytes: usize,
}

impl Collected {
    fn add(&mut self, name: Vec<u8>, value: Vec<u8>) -> Result<(), Fault> {
        self.bytes += name.len() + value.len();
        if self.bytes > ALL_BYTES_MAX {
            return Err(Fault::TooMuch(format!("more than {ALL_BYTES_MAX} bytes of extended attributes")));
        }
        self.all.push((name, value));
        Ok(())
    }
}

/// One attribute as stored.
struct Entry<'a> {
    index: u8,
    name: &'a [u8],
    value_start: usize,
    value_inode: u32,
    value_bytes: usize,
}

/// By name.
pub(super) fn read<R: Read + Seek>(
    blocks: &mut Blocks<R>,
    superblock: &Superblock,
    inode: &Inode,
) -> Result<Xattrs, Fault> {
    let mut all = Collected::default();
    if let Some(area) = inside(inode)? {
        collect(blocks, superblock, area, area, &mut all)?;
    }
    if inode.xattr_block != 0 {
        let block = blocks.block(inode.xattr_block)?;
        blocks.charge(1024)?;
        if le32(&block, 0)? != MAGIC {
            return Fault::damaged("its block of extended attributes is none");
        }
        let entries = block.get(BLOCK_HEADER_BYTES..).unwrap_or_default();
        collect(blocks, superblock, entries, &block, &mut all)?;
    }
    all.all.sort_unstable();
    Ok(all.all)
}

/// What of an inline file does not fit into the block map's place: the value of `system.data`, which nobody is shown.
pub(super) fn inline_rest(inode: &Inode) -> Result<Vec<u8>, Fault> {
    let Some(area) = inside(inode)? else {
        return Ok(Vec::new());
    };
    for entry in entries(area)? {
        if entry.index == 7 && entry.name == b"data" {
            let end = entry.value_start.checked_add(entry.value_bytes);
            let value = end.and_then(|end| area.get(entry.value_start..end));
            return value
                .map(<[u8]>::to_vec)
                .ok_or_else(|| Fault::Damaged("its content lies outside of the inode".into()));
        }
    }
    Ok(Vec::new())
}

/// The attributes in the inode, from the first entry on; values are counted from there too.
fn inside(inode: &Inode) -> Result<Option<&[u8]>, Fault> {
    if inode.raw.len() <= OLD_BYTES {
        return Ok(None);
    }
    let start = OLD_BYTES + usize::from(le16(&inode.raw, OLD_BYTES)?);
    match inode.raw.get(start..) {
        Some(area) if area.len() >= 8 && le32(area, 0)? == MAGIC => Ok(area.get(4..)),
        _ => Ok(None),
    }
}

fn entries(area: &[u8]) -> Result<Vec<Entry<'_>>, Fault> {
    let mut list = Vec::new();
    let mut at = 0;
    // Four zeros end the list; so does the area's end, as in an inode that is full.
    while at + 4 <= area.len() && le32(area, at)? != 0 {
        let length = usize::from(area.get(at).copied().unwrap_or(0));
        let name = area.get(at + ENTRY_BYTES..at + ENTRY_BYTES + length);
        let name = name.ok_or_else(|| Fault::Damaged("an extended attribute is longer than its place".to_owned()))?;
        list.push(Entry {
            index: area.get(at + 1).copied().unwrap_or(0),
            name,
            value_start: usize::from(le16(area, at + 2)?),
            value_inode: le32(area, at + 4)?,
            value_bytes: le32(area, at + 8)? as usize,
        });
        at += (ENTRY_BYTES + length).next_multiple_of(4);
    }
    Ok(list)
}

fn collect<R: Read + Seek>(
    blocks: &mut Blocks<R>,
    superblock: &Superblock,
    area: &[u8],
    values: &[u8],
    all: &mut Collected,
) -> Result<(), Fault> {
    for entry in entries(area)? {
        let Some(name) = full_name(&entry) else { continue };
        if entry.value_bytes > ALL_BYTES_MAX {
            return Err(Fault::TooMuch(format!("an extended attribute of {} bytes", entry.value_bytes)));
        }
        let value = if entry.value_inode == 0 {
            let value = values.get(entry.value_start..entry.value_start + entry.value_bytes);
            value
                .map(<[u8]>::to_vec)
                .ok_or_else(|| Fault::Damaged("an extended attribute lies outside of its place".into()))?
        } else {
            let holder = Inode::read(blocks, superblock, entry.value_inode)?;
            blocks.content(&holder.body()?, entry.value_bytes)?
        };
        let value = match (entry.index, &name[..]) {
            (2 | 3, _) => acl::as_getxattr(&value)?,
            (_, b"security.capability") => capability(value),
            _ => value,
        };
        all.add(name, value)?;
    }
    Ok(())
}

/// fs/ext4/xattr.c, ext4_xattr_handler_map. `system.` itself (7) is not for anybody to see.
fn full_name(entry: &Entry<'_>) -> Option<Vec<u8>> {
    let name = match entry.index {
        1 => [b"user.", entry.name].concat(),
        2 => b"system.posix_acl_access".to_vec(),
        3 => b"system.posix_acl_default".to_vec(),
        4 => [b"trusted.", entry.name].concat(),
        6 => [b"security.", entry.name].concat(),
        _ => return None,
    };
    Some(name)
}

/// Capabilities that name user 0 of the first user namespace as their root (revision 3) are given in revision 2, which
/// says the same (security/commoncap.c, cap_inode_getsecurity()).
fn capability(value: Vec<u8>) -> Vec<u8> {
    let is_of_root = value.len() == 24 && value[3] == 3 && value[20..] == [0; 4];
    if !is_of_root {
        return value;
    }
    // VFS_CAP_REVISION_MASK is the highest byte; of the rest only the flag "effective" is kept.
    let mut shorter = vec![value[0] & 1, 0, 0, 2];
    shorter.extend_from_slice(&value[4..20]);
    shorter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bad input: an inode whose thousand attributes are each the same large inode.
    #[test]
    fn attributes_are_too_much_as_soon_as_they_are() {
        let mut all = Collected::default();
        all.add(b"user.a".to_vec(), vec![0; ALL_BYTES_MAX - 12]).unwrap();
        all.add(b"user.b".to_vec(), Vec::new()).unwrap();
        assert!(matches!(all.add(b"user.c".to_vec(), vec![0]), Err(Fault::TooMuch(_))));
        assert_eq!(all.all.len(), 2, "it is not kept");
    }
}
