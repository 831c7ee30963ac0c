//! How often one source may name wrong credentials before it is not listened to for a while (rule 9).
//!
//! Tokens have 256 bits, so this does not keep anyone from finding one; it bounds the work and the log lines that
//! trying costs, and shows a person that somebody tries. What is absent: a clock. `now` is seconds on any scale
//! that only moves forward.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Refused in one window before a source is locked out. A machine that works is refused once a boot at most.
pub const REFUSED_MAX: u32 = 10;
/// From the first refused request on. When it is over, so is the lockout.
pub const WINDOW_SECONDS: u64 = 60;
/// Sources that are kept in mind. Beyond it the one whose window ends first is forgotten: a flood from more
/// addresses than that is no matter of one source any more, and must not lock out whoever comes next.
pub const SOURCES_MAX: usize = 4096;

/// What a source may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Speak,
    /// Not before so many seconds have passed. `is_news` once in each lockout: that is the line for the log.
    LockedOut {
        seconds: u64,
        is_news: bool,
    },
}

/// Sources with refused requests, and those that are being answered.
#[derive(Debug, Default)]
pub struct Guesses {
    sources: BTreeMap<IpAddr, Source>,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    refused: u32,
    window_ends: u64,
    was_told: bool,
}

impl Guesses {
    /// Asked before a request is looked at. The request counts as refused until [`Guesses::was_right`] takes that
    /// back: so a thousand guesses at once, or guesses whose sender does not wait for the answer, count as well.
    pub fn begin(&mut self, source: IpAddr, now: u64) -> Verdict {
        let known = self.sources.get(&source).filter(|seen| seen.window_ends > now).copied();
        let mut seen = known.unwrap_or(Source { refused: 0, window_ends: now + WINDOW_SECONDS, was_told: false });
        if seen.refused >= REFUSED_MAX {
            let is_news = !seen.was_told;
            seen.was_told = true;
            self.sources.insert(source, seen);
            return Verdict::LockedOut { seconds: seen.window_ends - now, is_news };
        }
        if !self.sources.contains_key(&source) {
            self.make_room(now);
        }
        seen.refused += 1;
        self.sources.insert(source, seen);
        Verdict::Speak
    }

    /// The request was not refused for its credentials.
    pub fn was_right(&mut self, source: IpAddr) {
        let Some(seen) = self.sources.get_mut(&source) else { return };
        seen.refused = seen.refused.saturating_sub(1);
        if seen.refused == 0 {
            self.sources.remove(&source);
        }
    }

    fn make_room(&mut self, now: u64) {
        if self.sources.len() < SOURCES_MAX {
            return;
        }
        self.sources.retain(|_, seen| seen.window_ends > now);
        if self.sources.len() >= SOURCES_MAX {
            let first = self.sources.iter().min_by_key(|(_, seen)| seen.window_ends).map(|(source, _)| *source);
            first.map(|source| self.sources.remove(&source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const MALLORY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 66));
    const ALICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn locked_out(guesses: &mut Guesses, source: IpAddr, now: u64) -> Option<(u64, bool)> {
        match guesses.begin(source, now) {
            Verdict::Speak => None,
            Verdict::LockedOut { seconds, is_news } => Some((seconds, is_news)),
        }
    }

    #[test]
    fn so_many_guesses_are_heard_in_a_window_and_no_more_and_it_is_told_once() {
        let mut guesses = Guesses::default();
        let heard = (0..5000).filter(|_| locked_out(&mut guesses, MALLORY, 100).is_none()).count();
        assert_eq!(heard, REFUSED_MAX as usize);
        assert_eq!(locked_out(&mut guesses, ALICE, 100), None, "only the source itself is locked out");
        assert_eq!(locked_out(&mut guesses, MALLORY, 159), Some((1, false)), "told once, at the first refusal");
        assert_eq!(locked_out(&mut guesses, MALLORY, 160), None, "asking meanwhile does not make it longer");
        for _ in 1..REFUSED_MAX {
            assert_eq!(locked_out(&mut guesses, MALLORY, 161), None);
        }
        assert_eq!(locked_out(&mut guesses, MALLORY, 161), Some((59, true)), "the next lockout is news again");
    }

    #[test]
    fn who_is_right_is_never_locked_out_and_leaves_nothing_behind() {
        let mut guesses = Guesses::default();
        for now in 0..5000 {
            assert_eq!(locked_out(&mut guesses, ALICE, now / 100), None);
            guesses.was_right(ALICE);
        }
        assert!(guesses.sources.is_empty());
        // One refusal now and then, as a reboot in the middle of a report makes it.
        for now in 0..5000 {
            assert_eq!(locked_out(&mut guesses, ALICE, now * 7), None);
        }
    }

    #[test]
    fn guesses_in_flight_count() {
        let mut guesses = Guesses::default();
        let heard = (0..REFUSED_MAX + 5).filter(|_| locked_out(&mut guesses, MALLORY, 0).is_none()).count();
        assert_eq!(heard, REFUSED_MAX as usize);
        guesses.was_right(MALLORY);
        assert_eq!(locked_out(&mut guesses, MALLORY, 0), None, "one of them was right, so there is room for one");
    }

    /// Rule 9: the table is bounded, and full of strangers it still has room for the next machine.
    #[test]
    fn the_table_is_bounded_and_who_was_wrong_longest_ago_is_forgotten_first() {
        let mut guesses = Guesses::default();
        let stranger = |number: u32| IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + number));
        for _ in 0..=REFUSED_MAX {
            guesses.begin(stranger(0), 0);
        }
        for number in 1..SOURCES_MAX as u32 {
            assert_eq!(guesses.begin(stranger(number), 1), Verdict::Speak);
        }
        assert!(locked_out(&mut guesses, stranger(0), 2).is_some());
        assert_eq!(locked_out(&mut guesses, ALICE, 2), None);
        assert_eq!(guesses.sources.len(), SOURCES_MAX);
        assert!(!guesses.sources.contains_key(&stranger(0)));
        // When the windows are over all of them go.
        guesses.begin(MALLORY, 61);
        assert_eq!(guesses.sources.len(), 2, "{:?}", guesses.sources.keys());
    }
}
