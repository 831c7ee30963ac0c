//! What the scans before found: which content was read when, since when something differs or is not looked at.
//!
//! One file: `RGLDSCAN`, the version (u16), a zstd stream, how many bytes all remembered contents have (u64), and a blake3
//! digest of all before it. In the stream a header and a record for each path that there is something to remember of, each with its length (u32) in front, in the order
//! of `path::order`; then a length of 0. A file that is damaged, cut or of another version counts as none: the next
//! scan reads everything. A new one is written beside it, synced, and renamed over it.

use super::content::{Part, Parts};
use super::tree::Identity;
use crate::clock::UnixSeconds;
use crate::decide::drift::path;
use crate::wire::baseline::{Hashing, PATH_BYTES_MAX};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"RGLDSCAN";
const VERSION: u16 = 1;
/// The count and the digest.
const TAIL_BYTES: u64 = 8 + 32;
const RECORD_BYTES_MAX: usize = 256 << 10;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Scans of the whole tree so far, with the one that wrote this.
    pub number: u64,
    /// When that began.
    pub began: UnixSeconds,
    /// Name of the baseline (its digest) that `Held::AsExpected` means.
    pub baseline: String,
}

/// All that is known of one path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub content: Option<Known>,
    pub finding: Option<Since>,
    /// It is a place that is not looked at, since then.
    pub gap_since: Option<UnixSeconds>,
}

/// A content that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub mark: Mark,
    pub bytes: u64,
    pub held: Held,
}

/// The [`Identity`] that a file had when it was read, as 16 bytes of a digest. Zeros are no file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark(pub [u8; 16]);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// What the baseline says: its digest need not be kept twice. Most files, so that the state stays small.
    AsExpected {
        read_at: UnixSeconds,
    },
    Parts(Vec<Part>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    pub first_seen: UnixSeconds,
    pub scans: u32,
}

impl Mark {
    /// Of a file that changed so shortly before it was read that it can change again within the same tick of its
    /// ctime: it is read again the next time.
    pub const NONE: Mark = Mark([0; 16]);

    #[must_use]
    pub fn of(identity: &Identity) -> Mark {
        let Identity { device, inode, ctime_ns, mtime_ns, bytes } = *identity;
        let numbers = [device, inode, ctime_ns.cast_unsigned(), mtime_ns.cast_unsigned(), bytes];
        let mut all = [0; 40];
        for (place, number) in all.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let mut mark = [0; 16];
        mark.copy_from_slice(&blake3::hash(&all).as_bytes()[..16]);
        Mark(mark)
    }
}

impl Known {
    /// `expected`: the baseline's digest, where the state was written against the same baseline.
    #[must_use]
    pub fn parts(&self, expected: Option<&[u8; 32]>) -> Option<Parts> {
        let parts = match &self.held {
            Held::Parts(parts) => parts.clone(),
            Held::AsExpected { read_at } => vec![Part { value: *expected?, read_at: *read_at }],
        };
        Parts::new(self.bytes, parts)
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    shared: u16,
    rest: Vec<u8>,
    remembered: Remembered,
}

/// Reads a state, in order.
pub struct Reader {
    from: zstd::Decoder<'static, BufReader<io::Take<File>>>,
    pub header: Header,
    /// Of all contents that are remembered.
    pub content_bytes: u64,
    before: Vec<u8>,
    record: Vec<u8>,
    is_over: bool,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Reader {
    /// `None`: there is no state, or none that is whole. The whole file is checked before anything of it is believed.
    #[must_use]
    pub fn open(path: &Path) -> Option<Reader> {
        Reader::new(File::open(path).ok()?).ok()
    }

    fn new(mut file: File) -> io::Result<Reader> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let length = file.metadata()?.len().checked_sub(TAIL_BYTES).ok_or_else(invalid)?;
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut Read::by_ref(&mut file).take(length), &mut hasher)?;
        let (mut content_bytes, mut digest) = ([0; 8], [0; 32]);
        file.read_exact(&mut content_bytes)?;
        hasher.update(&content_bytes);
        file.read_exact(&mut digest)?;
        if hasher.finalize() != digest {
            return Err(invalid());
        }
        file.seek(SeekFrom::Start(0))?;
        let mut from = file.take(length);
        let mut start = [0; 10];
        from.read_exact(&mut start)?;
        if &start[..8] != MAGIC || start[8..] != VERSION.to_le_bytes() {
            return Err(invalid());
        }
        let mut from = zstd::Decoder::new(from)?;
        from.window_log_max(23)?;
        let content_bytes = u64::from_le_bytes(content_bytes);
        let (header, before, record) = (Header::default(), Vec::new(), Vec::new());
        let mut reader = Reader { from, header, content_bytes, before, record, is_over: false };
        if !reader.take_record()? {
            return Err(invalid());
        }
        reader.header = postcard::from_bytes(&reader.record).map_err(|_| invalid())?;
        Ok(reader)
    }

    fn take_record(&mut self) -> io::Result<bool> {
        let mut length = [0; 4];
        self.from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > RECORD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.record.resize(length, 0);
        self.from.read_exact(&mut self.record)?;
        Ok(length > 0)
    }

    fn read(&mut self) -> io::Result<Option<(Vec<u8>, Remembered)>> {
        if !self.take_record()? {
            return Ok(None);
        }
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let Record { shared, rest, remembered } = postcard::from_bytes(&self.record).map_err(|_| invalid())?;
        let shared = self.before.get(..usize::from(shared)).ok_or_else(invalid)?;
        let path = [shared, &rest].concat();
        let is_next = self.before.is_empty() || path::order(&self.before, &path) == Ordering::Less;
        if !is_next || path.first() != Some(&b'/') || path.len() > PATH_BYTES_MAX {
            return Err(invalid());
        }
        self.before.clone_from(&path);
        Ok(Some((path, remembered)))
    }
}

impl Iterator for Reader {
    type Item = (Vec<u8>, Remembered);

    /// Its digest was right: an error here is the disk's, and what comes after it counts as not known.
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.read().ok().flatten();
        self.is_over = next.is_none();
        next
    }
}

type StateEncoder = zstd::Encoder<'static, Hashing<BufWriter<File>>>;

/// Writes a new state. Where it cannot (a full disk), it says so at the end, and the scan goes on: the former state
/// stays as it is.
pub struct Writer {
    /// Where it will be, and where it is until it is whole.
    paths: Option<(PathBuf, PathBuf)>,
    to: Option<StateEncoder>,
    before: Vec<u8>,
    content_bytes: u64,
    lost: Option<String>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("paths", &self.paths).field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Writer {
    /// Beside `path`, with `.new` behind the name.
    #[must_use]
    pub fn create(path: &Path) -> Writer {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let paths = Some((path.to_owned(), PathBuf::from(new)));
        Writer { paths, to: None, before: Vec::new(), content_bytes: 0, lost: None }
    }

    /// Keeps nothing.
    #[must_use]
    pub fn none() -> Writer {
        Writer { paths: None, to: None, before: Vec::new(), content_bytes: 0, lost: None }
    }

    pub(super) fn begin(&mut self, header: &Header) {
        let Some((_, new)) = self.paths.clone() else { return };
        let begun = || -> io::Result<StateEncoder> {
            // Not one that somebody put there: a link of that name would be written through.
            let _ = fs::remove_file(&new);
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            let mut to = Hashing::new(BufWriter::new(file));
            to.write_all(MAGIC)?;
            to.write_all(&VERSION.to_le_bytes())?;
            let mut to = zstd::Encoder::new(to, 1)?;
            put(&mut to, header)?;
            Ok(to)
        };
        match begun() {
            Ok(to) => self.to = Some(to),
            Err(error) => self.lose(&error),
        }
    }

    pub(super) fn add(&mut self, path: &[u8], remembered: Remembered) {
        let bytes = remembered.content.as_ref().map_or(0, |known| known.bytes);
        self.content_bytes = self.content_bytes.saturating_add(bytes);
        let Some(to) = &mut self.to else { return };
        let shared = path.iter().zip(&self.before).take_while(|(a, b)| a == b).count().min(usize::from(u16::MAX));
        // At most u16::MAX.
        let record = Record { shared: shared as u16, rest: path[shared..].to_vec(), remembered };
        let put = put(to, &record);
        self.before.clear();
        self.before.extend_from_slice(path);
        if let Err(error) = put {
            self.lose(&error);
        }
    }

    /// Ends it, and puts it in the place of the former one. Why it could not be kept, if so.
    pub(super) fn finish(&mut self) -> Option<String> {
        if let (Some(to), Some((path, new))) = (self.to.take(), self.paths.clone())
            && let Err(error) = finish(to, self.content_bytes, &path, &new)
        {
            self.lose(&error);
        }
        self.paths = None;
        self.lost.take()
    }

    fn lose(&mut self, error: &io::Error) {
        self.to = None;
        if let Some((path, new)) = &self.paths {
            // It takes room on a disk that may be full.
            let _ = fs::remove_file(new);
            self.lost = Some(format!("{}: {error}", path.display()));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let (Some(_), Some((_, new))) = (self.to.take(), &self.paths) {
            let _ = fs::remove_file(new);
        }
    }
}

fn finish(mut to: StateEncoder, content_bytes: u64, path: &Path, new: &Path) -> io::Result<()> {
    to.write_all(&0u32.to_le_bytes())?;
    let mut to = to.finish()?;
    to.write_all(&content_bytes.to_le_bytes())?;
    let (mut inner, digest) = to.finish();
    inner.write_all(&digest)?;
    let file = inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(new, path)?;
    // The rename is on the disk only with its directory.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn put(to: &mut impl Write, record: &impl Serialize) -> io::Result<()> {
    let record = postcard::to_stdvec(record).map_err(io::Error::other)?;
    let length = u32::try_from(record.len()).ok().filter(|length| *length as usize <= RECORD_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("a record is too long"))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(read_at: u64) -> Remembered {
        let held = Held::AsExpected { read_at };
        let content = Some(Known { mark: Mark([1; 16]), bytes: 7, held });
        Remembered { content, finding: Some(Since { first_seen: 3, scans: 2 }), gap_since: Some(4) }
    }

    fn written(path: &Path) -> Vec<(Vec<u8>, Remembered)> {
        let all: Vec<_> = [&b"/"[..], b"/a", b"/a/b\xff", b"/a!"].into_iter().zip(1..).collect();
        let all: Vec<_> = all.into_iter().map(|(path, at)| (path.to_vec(), known(at))).collect();
        let mut writer = Writer::create(path);
        writer.begin(&Header { number: 8, began: 9, baseline: "b".into() });
        all.iter().for_each(|(path, remembered)| writer.add(path, remembered.clone()));
        assert_eq!(writer.finish(), None);
        all
    }

    #[test]
    fn what_was_remembered_is_known_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let all = written(&path);
        let reader = Reader::open(&path).unwrap();
        assert_eq!((reader.header.number, reader.content_bytes), (8, 4 * 7));
        assert_eq!(reader.collect::<Vec<_>>(), all);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    /// faults.md I1: damaged or cut at any place, it is none, and not half of one.
    #[test]
    fn a_damaged_or_cut_state_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        written(&path);
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            fs::write(&path, &bytes[..at]).unwrap();
            assert!(Reader::open(&path).is_none(), "cut at {at}");
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert!(Reader::open(&path).is_none(), "damaged at {at}");
        }
    }

    #[test]
    fn one_that_cannot_be_kept_says_so_and_leaves_the_former_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(&directory.path().join("no/such/state"));
        writer.begin(&Header::default());
        writer.add(b"/", known(1));
        assert!(writer.finish().unwrap().contains("No such file"));
        let path = directory.path().join("state");
        let all = written(&path);
        let mut dropped = Writer::create(&path);
        dropped.begin(&Header::default());
        drop(dropped);
        assert_eq!(Reader::open(&path).unwrap().collect::<Vec<_>>(), all);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
