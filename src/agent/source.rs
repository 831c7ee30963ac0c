//! Where manifests and packs come from, and how long to wait for them.

use std::ops::Range;
use std::time::Duration;

use thiserror::Error;

use crate::clock;
use crate::wire::reference::ImageRef;

const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A stop is noticed after at most this while waiting.
const PAUSE_SLICE: Duration = Duration::from_millis(100);

/// A server of images. Called from several threads at once. Nothing that it says is believed unchecked.
pub trait ImageSource: Sync {
    /// Hex digest of the manifest of a version.
    ///
    /// # Errors
    /// [`SourceError`].
    fn resolve(&self, image: &ImageRef) -> Result<String, SourceError>;

    /// An encoded manifest.
    ///
    /// # Errors
    /// [`SourceError`].
    fn manifest(&self, digest: &str) -> Result<Vec<u8>, SourceError>;

    /// Exactly the bytes of a range of a pack.
    ///
    /// # Errors
    /// [`SourceError`].
    fn range(&self, pack: &str, range: Range<u64>) -> Result<Vec<u8>, SourceError>;
}

/// Why a server did not give what it was asked for.
#[derive(Debug, Error)]
pub enum SourceError {
    #[error("{url} cannot be reached")]
    Unreachable { url: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{url} answered with HTTP status {status}")]
    Status { url: String, status: u16 },
    #[error("{url} gave a wrong answer: {reason}")]
    Answer { url: String, reason: String },
}

impl SourceError {
    /// The same question may be answered later: the server restarts, or is busy.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            SourceError::Unreachable { .. } => true,
            SourceError::Status { status, .. } => *status >= 500 || *status == 408 || *status == 429,
            SourceError::Answer { .. } => false,
        }
    }
}

/// Why waiting ended without an answer.
#[derive(Debug)]
pub(super) enum GaveUp {
    Stopped,
    Failed(SourceError),
}

/// Asks until there is an answer, with growing pauses, for `patience` from the first failure on.
pub(super) fn ask<T>(
    patience: Duration,
    is_stopped: &dyn Fn() -> bool,
    question: impl Fn() -> Result<T, SourceError>,
) -> Result<T, GaveUp> {
    let mut failing_since = None;
    let mut pause = PAUSE_FIRST;
    loop {
        if is_stopped() {
            return Err(GaveUp::Stopped);
        }
        let error = match question() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let since = *failing_since.get_or_insert_with(clock::instant);
        if !error.is_passing() || clock::instant().duration_since(since) >= patience {
            return Err(GaveUp::Failed(error));
        }
        tracing::warn!(error = %error, "asking again in {} ms", pause.as_millis());
        let mut left = pause;
        while !left.is_zero() && !is_stopped() {
            clock::sleep(left.min(PAUSE_SLICE));
            left = left.saturating_sub(PAUSE_SLICE);
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn status(status: u16) -> SourceError {
        SourceError::Status { url: "http://server".to_owned(), status }
    }

    #[test]
    fn what_passes_is_asked_again_and_what_does_not_is_told_at_once() {
        for (code, asked) in [(503, 2), (429, 2), (404, 1), (403, 1), (416, 1)] {
            let count = Cell::new(0);
            let answer = ask(Duration::from_secs(60), &|| false, || {
                count.set(count.get() + 1);
                if count.get() == 1 { Err(status(code)) } else { Ok(()) }
            });
            assert_eq!((answer.is_ok(), count.get()), (asked == 2, asked), "{code}");
        }
    }

    #[test]
    fn a_stop_ends_the_waiting() {
        let count = Cell::new(0);
        let answer = ask(Duration::MAX, &|| count.get() > 0, || {
            count.set(count.get() + 1);
            Err::<(), _>(status(503))
        });
        assert!(matches!(answer, Err(GaveUp::Stopped)));
        assert_eq!(count.get(), 1);
    }
}
