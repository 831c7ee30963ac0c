//! The states of a host, drawn.
//!
//! ```text
//!             approve            order            script served        token claimed
//! Discovered --------> Enrolled ------> Queued -------------> Netbooting ---------> Deploying(step)
//!                         ^               ^  \                    |    ^               |     |
//!                         |               |   \ attempts used up  |    | netboots      |     | body being
//!                release  |       attempt |    v                  |    | again, an     |     | read back
//!                         |       failed, |  Failed <-------------+    | attempt is    v     v
//!                       Held      some    |    ^   \ refused a disk    | left      Verifying
//!                         ^       left    +----|----------------------------------- |  |
//!                         | hold (any state)   +------------------------------------+  | image on disk,
//!                         |                                                            v order closed
//!                       Ready{confirmed} <--- Ready{unconfirmed} <----------------- Rebooting
//!                              word of the             local boot served
//!                              installed system
//! ```
//!
//! - Discovered -> Enrolled: an operator approved the machine; nothing else ever makes a machine ours.
//! - Enrolled, Ready, Failed -> Queued: the brakes admitted what asks for a rebuild, and an order was opened (the
//!   generation went up by one). Of a failed host only a person may ask.
//! - Queued -> Netbooting: a boot script with a fresh one-time token left; the attempt is already counted.
//! - Netbooting -> Deploying: the agent claimed the token.
//! - Deploying -> Verifying: the body is on the disk and is being read back.
//! - Verifying (or Deploying at the survey) -> Rebooting: the disk holds the image; the order is closed.
//! - Rebooting -> Ready unconfirmed: the machine netbooted again and was sent to its disk.
//! - Ready unconfirmed -> confirmed: the installed system said which image it is.
//! - Netbooting, Deploying, Verifying -> Netbooting: the machine came back without a word (power cut); the
//!   order is still open, so it is sent to the agent again: its disk may be blank.
//! - Deploying, Verifying -> Queued: the agent reported a failure and an attempt is left.
//! - any open order -> Failed: attempts used up, or the agent refused every disk (a retry would not help), or the
//!   machine was late and power cycles did not help; Rebooting -> Failed likewise.
//! - Ready -> Ready: its disk is looked at from outside (`super::verify`). That is beside the state: a boot script of its
//!   own is served, the deploy environment only reads, and whatever comes of it the host is as Ready as it was.
//! - any -> Held: a person exempts the host; an open order is closed.
//! - Held, Failed -> Enrolled or Ready: released; Ready when the host still runs what it last reported.

/// Where a host stands. Every change goes through [`super::transition`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Discovered,
    Enrolled,
    Queued,
    Netbooting,
    Deploying(Step),
    Verifying,
    Rebooting,
    Ready { confirmed: bool },
    Failed { step: Step, attempts: u32, reason: String },
    Held { by: String, reason: String, until: Option<u64> },
}

impl State {
    /// Every word of [`State::word`].
    pub const WORDS: [&str; 10] = [
        "discovered",
        "enrolled",
        "queued",
        "netbooting",
        "deploying",
        "verifying",
        "rebooting",
        "ready",
        "failed",
        "held",
    ];

    /// The word for tables and JSON (`state`).
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            State::Discovered => "discovered",
            State::Enrolled => "enrolled",
            State::Queued => "queued",
            State::Netbooting => "netbooting",
            State::Deploying(_) => "deploying",
            State::Verifying => "verifying",
            State::Rebooting => "rebooting",
            State::Ready { .. } => "ready",
            State::Failed { .. } => "failed",
            State::Held { .. } => "held",
        }
    }

    /// What a person wants to know beside the word; empty when there is nothing.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            State::Deploying(step) => step.word().to_string(),
            State::Ready { confirmed: true } => "confirmed".to_string(),
            State::Ready { confirmed: false } => "unconfirmed".to_string(),
            State::Failed { step, attempts, reason } => format!("at {} after {attempts}: {reason}", step.word()),
            State::Held { by, reason, .. } => format!("by {by}: {reason}"),
            _ => String::new(),
        }
    }
}

/// The steps of a deploy, in order. `Netboot` is everything before the agent's first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Netboot,
    CheckIn,
    ChooseDisk,
    Survey,
    ClearHead,
    WriteBody,
    VerifyBody,
    WriteHead,
    BootEntry,
    Reboot,
}

impl Step {
    pub const ALL: [Step; 10] = [
        Step::Netboot,
        Step::CheckIn,
        Step::ChooseDisk,
        Step::Survey,
        Step::ClearHead,
        Step::WriteBody,
        Step::VerifyBody,
        Step::WriteHead,
        Step::BootEntry,
        Step::Reboot,
    ];

    /// The step's name in JSON, history and tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Step::Netboot => "netboot",
            Step::CheckIn => "check_in",
            Step::ChooseDisk => "choose_disk",
            Step::Survey => "survey",
            Step::ClearHead => "clear_head",
            Step::WriteBody => "write_body",
            Step::VerifyBody => "verify_body",
            Step::WriteHead => "write_head",
            Step::BootEntry => "boot_entry",
            Step::Reboot => "reboot",
        }
    }
}
