//! The history of a host: one line for each change of state, kept for ever under `history/<id>/<number>`.

use super::RegistryError;
use super::writer::{Batch, Writer};
use crate::db::Item;
use crate::decide::host::Entry;
use serde::{Deserialize, Serialize};

/// One line, as stored and as given to operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub number: u64,
    /// Unix seconds.
    pub at: u64,
    pub generation: u64,
    pub from: String,
    pub to: String,
    pub cause: String,
    pub actor: String,
}

/// The key of line `number`. Fixed width, so that key order is time order.
#[must_use]
pub fn key(host: &str, number: u64) -> String {
    format!("history/{host}/{number:010}")
}

/// The prefix of all lines of a host.
#[must_use]
pub fn prefix(host: &str) -> String {
    format!("history/{host}/")
}

/// One change of state as a line of history.
#[must_use]
pub fn line(entry: &Entry, number: u64, generation: u64, at: u64) -> Line {
    let with_step = |state: &crate::decide::host::State| match state {
        crate::decide::host::State::Deploying(step) => format!("deploying:{}", step.word()),
        crate::decide::host::State::Ready { confirmed } => {
            format!("ready:{}", if *confirmed { "confirmed" } else { "unconfirmed" })
        }
        other => other.word().to_string(),
    };
    Line {
        number,
        at,
        generation,
        from: with_step(&entry.from),
        to: with_step(&entry.to),
        cause: entry.cause.clone(),
        actor: entry.actor.clone(),
    }
}

impl Writer {
    pub(super) fn history(&self, name: &str) -> Result<Vec<Line>, RegistryError> {
        let id = match self.images.channels.contains_key(name) {
            true => format!("channel-{name}"),
            false => self.id_of(name)?,
        };
        let items = self.db.scan(&prefix(&id)).map_err(|error| RegistryError::Store(error.to_string()))?;
        let parse = |item: &Item| serde_json::from_slice(&item.value);
        items.iter().map(parse).collect::<Result<_, _>>().map_err(|error| RegistryError::Store(error.to_string()))
    }

    /// Where the history of a host begins that is seen anew: a machine that was removed keeps its lines.
    pub(super) fn history_length(&self, id: &str, batch: &Batch) -> Result<u64, RegistryError> {
        let prefix = prefix(id);
        let stored = self.db.scan(&prefix).map_err(|error| RegistryError::Store(error.to_string()))?;
        let stored = stored.iter().map(|item| item.key.as_str());
        let staged = batch.keys();
        let numbers = stored.chain(staged).filter_map(|key| key.strip_prefix(prefix.as_str())?.parse::<u64>().ok());
        Ok(numbers.max().map_or(0, |last| last + 1))
    }
}
