//! How a host moves: (record, event, now) -> moved, unchanged, or refused with a reason.

use super::record::MACS_MAX;
use super::{Claim, Declared, DiskId, Host, State, Step, VerifyNumber, VerifyResult};
use crate::decide::boot::{self, BootDecision, BootPolicy};
use crate::decide::cause::{Cause, CauseKind};
use crate::decide::mac::Mac;
use crate::decide::netboot::NetbootClient;

/// What happened to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An operator makes the machine ours and asks for its first image.
    Approve {
        cause: Cause,
    },
    /// Something asks for a rebuild.
    Ask {
        cause: Cause,
    },
    /// The brakes let the waiting causes through. Nothing else opens an order.
    Admit,
    /// A cause asks no longer.
    Withdraw {
        kind: CauseKind,
        by: String,
    },
    /// A version must not be put on any disk any more.
    ImageBlocked {
        image: String,
        reason: String,
        by: String,
    },
    /// It may again.
    ImageUnblocked {
        image: String,
        by: String,
    },
    /// The machine was late, and its power was cycled.
    PowerCycled {
        why: String,
    },
    /// The machine's power is about to be switched, so that it netboots.
    Powered {
        how: String,
    },
    /// What came of that.
    PowerReported {
        said: String,
    },
    /// An operator's document names the host.
    Declared {
        declared: Declared,
        by: String,
    },
    /// The machine is late, and nothing is left to try.
    Expired {
        step: Step,
        reason: String,
    },
    Hold {
        by: String,
        reason: String,
        until: Option<u64>,
    },
    Release {
        by: String,
    },
    /// The clock passed the end of a hold.
    HoldEnded,
    /// iPXE asks for its boot script. `token_digest` is that of the token which the script would carry.
    ScriptAsked {
        client: NetbootClient,
        token_digest: String,
    },
    /// DHCP told the firmware to boot its own disk.
    LocalBootServed,
    CheckedIn {
        generation: u64,
        token_digest: String,
        session_digest: String,
        identity: Identity,
    },
    /// What the agent of a claimed attempt says.
    Agent {
        generation: u64,
        session_digest: String,
        word: AgentWord,
    },
    /// The installed system says which image it is.
    Installed {
        image: String,
    },
    /// Somebody wants the disk to be compared with its image from outside. Opens no order.
    AskVerify {
        by: String,
        reason: String,
        /// The machine is to be made to netboot for it.
        power: bool,
    },
    VerifyCheckedIn {
        number: VerifyNumber,
        token_digest: String,
        session_digest: String,
        identity: Identity,
    },
    /// What came of a verification, by the session that claimed it.
    VerifyReported {
        number: VerifyNumber,
        session_digest: String,
        result: VerifyResult,
    },
    /// Nobody waits for the verification any more.
    VerifyEnded {
        number: VerifyNumber,
        reason: String,
        /// The caps kept it from beginning: it says nothing of the host, whose next look is due as before.
        is_held_back: bool,
    },
}

/// What an inventory says of who the machine is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    pub macs: Vec<Mac>,
    pub system_uuid: Option<String>,
    pub serial: Option<String>,
}

/// The agent's reports that change the record (progress in bytes does not).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentWord {
    Step(Step),
    Target(DiskId),
    Verified(DiskId),
    Failed { step: Step, reason: String },
}

/// One line of history: a change of state and its cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub from: State,
    pub to: State,
    pub cause: String,
    pub actor: String,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The record after the event, and what history gains. Boxed: a record is far larger than a reason.
    Moved(Box<Host>, Vec<Entry>),
    Unchanged,
    Refused(Refusal),
}

/// Why an event may not happen. The words are for the operator or for the agent's console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    NotApproved,
    AlreadyApproved,
    FailedBefore,
    TooManyCauses,
    NothingAsked,
    OrderOpen { generation: u64 },
    HeldBy { by: String },
    NotHeldOrFailed,
    NothingDesired,
    NoOpenOrder,
    WrongGeneration { asked: u64, open: u64 },
    TokenUnknown,
    TokenClaimed,
    SessionUnknown,
    IdentityChanged { known: String, seen: String },
    OtherImage { desired: String, said: String },
    NothingToVerify,
    NoVerification,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::NotApproved => {
                write!(f, "the host is not approved; `regild host approve ID --image REF` does that")
            }
            Refusal::AlreadyApproved => {
                write!(f, "the host is approved already; `regild host reimage` opens a new order")
            }
            Refusal::FailedBefore => {
                write!(f, "the host is failed; look at it, then `regild host release` or `regild host reimage`")
            }
            Refusal::TooManyCauses => write!(f, "too many causes ask for this host already"),
            Refusal::NothingAsked => write!(f, "nothing asks for a rebuild of this host"),
            Refusal::OrderOpen { generation } => {
                write!(f, "order {generation} is open already; `regild host hold` closes it")
            }
            Refusal::HeldBy { by } => write!(f, "the host is held by {by}; `regild host release` ends that"),
            Refusal::NotHeldOrFailed => write!(f, "the host is neither held nor failed"),
            Refusal::NothingDesired => write!(f, "no image is desired yet; name one with --image NAME:VERSION"),
            Refusal::NoOpenOrder => write!(f, "no order is open"),
            Refusal::WrongGeneration { asked, open } => write!(f, "generation {asked} is over; the open one is {open}"),
            Refusal::TokenUnknown => write!(f, "the token is not that of the latest attempt"),
            Refusal::TokenClaimed => write!(f, "the token was claimed by another session"),
            Refusal::SessionUnknown => write!(f, "the session did not claim the latest attempt"),
            Refusal::IdentityChanged { known, seen } => {
                write!(
                    f,
                    "another machine answers: system UUID {seen}, known is {known}; hold or remove the host first"
                )
            }
            Refusal::NothingToVerify => {
                write!(
                    f,
                    "nothing that regild wrote is known to be whole on its disk; only a host that is ready is verified"
                )
            }
            Refusal::NoVerification => write!(f, "nobody waits for this verification"),
            Refusal::OtherImage { desired, said } => write!(f, "the system says {said}, but {desired} was written"),
        }
    }
}

/// The state machine. `actor` is who did it: `operator NAME`, `agent`, `machine`, `clock`.
#[must_use]
pub fn transition(host: &Host, event: &Event, policy: BootPolicy, now: u64) -> Outcome {
    let mut change = Change { host: host.clone(), entries: Vec::new(), now };
    let done = match event {
        Event::Approve { cause } => change.approve(cause),
        Event::Ask { cause } => change.ask(cause),
        Event::Admit => change.admit(),
        Event::Withdraw { kind, by } => {
            change.withdraw(*kind, by);
            Ok(())
        }
        Event::ImageBlocked { image, reason, by } => {
            change.image_blocked(image, reason, by);
            Ok(())
        }
        Event::ImageUnblocked { image, by } => {
            change.image_unblocked(image, by);
            Ok(())
        }
        Event::Powered { how } => change.powered(how),
        Event::PowerReported { said } => {
            change.power_reported(said);
            Ok(())
        }
        Event::Declared { declared, by } => change.declared(declared, by),
        Event::PowerCycled { why } => change.power_cycled(why),
        Event::Expired { step, reason } => change.expired(*step, reason),
        Event::Hold { by, reason, until } => change.hold(by, reason, *until),
        Event::Release { by } => change.release(&format!("released by {by}"), by),
        Event::HoldEnded => change.hold_ended(),
        Event::ScriptAsked { client, token_digest } => change.script_asked(*client, token_digest, policy),
        Event::LocalBootServed => change.local_boot_served(policy),
        Event::CheckedIn { generation, token_digest, session_digest, identity } => {
            change.checked_in(*generation, token_digest, session_digest, identity)
        }
        Event::Agent { generation, session_digest, word } => change.agent(*generation, session_digest, word, policy),
        Event::Installed { image } => change.installed(image),
        Event::AskVerify { by, reason, power } => change.ask_verify(by, reason, *power),
        Event::VerifyCheckedIn { number, token_digest, session_digest, identity } => {
            change.verify_checked_in(*number, token_digest, session_digest, identity)
        }
        Event::VerifyReported { number, session_digest, result } => {
            change.verify_reported(*number, session_digest, result)
        }
        Event::VerifyEnded { number, reason, is_held_back: false } => {
            change.verify_ended(*number, reason, "clock");
            Ok(())
        }
        Event::VerifyEnded { number, reason, is_held_back: true } => {
            change.verify_held_back(*number, reason);
            Ok(())
        }
    };
    match done {
        Err(refusal) => Outcome::Refused(refusal),
        Ok(()) if change.host == *host && change.entries.is_empty() => Outcome::Unchanged,
        Ok(()) => Outcome::Moved(Box::new(change.host), change.entries),
    }
}

/// A record on its way from one state to the next, and what history gains.
pub(super) struct Change {
    pub(super) host: Host,
    entries: Vec<Entry>,
    pub(super) now: u64,
}

impl Change {
    pub(super) fn go(&mut self, to: State, cause: impl Into<String>, actor: &str) {
        let from = std::mem::replace(&mut self.host.state, to.clone());
        if from != to {
            self.host.since = self.now;
        }
        self.entries.push(Entry { from, to, cause: cause.into(), actor: actor.to_string() });
    }

    fn hold(&mut self, by: &str, reason: &str, until: Option<u64>) -> Result<(), Refusal> {
        let closed =
            self.host.order.take().map_or(String::new(), |order| format!("; order {} closed", order.generation));
        self.host.asks.clear();
        let closed = closed + &self.drop_verify();
        let state = State::Held { by: by.to_string(), reason: reason.to_string(), until };
        self.go(state, format!("held: {reason}{closed}"), &format!("operator {by}"));
        Ok(())
    }

    fn release(&mut self, cause: &str, by: &str) -> Result<(), Refusal> {
        if !matches!(self.host.state, State::Held { .. } | State::Failed { .. }) {
            return Err(Refusal::NotHeldOrFailed);
        }
        // Only a disk that the newest order finished is known to be whole.
        let to = if self.host.runs_desired() { State::Ready { confirmed: false } } else { State::Enrolled };
        self.go(to, cause, &format!("operator {by}"));
        Ok(())
    }

    fn hold_ended(&mut self) -> Result<(), Refusal> {
        match &self.host.state {
            State::Held { until: Some(until), by, .. } if *until <= self.now => {
                let by = by.clone();
                self.release("the hold's end has come", &by)
            }
            _ => Ok(()),
        }
    }

    fn script_asked(&mut self, client: NetbootClient, token_digest: &str, policy: BootPolicy) -> Result<(), Refusal> {
        match boot::boot(client, Some(&self.host), policy) {
            BootDecision::BootAgent { .. } => {
                let Some(order) = &mut self.host.order else { return Err(Refusal::NoOpenOrder) };
                order.attempts += 1;
                order.claim = Some(Claim { token_digest: token_digest.to_string(), session_digest: None });
                let cause = format!("attempt {} of order {}: boot script served", order.attempts, order.generation);
                self.go(State::Netbooting, cause, "machine");
                Ok(())
            }
            BootDecision::BootVerify { .. } => self.verify_script(token_digest),
            BootDecision::BootLocal { .. } => self.local_boot_served(policy),
            BootDecision::Ignore { .. } | BootDecision::Chainload { .. } => Ok(()),
        }
    }

    pub(super) fn step_reached(&self) -> Step {
        match self.host.state {
            State::Deploying(step) => step,
            State::Verifying => Step::VerifyBody,
            _ => Step::Netboot,
        }
    }

    pub(super) fn fail(&mut self, step: Step, reason: &str, actor: &str) {
        let attempts = self.host.order.take().map_or(0, |order| order.attempts);
        let state = State::Failed { step, attempts, reason: reason.to_string() };
        self.go(state, reason, actor);
    }

    fn local_boot_served(&mut self, policy: BootPolicy) -> Result<(), Refusal> {
        if self.host.state == State::Rebooting {
            self.go(State::Ready { confirmed: false }, "sent to its disk", "machine");
        } else if let Some(why) = self.host.order.as_ref().and_then(|order| order.blocked.clone()) {
            self.fail(self.step_reached(), &format!("the machine netboots again, and {why}"), "machine");
        } else if self.host.order.as_ref().is_some_and(|order| order.attempts >= policy.attempts_max) {
            self.fail(self.step_reached(), "the machine netboots again and no attempt is left", "machine");
        }
        let tried = self.host.verify.wish.as_ref().map(|wish| (wish.number, wish.attempts));
        if let Some((number, tried)) = tried.filter(|(_, tried)| *tried >= policy.attempts_max) {
            let reason = format!("{tried} boots of the deploy environment ended without a report");
            self.verify_ended(number, &reason, "machine");
        }
        Ok(())
    }

    fn checked_in(&mut self, generation: u64, token: &str, session: &str, identity: &Identity) -> Result<(), Refusal> {
        let order = self.host.order.as_mut().ok_or(Refusal::NoOpenOrder)?;
        if order.generation != generation {
            return Err(Refusal::WrongGeneration { asked: generation, open: order.generation });
        }
        let claim = order.claim.as_mut().ok_or(Refusal::TokenUnknown)?;
        if claim.token_digest != token {
            return Err(Refusal::TokenUnknown);
        }
        // Behind the token: what is known of the host is told to nobody who only guesses.
        // A machine that has a UUID has it at every boot: none is another machine, too.
        if let Some(known) = &self.host.system_uuid
            && identity.system_uuid.as_ref() != Some(known)
        {
            let seen = identity.system_uuid.clone().unwrap_or_else(|| "none".to_string());
            return Err(Refusal::IdentityChanged { known: known.clone(), seen });
        }
        match &claim.session_digest {
            Some(claimed) if claimed == session => return Ok(()), // the answer was lost; the same claim again
            Some(_) => return Err(Refusal::TokenClaimed),
            None => claim.session_digest = Some(session.to_string()),
        }
        for mac in &identity.macs {
            if !self.host.macs.contains(mac) && self.host.macs.len() < MACS_MAX {
                self.host.macs.push(*mac);
            }
        }
        self.host.system_uuid = self.host.system_uuid.take().or_else(|| identity.system_uuid.clone());
        self.host.serial = self.host.serial.take().or_else(|| identity.serial.clone());
        self.go(State::Deploying(Step::CheckIn), "the agent claimed its token", "agent");
        Ok(())
    }

    fn agent(&mut self, generation: u64, session: &str, word: &AgentWord, policy: BootPolicy) -> Result<(), Refusal> {
        // The success report may be repeated when its answer was lost: the order is closed by then.
        if let (None, AgentWord::Verified(disk)) = (&self.host.order, word)
            && generation == self.host.reported_generation
            && self.host.own_disk.as_ref() == Some(disk)
        {
            return Ok(());
        }
        let order = self.host.order.as_ref().ok_or(Refusal::NoOpenOrder)?;
        if order.generation != generation {
            return Err(Refusal::WrongGeneration { asked: generation, open: order.generation });
        }
        if !order.is_claimed_by(session) {
            return Err(Refusal::SessionUnknown);
        }
        match word {
            AgentWord::Step(Step::VerifyBody) => self.go(State::Verifying, "reading the body back", "agent"),
            AgentWord::Step(step) => self.go(State::Deploying(*step), step.word(), "agent"),
            AgentWord::Target(disk) => self.host.own_disk = Some(disk.clone()),
            AgentWord::Verified(disk) => self.verified(disk),
            AgentWord::Failed { step, reason } => self.attempt_failed(*step, reason, policy),
        }
        Ok(())
    }

    fn verified(&mut self, disk: &DiskId) {
        self.host.own_disk = Some(disk.clone());
        self.host.reported = self.host.order.take().map(|order| order.image);
        self.host.reported_generation = self.host.generation;
        self.host.built_at = self.now;
        let image = self.host.reported.as_ref().map_or("", |image| image.name.as_str());
        let cause = format!("{image} is on the disk and was read back; order {} closed", self.host.generation);
        self.go(State::Rebooting, cause, "agent");
    }

    fn attempt_failed(&mut self, step: Step, reason: &str, policy: BootPolicy) {
        let attempts = self.host.order.as_ref().map_or(0, |order| order.attempts);
        let blocked = self.host.order.as_ref().and_then(|order| order.blocked.as_ref());
        let last = blocked.map(|why| format!("{reason}; no further attempt, since {why}"));
        // A refusal to choose a disk is a verdict on the machine: a retry sees the same disks (rule 3).
        if let Some(reason) = last {
            self.fail(step, &reason, "agent");
        } else if step == Step::ChooseDisk || attempts >= policy.attempts_max {
            self.fail(step, reason, "agent");
        } else {
            if let Some(order) = &mut self.host.order {
                order.claim = None;
            }
            let cause = format!("attempt {attempts} failed at {}: {reason}", step.word());
            self.go(State::Queued, cause, "agent");
        }
    }

    fn installed(&mut self, image: &str) -> Result<(), Refusal> {
        let Some(reported) = &self.host.reported else {
            return Err(Refusal::OtherImage { desired: "nothing".to_string(), said: image.to_string() });
        };
        if reported.name != image {
            return Err(Refusal::OtherImage { desired: reported.name.clone(), said: image.to_string() });
        }
        if matches!(self.host.state, State::Rebooting | State::Ready { confirmed: false }) {
            self.go(State::Ready { confirmed: true }, format!("the installed system says {image}"), "machine");
        }
        Ok(())
    }
}
