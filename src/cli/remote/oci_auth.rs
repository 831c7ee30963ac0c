//! How a registry is told who asks: nobody, then what its challenge wants (RFC 7235; the token flow of
//! distribution's `docs/spec/auth/token`).

use super::credentials::{basic, secret_header};
use super::url::Url;
use super::{Remote, RemoteError, success, whole};
use crate::cli::Failure;
use crate::cli::client::segment;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use std::path::Path;

const TOKEN_BYTES_MAX: usize = 1 << 20;

/// Requests to one registry.
pub struct Session<'r> {
    remote: &'r Remote,
    basic: Option<HeaderValue>,
    /// What the last challenge led to.
    authorization: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'r> Session<'r> {
    /// # Errors
    /// An auth file that cannot be read.
    pub fn new(remote: &'r Remote, registry: &str, auth_file: Option<&Path>) -> Result<Session<'r>, Failure> {
        Ok(Session { remote, basic: basic(registry, auth_file)?, authorization: None })
    }

    /// # Errors
    /// What could not be reached; a challenge that cannot be met. An answer of 401 or 403 is the caller's to show.
    pub async fn get(
        &mut self,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<(Url, Response<Incoming>), Failure> {
        let (at, answer) = self.try_get(url, headers).await?;
        // A challenge of another host, behind a redirect, gets nothing of ours.
        if answer.status() != 401 || at.authority() != url.authority() {
            return Ok((at, answer));
        }
        let challenges = answer.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(challenge) = challenges.filter_map(Challenge::parse).next() else { return Ok((at, answer)) };
        self.authorization = match challenge {
            Challenge::Basic => match &self.basic {
                Some(basic) => Some(basic.clone()),
                None => return Err(format!("{url} wants a user and a password: `docker login` or --auth-file").into()),
            },
            Challenge::Bearer { realm, service, scope } => Some(self.token(url, &realm, &service, &scope).await?),
        };
        self.try_get(url, headers).await
    }

    async fn try_get(
        &self,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<(Url, Response<Incoming>), Failure> {
        let authorization = self.authorization.iter().map(|value| (AUTHORIZATION, value.clone()));
        let headers: Vec<_> = headers.iter().cloned().chain(authorization).collect();
        Ok(self.remote.get(url, &headers).await?)
    }

    async fn token(&self, registry: &Url, realm: &str, service: &str, scope: &str) -> Result<HeaderValue, Failure> {
        let odd = |why: String| RemoteError::Odd { place: registry.place(), why };
        let mut realm = Url::parse(realm).map_err(|why| odd(format!("its token service is no URL: {why}")))?;
        // The password would go there.
        if registry.tls && !realm.tls {
            return Err(odd(format!("its token service {} is plain http", realm.place())).into());
        }
        let joint = if realm.path.contains('?') { '&' } else { '?' };
        realm.path = format!("{}{joint}service={}&scope={}", realm.path, segment(service), segment(scope));
        let headers: Vec<_> = self.basic.iter().map(|value| (AUTHORIZATION, value.clone())).collect();
        let (at, answer) = self.remote.get(&realm, &headers).await?;
        let body = whole(success(&at, answer).await?, TOKEN_BYTES_MAX).await?;
        let token: Token = serde_json::from_slice(&body).map_err(|error| odd(format!("{}: {error}", at.place())))?;
        let token = token.token.or(token.access_token).ok_or_else(|| odd(format!("{}: no token", at.place())))?;
        secret_header(&format!("Bearer {token}"))
    }
}

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

impl Challenge {
    fn parse(text: &str) -> Option<Challenge> {
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => Some(Challenge::Basic),
            "bearer" => {
                let of = |key: &str| parameter(rest, key).unwrap_or_default();
                Some(Challenge::Bearer { realm: parameter(rest, "realm")?, service: of("service"), scope: of("scope") })
            }
            _ => None,
        }
    }
}

/// `key="value"` or `key=value` among others; a value in quotes may have commas in it (`scope="...:pull,push"`).
fn parameter(text: &str, wanted: &str) -> Option<String> {
    let mut rest = text;
    loop {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.trim_matches([' ', ',']).eq_ignore_ascii_case(wanted) {
            return Some(value.to_string());
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let text = r#"Bearer realm="https://auth.example.net/token",service="r",scope="repository:a/b:pull,push""#;
        let bearer = Challenge::Bearer {
            realm: "https://auth.example.net/token".into(),
            service: "r".into(),
            scope: "repository:a/b:pull,push".into(),
        };
        assert_eq!(Challenge::parse(text), Some(bearer));
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        let short = Challenge::Bearer { realm: "https://h".into(), service: String::new(), scope: String::new() };
        assert_eq!(Challenge::parse("bearer error=x, Realm=https://h"), Some(short));
        for wrong in ["", "Negotiate", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"open"] {
            assert_eq!(Challenge::parse(wrong), None, "{wrong}");
        }
    }
}
