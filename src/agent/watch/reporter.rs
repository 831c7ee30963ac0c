//! What the server is told, and what it has already: a report with all findings when they change, else now and then one
//! that says that they are as before.
//!
//! ```text
//!            findings changed                      taken
//!   look ---------------------> number, sign, queue -----> told: "the same as report n" from now on
//!                                        |
//!                                        +-- no answer: asked again, more and more seldom; queued over restarts
//!                                        +-- refused: terms are asked for again, they say what the server has
//! ```

use super::key::HostKey;
use super::queue::Queue;
use super::server::{AskError, Server};
use super::state_dir::StateDir;
use super::view;
use crate::wire::drift::{Received, Report, Signed, Terms};
use serde::{Deserialize, Serialize};

const TOLD: &str = "told.json";
const TOLD_BYTES_MAX: u64 = 4096;

/// The last report with findings that the server took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    generation: u64,
    sequence: u64,
    baseline: String,
    policy: String,
    findings: String,
}

impl Told {
    fn of(report: &Report) -> Told {
        Told {
            generation: report.generation,
            sequence: report.sequence,
            baseline: report.baseline.clone(),
            policy: report.policy.clone(),
            findings: view::digest(report),
        }
    }

    fn says(&self, report: &Report) -> bool {
        let sequence = self.sequence;
        *self == Told { sequence, ..Told::of(report) }
    }
}

/// Whether reports can be signed.
#[derive(Debug)]
enum Voice {
    /// Terms were never agreed upon, or no key could be kept.
    None(String),
    Key(Box<HostKey>),
}

/// What came of sending.
#[derive(Debug)]
pub(super) enum Sent {
    /// All is told. True: the terms changed meanwhile.
    All { terms_changed: bool },
    /// One is told, and the next waits: a server takes two in a row only with a pause between them.
    More,
    /// The server knows it otherwise: terms are to be asked for before anything else is sent.
    Refused(AskError),
    /// Later.
    Away(AskError),
}

#[derive(Debug)]
pub(super) struct Reporter {
    voice: Voice,
    queue: Queue,
    told: Option<Told>,
    /// What was said last, taken or not: what equals it is no news.
    said: Option<Told>,
    /// Number of the last report that the server took, as far as we know.
    taken: u64,
    /// The number of the last report could be written down.
    is_kept: bool,
    /// Number of the last report that was refused although it is right by itself.
    refused: Option<u64>,
}

impl Reporter {
    pub(super) fn open(state: &StateDir) -> Reporter {
        let mut queue = Queue::open(state);
        let told: Option<Told> = state.read_json(TOLD, TOLD_BYTES_MAX);
        let mut said = told.clone();
        // What still waits is what was said last.
        if let Some(last) = queue.last(state) {
            said = serde_json::from_str::<Report>(&last.payload).ok().as_ref().map(Told::of);
        }
        let voice = Voice::None("not yet agreed with the server".to_string());
        Reporter { voice, queue, told, said, taken: 0, is_kept: true, refused: None }
    }

    /// Takes on the terms: the key of their generation, known to the server.
    ///
    /// # Errors
    /// The server does not take the key.
    pub(super) fn agree(&mut self, terms: &Terms, state: &StateDir, server: Option<&Server>) -> Result<(), AskError> {
        self.take_key(terms, state);
        let Voice::Key(key) = &self.voice else { return Ok(()) };
        self.taken = self.taken.max(terms.sequence);
        let Some(server) = server else { return Ok(()) };
        match &terms.key {
            None => self.taken = self.taken.max(server.enrol(&key.new_key())?.sequence),
            Some(known) if *known == key.public_hex() => {}
            Some(_) => {
                let why = "the server has another key for this host and generation: the state directory was lost, or \
                           another machine spoke first; an operator says `regild drift forget-key HOST`, or rebuilds it";
                self.voice = Voice::None(why.to_string());
            }
        }
        self.settle(terms, state);
        Ok(())
    }

    fn take_key(&mut self, terms: &Terms, state: &StateDir) {
        if matches!(&self.voice, Voice::Key(key) if key.is_of(&terms.host, terms.generation)) {
            return;
        }
        let is_new = self.told.as_ref().is_some_and(|told| told.generation != terms.generation);
        self.voice = match HostKey::of(state, &terms.host, terms.generation) {
            Ok(key) => Voice::Key(Box::new(key)),
            Err(error) => {
                Voice::None(format!("the host's key cannot be read or kept in {}: {error}", state.path().display()))
            }
        };
        self.taken = 0;
        // Reports of another generation speak of a system that is gone. One that cannot be read just now may be of this one.
        let is_old = |number| {
            let report = self.queue.get(state, number);
            let report = report.and_then(|signed| serde_json::from_str::<Report>(&signed.payload).ok());
            report.is_some_and(|report| report.generation != terms.generation || report.host != terms.host)
        };
        let old: Vec<u64> = self.queue.numbers().into_iter().filter(|number| is_old(*number)).collect();
        for number in &old {
            self.queue.remove(state, *number);
        }
        if is_new || !old.is_empty() {
            self.queue.forget_dropped(state);
            (self.told, self.said) = (None, None);
        }
    }

    /// Of what waits, the server has what is not above its last number: the answer was lost.
    fn settle(&mut self, terms: &Terms, state: &StateDir) {
        for number in self.queue.numbers().into_iter().filter(|number| *number <= terms.sequence) {
            if number == terms.sequence {
                let report = self.queue.get(state, number);
                self.took(state, report.as_ref());
            }
            self.queue.remove(state, number);
        }
        // What was compared with another baseline is refused for ever.
        for number in self.queue.numbers() {
            if self.baseline_of(state, number).is_some_and(|baseline| Some(baseline) != terms.baseline) {
                self.queue.drop_one(state, number);
                self.said = None;
            }
        }
        // A server that was set back has forgotten the report that others are "the same as".
        if self.told.as_ref().is_some_and(|told| told.sequence > terms.sequence) {
            (self.told, self.said) = (None, None);
        }
    }

    fn baseline_of(&self, state: &StateDir, number: u64) -> Option<String> {
        let signed = self.queue.get(state, number)?;
        serde_json::from_str::<Report>(&signed.payload).ok().map(|report| report.baseline)
    }

    fn took(&mut self, state: &StateDir, signed: Option<&Signed>) {
        let report = signed.and_then(|signed| serde_json::from_str::<Report>(&signed.payload).ok());
        let Some(report) = report.filter(|report| report.same_as.is_none()) else { return };
        let told = Told::of(&report);
        // Lost with a crash it costs one report with all findings.
        let _ = serde_json::to_vec(&told).map(|text| state.write(TOLD, &text));
        self.told = Some(told);
    }

    /// Why nothing can be told.
    pub(super) fn mute(&self) -> Option<&str> {
        match &self.voice {
            Voice::None(why) => Some(why),
            Voice::Key(_) => None,
        }
    }

    pub(super) fn is_number_kept(&self) -> bool {
        self.is_kept
    }

    pub(super) fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    pub(super) fn has_to_send(&self) -> bool {
        !self.queue.is_empty() && self.mute().is_none()
    }

    /// Queues a report if it says something new.
    pub(super) fn say(&mut self, state: &StateDir, mut report: Report) -> bool {
        if self.said.as_ref().is_some_and(|said| said.says(&report)) {
            return false;
        }
        let Some((number, signed)) = self.sign(state, &mut report) else { return false };
        self.said = Some(Told::of(&report));
        self.queue.push(state, number, signed);
        true
    }

    fn sign(&mut self, state: &StateDir, report: &mut Report) -> Option<(u64, Signed)> {
        let Voice::Key(key) = &mut self.voice else { return None };
        let number = key.next(state, self.taken);
        self.is_kept = number.is_kept;
        report.sequence = number.value;
        // Maps with text for keys and numbers always have a JSON form.
        let payload = serde_json::to_string(report).ok()?;
        Some((number.value, key.sign(payload)))
    }

    /// Sends what waits, the oldest first.
    pub(super) fn send(&mut self, state: &StateDir, server: &Server) -> Sent {
        let mut terms_changed = false;
        while let Some((number, signed)) = self.queue.first(state).filter(|_| self.mute().is_none()) {
            match server.report(&signed) {
                Ok(received) => {
                    self.took(state, Some(&signed));
                    self.queue.remove(state, number);
                    terms_changed |= self.note(&received);
                    if self.has_to_send() {
                        return Sent::More;
                    }
                }
                Err(error) if error.is_passing() => return Sent::Away(error),
                Err(error) => {
                    let again = error.status() == Some(409) && self.refused.replace(number) == Some(number);
                    if again || matches!(error.status(), Some(400 | 413 | 422) | None) {
                        // It never will take this one, fresh terms or not: those behind it must not wait for it.
                        self.queue.drop_one(state, number);
                        self.said = None;
                    }
                    return Sent::Refused(error);
                }
            }
        }
        Sent::All { terms_changed }
    }

    /// Says that all is as before, or all of it where the server may not know what was before.
    pub(super) fn heartbeat(&mut self, state: &StateDir, server: &Server, report: Report) -> Sent {
        let Some(told) = self.told.as_ref().filter(|told| told.says(&report)) else {
            self.said = None;
            self.say(state, report);
            return self.send(state, server);
        };
        let mut report = Report { same_as: Some(told.sequence), findings: Vec::new(), ..report };
        let Some((_, signed)) = self.sign(state, &mut report) else { return Sent::All { terms_changed: false } };
        match server.report(&signed) {
            Ok(received) => {
                // It stood among this one's gaps.
                self.queue.forget_dropped(state);
                Sent::All { terms_changed: self.note(&received) }
            }
            Err(error) if error.is_passing() => Sent::Away(error),
            Err(error) => {
                (self.told, self.said) = (None, None);
                Sent::Refused(error)
            }
        }
    }

    fn note(&mut self, received: &Received) -> bool {
        self.taken = self.taken.max(received.sequence);
        received.terms_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that fails for a moment: what waits is told when it can be read again, and what is of another generation or
    /// baseline goes.
    #[test]
    fn a_report_that_cannot_be_read_just_now_waits_and_one_of_another_system_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let state = StateDir::open(scratch.path()).unwrap();
        let mut queue = Queue::open(&state);
        for (number, generation, baseline) in [(5, 1, "b"), (6, 2, "b"), (7, 2, "other"), (8, 2, "b")] {
            let report = Report { host: "h".into(), generation, baseline: baseline.into(), ..Report::default() };
            let payload = serde_json::to_string(&report).unwrap();
            queue.push(&state, number, Signed { payload, signature: String::new() });
        }
        // Whoever reads it gets an error, as from a bad sector.
        let file = state.file(&format!("queue/{:020}.json", 8));
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        let terms = r#"{"host": "h", "generation": 2, "image": "i", "manifest": "", "baseline": "b", "key": null,
            "sequence": 0, "policy": "", "rules": [], "scan_seconds": 9, "cycle_seconds": 9, "report_seconds": 9}"#;
        let terms: Terms = serde_json::from_str(terms).unwrap();
        let mut reporter = Reporter::open(&state);
        reporter.take_key(&terms, &state);
        assert_eq!(reporter.queue.numbers(), [6, 7, 8]);
        reporter.settle(&terms, &state);
        assert_eq!(reporter.queue.numbers(), [6, 8]);
    }
}
