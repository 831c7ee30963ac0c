//! Deadlines: no host waits for a machine for ever. Being late is an answer from facts, not a guess: the machine gets a
//! bounded number of power cycles, then the host is Failed with the last words that are known of it.
//!
//! The wall clock is what `since` was written with. While the clock is held after a jump
//! ([`super::schedule::clock`]), this is not to be asked: all hosts would be late at once.

use super::group::Deadlines;
use super::host::{State, Step};
use super::span::span;

/// What is known of one host.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub state: &'a State,
    /// Unix seconds of the last change of `state`.
    pub since: u64,
    /// When the agent last got further (a step, more bytes). A machine that only talks, on its console or by asking
    /// again and again, gets no more time by it.
    pub progressed_at: Option<u64>,
    /// The last line that the agent or the console said, and when: for people.
    pub last_word: Option<(u64, &'a str)>,
    /// Under the order that is open, or that the reboot belongs to.
    pub power_cycles: u32,
    pub power_cycled_at: Option<u64>,
    /// Whether anybody but a person can switch the machine.
    pub has_power_driver: bool,
    /// The installed agent is to reboot the machine: nobody can switch one whose system does not ask.
    pub left_to_agent: bool,
}

/// Whether a host is late, and what is to be done then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Waits for a person, not for a machine.
    NoDeadline,
    InTime {
        until: u64,
    },
    PowerCycle {
        late_seconds: u64,
        reason: String,
    },
    /// The host is to be Failed.
    Fail {
        late_seconds: u64,
        step: Step,
        reason: String,
    },
}

impl Verdict {
    /// `regild host list --stuck` shows these.
    #[must_use]
    pub fn is_late(&self) -> bool {
        matches!(self, Verdict::PowerCycle { .. } | Verdict::Fail { .. })
    }
}

/// How a state waits.
enum Wait {
    Person,
    /// For a machine, so long; `step` is where the host failed if it does not come.
    Machine {
        seconds: u64,
        /// Counted from the agent's last progress, not from the beginning of the state.
        by_progress: bool,
        step: Step,
        missing: &'static str,
    },
}

/// Total on purpose: a new state does not compile until somebody said for whom it waits, and how long.
fn wait(state: &State, deadlines: &Deadlines) -> Wait {
    match state {
        // Nothing is expected of the machine. A Ready host that never confirms is a rollout's business (its gate), not
        // a reason to call the host failed: what it runs was read back.
        State::Discovered | State::Enrolled | State::Ready { .. } | State::Failed { .. } | State::Held { .. } => {
            Wait::Person
        }
        State::Queued => Wait::Machine {
            seconds: deadlines.queued_seconds,
            by_progress: false,
            step: Step::Netboot,
            missing: "the machine did not ask for its boot script",
        },
        State::Netbooting => Wait::Machine {
            seconds: deadlines.netbooting_seconds,
            by_progress: false,
            step: Step::CheckIn,
            missing: "the boot script was served, but the agent did not check in",
        },
        State::Deploying(step) => Wait::Machine {
            seconds: deadlines.deploying_seconds,
            by_progress: true,
            step: *step,
            missing: "the agent fell silent while deploying",
        },
        State::Verifying => Wait::Machine {
            seconds: deadlines.deploying_seconds,
            by_progress: true,
            step: Step::VerifyBody,
            missing: "the agent fell silent while reading back",
        },
        State::Rebooting => Wait::Machine {
            seconds: deadlines.rebooting_seconds,
            by_progress: false,
            step: Step::Reboot,
            missing: "the image is on the disk, but the machine did not come back",
        },
    }
}

/// Judges one host.
#[must_use]
pub fn judge(facts: &Facts<'_>, deadlines: &Deadlines, now: u64) -> Verdict {
    let Wait::Machine { seconds, by_progress, step, missing } = wait(facts.state, deadlines) else {
        return Verdict::NoDeadline;
    };
    // A power cycle starts the time anew, or the next tick would order another one.
    let starts = [facts.power_cycled_at, facts.progressed_at.filter(|_| by_progress)];
    let until = starts.into_iter().flatten().fold(facts.since, u64::max).saturating_add(seconds);
    if now <= until {
        return Verdict::InTime { until };
    }
    let late_seconds = now - until;
    let mut reason = format!("{missing} within {}", span(seconds));
    if facts.has_power_driver && facts.power_cycles < deadlines.power_cycles_max {
        return Verdict::PowerCycle { late_seconds, reason };
    }
    if facts.has_power_driver {
        reason.push_str(&format!("; {} did not help", power_cycles(facts.power_cycles)));
    } else if facts.left_to_agent {
        reason.push_str(&match facts.power_cycled_at {
            Some(at) => format!("; its installed agent was told to reboot {} ago", span(now.saturating_sub(at))),
            None => "; it is left to its installed agent, which did not ask".to_string(),
        });
    } else {
        reason.push_str("; no power driver could switch it");
    }
    match facts.last_word {
        Some((at, line)) => {
            reason.push_str(&format!("; last heard {} ago: {}", span(now.saturating_sub(at)), line_of(line)));
        }
        None => reason.push_str("; nothing was heard of it"),
    }
    Verdict::Fail { late_seconds, step, reason }
}

fn power_cycles(count: u32) -> String {
    if count == 1 { "a power cycle".to_string() } else { format!("{count} power cycles") }
}

/// One bounded, printable line: what a machine says is outside text.
fn line_of(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("").trim();
    let shown: String = line.chars().filter(|char| !char.is_control()).take(CHARS_MAX).collect();
    if line.chars().count() > CHARS_MAX { format!("{shown}...") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_790_000_000;

    fn facts(state: &State, since: u64) -> Facts<'_> {
        let (progressed_at, last_word, power_cycled_at) = (None, None, None);
        let (power_cycles, has_power_driver, left_to_agent) = (0, true, false);
        Facts { state, since, progressed_at, last_word, power_cycles, power_cycled_at, has_power_driver, left_to_agent }
    }

    fn judged(facts: Facts<'_>) -> Verdict {
        judge(&facts, &Deadlines::default(), NOW)
    }

    /// Each state with the seconds that it may last by default; `None`: it waits for a person.
    fn states() -> Vec<(State, Option<u64>)> {
        let (step, reason, by) = (Step::WriteBody, String::new(), String::new());
        vec![
            (State::Discovered, None),
            (State::Enrolled, None),
            (State::Queued, Some(24 * 3600)),
            (State::Netbooting, Some(15 * 60)),
            (State::Deploying(step), Some(10 * 60)),
            (State::Verifying, Some(10 * 60)),
            (State::Rebooting, Some(20 * 60)),
            (State::Ready { confirmed: false }, None),
            (State::Ready { confirmed: true }, None),
            (State::Failed { step, attempts: 3, reason: reason.clone() }, None),
            (State::Held { by, reason, until: None }, None),
        ]
    }

    #[test]
    fn a_state_that_waits_for_a_machine_is_late_after_its_deadline_and_one_that_waits_for_a_person_never() {
        for (state, seconds) in states() {
            let Some(seconds) = seconds else {
                assert_eq!(judged(facts(&state, 0)), Verdict::NoDeadline, "{state:?}");
                continue;
            };
            assert_eq!(judged(facts(&state, NOW - seconds)), Verdict::InTime { until: NOW }, "{state:?}");
            let late = judged(facts(&state, NOW - seconds - 1));
            assert!(matches!(late, Verdict::PowerCycle { late_seconds: 1, .. }), "{state:?}: {late:?}");
            assert!(late.is_late());
        }
    }

    #[test]
    fn power_cycles_are_bounded_and_each_gets_the_whole_deadline() {
        let state = State::Netbooting;
        let late = facts(&state, NOW - 3600);
        assert!(matches!(judged(late), Verdict::PowerCycle { .. }));
        let just_cycled = Facts { power_cycles: 1, power_cycled_at: Some(NOW - 5), ..late };
        assert_eq!(judged(just_cycled), Verdict::InTime { until: NOW - 5 + 900 });
        let again = Facts { power_cycles: 1, power_cycled_at: Some(NOW - 901), ..late };
        assert!(matches!(judged(again), Verdict::PowerCycle { .. }));
        let used_up = Facts { power_cycles: 2, power_cycled_at: Some(NOW - 901), ..late };
        let Verdict::Fail { step, reason, .. } = judged(used_up) else { panic!("{:?}", judged(used_up)) };
        assert_eq!(step, Step::CheckIn);
        assert_eq!(
            reason,
            "the boot script was served, but the agent did not check in within 15m; 2 power cycles did not help; \
             nothing was heard of it"
        );
    }

    #[test]
    fn without_a_power_driver_a_late_host_fails_with_the_last_words_that_are_known() {
        let state = State::Deploying(Step::WriteBody);
        let last_word = Some((NOW - 720, "write_body 1.2 of 3.0 GiB\r\n\n"));
        let progressed_at = Some(NOW - 720);
        let silent = Facts { has_power_driver: false, progressed_at, last_word, ..facts(&state, NOW - 9000) };
        let Verdict::Fail { step, reason, late_seconds } = judged(silent) else { panic!("{:?}", judged(silent)) };
        assert_eq!((step, late_seconds), (Step::WriteBody, 120));
        assert_eq!(
            reason,
            "the agent fell silent while deploying within 10m; no power driver could switch it; last heard 12m ago: \
             write_body 1.2 of 3.0 GiB"
        );
    }

    /// A machine whose power is left to its installed agent is cycled by nobody: it ends Failed, with what is known.
    #[test]
    fn a_machine_whose_installed_agent_does_not_bring_it_fails_and_says_what_the_agent_did() {
        let state = State::Queued;
        let left = Facts { has_power_driver: false, left_to_agent: true, ..facts(&state, NOW - 90_000) };
        let reason = |facts: Facts<'_>| match judged(facts) {
            Verdict::Fail { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            reason(left),
            "the machine did not ask for its boot script within 1d; it is left to its installed agent, which did not \
             ask; nothing was heard of it"
        );
        let (told, heard) = (NOW - 86_520, (NOW - 20, "the installed agent asked"));
        assert_eq!(
            reason(Facts { power_cycled_at: Some(told), last_word: Some(heard), ..left }),
            "the machine did not ask for its boot script within 1d; its installed agent was told to reboot 1d ago; \
             last heard 20s ago: the installed agent asked"
        );
    }

    /// A slow disk may take hours as long as it gets further; a machine in a boot loop talks all the time.
    #[test]
    fn progress_keeps_a_deploy_alive_and_talk_keeps_nothing_alive() {
        let state = State::Deploying(Step::WriteBody);
        let slow = Facts { progressed_at: Some(NOW - 599), ..facts(&state, NOW - 90_000) };
        assert_eq!(judged(slow), Verdict::InTime { until: NOW + 1 });
        for state in [State::Rebooting, State::Netbooting, State::Deploying(Step::CheckIn)] {
            let talking = Facts { last_word: Some((NOW - 1, "GRUB loading")), ..facts(&state, NOW - 90_000) };
            assert!(judged(talking).is_late(), "{state:?}");
        }
        // Progress is the deploy's: what was left of it does not keep the reboot alive.
        let left_over = Facts { progressed_at: Some(NOW - 1), ..facts(&State::Rebooting, NOW - 90_000) };
        assert!(judged(left_over).is_late());
    }

    /// Rule 10: what a machine says cannot paint the operator's terminal or fill the history.
    #[test]
    fn the_last_words_are_one_bounded_printable_line() {
        assert_eq!(line_of("one\ntwo \u{1b}[31m red\u{7}\n"), "two [31m red");
        assert_eq!(line_of(&"x".repeat(100_000)).len(), 203);
        assert_eq!(line_of("\n\n"), "");
    }

    proptest! {
        /// No state that waits for a machine waits for ever: with time alone it ends in Fail after so many cycles.
        #[test]
        fn a_silent_machine_always_ends_failed(
            at in 0usize..11, driver in any::<bool>(), cycles_max in 0u32..5, since in 0..NOW, step_seconds in 1u64..100_000,
        ) {
            let (state, seconds) = states().swap_remove(at);
            prop_assume!(seconds.is_some());
            let deadlines = Deadlines { power_cycles_max: cycles_max, ..Deadlines::default() };
            let mut facts = Facts { has_power_driver: driver, ..facts(&state, since) };
            let (mut now, mut failed) = (since, false);
            while now < since + (u64::from(cycles_max) + 1) * (86_400 + step_seconds) + step_seconds {
                now += step_seconds;
                match judge(&facts, &deadlines, now) {
                    Verdict::NoDeadline => prop_assert!(false, "{:?} waits for a machine", state),
                    Verdict::InTime { until } => prop_assert!(now <= until),
                    Verdict::PowerCycle { .. } => {
                        prop_assert!(driver);
                        facts.power_cycles += 1;
                        facts.power_cycled_at = Some(now);
                    }
                    Verdict::Fail { .. } => {
                        failed = true;
                        break;
                    }
                }
            }
            prop_assert!(failed);
            prop_assert_eq!(facts.power_cycles, if driver { cycles_max } else { 0 });
        }
    }
}
