//! A scan: baseline, what the last scan found, and the tree as it is, in step.

use super::content::Every;
use super::judge::Judge;
use super::rows::Rows;
use super::state::{self, Remembered};
use super::tree::Tree;
use super::walk::{Allowed, Visit, Walk};
use crate::clock::UnixSeconds;
use crate::decide::drift::finding::{self, Aspects, Node};
use crate::decide::drift::path;
use crate::decide::drift::policy::{self, Rule};
use crate::wire::baseline::{BaselineError, Entry, Known, Reader};
use crate::wire::drift as words;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Bound;

/// How to look at a tree.
#[derive(Debug, Clone, Copy)]
pub struct Scan<'a, T> {
    pub tree: &'a T,
    pub rules: &'a [Rule],
    pub look: Look<'a>,
    /// When it begins, Unix seconds by the host's clock.
    pub now: UnixSeconds,
    /// Digest that names the baseline; empty: it has no name, and the state keeps every digest itself.
    pub baseline: &'a str,
    /// 1: all on this thread. 2: a second one reads the larger files.
    pub threads: usize,
}

#[derive(Debug, Clone, Copy)]
pub enum Look<'a> {
    /// All metadata, and the content of what changed and of what has its turn: each byte once in a cycle.
    Due { cycle_seconds: u64 },
    /// All metadata and all content.
    Full,
    /// Some places, since something happened there: their content is read when it changed. Writes no state.
    Only(&'a Spots),
}

/// How far a look at one place goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// This path alone.
    Itself,
    /// A directory and what lies in it, not deeper.
    Children,
    /// A directory and all under it.
    Everything,
}

/// Places to look at. The caller bounds how many.
#[derive(Debug, Clone, Default)]
pub struct Spots(BTreeMap<Vec<u8>, Reach>);

/// What differs and is not allowed, as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub finding: finding::Finding,
    /// What of it the policy does not allow.
    pub left: Aspects,
    pub first_seen: UnixSeconds,
    /// Scans of the whole tree in which it was there, with this one (not counted by [`Look::Only`]).
    pub scans: u32,
    /// Text of a small file, where a rule lets it leave the host.
    pub content: Option<String>,
}

/// What a scan comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Ready for a report but for its `kind` and `overflows`.
    pub scan: words::Scan,
    /// As many findings as fit into a report ([`words::FINDINGS_MAX`], [`words::REPORT_BYTES_MAX`]): those that ask for a
    /// rebuild before the others, the first of each; in the order of their paths.
    pub findings: Vec<words::Finding>,
    pub findings_total: u64,
    /// The first places that were not looked at, as many as fit, in the order of their paths.
    pub gaps: Vec<words::Gap>,
    pub gaps_total: u64,
    /// Files of which some content was read.
    pub files_read: u64,
    /// Files that did not hold still: their content is not known.
    pub changing: u64,
    /// The host's clock stands before times of the last scan; what has such times counted as never read.
    pub clock_set_back: bool,
    /// Why the state could not be kept; the next scan goes by the former one.
    pub state_lost: Option<String>,
}

/// Why nothing can be said of a tree.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("the root of the tree cannot be read")]
    Root(#[source] io::Error),
    #[error("the tree cannot be compared")]
    Baseline(#[from] BaselineError),
}

/// The last gap that is listed where there is no room for all of them; `None`: there is.
pub fn more_gaps(count: u64, since: UnixSeconds) -> Option<words::Gap> {
    let reason = format!("and {count} more places were not looked at");
    (count > 0).then(|| words::Gap { path: words::PathText(b"/".to_vec()), reason, since })
}

impl Summary {
    /// Gaps that are not among [`Summary::gaps`].
    #[must_use]
    pub fn gaps_left_out(&self) -> u64 {
        self.gaps_total.saturating_sub(self.gaps.len() as u64)
    }
}

impl Spots {
    /// A place that is there already keeps the longer reach.
    pub fn add(&mut self, path: &[u8], reach: Reach) {
        let own = self.0.entry(path.to_vec()).or_insert(reach);
        *own = reach.max(*own);
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn reach(&self, path: &[u8]) -> Option<Reach> {
        self.0.get(path).copied()
    }

    /// Whether a path is one of them, or in the reach of one.
    pub(super) fn wants(&self, path: &[u8]) -> bool {
        if self.reach(path).is_some() {
            return true;
        }
        let mut above = ancestors(path);
        above.next().is_some_and(|parent| self.reach(parent) >= Some(Reach::Children)) || self.reaches_everything(path)
    }

    fn reaches_everything(&self, path: &[u8]) -> bool {
        ancestors(path).chain([path]).any(|above| self.reach(above) == Some(Reach::Everything))
    }

    /// Whether something under a directory is wanted.
    pub(super) fn has_under(&self, directory: &[u8]) -> bool {
        self.reach(directory) >= Some(Reach::Children)
            || self.reaches_everything(directory)
            || self.under(directory).next().is_some()
    }

    /// `None`: all names of the directory are wanted. Otherwise those on the way to what is wanted.
    pub(super) fn names_in(&self, directory: &[u8]) -> Option<Vec<&[u8]>> {
        if self.reach(directory) >= Some(Reach::Children) || self.reaches_everything(directory) {
            return None;
        }
        let skip = directory.strip_suffix(b"/").unwrap_or(directory).len() + 1;
        let first = |path: &'_ Vec<u8>| path[skip..].split(|byte| *byte == b'/').next().unwrap_or_default().len();
        let mut names: Vec<&[u8]> = self.under(directory).map(|path| &path[skip..skip + first(path)]).collect();
        names.retain(|name| !name.is_empty());
        names.sort_unstable();
        names.dedup();
        Some(names)
    }

    /// Those that lie under a directory; the map is in the order of bytes, in which they are neighbours.
    fn under(&self, directory: &[u8]) -> impl Iterator<Item = &Vec<u8>> {
        let mut top = directory.strip_suffix(b"/").unwrap_or(directory).to_vec();
        top.push(b'/');
        let from = (Bound::Excluded(top.clone()), Bound::Unbounded);
        self.0.range::<Vec<u8>, _>(from).map(|(path, _)| path).take_while(move |path| path.starts_with(&top))
    }
}

/// The directories above a path, the nearest first.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    slashes.map(|at| &path[..at.max(1)]).filter(move |above| *above != path)
}

impl<T: Tree> Scan<'_, T> {
    /// Findings go to `sink` in the order of their paths, each as soon as it is known. `former` is what the last scan
    /// wrote, `out` is where this one writes the same.
    ///
    /// # Errors
    /// [`ScanError`]. What `sink` was told until then is true; the former state stays.
    pub fn run<R: Read>(
        &self,
        mut baseline: Reader<R>,
        former: Option<state::Reader>,
        out: &mut state::Writer,
        sink: &mut dyn FnMut(&Found),
    ) -> Result<Summary, ScanError> {
        let of_former = former.as_ref().map(|reader| (reader.header.clone(), reader.content_bytes));
        let (former_header, content_bytes) = of_former.unwrap_or_default();
        let mut nothing = state::Writer::none();
        let out = if self.is_whole() { out } else { &mut nothing };
        let number = former_header.number.saturating_add(u64::from(self.is_whole()));
        out.begin(&state::Header { number, began: self.now, baseline: self.baseline.to_owned() });
        let mut judge = Judge::new(self, out, sink, (&former_header, content_bytes));
        for volume in &baseline.header.volumes {
            if let Known::Not { reason } = &volume.known {
                let place = volume.mounted_at.clone().unwrap_or_else(|| format!("partition {}", volume.partition));
                // A look at some places says nothing of the others.
                if self.spots().is_none_or(|spots| spots.wants(place.as_bytes())) {
                    judge.gap(place.as_bytes(), reason, self.now);
                }
            }
        }
        judge.unlisted = baseline.header.unlisted();
        let unlisted = &judge.unlisted.clone();
        let allowed = |directory: &[u8]| {
            if unlisted.contains(directory) {
                let reason = "the baseline does not know the files of the volume that belongs here".to_owned();
                return Some(Allowed { reason, but_privilege: false });
            }
            let left_out = policy::leaves_out(self.rules, directory, self.now)?;
            let but_privilege = left_out.but_privilege;
            let rest =
                if but_privilege { "; looked through for set-uid files, capabilities and devices only" } else { "" };
            Some(Allowed { reason: format!("allowed by {}{rest}", left_out.rule.from), but_privilege })
        };
        let read_bytes: Result<u64, ScanError> = std::thread::scope(|scope| {
            let mut rows = Rows::new(scope, self.tree, self.threads, self.now);
            let mut merge = Merge {
                baseline: &mut baseline,
                spots: self.spots(),
                expected: None,
                former: former.into_iter().flatten().peekable(),
                walk: Walk::new(self.tree, self.spots()),
                visit: None,
                left_out: None,
                thin: None,
                is_begun: false,
            };
            while let Some(step) = merge.next(allowed)? {
                let row = judge.row(step);
                rows.push(row, |row| judge.judge(row));
            }
            rows.finish(|row| judge.judge(row));
            Ok(rows.read_bytes)
        });
        let mut summary = judge.finish(read_bytes?);
        summary.scan.number = number;
        Ok(summary)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.spots().is_none()
    }

    fn spots(&self) -> Option<&Spots> {
        match self.look {
            Look::Only(spots) => Some(spots),
            Look::Due { .. } | Look::Full => None,
        }
    }

    /// The word of a report.
    pub(super) fn kind(&self) -> &'static str {
        match self.look {
            Look::Due { .. } => "metadata",
            Look::Full => "full",
            Look::Only(_) => "events",
        }
    }

    pub(super) fn every(&self) -> Every {
        match self.look {
            Look::Due { cycle_seconds } => Every::Cycle(cycle_seconds),
            Look::Full => Every::Scan,
            // What changed is read.
            Look::Only(_) => Every::Never,
        }
    }
}

/// All that is known of one path, before anything is read.
#[derive(Debug)]
pub(super) struct Step<D> {
    pub path: Vec<u8>,
    pub expected: Option<Node>,
    pub former: Remembered,
    /// Where it lies, and what is there.
    pub visit: Option<Visit<D>>,
}

/// Three streams in the same order; the smallest path is next.
struct Merge<'s, 't, T: Tree, R: Read> {
    baseline: &'s mut Reader<R>,
    spots: Option<&'t Spots>,
    expected: Option<Entry>,
    former: std::iter::Peekable<std::iter::Flatten<std::option::IntoIter<state::Reader>>>,
    walk: Walk<'t, T>,
    visit: Option<Visit<T::Directory>>,
    /// A directory that was not entered: what the baseline has under it is not compared.
    left_out: Option<Vec<u8>>,
    /// The last directory of which only privileges count: what the baseline has under it is compared where the walk tells
    /// of it.
    thin: Option<Vec<u8>>,
    is_begun: bool,
}

impl<T: Tree, R: Read> Merge<'_, '_, T, R> {
    fn next(&mut self, allowed: impl Fn(&[u8]) -> Option<Allowed>) -> Result<Option<Step<T::Directory>>, ScanError> {
        if !self.is_begun {
            self.is_begun = true;
            self.expected = self.next_expected()?;
            self.visit = self.walk.next(&allowed).map_err(ScanError::Root)?;
        }
        let order = loop {
            let order = match (&self.visit, &self.expected) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(visit), Some(expected)) => path::order(&visit.path, &expected.path),
            };
            if order != Ordering::Greater || !self.is_untold() {
                break order;
            }
            self.expected = None;
            self.advance_expected()?;
        };
        let (mut visit, mut expected) = (None, None);
        if order != Ordering::Greater {
            visit = self.visit.take();
            // Before the baseline goes on, so that it knows what is left out.
            self.left_out = visit.as_ref().filter(|visit| visit.is_end).map(|visit| visit.path.clone());
            if let Some(visit) = visit.as_ref().filter(|visit| visit.is_thin) {
                self.thin = Some(visit.path.clone());
            }
        }
        if order != Ordering::Less {
            expected = self.expected.take();
        }
        let path = visit.as_ref().map(|visit| visit.path.clone());
        let Some(path) = path.or_else(|| expected.as_ref().map(|entry| entry.path.clone())) else { return Ok(None) };
        if expected.is_some() || self.left_out.is_some() {
            self.advance_expected()?;
        }
        if visit.is_some() {
            self.visit = self.walk.next(&allowed).map_err(ScanError::Root)?;
        }
        let former = self.former_of(&path);
        Ok(Some(Step { path, expected: expected.map(|entry| entry.node), former, visit }))
    }

    /// Whether the walk does not tell of the next entry because nobody asks about it.
    fn is_untold(&self) -> bool {
        self.thin.as_ref().zip(self.expected.as_ref()).is_some_and(|(top, entry)| path::is_within(&entry.path, top))
    }

    /// The next entry that is compared.
    fn advance_expected(&mut self) -> Result<(), ScanError> {
        loop {
            if self.expected.is_none() {
                self.expected = self.next_expected()?;
            }
            let Some(entry) = &self.expected else { return Ok(()) };
            let is_left_out = self.left_out.as_ref().is_some_and(|top| path::is_within(&entry.path, top));
            if !is_left_out {
                return Ok(());
            }
            self.expected = None;
        }
    }

    fn next_expected(&mut self) -> Result<Option<Entry>, ScanError> {
        loop {
            let Some(entry) = self.baseline.next().transpose()? else { return Ok(None) };
            if self.spots.is_none_or(|spots| spots.wants(&entry.path)) {
                return Ok(Some(entry));
            }
        }
    }

    fn former_of(&mut self, path: &[u8]) -> Remembered {
        while self.former.next_if(|(own, _)| path::order(own, path) == Ordering::Less).is_some() {}
        self.former.next_if(|(own, _)| own == path).map(|(_, remembered)| remembered).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spots_are_reached_through_their_directories_and_no_further() {
        let mut spots = Spots::default();
        spots.add(b"/etc/passwd", Reach::Itself);
        spots.add(b"/etc/ssh", Reach::Children);
        spots.add(b"/opt", Reach::Everything);
        for (path, wanted) in [
            ("/", false),
            ("/etc", false),
            ("/etc/passwd", true),
            ("/etc/passwd-", false),
            ("/etc/ssh", true),
            ("/etc/ssh/a", true),
            ("/etc/ssh/a/b", false),
            ("/opt", true),
            ("/opt/a/b/c", true),
            ("/optic", false),
        ] {
            assert_eq!(spots.wants(path.as_bytes()), wanted, "{path}");
        }
        assert_eq!(spots.names_in(b"/"), Some(vec![&b"etc"[..], b"opt"]));
        assert_eq!(spots.names_in(b"/etc"), Some(vec![&b"passwd"[..], b"ssh"]));
        assert_eq!((spots.names_in(b"/etc/ssh"), spots.names_in(b"/opt/a")), (None, None));
        assert!(spots.has_under(b"/") && spots.has_under(b"/etc") && spots.has_under(b"/opt/a"));
        assert!(!spots.has_under(b"/etc/ssh/a") && !spots.has_under(b"/usr"));
    }
}
