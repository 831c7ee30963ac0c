//! A file of the store as it is served: open, and mapped so that a range of it has addresses, which stand for it until the
//! kernel sends that range from the page cache (`http::outgoing`).
//!
//! Nobody looks at the mapping, and whoever reads does so by pread(2) (read_files.rs): what is wrong with the file below us (cut short, or a disk that does not read) would be the
//! signal SIGBUS, and what was looked at would count as this process's memory.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use bytes::Bytes;
use memmap2::Mmap;
use rustix::fs::{Advice, fadvise};

use crate::clock;

/// The smallest page there is, and the one that `mincore` speaks of on amd64; larger ones only make an answer repeat.
const PAGE_BYTES: usize = 4096;
/// In pieces of this it is kept in mind what was in memory: to ask for each of 1,024 pages costs a sixth of sending them.
const SEEN_BYTES: usize = 1 << 20;
/// For so long. Where memory is so short that it is gone sooner, workers may wait for the disk until then.
const SEEN_SECONDS: u32 = 3;

/// A file that is never changed after it was renamed to its place.
#[derive(Debug, Clone)]
pub struct MappedFile {
    file: Arc<File>,
    map: Arc<Mmap>,
    etag: Arc<str>,
    opened: Instant,
    /// For each [`SEEN_BYTES`] the second in which all of it was in memory; 0: never.
    seen: Arc<[AtomicU32]>,
}

/// A range, and what is to be kept as long as somebody has it.
struct Piece<K> {
    // Dropped before the mapping: it may speak of its addresses.
    _kept: K,
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl<K> AsRef<[u8]> for Piece<K> {
    fn as_ref(&self) -> &[u8] {
        // `MappedFile::inside` made it so.
        self.map.get(self.range.clone()).unwrap_or(&[])
    }
}

impl MappedFile {
    /// `etag` without its quotes.
    pub(super) fn new(file: File, etag: &str) -> io::Result<MappedFile> {
        // SAFETY: mmap(2) of a regular file. Packs and baselines are written once under a temporary name and neither
        // changed nor truncated by us afterwards, only unlinked or replaced by a rename, which a mapping survives.
        let map = Arc::new(unsafe { Mmap::map(&file) }?);
        let seen = (0..map.len().div_ceil(SEEN_BYTES)).map(|_| AtomicU32::new(0)).collect();
        Ok(MappedFile { file: Arc::new(file), map, etag: etag.into(), opened: clock::instant(), seen })
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

    #[must_use]
    pub fn shared_etag(&self) -> Arc<str> {
        self.etag.clone()
    }

    /// The file itself, which all who send it share.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// The same file for one who sends it from a place on and waits for the disk: the kernel reads ahead of each one who has
    /// opened it for himself, and further than of others. Also when it has no name any more.
    #[must_use]
    pub fn opened_anew(&self) -> Arc<File> {
        let again = File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        // Shared it is sent as well, only slower.
        let Ok(file) = again else { return self.file.clone() };
        // Where this is not heeded it reads ahead less far.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        Arc::new(file)
    }

    /// Addresses for a range; a range that is not inside the file gives none. `kept`: given the addresses, what is to be
    /// dropped when nobody has them any more.
    #[must_use]
    pub fn piece<K: Send + Sync + 'static>(&self, range: Range<usize>, kept: impl FnOnce(&[u8]) -> K) -> Bytes {
        let range = self.inside(range);
        let _kept = kept(self.map.get(range.clone()).unwrap_or(&[]));
        Bytes::from_owner(Piece { map: self.map.clone(), range, _kept })
    }

    /// The range, or an empty one where it is not inside of the mapping: what lies behind is other memory of ours.
    fn inside(&self, range: Range<usize>) -> Range<usize> {
        if range.start <= range.end && range.end <= self.map.len() { range } else { 0..0 }
    }

    /// Whether all of the range lies in memory, so that nobody waits for the disk; what was there some seconds ago is taken
    /// to be there still. A question to the kernel, not a look.
    #[must_use]
    pub fn is_in_memory(&self, range: &Range<usize>) -> bool {
        if range.start > range.end || range.end > self.length() {
            return false;
        }
        if range.is_empty() || self.was_seen(range) {
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
        let is_in_memory = asked == 0 && resident.iter().all(|page| page & 1 == 1);
        if is_in_memory {
            self.note_seen(range);
        }
        is_in_memory
    }

    /// Whether somebody has made the file shorter under us.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        !self.file.metadata().is_ok_and(|metadata| metadata.len() >= self.length() as u64)
    }

    /// Reads the first byte of a range. Blocks.
    ///
    /// # Errors
    /// What the disk says; that the file is shorter than it was when it was mapped.
    pub fn try_to_read(&self, range: &Range<usize>) -> io::Result<()> {
        let read = self.file.read_at(&mut [0], range.start as u64)?;
        if self.is_cut() || (read == 0 && !range.is_empty()) {
            let length = self.file.metadata()?.len();
            let reason = format!("the file ends at byte {length}, and had {} bytes", self.length());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
        }
        Ok(())
    }

    fn was_seen(&self, range: &Range<usize>) -> bool {
        let now = self.now();
        let windows = self.seen.get(range.start / SEEN_BYTES..range.end.div_ceil(SEEN_BYTES)).unwrap_or(&[]);
        let is_fresh = |at: &AtomicU32| {
            let at = at.load(Ordering::Relaxed);
            at != 0 && now - at.min(now) < SEEN_SECONDS
        };
        !windows.is_empty() && windows.iter().all(is_fresh)
    }

    /// Of windows that lie in it whole.
    fn note_seen(&self, range: &Range<usize>) {
        let end = if range.end == self.length() { self.seen.len() } else { range.end / SEEN_BYTES };
        let windows = self.seen.get(range.start.div_ceil(SEEN_BYTES)..end).unwrap_or(&[]);
        let now = self.now();
        windows.iter().for_each(|at| at.store(now, Ordering::Relaxed));
    }

    /// Seconds, from 1 on.
    fn now(&self) -> u32 {
        u32::try_from(self.opened.elapsed().as_secs()).map_or(u32::MAX, |seconds| seconds.saturating_add(1))
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

    #[test]
    fn pieces_are_the_files_addresses_and_hold_what_belongs_to_them() {
        let content: Vec<u8> = (0..8u32 << 20).map(|at| (at / 4096) as u8).collect();
        let (_dir, path) = file(&content);
        let mapped = MappedFile::new(File::open(&path).unwrap(), "x").unwrap();
        assert!(mapped.is_in_memory(&(0..content.len())) && mapped.is_in_memory(&(4097..4099)));
        let kept = Arc::new(());
        let piece = mapped.piece(4097..9000, |bytes| {
            assert!(bytes == &content[4097..9000]);
            kept.clone()
        });
        let part = piece.slice(1..3);
        assert_eq!(part.as_ptr(), mapped.map[4098..].as_ptr());
        drop(piece);
        assert_eq!(Arc::strong_count(&kept), 2, "somebody has a part of it");
        drop(part);
        assert_eq!(Arc::strong_count(&kept), 1);
        // What lies behind the file is other memory of ours.
        let piece = |range| mapped.piece(range, |_| ());
        assert!(piece(0..content.len() + 1).is_empty() && !mapped.is_in_memory(&(0..content.len() + 1)));
        let backwards = Range { start: 7, end: 5 };
        assert_eq!((mapped.inside(backwards), mapped.inside(5..content.len())), (0..0, 5..content.len()));
        assert!(piece(4096..content.len() + 4096).is_empty());
    }

    /// Promise: a pack that somebody cuts short under us is an error, and not the end of the server.
    #[test]
    fn a_file_that_was_cut_short_is_said_to_be_so() {
        let (_dir, path) = file(&vec![1; 1 << 20]);
        let mapped = MappedFile::new(File::open(&path).unwrap(), "x").unwrap();
        mapped.try_to_read(&(0..1 << 20)).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(10_000).unwrap();
        assert!(mapped.is_cut());
        let error = mapped.try_to_read(&(0..1 << 20)).unwrap_err();
        assert_eq!(error.to_string(), "the file ends at byte 10000, and had 1048576 bytes");
    }

    #[test]
    fn a_file_that_is_removed_or_replaced_stays_as_it_was_to_the_end() {
        let (dir, path) = file(b"the old one");
        let mapped = MappedFile::new(File::open(&path).unwrap(), "x").unwrap();
        std::fs::write(dir.path().join("new"), "a new one, longer").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        std::fs::remove_file(&path).unwrap();
        mapped.try_to_read(&(0..11)).unwrap();
        let mut bytes = [0; 11];
        mapped.opened_anew().read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"the old one");
        assert_eq!(mapped.piece(4..7, |_| ()), b"old"[..]);
    }
}
