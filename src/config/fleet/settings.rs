//! Power settings of a host as a document gives them: a table that is passed on to the power driver.
//!
//! A document lies in a repository and comes back out by `export`, so it must never hold a secret. That is kept here,
//! in the one constructor: a value of [`PowerSettings`] has no key that names a secret and no URL with a password.
//! Drivers find their credentials by a name or a file that the settings give.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Bounds, since this comes from outside and goes into a host record of at most 24 KiB.
const DEPTH_MAX: usize = 4;
const KEYS_MAX: usize = 32;
const TEXT_BYTES_MAX: usize = 512;

/// Parts of a key that say "here is a secret", letters only.
const SECRETS: [&str; 7] = ["password", "passwd", "passphrase", "secret", "token", "privatekey", "apikey"];
/// Short words for it, which count only as a whole part of a key: `bmc_pass`, but not `passthrough`.
const SECRET_PARTS: [&str; 4] = ["pass", "pwd", "pw", "psk"];
/// A key that ends so says where the secret is, not what it is.
const POINTERS: [&str; 4] = ["_file", "_env", "_name", "_ref"];

/// A table without secrets, fractions, nulls and excess.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PowerSettings(Map<String, Value>);

impl PowerSettings {
    /// # Errors
    /// In words for the author of the document: which key must not be there, and why.
    pub fn new(table: Map<String, Value>) -> Result<PowerSettings, String> {
        check_table(&table, 1)?;
        Ok(PowerSettings(table))
    }

    /// The table, for the power driver.
    #[must_use]
    pub fn table(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl<'de> Deserialize<'de> for PowerSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PowerSettings::new(Map::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn check_table(table: &Map<String, Value>, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX || table.len() > KEYS_MAX {
        return Err(format!("power settings have at most {KEYS_MAX} keys a table and {DEPTH_MAX} levels"));
    }
    for (key, value) in table {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if key.is_empty() || key.len() > 63 || !key.bytes().all(plain) {
            return Err(format!("{:?} is no key for a power setting", key.chars().take(80).collect::<String>()));
        }
        if is_secret(key) {
            return Err(format!(
                "{key:?} would be a secret in a document; give the name of a stored credential, or {key}_file"
            ));
        }
        check_value(key, value, depth)?;
    }
    Ok(())
}

fn check_value(key: &str, value: &Value, depth: usize) -> Result<(), String> {
    match value {
        Value::Null => Err(format!("{key:?} has no value; leave the key out")),
        Value::Bool(_) => Ok(()),
        Value::Number(number) if number.as_i64().is_some() => Ok(()),
        Value::Number(_) => Err(format!("{key:?} must be a whole number of at most 64 bits, or text")),
        Value::String(text) if text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) => {
            Err(format!("{key:?} must be one line of at most {TEXT_BYTES_MAX} bytes"))
        }
        Value::String(text) if has_password(text) => {
            Err(format!("the URL in {key:?} carries a password; give the name of a stored credential instead"))
        }
        Value::String(_) => Ok(()),
        Value::Array(values) if values.len() > KEYS_MAX || depth >= DEPTH_MAX => {
            Err(format!("{key:?} is too large: {KEYS_MAX} values, {DEPTH_MAX} levels"))
        }
        Value::Array(values) => values.iter().try_for_each(|value| check_value(key, value, depth + 1)),
        Value::Object(table) => check_table(table, depth + 1),
    }
}

fn is_secret(key: &str) -> bool {
    let lower = key.to_ascii_lowercase().replace('-', "_");
    let letters: String = lower.chars().filter(char::is_ascii_alphabetic).collect();
    let named = SECRETS.iter().any(|word| letters.contains(word));
    let part = lower.split('_').any(|part| SECRET_PARTS.contains(&part));
    (named || part) && !POINTERS.iter().any(|pointer| lower.ends_with(pointer))
}

/// Whether a URL gives a user (`https://admin:secret@bmc/`): what stands there is a credential.
#[must_use]
pub fn has_password(text: &str) -> bool {
    let authority = text.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(""));
    authority.is_some_and(|authority| authority.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn taken(value: &Value) -> Result<PowerSettings, String> {
        PowerSettings::new(value.as_object().expect("a table").clone())
    }

    /// X6: what cannot get in cannot get out.
    #[test]
    fn a_secret_never_gets_into_a_document_whatever_its_key_is_called() {
        let secrets = [
            "password",
            "Password",
            "PASS",
            "bmc-password",
            "bmcPassword",
            "user_passwd",
            "api_token",
            "client_secret",
            "private-key",
            "passphrase",
            "token_2",
            "bmc_pass",
            "pwd",
            "apiKey",
        ];
        for key in secrets {
            let said = taken(&json!({ key: "hunter2" })).expect_err(key);
            assert!(said.contains(key) && !said.contains("hunter2"), "{said}");
            let deep = json!({ "redfish": { "auth": { key: "hunter2" } } });
            assert!(taken(&deep).is_err(), "{key} two levels down");
        }
        let said = taken(&json!({ "url": "https://admin:hunter2@10.0.0.9/redfish" })).expect_err("a URL");
        assert!(!said.contains("hunter2"), "{said}");
        assert!(taken(&json!({ "urls": ["https://admin@bmc"] })).is_err());
    }

    #[test]
    fn what_says_where_the_secret_lies_is_taken() {
        let settings = json!({
            "driver": "redfish", "url": "https://10.0.0.9/redfish/v1", "user": "admin", "credential": "rack-12",
            "password_file": "/etc/regild/bmc", "password-env": "BMC", "passthrough": true, "port": 623,
            "mail": "ops@example.com",
        });
        assert_eq!(taken(&settings).expect("plain settings").table().len(), 9);
    }

    #[test]
    fn what_no_document_form_could_give_back_or_no_record_could_hold_is_refused() {
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        let many: Vec<u32> = (0..100).collect();
        for wrong in [
            json!({ "a": null }),
            json!({ "a": 1.5 }),
            json!({ "a": u64::MAX }),
            json!({ "a": long }),
            json!({ "a": "two\nlines" }),
            json!({ "a": many }),
            json!({ "a b": 1 }),
            json!({ "": 1 }),
            json!({ "a": { "b": { "c": { "d": { "e": 1 } } } } }),
            json!({ "a": [[[[[1]]]]] }),
        ] {
            assert!(taken(&wrong).is_err(), "{wrong}");
        }
    }
}
