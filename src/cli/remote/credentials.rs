//! Secrets on the operator's side: a token in a file, a registry's password where other tools keep it.

use crate::cli::Failure;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The token in a file, without the newline at its end.
///
/// # Errors
/// A file that cannot be read, or holds no word.
pub fn token(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{}: it must hold one token and nothing else", file.display()).into());
    }
    Ok(token.to_string())
}

/// A header that is not shown when it is printed.
///
/// # Errors
/// What cannot stand in a header.
pub fn secret_header(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(text).map_err(|_| "a secret that cannot be sent in a header")?;
    value.set_sensitive(true);
    Ok(value)
}

/// `config.json` of docker, `auth.json` of podman, skopeo and oras: the one form that they share.
#[derive(Debug, Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Debug, Deserialize)]
struct Auth {
    /// base64 of `user:password`.
    auth: Option<String>,
}

/// `Basic ...` for a registry, where its password is known. Only the file that is given is asked, or where there is none
/// the usual ones; programs that keep passwords (credHelpers) are not run.
///
/// # Errors
/// A given file that cannot be read.
pub fn basic(registry: &str, given: Option<&Path>) -> Result<Option<HeaderValue>, Failure> {
    let file = match given {
        Some(file) => Some(file.to_owned()),
        None => usual_files().into_iter().find(|file| file.exists()),
    };
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let known: AuthFile =
        serde_json::from_slice(&text).map_err(|error| format!("{}: no auth file: {error}", file.display()))?;
    let Some(auth) = known.auths.get(registry).and_then(|auth| auth.auth.as_deref()) else { return Ok(None) };
    if STANDARD.decode(auth).is_err() {
        return Err(format!("{}: what it has for {registry} is no base64", file.display()).into());
    }
    secret_header(&format!("Basic {auth}")).map(Some)
}

fn usual_files() -> Vec<PathBuf> {
    let under = |variable: &str, rest: &str| std::env::var_os(variable).map(|dir| PathBuf::from(dir).join(rest));
    let named = std::env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from);
    let files = [named, under("XDG_RUNTIME_DIR", "containers/auth.json"), under("HOME", ".docker/config.json")];
    files.into_iter().flatten().collect()
}
