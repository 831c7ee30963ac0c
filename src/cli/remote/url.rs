//! URLs as people and redirects write them.

use std::fmt;

/// `http://` or `https://`, a host, a port, a path with its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    pub tls: bool,
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    pub port: u16,
    pub path: String,
}

const URL_BYTES_MAX: usize = 8 << 10;

impl Url {
    /// # Errors
    /// What is wrong with it, for people. A password in a URL would stand in the process list, in histories and in logs.
    pub fn parse(text: &str) -> Result<Url, String> {
        if text.len() > URL_BYTES_MAX {
            return Err("a URL of more than 8 KiB".to_string());
        }
        let uri: hyper::Uri = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{text:?} is no URL that begins with https:// or http://")),
        };
        let authority = uri.authority().ok_or_else(|| format!("{text:?} names no host"))?;
        if authority.as_str().contains('@') {
            return Err("a URL with a user or a password in it is not taken".to_string());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_string();
        if host.is_empty() {
            return Err(format!("{text:?} names no host"));
        }
        // A port that is none would otherwise be taken for the usual one.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            None | Some("") => Some(if tls { 443 } else { 80 }),
            Some(_) => authority.port_u16().filter(|port| *port != 0),
        };
        let port = port.ok_or_else(|| format!("{text:?} has no port between 1 and 65535"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        Ok(Url { tls, host, port, path })
    }

    /// As in the `Host` header.
    pub fn authority(&self) -> String {
        let Url { host, port, .. } = self;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if *port == (if self.tls { 443 } else { 80 }) { host } else { format!("{host}:{port}") }
    }

    /// For messages: without the query, which may be a signature.
    pub fn place(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{}://{}{path}", if self.tls { "https" } else { "http" }, self.authority())
    }

    /// Where a reference in an answer points (RFC 3986 section 5.2, without its `..`, which nobody sends).
    ///
    /// # Errors
    /// As [`Url::parse`].
    pub fn join(&self, reference: &str) -> Result<Url, String> {
        let scheme = if self.tls { "https" } else { "http" };
        let base = self.path.split('?').next().unwrap_or_default();
        let directory = base.rsplit_once('/').map_or("", |(directory, _)| directory);
        let whole = match reference {
            "" => return Err("it is empty".to_string()),
            absolute if absolute.contains("://") => absolute.to_string(),
            host if host.starts_with("//") => format!("{scheme}:{host}"),
            path if path.starts_with('/') => format!("{scheme}://{}{path}", self.authority()),
            query if query.starts_with('?') => format!("{scheme}://{}{base}{query}", self.authority()),
            relative => format!("{scheme}://{}{directory}/{relative}", self.authority()),
        };
        Url::parse(whole.split('#').next().unwrap_or_default())
    }

    /// The same place with another path.
    #[must_use]
    pub fn with_path(&self, path: String) -> Url {
        Url { path, ..self.clone() }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_put_together() {
        for (written, place, path) in [
            ("https://Host/a/b.qcow2?x=1", "https://Host/a/b.qcow2", "/a/b.qcow2?x=1"),
            ("http://10.0.0.1:8080", "http://10.0.0.1:8080/", "/"),
            ("https://[::1]:8443/x", "https://[::1]:8443/x", "/x"),
            ("http://h:80/x", "http://h/x", "/x"),
        ] {
            let url = Url::parse(written).unwrap();
            assert_eq!((url.place().as_str(), url.path.as_str()), (place, path), "{written}");
        }
        for wrong in [
            "",
            "x",
            "/x",
            "ftp://h/x",
            "https://",
            "https://u:p@h/x",
            "https://u@h/",
            "https://h/a b",
            "http://h:99999/",
        ] {
            assert!(Url::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn redirects_are_resolved() {
        let base = Url::parse("https://h/a/b?q").unwrap();
        for (to, place) in [
            ("https://other/x", "https://other/x"),
            ("//other/x", "https://other/x"),
            ("/x", "https://h/x"),
            ("x", "https://h/a/x"),
            ("?z", "https://h/a/b"),
            ("/x#part", "https://h/x"),
        ] {
            assert_eq!(base.join(to).unwrap().place(), place, "{to}");
        }
        assert!(base.join("").is_err() && base.join("file:///etc/passwd").is_err());
    }
}
