//! ext2, ext3 and ext4, read-only.
//!
//! Our own, since what is to be had (ext4-view 1.0) tells neither extended attributes, nor inode numbers, nor the
//! numbers of devices, resolves each path from the root again, and reads a journal only with two of its features; with
//! inode table, directories and block maps read here for what is missing, nothing was left for it but the journal. The
//! format is that of the kernel's Documentation/filesystems/ext4 and fs/ext4, fs/jbd2.

use std::collections::HashSet;
use std::io::{Read, Seek};

use super::{Content, DIRECTORIES_MAX, Fault, Found, HOLE_BYTES_MAX, NAMES_BYTES_MAX, Tree, VolumeError};
use crate::decide::drift::finding::{Digest, Kind, Node};

mod acl;
mod blocks;
mod checksum;
mod directory;
mod inode;
mod journal;
mod lookup;
mod map;
mod superblock;
mod xattr;

use blocks::Blocks;
use directory::Names;
use inode::{Inode, Type};
pub use map::Body;
use map::Part;
use superblock::Superblock;

const ROOT_INODE: u32 = 2;
/// As long as a baseline takes.
const PATH_BYTES_MAX: usize = crate::wire::baseline::PATH_BYTES_MAX;
/// The longest target that a symlink can have, by the size of a block.
const TARGET_BYTES_MAX: u64 = 64 << 10;

/// One file system, and where its walk stands.
#[derive(Debug)]
pub struct Ext4<R> {
    blocks: Blocks<R>,
    superblock: Superblock,
    /// Directories on the way to what was found last.
    levels: Vec<Level>,
    path: Vec<u8>,
    names_bytes: usize,
    /// A directory that was found and is gone into next, unless it is skipped.
    pending: Option<Inode>,
    seen: HashSet<u32>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Walking,
    Over,
}

#[derive(Debug)]
struct Level {
    names: Names,
    next: usize,
    /// Of the directory's own path.
    path_bytes: usize,
}

impl<R: Read + Seek> Ext4<R> {
    /// # Errors
    /// No ext file system, features that this program does not know, a journal that cannot be applied.
    pub fn open(mut device: R) -> Result<Ext4<R>, VolumeError> {
        let superblock = Superblock::read(&mut device)?;
        let mut blocks = Blocks::new(device, &superblock);
        let superblock = journal::apply(&mut blocks, superblock)?;
        Ok(Ext4 {
            blocks,
            superblock,
            levels: Vec::new(),
            path: b"/".to_vec(),
            names_bytes: 0,
            pending: None,
            seen: HashSet::new(),
            state: State::Fresh,
        })
    }

    fn step(&mut self) -> Result<Option<Found>, Fault> {
        match self.state {
            State::Over => return Ok(None),
            State::Fresh => {
                self.state = State::Walking;
                return self.look(ROOT_INODE).map(Some);
            }
            State::Walking => {}
        }
        if let Some(directory) = self.pending.take() {
            self.enter(&directory)?;
        }
        loop {
            let Some(level) = self.levels.last_mut() else {
                self.state = State::Over;
                return Ok(None);
            };
            self.path.truncate(level.path_bytes);
            if let Some((name, inode)) = level.names.get(level.next) {
                level.next += 1;
                if self.path.len() > 1 {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(name);
                if self.path.len() > PATH_BYTES_MAX {
                    return Err(Fault::TooMuch(format!("a path of more than {PATH_BYTES_MAX} bytes")));
                }
                return self.look(inode).map(Some);
            }
            self.names_bytes -= level.names.held_bytes();
            self.levels.pop();
        }
    }

    fn enter(&mut self, directory: &Inode) -> Result<(), Fault> {
        let limit = NAMES_BYTES_MAX.saturating_sub(self.names_bytes);
        let names = directory::read(&mut self.blocks, directory, limit)?;
        self.names_bytes += names.held_bytes();
        self.levels.push(Level { names, next: 0, path_bytes: self.path.len() });
        Ok(())
    }

    /// What stands at `self.path`.
    fn look(&mut self, number: u32) -> Result<Found, Fault> {
        let inode = Inode::read(&mut self.blocks, &self.superblock, number)?;
        let found = self.describe(&inode, self.path.clone())?;
        if inode.file_type()? == Type::Directory {
            // One that is reached twice is a loop, or a tree that doubles at every level.
            if !self.seen.insert(number) {
                return Fault::damaged(format!("directory inode {number} has a second path"));
            }
            if self.seen.len() > DIRECTORIES_MAX {
                return Err(Fault::TooMuch(format!("more than {DIRECTORIES_MAX} directories")));
            }
            self.pending = Some(inode);
        } else if number == ROOT_INODE {
            return Fault::damaged("its root is no directory");
        }
        Ok(found)
    }

    fn describe(&mut self, inode: &Inode, path: Vec<u8>) -> Result<Found, Fault> {
        let kind = match inode.file_type()? {
            Type::File => Kind::File { bytes: inode.size, digest: None },
            Type::Directory => Kind::Directory,
            Type::Symlink => Kind::Symlink { target: self.target(inode)? },
            Type::Fifo => Kind::Fifo,
            Type::Socket => Kind::Socket,
            Type::CharDevice => {
                let (major, minor) = inode.device();
                Kind::CharDevice { major, minor }
            }
            Type::BlockDevice => {
                let (major, minor) = inode.device();
                Kind::BlockDevice { major, minor }
            }
        };
        let content = match kind {
            Kind::File { .. } => Content::Ext4(inode.body()?),
            _ => Content::None,
        };
        let place_bytes = match &content {
            Content::Ext4(body) => body.first_block().saturating_mul(self.blocks.block_bytes()),
            _ => 0,
        };
        let xattrs = xattr::read(&mut self.blocks, &self.superblock, inode)?;
        let node =
            Node { kind, mode: inode.mode & 0o7777, uid: inode.uid, gid: inode.gid, modified: inode.modified, xattrs };
        Ok(Found { path, node, inode: u64::from(inode.number), links: u32::from(inode.links), place_bytes, content })
    }

    fn target(&mut self, inode: &Inode) -> Result<Vec<u8>, Fault> {
        let target = match inode.fast_target() {
            Some(target) => target,
            None if inode.size > TARGET_BYTES_MAX => return Fault::damaged("a symlink longer than any block"),
            None => self.blocks.content(&inode.body()?, TARGET_BYTES_MAX as usize)?,
        };
        // As the kernel: it ends at a NUL.
        let target: Vec<u8> = target.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        if target.is_empty() {
            return Fault::damaged("a symlink without a target");
        }
        Ok(target)
    }

    fn hash(&mut self, body: &Body) -> Result<Option<Digest>, Fault> {
        let mut hasher = blake3::Hasher::new();
        let mut holes = 0u64;
        let zeros = [0; 16 << 10];
        let ended = self.blocks.each_part(body, &mut |part| {
            match part {
                Part::Bytes(bytes) => {
                    hasher.update(bytes);
                }
                Part::Zeros(count) => {
                    holes = holes.saturating_add(count);
                    if holes > HOLE_BYTES_MAX {
                        return false;
                    }
                    let mut left = count;
                    while left > 0 {
                        let now = left.min(zeros.len() as u64);
                        hasher.update(&zeros[..now as usize]);
                        left -= now;
                    }
                }
            }
            true
        })?;
        Ok(ended.then(|| *hasher.finalize().as_bytes()))
    }

    fn seek_path(&mut self, path: &[u8]) -> Result<Option<Found>, Fault> {
        let mut inode = Inode::read(&mut self.blocks, &self.superblock, ROOT_INODE)?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            if inode.file_type()? != Type::Directory {
                return Ok(None);
            }
            let names = directory::read(&mut self.blocks, &inode, NAMES_BYTES_MAX)?;
            let Some(number) = names.find(name) else {
                return Ok(None);
            };
            inode = Inode::read(&mut self.blocks, &self.superblock, number)?;
        }
        self.describe(&inode, path.to_vec()).map(Some)
    }
}

impl<R: Read + Seek> Tree for Ext4<R> {
    fn next_found(&mut self) -> Result<Option<Found>, VolumeError> {
        self.step().map_err(|fault| {
            self.state = State::Over;
            fault.at(&self.path)
        })
    }

    fn skip(&mut self) {
        self.pending = None;
    }

    fn digest(&mut self, found: &Found) -> Result<Option<Digest>, VolumeError> {
        match &found.content {
            Content::Ext4(body) => self.hash(body).map_err(|fault| fault.at(&found.path)),
            _ => Ok(None),
        }
    }

    fn read(&mut self, found: &Found, bytes_max: usize) -> Result<Vec<u8>, VolumeError> {
        match &found.content {
            Content::Ext4(body) => self.blocks.content(body, bytes_max).map_err(|fault| fault.at(&found.path)),
            _ => Ok(Vec::new()),
        }
    }

    fn find(&mut self, path: &[u8]) -> Result<Option<Found>, VolumeError> {
        self.seek_path(path).map_err(|fault| fault.at(path))
    }
}

impl Found {
    /// What it holds beside its names, for bounds on memory.
    pub(crate) fn content_bytes(&self) -> usize {
        match &self.content {
            Content::Ext4(body) => body.held_bytes(),
            _ => 0,
        }
    }
}
