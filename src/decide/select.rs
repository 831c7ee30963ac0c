//! Selectors: which hosts an operator means, as typed.
//!
//! ```text
//! selector = "all" | term { "," term }        "," is AND; "all" stands alone and is never implied
//! term     = key ( "=" | "!=" ) value { "|" value }
//! key      = id | name | mac | group | image | state | any label
//! ```
//!
//! A selector that says nothing, or something we do not know for certain, is an error that says where and why: Google's
//! Diskerase took an empty set for "everything" (faults.md R1, O1). So there are no globs, no regular expressions and no
//! address ranges, `all` must be spelled out, and a host that lacks a label is matched neither by `rack=3` nor by
//! `rack!=3`: a mistyped label matches nobody, also when it is negated.

use super::host::State;
use super::labels::{self, Labels};
use super::mac::Mac;
use std::fmt;

/// Characters of a selector at most.
pub const SELECTOR_CHARS_MAX: usize = 4096;
/// Terms of a selector, and values of a term, at most.
const TERMS_MAX: usize = 32;
const VALUES_MAX: usize = 256;
/// DNS's limit: a host name may be longer than a label's value.
const NAME_CHARS_MAX: usize = 253;
/// Of an image's name and of its version.
const IMAGE_PART_CHARS_MAX: usize = 64;
/// Typed text that an error repeats at most.
const QUOTED_CHARS_MAX: usize = 80;

/// A checked selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    text: String,
    /// `None`: all.
    terms: Option<Vec<Term>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: Field,
    negated: bool,
    /// At least one.
    values: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Id,
    Name,
    Mac,
    Group,
    Image,
    State,
    Label(String),
}

/// What a selector may ask of one host.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub id: &'a str,
    pub name: Option<&'a str>,
    pub macs: &'a [Mac],
    pub group: &'a str,
    /// `NAME:VERSION` of the reported image.
    pub image: Option<&'a str>,
    pub state: &'a State,
    pub labels: &'a Labels,
}

/// Where a text stops being a selector, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectError {
    /// Character, from 1.
    pub at: usize,
    pub why: Why,
}

/// What is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    Empty,
    TooLong,
    TooManyTerms,
    TooManyValues,
    /// Nothing between two commas, or after the last.
    NoTerm,
    AllNotAlone,
    NoKey,
    NoOperator {
        key: String,
    },
    UnknownOperator(String),
    NoValue,
    /// A character of globs, regular expressions or address ranges.
    Pattern(char),
    Space,
    Character(char),
    Key(String),
    Value {
        key: String,
        value: String,
        form: &'static str,
    },
    Twice {
        key: String,
    },
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.why == Why::Empty {
            return write!(f, "the selector is empty; write `all` to mean every host, or terms such as `rack=12`");
        }
        write!(f, "the selector is wrong at character {}: {}", self.at, self.why)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Empty => write!(f, "it is empty"),
            Why::TooLong => write!(f, "it is longer than {SELECTOR_CHARS_MAX} characters"),
            Why::TooManyTerms => write!(f, "more than {TERMS_MAX} terms"),
            Why::TooManyValues => write!(f, "more than {VALUES_MAX} values in one term"),
            Why::NoTerm => write!(f, "a term is missing beside the comma"),
            Why::AllNotAlone => write!(f, "`all` stands alone, without value and without other terms"),
            Why::NoKey => write!(f, "a key is missing before the operator"),
            Why::NoOperator { key } => write!(f, "`{key}` says nothing by itself; write {key}=VALUE or {key}!=VALUE"),
            Why::UnknownOperator(operator) => write!(f, "{operator:?} is no operator; there are `=` and `!=`"),
            Why::NoValue => write!(f, "a value is missing"),
            Why::Pattern(char) => {
                write!(f, "{char:?}: there are no patterns and no ranges; list the values, as in rack=12|13")
            }
            Why::Space => write!(f, "there is white space in it"),
            Why::Character(char) => write!(f, "{char:?} is in no key and no value"),
            Why::Key(key) => write!(f, "{key:?} is no key; a label is 1 to 63 of a-z, 0-9, '-', '_' and '.'"),
            Why::Value { key, value, form } => write!(f, "{value:?} is no value for {key}: {form}"),
            Why::Twice { key } => {
                write!(f, "`{key}=` is there twice, and no host has two of it; to mean either write {key}=ONE|OTHER")
            }
        }
    }
}

impl std::error::Error for SelectError {}

impl fmt::Display for Selector {
    /// As it was typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Selector {
    /// # Errors
    /// [`SelectError`], for every text that does not say exactly which hosts are meant.
    pub fn parse(text: &str) -> Result<Selector, SelectError> {
        if text.trim().is_empty() {
            return Err(SelectError { at: 1, why: Why::Empty });
        }
        if text.chars().count() > SELECTOR_CHARS_MAX {
            return Err(SelectError { at: SELECTOR_CHARS_MAX + 1, why: Why::TooLong });
        }
        let at = |byte: usize, why| SelectError { at: text[..byte].chars().count() + 1, why };
        if text == "all" {
            return Ok(Selector { text: text.to_string(), terms: None });
        }
        let mut terms: Vec<Term> = Vec::new();
        let mut start = 0;
        for piece in text.split(',') {
            if terms.len() == TERMS_MAX {
                return Err(at(start, Why::TooManyTerms));
            }
            let term = Term::parse(piece).map_err(|(byte, why)| at(start + byte, why))?;
            let twice = |known: &Term| !known.negated && !term.negated && known.field == term.field;
            // A host has one rack, but may have several MACs.
            if term.field != Field::Mac && terms.iter().any(twice) {
                return Err(at(start, Why::Twice { key: term.field.key().to_string() }));
            }
            terms.push(term);
            start += piece.len() + 1;
        }
        Ok(Selector { text: text.to_string(), terms: Some(terms) })
    }

    #[must_use]
    pub fn is_all(&self) -> bool {
        self.terms.is_none()
    }

    #[must_use]
    pub fn matches(&self, host: &Facts<'_>) -> bool {
        self.terms.as_ref().is_none_or(|terms| terms.iter().all(|term| term.matches(host)))
    }
}

impl Term {
    /// The error's place is a byte of `piece`.
    fn parse(piece: &str) -> Result<Term, (usize, Why)> {
        if piece.is_empty() {
            return Err((0, Why::NoTerm));
        }
        let is_key = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
        let key_end = piece.find(|char| !is_key(char)).unwrap_or(piece.len());
        let (key, rest) = piece.split_at(key_end);
        if key == "all" {
            return Err((0, Why::AllNotAlone));
        }
        let Some(first) = rest.chars().next() else {
            return Err((key_end, Why::NoOperator { key: quoted(key) }));
        };
        let operator: String = rest.chars().take_while(|char| "=!<>~:".contains(*char)).collect();
        let negated = match operator.as_str() {
            "" => return Err((key_end, odd_character(first))),
            "=" => false,
            "!=" => true,
            _ => return Err((key_end, Why::UnknownOperator(quoted(&operator)))),
        };
        if key.is_empty() {
            return Err((0, Why::NoKey));
        }
        let field = Field::parse(key).ok_or_else(|| (0, Why::Key(quoted(key))))?;
        let mut values = Vec::new();
        let mut start = key_end + operator.len();
        for value in piece[start..].split('|') {
            if values.len() == VALUES_MAX {
                return Err((start, Why::TooManyValues));
            }
            values.push(field.value(value).map_err(|(byte, why)| (start + byte, why))?);
            start += value.len() + 1;
        }
        Ok(Term { field, negated, values })
    }

    fn matches(&self, host: &Facts<'_>) -> bool {
        let one = |has: Option<&str>| {
            has.is_some_and(|has| self.values.iter().any(|value| value.as_str() == has) != self.negated)
        };
        match &self.field {
            Field::Id => one(Some(host.id)),
            Field::Name => one(host.name),
            Field::Group => one(Some(host.group)),
            Field::Image => one(host.image),
            Field::State => one(Some(host.state.word())),
            Field::Label(key) => one(host.labels.get(key)),
            // `mac!=` means that none of its addresses is it.
            Field::Mac => {
                let listed = host.macs.iter().any(|mac| self.values.contains(&mac.to_string()));
                !host.macs.is_empty() && listed != self.negated
            }
        }
    }
}

impl Field {
    fn parse(key: &str) -> Option<Field> {
        Some(match key {
            "id" => Field::Id,
            "name" => Field::Name,
            "mac" => Field::Mac,
            "group" => Field::Group,
            "image" => Field::Image,
            "state" => Field::State,
            label if labels::is_word(label) && !label.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                Field::Label(label.to_string())
            }
            _ => return None,
        })
    }

    fn key(&self) -> &str {
        match self {
            Field::Id => "id",
            Field::Name => "name",
            Field::Mac => "mac",
            Field::Group => "group",
            Field::Image => "image",
            Field::State => "state",
            Field::Label(key) => key,
        }
    }

    /// One value in the form in which it is compared.
    fn value(&self, value: &str) -> Result<String, (usize, Why)> {
        if value.is_empty() {
            return Err((0, Why::NoValue));
        }
        let more = match self {
            Field::Mac => ":",
            Field::Image => ":+",
            _ => "",
        };
        let plain = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char) || more.contains(char);
        if let Some((byte, odd)) = value.char_indices().find(|(_, char)| !plain(*char)) {
            return Err((byte, odd_character(odd)));
        }
        let (good, form) = match self {
            Field::Mac => (value.parse::<Mac>().is_ok(), "six hexadecimal bytes such as 52:54:00:12:34:56"),
            Field::State => (State::WORDS.contains(&value), STATE_FORM),
            Field::Image => {
                let part = |part: &str| (1..=IMAGE_PART_CHARS_MAX).contains(&part.len()) && !part.contains(':');
                let good = value.split_once(':').is_some_and(|(name, version)| part(name) && part(version));
                (good, "NAME:VERSION such as debian:12.4")
            }
            Field::Name => (value.len() <= NAME_CHARS_MAX, "at most 253 characters"),
            Field::Id | Field::Group | Field::Label(_) => (labels::is_word(value), "at most 63 characters"),
        };
        if !good {
            return Err((0, Why::Value { key: self.key().to_string(), value: quoted(value), form }));
        }
        // Compared as it is shown: lower case, colons.
        Ok(value.parse::<Mac>().ok().filter(|_| *self == Field::Mac).map_or(value.to_string(), |mac| mac.to_string()))
    }
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}

const STATE_FORM: &str = "one of discovered, enrolled, queued, netbooting, deploying, verifying, rebooting, ready, \
                          failed, held";

fn odd_character(odd: char) -> Why {
    match odd {
        '*' | '?' | '[' | ']' | '(' | ')' | '{' | '}' | '^' | '$' | '+' | '\\' | '/' | '~' => Why::Pattern(odd),
        _ if odd.is_whitespace() => Why::Space,
        '=' | '!' | '<' | '>' => Why::UnknownOperator(odd.to_string()),
        _ => Why::Character(odd),
    }
}

/// Above so many hosts an operator must say how many are meant.
pub const EXPECT_COUNT_ABOVE: usize = 10;

/// Whether a command may act on the hosts that a selector matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Confirmed,
    /// Nothing to act on is an error, not a success (a mistyped label).
    Nobody,
    /// More than the threshold, and nobody said how many.
    NeedsExpectCount {
        matched: usize,
        threshold: usize,
    },
    /// Also below the threshold: who counted, counted something else.
    Differs {
        matched: usize,
        expected: usize,
    },
}

/// `expected` is what `--expect-count` says.
#[must_use]
pub fn confirm(matched: usize, threshold: usize, expected: Option<usize>) -> Count {
    match expected {
        Some(expected) if expected != matched => Count::Differs { matched, expected },
        _ if matched == 0 => Count::Nobody,
        None if matched > threshold => Count::NeedsExpectCount { matched, threshold },
        _ => Count::Confirmed,
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Count::Confirmed => write!(f, "the number of hosts is confirmed"),
            Count::Nobody => write!(f, "the selector matches no host; nothing was done"),
            Count::NeedsExpectCount { matched, threshold } => write!(
                f,
                "the selector matches {matched} hosts; above {threshold} the number must be confirmed: if it is right, \
                 repeat the command with --expect-count {matched}"
            ),
            Count::Differs { matched, expected } => {
                write!(
                    f,
                    "the selector matches {matched} hosts, not {expected} as --expect-count says; nothing was done"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
