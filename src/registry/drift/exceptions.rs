//! Exceptions (`drift accept`): differences that may be for a while. Each ends by itself, and is kept a while longer so
//! that `drift explain` can tell why something was let be.

use super::DriftRefusal;
use crate::db::DbError;
use crate::decide::drift::finding::Aspects;
use crate::decide::drift::path;
use crate::decide::drift::policy::{Action, Pattern, Rule};
use crate::decide::host::Host;
use crate::registry::RegistryError;
use crate::registry::fleet::{parse, untrusted};
use crate::registry::writer::{Batch, Writer, fitting};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const PREFIX: &str = "drift/exception/";
const LAST_KEY: &str = "drift/last-exception";
/// Kept at once, with those that have ended.
const EXCEPTIONS_MAX: usize = 10_000;
/// How long one that has ended is kept.
const KEPT_SECONDS: u64 = 30 * 86_400;
/// Forgotten in one tick.
const FORGOTTEN_MAX: usize = 500;

/// For which hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Group(String),
    /// A host's id.
    Host(String),
    /// `NAME` or `NAME:VERSION`.
    Image(String),
}

impl Scope {
    #[must_use]
    pub fn holds(&self, host: &Host) -> bool {
        match self {
            Scope::Group(name) => host.group == *name,
            Scope::Host(id) => host.id == *id,
            Scope::Image(image) => host.reported.as_ref().is_some_and(|reported| {
                reported.name == *image || reported.name.split_once(':').is_some_and(|(name, _)| name == image)
            }),
        }
    }
}

/// What an operator accepts; checked by whoever asks.
#[derive(Debug, Clone)]
pub struct NewException {
    pub pattern: Pattern,
    pub aspects: Aspects,
    pub scope: Scope,
    /// Unix seconds.
    pub until: u64,
    pub why: String,
    pub by: String,
}

/// One exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    pub number: u64,
    pub scope: Scope,
    pub by: String,
    /// Unix seconds.
    pub at: u64,
    /// As the policy takes it.
    pub rule: Rule,
}

impl Exception {
    #[must_use]
    pub fn until(&self) -> u64 {
        // Every exception has an end; one without would be one that is over.
        self.rule.until.unwrap_or(0)
    }
}

/// As stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    number: u64,
    pattern: String,
    aspects: Vec<String>,
    scope: Scope,
    until: u64,
    why: String,
    by: String,
    at: u64,
}

/// All exceptions, by number.
#[derive(Debug, Clone, Default)]
pub struct Exceptions(BTreeMap<u64, Arc<Exception>>, u64);

impl Exceptions {
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Exception>> {
        self.0.values()
    }

    /// The rules that hold for a host, the newest first: who accepts something now means it as things are now.
    pub fn of<'e>(&'e self, host: &'e Host, now: u64) -> impl Iterator<Item = &'e Rule> {
        let holds = move |exception: &&Arc<Exception>| exception.until() > now && exception.scope.holds(host);
        self.0.values().rev().filter(holds).map(|exception| &exception.rule)
    }
}

fn made(number: u64, new: NewException, at: u64) -> Exception {
    let NewException { pattern, aspects, scope, until, why, by } = new;
    let from = format!("exception {number}");
    let rule = Rule { pattern, aspects, action: Action::Allow, content: false, why, until: Some(until), from };
    Exception { number, scope, by, at, rule }
}

fn key(number: u64) -> String {
    format!("{PREFIX}{number:010}")
}

fn encoded(exception: &Exception) -> Vec<u8> {
    let rule = &exception.rule;
    let stored = Stored {
        number: exception.number,
        pattern: path::to_text(rule.pattern.bytes()),
        aspects: rule.aspects.iter().map(|aspect| aspect.word().to_string()).collect(),
        scope: exception.scope.clone(),
        until: exception.until(),
        why: rule.why.clone(),
        by: exception.by.clone(),
        at: exception.at,
    };
    // Strings and numbers: serialising them cannot fail.
    serde_json::to_vec(&stored).unwrap_or_default()
}

impl Writer {
    pub(super) fn load_exceptions(&mut self) -> Result<(), DbError> {
        let mut all = Exceptions::default();
        for item in self.db.scan(PREFIX)? {
            let stored: Stored = parse(&item)?;
            let wrong = |why: &str| untrusted(&item, why);
            let bytes = path::from_text(&stored.pattern).ok_or_else(|| wrong("its pattern is no text of a path"))?;
            let pattern = Pattern::new(&bytes).map_err(|error| wrong(error.sentence()))?;
            let aspects = Aspects::from_words(stored.aspects.iter().map(String::as_str));
            let aspects = aspects.map_err(|_| wrong("it has a word that is no way to differ"))?;
            let Stored { number, scope, until, why, by, at, .. } = stored;
            let new = NewException { pattern, aspects, scope, until, why, by };
            all.0.insert(number, Arc::new(made(number, new, at)));
        }
        if let Some(item) = self.db.get(LAST_KEY)? {
            all.1 = parse(&item)?;
        }
        self.drift.exceptions = Arc::new(all);
        Ok(())
    }

    pub(super) fn accept_drift(
        &mut self,
        new: NewException,
        batch: &mut Batch,
        now: u64,
    ) -> Result<Arc<Exception>, RegistryError> {
        let known = self.drift.exceptions.0.len();
        if known >= EXCEPTIONS_MAX {
            return Err(DriftRefusal::TooManyExceptions(known).into());
        }
        // A number is never given twice: what a person noted of exception 7 stays true.
        let number = self.drift.exceptions.1 + 1;
        let exception = Arc::new(made(number, new, now));
        let value = fitting(encoded(&exception))?;
        tracing::info!(number, by = exception.by, why = exception.rule.why, "an exception to the drift policy");
        batch.put(key(number), Some(value));
        batch.put(LAST_KEY.to_string(), Some(number.to_string().into_bytes()));
        let all = Arc::make_mut(&mut self.drift.exceptions);
        all.0.insert(number, exception.clone());
        all.1 = number;
        self.concerned(&exception.scope, batch, now);
        Ok(exception)
    }

    pub(super) fn end_drift_exception(
        &mut self,
        number: u64,
        by: &str,
        batch: &mut Batch,
        now: u64,
    ) -> Result<(), RegistryError> {
        let known = self.drift.exceptions.0.get(&number).filter(|exception| exception.until() > now);
        let mut ended = Exception::clone(known.ok_or(DriftRefusal::NoException(number))?);
        ended.rule.until = Some(now);
        batch.put(key(number), Some(fitting(encoded(&ended))?));
        tracing::info!(number, by, "an exception to the drift policy was taken away");
        let scope = ended.scope.clone();
        Arc::make_mut(&mut self.drift.exceptions).0.insert(number, Arc::new(ended));
        self.concerned(&scope, batch, now);
        Ok(())
    }

    /// The hosts of a scope are judged by what holds now: at once as far as this commit goes, then tick by tick.
    fn concerned(&mut self, scope: &Scope, batch: &mut Batch, now: u64) {
        let of = |id: &&String| self.hosts.get(*id).is_some_and(|view| scope.holds(&view.host));
        let ids: Vec<String> = self.drift.hosts.keys().filter(of).cloned().collect();
        ids.iter().for_each(|id| self.drift.set_due(id, Some(now)));
        self.judge_due(batch, now);
    }

    /// Forgets those that ended long ago.
    pub(super) fn forget_exceptions(&mut self, batch: &mut Batch, now: u64) {
        let is_over = |exception: &&Arc<Exception>| exception.until().saturating_add(KEPT_SECONDS) <= now;
        let over = self.drift.exceptions.iter().filter(is_over).take(FORGOTTEN_MAX);
        let over: Vec<u64> = over.map(|exception| exception.number).collect();
        for number in over {
            Arc::make_mut(&mut self.drift.exceptions).0.remove(&number);
            batch.put(key(number), None);
        }
    }
}
