//! Labels: a site's own words for a host (rack, row, role, feed), by which hosts are selected and spread.

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

/// Checked labels, in key order, as one text: `feed=a rack=12`. A table of four takes 800 bytes, and each of 100,000
/// hosts has one. Neither a key nor a value can have the characters that part them ([`is_word`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<str>);

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
        let mut all: Vec<(&str, &str)> = self.iter().filter(|(known, _)| *known != key).collect();
        if all.len() >= LABELS_MAX {
            return Err(LabelError::TooMany);
        }
        let place = all.partition_point(|(known, _)| *known < key);
        all.insert(place, (key, value));
        self.0 = written(all);
        Ok(())
    }

    pub fn unset(&mut self, key: &str) {
        self.0 = written(self.iter().filter(|(known, _)| *known != key).collect());
    }

    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find_map(|(known, value)| (known == key).then_some(value))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.split(' ').filter_map(|label| label.split_once('='))
    }
}

fn written(labels: Vec<(&str, &str)>) -> Box<str> {
    let labels: Vec<String> = labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(" ").into()
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
        assert_eq!(labels.get("rack"), Some("13"));
        labels.unset("rack");
        assert_eq!((labels.get("rack"), labels.iter().count()), (None, LABELS_MAX - 1));
        assert!(labels.iter().is_sorted());
        labels.set("one-more", "v").unwrap();
    }
}
