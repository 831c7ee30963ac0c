//! Asking the ledger: what a host, or every host, ran at some time; entries by version, cause, host and time.

use super::entry::{self, Entry};
use super::{HEADS, Head, Kind, LedgerError, Tip, links, read_entry, read_head};
use crate::db::{DbError, DbRead, Item};
use crate::decide::cause::CauseKind;

/// A run of numbers that share the beginning of their keys: what is read at once.
pub(super) struct Page {
    number: u64,
    pub last: u64,
}

const PAGE: u64 = 1_000;

impl Page {
    pub fn scan(&self, db: &dyn DbRead) -> Result<Vec<Item>, DbError> {
        // Ten digits without the last three.
        db.scan(&format!("ledger/{:07}", self.number))
    }
}

/// The pages that hold entries `first` to `last`. The store gives what it scans as one list, so the ledger is read in
/// pages: a million entries would be 300 MB.
pub(super) fn pages(first: u64, last: u64) -> impl Iterator<Item = Page> {
    let end = if first <= last { last / PAGE + 1 } else { 0 };
    (first / PAGE..end).map(|number| Page { number, last: number * PAGE + PAGE - 1 })
}

/// What one host ran at a time: the entry that says so, with since when, why, by whom and what before. `None`: nothing
/// of ours yet. `image` is `None` while its disk was being rewritten, or after its record was removed.
///
/// # Errors
/// [`LedgerError`].
pub fn host_at(db: &dyn DbRead, tip: Tip, host: &str, time: u64) -> Result<Option<Entry>, LedgerError> {
    follow(db, tip, read_head(db, host)?, time)
}

/// The same for every host that the ledger knows, in the order of their ids. One after another, so that whoever shares
/// a thread with somebody can let him pass in between.
///
/// # Errors
/// [`LedgerError`], before the first host or in place of one.
pub fn at(
    db: &dyn DbRead,
    tip: Tip,
    time: u64,
) -> Result<impl Iterator<Item = Result<Entry, LedgerError>> + '_, LedgerError> {
    let heads = db.scan(HEADS)?.into_iter().map(move |item| {
        let head = entry::unpack(&item.value).ok_or(LedgerError::Spoiled { key: item.key })?;
        follow(db, tip, head, time)
    });
    Ok(heads.filter_map(Result::transpose))
}

/// Back along the entries of one host to the newest that is not younger than `time`. Should the clock have stood
/// wrong for a while, the entry with the higher number wins: it was written later. Beyond the tip lies what may not be
/// on stable storage yet.
fn follow(db: &dyn DbRead, tip: Tip, head: Head, time: u64) -> Result<Option<Entry>, LedgerError> {
    let mut number = head.runs;
    while number != 0 {
        let entry = read_entry(db, number)?;
        let is_durable = number <= tip.number;
        if entry.at <= time && is_durable {
            return Ok(Some(entry));
        }
        let runs = entry.runs.ok_or_else(|| LedgerError::Spoiled { key: super::key(number) })?;
        number = earlier(number, if is_durable { links::towards(&runs, time) } else { runs.before })?;
    }
    Ok(None)
}

/// A link leads back, or a damaged one could lead round in circles.
fn earlier(number: u64, link: u64) -> Result<u64, LedgerError> {
    if link < number { Ok(link) } else { Err(LedgerError::Spoiled { key: super::key(number) }) }
}

/// Which entries; everything that is `None` allows all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// A host's id.
    pub host: Option<String>,
    /// `NAME:VERSION`, or a manifest's digest in hex: what was ordered or ran.
    pub image: Option<String>,
    /// The word of a cause, whether it opened the order or joined it; `rollout 7` for one rollout.
    pub cause: Option<String>,
    pub kind: Option<Kind>,
    /// Both inside.
    pub from: Option<u64>,
    pub to: Option<u64>,
}

impl Filter {
    #[must_use]
    pub fn takes(&self, entry: &Entry) -> bool {
        let fact = &entry.fact;
        let image = |wanted: &String| {
            fact.image.as_ref().is_some_and(|image| image.name == *wanted || image.manifest == *wanted)
        };
        let cause = |wanted: &String| fact.causes.iter().any(|cause| is_called(*cause, wanted));
        self.host.as_ref().is_none_or(|host| fact.host == *host)
            && self.image.as_ref().is_none_or(image)
            && self.cause.as_ref().is_none_or(cause)
            && self.kind.is_none_or(|kind| fact.kind == kind)
            && self.from.is_none_or(|from| entry.at >= from)
            && self.to.is_none_or(|to| entry.at <= to)
    }
}

fn is_called(cause: CauseKind, word: &str) -> bool {
    match cause {
        CauseKind::Rollout { number } => word == cause.word() || word == format!("rollout {number}"),
        _ => word == cause.word(),
    }
}

/// All entries that the filter takes, oldest first. With a host only its own are read, else all. An entry that is
/// missing or not understood ends it with an error: a list with a gap would be taken for the whole.
///
/// # Errors
/// [`LedgerError`]; `each` may have seen entries by then.
pub fn find(
    db: &dyn DbRead,
    tip: Tip,
    filter: &Filter,
    mut each: impl FnMut(&Entry, &[u8]),
) -> Result<(), LedgerError> {
    if let Some(host) = &filter.host {
        let mut numbers = Vec::new();
        let mut number = read_head(db, host)?.last;
        while number != 0 {
            if number <= tip.number {
                numbers.push(number);
            }
            number = earlier(number, read_entry(db, number)?.before)?;
        }
        for number in numbers.into_iter().rev() {
            let key = super::key(number);
            let item = db.get(&key)?.ok_or(LedgerError::Spoiled { key })?;
            take(&item, filter, &mut each)?;
        }
        return Ok(());
    }
    let (tip, mut next) = (tip.number, 1);
    for page in pages(next, tip) {
        // What lies beyond the tip is no part of the ledger; what is missing before it must not be passed over.
        for item in page.scan(db)? {
            if next > tip {
                break;
            }
            if item.key != super::key(next) {
                return Err(LedgerError::Spoiled { key: super::key(next) });
            }
            take(&item, filter, &mut each)?;
            next += 1;
        }
        if next <= page.last.min(tip) {
            return Err(LedgerError::Spoiled { key: super::key(next) });
        }
    }
    Ok(())
}

fn take(item: &Item, filter: &Filter, each: &mut impl FnMut(&Entry, &[u8])) -> Result<(), LedgerError> {
    let entry = entry::decode(&item.value).ok_or_else(|| LedgerError::Spoiled { key: item.key.clone() })?;
    if filter.takes(&entry) {
        each(&entry, &item.value);
    }
    Ok(())
}

/// The time that `--at` means: `2026-03-01` is the start of that day in UTC, and so what was so *before* anything of
/// that day; `2026-03-01T12:00:00Z` (or with an offset) is that second.
///
/// # Errors
/// In words for who typed it.
pub fn instant_of(text: &str) -> Result<u64, String> {
    let form = || format!("{text:?} is no time; write 2026-03-01 (the start of that day, UTC) or 2026-03-01T12:00:00Z");
    let day = text.parse::<jiff::civil::Date>().ok().filter(|day| day.to_string() == text);
    let time = match day {
        Some(day) => day.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| form())?.timestamp(),
        None => text.parse::<jiff::Timestamp>().map_err(|_| form())?,
    };
    u64::try_from(time.as_second()).map_err(|_| form())
}
