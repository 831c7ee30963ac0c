//! Where an image's bytes come from: a stream that is raw or qcow2, plain or packed, and what it may be.
//!
//! Whatever comes in is read as data: nothing of it is executed or mounted, and no other file is opened because an image
//! names it. A raw image is read as it streams. A qcow2 image needs its bytes in any order: it is kept in the store's
//! `tmp/` until it is imported, and may be no larger there than an image may be.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;
use std::rc::Rc;
use std::str::FromStr;

use sha2::Digest as _;
use thiserror::Error;

use crate::clock;
use crate::wire::image_facts::Provenance;
use crate::wire::manifest;

mod detect;
mod qcow2;
mod qcow2_check;
mod sparse;
mod spool;
mod unpack;

use detect::Kind;
pub use sparse::SPARSE_HEADER;
use sparse::Sparse;
use spool::Spool;

/// What an image may be declared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Raw,
    Qcow2,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        })
    }
}

impl FromStr for Format {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Format, SourceError> {
        match text {
            "raw" => Ok(Format::Raw),
            "qcow2" => Ok(Format::Qcow2),
            other => Err(SourceError::NoFormat { asked: other.chars().take(20).collect() }),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Zstd,
    Xz,
    Gzip,
}

impl Compression {
    /// With what a stream begins. gzip's third byte is its only method, deflate (RFC 1952 section 2.3.1).
    #[must_use]
    pub const fn magic(self) -> &'static [u8] {
        match self {
            Compression::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
            Compression::Xz => b"\xfd7zXZ\0",
            Compression::Gzip => &[0x1f, 0x8b, 8],
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Zstd => "zstd",
            Compression::Xz => "xz",
            Compression::Gzip => "gzip",
        })
    }
}

/// The digest of the file as it was handed over, packed or not: `sha256:HEX` or `blake3:HEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileDigest {
    Sha256([u8; 32]),
    Blake3([u8; 32]),
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileDigest::Sha256(bytes) => write!(f, "sha256:{}", clock::hex(bytes)),
            FileDigest::Blake3(bytes) => write!(f, "blake3:{}", clock::hex(bytes)),
        }
    }
}

impl FromStr for FileDigest {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<FileDigest, SourceError> {
        let wrong = || SourceError::NoDigest { asked: text.chars().take(90).collect() };
        let (kind, hex) = text.split_once(':').ok_or_else(wrong)?;
        let bytes = manifest::from_hex(hex).ok_or_else(wrong)?;
        match kind {
            "sha256" => Ok(FileDigest::Sha256(bytes)),
            "blake3" => Ok(FileDigest::Blake3(bytes)),
            _ => Err(wrong()),
        }
    }
}

/// What is said about a stream before it is read. Format and digest must hold; nobody can check the provenance.
#[derive(Debug, Clone, Default)]
pub struct Declared {
    pub format: Option<Format>,
    pub digest: Option<FileDigest>,
    pub provenance: Provenance,
}

/// Why a stream is not taken as an image.
#[derive(Debug, Error)]
pub enum SourceError {
    #[error("{asked:?} is no format that can be imported: raw or qcow2, each plain or packed with zstd, xz or gzip")]
    NoFormat { asked: String },
    #[error("{asked:?} is no digest: sha256: or blake3: and 64 hex digits in lower case")]
    NoDigest { asked: String },
    #[error("this is {what}, which cannot be imported; {advice}")]
    Foreign { what: &'static str, advice: &'static str },
    #[error("this was declared as {declared}, but it is {found}; nothing was imported")]
    OtherFormat { declared: Format, found: Format },
    #[error("this is packed twice ({outer}, in it {inner}); unpack the outer one first")]
    PackedTwice { outer: Compression, inner: Compression },
    #[error("its {compression} compression is damaged, cut short, or followed by something else")]
    PackedDamaged { compression: Compression, source: io::Error },
    #[error(
        "unpacking its {compression} compression needs more memory than an import has for it (128 MiB); pack it again \
             with a smaller window: zstd without --long=28 or more, xz -9 or less"
    )]
    PackedTooWide { compression: Compression },
    #[error("what came has the digest {found}, expected was {expected}: damaged on its way, or another file")]
    OtherDigest { expected: FileDigest, found: FileDigest },
    #[error("this qcow2 image {what}, which is not imported; {advice}")]
    Qcow2Kind { what: String, advice: &'static str },
    #[error("this qcow2 image is damaged or made to mislead: {what}; `qemu-img check` says more")]
    Qcow2Damaged { what: String },
    #[error("this qcow2 image cannot be read")]
    Qcow2Read(#[source] io::Error),
    #[error("the qcow2 file is larger than the {bytes_max} bytes that are allowed for an image")]
    FileTooLarge { bytes_max: u64 },
    #[error("the image has {image_bytes} bytes, more than the {bytes_max} that are allowed ([image] bytes_max)")]
    ImageTooLarge { image_bytes: u64, bytes_max: u64 },
}

/// What is read ahead of a decoder, and of the small headers between larger pieces, which are read past the buffer.
const BUFFER_BYTES: usize = 32 << 10;

/// A raw disk as it comes.
trait Disk: Read {
    /// How many zeros come next, up to `bytes_max`: they are then read. Fewer, or none, where that is not known without
    /// reading them.
    fn zeros(&mut self, _bytes_max: u64) -> io::Result<u64> {
        Ok(0)
    }
}

/// What knows nothing of holes.
struct Dense<R>(R);

impl<R: Read> Read for Dense<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl<R: Read> Disk for Dense<R> {}

/// A disk whose first bytes were looked at.
struct Again<'r> {
    head: Cursor<Vec<u8>>,
    rest: Box<dyn Disk + 'r>,
}

impl Read for Again<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.head.read(out)? {
            0 => self.rest.read(out),
            count => Ok(count),
        }
    }
}

impl Disk for Again<'_> {
    fn zeros(&mut self, bytes_max: u64) -> io::Result<u64> {
        let is_past_head = self.head.position() == self.head.get_ref().len() as u64;
        if is_past_head { self.rest.zeros(bytes_max) } else { Ok(0) }
    }
}

/// A stream whose kind is known: reading gives the raw disk.
pub(super) struct Source<'r> {
    disk: Box<dyn Disk + 'r>,
    /// The last sector of a raw image, as far as it was read.
    tail: Option<Tail>,
    expected: Option<FileDigest>,
    seen: Option<Rc<RefCell<Hasher>>>,
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("expected", &self.expected).finish_non_exhaustive()
    }
}

/// Looks at what comes and gets it ready. `store`: for a qcow2's file.
///
/// # Errors
/// The store's error when its disk is full; all else as an [`io::Error`], most with a [`SourceError`] in it.
pub(super) fn open<'r>(
    reader: impl Read + 'r,
    declared: &Declared,
    image_bytes_max: u64,
    store: &Path,
) -> Result<Source<'r>, super::ImportError> {
    let seen = declared.digest.map(|expected| Rc::new(RefCell::new(Hasher::new(expected))));
    let watched = Watched { reader, seen: seen.clone() };
    let (head, reader) = look(Box::new(Dense(BufReader::with_capacity(BUFFER_BYTES, watched))))?;
    let (kind, reader) = match detect::kind(&head)? {
        Kind::Compressed(outer) => {
            let unpacked: Box<dyn Disk + 'r> = if head.starts_with(&SPARSE_HEADER) {
                Box::new(Sparse::open(reader).map_err(super::ImportError::from_read)?)
            } else {
                let packed = BufReader::with_capacity(BUFFER_BYTES, reader);
                Box::new(Dense(unpack::unpack(packed, outer).map_err(super::ImportError::Read)?))
            };
            let (head, unpacked) = look(unpacked)?;
            match detect::kind(&head)? {
                Kind::Compressed(inner) => return Err(SourceError::PackedTwice { outer, inner }.into()),
                kind => (kind, unpacked),
            }
        }
        kind => (kind, reader),
    };
    let found = if kind == Kind::Qcow2 { Format::Qcow2 } else { Format::Raw };
    if let Some(declared) = declared.format.filter(|declared| *declared != found) {
        return Err(SourceError::OtherFormat { declared, found }.into());
    }
    let (disk, tail): (Box<dyn Disk + 'r>, _) = match found {
        Format::Raw => (Box::new(reader), Some(Tail::default())),
        Format::Qcow2 => {
            let file = Spool::fill(reader, store, image_bytes_max)?;
            (Box::new(Dense(qcow2::Reader::open(file, image_bytes_max)?)), None)
        }
    };
    Ok(Source { disk, tail, expected: declared.digest, seen })
}

impl Source<'_> {
    /// How many zeros come next, up to `bytes_max`, as far as that is known without reading them; they are then read.
    ///
    /// # Errors
    /// What the stream says, most with a [`SourceError`] in it.
    pub fn zeros(&mut self, bytes_max: u64) -> io::Result<u64> {
        let zeros = self.disk.zeros(bytes_max)?;
        if let Some(tail) = &mut self.tail {
            let seen = zeros.min(Tail::BYTES as u64) as usize;
            tail.add(&[0; Tail::BYTES][..seen]);
        }
        Ok(zeros)
    }

    /// What can be judged only now that all of it was read. A digest that is checked nowhere but at the end of a stream
    /// is not checked at all when a decoder stops before it (CVE-2021-20319), so this is a step of its own.
    pub fn finish(self) -> Result<(), SourceError> {
        if let Some(tail) = &self.tail {
            detect::last_sector(&tail.0)?;
        }
        let (Some(expected), Some(seen)) = (self.expected, self.seen) else { return Ok(()) };
        let found = seen.borrow().finish();
        if found == expected { Ok(()) } else { Err(SourceError::OtherDigest { expected, found }) }
    }
}

impl Read for Source<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.disk.read(out)?;
        if let Some(tail) = &mut self.tail {
            tail.add(&out[..count]);
        }
        Ok(count)
    }
}

/// The first bytes, and the whole stream again.
fn look<'r>(mut rest: Box<dyn Disk + 'r>) -> Result<(Vec<u8>, Again<'r>), super::ImportError> {
    let mut head = Vec::with_capacity(detect::HEAD_BYTES);
    let taken = rest.by_ref().take(detect::HEAD_BYTES as u64).read_to_end(&mut head);
    taken.map_err(super::ImportError::from_read)?;
    Ok((head.clone(), Again { head: Cursor::new(head), rest }))
}

/// The last 512 bytes of what went by.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    const BYTES: usize = 512;

    fn add(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(Tail::BYTES)..];
        let keep = self.0.len().min(Tail::BYTES - new.len());
        self.0.drain(..self.0.len() - keep);
        self.0.extend_from_slice(new);
    }
}

enum Hasher {
    Sha256(sha2::Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    fn new(like: FileDigest) -> Hasher {
        match like {
            FileDigest::Sha256(_) => Hasher::Sha256(sha2::Sha256::new()),
            FileDigest::Blake3(_) => Hasher::Blake3(Box::default()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    fn finish(&self) -> FileDigest {
        match self {
            Hasher::Sha256(hasher) => FileDigest::Sha256(hasher.clone().finalize().into()),
            Hasher::Blake3(hasher) => FileDigest::Blake3(*hasher.finalize().as_bytes()),
        }
    }
}

/// The stream as it was handed over, with the digest of what went by.
struct Watched<R> {
    reader: R,
    seen: Option<Rc<RefCell<Hasher>>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(out)?;
        if let Some(seen) = &self.seen {
            seen.borrow_mut().update(&out[..count]);
        }
        Ok(count)
    }
}

#[cfg(fuzzing)]
pub(super) mod fuzzing;
#[cfg(test)]
mod tests;
