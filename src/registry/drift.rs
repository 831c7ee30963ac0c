//! Drift as the registry keeps it: what each host's agent reported last, with which key, and what the policy makes of it.
//!
//! For each host there is a small record (`drift/host/<id>`: key, last sequence, the last report's head, the standing),
//! which every report rewrites, and beside it what the report listed (`drift/list/<id>/<source>/<nn>`, JSON in zstd, cut to
//! the size of the store's values), which only a report with other findings rewrites. In memory are the records and 16
//! bytes for each finding; the findings themselves stay in the store: 10,000 hosts may have 500 each.
//!
//! A record is about one generation. When an order is done, or the host's record goes, it goes. What the deploy
//! environment saw from outside is kept beside what the host's own agent says: a host that lies cannot take it back.
//!
//! Standing changes are history, not ledger: the ledger says what a host was ordered and what it runs, and drift changes
//! neither. What it asked for is the cause of an order, and so is in both.

mod breaker;
mod due;
pub mod exceptions;
mod listed;
mod outside;
mod report;
mod rules;
mod said;
mod state;
mod stored;
mod top;

pub use exceptions::{Exception, Exceptions, NewException};
pub use listed::{AllListed, AtPath, JudgedPath};
pub use said::{FINDINGS_TOTAL_MAX, Said};
pub use state::{Heard, Source, Watched};
pub use stored::{Found, Listed};
pub use top::Counted;

use super::writer::{Batch, Writer};
use super::{Command, Registry, RegistryError, Reply};
use crate::decide::host::VerifyNumber;
use crate::wire::drift::Report;
use std::collections::HashMap;
use std::sync::Arc;

pub(super) use state::Drift;

/// Why a word of an agent about drift is not taken.
#[derive(Debug, thiserror::Error)]
pub enum DriftRefusal {
    #[error("no image of ours was put on this machine yet")]
    NotBuilt,
    #[error("the host runs generation {runs}, this is about generation {said}: ask for the terms")]
    OtherGeneration { runs: u64, said: u64 },
    #[error("order {generation} is open for this host: its next system gets a key of its own")]
    OrderOpen { generation: u64 },
    #[error("the disk is being written")]
    BeingWritten,
    #[error(
        "another key is known for generation {generation} of this host; if its agent lost it, an operator says \
         `regild drift forget-key HOST`"
    )]
    OtherKey { generation: u64 },
    #[error("the signature is not by the key of this host's generation")]
    WrongKey,
    #[error("report {last} was taken already, and this one has number {said}: ask for the terms")]
    Replayed { last: u64, said: u64 },
    #[error("the findings of report {said} are not known here: send all of them")]
    NotKept { said: u64 },
    #[error("the report before it came a moment ago: say this one again in {seconds} s")]
    TooSoon { seconds: u64 },
    #[error("the report is not right: {0}")]
    Meaning(String),
    #[error("there are {0} exceptions; take some away first")]
    TooManyExceptions(usize),
    #[error("there is no exception {0} that holds; `regild drift exceptions` shows them")]
    NoException(u64),
}

/// What the writer is asked about drift.
#[derive(Debug)]
pub enum DriftCommand {
    Enrol {
        host: String,
        generation: u64,
        key: [u8; 32],
        reply: Reply<u64>,
    },
    Report {
        host: String,
        said: Box<Said>,
        reply: Reply<u64>,
    },
    ForgetKey {
        host: String,
        by: String,
        reply: Reply<()>,
    },
    Accept {
        exception: Box<NewException>,
        reply: Reply<Arc<Exception>>,
    },
    EndException {
        number: u64,
        by: String,
        reply: Reply<()>,
    },
    /// What the last reports of a host listed.
    Listed {
        host: String,
        reply: Reply<AllListed>,
    },
}

/// As readers see it: what lies in the store, no more.
#[derive(Debug, Default)]
pub struct Published {
    hosts: HashMap<String, Arc<Watched>>,
    exceptions: Arc<Exceptions>,
}

impl Published {
    /// What is known of a host's drift, in the generation that it runs.
    #[must_use]
    pub fn host(&self, id: &str) -> Option<&Arc<Watched>> {
        self.hosts.get(id)
    }

    #[must_use]
    pub fn exceptions(&self) -> &Arc<Exceptions> {
        &self.exceptions
    }

    pub(super) fn publish(&mut self, state: &Drift, changed: &[String]) {
        for id in changed {
            match state.hosts.get(id) {
                Some(watched) => self.hosts.insert(id.clone(), watched.clone()),
                None => self.hosts.remove(id),
            };
        }
        self.exceptions = state.exceptions.clone();
    }
}

impl Registry {
    /// Takes the public key of the agent of a host's generation; the answer is the last sequence number.
    ///
    /// # Errors
    /// [`DriftRefusal`]: only for the generation that the host runs, while no order is open, and only one key.
    pub async fn enrol_drift_key(&self, host: &str, generation: u64, key: [u8; 32]) -> Result<u64, RegistryError> {
        self.ask_drift(|reply| DriftCommand::Enrol { host: host.to_string(), generation, key, reply }).await
    }

    /// Takes a report whose signature by `key` was checked over bytes with this digest; the answer is the last sequence
    /// number. The very last report once more (its answer was lost) is answered alike, and changes nothing.
    ///
    /// # Errors
    /// [`DriftRefusal`].
    pub async fn take_drift_report(
        &self,
        host: &str,
        key: [u8; 32],
        digest: [u8; 32],
        report: Report,
    ) -> Result<u64, RegistryError> {
        let said = Said::of(report, Source::Agent).map_err(DriftRefusal::Meaning)?;
        let said = Box::new(Said { key: Some(key), digest, ..said });
        self.ask_drift(|reply| DriftCommand::Report { host: host.to_string(), said, reply }).await
    }

    /// Takes what the deploy environment saw on the host's disk in this verification; that it was this host's agent session
    /// the caller has checked, and that it compared with the baseline of what the host runs. Said again for the same
    /// verification (the answer was lost, or what follows could not be written) it is the same look.
    ///
    /// # Errors
    /// [`DriftRefusal`].
    pub async fn take_outside_report(
        &self,
        host: &str,
        verification: VerifyNumber,
        report: Report,
    ) -> Result<(), RegistryError> {
        let said = Said::of(report, Source::Outside).map_err(DriftRefusal::Meaning)?;
        let said = Box::new(Said { verification: Some(verification.0), ..said });
        self.ask_drift(|reply| DriftCommand::Report { host: host.to_string(), said, reply }).await.map(drop)
    }

    /// The next key of the host's generation is taken.
    ///
    /// # Errors
    /// [`RegistryError::UnknownHost`].
    pub async fn forget_drift_key(&self, host: &str, by: &str) -> Result<(), RegistryError> {
        self.ask_drift(|reply| DriftCommand::ForgetKey { host: host.to_string(), by: by.to_string(), reply }).await
    }

    /// A difference that may be, until its end.
    ///
    /// # Errors
    /// [`DriftRefusal::TooManyExceptions`].
    pub async fn accept_drift(&self, exception: NewException) -> Result<Arc<Exception>, RegistryError> {
        let exception = Box::new(exception);
        self.ask_drift(|reply| DriftCommand::Accept { exception, reply }).await
    }

    /// Ends an exception now.
    ///
    /// # Errors
    /// [`DriftRefusal::NoException`].
    pub async fn end_drift_exception(&self, number: u64, by: &str) -> Result<(), RegistryError> {
        self.ask_drift(|reply| DriftCommand::EndException { number, by: by.to_string(), reply }).await
    }

    /// What the last reports of a host listed.
    ///
    /// # Errors
    /// [`RegistryError::UnknownHost`], or the store cannot be read.
    pub async fn drift_listed(&self, host: &str) -> Result<AllListed, RegistryError> {
        self.ask_drift(|reply| DriftCommand::Listed { host: host.to_string(), reply }).await
    }

    async fn ask_drift<T>(&self, command: impl FnOnce(Reply<T>) -> DriftCommand) -> Result<T, RegistryError> {
        self.ask(|reply| Command::Drift(command(reply))).await
    }
}

impl Writer {
    pub(super) fn take_drift(&mut self, command: DriftCommand, batch: &mut Batch, now: u64) {
        match command {
            DriftCommand::Enrol { host, generation, key, reply } => {
                let answer = self.guard().and_then(|()| self.enrol_drift_key(&host, generation, key, batch));
                batch.answer(reply, answer);
            }
            DriftCommand::Report { host, said, reply } => {
                let answer = self.guard().and_then(|()| self.take_drift_report(&host, *said, batch, now));
                batch.answer(reply, answer);
            }
            DriftCommand::ForgetKey { host, by, reply } => {
                let answer = self.guard().and_then(|()| self.forget_drift_key(&host, &by, batch, now));
                batch.answer(reply, answer);
            }
            DriftCommand::Accept { exception, reply } => {
                let answer = self.guard().and_then(|()| self.accept_drift(*exception, batch, now));
                batch.answer(reply, answer);
            }
            DriftCommand::EndException { number, by, reply } => {
                let answer = self.guard().and_then(|()| self.end_drift_exception(number, &by, batch, now));
                batch.answer(reply, answer);
            }
            DriftCommand::Listed { host, reply } => {
                let listed = self.guard().and_then(|()| self.all_listed(&self.id_of(&host)?));
                // With the group's commit: what it reads may be of this very group.
                batch.answer(reply, listed);
            }
        }
    }
}
