//! What a scan asks of a tree of files: the mounted one (`live`), or one on a disk that is not mounted.

use crate::decide::drift::finding::Node;
use std::io;

/// Longest file name on Linux.
const NAME_BYTES_MAX: usize = 255;

/// A tree of files. Directories are handles, so that no path is looked up twice, and none through a symlink. Paths are
/// absolute in the running system: the root is `/`. Names are single components.
///
/// Errors of kind `NotFound` say that a name is (no longer) there; the scan takes it as removed. Any other one makes
/// the place a gap, with the error's text as reason.
pub trait Tree: Sync {
    type Directory: Send + Sync;
    type File: Content;

    /// # Errors
    /// The root cannot be read.
    fn root(&self) -> io::Result<(Self::Directory, Seen)>;

    /// All names in a directory, sorted, without `.` and `..`. Takes no more than `room_bytes` for them.
    ///
    /// # Errors
    /// It cannot be read, or needs more room ([`Names::push`]).
    fn names(&self, directory: &Self::Directory, room_bytes: usize) -> io::Result<Names>;

    /// What is there, with its extended attributes sorted by name (those of `finding::xattr_counts`), the symlink
    /// itself and not its target. The digest of a file is left `None`.
    ///
    /// # Errors
    /// As the trait says.
    fn look(&self, directory: &Self::Directory, name: &[u8], path: &[u8]) -> io::Result<Seen>;

    /// The same as far as it tells a directory, a device, and a file that is set-uid, set-gid or has capabilities from
    /// everything else (`finding::is_privileged`): for directories in which nothing but these counts.
    ///
    /// # Errors
    /// As the trait says.
    fn look_lightly(&self, directory: &Self::Directory, name: &[u8], path: &[u8]) -> io::Result<Seen> {
        self.look(directory, name, path)
    }

    /// Goes into a directory that `look` found and that is not closed.
    ///
    /// # Errors
    /// As the trait says.
    fn enter(&self, directory: &Self::Directory, name: &[u8], path: &[u8]) -> io::Result<Self::Directory>;

    /// Opens a regular file. Never waits (a FIFO that took its place), never follows a symlink.
    ///
    /// # Errors
    /// As the trait says.
    fn open(&self, directory: &Self::Directory, name: &[u8], path: &[u8]) -> io::Result<Self::File>;
}

/// An open file.
pub trait Content {
    /// As it is now, for comparison with what `look` saw.
    ///
    /// # Errors
    /// It cannot be asked.
    fn identity(&self) -> io::Result<Identity>;

    /// At most as much as fits; 0 at the end.
    ///
    /// # Errors
    /// It cannot be read.
    fn read_at(&mut self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Where the next byte lies that is not in a hole, at or after `offset_bytes`; `u64::MAX`: nowhere.
    fn next_data(&mut self, offset_bytes: u64) -> u64 {
        offset_bytes
    }
}

/// By what one sees that a file was touched: no content changes on a mounted file system without its ctime, which
/// programs cannot set. Where the tree has no such number (FAT has no ctime), it is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
    /// Nanoseconds since 1970; up to the year 2262.
    pub ctime_ns: i64,
    pub mtime_ns: i64,
    pub bytes: u64,
}

/// One thing that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub node: Node,
    pub identity: Identity,
    pub links: u64,
    /// A directory that is not entered, and of which only its being there counts, since a mount that is not the
    /// image's covers it (or the image's volume is not mounted on it). A file with a reason here is judged as it is
    /// seen. Each is a gap of the report.
    pub closed: Option<String>,
}

/// The names of one directory. A million of them take their bytes and five more each.
#[derive(Debug, Default)]
pub struct Names {
    /// Each with its length in front.
    bytes: Vec<u8>,
    starts: Vec<u32>,
    room_bytes: usize,
}

impl Names {
    #[must_use]
    pub fn new(room_bytes: usize) -> Names {
        Names { room_bytes: room_bytes.min(u32::MAX as usize), ..Names::default() }
    }

    /// # Errors
    /// More of them than there is room for, or no file's name.
    pub fn push(&mut self, name: &[u8]) -> io::Result<()> {
        let length = u8::try_from(name.len()).ok().filter(|length| *length > 0);
        let Some(length) = length.filter(|_| !name.contains(&b'/') && !name.contains(&0)) else {
            return Err(io::Error::other(format!(
                "a name in it is empty, longer than {NAME_BYTES_MAX} bytes or no name"
            )));
        };
        if self.taken_bytes() + name.len() + 5 > self.room_bytes {
            return Err(io::Error::other(format!("it has more than {} names: too many to be sorted", self.len())));
        }
        // room_bytes fits u32.
        self.starts.push(self.bytes.len() as u32);
        self.bytes.push(length);
        self.bytes.extend_from_slice(name);
        Ok(())
    }

    pub fn sort(&mut self) {
        let bytes = &self.bytes;
        self.starts.sort_unstable_by(|a, b| name_at(bytes, *a).cmp(name_at(bytes, *b)));
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    #[must_use]
    pub fn get(&self, at: usize) -> Option<&[u8]> {
        self.starts.get(at).map(|start| name_at(&self.bytes, *start))
    }

    #[must_use]
    pub fn taken_bytes(&self) -> usize {
        self.bytes.len() + 4 * self.starts.len()
    }
}

fn name_at(bytes: &[u8], start: u32) -> &[u8] {
    let rest = &bytes[start as usize..];
    &rest[1..=usize::from(rest[0])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_by_byte_and_bounded() {
        let mut names = Names::new(100);
        for name in [&b"b"[..], b"a!", b"\xff", b"a", b"Z"] {
            names.push(name).unwrap();
        }
        names.sort();
        let sorted: Vec<&[u8]> = (0..names.len()).filter_map(|at| names.get(at)).collect();
        assert_eq!(sorted, [&b"Z"[..], b"a", b"a!", b"b", b"\xff"]);
        assert!(names.push(&[b'x'; 200]).is_err() && names.push(b"").is_err() && names.push(b"a/b").is_err());
    }
}
