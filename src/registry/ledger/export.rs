//! The ledger as JSON lines and as CSV, read in pages and written as it is read: it may be larger than memory.

use super::entry::Entry;
use super::query::{Filter, find};
use super::{LedgerError, Tip, digest};
use crate::db::DbRead;
use crate::decide::cause::CauseKind;
use crate::decide::host::ImageChoice;
use crate::wire::ledger::{HostAt, Line};
use std::io::{self, Write};

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("writing the export failed")]
    Write(#[from] io::Error),
}

/// One entry as it is shown; `raw` are its bytes.
#[must_use]
pub fn line(entry: &Entry, raw: &[u8]) -> Line {
    let fact = &entry.fact;
    let hex = |digest: [u8; 32]| blake3::Hash::from_bytes(digest).to_hex().to_string();
    let at = i64::try_from(entry.at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    Line {
        number: entry.number,
        at: entry.at,
        time: at.map_or_else(String::new, |at| at.to_string()),
        kind: fact.kind.word().to_string(),
        host: fact.host.clone(),
        macs: fact.macs.iter().map(ToString::to_string).collect(),
        image: fact.image.as_ref().map(|image| image.name.clone()),
        manifest: fact.image.as_ref().map(|image| image.manifest.clone()),
        generation: fact.generation,
        causes: fact.causes.iter().map(called).collect(),
        reason: fact.reason.clone(),
        by: fact.by.clone(),
        former: fact.former.as_ref().map(|image| image.name.clone()),
        former_manifest: fact.former.as_ref().map(|image| image.manifest.clone()),
        previous: hex(entry.previous),
        digest: hex(digest(raw)),
    }
}

fn called(cause: &CauseKind) -> String {
    match cause {
        CauseKind::Rollout { number } => format!("rollout {number}"),
        other => other.word().to_string(),
    }
}

/// An entry as the answer to what its host ran; the ledger does not know the host's name.
#[must_use]
pub fn host_at_line(entry: &Entry) -> HostAt {
    let fact = &entry.fact;
    let image = fact.image.clone().unwrap_or(ImageChoice { name: String::new(), manifest: String::new() });
    HostAt {
        id: fact.host.clone(),
        macs: fact.macs.iter().map(ToString::to_string).collect(),
        name: None,
        reported: image.name,
        manifest: image.manifest,
        generation: fact.generation,
        since: entry.at,
        causes: fact.causes.iter().map(called).collect(),
        reason: fact.reason.clone(),
        by: fact.by.clone(),
        former: fact.former.as_ref().map(|image| image.name.clone()),
        number: entry.number,
    }
}

/// One JSON object a line. The last line's `digest` is the tip's.
///
/// # Errors
/// [`ExportError`].
pub fn to_json_lines(db: &dyn DbRead, tip: Tip, filter: &Filter, out: &mut dyn Write) -> Result<u64, ExportError> {
    each(db, tip, filter, |line| {
        serde_json::to_writer(&mut *out, line)?;
        out.write_all(b"\n")
    })
}

/// With a header. For spreadsheets, so a text that one would take for a formula gets a `'` before it; JSON lines have
/// everything as it is.
///
/// # Errors
/// [`ExportError`].
pub fn to_csv(db: &dyn DbRead, tip: Tip, filter: &Filter, out: &mut dyn Write) -> Result<u64, ExportError> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(COLUMNS).map_err(io::Error::other)?;
    let count = each(db, tip, filter, |line| csv.write_record(cells(line)).map_err(io::Error::other))?;
    csv.flush()?;
    Ok(count)
}

const COLUMNS: [&str; 16] = [
    "number",
    "at",
    "time",
    "kind",
    "host",
    "macs",
    "image",
    "manifest",
    "generation",
    "causes",
    "reason",
    "by",
    "former",
    "former_manifest",
    "previous",
    "digest",
];

fn cells(line: &Line) -> [String; 16] {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let Line { number, at, time, kind, host, macs, image, manifest, generation, causes, reason, by, .. } = line.clone();
    [
        number.to_string(),
        at.to_string(),
        time,
        kind,
        host,
        macs.join(" "),
        text(&image),
        text(&manifest),
        generation.to_string(),
        causes.join("; "),
        no_formula(reason),
        no_formula(by),
        text(&line.former),
        text(&line.former_manifest),
        line.previous.clone(),
        line.digest.clone(),
    ]
}

fn no_formula(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text }
}

fn each(
    db: &dyn DbRead,
    tip: Tip,
    filter: &Filter,
    mut write: impl FnMut(&Line) -> io::Result<()>,
) -> Result<u64, ExportError> {
    let (mut count, mut failed) = (0, None);
    find(db, tip, filter, |entry, raw| {
        if failed.is_none() {
            count += 1;
            failed = write(&line(entry, raw)).err();
        }
    })?;
    failed.map_or(Ok(count), |error| Err(error.into()))
}
