//! What changed since it was last looked at: paths, up to a bound. Beyond it: everything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A package of this many files is looked at path by path; a larger change costs a look at all metadata, which is
/// cheaper by then.
const PATHS_MAX: usize = 4096;
const BYTES_MAX: usize = 512 << 10;
/// A tree in which something changes all the time is looked at at the latest so long after the first change.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How much of a path is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    Itself,
    /// It is a directory that came or went as a whole: nothing was said of what is in it.
    AllUnder,
}

#[derive(Debug, Default)]
pub(super) struct Dirty {
    paths: BTreeMap<Vec<u8>, Depth>,
    bytes: usize,
    everything: bool,
    first: Option<Instant>,
    last: Option<Instant>,
}

/// What there is to look at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Changes {
    Everything,
    Paths(BTreeMap<Vec<u8>, Depth>),
}

impl Dirty {
    /// True when it just became everything.
    pub(super) fn add(&mut self, path: Vec<u8>, depth: Depth, now: Instant) -> bool {
        self.touch(now);
        if self.everything {
            return false;
        }
        if !self.paths.contains_key(&path) {
            if self.paths.len() >= PATHS_MAX || self.bytes + path.len() > BYTES_MAX {
                return self.add_everything(now);
            }
            self.bytes += path.len();
        }
        let kept = self.paths.entry(path).or_insert(depth);
        *kept = depth.max(*kept);
        false
    }

    /// True when it was not everything before.
    pub(super) fn add_everything(&mut self, now: Instant) -> bool {
        self.touch(now);
        self.paths.clear();
        self.bytes = 0;
        !std::mem::replace(&mut self.everything, true)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn touch(&mut self, now: Instant) {
        self.first = self.first.or(Some(now));
        self.last = Some(now);
    }

    /// When it is to be looked at: once nothing has changed for `settle`, since a file that is being written would be
    /// read again and again; but not later than [`PATIENCE`] after the first change. `None`: nothing changed.
    pub(super) fn ripe_at(&self, settle: Duration) -> Option<Instant> {
        let (first, last) = self.first.zip(self.last)?;
        Some((last + settle).min(first + PATIENCE.max(settle)))
    }

    pub(super) fn take(&mut self) -> Changes {
        let taken = std::mem::take(self);
        if taken.everything { Changes::Everything } else { Changes::Paths(taken.paths) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn beyond_the_bound_it_is_everything_and_never_less() {
        let (mut dirty, now) = (Dirty::default(), clock::instant());
        for number in 0..PATHS_MAX {
            dirty.add(format!("/{number}").into_bytes(), Depth::Itself, now);
        }
        dirty.add(b"/0".to_vec(), Depth::AllUnder, now);
        assert!(!dirty.everything, "no more paths than before");
        let mut other = Dirty::default();
        other.add(vec![b'/'; BYTES_MAX + 1], Depth::Itself, now);
        assert_eq!(other.take(), Changes::Everything);
        dirty.add(b"/one more".to_vec(), Depth::Itself, now);
        dirty.add(b"/0".to_vec(), Depth::Itself, now);
        assert_eq!(dirty.take(), Changes::Everything);
        assert_eq!(dirty.ripe_at(Duration::ZERO), None, "taken is taken");
    }

    #[test]
    fn a_tree_that_never_rests_is_looked_at_all_the_same() {
        let (mut dirty, began, second) = (Dirty::default(), clock::instant(), Duration::from_secs(1));
        for after in 0..200 {
            dirty.add(b"/a".to_vec(), Depth::Itself, began + second * after);
        }
        assert_eq!(dirty.ripe_at(second * 10), Some(began + PATIENCE));
        dirty.take();
        dirty.add(b"/a".to_vec(), Depth::AllUnder, began);
        dirty.add(b"/a".to_vec(), Depth::Itself, began + second);
        assert_eq!(dirty.ripe_at(second * 10), Some(began + second * 11));
        assert_eq!(dirty.take(), Changes::Paths([(b"/a".to_vec(), Depth::AllUnder)].into()));
    }
}
