//! Whether an installed system that asks is told to reboot, so that its open order is carried out, or its disk is looked
//! at from outside.
//!
//! The agent of the installed system asks again and again ([`crate::wire::standby`]). It is told once for each time
//! that the order waits for its machine, however often it asks: a machine that comes back to its disk although it was
//! told has a firmware that does not ask the network first, and would reboot for ever. Only a system that has not
//! rebooted since it was told hears it again: the answer was lost on its way.

use super::boot::{self, BootDecision, BootPolicy, LocalReason};
use super::host::{Host, State, VerifyNumber, VerifyWish};
use super::netboot::NetbootClient;

/// What is known when an installed system asks.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub host: &'a Host,
    pub policy: BootPolicy,
    /// The power driver of the host, or of its group, is the installed agent.
    pub is_its_driver: bool,
    /// The host is on the deny list.
    pub is_denied: bool,
    pub uefi: bool,
    /// How long the system that asks has been up. What it says of itself can only reboot itself.
    pub up_seconds: u64,
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Reboot {
        purpose: Purpose,
        /// To be written down before it is said. Said again, it is no news.
        is_first: bool,
    },
    Stay(Stay),
}

/// What the machine is to come back over the network for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Order { generation: u64 },
    Verify { number: VerifyNumber },
}

/// Why it is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// Over the network it would be sent to its disk again.
    NothingToBoot(LocalReason),
    OtherDriver,
    Denied,
    /// The order does not wait for its machine: an attempt has begun, and deadlines watch over it.
    AttemptBegun,
    /// Its disk is looked at when it next netboots; nobody asked for a reboot.
    VerifyLater,
    /// It was told, has rebooted, and did not come over the network.
    ToldBefore,
}

impl Stay {
    /// One sentence for the machine's journal.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Stay::NothingToBoot(reason) => reason.sentence(),
            Stay::OtherDriver => {
                "it is to netboot, but power driver \"agent\" is set neither for the host nor its group"
            }
            Stay::Denied => "this machine is protected",
            Stay::VerifyLater => "its disk is verified when it next netboots",
            Stay::AttemptBegun => "an attempt has begun",
            Stay::ToldBefore => "it was told to reboot and did not netboot: is the network first in its boot order?",
        }
    }
}

/// Judges one question at `now`.
#[must_use]
pub fn judge(facts: &Facts<'_>, now: u64) -> Verdict {
    let Facts { host, policy, uefi, .. } = *facts;
    // The one decision: who would be sent to its disk has no reason to reboot.
    let purpose = match boot::boot(NetbootClient::Ipxe { uefi }, Some(host), policy) {
        BootDecision::BootAgent { generation } => Purpose::Order { generation },
        BootDecision::BootVerify { number } => Purpose::Verify { number },
        BootDecision::BootLocal { reason } => return Verdict::Stay(Stay::NothingToBoot(reason)),
        // Not for iPXE; and nothing to reboot for.
        BootDecision::Ignore { .. } | BootDecision::Chainload { .. } => {
            return Verdict::Stay(Stay::NothingToBoot(LocalReason::NoOpenOrder));
        }
    };
    if facts.is_denied {
        return Verdict::Stay(Stay::Denied);
    }
    if !facts.is_its_driver {
        return Verdict::Stay(Stay::OtherDriver);
    }
    let told_at = match purpose {
        Purpose::Order { .. } if host.state != State::Queued => Err(Stay::AttemptBegun),
        // What was said before an attempt that failed is over: the order waits anew.
        Purpose::Order { .. } => {
            Ok(host.order.as_ref().and_then(|order| order.powered_at).filter(|at| *at >= host.since))
        }
        Purpose::Verify { .. } => host.verify.wish.as_ref().map_or(Err(Stay::VerifyLater), |wish| verify_told(wish)),
    };
    match told_at {
        Err(stay) => Verdict::Stay(stay),
        Ok(None) => Verdict::Reboot { purpose, is_first: true },
        Ok(Some(at)) if now.saturating_sub(facts.up_seconds) < at => Verdict::Reboot { purpose, is_first: false },
        Ok(Some(_)) => Verdict::Stay(Stay::ToldBefore),
    }
}

/// When the machine was told. Once for a verification, whatever comes of it: looking again costs a boot, and is worth no
/// second one that nobody asked for.
fn verify_told(wish: &VerifyWish) -> Result<Option<u64>, Stay> {
    match wish {
        VerifyWish { power: false, .. } => Err(Stay::VerifyLater),
        VerifyWish { attempts: 1.., .. } => Err(Stay::AttemptBegun),
        VerifyWish { powered_at, .. } => Ok(*powered_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::boot::Halt;
    use crate::decide::cause::{Cause, CauseKind};
    use crate::decide::host::{AgentWord, Event, Identity, ImageChoice, Outcome, Step, transition};
    use crate::decide::mac::Mac;
    use proptest::prelude::*;

    const POLICY: BootPolicy = BootPolicy { attempts_max: 3, halt: Halt::Nothing };

    fn then(host: &Host, event: &Event, now: u64) -> Host {
        match transition(host, event, POLICY, now) {
            Outcome::Moved(host, _) => *host,
            Outcome::Unchanged => host.clone(),
            Outcome::Refused(refusal) => panic!("{event:?} was refused: {refusal}"),
        }
    }

    /// An order that waits since second 100.
    fn ordered() -> Host {
        let image = ImageChoice { name: "tiny:2".into(), manifest: "digest".into() };
        let cause = Cause { image: Some(image), ..Cause::new(CauseKind::Operator, "patch", "ann", 100) };
        let host = Host::discovered(Mac([0x52, 0x54, 0, 0, 0, 1]), "default", 10);
        then(&then(&host, &Event::Approve { cause }, 100), &Event::Admit, 100)
    }

    fn facts(host: &Host, up_seconds: u64) -> Facts<'_> {
        Facts { host, policy: POLICY, is_its_driver: true, is_denied: false, uefi: false, up_seconds }
    }

    fn told(host: &Host, at: u64) -> Host {
        then(host, &Event::Powered { how: "agent".into() }, at)
    }

    fn attempt_fails(host: &Host, at: u64) -> Host {
        let token = Event::ScriptAsked { client: NetbootClient::Ipxe { uefi: false }, token_digest: "t".into() };
        let identity = Identity::default();
        let (token_digest, session_digest) = ("t".to_string(), "s".to_string());
        let claim = Event::CheckedIn { generation: 1, token_digest, session_digest: session_digest.clone(), identity };
        let word = AgentWord::Failed { step: Step::WriteBody, reason: "no".into() };
        let failed = Event::Agent { generation: 1, session_digest, word };
        [token, claim, failed].iter().fold(host.clone(), |host, event| then(&host, event, at))
    }

    #[test]
    fn an_open_order_that_waits_reboots_its_machine_once() {
        let host = ordered();
        let reboot = |is_first| Verdict::Reboot { purpose: Purpose::Order { generation: 1 }, is_first };
        assert_eq!(judge(&facts(&host, 5000), 5000), reboot(true));
        let host = told(&host, 5000);
        // The answer was lost: the same system asks again, up for longer than it was told.
        assert_eq!(judge(&facts(&host, 5030), 5030), reboot(false));
        // It has rebooted and came back to its disk: never again for this wait.
        for (now, up_seconds) in [(5060, 60), (5060, 5), (90_000, 84_000)] {
            assert_eq!(judge(&facts(&host, up_seconds), now), Verdict::Stay(Stay::ToldBefore), "{now} {up_seconds}");
        }
    }

    #[test]
    fn an_attempt_that_failed_waits_anew_and_is_told_once_more() {
        let host = attempt_fails(&told(&ordered(), 150), 300);
        let purpose = Purpose::Order { generation: 1 };
        assert_eq!(judge(&facts(&host, 10), 350), Verdict::Reboot { purpose, is_first: true });
        let host = told(&host, 350);
        assert_eq!(judge(&facts(&host, 10), 400), Verdict::Stay(Stay::ToldBefore));
    }

    /// Rules 1 and 2: who would be sent to its disk is not rebooted.
    #[test]
    fn held_stopped_used_up_protected_and_other_drivers_are_left_alone() {
        let host = ordered();
        let stays = |facts: Facts<'_>| match judge(&facts, 200) {
            Verdict::Stay(stay) => stay,
            told => panic!("{told:?}"),
        };
        let hold = Event::Hold { by: "ann".into(), reason: "look".into(), until: None };
        let held = then(&host, &hold, 150);
        assert_eq!(stays(facts(&held, 1)), Stay::NothingToBoot(LocalReason::Held));
        for halt in [Halt::NotBegun, Halt::Everything] {
            let stopped = Facts { policy: BootPolicy { halt, ..POLICY }, ..facts(&host, 1) };
            assert_eq!(stays(stopped), Stay::NothingToBoot(LocalReason::Stopped));
        }
        let mut used_up = host.clone();
        used_up.order.as_mut().unwrap().attempts = 3;
        assert_eq!(stays(facts(&used_up, 1)), Stay::NothingToBoot(LocalReason::AttemptsUsedUp));
        assert_eq!(stays(Facts { is_denied: true, ..facts(&host, 1) }), Stay::Denied);
        assert_eq!(stays(Facts { is_its_driver: false, ..facts(&host, 1) }), Stay::OtherDriver);
        let new = Host::discovered(Mac([0x52, 0x54, 0, 0, 0, 1]), "default", 10);
        assert_eq!(stays(facts(&new, 1)), Stay::NothingToBoot(LocalReason::NotApproved));
        let script = Event::ScriptAsked { client: NetbootClient::Ipxe { uefi: false }, token_digest: "t".into() };
        assert_eq!(stays(facts(&then(&host, &script, 150), 1)), Stay::AttemptBegun);
    }

    /// A verification reboots its machine once, and only where somebody asked for that.
    #[test]
    fn a_verification_reboots_its_machine_once_and_only_when_asked_to() {
        let script = Event::ScriptAsked { client: NetbootClient::Ipxe { uefi: false }, token_digest: "t".into() };
        let (token_digest, session_digest) = ("t".to_string(), "s".to_string());
        let identity = Identity::default();
        let claim = Event::CheckedIn { generation: 1, token_digest, session_digest: session_digest.clone(), identity };
        let id = crate::decide::host::DiskId { serial: Some("d".into()), wwn: None, size_bytes: 1 };
        let word = AgentWord::Verified(id);
        let done = Event::Agent { generation: 1, session_digest, word };
        let ready = [script.clone(), claim, done, Event::LocalBootServed];
        let ready = ready.iter().fold(ordered(), |host, event| then(&host, event, 200));
        assert_eq!(judge(&facts(&ready, 1), 200), Verdict::Stay(Stay::NothingToBoot(LocalReason::NoOpenOrder)));
        let wish = |power| Event::AskVerify { by: "ann".into(), reason: "look".into(), power };
        let patient = then(&ready, &wish(false), 300);
        assert_eq!(judge(&facts(&patient, 100), 300), Verdict::Stay(Stay::VerifyLater));
        let host = then(&patient, &wish(true), 310);
        let reboot = |is_first| Verdict::Reboot { purpose: Purpose::Verify { number: VerifyNumber(1) }, is_first };
        assert_eq!(judge(&facts(&host, 110), 310), reboot(true));
        assert_eq!(judge(&Facts { is_denied: true, ..facts(&host, 110) }, 310), Verdict::Stay(Stay::Denied));
        let host = told(&host, 310);
        assert_eq!(judge(&facts(&host, 120), 320), reboot(false), "the answer was lost");
        assert_eq!(judge(&facts(&host, 5), 400), Verdict::Stay(Stay::ToldBefore));
        assert_eq!(judge(&facts(&then(&host, &script, 400), 5), 500), Verdict::Stay(Stay::AttemptBegun));
    }

    proptest! {
        /// A machine whose firmware never asks the network reboots once, whenever it asks and however long it takes.
        #[test]
        fn no_machine_reboots_in_a_loop(steps in proptest::collection::vec((1u64..5000, any::<bool>()), 1..200)) {
            let (mut host, mut now, mut started_at, mut reboots) = (ordered(), 1000, 20, 0);
            for (seconds, answer_arrives) in steps {
                now += seconds;
                let Verdict::Reboot { is_first, .. } = judge(&facts(&host, now - started_at), now) else { continue };
                if is_first {
                    host = told(&host, now);
                }
                if answer_arrives {
                    // Shutting down and starting take a second at least.
                    started_at = now + 1;
                    now += 2;
                    reboots += 1;
                }
            }
            prop_assert!(reboots <= 1, "{reboots} reboots");
        }
    }
}
