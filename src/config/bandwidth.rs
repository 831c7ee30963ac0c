//! A bandwidth as people write it: `500MB/s`, `10Gbit/s`.

use serde::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;

/// The slowest that may be written. Below it hundreds of hosts that share it would each wait longer for their next piece
/// than they wait for a server that hangs (20 s).
const LEAST: u64 = 1_000_000;
/// 1 TB/s: more is a typing error.
const MOST: u64 = 1_000_000_000_000;

/// Units of 1000, as in the names of network links, and bits for those who think in them.
const UNITS: [(&str, u64); 7] = [
    ("GB/s", 1_000_000_000),
    ("MB/s", 1_000_000),
    ("kB/s", 1_000),
    ("B/s", 1),
    ("Gbit/s", 125_000_000),
    ("Mbit/s", 125_000),
    ("kbit/s", 125),
];

/// Bytes a second, 1 MB/s to 1 TB/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth(pub u64);

impl FromStr for Bandwidth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(40).collect();
        let form = || format!("{shown:?} is no bandwidth; write it like 500MB/s or 10Gbit/s, in whole numbers");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| form())?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(form)?;
        let rate = number.checked_mul(*factor).filter(|rate| (LEAST..=MOST).contains(rate));
        let range =
            || format!("{shown:?} must be {} to {}; for no limit leave the key out", Bandwidth(LEAST), Bandwidth(MOST));
        rate.map(Bandwidth).ok_or_else(range)
    }
}

impl<'de> Deserialize<'de> for Bandwidth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = &UNITS[..4];
        // B/s divides everything.
        let (unit, factor) = bytes.iter().find(|(_, factor)| self.0.is_multiple_of(*factor)).unwrap_or(&("B/s", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_and_comes_back_as_the_same() {
        for (text, rate) in [
            ("500MB/s", 500_000_000),
            ("10Gbit/s", 1_250_000_000),
            ("1 GB/s", 1_000_000_000),
            ("1500kB/s", 1_500_000),
            ("1234567B/s", 1_234_567),
            ("8000kbit/s", 1_000_000),
            ("100Mbit/s", 12_500_000),
        ] {
            let read: Bandwidth = text.parse().unwrap();
            assert_eq!(read.0, rate, "{text}");
            assert_eq!(read.to_string().parse(), Ok(read), "{text}");
        }
        assert_eq!(Bandwidth(1_500_000).to_string(), "1500kB/s");
    }

    #[test]
    fn what_is_no_bandwidth_or_would_stop_everything_is_refused() {
        for text in ["", "500", "MB/s", "5MB", "5mb/s", "1.5GB/s", "-5MB/s", "0MB/s", "999kB/s", "2000GB/s", "5MiB/s"] {
            assert!(text.parse::<Bandwidth>().is_err(), "{text}");
        }
        assert!("99999999999999999999GB/s".parse::<Bandwidth>().unwrap_err().contains("500MB/s"));
        assert!("0MB/s".parse::<Bandwidth>().unwrap_err().contains("leave the key out"));
    }
}
