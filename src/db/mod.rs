//! What the registry is kept in: ordered keys, compare-and-set transactions, durable when `commit` returns.
//!
//! The trait asks only for what etcd v3 has too, so that a cluster can carry it later: a [`Txn`] is etcd's
//! compare on `mod_revision` plus puts and deletes; [`Db::scan`] is a range read; [`Db::watch`] is a watch; the
//! writer's lease ([`Db::lease`]), here a file lock that is looked at before each commit, is there a lease with a
//! key that every transaction compares.
//!
//! Keys (text, `/`-parted): `host/<id>`, `history/<id>/<number>`, `lease/<ip>`, `meta/...`.
//! Values are at most [`VALUE_BYTES_MAX`]: up to 20 of them share a page of sled 0.34, and it keeps pages that are
//! too long for its log as files of their own, which our fdatasync would not cover (`sled/place.rs`).

pub mod sled;
pub mod watch;
pub mod watermark;

use std::path::PathBuf;
use std::sync::Arc;
use watch::Watch;

/// The longest value that `commit` takes.
pub const VALUE_BYTES_MAX: usize = 24 * 1024;

/// The prefix whose content decides whether a disk may be written. It is guarded: a store that lost or
/// changed any of it since the last acknowledged commit does not open (see [`watermark`]).
pub const GUARDED_PREFIX: &str = "host/";

/// Number of a commit; a key's revision is that of the commit that wrote it. 0 means "no such key".
pub type Revision = u64;

/// One key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub key: String,
    pub value: Vec<u8>,
    pub revision: Revision,
}

/// Compare and set: when every check holds, all writes happen; else none.
#[derive(Debug, Clone, Default)]
pub struct Txn {
    /// Key and the revision it must have (0: absent).
    pub checks: Vec<(String, Revision)>,
    /// Key and its new value; `None` deletes.
    pub writes: Vec<(String, Option<Vec<u8>>)>,
}

/// What a transaction came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    At(Revision),
    /// A check did not hold; nothing of this transaction was written.
    Conflict,
}

/// Why the store could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("the store {} is in use by another regild; stop that one first", dir.display())]
    Locked { dir: PathBuf },
    #[error(
        "the store {} is not what was acknowledged: {reason}. Nothing will be reimaged from it. Restore it, or take it \
         as it is, all orders closed, with `regild store accept --config FILE`",
        dir.display()
    )]
    Untrusted { dir: PathBuf, reason: String },
    #[error("the store {} was written by version {found} of its form; this regild knows {known}", dir.display())]
    WrongVersion { dir: PathBuf, found: u64, known: u64 },
    #[error("{what} in the store failed")]
    Io { what: &'static str, source: std::io::Error },
    #[error("{what} in the store failed")]
    Sled { what: &'static str, source: ::sled::Error },
    #[error("value of {key} has {bytes} bytes; the store takes {VALUE_BYTES_MAX}")]
    ValueTooLarge { key: String, bytes: usize },
    #[error(
        "the lock file of the store {} was removed or replaced while this regild ran, so another one may have the store; \
         stop every regild on it, then start one",
        dir.display()
    )]
    LeaseLost { dir: PathBuf },
    #[error("the store failed before and takes no more writes; restart regild")]
    Stopped,
}

/// What can be read by anybody, also beside the writer: a commit that is not on stable storage yet may show, so whoever
/// reads beside the writer must know up to where he may believe (the ledger's published tip).
pub trait DbRead {
    /// # Errors
    /// [`DbError::Sled`] when reading fails.
    fn get(&self, key: &str) -> Result<Option<Item>, DbError>;

    /// All items whose key starts with `prefix`, in key order.
    ///
    /// # Errors
    /// [`DbError::Sled`] when reading fails.
    fn scan(&self, prefix: &str) -> Result<Vec<Item>, DbError>;

    /// The same, one item after another: for records of which there may be hundreds of megabytes.
    ///
    /// # Errors
    /// As [`DbRead::scan`], and whatever `each` says, which ends it.
    fn each(&self, prefix: &str, each: &mut dyn FnMut(Item) -> Result<(), DbError>) -> Result<(), DbError> {
        self.scan(prefix)?.into_iter().try_for_each(each)
    }
}

/// An ordered, durable key-value store with one writer.
pub trait Db: DbRead + Send {
    /// For long reads, which must not hold the writer up.
    fn reader(&self) -> Arc<dyn DbRead + Send + Sync>;

    /// Runs the transactions in order and returns when all that succeeded are on stable storage: many
    /// transactions share one flush (group commit).
    ///
    /// # Errors
    /// Any error means that nothing of the group may be acknowledged; the store then refuses all later
    /// commits, since a failed fsync must not be retried as if it had succeeded (faults.md S3).
    fn commit(&mut self, group: &[Txn]) -> Result<Vec<Committed>, DbError>;

    /// Every change under `prefix` that is committed from now on, told after it is durable.
    fn watch(&self, prefix: &str) -> Watch;

    /// Whether this process is still the one writer. `commit` asks by itself; whoever acts on records without
    /// writing any (a permission given from a cached view) asks here.
    ///
    /// # Errors
    /// [`DbError::LeaseLost`], for good: nothing may be granted any more.
    fn lease(&self) -> Result<(), DbError>;
}
