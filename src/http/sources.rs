//! How many connections one address has (rule 9): a machine, or somebody on it, must not take the places of all others.

use super::log_gate::LogGate;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The connections of one listener, by where they come from. An entry for each address that has one: as bounded as the
/// listener's connections.
#[derive(Debug)]
pub struct Sources {
    of_one_max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
    log: Arc<LogGate>,
}

/// One connection; it counts until this is dropped.
#[derive(Debug)]
pub struct OneOf {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    #[must_use]
    pub fn new(of_one_max: usize) -> Arc<Sources> {
        Arc::new(Sources { of_one_max, open: Mutex::default(), log: LogGate::new() })
    }

    /// `None`: this address has all that it may have.
    pub fn enter(self: &Arc<Self>, source: IpAddr) -> Option<OneOf> {
        let mut open = self.open();
        let count = open.get(&source).copied().unwrap_or_default();
        if count >= self.of_one_max {
            drop(open);
            if self.log.may_log(source) {
                tracing::warn!(%source, most = self.of_one_max, "too many connections from one address; one is closed");
            }
            return None;
        }
        open.insert(source, count + 1);
        drop(open);
        Some(OneOf { sources: self.clone(), source })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Numbers that are valid at every moment: a panic elsewhere cannot have spoilt them.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OneOf {
    fn drop(&mut self) {
        let mut open = self.sources.open();
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_its_places_and_takes_none_of_anothers() {
        let sources = Sources::new(2);
        let (greedy, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let first = sources.enter(greedy).unwrap();
        let _second = sources.enter(greedy).unwrap();
        assert!(sources.enter(greedy).is_none());
        assert!(sources.enter(other).is_some());
        drop(first);
        let _third = sources.enter(greedy).unwrap();
        assert!(sources.enter(greedy).is_none());
        assert_eq!(sources.open().len(), 1, "who has no connection is forgotten");
        let none = Sources::new(0);
        assert!(none.enter(greedy).is_none() && none.open().is_empty(), "who is refused is not remembered");
    }
}
