//! The watermark: what was last acknowledged, kept beside the store and not in it.
//!
//! A store that silently went back in time (a torn log, yesterday's backup, a fresh empty directory) is the
//! one that wipes a finished machine again: an order that was closed is open in it. So each commit that
//! touches the guarded prefix writes its number and the digest of everything guarded to this file, in one of
//! two slots by turns, before it is acknowledged. At open, both must agree.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: &[u8; 8] = b"RGLDWM01";
/// Magic 8, number 8, digest 16, checksum 16.
const SLOT_BYTES: usize = 48;
/// Slots lie in different 4 KiB blocks, so that one torn write cannot spoil both.
const SLOT_STRIDE: u64 = 4096;

/// A sum over all guarded items that does not depend on their order: items come and go by adding and
/// subtracting 128 bits of the digest of key and value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuardSum(pub u128);

impl GuardSum {
    pub fn add(&mut self, key: &str, value: &[u8]) {
        self.0 = self.0.wrapping_add(item_digest(key, value));
    }

    pub fn remove(&mut self, key: &str, value: &[u8]) {
        self.0 = self.0.wrapping_sub(item_digest(key, value));
    }
}

fn item_digest(key: &str, value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.update(value);
    let mut short = [0u8; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(short)
}

/// What one slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// How many guarded commits were acknowledged.
    pub number: u64,
    pub sum: GuardSum,
}

/// The open watermark file.
#[derive(Debug)]
pub struct Watermark {
    file: File,
}

impl Watermark {
    /// Opens or creates the file, and returns the newest whole mark in it.
    ///
    /// # Errors
    /// What opening, reading or syncing the file gives.
    pub fn open(path: &Path) -> io::Result<(Watermark, Option<Mark>)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        let newest = (0..2).filter_map(|slot| read_slot(&file, slot)).max_by_key(|mark| mark.number);
        Ok((Watermark { file }, newest))
    }

    /// Writes `mark` to stable storage, leaving the one before it in place.
    ///
    /// # Errors
    /// What writing or fdatasync gives.
    pub fn write(&self, mark: Mark) -> io::Result<()> {
        let mut slot = [0u8; SLOT_BYTES];
        slot[..8].copy_from_slice(MAGIC);
        slot[8..16].copy_from_slice(&mark.number.to_le_bytes());
        slot[16..32].copy_from_slice(&mark.sum.0.to_le_bytes());
        let check = blake3::hash(&slot[..32]);
        slot[32..].copy_from_slice(&check.as_bytes()[..16]);
        self.file.write_all_at(&slot, mark.number % 2 * SLOT_STRIDE)?;
        self.file.sync_data()
    }
}

fn read_slot(file: &File, slot: u64) -> Option<Mark> {
    let mut bytes = [0u8; SLOT_BYTES];
    file.read_exact_at(&mut bytes, slot * SLOT_STRIDE).ok()?;
    let whole = bytes[..8] == *MAGIC && bytes[32..] == blake3::hash(&bytes[..32]).as_bytes()[..16];
    let number = u64::from_le_bytes(bytes[8..16].try_into().ok()?);
    let sum = u128::from_le_bytes(bytes[16..32].try_into().ok()?);
    whole.then_some(Mark { number, sum: GuardSum(sum) })
}
