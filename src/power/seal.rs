//! Passwords of management controllers, encrypted while they rest.
//!
//! Whoever holds such a password can switch machines off and boot them from anything. So it is sealed the moment it
//! arrives, opened only for the action that needs it, and bound (as associated data) to the host and the place
//! that it was given for: a sealed password moved to another record, or to an address that somebody changed, does
//! not open there.
//!
//! `v1.` and the hex of: key id (4 bytes) | nonce (12) | ChaCha20-Poly1305 of the password, with its tag (16).
//!
//! The nonce is random. 96 bits are plenty here: 2^32 seals under one key would leave a collision at 2^-32, and a
//! fleet makes some thousands. ring does it because rustls brings it anyway.
//!
//! The key file protects the store's exports and its backups, as long as the key is not in the same backup. It does
//! not protect from someone who is root on the server.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{fmt, io};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock;

const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 4;
const FORM: &str = "v1.";
/// A sealed password is never longer: a form that is was not made here.
const SEALED_BYTES_MAX: usize = 1024;

/// A password in memory. It cannot be printed or serialized, and its bytes are overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    #[must_use]
    pub fn new(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }

    /// The password itself, for the one who sends it to its controller.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::new)
    }
}

/// Why a password cannot be sealed or opened. Never says anything of the password.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("there is no key file {} that the stored passwords could be opened with; put it back from your backup, \
             or give the passwords again", path.display())]
    Missing { path: PathBuf },
    #[error("the key file {} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the key file {} cannot be made", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("the key file {} is not a plain file", path.display())]
    NotAFile { path: PathBuf },
    #[error("the key file {} can be read by others (mode {mode:04o}); do: chmod 600, and change the passwords if \
             somebody may have read it", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the key file {} belongs to user {owner}, neither to this process's user nor to root", path.display())]
    Owner { path: PathBuf, owner: u32 },
    #[error("the key file {} has {found} usable bytes, not {KEY_BYTES}: it is damaged; put it back from your backup, \
             or remove it and give the passwords again", path.display())]
    Damaged { path: PathBuf, found: u64 },
    #[error("this password was sealed with another key than {}; put the former key file back, or give the password \
             again", path.display())]
    OtherKey { path: PathBuf },
    #[error(
        "the sealed password does not open for {place} of host {host}: it was sealed for another place or is \
             damaged; give it again"
    )]
    NotForThis { host: String, place: String },
    #[error("not a sealed password of this version")]
    Form,
}

/// The key that seals all passwords of one server.
pub struct Key {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    path: PathBuf,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.path.display())
    }
}

impl Key {
    /// Opens the key file. A missing one is an error here: a new key opens none of the passwords that are there.
    ///
    /// # Errors
    /// [`SealError`] names the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Key, SealError> {
        let read = |source| SealError::Read { path: path.to_path_buf(), source };
        // NONBLOCK: a FIFO in the key's place must not hang the server.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(SealError::Missing { path: path.to_path_buf() });
            }
            opened => opened.map_err(read)?,
        };
        let data = file.metadata().map_err(read)?;
        if !data.is_file() {
            return Err(SealError::NotAFile { path: path.to_path_buf() });
        }
        if data.mode() & 0o077 != 0 {
            return Err(SealError::Exposed { path: path.to_path_buf(), mode: data.mode() & 0o7777 });
        }
        if data.uid() != 0 && data.uid() != rustix::process::geteuid().as_raw() {
            return Err(SealError::Owner { path: path.to_path_buf(), owner: data.uid() });
        }
        let damaged = |found| SealError::Damaged { path: path.to_path_buf(), found };
        if data.len() != KEY_BYTES as u64 {
            return Err(damaged(data.len()));
        }
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        file.read_exact(&mut bytes[..]).map_err(read)?;
        // What some file systems leave of a file after a power cut.
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(damaged(0));
        }
        Ok(Key { bytes, path: path.to_path_buf() })
    }

    /// Opens the key file, and makes it when this is the first password.
    ///
    /// # Errors
    /// As [`Key::open`].
    pub fn open_or_create(path: &Path) -> Result<Key, SealError> {
        match Key::open(path) {
            Err(SealError::Missing { .. }) => {
                create(path).map_err(|source| SealError::Create { path: path.to_path_buf(), source })?;
                // Read back: what counts is the file, also when another process made it first.
                Key::open(path)
            }
            opened => opened,
        }
    }

    /// Seals a password for one place of one host.
    #[must_use]
    pub fn seal(&self, secret: &Secret, host: &str, place: &str) -> Sealed {
        let nonce = clock::random_bytes::<NONCE_LEN>();
        let mut text = secret.expose().as_bytes().to_vec();
        self.cipher()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound_to(host, place), &mut text)
            .expect("ChaCha20-Poly1305 refuses only texts of more than 256 GiB");
        Sealed { key_id: self.id(), nonce, text }
    }

    /// Opens what [`Key::seal`] sealed for the same place of the same host.
    ///
    /// # Errors
    /// [`SealError::OtherKey`], [`SealError::NotForThis`].
    pub fn unseal(&self, sealed: &Sealed, host: &str, place: &str) -> Result<Secret, SealError> {
        if sealed.key_id != self.id() {
            return Err(SealError::OtherKey { path: self.path.clone() });
        }
        let wrong = || SealError::NotForThis { host: host.to_string(), place: place.to_string() };
        let mut text = Zeroizing::new(sealed.text.clone());
        let nonce = Nonce::assume_unique_for_key(sealed.nonce);
        let plain = self.cipher().open_in_place(nonce, bound_to(host, place), &mut text).map_err(|_| wrong())?;
        let plain = std::str::from_utf8(plain).map_err(|_| wrong())?;
        Ok(Secret::new(plain.to_string()))
    }

    fn cipher(&self) -> LessSafeKey {
        // "Less safe" is ring's word for choosing the nonce oneself: random, see the head of this file.
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &self.bytes[..]).expect("the key has 32 bytes"))
    }

    /// Tells keys apart without telling anything of them.
    fn id(&self) -> [u8; KEY_ID_BYTES] {
        let digest = blake3::derive_key("regild power key id", &self.bytes[..]);
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&digest[..KEY_ID_BYTES]);
        id
    }
}

fn bound_to(host: &str, place: &str) -> Aad<Vec<u8>> {
    Aad::from([b"regild power password v1".as_slice(), host.as_bytes(), place.as_bytes()].join(&0))
}

/// Whole or not at all, and never over a file that is there: a key that is lost locks every stored password.
fn create(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}.{}", clock::random_hex::<8>()));
    let made = write_new(&unfinished).and_then(|()| match std::fs::hard_link(&unfinished, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    let _ = std::fs::remove_file(&unfinished);
    made?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn write_new(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&Zeroizing::new(clock::random_bytes::<KEY_BYTES>())[..])?;
    file.sync_all()
}

/// A sealed password, as it lies in the store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sealed {
    key_id: [u8; KEY_ID_BYTES],
    nonce: [u8; NONCE_LEN],
    text: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed(key {})", clock::hex(&self.key_id))
    }
}

impl From<Sealed> for String {
    fn from(sealed: Sealed) -> String {
        format!("{FORM}{}", clock::hex(&[&sealed.key_id[..], &sealed.nonce, &sealed.text].concat()))
    }
}

impl TryFrom<String> for Sealed {
    type Error = SealError;

    fn try_from(text: String) -> Result<Sealed, SealError> {
        let bytes = text.strip_prefix(FORM).and_then(from_hex).ok_or(SealError::Form)?;
        let (key_id, rest) = bytes.split_first_chunk().ok_or(SealError::Form)?;
        let (nonce, text) = rest.split_first_chunk().ok_or(SealError::Form)?;
        if text.len() < CHACHA20_POLY1305.tag_len() {
            return Err(SealError::Form);
        }
        Ok(Sealed { key_id: *key_id, nonce: *nonce, text: text.to_vec() })
    }
}

/// Bytes from hex, upper or lower case; `None` for anything else.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) || text.len() > 2 * SEALED_BYTES_MAX {
        return None;
    }
    let digits = |at: usize| text.get(at..at + 2).filter(|pair| !pair.starts_with('+'));
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(digits(at)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests;
