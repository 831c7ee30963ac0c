//! A door for `fuzz/`, there only when cargo-fuzz builds: what machines say and what they are told, without a server.

use super::said::{self, Said};
use super::{body, boot, conditional};
use crate::decide::host::Event;
use crate::decide::mac::Mac;
use crate::wire::agent::{CheckIn, Inventory, Report};
use serde::de::DeserializeOwned;

/// A request's body as the handlers read it.
#[must_use]
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    body::parse(body).ok()
}

/// The event that a check-in becomes, and the inventory that is kept.
#[must_use]
pub fn check_in(said: CheckIn) -> (Event, Inventory) {
    said::check_in(said)
}

/// The event that a report becomes; `None` for mere progress.
#[must_use]
pub fn report(said: Report) -> Option<Event> {
    let session_digest = said::digest(&said.session);
    match said::report(said.event) {
        Said::Word(word) => Some(Event::Agent { generation: said.generation, session_digest, word }),
        Said::Progress(_) => None,
    }
}

/// The event that an installed system's word becomes.
#[must_use]
pub fn installed(image: &str) -> Event {
    Event::Installed { image: said::text(image) }
}

/// As `GET /boot/MAC/FIRMWARE` gives it.
#[must_use]
pub fn agent_script(server: &str, mac: Mac, host: &str, generation: u64, token: &str, args: &str) -> String {
    boot::agent_script(server, mac, host, generation, token, args)
}

/// As `GET /boot/MAC/FIRMWARE` gives it.
#[must_use]
pub fn local_script(server: &str, uefi: bool, reason: &str) -> String {
    boot::local_script(server, uefi, reason)
}

/// First and last byte of a `Range` header, for a pack of this length.
#[must_use]
pub fn one_range(text: &str, length: usize) -> Option<(usize, usize)> {
    conditional::one_range(text, length)
}
