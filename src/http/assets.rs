//! Boot assets: what `boot-assets/build.sh` made, checked against its SHA256SUMS at start.

use super::Shared;
use super::problem::Problem;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use memmap2::Mmap;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

/// What a machine needs on its way: without one of these some host could not be deployed or sent to its disk.
pub const NEEDED: [&str; 5] = ["vmlinuz", "initrd.img", "ipxe.efi", "undionly.kpxe", "local-boot.efi"];

/// The files, mapped: 40 MB that most servers never touch stay out of memory until a machine asks.
#[derive(Debug)]
pub struct Assets {
    files: BTreeMap<String, Bytes>,
}

/// Why the boot assets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    #[error("cannot read the boot asset {}; `make assets` builds it", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: line {line} is not a SHA-256 sum and a file name; `make assets` builds it anew", path.display())]
    Sums { path: PathBuf, line: usize },
    #[error("{} is not what SHA256SUMS says (it has {found}); `make assets` builds it anew", path.display())]
    Changed { path: PathBuf, found: String },
    #[error("{} lists no {name}; `make assets` builds it", path.display())]
    Missing { path: PathBuf, name: String },
}

impl Assets {
    /// Reads SHA256SUMS and every file in it, and compares.
    ///
    /// # Errors
    /// [`AssetError`] names the file and what to do.
    pub fn open(dir: &FilePath) -> Result<Assets, AssetError> {
        let sums_path = dir.join("SHA256SUMS");
        let read = |path: &FilePath| {
            let path = path.to_path_buf();
            move |source| AssetError::Read { path, source }
        };
        let sums = std::fs::read_to_string(&sums_path).map_err(read(&sums_path))?;
        let mut files = BTreeMap::new();
        for (at, line) in sums.lines().enumerate() {
            let bad = || AssetError::Sums { path: sums_path.clone(), line: at + 1 };
            let (sum, name) = line.split_once("  ").ok_or_else(bad)?;
            if sum.len() != 64 || name.contains('/') || name.is_empty() {
                return Err(bad());
            }
            let path = dir.join(name);
            let found = sha256(&path).map_err(read(&path))?;
            if found != sum {
                return Err(AssetError::Changed { path, found });
            }
            files.insert(name.to_string(), map(&path).map_err(read(&path))?);
        }
        for name in NEEDED {
            if !files.contains_key(name) {
                return Err(AssetError::Missing { path: sums_path, name: name.to_string() });
            }
        }
        Ok(Assets { files })
    }

    /// The bytes of one asset.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Bytes> {
        self.files.get(name).cloned()
    }
}

/// Reads through a buffer, not through the mapping: 40 MB of touched pages would count as ours for good.
fn sha256(path: &FilePath) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crate::clock::hex(&hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn map(path: &FilePath) -> io::Result<Bytes> {
    let file = File::open(path)?;
    // SAFETY: the build script replaces these files by rename and never writes into one that is in place, so
    // the mapping does not change under us.
    let map = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(map))
}

/// `GET /assets/{name}`.
///
/// # Errors
/// 404 for any name that SHA256SUMS does not list.
pub async fn serve(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<Response, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "there is no such boot asset");
    let bytes = shared.assets.get(&name).ok_or_else(unknown)?;
    Ok(Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, bytes.len())
        .body(Body::from(bytes))
        // The parts are fixed header names and a number.
        .unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(dir: &FilePath) {
        let mut sums = String::new();
        for name in NEEDED {
            std::fs::write(dir.join(name), name).unwrap();
            sums += &format!("{}  {name}\n", sha256(&dir.join(name)).unwrap());
        }
        std::fs::write(dir.join("SHA256SUMS"), sums).unwrap();
    }

    #[test]
    fn assets_are_taken_only_when_every_byte_is_as_built() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Assets::open(dir.path()), Err(AssetError::Read { .. })));
        build(dir.path());
        assert_eq!(&Assets::open(dir.path()).unwrap().get("vmlinuz").unwrap()[..], b"vmlinuz");
        std::fs::write(dir.path().join("initrd.img"), "initrd.imG").unwrap();
        let error = Assets::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("initrd.img is not what"), "{error}");
        std::fs::write(dir.path().join("SHA256SUMS"), "").unwrap();
        assert!(matches!(Assets::open(dir.path()), Err(AssetError::Missing { .. })));
    }
}
