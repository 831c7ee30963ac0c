//! From settings as written to settings that can be used: every value checked, the password sealed.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::IPMI_CIPHERS;
use super::{Command, Ipmi, Redfish, Settings, SettingsError, Trust, Wol, Written, ipmi_place, redfish_place, wrong};
use crate::power::Host;
use crate::power::place::{BaseUrl, address, fingerprint, interface, user};
use crate::power::seal::{Key, Sealed, Secret};

const PASSWORD_BYTES_MAX: usize = 128;
/// IPMI 2.0 section 22.30: a password has at most 20 bytes, a user name 16.
const IPMI_PASSWORD_BYTES_MAX: usize = 20;
const IPMI_USER_BYTES_MAX: usize = 16;
const COMMAND_SECONDS_MAX: u64 = 240;

impl Written {
    /// Checks the settings for `host` and seals the password with the key of `key_file`.
    ///
    /// Without a password the one of `earlier` stays, if it was given for the same place, user and trust. It never
    /// travels to another place: whoever may edit a document could otherwise have it sent to an address of theirs.
    ///
    /// # Errors
    /// [`SettingsError`] names the key and what would be right.
    pub fn check(
        self,
        host: &Host<'_>,
        key_file: &Path,
        earlier: Option<&Settings>,
    ) -> Result<Settings, SettingsError> {
        let sealing = Sealing { host, key_file, earlier };
        match self {
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
            } => {
                gathered(&password_env, &password_file)?;
                let url: BaseUrl = url.parse().map_err(|message: String| wrong("url", message))?;
                let trust = trust(&url, ca_file, fingerprint, plaintext)?;
                redfish_user(&user)?;
                let system = system.map(checked_system).transpose()?;
                let place = redfish_place(&url, &user);
                let same = |earlier: &Settings| match earlier {
                    Settings::Redfish(known) if known.trust == trust => Some(known.password.clone()),
                    _ => None,
                };
                let password = sealing.password(password, &place, PASSWORD_BYTES_MAX, same)?;
                Ok(Settings::Redfish(Redfish { url, system, user, password, trust }))
            }
            Written::Ipmi { address: at, port, user, password, password_env, password_file, cipher, boot_mode } => {
                gathered(&password_env, &password_file)?;
                let at = address(&at).map_err(|message| wrong("address", message))?;
                ipmi_user(&user)?;
                if !IPMI_CIPHERS.contains(&cipher) {
                    return Err(wrong("cipher", "must be 17 or 3; the other suites protect nothing"));
                }
                let place = ipmi_place(&at, port, &user);
                let same = |earlier: &Settings| match earlier {
                    Settings::Ipmi(known) => Some(known.password.clone()),
                    _ => None,
                };
                let password = sealing.password(password, &place, IPMI_PASSWORD_BYTES_MAX, same)?;
                Ok(Settings::Ipmi(Ipmi { address: at, port, user, password, cipher, boot_mode }))
            }
            Written::Wol { mac, interface, broadcast, port } => {
                checked_wol(host, mac.as_deref(), interface, broadcast, port)
            }
            Written::Agent {} => Ok(Settings::Agent),
            Written::Command { program, timeout_seconds } => checked_command(program, timeout_seconds),
            Written::Manual {} => Ok(Settings::Manual),
        }
    }
}

fn gathered(env: &Option<String>, file: &Option<PathBuf>) -> Result<(), SettingsError> {
    match (env, file) {
        (None, None) => Ok(()),
        (Some(_), _) => Err(wrong("password_env", "is read where the document is read, not by the server")),
        (_, Some(_)) => Err(wrong("password_file", "is read where the document is read, not by the server")),
    }
}

fn trust(
    url: &BaseUrl,
    ca_file: Option<PathBuf>,
    written: Option<String>,
    plaintext: bool,
) -> Result<Trust, SettingsError> {
    match (url.tls, ca_file, written, plaintext) {
        (true, Some(path), None, false) if path.is_absolute() => Ok(Trust::Authorities(path)),
        (true, Some(_), None, false) => Err(wrong("ca_file", "must be an absolute path on the server")),
        (true, None, Some(text), false) => {
            let bytes = fingerprint(&text).ok_or_else(|| wrong("fingerprint", "must be sha256: and 64 hex digits"))?;
            Ok(Trust::Fingerprint(bytes))
        }
        (true, None, None, false) => Err(wrong(
            "url",
            "https needs ca_file or fingerprint, or the password would go to whoever answers; `openssl s_client \
             -connect HOST:443 </dev/null | openssl x509 -noout -fingerprint -sha256` shows the fingerprint",
        )),
        (true, Some(_), Some(_), false) => Err(wrong("fingerprint", "give either ca_file or fingerprint")),
        (true, _, _, true) => Err(wrong("plaintext", "is for http:// URLs")),
        (false, None, None, true) => Ok(Trust::Nothing),
        (false, _, _, true) => Err(wrong("url", "http:// has no certificate that could be checked")),
        (false, _, _, false) => {
            Err(wrong("url", "http:// sends the password as it is; use https://, or say `plaintext = true`"))
        }
    }
}

fn redfish_user(name: &str) -> Result<(), SettingsError> {
    user(name, 64).map_err(|message| wrong("user", message))?;
    // RFC 7617 section 2: the first colon ends the name.
    if name.contains(':') { Err(wrong("user", "may hold no colon")) } else { Ok(()) }
}

fn ipmi_user(name: &str) -> Result<(), SettingsError> {
    user(name, IPMI_USER_BYTES_MAX).map_err(|message| wrong("user", message))
}

fn checked_system(name: String) -> Result<String, SettingsError> {
    let plain = name.bytes().all(|byte| byte.is_ascii_graphic());
    if name.is_empty() || name.len() > 200 || !plain {
        return Err(wrong("system", "must be the path (/redfish/v1/Systems/1) or the id of a system"));
    }
    Ok(name)
}

fn checked_wol(
    host: &Host<'_>,
    written: Option<&str>,
    device: Option<String>,
    broadcast: Option<Ipv4Addr>,
    port: u16,
) -> Result<Settings, SettingsError> {
    let mac = match written {
        Some(text) => text.parse().map_err(|error| wrong("mac", format!("{error}")))?,
        None => *host.macs.first().ok_or_else(|| wrong("mac", "the host has no MAC yet; give one"))?,
    };
    if device.is_none() && broadcast.is_none() {
        return Err(wrong("interface", "give interface or broadcast, or the packet goes out anywhere"));
    }
    if let Some(name) = &device {
        interface(name).map_err(|message| wrong("interface", message))?;
    }
    if port == 0 {
        return Err(wrong("port", "must be 1 to 65535"));
    }
    let broadcast = broadcast.unwrap_or(Ipv4Addr::BROADCAST);
    Ok(Settings::Wol(Wol { mac, interface: device, broadcast, port }))
}

/// A file name, never a path: a fleet document may choose among the programs that root put in the command
/// directory, and may not have the server run others.
fn checked_command(program: String, timeout_seconds: u64) -> Result<Settings, SettingsError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if program.is_empty() || program.len() > 64 || !program.bytes().all(plain) || program.starts_with('.') {
        let message = "must be the name of a file in the server's command directory: letters, digits, '-', '_', '.'";
        return Err(wrong("program", message));
    }
    if !(1..=COMMAND_SECONDS_MAX).contains(&timeout_seconds) {
        return Err(wrong("timeout_seconds", format!("must be 1 to {COMMAND_SECONDS_MAX}")));
    }
    Ok(Settings::Command(Command { program, timeout: Duration::from_secs(timeout_seconds) }))
}

struct Sealing<'a> {
    host: &'a Host<'a>,
    key_file: &'a Path,
    earlier: Option<&'a Settings>,
}

impl Sealing<'_> {
    fn password(
        &self,
        given: Option<Secret>,
        place: &str,
        bytes_max: usize,
        same_trust: impl Fn(&Settings) -> Option<Sealed>,
    ) -> Result<Sealed, SettingsError> {
        if let Some(secret) = given {
            let text = secret.expose();
            if text.is_empty() || text.len() > bytes_max || text.chars().any(char::is_control) {
                return Err(wrong("password", format!("must be one line of 1 to {bytes_max} bytes")));
            }
            return Ok(Key::open_or_create(self.key_file)?.seal(&secret, self.host.id, place));
        }
        let kept = self.earlier.filter(|earlier| earlier.place() == place).and_then(same_trust);
        kept.ok_or_else(|| {
            let why = if self.earlier.is_some() {
                "the stored one was given for another address, user or trust; "
            } else {
                ""
            };
            wrong("password", format!("{why}give password_env, password_file or password"))
        })
    }
}
