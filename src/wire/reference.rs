//! `NAME:VERSION`, the way people and machines name one immutable golden image.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name and longest version, in bytes: they become file names and parts of URLs.
pub const PART_BYTES_MAX: usize = 64;

/// One version of one golden image, checked: `[a-z0-9][a-z0-9._-]{0,63}` and `[A-Za-z0-9][A-Za-z0-9._+-]{0,63}`.
///
/// Neither part can be `.`, `..`, empty, hidden or hold a slash, so both are safe as file names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    name: String,
    version: String,
}

/// Why a text is no `NAME:VERSION`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RefError {
    #[error("{0:?} has no version: write NAME:VERSION, such as debian:12.4")]
    NoVersion(String),
    #[error("{0:?} is no image name: 1 to 64 of a-z, 0-9, '.', '_', '-', beginning with a letter or digit")]
    Name(String),
    #[error(
        "{0:?} is no image version: 1 to 64 of letters, digits, '.', '_', '+', '-', beginning with a letter or digit"
    )]
    Version(String),
}

impl ImageRef {
    /// # Errors
    /// [`RefError`] when one of the parts has a character or a length that it may not have.
    pub fn new(name: &str, version: &str) -> Result<ImageRef, RefError> {
        if !is_part(name, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), b"._-") {
            return Err(RefError::Name(shortened(name)));
        }
        if !is_part(version, |c| c.is_ascii_alphanumeric(), b"._+-") {
            return Err(RefError::Version(shortened(version)));
        }
        Ok(ImageRef { name: name.to_owned(), version: version.to_owned() })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
}

fn is_part(text: &str, first: impl Fn(&u8) -> bool, others: &[u8]) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= PART_BYTES_MAX
        && bytes.first().is_some_and(&first)
        && bytes.iter().all(|c| first(c) || others.contains(c))
}

/// Error messages quote outside text, so they quote a bounded piece of it.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for ImageRef {
    type Err = RefError;

    fn from_str(text: &str) -> Result<ImageRef, RefError> {
        let (name, version) = text.split_once(':').ok_or_else(|| RefError::NoVersion(shortened(text)))?;
        ImageRef::new(name, version)
    }
}

impl TryFrom<String> for ImageRef {
    type Error = RefError;

    fn try_from(text: String) -> Result<ImageRef, RefError> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> String {
        image.to_string()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_come_back_as_they_were_written() {
        for text in ["debian:12.4", "a:1", "web-server_2.x:2024-01-01+build.7", "d:RC1"] {
            assert_eq!(text.parse::<ImageRef>().unwrap().to_string(), text);
        }
    }

    /// Rule 10: an image reference becomes a path, so nothing that could leave its directory is one.
    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        let long = "a".repeat(65);
        for text in [
            "debian", ":1", "debian:", "..:1", "a/b:1", "a:..", "a:../x", "a:.x", "-a:1", "A:1", "a:1 ", "a:1\n",
            "a\0:1", "ä:1", "a:b:c", "a:-1",
        ] {
            assert!(text.parse::<ImageRef>().is_err(), "{text:?} must be refused");
        }
        assert!(ImageRef::new(&long, "1").is_err());
        assert!(ImageRef::new("a", &long).is_err());
    }
}
