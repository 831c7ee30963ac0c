//! The loop: agree with the server, look, tell. One thing at a time; every wait ends.
//!
//! Nothing here has to be put in order at its end: what is kept is kept file by file, so the process may be killed at
//! any time and the next one goes on.

use super::looks::{LookError, Looks};
use super::reporter::{Reporter, Sent};
use super::server::Server;
use super::state_dir::{StateDir, StateDirError};
use super::terms::{self, Agreed, TermsError};
use super::{Options, status};
use crate::agent::drift::priority;
use crate::agent::standby::pause;
use crate::wire::drift::{Gap, PathText, Report};
use crate::{causes, clock};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Mean pause after the first failure; then it doubles.
const RETRY_SECONDS: u64 = 5;
/// Terms are asked for again so often, even when no answer says that they changed.
const TERMS_SECONDS: u64 = 3600;
/// So often while nothing can be told: an operator may let the server forget a key.
const MUTE_SECONDS: u64 = 600;
/// And so often while there is nothing to compare with: a baseline is being made.
const NO_BASELINE_SECONDS: u64 = 120;
/// Between two reports: the server refuses one that comes sooner than two seconds after the one before.
const APART_SECONDS: u64 = 3;
/// Turns of `--once`: ten reports that waited, its own, and some that came too soon.
const ONCE_ASKED_MAX: usize = 20;

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("the service cannot begin")]
    State(#[from] StateDirError),
    #[error("the look failed")]
    Look(#[from] LookError),
    #[error("nothing can be compared")]
    Terms(#[from] TermsError),
    #[error("there is no word of what was found last in {0}")]
    Status(PathBuf, #[source] std::io::Error),
    #[error("nothing can be told: {0}")]
    Mute(String),
    #[error("the report was not taken")]
    Report(#[source] super::server::AskError),
}

struct Service<'o> {
    options: &'o Options,
    server: Server,
    state: StateDir,
    looks: Looks,
    reporter: Reporter,
    agreed: Option<Agreed>,
    /// When to do what next.
    terms_at: Instant,
    scan_at: Instant,
    send_at: Instant,
    heartbeat_at: Instant,
    /// In a row: of asking for terms, and of telling.
    unanswered: u32,
    untold: u32,
    said: String,
    gaps_since: Vec<(String, u64)>,
}

/// For ever; with `--once` until one look is told.
///
/// # Errors
/// [`WatchError`]. The service goes on after everything but a state directory or a root that cannot be used.
pub(super) fn run(options: &Options) -> Result<(), WatchError> {
    let state = StateDir::open(&options.state_dir)?;
    // Before the priority sinks: its thread keeps the usual one.
    let looks = Looks::new(&options.root, &state, !options.once)?;
    // In a sandbox that forbids it, it works all the same.
    let _ = priority::idle();
    let (now, reporter) = (clock::instant(), Reporter::open(&state));
    let mut service = Service {
        options,
        server: Server::new(options.server.as_deref().unwrap_or_default()),
        state,
        looks,
        reporter,
        agreed: None,
        terms_at: now,
        scan_at: now,
        send_at: now,
        heartbeat_at: now,
        unanswered: 0,
        untold: 0,
        said: String::new(),
        gaps_since: Vec::new(),
    };
    if options.once {
        return service.once();
    }
    service.go_on_with_what_is_kept();
    loop {
        service.turn();
    }
}

impl Service<'_> {
    /// Once for each thing that is said: a journal must not fill up.
    fn tell(&mut self, line: String) {
        if line != self.said {
            println!("regild-agent: {line}");
            self.said = line;
        }
    }

    fn once(&mut self) -> Result<(), WatchError> {
        self.agreed = Agreed::kept(&self.state);
        self.agree()?;
        if let Some(Agreed { terms, .. }) = self.agreed.as_ref().filter(|_| !self.looks.has_baseline()) {
            return Err(TermsError::NoBaseline(terms.reason.clone()).into());
        }
        self.looks.at_everything(&self.state)?;
        if let Some(why) = self.reporter.mute() {
            return Err(WatchError::Mute(why.to_string()));
        }
        let report = self.report();
        self.note_status();
        let mut is_told = !self.reporter.has_to_send();
        for _ in 0..ONCE_ASKED_MAX {
            let sent = if is_told {
                self.reporter.heartbeat(&self.state, &self.server, report.clone())
            } else {
                self.reporter.send(&self.state, &self.server)
            };
            match sent {
                Sent::All { .. } if is_told => return Ok(()),
                Sent::All { .. } => is_told = true,
                Sent::More => {}
                // Another report came a moment ago.
                Sent::Away(error) if error.status() == Some(429) => {}
                Sent::Refused(error) | Sent::Away(error) => return Err(WatchError::Report(error)),
            }
            clock::sleep(Duration::from_secs(APART_SECONDS));
        }
        Err(WatchError::Mute("the server takes no more reports for now".to_string()))
    }

    /// The server may be away for long: what it said last holds until it says otherwise.
    fn go_on_with_what_is_kept(&mut self) {
        let Some(agreed) = Agreed::kept(&self.state) else { return };
        let digest = agreed.terms.baseline.clone().unwrap_or_default();
        let path = self.state.file(&terms::baseline_name(&digest));
        // Its digest was checked when it was fetched, and is again when the server answers.
        if !digest.is_empty() && path.exists() && self.looks.agree(&agreed, path, &self.state).is_ok() {
            // Without the server only the key can fail, and that is said with the next terms.
            let _ = self.reporter.agree(&agreed.terms, &self.state, None);
        }
        self.agreed = Some(agreed);
    }

    fn turn(&mut self) {
        let now = clock::instant();
        if self.terms_at <= now {
            self.ask_terms();
        }
        if self.scan_at <= now && self.looks.has_baseline() || self.looks.is_everything_due() {
            self.look_at_everything();
        } else {
            self.look_at_changes();
        }
        self.speak();
        let mut next = self.terms_at;
        if self.looks.has_baseline() {
            next = next.min(self.scan_at);
            if self.reporter.mute().is_none() {
                next = next.min(if self.reporter.has_to_send() { self.send_at } else { self.heartbeat_at });
            }
        }
        self.looks.wait(Duration::from_secs(self.options.settle_seconds), next);
    }

    fn ask_terms(&mut self) {
        match self.agree() {
            Ok(()) => {
                self.unanswered = 0;
                let seconds = match self.reporter.mute() {
                    _ if !self.looks.has_baseline() => NO_BASELINE_SECONDS,
                    Some(_) => MUTE_SECONDS,
                    None => TERMS_SECONDS,
                };
                self.terms_at = clock::instant() + pause(seconds, 0, dice());
            }
            Err(error) => {
                self.tell(format!("{}; asking again", causes::in_one_line(&error)));
                self.terms_at = clock::instant() + pause(RETRY_SECONDS, self.unanswered, dice());
                self.unanswered = self.unanswered.saturating_add(1);
            }
        }
    }

    fn agree(&mut self) -> Result<(), WatchError> {
        let agreed = Agreed::ask(&self.server)?;
        let is_another = |known: &Agreed| {
            (known.terms.generation, &known.terms.host) != (agreed.terms.generation, &agreed.terms.host)
        };
        // Before the new terms are kept: killed in between, the next start finds the old ones and forgets, too.
        if self.agreed.as_ref().is_none_or(is_another) {
            self.looks.forget(&self.state);
        }
        agreed.keep(&self.state);
        self.reporter.agree(&agreed.terms, &self.state, Some(&self.server)).map_err(TermsError::from)?;
        let baseline = agreed.baseline(&self.server, &self.state)?;
        let line = match (&baseline, self.reporter.mute()) {
            (None, _) => format!("no baseline of {} yet: {}", agreed.terms.image, agreed.terms.reason),
            (_, Some(why)) => format!("looks, but cannot tell: {why}"),
            _ if self.looks.has_looked() => String::new(),
            _ => format!("compares this system with {}, as {} says", agreed.terms.image, self.server.base()),
        };
        match baseline {
            Some(path) => self.looks.agree(&agreed, path, &self.state)?,
            None => self.looks.forget_baseline(),
        }
        if !line.is_empty() {
            self.tell(line);
        }
        self.agreed = Some(agreed);
        Ok(())
    }

    fn look_at_everything(&mut self) {
        let looked = self.looks.at_everything(&self.state);
        let Some(agreed) = &self.agreed else { return };
        let seconds = agreed.terms.scan_seconds;
        // A quarter more or less each time: hosts that began together do not stay together.
        self.scan_at = clock::instant() + pause(seconds, 0, dice());
        match looked {
            Ok(()) => self.say_news(),
            Err(error) => {
                self.tell(causes::in_one_line(&error));
                // A damaged baseline is fetched again; anything else is tried again with the next look.
                self.terms_at = clock::instant() + Duration::from_secs(RETRY_SECONDS);
                self.scan_at = self.scan_at.min(clock::instant() + Duration::from_secs(NO_BASELINE_SECONDS));
            }
        }
    }

    fn look_at_changes(&mut self) {
        let settle = Duration::from_secs(self.options.settle_seconds);
        match self.looks.at_changes(&self.state, settle) {
            Ok(true) => self.say_news(),
            Ok(false) => {}
            Err(error) => self.tell(causes::in_one_line(&error)),
        }
    }

    fn say_news(&mut self) {
        let report = self.report();
        self.note_status();
        if self.reporter.say(&self.state, report) && self.untold == 0 {
            self.send_at = clock::instant();
        }
    }

    fn speak(&mut self) {
        if self.reporter.mute().is_some() || !self.looks.has_looked() {
            return;
        }
        let now = clock::instant();
        let sent = if self.reporter.has_to_send() {
            if self.send_at > now {
                return;
            }
            self.reporter.send(&self.state, &self.server)
        } else if self.heartbeat_at <= now {
            let report = self.report();
            self.reporter.heartbeat(&self.state, &self.server, report)
        } else {
            return;
        };
        self.take_answer(sent);
    }

    fn take_answer(&mut self, sent: Sent) {
        match sent {
            Sent::All { terms_changed } => {
                self.untold = 0;
                let seconds = self.agreed.as_ref().map_or(TERMS_SECONDS, |agreed| agreed.terms.report_seconds);
                self.heartbeat_at = clock::instant() + pause(seconds, 0, dice());
                self.tell(format!("{} findings, told to {}", self.looks.view.findings_total(), self.server.base()));
                if terms_changed {
                    self.terms_at = clock::instant();
                }
            }
            Sent::More => {
                self.untold = 0;
                self.send_at = clock::instant() + Duration::from_secs(APART_SECONDS);
            }
            Sent::Away(error) => self.retry(&error),
            Sent::Refused(error) => {
                self.retry(&error);
                // It says what the server knows of us: the last number, the key, the generation.
                self.terms_at = self.send_at.min(self.terms_at);
            }
        }
    }

    fn retry(&mut self, error: &super::server::AskError) {
        self.tell(format!("{}; asking again", causes::in_one_line(error)));
        let next = clock::instant() + pause(RETRY_SECONDS, self.untold, dice());
        self.untold = self.untold.saturating_add(1);
        (self.send_at, self.heartbeat_at) = (next, next);
    }

    fn report(&mut self) -> Report {
        let own = self.own_gaps();
        let mut report = self.looks.report(&own);
        report.scan.overflows = self.looks.overflows();
        if let Some(Agreed { terms, .. }) = &self.agreed {
            report.host.clone_from(&terms.host);
            report.generation = terms.generation;
            report.baseline = terms.baseline.clone().unwrap_or_default();
            report.policy.clone_from(&terms.policy);
        }
        report
    }

    fn own_gaps(&mut self) -> Vec<Gap> {
        let mut reasons: Vec<String> = Vec::new();
        if self.reporter.dropped() > 0 {
            reasons.push(format!("{} older reports were dropped while no server took them", self.reporter.dropped()));
        }
        if !self.reporter.is_number_kept() {
            reasons.push("the state directory cannot be written".to_string());
        }
        if let Some(agreed) = &self.agreed {
            reasons.extend(agreed.unclear.iter().take(5).map(|what| format!("a rule is not understood: {what}")));
        }
        let before = std::mem::take(&mut self.gaps_since);
        let since = |reason: &String| before.iter().find(|(known, _)| known == reason).map(|(_, since)| *since);
        self.gaps_since =
            reasons.into_iter().map(|reason| (reason.clone(), since(&reason).unwrap_or_else(clock::now))).collect();
        let own = |(reason, since): &(String, u64)| Gap {
            path: PathText(b"/".to_vec()),
            reason: reason.clone(),
            since: *since,
        };
        self.gaps_since.iter().map(own).chain(self.looks.gaps()).collect()
    }

    fn note_status(&self) {
        let Some(agreed) = &self.agreed else { return };
        status::write(&self.state, agreed, &self.looks.view, self.reporter.mute());
    }
}

/// Parts machines that were switched on together. 32 random bits: this runs long after the boot.
fn dice() -> u64 {
    u64::from(u32::from_le_bytes(clock::random_bytes()))
}
