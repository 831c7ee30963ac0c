//! Labels: a site's own words for a host (rack, row, role, feed), by which hosts are selected and spread.

use std::collections::BTreeMap;
use std::fmt;

/// Labels of one host at most.
pub const LABELS_MAX: usize = 32;
/// Characters of a key or a value at most.
const WORD_CHARS_MAX: usize = 63;
/// Words that a selector reads from the record itself; a label of that name would hide it.
pub const RESERVED: [&str; 7] = ["id", "name", "mac", "group", "image", "state", "all"];

/// Which power feed a host hangs on, and in which rack it is: the two labels that limits know.
pub const RACK: &str = "rack";
pub const FEED: &str = "feed";
/// A host with this label, whatever its value, is never rebuilt (the deny list).
pub const PROTECTED: &str = "protected";

/// Checked labels, in key order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

/// Why a label cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelError {
    Key(String),
    Value { key: String, value: String },
    Reserved(String),
    TooMany,
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LabelError::Key(key) => {
                write!(f, "{key:?} is no label: 1 to {WORD_CHARS_MAX} of a-z, 0-9, '-', '_' and '.'")
            }
            LabelError::Value { key, value } => {
                write!(f, "{value:?} is no value for {key}: 1 to {WORD_CHARS_MAX} of a-z, A-Z, 0-9, '-', '_' and '.'")
            }
            LabelError::Reserved(key) => write!(f, "{key:?} is a word of the host record itself; choose another label"),
            LabelError::TooMany => write!(f, "a host has at most {LABELS_MAX} labels"),
        }
    }
}

impl std::error::Error for LabelError {}

impl Labels {
    /// Sets one label.
    ///
    /// # Errors
    /// [`LabelError`]; nothing was changed then.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), LabelError> {
        if RESERVED.contains(&key) {
            return Err(LabelError::Reserved(key.to_string()));
        }
        if !is_word(key) || key.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(LabelError::Key(key.to_string()));
        }
        if !is_word(value) {
            return Err(LabelError::Value { key: key.to_string(), value: value.to_string() });
        }
        if self.0.len() >= LABELS_MAX && !self.0.contains_key(key) {
            return Err(LabelError::TooMany);
        }
        self.0.insert(key.to_string(), value.to_string());
        Ok(())
    }

    pub fn unset(&mut self, key: &str) {
        self.0.remove(key);
    }

    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Characters that mean nothing to a shell, a selector or a table.
#[must_use]
pub fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=WORD_CHARS_MAX).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_one_plain_word_each_side_and_hides_nothing_of_the_record() {
        let mut labels = Labels::default();
        labels.set("rack", "R-12.b").unwrap();
        for (key, value) in [("Rack", "1"), ("", "1"), ("a b", "1"), ("rack", ""), ("rack", "1,2"), ("group", "x")] {
            assert!(labels.set(key, value).is_err(), "{key}={value}");
        }
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("rack", "R-12.b")]);
        for number in 1..LABELS_MAX {
            labels.set(&format!("l{number}"), "v").unwrap();
        }
        assert_eq!(labels.set("one-more", "v"), Err(LabelError::TooMany));
        labels.set("rack", "13").unwrap();
    }
}
