//! A wish that a host's disk be compared with its image from outside, while the host's own system does not run.
//!
//! It is no order, and nothing here can be taken for one: a verification has a [`VerifyNumber`] and not a generation, its
//! claim is of a type of its own and lies beside the order's, and its events look at no order. It is a thing beside the
//! state: the host stays Ready. It ends by its result, by an order (what is written is read back, which says more), by a
//! hold, when its boot scripts are used up, or when its day is over.

use super::transition::{Change, Identity, Refusal};
use super::{Host, State};
use std::fmt;

/// How long a wish waits for its machine to netboot.
pub const WISH_SECONDS: u64 = 24 * 3600;
/// How long a look counts among those under way after its machine was last sent for it: one that never came, or hangs,
/// must not keep the others waiting. Reading a disk of 1 TB takes about as long.
const UNDER_WAY_SECONDS: u64 = 3600;

/// Which verification of its host. Not a generation: whoever has one may read a disk, never write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerifyNumber(pub u64);

impl fmt::Display for VerifyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is known of a host's verifications. Boxed: most hosts of a fleet have none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// How many were asked for so far: the number of the newest.
    pub count: u64,
    pub wish: Option<Box<VerifyWish>>,
    pub last: Option<Box<LastVerify>>,
}

/// Somebody wants the disk to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyWish {
    pub number: VerifyNumber,
    pub by: String,
    pub reason: String,
    /// Unix seconds.
    pub asked_at: u64,
    /// The machine is to be made to netboot for it; otherwise it waits until it does so by itself.
    pub power: bool,
    /// When the machine's power was last switched for it, Unix seconds.
    pub powered_at: Option<u64>,
    /// When its machine was last sent for it, by power or by a boot script, Unix seconds.
    pub begun_at: Option<u64>,
    /// Boot scripts served for it. Counted on stable storage before each script leaves.
    pub attempts: u32,
    /// Who may report; `None` until its script was served.
    pub claim: Option<VerifyClaim>,
}

impl VerifyWish {
    /// Unix seconds from which on nobody waits for it any more.
    #[must_use]
    pub fn ends_at(&self) -> u64 {
        self.asked_at.saturating_add(WISH_SECONDS)
    }

    #[must_use]
    pub fn is_claimed_by(&self, session_digest: &str) -> bool {
        self.claim.as_ref().and_then(|claim| claim.session_digest.as_deref()) == Some(session_digest)
    }
}

/// As an order's [`super::Claim`], and of another type, so that neither can stand in for the other. Only digests are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyClaim {
    pub token_digest: String,
    /// Set by the first check-in; the token is dead for any other session from then on.
    pub session_digest: Option<String>,
}

/// How the newest verification that is over ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastVerify {
    pub number: VerifyNumber,
    /// Unix seconds.
    pub at: u64,
    /// Who reported, so that a report whose answer was lost may be said again.
    pub session_digest: Option<String>,
    pub result: VerifyResult,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyResult {
    /// It was looked at: differences that the policy does not allow, and places that could not be looked at.
    Compared {
        findings: u64,
        gaps: u64,
    },
    Failed {
        reason: String,
    },
}

impl fmt::Display for VerifyResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (findings, gaps) = match self {
            VerifyResult::Compared { findings, gaps } => (findings, gaps),
            VerifyResult::Failed { reason } => return write!(f, "failed: {reason}"),
        };
        match findings {
            0 => f.write_str("clean"),
            1 => f.write_str("1 finding"),
            many => write!(f, "{many} findings"),
        }?;
        match gaps {
            0 => Ok(()),
            1 => f.write_str(", 1 place was not looked at"),
            many => write!(f, ", {many} places were not looked at"),
        }
    }
}

impl Host {
    /// Whether a host that netboots to its own disk is looked at on its way, since that was not done for so long. A deploy
    /// reads back all that it wrote, and a verification that failed is not tried at every boot: both count.
    #[must_use]
    pub fn is_verify_due(&self, every_seconds: Option<u64>, now: u64) -> bool {
        let Some(every) = every_seconds else { return false };
        let last = self.verify.last.as_ref().map_or(0, |last| last.at).max(self.built_at);
        self.verify.wish.is_none() && self.may_be_verified().is_ok() && last.saturating_add(every) <= now
    }

    /// Whether the machine is away from its system for a look now, as far as is known.
    #[must_use]
    pub fn is_look_under_way(&self, now: u64) -> bool {
        let begun_at = self.verify.wish.as_ref().and_then(|wish| wish.begun_at);
        begun_at.is_some_and(|at| now < at.saturating_add(UNDER_WAY_SECONDS))
    }

    /// Whether there is something to compare, and nothing under way that writes.
    fn may_be_verified(&self) -> Result<(), Refusal> {
        match (&self.state, &self.order) {
            (_, Some(order)) => Err(Refusal::OrderOpen { generation: order.generation }),
            (State::Discovered, _) => Err(Refusal::NotApproved),
            (State::Held { by, .. }, _) => Err(Refusal::HeldBy { by: by.clone() }),
            (State::Ready { .. }, _) if self.reported.is_some() && self.own_disk.is_some() => Ok(()),
            _ => Err(Refusal::NothingToVerify),
        }
    }
}

impl Change {
    pub(super) fn ask_verify(&mut self, by: &str, reason: &str, power: bool) -> Result<(), Refusal> {
        self.host.may_be_verified()?;
        if let Some(wish) = &mut self.host.verify.wish {
            // One look answers both; but whoever cannot wait for the machine is heard.
            if power && !wish.power {
                wish.power = true;
                let text = format!("verification {}: {by} wants the machine to netboot for it", wish.number);
                self.note(text, by);
            }
            return Ok(());
        }
        let verify = &mut self.host.verify;
        verify.count += 1;
        let number = VerifyNumber(verify.count);
        verify.wish = Some(Box::new(VerifyWish {
            number,
            by: by.to_string(),
            reason: reason.to_string(),
            asked_at: self.now,
            power,
            powered_at: None,
            begun_at: None,
            attempts: 0,
            claim: None,
        }));
        self.note(format!("verify asked by {by}: {reason}"), by);
        Ok(())
    }

    /// The script of a verification leaves.
    pub(super) fn verify_script(&mut self, token_digest: &str) -> Result<(), Refusal> {
        let wish = self.host.verify.wish.as_mut().ok_or(Refusal::NoVerification)?;
        wish.attempts += 1;
        wish.begun_at = Some(self.now);
        wish.claim = Some(VerifyClaim { token_digest: token_digest.to_string(), session_digest: None });
        let text = format!("attempt {} of verification {}: boot script served", wish.attempts, wish.number);
        self.note(text, "machine");
        Ok(())
    }

    pub(super) fn verify_checked_in(
        &mut self,
        number: VerifyNumber,
        token: &str,
        session: &str,
        identity: &Identity,
    ) -> Result<(), Refusal> {
        let known = self.host.system_uuid.clone();
        let wish = self.host.verify.wish.as_mut().filter(|wish| wish.number == number);
        let claim = wish.ok_or(Refusal::NoVerification)?.claim.as_mut().ok_or(Refusal::TokenUnknown)?;
        if claim.token_digest != token {
            return Err(Refusal::TokenUnknown);
        }
        // As for an order: another machine behind this MAC has another disk, and would clear or blame this host.
        if known.is_some() && known != identity.system_uuid {
            let seen = identity.system_uuid.clone().unwrap_or_else(|| "none".to_string());
            return Err(Refusal::IdentityChanged { known: known.unwrap_or_default(), seen });
        }
        match &claim.session_digest {
            Some(claimed) if claimed == session => Ok(()), // the answer was lost; the same claim again
            Some(_) => Err(Refusal::TokenClaimed),
            None => {
                claim.session_digest = Some(session.to_string());
                self.note(format!("verification {number}: the deploy environment looks at the disk"), "agent");
                Ok(())
            }
        }
    }

    pub(super) fn verify_reported(
        &mut self,
        number: VerifyNumber,
        session: &str,
        result: &VerifyResult,
    ) -> Result<(), Refusal> {
        if self.host.is_verify_repeated(number, session) {
            return Ok(());
        }
        let wish = self.host.verify.wish.as_ref().filter(|wish| wish.number == number);
        if !wish.ok_or(Refusal::NoVerification)?.is_claimed_by(session) {
            return Err(Refusal::SessionUnknown);
        }
        self.end_verify(result.clone(), Some(session.to_string()), "agent");
        Ok(())
    }

    /// The wish ends without a word of the machine. One that came after it goes on.
    pub(super) fn verify_ended(&mut self, number: VerifyNumber, reason: &str, by: &str) {
        if self.host.verify.wish.as_ref().is_none_or(|wish| wish.number != number) {
            return;
        }
        self.end_verify(VerifyResult::Failed { reason: reason.to_string() }, None, by);
    }

    /// The wish ends before its machine was sent for; the newest result stays.
    pub(super) fn verify_held_back(&mut self, number: VerifyNumber, reason: &str) {
        if self.host.verify.wish.take_if(|wish| wish.number == number && wish.begun_at.is_none()).is_some() {
            self.note(format!("verification {number} ends: {reason}"), "clock");
        }
    }

    fn end_verify(&mut self, result: VerifyResult, session_digest: Option<String>, by: &str) {
        let Some(wish) = self.host.verify.wish.take() else { return };
        let text = format!("verified from outside: {result}");
        self.host.verify.last =
            Some(Box::new(LastVerify { number: wish.number, at: self.now, session_digest, result }));
        self.note(text, by);
    }

    /// An order was opened, or the host is held: nobody waits for the verification any more, and it says nothing.
    pub(super) fn drop_verify(&mut self) -> String {
        let dropped = self.host.verify.wish.take();
        dropped.map_or_else(String::new, |wish| format!("; verification {} is dropped", wish.number))
    }
}

impl Host {
    /// Whether this report ended the verification already, and only its answer was lost.
    #[must_use]
    pub fn is_verify_repeated(&self, number: VerifyNumber, session_digest: &str) -> bool {
        self.verify
            .last
            .as_ref()
            .is_some_and(|last| last.number == number && last.session_digest.as_deref() == Some(session_digest))
    }
}
