//! A disk that is looked at. Nothing that has one can write to it: the descriptor is open for reading, there is no method
//! that writes, and in the deploy environment the kernel is told to let nobody else write either.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

/// Open for reading, and for nothing else.
#[derive(Debug, Clone)]
pub struct ReadOnlyDisk {
    file: Arc<File>,
    name: String,
    size_bytes: u64,
    is_block: bool,
}

impl ReadOnlyDisk {
    /// A block device, or a file that stands for one.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` for what is neither.
    pub fn open(path: &Path) -> io::Result<ReadOnlyDisk> {
        let mut options = OpenOptions::new();
        // A FIFO in the file's place must not hold us. The flags' bits are the kernel's own, an int in open(2).
        options.read(true).custom_flags((OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32);
        let mut file = options.open(path)?;
        let kind = file.metadata()?.file_type();
        let is_block = kind.is_block_device();
        if !is_block && !kind.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a block device nor a regular file"));
        }
        // The end of a block device is its size in bytes, as BLKGETSIZE64 gives it.
        let size_bytes = file.seek(SeekFrom::End(0))?;
        Ok(ReadOnlyDisk { file: Arc::new(file), name: path.display().to_string(), size_bytes, is_block })
    }

    /// Lets the kernel refuse every write to the whole disk and to its partitions, whoever asks, as long as it runs: a
    /// file system that it mounts "read-only" may otherwise replay its journal. For the deploy environment only.
    ///
    /// # Errors
    /// The kernel's; also where the disk can be written all the same afterwards.
    pub fn forbid_writes(&self) -> io::Result<()> {
        /// `_IO(0x12, 93)` and `_IO(0x12, 94)` in linux/fs.h.
        const BLKROSET: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 93);
        const BLKROGET: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 94);
        // SAFETY: ioctl(2). BLKROSET reads one int and BLKROGET writes one; both live until the call returns.
        let is_read_only = unsafe {
            rustix::ioctl::ioctl(&*self.file, rustix::ioctl::Setter::<BLKROSET, libc::c_int>::new(1))?;
            rustix::ioctl::ioctl(&*self.file, rustix::ioctl::Getter::<BLKROGET, libc::c_int>::new())?
        };
        if is_read_only == 0 {
            return Err(io::Error::other("the kernel does not make it read-only"));
        }
        Ok(())
    }

    /// Lets the kernel look for partitions again: those of a table that was just written past its page cache.
    ///
    /// # Errors
    /// The kernel's: one of them is in use, or this is nothing that has partitions.
    pub fn find_partitions(&self) -> io::Result<()> {
        /// `_IO(0x12, 95)` in linux/fs.h.
        const BLKRRPART: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 95);
        // SAFETY: ioctl(2). BLKRRPART takes no argument and returns nothing.
        unsafe { Ok(rustix::ioctl::ioctl(&*self.file, rustix::ioctl::NoArg::<BLKRRPART>::new())?) }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    #[must_use]
    pub fn is_block(&self) -> bool {
        self.is_block
    }

    /// Fills `out`.
    ///
    /// # Errors
    /// The kernel's, or `UnexpectedEof`.
    pub fn read(&self, offset_bytes: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset_bytes)
    }

    /// A reader with a place of its own.
    #[must_use]
    pub fn reader(&self) -> DiskReader {
        DiskReader { disk: self.clone(), position: 0 }
    }
}

/// Reads a disk from front to back, or where it is told to.
#[derive(Debug, Clone)]
pub struct DiskReader {
    disk: ReadOnlyDisk,
    position: u64,
}

impl Read for DiskReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.disk.file.read_at(out, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for DiskReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.disk.size_bytes.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    /// Rule 2, as the kernel sees it: with this descriptor nothing can be written, whatever the code does.
    #[test]
    fn what_is_open_to_be_looked_at_cannot_be_written_and_reads_where_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, b"0123456789").unwrap();
        let disk = ReadOnlyDisk::open(&path).unwrap();
        let refused = rustix::io::pwrite(&*disk.file, b"x", 0);
        assert_eq!(refused, Err(rustix::io::Errno::BADF), "descriptor {}", disk.file.as_raw_fd());
        let mut reader = disk.reader();
        reader.seek(SeekFrom::End(-4)).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), disk.size_bytes(), disk.is_block()), ("6789", 10, false));
        assert!(disk.read(8, &mut [0; 4]).is_err(), "no half an answer");
        assert!(ReadOnlyDisk::open(dir.path()).is_err());
    }
}
