//! The tree of files that a host's system would see, put together from its disk: each volume where the image's baseline
//! says that it is mounted, read without mounting it, or by the kernel where nothing else knows its format.
//!
//! The scan of the installed agent goes through it (`drift::scan`), so that the same state gives the same findings.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blocks::OF_THE_DISK;
use crate::agent::drift::live::{LiveDirectory, LiveFile};
use crate::agent::drift::{Content, Identity, LiveTree, Names, Seen, Tree};
use crate::causes;
use crate::decide::drift::finding::{self, Kind};
use crate::decide::drift::path;
use crate::volume::lookup::{self, Layout, Lookup};
use crate::volume::{Found, VolumeError};

/// Names of one directory, as read; what the scan holds of them has a bound of its own.
const NAMES_BYTES_MAX: usize = 64 << 20;

/// One file system of the disk.
pub struct Volume {
    /// Absolute, in the running system.
    pub mounted_at: Vec<u8>,
    /// Tells files of one from those of another.
    pub partition: u32,
    pub files: Files,
}

/// How its files are read.
pub enum Files {
    Read(Shared),
    /// Mounted read-only somewhere.
    Kernel(LiveTree),
}

/// One reader for all threads: it has one place on the disk.
type Shared = Arc<Mutex<Box<dyn Lookup>>>;

/// All of them. The first is the root.
pub struct OutsideTree {
    root: Volume,
    others: Vec<Volume>,
    /// Where a volume belongs that cannot be read, and why.
    missing: Vec<(Vec<u8>, String)>,
}

impl std::fmt::Debug for OutsideTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at: Vec<_> = self.others.iter().map(|volume| path::to_text(&volume.mounted_at)).collect();
        f.debug_struct("OutsideTree").field("beside the root", &at).field("missing", &self.missing).finish()
    }
}

/// A directory of one of them.
pub struct Directory {
    /// Where its volume is among the others; `None`: the root's.
    volume: Option<usize>,
    place: Place,
}

enum Place {
    Read(lookup::Names),
    Kernel(LiveDirectory),
}

pub enum File {
    Read { shared: Shared, found: Box<Found>, layout: Layout, identity: Identity },
    Kernel(LiveFile),
}

impl OutsideTree {
    #[must_use]
    pub fn new(root: Volume, others: Vec<Volume>, missing: Vec<(Vec<u8>, String)>) -> OutsideTree {
        OutsideTree { root, others, missing }
    }

    fn volume(&self, number: Option<usize>) -> &Volume {
        number.and_then(|number| self.others.get(number)).unwrap_or(&self.root)
    }

    fn mounted_on(&self, path: &[u8]) -> Option<usize> {
        self.others.iter().position(|volume| volume.mounted_at == path)
    }

    fn root_of(&self, number: Option<usize>) -> io::Result<(Directory, Seen)> {
        let volume = self.volume(number);
        match &volume.files {
            Files::Kernel(tree) => {
                let (directory, seen) = tree.root()?;
                Ok((Directory { volume: number, place: Place::Kernel(directory) }, seen))
            }
            Files::Read(shared) => {
                let mut reader = lock(shared);
                let found = reader.root().map_err(unreadable)?;
                let names = reader.names(&found, NAMES_BYTES_MAX).map_err(unreadable)?;
                Ok((Directory { volume: number, place: Place::Read(names) }, seen(volume, &found)))
            }
        }
    }

    /// As the root of its volume shows it, which may be asked for its names only once.
    fn look_at_root(&self, number: usize) -> io::Result<Seen> {
        let volume = self.volume(Some(number));
        match &volume.files {
            Files::Kernel(tree) => tree.root().map(|(_, seen)| seen),
            Files::Read(shared) => Ok(seen(volume, &lock(shared).root().map_err(unreadable)?)),
        }
    }

    /// What a report says under this name it says of the disk; nothing of a host may look like that.
    fn closed(&self, at: &[u8], kind: &Kind) -> Option<String> {
        let missing = self.missing.iter().find(|(path, _)| path == at);
        if let Some((_, reason)) = missing {
            return Some(reason.clone());
        }
        let is_reserved = path::is_within(OF_THE_DISK.as_bytes(), at) && at != b"/" && *kind == Kind::Directory;
        is_reserved.then(|| "the name is kept for what reports say of the disk itself".to_owned())
    }
}

fn found_at(names: &lookup::Names, name: &[u8]) -> io::Result<u64> {
    let at = names.binary_search_by(|(own, _)| own.as_slice().cmp(name));
    at.ok().and_then(|at| names.get(at)).map(|(_, number)| *number).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn lock(shared: &Shared) -> MutexGuard<'_, Box<dyn Lookup>> {
    // A reader that panicked may stand anywhere, and seeks before each read.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unreadable(error: VolumeError) -> io::Error {
    io::Error::other(causes::in_one_line(&error))
}

/// In the volume's own tree.
fn inside<'p>(volume: &Volume, at: &'p [u8]) -> &'p [u8] {
    let top = volume.mounted_at.strip_suffix(b"/").unwrap_or(&volume.mounted_at);
    at.strip_prefix(top).unwrap_or(at)
}

fn seen(volume: &Volume, found: &Found) -> Seen {
    let mut node = found.node.clone();
    node.xattrs.retain(|(name, _)| finding::xattr_counts(name));
    node.xattrs.sort();
    let bytes = if let Kind::File { bytes, .. } = node.kind { bytes } else { 0 };
    let identity = Identity {
        device: u64::from(volume.partition),
        inode: found.inode,
        ctime_ns: 0,
        mtime_ns: node.modified.saturating_mul(1_000_000_000),
        bytes,
    };
    // Of FAT no inode is known, and it has no second names.
    let links = if found.inode == 0 { 1 } else { u64::from(found.links) };
    Seen { node, identity, links, closed: None }
}

impl Tree for OutsideTree {
    type Directory = Directory;
    type File = File;

    fn root(&self) -> io::Result<(Directory, Seen)> {
        self.root_of(None)
    }

    fn names(&self, directory: &Directory, room_bytes: usize) -> io::Result<Names> {
        let read = match (&directory.place, &self.volume(directory.volume).files) {
            (Place::Kernel(inner), Files::Kernel(tree)) => return tree.names(inner, room_bytes),
            (Place::Read(read), _) => read,
            (Place::Kernel(_), Files::Read(_)) => return Err(io::ErrorKind::NotFound.into()),
        };
        let mut names = Names::new(room_bytes);
        read.iter().try_for_each(|(name, _)| names.push(name))?;
        names.sort();
        Ok(names)
    }

    fn look(&self, directory: &Directory, name: &[u8], path: &[u8]) -> io::Result<Seen> {
        if let Some(number) = self.mounted_on(path) {
            return self.look_at_root(number);
        }
        let volume = self.volume(directory.volume);
        let seen = match (&directory.place, &volume.files) {
            (Place::Kernel(inner), Files::Kernel(tree)) => tree.look(inner, name, inside(volume, path))?,
            (Place::Read(names), Files::Read(shared)) => {
                let number = found_at(names, name)?;
                seen(volume, &lock(shared).at(number, path).map_err(unreadable)?)
            }
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        let closed = self.closed(path, &seen.node.kind).or(seen.closed);
        Ok(Seen { closed, ..seen })
    }

    fn enter(&self, directory: &Directory, name: &[u8], path: &[u8]) -> io::Result<Directory> {
        if let Some(number) = self.mounted_on(path) {
            return self.root_of(Some(number)).map(|(directory, _)| directory);
        }
        let number = directory.volume;
        let volume = self.volume(number);
        let place = match (&directory.place, &volume.files) {
            (Place::Kernel(inner), Files::Kernel(tree)) => {
                Place::Kernel(tree.enter(inner, name, inside(volume, path))?)
            }
            (Place::Read(names), Files::Read(shared)) => {
                let mut reader = lock(shared);
                let found = reader.at(found_at(names, name)?, path).map_err(unreadable)?;
                Place::Read(reader.names(&found, NAMES_BYTES_MAX).map_err(unreadable)?)
            }
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Directory { volume: number, place })
    }

    fn open(&self, directory: &Directory, name: &[u8], path: &[u8]) -> io::Result<File> {
        let volume = self.volume(directory.volume);
        match (&directory.place, &volume.files) {
            (Place::Kernel(inner), Files::Kernel(tree)) => {
                Ok(File::Kernel(tree.open(inner, name, inside(volume, path))?))
            }
            (Place::Read(names), Files::Read(shared)) => {
                let number = found_at(names, name)?;
                let mut reader = lock(shared);
                let found = reader.at(number, path).map_err(unreadable)?;
                let layout = reader.layout(&found).map_err(unreadable)?;
                let identity = seen(volume, &found).identity;
                drop(reader);
                Ok(File::Read { shared: Arc::clone(shared), found: Box::new(found), layout, identity })
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Content for File {
    fn identity(&self) -> io::Result<Identity> {
        match self {
            // The disk does not change while it is looked at.
            File::Read { identity, .. } => Ok(*identity),
            File::Kernel(file) => file.identity(),
        }
    }

    fn read_at(&mut self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            File::Read { shared, found, layout, .. } => {
                lock(shared).read_at(found, layout, offset_bytes, buffer).map_err(unreadable)
            }
            File::Kernel(file) => file.read_at(offset_bytes, buffer),
        }
    }

    fn next_data(&mut self, offset_bytes: u64) -> u64 {
        match self {
            File::Read { layout, .. } => layout.next_data(offset_bytes),
            File::Kernel(file) => file.next_data(offset_bytes),
        }
    }
}
