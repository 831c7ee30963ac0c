//! The names in a directory. Hashed directories are read as plain ones: their inner nodes look like unused entries.

use std::io::{Read, Seek};

use super::blocks::Blocks;
use super::inode::Inode;
use super::map::Part;
use crate::decide::drift::path;
use crate::volume::Fault;
use crate::volume::number::{le16, le32};

const HEADER_BYTES: usize = 8;

/// Names, sorted bytewise, each with its inode.
#[derive(Debug, Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    list: Vec<Name>,
}

#[derive(Debug, Clone, Copy)]
struct Name {
    start: u32,
    length: u8,
    inode: u32,
}

impl Names {
    pub fn get(&self, at: usize) -> Option<(&[u8], u32)> {
        let name = self.list.get(at)?;
        Some((self.text(name), name.inode))
    }

    pub fn find(&self, wanted: &[u8]) -> Option<u32> {
        let at = self.list.binary_search_by(|name| self.text(name).cmp(wanted)).ok()?;
        Some(self.list.get(at)?.inode)
    }

    pub fn held_bytes(&self) -> usize {
        self.bytes.len() + self.list.len() * size_of::<Name>()
    }

    fn text(&self, name: &Name) -> &[u8] {
        let start = name.start as usize;
        self.bytes.get(start..start + usize::from(name.length)).unwrap_or_default()
    }

    fn sort(&mut self) -> Result<(), Fault> {
        let mut list = std::mem::take(&mut self.list);
        list.sort_unstable_by(|a, b| self.text(a).cmp(self.text(b)));
        let twice = list.windows(2).find(|pair| matches!(pair, [a, b] if self.text(a) == self.text(b)));
        if let Some([name, ..]) = twice {
            return Fault::damaged(format!("the directory holds the name {} twice", path::to_text(self.text(name))));
        }
        self.list = list;
        Ok(())
    }

    /// The entries of one block, or of one region of an inline directory.
    fn add(&mut self, block: &[u8], bytes_max: usize) -> Result<(), Fault> {
        let mut at = 0;
        while at + HEADER_BYTES <= block.len() {
            let inode = le32(block, at)?;
            let stored = usize::from(le16(block, at + 4)?);
            // 64 KiB do not fit 16 bits.
            let length = if stored == 0xffff || (stored == 0 && block.len() == 1 << 16) { block.len() } else { stored };
            // The byte behind the name's length is its type, or 0 where entries have none: names have 255 bytes at most.
            let name_length = block.get(at + 6).copied().unwrap_or(0);
            let fits = length >= HEADER_BYTES + usize::from(name_length) && at + length <= block.len();
            if !fits || !length.is_multiple_of(4) {
                return Fault::damaged("an entry of the directory is longer than its block or shorter than its name");
            }
            if inode != 0 {
                let start = at + HEADER_BYTES;
                let name = block.get(start..start + usize::from(name_length)).unwrap_or_default();
                self.push(name, inode, bytes_max)?;
            }
            at += length;
        }
        Ok(())
    }

    fn push(&mut self, name: &[u8], inode: u32, bytes_max: usize) -> Result<(), Fault> {
        if name == b"." || name == b".." {
            return Ok(());
        }
        if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
            return Fault::damaged(format!(
                "the directory holds a name that no file can have: \"{}\"",
                path::to_text(name)
            ));
        }
        // Far below 2^32: the caller's bound is.
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(name);
        self.list.push(Name { start, length: name.len() as u8, inode });
        if self.held_bytes() > bytes_max {
            return Err(Fault::TooMuch(format!(
                "the directory and those above it hold more than {bytes_max} bytes of names"
            )));
        }
        Ok(())
    }
}

/// Reads a directory; its names take at most `bytes_max` of memory.
pub(super) fn read<R: Read + Seek>(blocks: &mut Blocks<R>, inode: &Inode, bytes_max: usize) -> Result<Names, Fault> {
    let mut names = Names::default();
    if let Some(regions) = inode.inline_regions()? {
        regions.iter().try_for_each(|region| names.add(region, bytes_max))?;
    } else {
        let block_bytes = blocks.block_bytes() as usize;
        let mut fault = None;
        blocks.each_part(&inode.body()?, &mut |part| {
            // Parts begin at a block and are whole blocks.
            if let Part::Bytes(bytes) = part {
                fault = bytes.chunks(block_bytes).try_for_each(|block| names.add(block, bytes_max)).err();
            }
            fault.is_none()
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
    }
    names.sort()?;
    Ok(names)
}
