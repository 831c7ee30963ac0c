//! Several file systems as the one tree that their system sees: at a mount point the mounted one stands in place of the
//! directory and of what is in it.

use std::fmt;

use super::{Fault, Found, Tree, VolumeError};
use crate::decide::drift::finding::Digest;
use crate::decide::drift::finding::Kind;
use crate::decide::drift::path;

/// File systems of one image. Each has a number for its files' identity.
const MOUNTS_MAX: usize = 1024;

/// What stands at a mount point.
struct Mount<'d> {
    /// Absolute, without a slash at its end; `/` for the first.
    at: Vec<u8>,
    /// `None`: something is mounted there that is not walked; nothing at or under it is found.
    tree: Option<Box<dyn Tree + 'd>>,
    /// Where it begins on the disk, for the order of reading.
    start_bytes: u64,
}

/// A walk over all of them.
pub struct Merged<'d> {
    mounts: Vec<Mount<'d>>,
    /// Those that are being walked, the innermost last.
    open: Vec<usize>,
    is_begun: bool,
}

impl fmt::Debug for Merged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merged").field("mounts", &self.mounts.len()).finish_non_exhaustive()
    }
}

impl<'d> Merged<'d> {
    /// Begins with what is mounted at `/`; `None` for a root that is not walked.
    #[must_use]
    pub fn new(root: Option<Box<dyn Tree + 'd>>, start_bytes: u64) -> Merged<'d> {
        let root = Mount { at: b"/".to_vec(), tree: root, start_bytes };
        Merged { mounts: vec![root], open: Vec::new(), is_begun: false }
    }

    /// Mounts another one; outer mounts come before inner ones. `None` for one that cannot be or is not to be walked.
    /// Its number, counted from the root's 0.
    ///
    /// # Errors
    /// There is no such directory, or something is mounted there.
    pub fn mount(
        &mut self,
        at: &[u8],
        tree: Option<Box<dyn Tree + 'd>>,
        start_bytes: u64,
    ) -> Result<usize, VolumeError> {
        if self.mounts.len() >= MOUNTS_MAX || self.mounts.iter().any(|mount| mount.at == at) {
            return Err(Fault::Damaged("two file systems are mounted there".to_owned()).at(at));
        }
        // What is not walked is not asked for its directories either.
        let holder = self.holder(at);
        if self.tree(holder).is_some() {
            let place = self.find(at)?;
            if place.is_none_or(|place| place.node.kind != Kind::Directory) {
                return Err(Fault::Damaged("there is no directory to mount a file system on".to_owned()).at(at));
            }
        }
        self.mounts.push(Mount { at: at.to_vec(), tree, start_bytes });
        Ok(self.mounts.len() - 1)
    }

    /// The next to walk: this one, or where it is not walked, those that are mounted in it.
    fn enter(&mut self, number: usize) {
        if self.tree(number).is_some() {
            self.open.push(number);
            return;
        }
        let Some(at) = self.mounts.get(number).map(|mount| mount.at.clone()) else { return };
        let is_inside = |inner: &usize| {
            self.mounts.get(*inner).is_some_and(|mount| {
                *inner != number && path::is_within(&mount.at, &at) && self.outer_of(*inner) == Some(number)
            })
        };
        let mut inside: Vec<usize> = (0..self.mounts.len()).filter(is_inside).collect();
        // The first is to be on top.
        inside.sort_by(|a, b| path::order(&self.mounts[*b].at, &self.mounts[*a].at));
        inside.into_iter().for_each(|inner| self.enter(inner));
    }

    /// The mount in which this one's mount point lies.
    fn outer_of(&self, number: usize) -> Option<usize> {
        let at = &self.mounts.get(number)?.at;
        let holding = self.mounts.iter().enumerate();
        let holding = holding.filter(|(other, mount)| *other != number && path::is_within(at, &mount.at));
        holding.max_by_key(|(_, mount)| mount.at.len()).map(|(other, _)| other)
    }

    /// The mount that holds a path: the innermost.
    #[must_use]
    pub fn holder(&self, path: &[u8]) -> usize {
        let holding = self.mounts.iter().enumerate().filter(|(_, mount)| path::is_within(path, &mount.at));
        holding.max_by_key(|(_, mount)| mount.at.len()).map_or(0, |(number, _)| number)
    }

    /// A found thing as the whole tree has it.
    fn lift(&self, number: usize, mut found: Found) -> Found {
        if let Some(mount) = self.mounts.get(number) {
            found.path = outer(&mount.at, found.path);
            found.place_bytes = found.place_bytes.saturating_add(mount.start_bytes);
        }
        // Inodes have 32 bits.
        found.inode |= (number as u64) << 32;
        found
    }

    fn tree(&mut self, number: usize) -> Option<&mut (dyn Tree + 'd)> {
        self.mounts.get_mut(number)?.tree.as_deref_mut()
    }

    /// Puts the place in the whole tree into an error.
    fn place<T>(&self, number: usize, done: Result<T, VolumeError>) -> Result<T, VolumeError> {
        let at = self.mounts.get(number).map_or(&b"/"[..], |mount| &mount.at);
        done.map_err(|error| VolumeError {
            path: Some(error.path.map_or_else(|| at.to_vec(), |path| outer(at, path))),
            fault: error.fault,
        })
    }
}

fn outer(at: &[u8], inner: Vec<u8>) -> Vec<u8> {
    match (at, &inner[..]) {
        (b"/", _) => inner,
        (_, b"/") => at.to_vec(),
        _ => [at, &inner].concat(),
    }
}

impl Tree for Merged<'_> {
    fn next_found(&mut self) -> Result<Option<Found>, VolumeError> {
        if !self.is_begun {
            self.is_begun = true;
            self.enter(0);
        }
        loop {
            let Some(number) = self.open.last().copied() else {
                return Ok(None);
            };
            let next = match self.tree(number) {
                Some(tree) => tree.next_found(),
                None => Ok(None),
            };
            let Some(found) = self.place(number, next)? else {
                self.open.pop();
                continue;
            };
            let found = self.lift(number, found);
            let mounted = self.mounts.iter().position(|mount| mount.at == found.path);
            match mounted.filter(|mounted| *mounted != number) {
                None => return Ok(Some(found)),
                Some(mounted) => {
                    self.skip();
                    self.enter(mounted);
                }
            }
        }
    }

    fn skip(&mut self) {
        if let Some(tree) = self.open.last().copied().and_then(|number| self.tree(number)) {
            tree.skip();
        }
    }

    fn digest(&mut self, found: &Found) -> Result<Option<Digest>, VolumeError> {
        let number = (found.inode >> 32) as usize;
        let inner = self.lower(number, found);
        let done = self.tree(number).map_or(Ok(None), |tree| tree.digest(&inner));
        self.place(number, done)
    }

    fn read(&mut self, found: &Found, bytes_max: usize) -> Result<Vec<u8>, VolumeError> {
        let number = (found.inode >> 32) as usize;
        let inner = self.lower(number, found);
        let done = self.tree(number).map_or(Ok(Vec::new()), |tree| tree.read(&inner, bytes_max));
        self.place(number, done)
    }

    fn find(&mut self, path: &[u8]) -> Result<Option<Found>, VolumeError> {
        let number = self.holder(path);
        let inner = inner_path(self.mounts.get(number).map_or(b"/", |mount| &mount.at), path);
        let done = self.tree(number).map_or(Ok(None), |tree| tree.find(&inner));
        let found = self.place(number, done)?;
        Ok(found.map(|found| self.lift(number, found)))
    }
}

impl Merged<'_> {
    fn lower(&self, number: usize, found: &Found) -> Found {
        let at = self.mounts.get(number).map_or(&b"/"[..], |mount| &mount.at);
        Found { path: inner_path(at, &found.path), ..found.clone() }
    }
}

fn inner_path(at: &[u8], path: &[u8]) -> Vec<u8> {
    match path.strip_prefix(at) {
        _ if at == b"/" => path.to_vec(),
        Some([]) | None => b"/".to_vec(),
        Some(inner) => inner.to_vec(),
    }
}
