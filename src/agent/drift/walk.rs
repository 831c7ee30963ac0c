//! A tree in the order of `path::order`: each directory before what is in it, names sorted. What it does not enter is
//! said with the reason.

use super::scan::Spots;
use super::tree::{Names, Seen, Tree};
use crate::decide::drift::finding::{self, Kind};
use crate::wire::baseline::PATH_BYTES_MAX;
use std::io;
use std::sync::Arc;

/// Open directories at a time, each with a descriptor; a process has 1,024 by default. Deeper places are gaps.
const DEPTH_MAX: usize = 200;
/// Of all names that are held at a time. A directory that needs more is a gap.
const NAMES_BYTES_MAX: usize = 64 << 20;

/// One thing on the way.
#[derive(Debug)]
pub struct Visit<D> {
    pub path: Vec<u8>,
    /// The directory that it lies in; `None` for the root.
    pub directory: Option<Arc<D>>,
    /// What is there; why it cannot be said.
    pub seen: Result<Seen, String>,
    /// Why what lies under it is not looked at, or it itself not wholly. Nothing under it comes, then.
    pub gap: Option<String>,
    /// What lies under it is left out.
    pub is_end: bool,
    /// Of what lies under it only that comes which has a privilege, and what cannot be looked at.
    pub is_thin: bool,
}

/// What the policy allows in a directory.
#[derive(Debug)]
pub struct Allowed {
    /// For people.
    pub reason: String,
    /// Everything but privileges; else everything.
    pub but_privilege: bool,
}

/// The name of a path's last component.
pub fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

pub struct Walk<'t, T: Tree> {
    tree: &'t T,
    spots: Option<&'t Spots>,
    levels: Vec<Level<T::Directory>>,
    names_bytes: usize,
    is_begun: bool,
}

struct Level<D> {
    directory: Arc<D>,
    names: Names,
    next: usize,
    path: Vec<u8>,
    /// Device and inode: one that is met again under itself (a bind mount) is not entered.
    identity: (u64, u64),
    /// Only privileges count in it.
    is_thin: bool,
}

impl<'t, T: Tree> Walk<'t, T> {
    /// `spots`: only these, and the directories on the way to them.
    pub fn new(tree: &'t T, spots: Option<&'t Spots>) -> Walk<'t, T> {
        Walk { tree, spots, levels: Vec::new(), names_bytes: 0, is_begun: false }
    }

    /// The next thing; `allowed` says what of a directory is left out by the policy.
    ///
    /// # Errors
    /// The root cannot be looked at.
    pub fn next(&mut self, allowed: impl Fn(&[u8]) -> Option<Allowed>) -> io::Result<Option<Visit<T::Directory>>> {
        if !self.is_begun {
            self.is_begun = true;
            let (directory, seen) = self.tree.root()?;
            let path = b"/".to_vec();
            let allowed = allowed(&path);
            let is_thin = allowed.as_ref().is_some_and(|allowed| allowed.but_privilege);
            let mut is_end = allowed.is_some() && !is_thin;
            let mut gap = allowed.map(|allowed| allowed.reason);
            if !is_end && let Err(reason) = self.push(directory, path.clone(), &seen, is_thin) {
                (gap, is_end) = (Some(reason), true);
            }
            let visit = Visit { path, directory: None, seen: Ok(seen), gap, is_end, is_thin };
            if self.wants(&visit.path) {
                return Ok(Some(visit));
            }
        }
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.names.get(level.next) else {
                self.names_bytes -= level.names.taken_bytes();
                self.levels.pop();
                continue;
            };
            let mut path = Vec::with_capacity(level.path.len() + 1 + name.len());
            path.extend_from_slice(level.path.strip_suffix(b"/").unwrap_or(&level.path));
            path.push(b'/');
            path.extend_from_slice(name);
            level.next += 1;
            let directory = Arc::clone(&level.directory);
            let is_thin = level.is_thin;
            let visit = self.visit(path, directory, is_thin, &allowed);
            // The end of a way to a spot is told, too: what the baseline has there is not gone.
            let is_told = |visit: &Visit<_>| {
                self.wants(&visit.path) || (visit.is_end || visit.is_thin) && self.is_on_the_way(&visit.path)
            };
            if let Some(visit) = visit.filter(is_told) {
                return Ok(Some(visit));
            }
        }
        Ok(None)
    }

    fn wants(&self, path: &[u8]) -> bool {
        self.spots.is_none_or(|spots| spots.wants(path))
    }

    fn visit(
        &mut self,
        path: Vec<u8>,
        directory: Arc<T::Directory>,
        is_in_thin: bool,
        allowed: impl Fn(&[u8]) -> Option<Allowed>,
    ) -> Option<Visit<T::Directory>> {
        let looked = if is_in_thin {
            self.look_for_privilege(&directory, &path)
        } else {
            self.tree.look(&directory, name_of(&path), &path).map(Some)
        };
        let seen = match looked {
            // Removed since the directory was read, or a spot that is not there.
            Err(error) if is_gone(&error) => return None,
            Err(error) => Err(error.to_string()),
            Ok(seen) => Ok(seen?),
        };
        let is_directory = seen.as_ref().is_ok_and(|seen| matches!(seen.node.kind, Kind::Directory));
        let mut gap = seen.as_ref().map_or_else(|error| Some(error.clone()), |seen| seen.closed.clone());
        let mut is_end = gap.is_some() && (is_directory || seen.is_err());
        let mut is_thin = false;
        if let (true, None, Ok(found)) = (is_directory, &gap, &seen) {
            // A directory in a thin one is thin and was said with it; it may be left out wholly.
            let allowed = allowed(&path).filter(|allowed| !(is_in_thin && allowed.but_privilege));
            is_thin = allowed.as_ref().is_some_and(|allowed| allowed.but_privilege);
            is_end = allowed.is_some() && !is_thin;
            gap = allowed.map(|allowed| allowed.reason);
            if !is_end && self.is_on_the_way(&path) {
                match self.enter(&path, &directory, found, is_in_thin || is_thin) {
                    Err(None) => return None,
                    Err(Some(reason)) => (gap, is_end) = (Some(reason), true),
                    Ok(()) => {}
                }
            }
            if is_in_thin && !is_end {
                return None;
            }
        }
        Some(Visit { path, directory: Some(directory), seen, gap, is_end, is_thin })
    }

    /// What is there if it is a directory or has a privilege.
    fn look_for_privilege(&self, directory: &T::Directory, path: &[u8]) -> io::Result<Option<Seen>> {
        let seen = self.tree.look_lightly(directory, name_of(path), path)?;
        if matches!(seen.node.kind, Kind::Directory) {
            return Ok(Some(seen));
        }
        if !finding::is_privileged(&seen.node) {
            return Ok(None);
        }
        self.tree.look(directory, name_of(path), path).map(Some)
    }

    fn is_on_the_way(&self, path: &[u8]) -> bool {
        self.spots.is_none_or(|spots| spots.has_under(path))
    }

    /// `None` as error: it is gone.
    fn enter(
        &mut self,
        path: &[u8],
        directory: &T::Directory,
        seen: &Seen,
        is_thin: bool,
    ) -> Result<(), Option<String>> {
        if self.levels.len() >= DEPTH_MAX {
            return Err(Some(format!("deeper than {DEPTH_MAX} directories")));
        }
        if path.len() + 256 > PATH_BYTES_MAX {
            return Err(Some(format!("paths in it are longer than {PATH_BYTES_MAX} bytes")));
        }
        let identity = (seen.identity.device, seen.identity.inode);
        if identity.1 != 0 && self.levels.iter().any(|level| level.identity == identity) {
            return Err(Some("the directory lies in itself: a mount".to_owned()));
        }
        let entered = self.tree.enter(directory, name_of(path), path);
        let entered = entered.map_err(|error| (!is_gone(&error)).then(|| error.to_string()))?;
        self.push(entered, path.to_vec(), seen, is_thin).map_err(Some)
    }

    fn push(&mut self, directory: T::Directory, path: Vec<u8>, seen: &Seen, is_thin: bool) -> Result<(), String> {
        let room_bytes = NAMES_BYTES_MAX - self.names_bytes;
        let names = match self.spots.and_then(|spots| spots.names_in(&path)) {
            Some(listed) => {
                let mut names = Names::new(room_bytes);
                listed.iter().try_for_each(|name| names.push(name)).map(|()| names)
            }
            None => self.tree.names(&directory, room_bytes),
        };
        let names = names.map_err(|error| error.to_string())?;
        self.names_bytes += names.taken_bytes();
        let identity = (seen.identity.device, seen.identity.inode);
        self.levels.push(Level { directory: Arc::new(directory), names, next: 0, path, identity, is_thin });
        Ok(())
    }
}

/// `ENOTDIR`: a directory on the way became something else.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
