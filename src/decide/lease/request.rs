//! What a client asks, as facts.

use std::net::Ipv4Addr;

use crate::decide::mac::Mac;

/// What a client may send us (RFC 2131 section 3.1, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageKind {
    /// DHCPDISCOVER (1)
    Discover,
    /// DHCPREQUEST (3)
    Request,
    /// DHCPDECLINE (4)
    Decline,
    /// DHCPRELEASE (7)
    Release,
    /// DHCPINFORM (8)
    Inform,
}

/// The facts of one packet. The client identifier is not among them on purpose (see the module's head).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// What it asks.
    pub kind: MessageKind,
    /// chaddr; the codec has refused group and all-zero addresses.
    pub mac: Mac,
    /// The address it already uses, or 0.0.0.0.
    pub ciaddr: Ipv4Addr,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server_id: Option<Ipv4Addr>,
    /// The relay's address, or 0.0.0.0.
    pub giaddr: Ipv4Addr,
    /// Option 12 after [`hostname`].
    pub hostname: Option<String>,
}

/// A host name from option 12, safe to print and to store: one label of RFC 1123 section 2.1 (letters, digits,
/// inner hyphens, at most 63), in lower case. Trailing NULs go (RFC 2132 section 2 asks for it); anything else,
/// dots included, makes it `None`: a name is a convenience, and not worth guessing at.
#[must_use]
pub fn hostname(option_12: &[u8]) -> Option<String> {
    let end = option_12.iter().rposition(|byte| *byte != 0)? + 1;
    let label = &option_12[..end];
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    let edge_is_hyphen = label.first() == Some(&b'-') || label.last() == Some(&b'-');
    if label.len() > 63 || edge_is_hyphen || !label.iter().all(allowed) {
        return None;
    }
    Some(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}
