//! `[http.upload]`: where images are pushed to from afar, and by whom. As written, and checked.

use super::Wrong;
use crate::image::uploads::UploadLimits;
use crate::wire::manifest::from_hex;
use crate::wire::reference::ImageRef;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// As written. Without it nothing listens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// Address and port. No network of machines: whoever has a token brings in what machines will run.
    pub listen: SocketAddr,
    /// PEM: the server's certificate with its chain, and its key. Without both it is plain HTTP.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Plain HTTP on another address than the loopback: behind a proxy that speaks TLS.
    #[serde(default)]
    pub allow_plain: bool,
    #[serde(rename = "token", default)]
    pub tokens: Vec<Token>,
    #[serde(default = "uploads_max")]
    pub uploads_max: usize,
    #[serde(default = "bytes_max")]
    pub bytes_max: u64,
    #[serde(default = "keep_hours")]
    pub keep_hours: u32,
}

/// Who may push.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// For the log and the image's source.
    pub name: String,
    /// Hex sha256 of the token: `printf %s "$TOKEN" | sha256sum`. The token itself is nowhere on the server.
    pub sha256: String,
    /// Names of images that it may push; none given: all.
    #[serde(default)]
    pub images: Vec<String>,
}

fn uploads_max() -> usize {
    16
}

/// 256 GiB.
fn bytes_max() -> u64 {
    256 << 30
}

fn keep_hours() -> u32 {
    24
}

impl Upload {
    #[must_use]
    pub fn limits(&self) -> UploadLimits {
        let keep_seconds = u64::from(self.keep_hours) * 3600;
        UploadLimits { uploads_max: self.uploads_max, bytes_max: self.bytes_max, keep_seconds }
    }
}

/// # Errors
/// The key and what would be right.
pub(super) fn check(upload: &Upload) -> Result<(), Wrong> {
    let wrong = |key: &str, message: &str| Err((format!("http.upload.{key}"), message.to_string()));
    if upload.certificate.is_some() != upload.key.is_some() {
        return wrong("certificate", "certificate and key belong together: give both or none");
    }
    if upload.certificate.is_none() && !upload.listen.ip().is_loopback() && !upload.allow_plain {
        return wrong(
            "listen",
            "tokens would cross the network in clear: give certificate and key, or listen on the loopback behind a proxy \
             that speaks TLS (allow_plain = true where that is elsewhere)",
        );
    }
    if upload.tokens.is_empty() {
        return wrong("token", "no token, so nobody could push; add a [[http.upload.token]] with name and sha256");
    }
    if !(1..=1024).contains(&upload.uploads_max) || upload.keep_hours == 0 || upload.keep_hours > 24 * 365 {
        return wrong("uploads_max", "uploads_max must be 1 to 1024, keep_hours 1 to 8760: uploads are bounded");
    }
    for (at, token) in upload.tokens.iter().enumerate() {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !(1..=32).contains(&token.name.len()) || !token.name.bytes().all(plain) {
            return wrong(
                "token.name",
                &format!("{:?} is no name: 1 to 32 letters, digits, '-', '.', '_'", token.name),
            );
        }
        if from_hex(&token.sha256).is_none() {
            return wrong(
                "token.sha256",
                &format!("{}: not 64 hex digits in lower case, as sha256sum prints", token.name),
            );
        }
        let same = |other: &Token| other.name == token.name || other.sha256 == token.sha256;
        if upload.tokens[..at].iter().any(same) {
            return wrong("token", &format!("{}: two tokens with this name or digest", token.name));
        }
        if let Some(image) = token.images.iter().find(|image| ImageRef::new(image, "1").is_err()) {
            return wrong("token.images", &format!("{image:?} is no image's name (the part before the colon)"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let upload: Upload = toml::from_str(text).unwrap();
        check(&upload).err().map_or_else(String::new, |(key, message)| format!("{key}: {message}"))
    }

    /// Promise: nothing listens by a slip, and no token goes over a network in clear unless that was asked for.
    #[test]
    fn what_is_wrong_is_named_with_its_key() {
        let digest = "a".repeat(64);
        let token = format!("[[token]]\nname = \"ci\"\nsha256 = \"{digest}\"\n");
        assert_eq!(said(&format!("listen = \"127.0.0.1:1\"\n{token}")), "");
        assert_eq!(said(&format!("listen = \"10.0.0.1:1\"\nallow_plain = true\n{token}")), "");
        assert!(said(&format!("listen = \"10.0.0.1:1\"\n{token}")).contains("in clear"));
        assert!(said(&format!("listen = \"[::]:1\"\n{token}")).contains("in clear"));
        assert!(said(&format!("listen = \"127.0.0.1:1\"\nkey = \"k\"\n{token}")).contains("both or none"));
        assert!(said("listen = \"127.0.0.1:1\"").contains("[[http.upload.token]]"));
        assert!(said(&format!("listen = \"127.0.0.1:1\"\n{token}{token}")).contains("two tokens"));
        assert!(said(&format!("listen = \"127.0.0.1:1\"\n{}", token.replace("aaaa", "AA"))).contains("64 hex digits"));
        assert!(said(&format!("listen = \"127.0.0.1:1\"\n{}", token.replace("ci", "a b"))).contains("no name"));
        assert!(said(&format!("listen = \"127.0.0.1:1\"\n{token}images = [\"a:1\"]")).contains("no image's name"));
        assert!(said(&format!("listen = \"127.0.0.1:1\"\nuploads_max = 0\n{token}")).contains("bounded"));
    }
}
