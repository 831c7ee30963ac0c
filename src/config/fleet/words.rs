//! The words of a fleet document: durations, percentages, addresses, caps. Each one checks itself while the document
//! is being read, so that an error carries the line on which the word stands.

use crate::config::host_name;
use crate::decide::labels::{Labels, is_word};
use crate::decide::mac::Mac;
use crate::scheduler::duration;
use crate::wire::reference::ImageRef;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

pub const MINUTE: u64 = 60;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;

/// A word that is written as text and checked by its own `FromStr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<T>(pub T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads<T>(PhantomData<T>);
        impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Reads<T> {
            type Value = Text<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text in quotes")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<T>, E> {
                text.parse().map(Text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Reads(PhantomData))
    }
}

/// A length of time from `LEAST` to `MOST` seconds, written like `30d`, `10m` or `1d12h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<const LEAST: u64, const MOST: u64>(pub u64);

impl<const LEAST: u64, const MOST: u64> FromStr for Span<LEAST, MOST> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A length that may be nothing is written so; everywhere else nothing is a mistake.
        let seconds = if text == "0s" { 0 } else { duration::parse(text).map_err(|error| error.to_string())? };
        if !(LEAST..=MOST).contains(&seconds) {
            return Err(format!("{text:?} must be {} to {}", short(LEAST), short(MOST)));
        }
        Ok(Span(seconds))
    }
}

impl<const LEAST: u64, const MOST: u64> fmt::Display for Span<LEAST, MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&short(self.0))
    }
}

/// The shortest way to write so many seconds, `1d12h`; nothing is rounded.
#[must_use]
pub fn short(seconds: u64) -> String {
    let mut text = String::new();
    let mut rest = seconds;
    for (unit, length) in [("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", 1)] {
        if rest >= length {
            text += &format!("{}{unit}", rest / length);
            rest %= length;
        }
    }
    if text.is_empty() { "0s".to_string() } else { text }
}

/// A share from 1 to `MOST` percent, written `5%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent<const MOST: u32>(pub u32);

impl<const MOST: u32> FromStr for Percent<MOST> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
        let within = number.filter(|number| (1..=MOST).contains(number));
        within.map(Percent).ok_or_else(|| format!("{text:?} must be a whole share from 1% to {MOST}%"))
    }
}

impl<const MOST: u32> fmt::Display for Percent<MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// A brake: a number from 1 to `MOST`. Nothing that can be written here means "no limit".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap<const MOST: u32>(pub u32);

impl<const MOST: u32> Serialize for Cap<MOST> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de, const MOST: u32> Deserialize<'de> for Cap<MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads<const MOST: u32>;
        impl<const MOST: u32> Visitor<'_> for Reads<MOST> {
            type Value = Cap<MOST>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number from 1 to {MOST} (there is no value for \"no limit\")")
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                let within = u32::try_from(number).ok().filter(|number| (1..=MOST).contains(number));
                within.map(Cap).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                u64::try_from(number)
                    .map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
                    .and_then(|number| self.visit_u64(number))
            }
        }
        // Not deserialize_u32: the readers' own words about a text or a null say nothing of the range.
        deserializer.deserialize_any(Reads::<MOST>)
    }
}

/// A plain word: the name of a group, a rack, a feed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Word(pub String);

impl FromStr for Word {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is no name: 1 to 63 of a-z, A-Z, 0-9, '-', '_' and '.'");
        if is_word(text) { Ok(Word(text.to_string())) } else { Err(error()) }
    }
}

/// The name of a drift policy, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftName(pub String);

impl FromStr for DriftName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(DriftName(String::new()));
        }
        text.parse().map(|Word(name)| DriftName(name))
    }
}

/// A host's name, RFC 1123.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostName(pub String);

impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        host_name(text).map(|()| HostName(text.to_string()))
    }
}

/// A MAC that one NIC can own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NicMac(pub Mac);

impl FromStr for NicMac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mac: Mac = text.parse().map_err(|error| format!("{error}"))?;
        if mac.is_unicast() { Ok(NicMac(mac)) } else { Err(format!("{mac} is the address of no single machine")) }
    }
}

/// A host id. It holds the first MAC that was seen of the host, so it says the same as that MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostId(pub Mac);

impl FromStr for HostId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        mac_of_id(text).map(HostId).ok_or_else(|| format!("{text:?} is no host id; they look like h-525400123456"))
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h-{}", self.0.to_string().replace(':', ""))
    }
}

fn mac_of_id(text: &str) -> Option<Mac> {
    let digits = text.strip_prefix("h-").filter(|digits| digits.len() == 12 && digits.is_ascii())?;
    let pairs: Vec<&str> = (0..6).map(|at| &digits[at * 2..at * 2 + 2]).collect();
    // An id is lower case; another spelling would be a second name of the same host.
    pairs.join(":").parse().ok().filter(|mac: &Mac| mac.is_unicast() && mac.to_string().replace(':', "") == digits)
}

/// `NAME@CHANNEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel(pub String);

impl FromStr for Channel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is no channel; write NAME@CHANNEL, such as debian@stable");
        let (name, channel) = text.split_once('@').ok_or_else(form)?;
        // A channel is named like a version.
        ImageRef::new(name, channel).map_err(|_| form())?;
        Ok(Channel(text.to_string()))
    }
}

/// Days, both inside: `2026-12-20..2027-01-03`, or one day alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Days(pub String, pub String);

impl FromStr for Days {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let day = |text: &str| -> Result<jiff::civil::Date, String> {
            let date: Option<jiff::civil::Date> = text.parse().ok();
            // jiff reads more forms than this one; a document keeps to one.
            let date = date.filter(|date| date.to_string() == text);
            date.ok_or_else(|| format!("{text:?} is no day; write it like 2026-12-24"))
        };
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        if day(first)? > day(last)? {
            return Err(format!("{text:?} ends before it begins"));
        }
        Ok(Days(first.to_string(), last.to_string()))
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { f.write_str(&self.0) } else { write!(f, "{}..{}", self.0, self.1) }
    }
}

macro_rules! shown_as_written {
    ($($word:ty),*) => {$(
        impl fmt::Display for $word {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    )*};
}
shown_as_written!(Word, DriftName, HostName, NicMac, Channel);

/// Labels as a table of key and value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelTable(pub Labels);

impl Serialize for LabelTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

impl<'de> Deserialize<'de> for LabelTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;
        impl<'de> Visitor<'de> for Reads {
            type Value = LabelTable;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of labels, each value in quotes")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LabelTable, A::Error> {
                let mut labels = Labels::default();
                while let Some((key, Text(value))) = map.next_entry::<String, Text<String>>()? {
                    if labels.get(&key).is_some() {
                        return Err(A::Error::custom(format_args!("the label {key:?} is there twice")));
                    }
                    labels.set(&key, &value).map_err(A::Error::custom)?;
                }
                Ok(LabelTable(labels))
            }
        }
        deserializer.deserialize_map(Reads)
    }
}
