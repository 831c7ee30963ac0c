//! FAT, as Linux shows it when it is mounted. A FAT has no owners and no permissions: they come from the options of its
//! line in /etc/fstab, else from the defaults of the kernel and of mount(8).

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

mod lookup;

pub use lookup::FatLookup;

use super::{Content, Fault, Found, Section, Tree, VolumeError};
use crate::decide::drift::finding::{Digest, Kind, Node};
use crate::decide::drift::path;

/// A firmware's or loader's partition has some hundred.
const ENTRIES_MAX: usize = 200_000;
const DEPTH_MAX: usize = 64;
/// Of all paths. Deep directories with long names would make gigabytes of the entries that are allowed.
const PATHS_BYTES_MAX: usize = 64 << 20;

/// Options of a mount that show in what `stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub uid: u32,
    pub gid: u32,
    /// Permissions that files and directories do not have.
    pub file_mask: u16,
    pub directory_mask: u16,
}

impl Default for Options {
    /// mount(8) run by root with its usual umask.
    fn default() -> Options {
        Options { uid: 0, gid: 0, file_mask: 0o022, directory_mask: 0o022 }
    }
}

impl Options {
    /// From the fourth field of an fstab line, `umask=0077,uid=1000`; what is no such option is passed over.
    #[must_use]
    pub fn from_fstab(field: &str) -> Options {
        let mut options = Options::default();
        for option in field.split(',') {
            let Some((name, value)) = option.split_once('=') else { continue };
            let mask = u16::from_str_radix(value, 8).map(|mask| mask & 0o777);
            match (name, value.parse::<u32>(), mask) {
                ("uid", Ok(uid), _) => options.uid = uid,
                ("gid", Ok(gid), _) => options.gid = gid,
                ("umask", _, Ok(mask)) => (options.file_mask, options.directory_mask) = (mask, mask),
                ("fmask", _, Ok(mask)) => options.file_mask = mask,
                ("dmask", _, Ok(mask)) => options.directory_mask = mask,
                _ => {}
            }
        }
        options
    }
}

/// What fatfs reads: bounded, since a chain of clusters can run in a circle.
struct Bounded<R> {
    section: Section<R>,
    /// What may be read yet, by all that share it.
    budget_bytes: Arc<AtomicU64>,
}

impl<R: Read + Seek> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // A read costs something, so that endless reads of nothing end too.
        let cost = (out.len() as u64).max(32);
        let spend = |left: u64| left.checked_sub(cost);
        let spent = self.budget_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        spent.map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.section.read(out)
    }
}

impl<R> Seek for Bounded<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.section.seek(to)
    }
}

impl<R> io::Write for Bounded<R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.section.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One FAT file system: all of it is listed when it is opened.
pub struct Fat<R: Read + Seek> {
    files: fatfs::FileSystem<Bounded<R>>,
    list: VecDeque<Found>,
    /// The directory that was found last: what is in it can be skipped.
    last: Option<Vec<u8>>,
    all: Vec<Found>,
}

impl<R: Read + Seek> std::fmt::Debug for Fat<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fat").field("left", &self.list.len()).finish_non_exhaustive()
    }
}

impl<R: Read + Seek> Fat<R> {
    /// # Errors
    /// It is no FAT, or a damaged one.
    pub fn open(device: R, options: Options) -> Result<Fat<R>, VolumeError> {
        let bounded = bounded(device, None)?;
        let listed = caught(|| {
            let files = fatfs::FileSystem::new(bounded, fatfs::FsOptions::new())?;
            let mut listing = Listing { options, all: Vec::new(), paths_bytes: 0 };
            listing.add(found(b"/".to_vec(), Kind::Directory, 0, &options, false))?;
            list(&files.root_dir(), b"/", 0, &mut listing)?;
            Ok((files, listing.all))
        });
        let (files, mut all) = listed?;
        all.sort_by(|a, b| path::order(&a.path, &b.path));
        if let Some(pair) = all.windows(2).find(|pair| pair[0].path == pair[1].path) {
            return Err(Fault::Damaged("the directory holds this name twice".to_owned()).at(&pair[0].path));
        }
        Ok(Fat { files, list: all.iter().cloned().collect(), last: None, all })
    }

    fn content(&self, found: &Found, mut take: impl FnMut(&[u8]) -> bool) -> Result<(), Fault> {
        let Kind::File { bytes, .. } = found.node.kind else {
            return Ok(());
        };
        let name = std::str::from_utf8(&found.path).unwrap_or_default().trim_start_matches('/');
        caught(|| {
            let mut file = self.files.root_dir().open_file(name)?;
            let mut buffer = vec![0; 64 << 10];
            let mut left = bytes;
            while left > 0 {
                match file.read(&mut buffer)? {
                    0 => return Fault::damaged("its clusters end before its size"),
                    count if !take(&buffer[..count]) => return Ok(()),
                    count => left = left.saturating_sub(count as u64),
                }
            }
            Ok(())
        })
    }
}

/// `budget_bytes`: what others have left; `None`: a new one.
fn bounded<R: Read + Seek>(mut device: R, budget_bytes: Option<Arc<AtomicU64>>) -> Result<Bounded<R>, Fault> {
    let length = device.seek(SeekFrom::End(0)).map_err(Fault::Io)?;
    let new = || Arc::new(AtomicU64::new(length.saturating_mul(64).saturating_add(1 << 30)));
    let budget_bytes = budget_bytes.unwrap_or_else(new);
    Ok(Bounded { section: Section::new(device, 0, length), budget_bytes })
}

thread_local! {
    /// Calls of [`caught`] that this thread is in.
    static CAUGHT: Cell<u32> = const { Cell::new(0) };
}

/// fatfs is old and has never been fuzzed by its makers as far as is known: a panic in it is an error of this volume.
fn caught<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    CAUGHT.set(CAUGHT.get() + 1);
    let done = catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(CAUGHT.get() - 1);
    done.unwrap_or_else(|_| Fault::damaged("the FAT reader gave up on it"))
}

/// Whether a panic of this thread would only mean that a file system is damaged.
#[must_use]
pub fn is_panic_caught() -> bool {
    CAUGHT.get() > 0
}

/// What was found so far.
struct Listing {
    options: Options,
    all: Vec<Found>,
    paths_bytes: usize,
}

impl Listing {
    fn add(&mut self, found: Found) -> Result<(), Fault> {
        self.paths_bytes += found.path.len();
        if self.paths_bytes > PATHS_BYTES_MAX {
            return Err(Fault::TooMuch(format!("more than {PATHS_BYTES_MAX} bytes of paths on a FAT")));
        }
        if self.all.len() >= ENTRIES_MAX {
            return Err(Fault::TooMuch(format!("more than {ENTRIES_MAX} files on a FAT")));
        }
        self.all.push(found);
        Ok(())
    }
}

fn list<R: Read + Seek>(
    directory: &fatfs::Dir<'_, Bounded<R>>,
    above: &[u8],
    depth: usize,
    listing: &mut Listing,
) -> Result<(), Fault> {
    if depth > DEPTH_MAX {
        return Err(Fault::TooMuch(format!("more than {DEPTH_MAX} directories within each other")));
    }
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == "." || name == ".." {
            continue;
        }
        // U+FFFD stands for what is no Unicode; Linux would show it by its code page.
        if name.is_empty() || name.contains(['/', '\0', char::REPLACEMENT_CHARACTER]) {
            return Err(Fault::Unsupported(format!(
                "it holds a name that is not read here: {}",
                path::to_text(name.as_bytes())
            )));
        }
        let separator: &[u8] = if above == b"/" { b"" } else { b"/" };
        let path = [above, separator, name.as_bytes()].concat();
        let kind = if entry.is_dir() { Kind::Directory } else { Kind::File { bytes: entry.len(), digest: None } };
        let is_read_only = entry.is_file() && entry.attributes().contains(fatfs::FileAttributes::READ_ONLY);
        listing.add(found(path.clone(), kind, seconds(entry.modified()), &listing.options, is_read_only))?;
        if entry.is_dir() {
            list(&entry.to_dir(), &path, depth + 1, listing)?;
        }
    }
    Ok(())
}

fn found(path: Vec<u8>, kind: Kind, modified: i64, options: &Options, is_read_only: bool) -> Found {
    let mask = if kind == Kind::Directory { options.directory_mask } else { options.file_mask };
    // fs/fat/fat.h, fat_make_mode(): "read only" takes the right to write from files, not from directories.
    let mode = if is_read_only { 0o555 } else { 0o777 } & !mask;
    let node = Node { kind, mode, uid: options.uid, gid: options.gid, modified, xattrs: Vec::new() };
    Found { path, node, inode: 0, links: 1, place_bytes: 0, content: Content::Fat }
}

/// FAT keeps local time without a zone: taken as UTC, for people only.
fn seconds(at: fatfs::DateTime) -> i64 {
    let (year, month, day) = (i64::from(at.date.year), i64::from(at.date.month), i64::from(at.date.day));
    // Days since 1970-01-01, by years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    days * 86400 + i64::from(at.time.hour) * 3600 + i64::from(at.time.min) * 60 + i64::from(at.time.sec)
}

impl<R: Read + Seek> Tree for Fat<R> {
    fn next_found(&mut self) -> Result<Option<Found>, VolumeError> {
        let next = self.list.pop_front();
        self.last = next.as_ref().map(|found| found.path.clone());
        Ok(next)
    }

    fn skip(&mut self) {
        if let Some(directory) = self.last.take() {
            while self.list.front().is_some_and(|found| path::is_within(&found.path, &directory)) {
                self.list.pop_front();
            }
        }
    }

    fn digest(&mut self, found: &Found) -> Result<Option<Digest>, VolumeError> {
        if !matches!(found.node.kind, Kind::File { .. }) {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        let read = self.content(found, |bytes| {
            hasher.update(bytes);
            true
        });
        read.map_err(|fault| fault.at(&found.path))?;
        Ok(Some(*hasher.finalize().as_bytes()))
    }

    fn read(&mut self, found: &Found, bytes_max: usize) -> Result<Vec<u8>, VolumeError> {
        let mut content = Vec::new();
        let read = self.content(found, |bytes| {
            content.extend_from_slice(&bytes[..bytes.len().min(bytes_max - content.len())]);
            content.len() < bytes_max
        });
        read.map_err(|fault| fault.at(&found.path))?;
        Ok(content)
    }

    fn find(&mut self, path: &[u8]) -> Result<Option<Found>, VolumeError> {
        Ok(self.all.iter().find(|found| found.path == path).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bad input: 200,000 entries in deep directories with long names.
    #[test]
    fn paths_have_a_bound_of_bytes() {
        let options = Options::default();
        let mut listing = Listing { options, all: Vec::new(), paths_bytes: PATHS_BYTES_MAX - 2 };
        let file = || found(b"/a".to_vec(), Kind::Directory, 0, &options, false);
        listing.add(file()).unwrap();
        assert!(matches!(listing.add(file()), Err(Fault::TooMuch(_))));
        assert_eq!(listing.all.len(), 1);
    }

    /// Bad input: many readers of one file system, each of which begins anew.
    #[test]
    fn who_shares_a_budget_spends_it_together() {
        let device = || io::Cursor::new(vec![0u8; 4096]);
        let budget = Arc::new(AtomicU64::new(150));
        let read = || bounded(device(), Some(Arc::clone(&budget))).unwrap().read(&mut [0; 100]);
        assert_eq!(read().unwrap(), 100);
        assert_eq!(read().unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
