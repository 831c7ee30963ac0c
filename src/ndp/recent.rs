//! Which MACs asked as iPXE just now.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::decide::mac::Mac;

/// iPXE solicits for 20 s after its DISCOVER; a minute allows for slow links.
const RECENT: Duration = Duration::from_secs(60);
/// A whole hall that comes up at once. One machine more waits some seconds longer, and that is all.
const MACS_MAX: usize = 10_000;

/// A bounded memory of one minute.
#[derive(Debug, Default)]
pub struct RecentMacs {
    seen: Mutex<HashMap<Mac, Instant>>,
}

impl RecentMacs {
    /// Remembers a MAC. When the memory is full of younger ones it is not remembered.
    pub fn note(&self, mac: Mac, now: Instant) {
        // Single insertions: a panic elsewhere leaves a map that is at worst incomplete.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MACS_MAX {
            seen.retain(|_, at| now.duration_since(*at) < RECENT);
        }
        if seen.len() < MACS_MAX || seen.contains_key(&mac) {
            seen.insert(mac, now);
        }
    }

    /// Whether it asked within the last minute.
    #[must_use]
    pub fn is_recent(&self, mac: Mac, now: Instant) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&mac).is_some_and(|at| now.duration_since(*at) < RECENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(number: u32) -> Mac {
        let [a, b, c, d] = number.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    #[test]
    fn a_mac_is_remembered_for_a_minute_and_the_memory_is_bounded() {
        let (recent, start) = (RecentMacs::default(), crate::clock::instant());
        let after = |seconds| start + Duration::from_secs(seconds);
        recent.note(mac(1), start);
        assert!(recent.is_recent(mac(1), after(59)));
        assert!(!recent.is_recent(mac(1), after(60)));
        assert!(!recent.is_recent(mac(2), start));
        for number in 2..=MACS_MAX as u32 + 50 {
            recent.note(mac(number), after(30));
        }
        assert_eq!(recent.seen.lock().unwrap().len(), MACS_MAX);
        assert!(!recent.is_recent(mac(MACS_MAX as u32 + 50), after(30)), "full of younger ones");
        recent.note(mac(2), after(40));
        assert!(recent.is_recent(mac(2), after(95)), "one that is known is refreshed even then");
        recent.note(mac(0xff_ffff), after(91));
        assert!(recent.is_recent(mac(0xff_ffff), after(91)), "the old ones made room");
    }
}
