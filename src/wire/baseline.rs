//! The baseline: which files a golden image consists of, as its running system sees them. What a host is compared with.
//!
//! The server makes it from the image's own file systems (`image::tree`), or from a host in its deploy environment
//! where it cannot read them. It is one file, named by the digest of its bytes; `docs/drift.md` gives its form. Both
//! [`Writer`] and [`Reader`] go through it entry by entry, so that a million files need no memory.

use super::manifest::{self, Digest};
use crate::decide::drift::finding::{Kind, Node};
use crate::decide::drift::path;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use thiserror::Error;

const MAGIC: &[u8; 8] = b"RGLDBASE";
const VERSION: u16 = 1;
/// Longest path that Linux takes is 4,096 bytes at a time, but trees can be deeper; nothing of ours is.
pub const PATH_BYTES_MAX: usize = 16 << 10;
/// All extended attributes of one file. ext4 keeps at most 64 KiB for each.
const RECORD_BYTES_MAX: usize = 256 << 10;
const VOLUMES_MAX: usize = 1024;
pub const ENTRIES_MAX: u64 = 50_000_000;
/// All records of a list. A few KiB of zstd may unpack to gigabytes, and each byte costs whoever reads them time.
const UNPACKED_BYTES_MAX: u64 = 8 << 30;

/// What stands in front of the entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Hex digest of the image's manifest.
    pub image: String,
    pub origin: Origin,
    pub volumes: Vec<Volume>,
}

/// Who read the file systems.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The server, from the image's own bytes.
    Image,
    /// The deploy environment's kernel on a host, right after it had read back what it wrote. Unix seconds.
    Host { id: String, at: u64 },
}

/// One partition (or the whole image where it has none), and how it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// As in `vda1`; 0: the whole image.
    pub partition: u32,
    /// `ext4`, `vfat`, `xfs`, `swap`, `squashfs`, ...; `unknown`. Behind a colon the subvolume that is mounted, where
    /// the fstab names one: `btrfs:@home`; a partition of several has several of these.
    pub format: String,
    /// Where the image's /etc/fstab (or its type) puts it; absolute. `None`: nowhere that we know.
    pub mounted_at: Option<String>,
    pub known: Known,
}

impl Header {
    /// Where volumes are mounted whose files are not in the list: it has not even the mount points.
    #[must_use]
    pub fn unlisted(&self) -> HashSet<Vec<u8>> {
        let unlisted = self.volumes.iter().filter(|volume| volume.known != Known::Files);
        unlisted.filter_map(|volume| Some(volume.mounted_at.clone()?.into_bytes())).filter(|at| at != b"/").collect()
    }
}

impl Volume {
    /// The format without a subvolume.
    #[must_use]
    pub fn format_word(&self) -> &str {
        self.format.split_once(':').map_or(&self.format, |(word, _)| word)
    }

    #[must_use]
    pub fn subvolume(&self) -> Option<&str> {
        self.format.split_once(':').map(|(_, subvolume)| subvolume)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Known {
    /// Its files are among the entries.
    Files,
    /// Never written to in use (squashfs, erofs, verity, or declared): compared block by block with the manifest's
    /// extents of its range of the image.
    Blocks { offset_bytes: u64, length_bytes: u64 },
    /// Not looked at, and why: a statement of every report.
    Not { reason: String },
}

/// One path, absolute and in the running system's own tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: Vec<u8>,
    pub node: Node,
}

/// Why bytes are not a baseline that this program can use.
#[derive(Debug, Error)]
pub enum BaselineError {
    #[error("not a baseline (it does not begin with RGLDBASE)")]
    Magic,
    #[error("the baseline has format version {0}, this program knows version {VERSION}: use programs of one release")]
    Version(u16),
    #[error("the baseline's digest is {got}, expected {expected}: it was damaged or replaced on its way")]
    Digest { expected: String, got: String },
    #[error("the baseline cannot be read")]
    Read(#[from] io::Error),
    #[error("a record of the baseline is not understood")]
    Record(#[from] postcard::Error),
    #[error("the baseline contradicts itself: {0}")]
    Invalid(String),
}

/// An entry as stored: the path without what it shares with the one before.
#[derive(Serialize, Deserialize)]
struct Record<'b> {
    shared: u16,
    #[serde(borrow, with = "bytes_field")]
    rest: &'b [u8],
    kind: StoredKind,
    mode: u16,
    uid: u32,
    gid: u32,
    modified: i64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

mod bytes_field {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<&'de [u8], D::Error> {
        <&'de [u8]>::deserialize(from)
    }
}

#[derive(Serialize, Deserialize)]
enum StoredKind {
    File { bytes: u64, digest: Option<Digest> },
    Directory,
    Symlink { target: Vec<u8> },
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
    Socket,
}

impl From<Kind> for StoredKind {
    fn from(kind: Kind) -> StoredKind {
        match kind {
            Kind::File { bytes, digest } => StoredKind::File { bytes, digest },
            Kind::Directory => StoredKind::Directory,
            Kind::Symlink { target } => StoredKind::Symlink { target },
            Kind::CharDevice { major, minor } => StoredKind::CharDevice { major, minor },
            Kind::BlockDevice { major, minor } => StoredKind::BlockDevice { major, minor },
            Kind::Fifo => StoredKind::Fifo,
            Kind::Socket => StoredKind::Socket,
        }
    }
}

impl From<StoredKind> for Kind {
    fn from(kind: StoredKind) -> Kind {
        match kind {
            StoredKind::File { bytes, digest } => Kind::File { bytes, digest },
            StoredKind::Directory => Kind::Directory,
            StoredKind::Symlink { target } => Kind::Symlink { target },
            StoredKind::CharDevice { major, minor } => Kind::CharDevice { major, minor },
            StoredKind::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
            StoredKind::Fifo => Kind::Fifo,
            StoredKind::Socket => Kind::Socket,
        }
    }
}

/// Writes a baseline; entries come in the order of [`path::order`].
pub struct Writer<W: Write> {
    to: zstd::Encoder<'static, Hashing<W>>,
    before: Vec<u8>,
    count: u64,
}

impl<W: Write> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<W: Write> Writer<W> {
    /// # Errors
    /// What `to` says.
    pub fn new(to: W, header: &Header) -> Result<Writer<W>, BaselineError> {
        let mut to = Hashing::new(to);
        to.write_all(MAGIC)?;
        to.write_all(&VERSION.to_le_bytes())?;
        let mut to = zstd::Encoder::new(to, 3)?;
        put(&mut to, &postcard::to_stdvec(header)?)?;
        Ok(Writer { to, before: Vec::new(), count: 0 })
    }

    /// # Errors
    /// [`BaselineError::Invalid`] for an entry that is out of order or too long; what the target says.
    pub fn add(&mut self, entry: Entry) -> Result<(), BaselineError> {
        check_next(&self.before, &entry.path, self.count)?;
        let shared = entry.path.iter().zip(&self.before).take_while(|(a, b)| a == b).count().min(usize::from(u16::MAX));
        let Node { kind, mode, uid, gid, modified, xattrs } = entry.node;
        let record = Record {
            shared: u16::try_from(shared).unwrap_or(u16::MAX),
            rest: &entry.path[shared..],
            kind: kind.into(),
            mode,
            uid,
            gid,
            modified,
            xattrs,
        };
        put(&mut self.to, &postcard::to_stdvec(&record)?)?;
        self.before = entry.path;
        self.count += 1;
        Ok(())
    }

    /// Ends it; what was written to, and the digest that names it.
    ///
    /// # Errors
    /// What the target says.
    pub fn finish(mut self) -> Result<(W, Digest), BaselineError> {
        self.to.write_all(&0u32.to_le_bytes())?;
        self.to.write_all(&self.count.to_le_bytes())?;
        Ok(self.to.finish()?.finish())
    }
}

fn put(to: &mut impl Write, record: &[u8]) -> Result<(), BaselineError> {
    if record.len() > RECORD_BYTES_MAX {
        return Err(BaselineError::Invalid(format!("a record of {} bytes", record.len())));
    }
    // RECORD_BYTES_MAX fits u32.
    to.write_all(&(record.len() as u32).to_le_bytes())?;
    Ok(to.write_all(record)?)
}

fn check_next(before: &[u8], path: &[u8], count: u64) -> Result<(), BaselineError> {
    let name = || path::to_text(&path[..path.len().min(200)]);
    if path.first() != Some(&b'/') || path.len() > PATH_BYTES_MAX || path.contains(&0) {
        return Err(BaselineError::Invalid(format!("{} is no path", name())));
    }
    if !before.is_empty() && path::order(before, path) != Ordering::Less {
        return Err(BaselineError::Invalid(format!("{} does not come after the entry before it", name())));
    }
    if count >= ENTRIES_MAX {
        return Err(BaselineError::Invalid(format!("more than {ENTRIES_MAX} entries")));
    }
    Ok(())
}

/// Reads a baseline from anyone, entry by entry, in order; each is checked as it comes. The digest of the whole is
/// known at the end only: who takes one from the network checks it first ([`check_digest`]).
pub struct Reader<R: Read> {
    from: zstd::Decoder<'static, io::BufReader<R>>,
    pub header: Header,
    before: Vec<u8>,
    record: Vec<u8>,
    count: u64,
    /// Bytes of records that may still come.
    left_bytes: u64,
    is_over: bool,
}

impl<R: Read> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("header", &self.header).field("count", &self.count).finish_non_exhaustive()
    }
}

impl<R: Read> Reader<R> {
    /// # Errors
    /// [`BaselineError`]: no baseline, another version, a header that is not understood.
    pub fn new(mut from: R) -> Result<Reader<R>, BaselineError> {
        let mut start = [0; 10];
        from.read_exact(&mut start).map_err(|_| BaselineError::Magic)?;
        if &start[..8] != MAGIC {
            return Err(BaselineError::Magic);
        }
        let version = u16::from_le_bytes([start[8], start[9]]);
        if version != VERSION {
            return Err(BaselineError::Version(version));
        }
        let mut from = zstd::Decoder::new(from)?;
        // 8 MiB, what level 3 uses at most is 2: a frame cannot ask for gigabytes.
        from.window_log_max(23)?;
        let mut record = Vec::new();
        if !take(&mut from, &mut record)? {
            return Err(BaselineError::Invalid("it has no header".to_owned()));
        }
        let header: Header = postcard::from_bytes(&record)?;
        if header.volumes.len() > VOLUMES_MAX {
            return Err(BaselineError::Invalid("too many volumes".to_owned()));
        }
        Ok(Reader {
            from,
            header,
            before: Vec::new(),
            record,
            count: 0,
            left_bytes: UNPACKED_BYTES_MAX,
            is_over: false,
        })
    }

    fn read(&mut self) -> Result<Option<Entry>, BaselineError> {
        if !take(&mut self.from, &mut self.record)? {
            let mut count = [0; 8];
            self.from.read_exact(&mut count)?;
            if u64::from_le_bytes(count) != self.count {
                return Err(BaselineError::Invalid("its end does not fit".to_owned()));
            }
            return Ok(None);
        }
        let left = self.left_bytes.checked_sub(self.record.len() as u64);
        let too_long = || BaselineError::Invalid(format!("it unpacks to more than {UNPACKED_BYTES_MAX} bytes"));
        self.left_bytes = left.ok_or_else(too_long)?;
        let record: Record<'_> = postcard::from_bytes(&self.record)?;
        let shared = self.before.get(..usize::from(record.shared));
        let shared = shared.ok_or_else(|| BaselineError::Invalid("a path shares more than there is".to_owned()))?;
        let path = [shared, record.rest].concat();
        check_next(&self.before, &path, self.count)?;
        self.before.clone_from(&path);
        self.count += 1;
        let Record { kind, mode, uid, gid, modified, xattrs, .. } = record;
        Ok(Some(Entry { path, node: Node { kind: kind.into(), mode, uid, gid, modified, xattrs } }))
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Entry, BaselineError>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.read().transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}

/// False at the mark that ends the list.
fn take(from: &mut impl Read, record: &mut Vec<u8>) -> Result<bool, BaselineError> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > RECORD_BYTES_MAX {
        return Err(BaselineError::Invalid(format!("a record of {length} bytes")));
    }
    record.resize(length, 0);
    from.read_exact(record)?;
    Ok(length > 0)
}

/// # Errors
/// [`BaselineError::Digest`], or the file cannot be read.
pub fn check_digest(mut file: impl Read, expected: &str) -> Result<(), BaselineError> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut file, &mut hasher)?;
    let got = manifest::to_hex(hasher.finalize().as_bytes());
    if got != expected {
        let expected = expected.chars().take(64).collect();
        return Err(BaselineError::Digest { expected, got });
    }
    Ok(())
}

/// Writes on, and knows the digest of what went through.
pub(crate) struct Hashing<W> {
    inner: W,
    hasher: blake3::Hasher,
}

impl<W> Hashing<W> {
    pub fn new(inner: W) -> Hashing<W> {
        Hashing { inner, hasher: blake3::Hasher::new() }
    }

    pub fn finish(self) -> (W, Digest) {
        (self.inner, *self.hasher.finalize().as_bytes())
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
