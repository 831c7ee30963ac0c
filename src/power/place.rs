//! Where a controller is: addresses, names and fingerprints that people write, checked.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::seal::from_hex;

/// `https://NAME[:PORT]`, and nothing after it: the paths come from the controller itself, and always go to this
/// host and port, whatever they say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BaseUrl {
    pub tls: bool,
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    pub port: u16,
}

impl BaseUrl {
    /// As in the `Host` header.
    pub(super) fn authority(&self) -> String {
        let BaseUrl { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

impl From<BaseUrl> for String {
    fn from(url: BaseUrl) -> String {
        url.to_string()
    }
}

impl TryFrom<String> for BaseUrl {
    type Error = String;

    fn try_from(text: String) -> Result<BaseUrl, String> {
        text.parse()
    }
}

impl FromStr for BaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<BaseUrl, String> {
        let form = || "must be https://NAME or https://NAME:PORT, without user and path".to_string();
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(form()),
        };
        let rest = rest.strip_suffix("/redfish/v1/").or(rest.strip_suffix("/redfish/v1")).unwrap_or(rest);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => {
                let address: Ipv6Addr = host.parse().map_err(|_| form())?;
                (
                    address.to_string(),
                    if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(form)?) },
                )
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (name(host)?, Some(port)),
                None => (name(rest)?, None),
            },
        };
        let port = match port {
            Some(digits) => digits.parse().ok().filter(|port| *port != 0).ok_or_else(form)?,
            None if tls => 443,
            None => 80,
        };
        Ok(BaseUrl { tls, host, port })
    }
}

/// A DNS name or an IPv4 address, in lower case.
fn name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !begins || text.len() > 253 || !text.bytes().all(plain) {
        return Err(format!("{text:?} is not a host name or an address"));
    }
    Ok(text.to_ascii_lowercase())
}

/// A host name or an address of either family.
pub(super) fn address(text: &str) -> Result<String, String> {
    text.parse::<IpAddr>().map(|ip| ip.to_string()).or_else(|_| name(text))
}

/// A network interface's name, as the kernel takes it (`dev_valid_name`, IFNAMSIZ 16).
pub(super) fn interface(text: &str) -> Result<(), String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    let is_path = text == "." || text == "..";
    if plain && !is_path && (1..=15).contains(&text.len()) {
        Ok(())
    } else {
        Err(format!("{text:?} names no interface"))
    }
}

pub(super) fn user(text: &str, bytes_max: usize) -> Result<(), String> {
    let plain = !text.chars().any(char::is_control);
    if plain && (1..=bytes_max).contains(&text.len()) {
        Ok(())
    } else {
        Err(format!("must be a user name of 1 to {bytes_max} bytes"))
    }
}

/// `sha256:` and 64 hex digits; openssl's colons between them and its upper case are taken too.
pub(super) fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: String = text.strip_prefix("sha256:").unwrap_or(text).chars().filter(|c| *c != ':').collect();
    from_hex(&digits)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_a_scheme_a_host_and_a_port() {
        for (written, means) in [
            ("https://bmc-1", "https://bmc-1:443"),
            ("https://BMC-1.example.net/", "https://bmc-1.example.net:443"),
            ("https://10.0.0.5:8443/redfish/v1/", "https://10.0.0.5:8443"),
            ("http://10.0.0.5", "http://10.0.0.5:80"),
            ("https://[FE80::1]", "https://[fe80::1]:443"),
            ("https://[fe80::1]:444", "https://[fe80::1]:444"),
        ] {
            let url: BaseUrl = written.parse().unwrap();
            assert_eq!(url.to_string(), means);
            assert_eq!(means.parse::<BaseUrl>().unwrap(), url, "its own form");
        }
        for wrong in [
            "",
            "bmc-1",
            "ftp://bmc-1",
            "https://",
            "https://-bmc",
            "https://root:calvin@bmc-1",
            "https://bmc-1:0",
            "https://bmc-1:65536",
            "https://bmc-1:",
            "https://bmc-1/x",
            "https://bmc-1?x",
            "https://bmc 1",
            "https://bmc-1\r\nX: y",
            "https://[::1",
            "https://[::1]443",
            "https://fe80::1",
        ] {
            assert!(wrong.parse::<BaseUrl>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn fingerprints_are_taken_as_openssl_prints_them() {
        let bytes = std::array::from_fn(|at| u8::try_from(at).unwrap() + 0xa0);
        let colons = bytes.map(|byte: u8| format!("{byte:02X}")).join(":");
        assert_eq!(fingerprint(&colons), Some(bytes));
        assert_eq!(fingerprint(&format!("sha256:{}", crate::clock::hex(&bytes))), Some(bytes));
        for wrong in ["", "sha256:", "sha1:00", &colons[3..], &format!("{colons}:00"), &colons.replace('A', "G")] {
            assert_eq!(fingerprint(wrong), None, "{wrong}");
        }
    }
}
