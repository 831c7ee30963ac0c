//! Whether the ledger is what was written: every entry against the next one, the last against the tip, and the index
//! of each host against the entries.

use super::entry::{self, Entry};
use super::links::Spine;
use super::query::{Page, pages};
use super::{HEADS, Head, LedgerError, Tip, digest, key, read_entry, read_tip};
use crate::db::{DbError, DbRead};
use std::collections::BTreeMap;
use std::fmt;

/// A ledger that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    pub tip: Tip,
}

/// Where the chain breaks first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Everything before this entry holds.
    pub number: u64,
    pub why: Why,
}

/// What does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The entry is not there, but later ones or the tip say that it was.
    Missing,
    /// Its bytes are no entry.
    Unreadable,
    /// It says of itself that it is another one: entries were moved.
    OtherNumber(u64),
    /// Its digest is not the one that the next entry holds: one of the two was changed, or one was put between.
    NotWhatNextSays,
    /// Its digest is not the one that the tip holds.
    NotWhatTipSays,
    /// It is there, but the tip ends before it.
    AfterTip,
    /// A key under `ledger/` that is the number of no entry.
    Stray(String),
    /// It does not name the entries before it of its own host.
    WrongLinks,
    /// The index of this host does not lead to it, so that queries would give something else.
    WrongIndex { host: String },
    /// The tip that was noted elsewhere has another digest for it: the ledger was rewritten, here or before.
    NotWhatWasNoted,
    /// The tip that was noted elsewhere lies beyond the end: the ledger was cut, or an old copy was put back.
    EndsBeforeNoted { noted: u64 },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number;
        write!(f, "the ledger breaks at entry {number}: ")?;
        match &self.why {
            Why::Missing => write!(f, "it is missing"),
            Why::Unreadable => write!(f, "its bytes are no entry"),
            Why::OtherNumber(other) => write!(f, "in its place lies entry {other}"),
            Why::NotWhatNextSays => {
                write!(f, "it is not the entry that {} was written after; one of the two was changed", number + 1)
            }
            Why::NotWhatTipSays => write!(f, "it is not the last entry that the tip names; one of the two was changed"),
            Why::AfterTip => write!(f, "the tip ends before it"),
            Why::Stray(key) => write!(f, "{key:?} is the key of no entry"),
            Why::WrongLinks => write!(f, "it does not name the entries before it of its host"),
            Why::WrongIndex { host } => write!(f, "the index of {host} does not lead to it"),
            Why::NotWhatWasNoted => write!(f, "it is not the entry whose tip was noted; the ledger was rewritten"),
            Why::EndsBeforeNoted { noted } => {
                write!(f, "the ledger ends before it, but entry {noted} was noted as its tip")
            }
        }
    }
}

/// Why a ledger is not verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{0}")]
    Broken(Broken),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<Broken> for VerifyError {
    fn from(broken: Broken) -> Self {
        VerifyError::Broken(broken)
    }
}

impl From<DbError> for VerifyError {
    fn from(error: DbError) -> Self {
        VerifyError::Ledger(error.into())
    }
}

fn broken<T>(number: u64, why: Why) -> Result<T, VerifyError> {
    Err(VerifyError::Broken(Broken { number, why }))
}

/// Reads the whole ledger, also while its writer goes on adding to it. `noted`: a tip that was noted elsewhere, the only
/// thing that somebody who can write the store cannot write anew.
///
/// # Errors
/// [`VerifyError::Broken`] with the first number at which something does not hold.
pub fn verify(db: &dyn DbRead, noted: Option<Tip>) -> Result<Verified, VerifyError> {
    let mut tip = read_tip(db)?;
    let mut chain = Chain { last: Tip::empty(), hosts: BTreeMap::new(), noted };
    loop {
        for page in pages(chain.last.number + 1, tip.number) {
            chain.page(db, &page, tip)?;
        }
        if chain.last != tip {
            return broken(tip.number, Why::NotWhatTipSays);
        }
        match db.get(&key(tip.number + 1))? {
            None => break,
            Some(_) => tip = grown(db, tip)?.ok_or(Broken { number: tip.number + 1, why: Why::AfterTip })?,
        }
    }
    if let Some(noted) = noted.filter(|noted| noted.number > tip.number) {
        return broken(tip.number + 1, Why::EndsBeforeNoted { noted: noted.number });
    }
    if noted.is_some_and(|noted| noted.number == 0 && noted != Tip::empty()) {
        return broken(0, Why::NotWhatWasNoted);
    }
    chain.index(db)?;
    Ok(Verified { tip })
}

/// The tip of now, if the writer added something since. It writes entries and tip in one batch, so whoever saw an entry
/// of his sees its tip, too.
fn grown(db: &dyn DbRead, tip: Tip) -> Result<Option<Tip>, LedgerError> {
    Ok(Some(read_tip(db)?).filter(|now| now.number > tip.number))
}

/// What of the end can be seen at a glance: the last entry, and that there is none after it.
pub(super) fn end(db: &dyn DbRead, tip: Tip) -> Result<Option<Broken>, LedgerError> {
    let found = |number, why| Ok(Some(Broken { number, why }));
    if tip.number > 0 {
        match db.get(&key(tip.number))? {
            None => return found(tip.number, Why::Missing),
            Some(item) if digest(&item.value) != tip.digest => return found(tip.number, Why::NotWhatTipSays),
            Some(_) => {}
        }
    }
    if db.get(&key(tip.number + 1))?.is_some() {
        return found(tip.number + 1, Why::AfterTip);
    }
    Ok(None)
}

struct Chain {
    /// The last entry that was read.
    last: Tip,
    /// What the index should say of each host, and what its next entry should link to.
    hosts: BTreeMap<String, (Head, Spine)>,
    noted: Option<Tip>,
}

impl Chain {
    fn page(&mut self, db: &dyn DbRead, page: &Page, tip: Tip) -> Result<(), VerifyError> {
        let before = self.last.number;
        for item in page.scan(db)? {
            let expected = self.last.number + 1;
            let digits = item.key.strip_prefix("ledger/").and_then(|digits| digits.parse().ok());
            let Some(number) = digits.filter(|number| *number > 0 && item.key == key(*number)) else {
                return broken(expected, Why::Stray(item.key));
            };
            if number <= before {
                continue; // of a page that was begun when the ledger ended in it
            }
            if expected > tip.number {
                return if grown(db, tip)?.is_some() { Ok(()) } else { broken(number, Why::AfterTip) };
            }
            if number != expected {
                return broken(expected, Why::Missing);
            }
            self.entry(&item.value, expected)?;
        }
        let end = page.last.min(tip.number);
        if self.last.number < end { broken(self.last.number + 1, Why::Missing) } else { Ok(()) }
    }

    fn entry(&mut self, raw: &[u8], number: u64) -> Result<(), VerifyError> {
        let Some(entry) = entry::decode(raw) else { return broken(number, Why::Unreadable) };
        if entry.number != number {
            return broken(number, Why::OtherNumber(entry.number));
        }
        if entry.previous != self.last.digest {
            // The one before is the first that is not vouched for. Before the first there is none.
            return broken(self.last.number.max(1), Why::NotWhatNextSays);
        }
        self.last = Tip { number, digest: digest(raw) };
        if self.noted.is_some_and(|noted| noted.number == number && noted != self.last) {
            return broken(number, Why::NotWhatWasNoted);
        }
        self.links(&entry)
    }

    fn links(&mut self, entry: &Entry) -> Result<(), VerifyError> {
        let (head, spine) = self.hosts.entry(entry.fact.host.clone()).or_default();
        let expected = entry.runs.map(|_| spine.next());
        if entry.before != head.last || entry.runs != expected {
            return broken(entry.number, Why::WrongLinks);
        }
        head.last = entry.number;
        if let Some(node) = entry.node() {
            spine.push(node);
            let (empty, generation) = (entry.fact.image.is_none(), entry.fact.generation);
            *head = Head { runs: entry.number, empty, generation, ..*head };
        }
        Ok(())
    }

    fn index(&self, db: &dyn DbRead) -> Result<(), VerifyError> {
        let mut stored = BTreeMap::new();
        for item in db.scan(HEADS)? {
            let host = item.key[HEADS.len()..].to_string();
            stored.insert(host, entry::unpack::<Head>(&item.value));
        }
        let newest = read_tip(db)?.number;
        // The writer may have added to a host while the entries were read: then its index leads to an entry behind the
        // last that was read, and that entry is the host's.
        let moved = |host: &str, head: Option<Head>| {
            let last = head.map_or(0, |head| head.last);
            last > self.last.number
                && last <= newest
                && read_entry(db, last).is_ok_and(|entry| entry.fact.host == *host)
        };
        for (host, (head, _)) in &self.hosts {
            match stored.remove(host) {
                Some(found) if found == Some(*head) || moved(host, found) => {}
                _ => return broken(head.last, Why::WrongIndex { host: host.clone() }),
            }
        }
        match stored.into_iter().find(|(host, head)| !moved(host, *head)) {
            Some((host, _)) => broken(self.last.number + 1, Why::WrongIndex { host }),
            None => Ok(()),
        }
    }
}
