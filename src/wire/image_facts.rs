//! What is known of a version beside its bytes: what its maker said of it (provenance), and what it says of itself (facts).
//! The store keeps both in the version's record, and operators are shown the same words.
//!
//! Texts out of an image are outside text: they are cut to [`TEXT_BYTES_MAX`] bytes, and what a terminal must not see stands
//! in them as `\xNN`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::decide::drift::path;

/// Of any one text that was read from an image, before it is made fit to be shown.
pub const TEXT_BYTES_MAX: usize = 256;
/// Labels of one version at most.
pub const LABELS_MAX: usize = 32;
const KEY_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 256;

/// Who made a version, and from what. It is written down as it is said, once: a record never changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// What built it: a person, a job, a tool with its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    /// Of the sources that it was built from, as git names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// A site's own words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Why what was said of a version is not written down.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProvenanceError {
    #[error(
        "the {what} must be one line of 1 to {VALUE_BYTES_MAX} bytes without control characters or others that hide: {}",
        shown(.said)
    )]
    Text { what: &'static str, said: String },
    #[error("{} is no label: KEY=VALUE", shown(.said))]
    NoLabel { said: String },
    #[error(
        "{} is no key of a label: 1 to {KEY_BYTES_MAX} of a-z, A-Z, 0-9, '.', '_', '-' and '/', and first a letter or digit",
        shown(.key)
    )]
    Key { key: String },
    #[error("the label {key} is there twice; a key has one value")]
    Twice { key: String },
    #[error(
        "the value of the label {key} must be one line of at most {VALUE_BYTES_MAX} bytes without control characters or \
         others that hide: {}",
        shown(.value)
    )]
    Value { key: String, value: String },
    #[error("{count} labels: a version has at most {LABELS_MAX}")]
    TooMany { count: usize },
}

/// A text that was refused, as far as a person needs to see it.
fn shown(text: &str) -> String {
    text_of(&text.as_bytes()[..text.len().min(64)])
}

/// The front of a text out of an image, fit to be shown.
#[must_use]
pub fn text_of(bytes: &[u8]) -> String {
    let mut end = bytes.len().min(TEXT_BYTES_MAX);
    // Not in the middle of a character.
    while end > 0 && bytes.get(end).is_some_and(|next| next & 0xc0 == 0x80) {
        end -= 1;
    }
    path::to_text(&bytes[..end])
}

impl Provenance {
    /// Takes what was said and checks it. `labels`: each as `KEY=VALUE`.
    ///
    /// # Errors
    /// [`ProvenanceError`].
    pub fn said<'l>(
        builder: Option<&str>,
        commit: Option<&str>,
        labels: impl IntoIterator<Item = &'l str>,
    ) -> Result<Provenance, ProvenanceError> {
        let (builder, commit) = (builder.map(str::to_owned), commit.map(str::to_owned));
        let mut said = Provenance { builder, commit, labels: BTreeMap::new() };
        for label in labels {
            let (key, value) =
                label.split_once('=').ok_or_else(|| ProvenanceError::NoLabel { said: label.to_owned() })?;
            if said.labels.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(ProvenanceError::Twice { key: shown(key) });
            }
            // Before thousands are held.
            if said.labels.len() > LABELS_MAX {
                return Err(ProvenanceError::TooMany { count: said.labels.len() });
            }
        }
        said.check()?;
        Ok(said)
    }

    /// # Errors
    /// [`ProvenanceError`]: what a record does not take.
    pub fn check(&self) -> Result<(), ProvenanceError> {
        for (what, said) in [("builder", &self.builder), ("commit", &self.commit)] {
            let said = said.as_deref().filter(|said| said.is_empty() || !is_line(said));
            if let Some(said) = said {
                return Err(ProvenanceError::Text { what, said: said.to_owned() });
            }
        }
        if self.labels.len() > LABELS_MAX {
            return Err(ProvenanceError::TooMany { count: self.labels.len() });
        }
        for (key, value) in &self.labels {
            let is_first = |byte: u8| byte.is_ascii_alphanumeric();
            let is_key = |byte: u8| is_first(byte) || matches!(byte, b'.' | b'_' | b'-' | b'/');
            if key.len() > KEY_BYTES_MAX || !key.bytes().next().is_some_and(is_first) || !key.bytes().all(is_key) {
                return Err(ProvenanceError::Key { key: key.clone() });
            }
            if !is_line(value) {
                return Err(ProvenanceError::Value { key: key.clone(), value: value.clone() });
            }
        }
        Ok(())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Provenance::default()
    }
}

fn is_line(text: &str) -> bool {
    text.len() <= VALUE_BYTES_MAX && !text.chars().any(path::is_hidden)
}

/// What an image says of itself, read from its own bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Partition table: `gpt`, `mbr`, or `none` for a file system that fills the image.
    pub table: String,
    /// By number; the whole image has number 0.
    pub partitions: Vec<PartitionFacts>,
    pub os: OsFacts,
    pub kernels: Vec<KernelFacts>,
    /// Why there may be more kernels than are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels_unread: Option<String>,
    pub arch: ArchFacts,
    /// What can start it: `BIOS`, `UEFI x64` and other architectures as UEFI calls them.
    pub boot: Vec<String>,
    /// Why nothing of the above is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionFacts {
    pub number: u32,
    /// Only a GUID partition table has names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The GUID in lower case, or `0x83` in an MBR; empty for the whole image.
    pub type_id: String,
    /// For people, where it is a usual type: `EFI system`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_name: Option<String>,
    /// As in `PARTUUID=`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_uuid: Option<String>,
    pub start_bytes: u64,
    pub bytes: u64,
    /// As blkid names it; `blank`, `unknown`.
    pub file_system: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// As in `UUID=`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Of the file system by its own word: it may be smaller than its partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system_bytes: Option<u64>,
    /// Why a file system that is read here cannot be: it is damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// Out of os-release(5).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsFacts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretty_name: Option<String>,
    /// The file that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Why it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// A kernel that is installed, or parts of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFacts {
    /// `6.1.0-18-amd64`
    pub version: String,
    /// Where its image lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The directory of its modules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<String>,
}

/// For which processor it was built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchFacts {
    /// As `uname -m` says it: `x86_64`, `aarch64`; `None`: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it was read from, or why it is unknown.
    pub evidence: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[&str]) -> Result<Provenance, ProvenanceError> {
        Provenance::said(Some("ci"), Some("v1.2-3-gabcdef0"), labels.iter().copied())
    }

    #[test]
    fn what_is_said_is_kept_as_it_is() {
        let said = labels(&["org.opencontainers.image.revision=a=b", "team/web=", "os=Fedora \u{1f3a9}"]).unwrap();
        assert_eq!(said.labels["org.opencontainers.image.revision"], "a=b");
        assert_eq!((&*said.labels["team/web"], &*said.labels["os"]), ("", "Fedora \u{1f3a9}"));
        assert!(!said.is_empty() && Provenance::default().is_empty());
    }

    /// Bad input: what would end a line, move a cursor, hide, or fill the record.
    #[test]
    fn what_is_no_provenance_is_refused_in_words_that_can_be_shown() {
        let long = "k".repeat(129);
        let long_value = format!("a={}", "v".repeat(257));
        let many: Vec<String> = (0..33).map(|number| format!("k{number}=v")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let bad: [&[&str]; 9] = [
            &["novalue"],
            &["=v"],
            &["-a=v"],
            &["a b=v"],
            &[&long],
            &[&long_value],
            &["a=1", "a=2"],
            &["a=\x1b[2J"],
            &["a=left\u{202e}right"],
        ];
        for bad in bad.into_iter().chain([&many[..]]) {
            let error = labels(bad).unwrap_err().to_string();
            assert!(!error.chars().any(path::is_hidden), "{error}");
        }
        for bad in ["", "two\nlines", &"x".repeat(257)] {
            assert!(Provenance::said(Some(bad), None, []).unwrap_err().to_string().contains("builder"));
            assert!(Provenance::said(None, Some(bad), []).unwrap_err().to_string().contains("commit"));
        }
    }
}
