//! How many lines one client may have in the log (rule 9): a machine that asks in a loop, or somebody who pretends to be
//! one, must not fill the disk.

use crate::clock;
use crate::decide::guesses::{Guesses, Verdict};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Lines by source, counted as wrong guesses are: ten a minute of each, of a bounded number of sources.
#[derive(Debug)]
pub struct LogGate {
    lines: Mutex<Guesses>,
    opened: Instant,
}

impl LogGate {
    #[must_use]
    pub fn new() -> Arc<LogGate> {
        Arc::new(LogGate { lines: Mutex::default(), opened: clock::instant() })
    }

    /// Whether a line about this client may be written. The last one says that there are no more for a while.
    pub fn may_log(&self, source: IpAddr) -> bool {
        // Numbers that are valid at every moment: a panic elsewhere cannot have spoilt them.
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.begin(source, self.opened.elapsed().as_secs()) {
            Verdict::Speak => true,
            Verdict::LockedOut { seconds, is_news } => {
                if is_news {
                    tracing::warn!(%source, seconds, "too many lines about this client; the next ones are left out");
                }
                false
            }
        }
    }
}
