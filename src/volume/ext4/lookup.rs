//! ext by its directories.

use std::io::{Read, Seek};

use super::inode::Inode;
use super::{Content, Ext4, ROOT_INODE, Type, directory};
use crate::volume::lookup::{Layout, Lookup, Names};
use crate::volume::{DIRECTORIES_MAX, Fault, Found, VolumeError};

impl<R: Read + Seek> Ext4<R> {
    fn number(&mut self, number: u64, path: &[u8]) -> Result<Found, Fault> {
        let number = u32::try_from(number).map_err(|_| Fault::Damaged(format!("inode {number} cannot be")))?;
        let inode = Inode::read(&mut self.blocks, &self.superblock, number)?;
        self.describe(&inode, path.to_vec())
    }

    fn list(&mut self, found: &Found, bytes_max: usize) -> Result<Names, Fault> {
        let number = u32::try_from(found.inode).map_err(|_| Fault::Damaged("its inode cannot be".to_owned()))?;
        if !self.seen.insert(number) {
            return Fault::damaged(format!("directory inode {number} has a second path"));
        }
        if self.seen.len() > DIRECTORIES_MAX {
            return Err(Fault::TooMuch(format!("more than {DIRECTORIES_MAX} directories")));
        }
        let inode = Inode::read(&mut self.blocks, &self.superblock, number)?;
        if inode.file_type()? != Type::Directory {
            return Fault::damaged("it is no directory");
        }
        let names = directory::read(&mut self.blocks, &inode, bytes_max)?;
        Ok((0..).map_while(|at| names.get(at)).map(|(name, inode)| (name.to_vec(), u64::from(inode))).collect())
    }
}

impl<R: Read + Seek + Send> Lookup for Ext4<R> {
    fn root(&mut self) -> Result<Found, VolumeError> {
        self.number(u64::from(ROOT_INODE), b"/").map_err(|fault| fault.at(b"/"))
    }

    fn names(&mut self, directory: &Found, bytes_max: usize) -> Result<Names, VolumeError> {
        self.list(directory, bytes_max).map_err(|fault| fault.at(&directory.path))
    }

    fn at(&mut self, number: u64, path: &[u8]) -> Result<Found, VolumeError> {
        self.number(number, path).map_err(|fault| fault.at(path))
    }

    fn find(&mut self, path: &[u8]) -> Result<Option<Found>, VolumeError> {
        self.seek_path(path).map_err(|fault| fault.at(path))
    }

    fn layout(&mut self, found: &Found) -> Result<Layout, VolumeError> {
        match &found.content {
            Content::Ext4(body) => self.blocks.layout(body).map_err(|fault| fault.at(&found.path)),
            _ => Ok(Layout::default()),
        }
    }

    fn read_at(
        &mut self,
        found: &Found,
        layout: &Layout,
        offset_bytes: u64,
        out: &mut [u8],
    ) -> Result<usize, VolumeError> {
        let Content::Ext4(body) = &found.content else { return Ok(0) };
        self.blocks.content_at(body, layout, offset_bytes, out).map_err(|fault| fault.at(&found.path))
    }
}
