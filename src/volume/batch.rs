//! A walk with digests, content read in the order of the disk.
//!
//! Files lie on a disk in the order in which they were written, not in that of their names. Read in the order of names, a
//! hard disk seeks for each, and frames of an image's packs are unpacked more than once. So some tens of thousands of
//! entries are gathered, read by place, and handed on by name.

use std::collections::{HashMap, VecDeque};

use super::{Found, Tree, VolumeError};
use crate::decide::drift::finding::{Digest, Kind};

/// Bounds on what is gathered: with a few hundred bytes for each entry this is at most some 40 MB.
const ENTRIES_MAX: usize = 1 << 16;
const BYTES_MAX: usize = 16 << 20;
/// Digests of files with more than one name that are remembered. One beyond it is read once more.
const LINKED_MAX: usize = 1 << 18;

/// An iterator over everything in a tree; files for which `wants` says so have their digest.
pub struct Hashed<'t, W> {
    tree: &'t mut dyn Tree,
    wants: W,
    stopping: Option<&'t dyn Fn() -> bool>,
    ready: VecDeque<Found>,
    linked: HashMap<u64, Option<Digest>>,
    /// What ends the walk, once what came before it was handed on.
    error: Option<VolumeError>,
    is_over: bool,
}

impl<W> std::fmt::Debug for Hashed<'_, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hashed").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

impl<'t, W: FnMut(&Found) -> bool> Hashed<'t, W> {
    /// `wants` is asked once for each file, in the order of the walk.
    pub fn new(tree: &'t mut dyn Tree, wants: W) -> Hashed<'t, W> {
        Hashed {
            tree,
            wants,
            stopping: None,
            ready: VecDeque::new(),
            linked: HashMap::new(),
            error: None,
            is_over: false,
        }
    }

    /// Ends early, without an error, once `stopping` says so: asked before each file.
    #[must_use]
    pub fn until(self, stopping: &'t dyn Fn() -> bool) -> Hashed<'t, W> {
        Hashed { stopping: Some(stopping), ..self }
    }

    fn gather(&mut self) -> Result<(), VolumeError> {
        let mut wanted: Vec<(u64, usize)> = Vec::new();
        let mut bytes = 0;
        while self.ready.len() < ENTRIES_MAX && bytes < BYTES_MAX {
            let found = match self.tree.next_found() {
                Ok(Some(found)) => found,
                Ok(None) => {
                    self.is_over = true;
                    break;
                }
                Err(error) => {
                    self.is_over = true;
                    self.error = Some(error);
                    break;
                }
            };
            bytes += found.path.len()
                + found.node.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            bytes += found.content_bytes();
            if matches!(found.node.kind, Kind::File { .. }) && (self.wants)(&found) {
                wanted.push((found.place_bytes, self.ready.len()));
            }
            self.ready.push_back(found);
        }
        wanted.sort_unstable();
        for (_, at) in wanted {
            if self.stopping.is_some_and(|stopping| stopping()) {
                self.is_over = true;
                self.ready.clear();
                return Ok(());
            }
            // `at` was this deque's length when the entry was pushed, and nothing was taken out since.
            let Some(found) = self.ready.get_mut(at) else { continue };
            let known = self.linked.get(&found.inode).copied().filter(|_| found.links > 1);
            let content = match known {
                Some(known) => known,
                None => self.tree.digest(found)?,
            };
            if found.links > 1 && self.linked.len() < LINKED_MAX {
                self.linked.insert(found.inode, content);
            }
            if let Kind::File { digest, .. } = &mut found.node.kind {
                *digest = content;
            }
        }
        Ok(())
    }
}

impl<W: FnMut(&Found) -> bool> Iterator for Hashed<'_, W> {
    type Item = Result<Found, VolumeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty()
            && !self.is_over
            && let Err(error) = self.gather()
        {
            self.is_over = true;
            self.ready.clear();
            return Some(Err(error));
        }
        let next = self.ready.pop_front();
        next.map(Ok).or_else(|| self.error.take().map(Err))
    }
}
