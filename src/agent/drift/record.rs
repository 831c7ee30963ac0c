//! A baseline of a tree: for volumes that the server cannot read without mounting, and for tests.

use super::rows::{Plan, Row, Rows};
use super::tree::Tree;
use super::walk::Walk;
use crate::clock::UnixSeconds;
use crate::decide::drift::finding::Kind;
use crate::decide::drift::path;
use crate::wire::baseline::{BaselineError, Entry, Header, Writer};
use crate::wire::manifest::Digest;
use std::io::{self, Write};

/// Why a tree has no baseline.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("the root of the tree cannot be read")]
    Root(#[source] io::Error),
    #[error("{path}: {reason}; a baseline knows every file: nothing may change the tree meanwhile")]
    Read { path: String, reason: String },
    #[error("the baseline cannot be written")]
    Write(#[from] BaselineError),
}

/// What a baseline holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Names the baseline.
    pub digest: Digest,
    pub entries: u64,
    pub read_bytes: u64,
    /// Directories that were not entered: mounts that are not the image's.
    pub closed: u64,
}

/// Writes down every file of a tree.
///
/// # Errors
/// [`RecordError`]: above all for a file that cannot be read or does not hold still.
pub fn record<T: Tree, W: Write>(
    tree: &T,
    header: &Header,
    to: W,
    threads: usize,
    now: UnixSeconds,
) -> Result<(W, Recorded), RecordError> {
    let mut writer = Writer::new(to, header)?;
    let unlisted = header.unlisted();
    let mut recorded = Recorded { digest: [0; 32], entries: 0, read_bytes: 0, closed: 0 };
    let mut failed = None;
    let mut add = |row: Row<T::Directory>| {
        recorded.closed += u64::from(row.seen.as_ref().is_some_and(|seen| seen.closed.is_some()));
        if unlisted.contains(&row.path) {
            return;
        }
        recorded.entries += 1;
        if failed.is_none() {
            failed = add(&mut writer, row).err();
        }
    };
    std::thread::scope(|scope| {
        let mut walk = Walk::new(tree, None);
        let mut rows = Rows::new(scope, tree, threads, now);
        while let Some(visit) = walk.next(|_| None).map_err(RecordError::Root)? {
            let seen = visit.seen.map_err(|reason| unreadable(&visit.path, reason))?;
            if let (Some(reason), None) = (visit.gap, &seen.closed) {
                return Err(unreadable(&visit.path, reason));
            }
            let plan = matches!(seen.node.kind, Kind::File { .. }).then_some(Plan::Whole);
            let row = Row { plan, directory: visit.directory, ..Row::new(visit.path, Some(seen)) };
            rows.push(row, &mut add);
        }
        rows.finish(&mut add);
        recorded.read_bytes = rows.read_bytes;
        Ok(())
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let (to, digest) = writer.finish()?;
    Ok((to, Recorded { digest, ..recorded }))
}

fn add<D>(writer: &mut Writer<impl Write>, row: Row<D>) -> Result<(), RecordError> {
    let reason = row.gap.or_else(|| row.is_changing.then(|| "it changes while it is read".to_owned()));
    if let Some(reason) = reason {
        return Err(unreadable(&row.path, reason));
    }
    // Gone since it was looked at: not in the tree.
    let Some(mut seen) = row.seen else { return Ok(()) };
    if let Kind::File { digest, .. } = &mut seen.node.kind {
        *digest = row.parts.map(|parts| parts.digest());
    }
    Ok(writer.add(Entry { path: row.path, node: seen.node })?)
}

fn unreadable(path: &[u8], reason: String) -> RecordError {
    RecordError::Read { path: path::to_text(path), reason }
}
