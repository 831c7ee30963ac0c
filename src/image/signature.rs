//! Who vouches for a version: ed25519 signatures (RFC 8032) over a statement that binds its name to its content.
//!
//! A signature over the manifest's digest alone would say that the content is good, not that it is `debian:12.4`: whoever can
//! write to the store could give an old version, with its holes and its good signature, a new name. So what is signed is this
//! text, to the last byte:
//!
//! ```text
//! regild image statement 1
//! image: debian:12.4
//! manifest: <64 hex>
//! content: <64 hex>
//! ```
//!
//! The manifest digest is what a host is ordered to write; the content digest is what whoever built the image can compute
//! without asking this server. minisign signs the same text as a file.

use std::fs;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{ImageRef, ImageStore, Record, StoreError, files, io_error};
use crate::clock::UnixSeconds;

const FORMAT: u32 = 1;
/// Signatures of one version: a team and its build server, with room.
const SIGNATURES_MAX: usize = 16;
/// A minisign file has about 350 bytes; comments may be long.
const TEXT_BYTES_MAX: usize = 16 << 10;
const PREFIX: &str = "ed25519:";
/// What stands before the 32 bytes of a key in PKCS #8 (RFC 8410, section 7) and in SubjectPublicKeyInfo (section 4).
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// Why a key or a signature cannot be used.
#[derive(Debug, Error)]
pub enum SignatureError {
    #[error(
        "this is no public key: write ed25519:BASE64 as `regild image keygen` prints it, a PEM block PUBLIC KEY of openssl, or \
         the second line of a minisign .pub file (RW...)"
    )]
    PublicKey,
    #[error(
        "this is no private ed25519 key: `regild image keygen FILE` and `openssl genpkey -algorithm ed25519` make one (PEM, \
         PRIVATE KEY, without password). minisign keys sign the output of `image statement` with minisign -S"
    )]
    PrivateKey,
    #[error("this is no signature: ed25519 has 64 bytes in base64, minisign a file of four lines")]
    Form,
    #[error(
        "the signature does not fit {image} as it is here: it is of another name, version or content, or was changed"
    )]
    Wrong { image: ImageRef },
    #[error(
        "no key of [image.trust] in the server's configuration made this minisign signature of {image}, or it was changed"
    )]
    Unknown { image: ImageRef },
    #[error("{image} has {SIGNATURES_MAX} signatures already")]
    TooMany { image: ImageRef },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A public key that images may be signed with.
#[derive(Debug, Clone, PartialEq)]
pub enum PublicKey {
    Ed25519(VerifyingKey),
    /// With its base64, by which people know it.
    Minisign(minisign_verify::PublicKey, String),
}

impl PublicKey {
    /// # Errors
    /// [`SignatureError::PublicKey`].
    pub fn parse(text: &str) -> Result<PublicKey, SignatureError> {
        let text = text.trim();
        if let Some(key) = text.strip_prefix(PREFIX) {
            return ed25519_of(&BASE64.decode(key).unwrap_or_default());
        }
        if text.starts_with("-----BEGIN PUBLIC KEY-----") {
            let der = pem(text).ok_or(SignatureError::PublicKey)?;
            return ed25519_of(der.strip_prefix(&SPKI).unwrap_or_default());
        }
        // A whole .pub file, too: a comment, then the key.
        let key = text.lines().last().unwrap_or_default().trim();
        let parsed = minisign_verify::PublicKey::from_base64(key).map_err(|_| SignatureError::PublicKey)?;
        Ok(PublicKey::Minisign(parsed, key.to_owned()))
    }

    /// As it is written in the configuration.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            PublicKey::Ed25519(key) => format!("{PREFIX}{}", BASE64.encode(key.as_bytes())),
            PublicKey::Minisign(_, text) => text.clone(),
        }
    }
}

fn ed25519_of(bytes: &[u8]) -> Result<PublicKey, SignatureError> {
    let key = bytes.try_into().ok().and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
    // A key of small order would accept signatures that nobody made.
    let key = key.filter(|key| !key.is_weak()).ok_or(SignatureError::PublicKey)?;
    Ok(PublicKey::Ed25519(key))
}

fn pem(text: &str) -> Option<Vec<u8>> {
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    BASE64.decode(body).ok()
}

/// The private key of a PEM file.
///
/// # Errors
/// [`SignatureError::PrivateKey`].
pub fn private_key(text: &str) -> Result<SigningKey, SignatureError> {
    let is_pem = text.trim_start().starts_with("-----BEGIN PRIVATE KEY-----");
    let der = pem(text.trim()).filter(|_| is_pem).ok_or(SignatureError::PrivateKey)?;
    let seed = der.strip_prefix(&PKCS8).and_then(|seed| <[u8; 32]>::try_from(seed).ok());
    Ok(SigningKey::from_bytes(&seed.ok_or(SignatureError::PrivateKey)?))
}

/// A private key as openssl writes it.
#[must_use]
pub fn private_pem(seed: [u8; 32]) -> String {
    let der = [PKCS8.as_slice(), &seed].concat();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64.encode(der))
}

/// What is signed.
#[must_use]
pub fn statement(image: &ImageRef, manifest: &str, content_digest: &str) -> String {
    format!("regild image statement 1\nimage: {image}\nmanifest: {manifest}\ncontent: {content_digest}\n")
}

/// A signature as it is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Signed {
    Ed25519 {
        /// As in the configuration.
        key: String,
        /// base64.
        signature: String,
    },
    /// The text of a `.minisig` file.
    Minisign { text: String },
}

impl Signed {
    #[must_use]
    pub fn by(key: &SigningKey, statement: &str) -> Signed {
        let signature = BASE64.encode(key.sign(statement.as_bytes()).to_bytes());
        Signed::Ed25519 { key: PublicKey::Ed25519(key.verifying_key()).text(), signature }
    }

    /// Whether this key made it over this statement.
    fn is_by(&self, key: &PublicKey, statement: &str) -> bool {
        match (self, key) {
            (Signed::Ed25519 { signature, .. }, PublicKey::Ed25519(key)) => {
                let bytes = BASE64.decode(signature).ok().and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
                bytes.is_some_and(|bytes| {
                    key.verify_strict(statement.as_bytes(), &Signature::from_bytes(&bytes)).is_ok()
                })
            }
            (Signed::Minisign { text }, PublicKey::Minisign(key, _)) => {
                let signature = minisign_verify::Signature::decode(text);
                signature.is_ok_and(|signature| key.verify(statement.as_bytes(), &signature, true).is_ok())
            }
            _ => false,
        }
    }

    /// minisign's trusted comment, which the signature covers.
    fn comment(&self) -> Option<String> {
        let Signed::Minisign { text } = self else { return None };
        let comment = text.lines().find_map(|line| line.strip_prefix("trusted comment: "))?;
        Some(comment.chars().filter(|c| !c.is_control()).take(200).collect())
    }
}

/// The file `signatures/<NAME>:<VERSION>`, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct SignatureFile {
    format: u32,
    signatures: Vec<Entry>,
}

/// A signature, and when it came here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub signed: Signed,
    pub added_at: UnixSeconds,
    pub added_by: String,
}

/// What is known of one signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The trusted key that made it; `None`: no trusted one did.
    pub key: Option<String>,
    pub comment: Option<String>,
    pub added_at: UnixSeconds,
    pub added_by: String,
}

impl ImageStore {
    /// What each signature of a version is worth under these keys.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn verify(&self, record: &Record, keys: &[PublicKey]) -> Result<Vec<Verdict>, StoreError> {
        let statement = statement(&record.image, &record.manifest, &record.content_digest);
        let verdict = |entry: Entry| {
            let key = keys.iter().find(|key| entry.signed.is_by(key, &statement));
            let comment = key.and_then(|_| entry.signed.comment());
            Verdict { key: key.map(PublicKey::text), comment, added_at: entry.added_at, added_by: entry.added_by }
        };
        Ok(self.signatures(&record.image)?.into_iter().map(verdict).collect())
    }

    /// Keeps a signature of a version, if it is one.
    ///
    /// # Errors
    /// [`SignatureError`]: it is of something else, or of nobody who is known.
    pub fn add_signature(&self, record: &Record, entry: Entry, keys: &[PublicKey]) -> Result<(), SignatureError> {
        let image = || record.image.clone();
        let statement = statement(&record.image, &record.manifest, &record.content_digest);
        match &entry.signed {
            Signed::Ed25519 { key, .. } => {
                if !entry.signed.is_by(&PublicKey::parse(key)?, &statement) {
                    return Err(SignatureError::Wrong { image: image() });
                }
            }
            Signed::Minisign { text } => {
                if text.len() > TEXT_BYTES_MAX || minisign_verify::Signature::decode(text).is_err() {
                    return Err(SignatureError::Form);
                }
                if !keys.iter().any(|key| entry.signed.is_by(key, &statement)) {
                    return Err(SignatureError::Unknown { image: image() });
                }
            }
        }
        let mut signatures = self.signatures(&record.image)?;
        if signatures.iter().any(|known| known.signed == entry.signed) {
            return Ok(());
        }
        if signatures.len() >= SIGNATURES_MAX {
            return Err(SignatureError::TooMany { image: image() });
        }
        signatures.push(entry);
        let place = self.signature_path(&record.image);
        let json = serde_json::to_vec_pretty(&SignatureFile { format: FORMAT, signatures })
            .map_err(|error| StoreError::Damaged { path: place.clone(), reason: error.to_string() })?;
        files::create_dir(&self.dir.join("signatures"))?;
        Ok(files::write_whole(&self.dir, &place, &json)?)
    }

    fn signatures(&self, image: &ImageRef) -> Result<Vec<Entry>, StoreError> {
        let path = self.signature_path(image);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let file: Result<SignatureFile, _> = serde_json::from_slice(&text);
        match file {
            Ok(file) if file.format == FORMAT => Ok(file.signatures),
            Ok(file) => Err(StoreError::Damaged { path, reason: format!("format {}", file.format) }),
            Err(error) => Err(StoreError::Damaged { path, reason: error.to_string() }),
        }
    }

    fn signature_path(&self, image: &ImageRef) -> PathBuf {
        self.dir.join("signatures").join(image.to_string())
    }
}

#[cfg(test)]
mod tests;
