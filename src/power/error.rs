//! Why a machine's power did not do what was asked, told to the person who must act.

use std::time::Duration;

use super::seal::SealError;
use super::{Action, Driver, PowerState};

/// `place` is always the controller as the settings name it, without user and password.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    #[error("{place} cannot be reached: {why}; check the address, the cable, and that the controller has power")]
    NotReached { place: String, why: String },
    #[error("{place} took the request, but gave no whole answer: {why}; whether it acted is not known")]
    NoAnswer { place: String, why: String },
    #[error(
        "{place} does not accept user {user:?} with this password; give the right ones (it was not tried again, \
             so that the account is not locked)"
    )]
    WrongPassword { place: String, user: String },
    #[error(
        "{place} forbids user {user:?} to do this ({said}); give the account the right to set the boot override \
             and to reset the machine"
    )]
    NotAllowed { place: String, user: String, said: String },
    #[error(
        "the certificate of {place} is not trusted ({why}); it has the fingerprint sha256:{fingerprint}: compare \
             that with the controller's own console and set it as `fingerprint`, or set `ca_file` to the authority \
             that signed it"
    )]
    NotTrusted { place: String, why: String, fingerprint: String },
    #[error("the certificate authorities in {path} cannot be used: {why}")]
    Authorities { path: String, why: String },
    #[error(
        "no TLS connection with {place}: {why}; TLS 1.2 with a current cipher suite is the least that is taken, \
             so update the controller's firmware"
    )]
    NoTls { place: String, why: String },
    #[error("{place} is busy ({said}); ask again in some minutes, and reset the controller when that does not help")]
    Busy { place: String, said: String, retry_after: Option<Duration> },
    #[error("{place} failed inside ({said}); ask again, and reset the controller when that does not help")]
    Trouble { place: String, said: String },
    #[error(
        "{place} points to {to}; that is not followed, because the password would go there. If it is right, set \
             it as `url`"
    )]
    Redirected { place: String, to: String },
    #[error("{place} has no system {asked}; set `system` to one of: {seen}")]
    NoSuchSystem { place: String, asked: String, seen: String },
    #[error(
        "{place} does not take a one-time boot from the network ({said}); the machine was not reset. Put the \
             network first in its boot order and use another driver, or update the controller's firmware"
    )]
    OverrideRefused { place: String, said: String },
    #[error("{place} refuses to {what} ({said})")]
    Refused { place: String, what: String, said: String },
    #[error("{place} offers no way to do this: it can {offered}")]
    NotOffered { place: String, offered: String },
    #[error("{place} gave an answer that is not understood: {what}")]
    OddAnswer { place: String, what: String },
    #[error("{place} does not speak IPMI cipher suite {cipher}; set `cipher = {other}`")]
    Cipher { place: String, cipher: u8, other: u8 },
    #[error("it was given up after {seconds} s, at this step: {step}")]
    TimedOut { step: String, seconds: u64 },
    #[error(
        "the machine was to be {wanted}, but after {seconds} s the controller still says {seen}; look at its console"
    )]
    StateNotReached { wanted: PowerState, seen: PowerState, seconds: u64 },
    #[error("the power driver {driver} cannot {action}; use redfish, ipmi or command for this host")]
    CannotDo { driver: Driver, action: Action },
    #[error("{program} cannot be run: {why}")]
    Program { program: String, why: String },
    #[error("{program} failed ({status}): {said}")]
    Command { program: String, status: String, said: String },
    #[error("no magic packet left this server: {why}; check `interface` and `broadcast`")]
    NotSent { why: String },
    #[error("the controller's password cannot be opened")]
    Credentials(#[from] SealError),
}

/// Whether asking again is safe, and of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// It would come out the same, or lock the account.
    Never,
    /// It may have been carried out: only what may happen twice may be asked twice.
    IfRepeatable,
    /// It was certainly not carried out.
    Always,
}

impl PowerError {
    pub(super) fn retry(&self) -> Retry {
        match self {
            PowerError::NotReached { .. } | PowerError::Busy { .. } => Retry::Always,
            PowerError::NoAnswer { .. } | PowerError::Trouble { .. } => Retry::IfRepeatable,
            _ => Retry::Never,
        }
    }

    /// How long the controller asked to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            PowerError::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Text from a controller or a program, fit for one line of a message: without control characters, at most 200
/// characters. It is hostile until then.
pub(super) fn printable(text: &str) -> String {
    const CHARACTERS_MAX: usize = 200;
    let words = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    if line.chars().count() <= CHARACTERS_MAX {
        return line;
    }
    line.chars().take(CHARACTERS_MAX).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_becomes_one_harmless_line() {
        assert_eq!(printable("a\r\nb\x1b[31m\tc  d\0"), "a b [31m c d");
        assert_eq!(printable(&"x".repeat(500)).len(), 203);
    }

    #[test]
    fn wrong_passwords_are_never_tried_again_and_resets_only_when_not_carried_out() {
        let place = || "p".to_string();
        let wrong = PowerError::WrongPassword { place: place(), user: "u".into() };
        assert_eq!(wrong.retry(), Retry::Never);
        assert_eq!(PowerError::NoAnswer { place: place(), why: String::new() }.retry(), Retry::IfRepeatable);
        assert_eq!(PowerError::NotReached { place: place(), why: String::new() }.retry(), Retry::Always);
    }
}
