//! A file of the store as it is served: mapped, so that a range is a slice of it and goes to the socket in one copy.
//!
//! Nobody who serves reads the mapping; the kernel does, when it copies a slice into the socket. So what is wrong with the
//! file below us (cut short, or a disk that does not read) is an error of that system call, and never the signal SIGBUS
//! that reading would raise. Who reads here does so by pread(2) (read_files.rs). Measured with a prototype on loopback (kernel 6.18, ext4): 0.14 s of processor time a GB from a
//! mapping whose pages are let go again, 0.21 by sendfile(2), whose pages go into the socket one by one.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Mmap, UncheckedAdvice};
use rustix::fs::{Advice, fadvise};

/// The smallest page there is, and the one that `mincore` speaks of on amd64; larger ones only make an answer repeat.
const PAGE_BYTES: usize = 4096;
/// Where reading is tried, to wait for what was asked of the disk: the kernel reads on in pieces of at least this size.
const LOOK_BYTES: u64 = 64 << 10;

/// A file that is never changed after it was renamed to its place.
#[derive(Debug, Clone)]
pub struct MappedFile {
    file: Arc<File>,
    map: Arc<Mmap>,
    etag: Arc<str>,
}

/// A piece on its way to the socket. When it is gone, so are its pages from our address space (not from memory): what
/// is mapped counts as ours, and 200 streams of large packs would be gigabytes.
struct Piece {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        // `MappedFile::inside` made it so.
        self.map.get(self.range.clone()).unwrap_or(&[])
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let length = self.range.end - self.range.start;
        // SAFETY: the range lies inside of the mapping (`MappedFile::inside`), which is a shared one of a file and nobody
        // writes to it: what is dropped are entries of a page table, which the next access makes again from the same file.
        let let_go = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, self.range.start, length) };
        if let Err(error) = let_go {
            tracing::debug!(%error, "pages of a pack stay mapped");
        }
    }
}

impl MappedFile {
    /// `etag` without its quotes.
    pub(super) fn new(file: File, etag: &str) -> io::Result<MappedFile> {
        // SAFETY: mmap(2) of a regular file. Packs and baselines are written once under a temporary name and neither
        // changed nor truncated by us afterwards, only unlinked or replaced by a rename, which a mapping survives.
        let map = Arc::new(unsafe { Mmap::map(&file) }?);
        Ok(MappedFile { file: Arc::new(file), map, etag: etag.into() })
    }

    #[must_use]
    pub fn length(&self) -> usize {
        self.map.len()
    }

    /// The name of exactly these bytes, without quotes.
    #[must_use]
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// A piece for the socket; a range that is not inside the file gives none of it.
    #[must_use]
    pub fn piece(&self, range: Range<usize>) -> Bytes {
        Bytes::from_owner(Piece { map: self.map.clone(), range: self.inside(range) })
    }

    /// The range, or an empty one where it is not inside of the mapping: what lies behind is other memory of ours.
    fn inside(&self, range: Range<usize>) -> Range<usize> {
        if range.start <= range.end && range.end <= self.map.len() { range } else { 0..0 }
    }

    /// Whether all of the range lies in memory, so that nobody waits for the disk. A question to the kernel, not a look.
    #[must_use]
    pub fn is_in_memory(&self, range: &Range<usize>) -> bool {
        // The kernel keeps pages of what was cut off for a while; `bring_in` then says what is wrong.
        let is_there = self.file.metadata().is_ok_and(|metadata| metadata.len() >= range.end as u64);
        if !is_there || range.start > range.end || range.end > self.length() {
            return false;
        }
        if range.is_empty() {
            return true;
        }
        let start = range.start / PAGE_BYTES * PAGE_BYTES;
        let length = range.end - start;
        // A byte of answer for each page.
        let mut resident = vec![0u8; length.div_ceil(PAGE_BYTES)];
        // SAFETY: mincore(2) of pages of a mapping that `self` keeps: it begins on a border of pages, `start` does, and
        // `length` ends inside. It writes a byte for each page of it into `resident`, which has so many.
        let asked = unsafe {
            libc::mincore(self.map.as_ptr().add(start).cast_mut().cast(), length, resident.as_mut_ptr().cast())
        };
        asked == 0 && resident.iter().all(|page| page & 1 == 1)
    }

    /// Waits until the range is in memory, and has the disk begin with what follows it up to `ahead`. Blocks.
    ///
    /// # Errors
    /// What the disk says; that the file is shorter than it was when it was mapped.
    pub fn bring_in(&self, range: Range<usize>, ahead: usize) -> io::Result<()> {
        let (start, end) = (range.start as u64, range.end as u64);
        for (from, to) in [(start, end), (end, ahead as u64)] {
            if let Some(length) = NonZeroU64::new(to.saturating_sub(from)) {
                // Where this is not heeded, the reads below do all of it.
                let _ = fadvise(&*self.file, from, Some(length), Advice::WillNeed);
            }
        }
        let is_cut = |at: u64| {
            let reason = format!("the file ends before byte {at}, and had {} bytes", self.length());
            io::Error::new(io::ErrorKind::UnexpectedEof, reason)
        };
        let mut byte = [0u8];
        let looks = (start..end).step_by(LOOK_BYTES as usize).chain(end.checked_sub(1));
        for at in looks {
            if self.file.read_at(&mut byte, at)? == 0 {
                return Err(is_cut(at));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn resident_bytes() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    #[test]
    fn pieces_are_the_files_bytes_and_leave_nothing_mapped_behind() {
        let content: Vec<u8> = (0..64u32 << 20).map(|at| (at / 4096) as u8).collect();
        let (_dir, path) = file(&content);
        let mapped = MappedFile::new(File::open(&path).unwrap(), "x").unwrap();
        mapped.bring_in(0..content.len(), 0).unwrap();
        assert!(mapped.is_in_memory(&(0..content.len())) && mapped.is_in_memory(&(4097..4099)));
        let before = resident_bytes();
        for at in (0..content.len()).step_by(256 << 10) {
            assert!(mapped.piece(at..at + (256 << 10)) == content[at..at + (256 << 10)]);
        }
        let kept = resident_bytes().saturating_sub(before);
        assert!(kept < 32 << 20, "{kept} bytes of 64 MiB are still mapped");
        assert_eq!(mapped.piece(5..7), content[5..7]);
        assert!(mapped.piece(0..content.len() + 1).is_empty() && !mapped.is_in_memory(&(0..content.len() + 1)));
        // Nor may it let go of what lies behind the file when it is dropped.
        assert_eq!(mapped.inside(4096..content.len() + 4096), 0..0);
        let backwards = Range { start: 7, end: 5 };
        assert_eq!((mapped.inside(backwards), mapped.inside(5..content.len())), (0..0, 5..content.len()));
        assert!(mapped.piece(4096..content.len() + 4096).is_empty());
    }

    /// Promise: a pack that somebody cuts short under us is an error, and not the end of the server.
    #[test]
    fn a_file_that_was_cut_short_is_said_to_be_so() {
        let (_dir, path) = file(&vec![1; 1 << 20]);
        let mapped = MappedFile::new(File::open(&path).unwrap(), "x").unwrap();
        File::options().write(true).open(&path).unwrap().set_len(10_000).unwrap();
        assert!(!mapped.is_in_memory(&(0..1 << 20)));
        let error = mapped.bring_in(0..1 << 20, 0).unwrap_err();
        assert!(error.to_string().contains("ends before byte"), "{error}");
        // The kernel reads for us, as it does for a socket, and says so instead of raising SIGBUS.
        use std::io::Write;
        let (_reader, mut writer) = std::io::pipe().unwrap();
        let error = writer.write(&mapped.piece(500_000..501_000)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn a_file_that_is_removed_or_replaced_stays_as_it_was_to_the_end() {
        let (dir, path) = file(b"the old one");
        let mapped = MappedFile::new(File::open(&path).unwrap(), "x").unwrap();
        std::fs::write(dir.path().join("new"), "a new one, longer").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(mapped.piece(0..11), b"the old one"[..]);
        std::fs::remove_file(&path).unwrap();
        mapped.bring_in(0..11, 0).unwrap();
        assert_eq!(mapped.piece(4..7), b"old"[..]);
    }
}
