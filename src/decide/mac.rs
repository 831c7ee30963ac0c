//! The hardware address of a NIC: the name by which leases, host records and orders know a machine.

use std::fmt;
use std::str::FromStr;

/// An Ethernet hardware address (EUI-48), in wire order. Ordered and hashed by its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// Why a text is not a hardware address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacParseError {
    text: String,
}

impl Mac {
    /// Whether one NIC can own this address: not a group address (lowest bit of the first byte,
    /// IEEE 802.3 clause 3.2.3), so not broadcast either, and not all zeros.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    /// Lower case with colons: `52:54:00:12:34:56`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacParseError;

    /// Takes six two-digit hex bytes of either case, parted by `:` or by `-` (iPXE's `${net0/mac:hexhyp}`
    /// and GRUB's menu files write the latter), not by both.
    ///
    /// # Errors
    /// Any other text.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| MacParseError {
            // Operators' typing is short; what comes from elsewhere need not be repeated at length.
            text: text.chars().take(40).collect(),
        })
    }
}

fn parse(text: &str) -> Option<Mac> {
    let bytes = text.as_bytes();
    if bytes.len() != 17 {
        return None;
    }
    let separator = bytes[2];
    if separator != b':' && separator != b'-' {
        return None;
    }
    let mut mac = [0u8; 6];
    for (at, out) in mac.iter_mut().enumerate() {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
        *out = digit(bytes[at * 3])? << 4 | digit(bytes[at * 3 + 1])?;
        if at < 5 && bytes[at * 3 + 2] != separator {
            return None;
        }
    }
    Some(Mac(mac))
}

impl fmt::Display for MacParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a MAC address; write it like 52:54:00:12:34:56", self.text)
    }
}

impl std::error::Error for MacParseError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed_again() {
        let mac = Mac([0x52, 0x54, 0x00, 0xab, 0x0c, 0xff]);
        assert_eq!(mac.to_string(), "52:54:00:ab:0c:ff");
        assert_eq!("52:54:00:ab:0c:ff".parse(), Ok(mac));
        assert_eq!("52:54:00:AB:0C:FF".parse(), Ok(mac));
        assert_eq!("52-54-00-ab-0c-ff".parse(), Ok(mac));
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "52:54:00:ab:0c",
            "52:54:00:ab:0c:ff:00",
            "525400ab0cff",
            "52:54-00:ab:0c:ff",
            "5g:54:00:ab:0c:ff",
            "52:54:00:ab:0c:f\u{e9}",
            "+2:54:00:ab:0c:ff",
            " 52:54:00:ab:0c:f",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text:?} was taken for a MAC");
        }
    }

    #[test]
    fn group_and_zero_addresses_name_no_machine() {
        assert!(Mac([0x52, 0x54, 0, 0, 0, 1]).is_unicast());
        assert!(!Mac([0x01, 0, 0x5e, 0, 0, 1]).is_unicast());
        assert!(!Mac([0xff; 6]).is_unicast());
        assert!(!Mac([0; 6]).is_unicast());
    }
}
