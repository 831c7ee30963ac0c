//! The ledger: which host was ordered what and ran what, since when, why, by whom, and what before. Kept for ever.
//!
//! ```text
//! ledger/0000000041 ----digest----> ledger/0000000042 ----digest----> ledger/0000000043 <----digest---- ledger-tip
//!        ^ before, skip                                                      ^ last, runs
//!        +------------------------- entries of one host --------------- ledger-host/<id>
//! ```
//!
//! - One entry for each order that is opened, and one for each time that what a disk holds changes: an image was
//!   written and read back, the old one was cleared, the record was removed. `facts` reads them off the records.
//! - Each entry holds the blake3 digest of the one before; `ledger-tip` holds number and digest of the last, written
//!   in the same transaction. `verify` names the first number at which that does not hold (faults.md X8).
//! - **What the chain does not do:** whoever can write the store can rewrite every entry and the tip. Only a tip that
//!   was noted elsewhere ([`Tip`], one line of text) shows that. Note one daily, off this machine.
//! - Every entry also names earlier entries of the same host (`links`), and `ledger-host/<id>` the last one. So what a
//!   host ran at some time is found in a few steps along its own entries, not by reading everybody's, and the index is
//!   one small key for each host and not one for each entry. The clock need not always have gone forward.
//!
//! Entries are postcard behind a version byte: nobody edits them and they are kept for ever, while as JSON they take 2.8
//! times the bytes; `export` gives JSON lines and CSV. docs/ledger.md has the bytes and the figures.

mod entry;
mod export;
mod facts;
mod links;
mod query;
mod verify;

pub use entry::{Entry, Fact, Kind};
pub use export::{ExportError, host_at_line, line, to_csv, to_json_lines};
pub use facts::facts;
pub use links::Runs;
pub use query::{Filter, at, find, host_at, instant_of};
pub use verify::{Broken, Verified, VerifyError, Why, verify};

use crate::db::{DbError, DbRead};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

const TIP_KEY: &str = "ledger-tip";
const HEADS: &str = "ledger-host/";
/// Ten digits in the key, so that key order is the order of the entries.
const NUMBER_MAX: u64 = 9_999_999_999;

/// Why the ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(
        "the ledger is damaged: {key} is not understood; `regild ledger verify` names the first entry that is wrong"
    )]
    Spoiled { key: String },
    #[error("the ledger has entries but no tip: its end was cut or lost; nothing can be added to it")]
    NoTip,
    #[error("the ledger is full: {NUMBER_MAX} entries")]
    Full,
}

/// Where the ledger ends: how many entries, and the digest of the last. `42:9f86d0...`, to be noted elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    pub number: u64,
    pub digest: [u8; 32],
}

impl Tip {
    /// Of a ledger without entries: the digest that the first entry will hold.
    #[must_use]
    pub fn empty() -> Tip {
        Tip { number: 0, digest: *blake3::hash(b"regild ledger, version 1").as_bytes() }
    }
}

impl fmt::Display for Tip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, blake3::Hash::from_bytes(self.digest).to_hex())
    }
}

impl FromStr for Tip {
    type Err = String;

    fn from_str(text: &str) -> Result<Tip, String> {
        let form =
            || format!("{:?} is no tip; `regild ledger tip` shows one", text.chars().take(100).collect::<String>());
        let (number, digest) = text.trim().split_once(':').ok_or_else(form)?;
        let digest = blake3::Hash::from_hex(digest).map_err(|_| form())?;
        Ok(Tip { number: number.parse().map_err(|_| form())?, digest: *digest.as_bytes() })
    }
}

/// Where the entries of one host end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    /// Number of its last entry, and of the last that says what it runs; 0: there is none.
    last: u64,
    runs: u64,
    /// Of the entry `runs`: the disk holds nothing of ours, and the generation that it speaks of.
    empty: bool,
    generation: u64,
}

/// The end of the ledger, in the hands of the one writer.
#[derive(Debug)]
pub struct Ledger {
    tip: Tip,
    /// Heads of hosts that were looked at since the last [`Ledger::take_writes`]: ahead of the store.
    heads: BTreeMap<String, Head>,
    /// Since the last [`Ledger::take_writes`].
    entries: Vec<(u64, Vec<u8>)>,
    changed: Vec<String>,
}

/// A key and its new value, for the transaction of the records that it belongs to.
pub type Write = (String, Option<Vec<u8>>);

impl Ledger {
    /// Looks where the ledger ends. A last entry that is not what the tip says does not stop the writer (the break
    /// stays where it is, for `verify` to name), but somebody must hear of it.
    ///
    /// # Errors
    /// [`LedgerError`], also when there are entries but no tip.
    pub fn open(db: &dyn DbRead) -> Result<(Ledger, Option<Broken>), LedgerError> {
        let tip = read_tip(db)?;
        let ledger = Ledger { tip, heads: BTreeMap::new(), entries: Vec::new(), changed: Vec::new() };
        Ok((ledger, verify::end(db, tip)?))
    }

    #[must_use]
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Adds what happened. Gives the number of the entry, or `None` when the ledger says so already (a second attempt
    /// clears a disk that holds nothing any more).
    ///
    /// What is damaged of the host's older entries does not stop it: they are left behind, loudly, and its chain begins
    /// anew. [`verify`] goes on naming the place.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing was added then.
    pub fn append(&mut self, db: &dyn DbRead, fact: &Fact, now: u64) -> Result<Option<u64>, LedgerError> {
        let mut head = or_anew(self.head(db, &fact.host))?;
        if is_known(head, fact) {
            return Ok(None);
        }
        if self.tip.number >= NUMBER_MAX {
            return Err(LedgerError::Full);
        }
        let number = self.tip.number + 1;
        let links = |head| or_anew(self.links(db, head).map(Some));
        let runs = if fact.kind == Kind::Runs { Some(links(head)?.unwrap_or(links::next(None, None))) } else { None };
        let raw = entry::encode(fact, &entry::Place { number, at: now, before: head.last, runs }, self.tip);
        head.last = number;
        if fact.kind == Kind::Runs {
            head = Head { runs: number, empty: fact.image.is_none(), generation: fact.generation, ..head };
        }
        self.tip = Tip { number, digest: digest(&raw) };
        self.entries.push((number, raw));
        self.heads.insert(fact.host.clone(), head);
        self.changed.push(fact.host.clone());
        Ok(Some(number))
    }

    /// What was added since the last call, each key once. To be committed together with the records that it is about;
    /// when that fails, this ledger is ahead of the store and must not be used any more.
    pub fn take_writes(&mut self) -> Vec<Write> {
        if self.entries.is_empty() {
            return Vec::new();
        }
        let mut writes: Vec<Write> =
            std::mem::take(&mut self.entries).into_iter().map(|(number, raw)| (key(number), Some(raw))).collect();
        self.changed.sort_unstable();
        self.changed.dedup();
        for host in std::mem::take(&mut self.changed) {
            let head = self.heads.get(&host).copied().unwrap_or_default();
            writes.push((head_key(&host), Some(entry::pack(&head))));
        }
        // From here on the store has them; a fleet's worth of them would be kept for nothing.
        self.heads.clear();
        writes.push((TIP_KEY.to_string(), Some(entry::pack(&self.tip))));
        writes
    }

    /// Whether there is any entry of this host.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn knows(&self, db: &dyn DbRead, host: &str) -> Result<bool, LedgerError> {
        Ok(read_head(db, host)?.last > 0 || self.heads.contains_key(host))
    }

    fn links(&self, db: &dyn DbRead, head: Head) -> Result<Runs, LedgerError> {
        let last = self.node(db, head.runs)?;
        let skipped = last.map_or(Ok(None), |last| self.node(db, last.runs.skip))?;
        Ok(links::next(last.as_ref(), skipped.as_ref()))
    }

    /// An entry that says what a host runs, committed or not yet; `None` for 0.
    fn node(&self, db: &dyn DbRead, number: u64) -> Result<Option<links::Node>, LedgerError> {
        if number == 0 {
            return Ok(None);
        }
        let waiting = self.entries.binary_search_by_key(&number, |(number, _)| *number);
        let entry = match waiting {
            Ok(at) => entry::decode(&self.entries[at].1),
            Err(_) => Some(read_entry(db, number)?),
        };
        let node = entry.and_then(|entry| entry.node());
        node.map(Some).ok_or_else(|| LedgerError::Spoiled { key: key(number) })
    }

    fn head(&mut self, db: &dyn DbRead, host: &str) -> Result<Head, LedgerError> {
        if let Some(head) = self.heads.get(host) {
            return Ok(*head);
        }
        let head = read_head(db, host)?;
        self.heads.insert(host.to_string(), head);
        Ok(head)
    }
}

/// What cannot be read of a host's older entries is as if it were not there.
fn or_anew<T: Default>(read: Result<T, LedgerError>) -> Result<T, LedgerError> {
    match read {
        Err(LedgerError::Spoiled { key }) => {
            tracing::error!(key, "the ledger is damaged there: what this host ran before is not linked to any more");
            Ok(T::default())
        }
        other => other,
    }
}

/// A generation has one image, so the same generation again is the same fact again.
fn is_known(head: Head, fact: &Fact) -> bool {
    match (fact.kind, &fact.image) {
        (Kind::Ordered, _) => false,
        (Kind::Runs, None) => head.runs == 0 || head.empty,
        (Kind::Runs, Some(_)) => head.runs != 0 && !head.empty && head.generation == fact.generation,
    }
}

fn key(number: u64) -> String {
    format!("ledger/{number:010}")
}

fn head_key(host: &str) -> String {
    format!("{HEADS}{host}")
}

fn digest(raw: &[u8]) -> [u8; 32] {
    *blake3::hash(raw).as_bytes()
}

/// The tip as stored.
///
/// # Errors
/// [`LedgerError::NoTip`] when there are entries, but no tip that is understood.
pub fn read_tip(db: &dyn DbRead) -> Result<Tip, LedgerError> {
    match db.get(TIP_KEY)? {
        Some(item) => entry::unpack(&item.value).ok_or(LedgerError::NoTip),
        None if db.get(&key(1))?.is_some() => Err(LedgerError::NoTip),
        None => Ok(Tip::empty()),
    }
}

/// What `store accept` writes when the tip is lost: the tip of the last entry that is there. `None` when nothing is to be
/// mended. Whether entries are missing only a tip that was noted elsewhere can tell.
///
/// # Errors
/// When the store cannot be read.
pub fn mend(db: &dyn DbRead) -> Result<Option<Write>, DbError> {
    match read_tip(db) {
        Err(LedgerError::NoTip) => {}
        Err(LedgerError::Db(error)) => return Err(error),
        _ => return Ok(None),
    }
    let mut tip = Tip::empty();
    for page in query::pages(1, NUMBER_MAX) {
        let Some(last) = page.scan(db)?.pop() else { break };
        let number = last.key.strip_prefix("ledger/").and_then(|digits| digits.parse().ok()).unwrap_or(page.last);
        tip = Tip { number, digest: digest(&last.value) };
    }
    Ok(Some((TIP_KEY.to_string(), Some(entry::pack(&tip)))))
}

fn read_head(db: &dyn DbRead, host: &str) -> Result<Head, LedgerError> {
    let key = head_key(host);
    match db.get(&key)? {
        Some(item) => entry::unpack(&item.value).ok_or(LedgerError::Spoiled { key }),
        None => Ok(Head::default()),
    }
}

fn read_entry(db: &dyn DbRead, number: u64) -> Result<Entry, LedgerError> {
    let key = key(number);
    let item = db.get(&key)?;
    item.and_then(|item| entry::decode(&item.value)).ok_or(LedgerError::Spoiled { key })
}

#[cfg(test)]
mod tests;
