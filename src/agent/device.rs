//! A disk, or a file that stands for one, past the page cache.
//!
//! Everything goes through O_DIRECT: what is read was on the device, not in memory, and a write that fails says
//! so itself, at its offset, instead of at some later fsync. File systems without O_DIRECT (older tmpfs) get
//! ordinary reads after POSIX_FADV_DONTNEED; [`Device::is_direct`] says so, and the outcome reports it.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags, OFlags};
use thiserror::Error;

use super::aligned::AlignedBuffer;
use super::holders;

/// What can be read and written like a disk. Offsets and lengths are multiples of the sector, buffers come from
/// the agent's aligned memory. A trait so that tests can let a disk fail.
pub trait Device: Sync {
    /// For people, `/dev/vda`.
    fn name(&self) -> &str;
    fn size_bytes(&self) -> u64;
    /// `None` for a file, which has no sectors of its own.
    fn sector_bytes(&self) -> Option<u32>;
    /// False where reads may come from the page cache.
    fn is_direct(&self) -> bool;
    /// Fills `out` from the device.
    ///
    /// # Errors
    /// The kernel's, or `UnexpectedEof`.
    fn read(&self, offset_bytes: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes some of `bytes` and says how many.
    ///
    /// # Errors
    /// The kernel's.
    fn write(&self, offset_bytes: u64, bytes: &[u8]) -> io::Result<usize>;
    /// Makes a range read as zeros.
    ///
    /// # Errors
    /// The kernel's.
    fn zero(&self, range: Range<u64>) -> io::Result<()>;
    /// On return, everything written is on stable storage.
    ///
    /// # Errors
    /// The kernel's.
    fn sync(&self) -> io::Result<()>;
}

/// Why a target cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("cannot open {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is in use: {holders}")]
    Busy { path: PathBuf, holders: String },
    #[error("{path} is neither a block device nor a regular file")]
    Kind { path: PathBuf },
}

/// What the target is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Alone: a disk that is mounted, swapped to or part of a RAID or LVM is refused.
    Write,
    /// Beside whoever uses it.
    Read,
}

/// A block device or a regular file.
#[derive(Debug)]
pub struct DirectDevice {
    file: File,
    name: String,
    size_bytes: u64,
    /// `None` for a file.
    sector_bytes: Option<u32>,
    direct: bool,
}

impl DirectDevice {
    /// Size and sector size are those of the opened descriptor, which stays the same disk even when the name
    /// comes to mean another one.
    ///
    /// # Errors
    /// [`OpenError`]; a busy disk is told with what keeps it.
    pub fn open(path: &Path, access: Access) -> Result<DirectDevice, OpenError> {
        let failed = |source| OpenError::Io { path: path.to_owned(), source };
        let kind = path.metadata().map_err(failed)?;
        let is_block = kind.file_type().is_block_device();
        if !is_block && !kind.is_file() {
            return Err(OpenError::Kind { path: path.to_owned() });
        }
        // O_EXCL on a block device without O_CREAT: the kernel refuses while anyone else holds it.
        let exclusive = if is_block && access == Access::Write { OFlags::EXCL } else { OFlags::empty() };
        let open = |flags: OFlags| {
            let mut options = OpenOptions::new();
            options.read(true).write(access == Access::Write);
            // The flags' bits are the kernel's own, which are an int in open(2).
            options.custom_flags((flags | exclusive).bits() as i32).open(path)
        };
        let file = match open(OFlags::DIRECT) {
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => open(OFlags::empty()),
            opened => opened,
        };
        let file = file.map_err(|e| match e.kind() {
            io::ErrorKind::ResourceBusy => OpenError::Busy { path: path.to_owned(), holders: holders::of(kind.rdev()) },
            _ => failed(e),
        })?;
        DirectDevice::new(file, path, open).map_err(failed)
    }

    fn new(mut file: File, path: &Path, open: impl Fn(OFlags) -> io::Result<File>) -> io::Result<DirectDevice> {
        let is_block = file.metadata()?.file_type().is_block_device();
        let sector_bytes = if is_block { Some(rustix::fs::ioctl_blksszget(&file)?) } else { None };
        let mut direct = rustix::fs::fcntl_getfl(&file)?.contains(OFlags::DIRECT);
        if direct && !accepts_sectors(&file, sector_bytes.unwrap_or(512)) {
            drop(file);
            file = open(OFlags::empty())?;
            direct = false;
        }
        // The end of a block device is its size in bytes, as BLKGETSIZE64 gives it.
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
        Ok(DirectDevice {
            file,
            name: path.display().to_string(),
            size_bytes: end - end % u64::from(sector_bytes.unwrap_or(512)),
            sector_bytes,
            direct,
        })
    }
}

/// A file system on 4 KiB sectors takes no direct reads of 512 bytes, and images have sizes in 512.
fn accepts_sectors(file: &File, sector_bytes: u32) -> bool {
    let mut sector = AlignedBuffer::new(sector_bytes as usize);
    file.read_at(&mut sector, u64::from(sector_bytes)).is_ok()
}

impl Device for DirectDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn sector_bytes(&self) -> Option<u32> {
        self.sector_bytes
    }

    fn is_direct(&self) -> bool {
        self.direct
    }

    fn read(&self, offset_bytes: u64, out: &mut [u8]) -> io::Result<()> {
        if !self.direct {
            let len = std::num::NonZeroU64::new(out.len() as u64);
            rustix::fs::fadvise(&self.file, offset_bytes, len, Advice::DontNeed)?;
        }
        self.file.read_exact_at(out, offset_bytes)
    }

    fn write(&self, offset_bytes: u64, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, offset_bytes)
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        let len_bytes = range.end - range.start;
        if self.sector_bytes.is_some() {
            return zero_out(&self.file, range.start, len_bytes);
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, mode, range.start, len_bytes) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.write_zeros(range),
            result => Ok(result?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        // fsync of a block device also empties the disk's own write cache.
        self.file.sync_all()
    }
}

impl DirectDevice {
    fn write_zeros(&self, range: Range<u64>) -> io::Result<()> {
        let zeros = AlignedBuffer::new(1 << 20);
        let mut at = range.start;
        while at < range.end {
            let count = zeros.len().min((range.end - at) as usize);
            at += self.file.write_at(&zeros[..count], at)? as u64;
        }
        Ok(())
    }
}

/// BLKZEROOUT: the device zeroes by itself where it can (NVMe, virtio, SCSI), else the kernel writes zeros. Unlike
/// a discard it promises that zeros are read afterwards.
fn zero_out(file: &File, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
    /// `_IO(0x12, 127)` in linux/fs.h.
    const BLKZEROOUT: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 127);
    // SAFETY: ioctl(2). BLKZEROOUT reads two u64, start and length in bytes, which live until the call returns,
    // and the kernel checks them against the size of the device.
    unsafe {
        let range = rustix::ioctl::Setter::<BLKZEROOUT, [u64; 2]>::new([offset_bytes, len_bytes]);
        rustix::ioctl::ioctl(file, range)?;
    }
    Ok(())
}
