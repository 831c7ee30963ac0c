//! One action on one host: its steps, each bounded in time, asked again with growing pauses where that is safe.

use std::time::Duration;

use super::error::{PowerError, Retry};
use super::{PowerState, Report, Step};
use crate::clock;

/// How long and how often. Controllers are slow: a request of some seconds is normal, a minute is not.
#[derive(Debug, Clone)]
pub struct Limits {
    /// TCP and, again, the TLS handshake.
    pub connect: Duration,
    /// One request and its answer, or one run of ipmitool.
    pub request: Duration,
    /// Until the machine is in the state that was asked for.
    pub state: Duration,
    /// Between two looks at the state.
    pub poll: Duration,
    /// The whole action.
    pub action: Duration,
    /// Of one step, the first one counted.
    pub tries_max: u32,
    /// The first pause is at most this; each next one twice as long.
    pub backoff_first: Duration,
    pub backoff_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(30),
            state: Duration::from_secs(120),
            poll: Duration::from_secs(2),
            action: Duration::from_secs(300),
            tries_max: 4,
            backoff_first: Duration::from_secs(2),
            backoff_max: Duration::from_secs(30),
        }
    }
}

/// The pause before try number `tries_done + 1`: doubling, at most `backoff_max`, and between half of that and all of
/// it by `random`, so that the controllers of a rack that lost power together are not asked together.
#[must_use]
pub fn backoff(limits: &Limits, tries_done: u32, random: u64) -> Duration {
    let doublings = tries_done.saturating_sub(1).min(31);
    let whole = limits.backoff_first.saturating_mul(1 << doublings).min(limits.backoff_max);
    let half = whole / 2;
    let millis = u64::try_from(half.as_millis()).unwrap_or(u64::MAX - 1);
    half + Duration::from_millis(random % (millis + 1))
}

/// What may be done with a step that failed without a clear answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Reading, or setting a value: twice is the same as once.
    Safe,
    /// A reset: twice is two resets.
    OnlyIfNotCarriedOut,
}

/// The action so far. It outlives the steps, so that a failure tells what was done before it.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub host: &'a str,
    pub limits: &'a Limits,
    pub report: Report,
    /// The step that is being done.
    pub at: String,
}

impl Work<'_> {
    /// Does one step, again and again as far as that is allowed, and notes it.
    pub async fn step<T, F>(&mut self, what: &str, repeat: Repeat, operation: impl Fn() -> F) -> Result<T, PowerError>
    where
        F: Future<Output = Result<T, PowerError>>,
    {
        self.at = what.to_string();
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match operation().await {
                Ok(value) => {
                    self.note(what, tries);
                    return Ok(value);
                }
                Err(error) => error,
            };
            let again = match error.retry() {
                Retry::Never => false,
                Retry::IfRepeatable => repeat == Repeat::Safe,
                Retry::Always => true,
            };
            if !again || tries >= self.limits.tries_max {
                self.note(&format!("{what}: failed"), tries);
                return Err(error);
            }
            let random = u64::from_le_bytes(clock::random_bytes());
            let wished = error.retry_after().unwrap_or_default().min(self.limits.backoff_max);
            let pause = backoff(self.limits, tries, random).max(wished);
            tracing::info!(host = self.host, step = what, tries, ?pause, "power: asking again: {error}");
            tokio::time::sleep(pause).await;
        }
    }

    pub fn note(&mut self, what: &str, tries: u32) {
        self.report.steps.push(Step { what: what.to_string(), tries });
    }

    /// Looks at the state until it is the wanted one. A controller that does not answer for a moment (many restart
    /// their network with the machine) is looked at again; a clear refusal ends it.
    pub async fn wait_for<F>(&mut self, wanted: PowerState, look: impl Fn() -> F) -> Result<(), PowerError>
    where
        F: Future<Output = Result<PowerState, PowerError>>,
    {
        let what = format!("wait until it is {wanted}");
        self.at.clone_from(&what);
        let began = clock::instant();
        let mut looks = 0;
        loop {
            // First of all: right after a reset a controller still shows what was.
            tokio::time::sleep(self.limits.poll).await;
            looks += 1;
            let seen = look().await;
            match seen {
                Ok(state) => self.report.state = state,
                Err(ref error) if error.retry() == Retry::Never => return seen.map(|_| ()),
                Err(ref error) => tracing::debug!(host = self.host, "power: looking again: {error}"),
            }
            if matches!(seen, Ok(state) if state == wanted) {
                self.note(&what, looks);
                return Ok(());
            }
            if began.elapsed() + self.limits.poll > self.limits.state {
                self.note(&format!("{what}: failed"), looks);
                let seconds = self.limits.state.as_secs();
                return match seen {
                    Ok(seen) => Err(PowerError::StateNotReached { wanted, seen, seconds }),
                    Err(error) => Err(error),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: pauses double up to a limit, and no two controllers are sure to get the same.
    #[test]
    fn pauses_grow_to_a_limit_and_are_spread() {
        let limits =
            Limits { backoff_first: Duration::from_secs(2), backoff_max: Duration::from_secs(15), ..Limits::default() };
        let table =
            [(0, 1, 2), (1, 1, 2), (2, 2, 4), (3, 4, 8), (4, 7, 15), (5, 7, 15), (40, 7, 15), (u32::MAX, 7, 15)];
        for (tries, least, most) in table {
            for random in [0, 1, 499, 12_345_678, u64::MAX - 1, u64::MAX] {
                let pause = backoff(&limits, tries, random);
                let range = Duration::from_secs(least)..=Duration::from_secs(most);
                assert!(range.contains(&pause), "{tries} tries, {random}: {pause:?}");
            }
        }
        assert_ne!(backoff(&limits, 3, 1), backoff(&limits, 3, 2));
        let none = Limits { backoff_first: Duration::ZERO, ..limits };
        assert_eq!(backoff(&none, 3, 77), Duration::ZERO);
    }
}
