//! File systems read without mounting them: out of an image on the server, off a disk that is not in use in the agent.
//!
//! [`detect`] says what lies in a range of bytes. [`open`] reads it as a [`Tree`]: every path in the order of
//! [`crate::decide::drift::path::order`], with what `lstat`, `readlink` and `getxattr` would tell of a mounted copy.
//! Content is read when it is asked for; [`batch::Hashed`] asks for it in the order in which it lies on the disk.
//!
//! The bytes are outside text. Whatever they claim, memory, time and depth end at the bounds below, and an error says
//! at which path. In the agent a panic ends everything (but in `fat`), so the ext4 part indexes nothing unchecked.

use std::fmt;
use std::io::{self, Read, Seek};

use thiserror::Error;

use crate::decide::drift::finding::{Digest, Node};
use crate::decide::drift::path;

pub mod batch;
pub mod detect;
pub mod ext4;
pub mod fat;
pub mod layout;
pub mod lookup;
pub mod merged;
mod section;

pub use detect::{Detected, Format};
pub use section::Section;

/// Names of one directory and of all directories above it, held while it is walked: some two million. The installed agent's
/// walk of a mounted tree has the same bound.
pub const NAMES_BYTES_MAX: usize = 64 << 20;
/// Directories of one file system. Each is remembered, so that one that is reached twice is found.
pub const DIRECTORIES_MAX: usize = 5_000_000;
/// Zeros of one file that no block stands behind. A longer file of holes is listed without a digest: reading it takes
/// minutes on each side and tells nothing.
pub const HOLE_BYTES_MAX: u64 = 16 << 30;

/// What a walk came upon.
#[derive(Debug, Clone)]
pub struct Found {
    /// Absolute within the file system; `/` itself comes first.
    pub path: Vec<u8>,
    /// A file's digest is `None` as long as [`Tree::digest`] was not asked.
    pub node: Node,
    /// Two paths of one file have the same (hard links).
    pub inode: u64,
    pub links: u32,
    /// Roughly where its content lies, in bytes: for reading in the order of the disk.
    pub place_bytes: u64,
    content: Content,
}

/// How the reader that found it gets at its content, without looking it up again.
#[derive(Debug, Clone)]
enum Content {
    None,
    Ext4(ext4::Body),
    Fat,
}

/// A file system as a sorted walk. The walk goes once, from the root.
pub trait Tree {
    /// The next path; `None` after the last. After an error the walk is over.
    ///
    /// # Errors
    /// [`VolumeError`], with the path.
    fn next_found(&mut self) -> Result<Option<Found>, VolumeError>;

    /// Do not go into the directory that was just found.
    fn skip(&mut self);

    /// The blake3 digest of a file's content. `None` for what is no file, and for more than [`HOLE_BYTES_MAX`] of holes.
    ///
    /// # Errors
    /// [`VolumeError`], with the path.
    fn digest(&mut self, found: &Found) -> Result<Option<Digest>, VolumeError>;

    /// The first `bytes_max` bytes of a file's content.
    ///
    /// # Errors
    /// [`VolumeError`], with the path.
    fn read(&mut self, found: &Found, bytes_max: usize) -> Result<Vec<u8>, VolumeError>;

    /// Looks one path up, by its names as they are: no symlink is followed. `None` where there is nothing.
    ///
    /// # Errors
    /// [`VolumeError`], with the path.
    fn find(&mut self, path: &[u8]) -> Result<Option<Found>, VolumeError>;
}

/// Opens a file system that this program can read; `options` are those of FAT (others have none).
///
/// # Errors
/// [`VolumeError`]: a format that the server leaves to a kernel, or a damaged one.
pub fn open<'d, R: Read + Seek + 'd>(
    device: R,
    format: Format,
    options: fat::Options,
) -> Result<Box<dyn Tree + 'd>, VolumeError> {
    match format {
        Format::Ext2 | Format::Ext3 | Format::Ext4 => Ok(Box::new(ext4::Ext4::open(device)?)),
        Format::Vfat => Ok(Box::new(fat::Fat::open(device, options)?)),
        other => Err(Fault::Unsupported(format!("{} is not read without a kernel", other.word())).into()),
    }
}

/// The same for a walk that somebody else leads.
///
/// # Errors
/// As [`open`].
pub fn open_lookup<'d, R: Read + Seek + Clone + Send + 'd>(
    device: R,
    format: Format,
    options: fat::Options,
) -> Result<Box<dyn lookup::Lookup + 'd>, VolumeError> {
    match format {
        Format::Ext2 | Format::Ext3 | Format::Ext4 => Ok(Box::new(ext4::Ext4::open(device)?)),
        Format::Vfat => Ok(Box::new(fat::FatLookup::open(device, options)?)),
        other => Err(Fault::Unsupported(format!("{} is not read without a kernel", other.word())).into()),
    }
}

/// Why a file system, or one thing in it, cannot be read.
#[derive(Debug, Error)]
pub struct VolumeError {
    /// Absolute within the file system; `None`: the file system as a whole.
    pub path: Option<Vec<u8>>,
    #[source]
    pub fault: Fault,
}

#[derive(Debug, Error)]
pub enum Fault {
    #[error("the device or image cannot be read")]
    Io(#[from] io::Error),
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("it is beyond a bound: {0}")]
    TooMuch(String),
}

impl fmt::Display for VolumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "cannot read {} of the file system", path::to_text(&path[..path.len().min(400)])),
            None => f.write_str("cannot read the file system"),
        }
    }
}

impl From<Fault> for VolumeError {
    fn from(fault: Fault) -> VolumeError {
        VolumeError { path: None, fault }
    }
}

impl Fault {
    fn damaged<T>(what: impl Into<String>) -> Result<T, Fault> {
        Err(Fault::Damaged(what.into()))
    }

    fn at(self, path: &[u8]) -> VolumeError {
        VolumeError { path: Some(path.to_vec()), fault: self }
    }
}

/// Numbers out of bytes that may be too short.
mod number {
    use super::Fault;

    pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Fault> {
        let part = at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|part| part.try_into().ok());
        part.ok_or_else(|| Fault::Damaged(format!("a structure ends before its byte {at}")))
    }

    pub(super) fn le16(bytes: &[u8], at: usize) -> Result<u16, Fault> {
        array(bytes, at).map(u16::from_le_bytes)
    }

    pub(super) fn le32(bytes: &[u8], at: usize) -> Result<u32, Fault> {
        array(bytes, at).map(u32::from_le_bytes)
    }

    pub(super) fn be16(bytes: &[u8], at: usize) -> Result<u16, Fault> {
        array(bytes, at).map(u16::from_be_bytes)
    }

    pub(super) fn be32(bytes: &[u8], at: usize) -> Result<u32, Fault> {
        array(bytes, at).map(u32::from_be_bytes)
    }
}
