//! The version number of the store as a whole, in a file at its root.
//!
//! Each kind of file has a version of its own as well. This one says which kinds there may be: a program that does not
//! know `gone/`, say, would give a collected version's name to other content.

use std::path::Path;

use super::{StoreError, files, io_error};

/// What this program writes. Version 1 had no such file; 2 has `gone/`, `signatures/`, `bad`, and indexes with
/// dropped frames; 3 has frames of 512 KiB.
pub(super) const STORE_VERSION: u32 = 3;
const FILE: &str = "format";
const WORDS: &str = "regild image store, version ";

/// Refuses a store of a later program, before anything in it is touched.
pub(super) fn check(store: &Path) -> Result<(), StoreError> {
    match version(store)? {
        Some(version) if version > STORE_VERSION || version == 0 => {
            Err(StoreError::Version { path: store.to_owned(), version, known: STORE_VERSION })
        }
        Some(_) | None => Ok(()),
    }
}

/// Says in the store which version it has from now on. What older versions have is read as it is.
pub(super) fn raise(store: &Path) -> Result<(), StoreError> {
    if version(store)? == Some(STORE_VERSION) {
        return Ok(());
    }
    files::write_whole(store, &store.join(FILE), format!("{WORDS}{STORE_VERSION}\n").as_bytes())
}

fn version(store: &Path) -> Result<Option<u32>, StoreError> {
    let path = store.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let number = text.strip_prefix(WORDS).and_then(|rest| rest.trim_end().parse().ok());
    let damaged = || StoreError::Damaged { path, reason: format!("it does not say {WORDS:?} and a number") };
    number.map(Some).ok_or_else(damaged)
}
