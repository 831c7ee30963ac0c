//! TFTP: the second stop. Hands out bootloaders, from memory, by name; nothing else.
//!
//! What is absent: files. A name is looked up in a table ([`BootFiles`]), never in a file system, so there is
//! no path to escape from. Writing is refused.
//!
//! The protocol is async-tftp's (RFC 1350, 2347 to 2349, 7440). It holds a lock while a file is opened, so
//! opening must be instant; and it answers from the address that it is bound to, so each local address needs
//! a server of its own.

mod files;
mod filter;
mod server;

use std::sync::atomic::{AtomicU64, AtomicUsize};

pub use files::BootFiles;
pub use server::{BindError, TftpServer};

/// Counts for whoever wants to read them while the server runs. All but `active` only ever grow.
#[derive(Debug, Default)]
pub struct TftpCounters {
    /// Transfers begun.
    pub started: AtomicU64,
    /// Transfers of which the last byte was read for sending; the client may still have missed it.
    pub read_to_end: AtomicU64,
    /// Transfers that ended before, by timeout or an error.
    pub cut_short: AtomicU64,
    /// Asked for a name that is not in the table.
    pub not_found: AtomicU64,
    /// Write requests, all refused.
    pub writes_refused: AtomicU64,
    /// Refused because too many transfers were running.
    pub too_busy: AtomicU64,
    /// Bytes read for sending, repeats not counted.
    pub bytes: AtomicU64,
    /// Transfers running now.
    pub active: AtomicUsize,
}
