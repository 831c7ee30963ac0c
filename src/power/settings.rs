//! How one host's power is reached: as a person writes it ([`Written`]), and checked ([`Settings`], by [`check`]).
//!
//! ```toml
//! [host.power]
//! driver = "redfish"                      # or ipmi, wol, agent, command, manual
//! url = "https://bmc-web-1.example.net"
//! user = "regild"
//! password_env = "WEB_1_BMC"              # or password_file, or password (sealed at once)
//! fingerprint = "sha256:0f1e..."          # or ca_file; docs/power.md has every key of every driver
//! ```
//!
//! `password_env` and `password_file` are read where the document is read, in the process of the person who wrote it
//! ([`Written::gather_password`]), never by the server: a document that could name any file of the server's could
//! send that file to any address as a password.

mod check;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Driver;
use super::place::BaseUrl;
use super::seal::{SealError, Sealed, Secret};
use crate::clock;
use crate::decide::mac::Mac;

/// Suite 3 is SHA-1, suite 17 SHA-256, both with AES. The others leave out authentication or encryption; suite 0
/// lets anybody in.
pub const IPMI_CIPHERS: [u8; 2] = [3, 17];

/// The table `[host.power]`. Unknown keys are refused. The password is read, and never written out again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "lowercase", deny_unknown_fields)]
pub enum Written {
    Redfish {
        url: String,
        /// Path or id of the system, for controllers of more than one.
        #[serde(skip_serializing_if = "Option::is_none")]
        system: Option<String>,
        user: String,
        #[serde(skip_serializing)]
        password: Option<Secret>,
        #[serde(skip_serializing)]
        password_env: Option<String>,
        #[serde(skip_serializing)]
        password_file: Option<PathBuf>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ca_file: Option<PathBuf>,
        #[serde(skip_serializing_if = "Option::is_none")]
        fingerprint: Option<String>,
        /// Has to be said for an `http://` URL: the password goes over the network as it is.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        plaintext: bool,
    },
    Ipmi {
        address: String,
        #[serde(default = "ipmi_port")]
        port: u16,
        user: String,
        #[serde(skip_serializing)]
        password: Option<Secret>,
        #[serde(skip_serializing)]
        password_env: Option<String>,
        #[serde(skip_serializing)]
        password_file: Option<PathBuf>,
        #[serde(default = "ipmi_cipher")]
        cipher: u8,
        #[serde(default)]
        boot_mode: BootMode,
    },
    Wol {
        /// Default: the host's first MAC.
        #[serde(skip_serializing_if = "Option::is_none")]
        mac: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        interface: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        broadcast: Option<Ipv4Addr>,
        #[serde(default = "wol_port")]
        port: u16,
    },
    Agent {},
    Command {
        /// A file of the server's command directory.
        program: String,
        #[serde(default = "command_seconds")]
        timeout_seconds: u64,
    },
    Manual {},
}

fn ipmi_port() -> u16 {
    623
}

fn ipmi_cipher() -> u8 {
    17
}

fn wol_port() -> u16 {
    9
}

fn command_seconds() -> u64 {
    120
}

/// What the firmware boots the network with: an IPMI override names it, and the wrong one finds no boot file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootMode {
    #[default]
    Uefi,
    Bios,
}

/// Checked. Serialized it is what the registry keeps: passwords are sealed in it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settings {
    Redfish(Redfish),
    Ipmi(Ipmi),
    Wol(Wol),
    Agent,
    Command(Command),
    #[default]
    Manual,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redfish {
    pub url: BaseUrl,
    pub system: Option<String>,
    pub user: String,
    pub password: Sealed,
    pub trust: Trust,
}

/// Why the other end is taken for the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trust {
    /// Its certificate is signed by an authority of this file, for the URL's name.
    Authorities(PathBuf),
    /// Its certificate has this SHA-256. Name and dates do not count: controllers sign their own.
    Fingerprint([u8; 32]),
    /// Plain HTTP: it is not. Somebody said so explicitly.
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipmi {
    pub address: String,
    pub port: u16,
    pub user: String,
    pub password: Sealed,
    pub cipher: u8,
    pub boot_mode: BootMode,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wol {
    #[serde(with = "mac_as_text")]
    pub mac: Mac,
    pub interface: Option<String>,
    pub broadcast: Ipv4Addr,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub program: String,
    pub timeout: Duration,
}

/// Why settings cannot be used, with the key of `[host.power]` that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("power.{key}: {message}")]
    Value { key: &'static str, message: String },
    #[error("power.password: it cannot be sealed")]
    Seal(#[from] SealError),
}

pub(super) fn wrong(key: &'static str, message: impl Into<String>) -> SettingsError {
    SettingsError::Value { key, message: message.into() }
}

impl Written {
    /// Puts the password of `password_env` or `password_file` (its first line; a relative path is beside the
    /// document, in `directory`) in `password`. For the process that reads the document.
    ///
    /// # Errors
    /// Two passwords, or one that is not there.
    pub fn gather_password(
        &mut self,
        environment: impl Fn(&str) -> Option<String>,
        directory: &Path,
    ) -> Result<(), SettingsError> {
        let (Written::Redfish { password, password_env, password_file, .. }
        | Written::Ipmi { password, password_env, password_file, .. }) = self
        else {
            return Ok(());
        };
        if [password.is_some(), password_env.is_some(), password_file.is_some()].iter().filter(|is| **is).count() > 1 {
            return Err(wrong("password", "give one of password, password_env and password_file"));
        }
        if let Some(name) = password_env.take() {
            let text = environment(&name).filter(|text| !text.is_empty());
            let missing = || wrong("password_env", format!("the environment variable {name} is not set"));
            *password = Some(Secret::new(text.ok_or_else(missing)?));
        }
        if let Some(path) = password_file.take() {
            let path = directory.join(path);
            let failed = |why: String| wrong("password_file", format!("{}: {why}", path.display()));
            let text = Secret::new(std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?);
            let line = text.expose().lines().next().filter(|line| !line.is_empty());
            *password = Some(Secret::new(line.ok_or_else(|| failed("it has no first line".into()))?.to_string()));
        }
        Ok(())
    }

    /// All of it as JSON, **with the password**: for the Unix socket between the command line and the server.
    #[must_use]
    pub fn for_socket(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).expect("names and numbers only: always JSON");
        if let Written::Redfish { password: Some(secret), .. } | Written::Ipmi { password: Some(secret), .. } = self {
            value["password"] = secret.expose().into();
        }
        value
    }
}

fn redfish_place(url: &BaseUrl, user: &str) -> String {
    format!("redfish {url} {user}")
}

fn ipmi_place(address: &str, port: u16, user: &str) -> String {
    format!("ipmi {address}:{port} {user}")
}

impl Settings {
    #[must_use]
    pub fn driver(&self) -> Driver {
        match self {
            Settings::Redfish(_) => Driver::Redfish,
            Settings::Ipmi(_) => Driver::Ipmi,
            Settings::Wol(_) => Driver::Wol,
            Settings::Agent => Driver::Agent,
            Settings::Command(_) => Driver::Command,
            Settings::Manual => Driver::Manual,
        }
    }

    /// What a password of these settings is bound to; empty where there is none.
    pub(super) fn place(&self) -> String {
        match self {
            Settings::Redfish(redfish) => redfish_place(&redfish.url, &redfish.user),
            Settings::Ipmi(ipmi) => ipmi_place(&ipmi.address, ipmi.port, &ipmi.user),
            _ => String::new(),
        }
    }

    /// As a person would write them, without the password: for `export`. Applied again they change nothing.
    #[must_use]
    pub fn written(&self) -> Written {
        let no_password = (None, None, None);
        match self.clone() {
            Settings::Redfish(Redfish { url, system, user, trust, .. }) => {
                let (password, password_env, password_file) = no_password;
                let (ca_file, fingerprint, plaintext) = match trust {
                    Trust::Authorities(path) => (Some(path), None, false),
                    Trust::Fingerprint(bytes) => (None, Some(format!("sha256:{}", clock::hex(&bytes))), false),
                    Trust::Nothing => (None, None, true),
                };
                let url = url.to_string();
                Written::Redfish {
                    url,
                    system,
                    user,
                    password,
                    password_env,
                    password_file,
                    ca_file,
                    fingerprint,
                    plaintext,
                }
            }
            Settings::Ipmi(Ipmi { address, port, user, cipher, boot_mode, .. }) => {
                let (password, password_env, password_file) = no_password;
                Written::Ipmi { address, port, user, password, password_env, password_file, cipher, boot_mode }
            }
            Settings::Wol(Wol { mac, interface, broadcast, port }) => {
                Written::Wol { mac: Some(mac.to_string()), interface, broadcast: Some(broadcast), port }
            }
            Settings::Agent => Written::Agent {},
            Settings::Command(Command { program, timeout }) => {
                Written::Command { program, timeout_seconds: timeout.as_secs() }
            }
            Settings::Manual => Written::Manual {},
        }
    }
}

mod mac_as_text {
    use super::Mac;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(mac: &Mac, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(mac)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
