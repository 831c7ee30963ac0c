//! The boot decision: what a machine boots, for every way it can ask.
//!
//! DHCP, TFTP names, iPXE scripts and GRUB all come from this one answer, so they cannot disagree (rule 1).
//! The rule behind it: only an open order with an attempt left netboots the agent that writes; where no order is open,
//! somebody's wish to look at the disk from outside netboots the agent that reads; everything else, known or unknown, good
//! or confused, boots its own disk (rule 2).

use super::host::{Host, State, VerifyNumber};
use super::netboot::{FirmwareArch, NetbootClient};

/// What the policy adds to the facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootPolicy {
    /// Boot scripts served under one order before it ends in Failed.
    pub attempts_max: u32,
    /// `regild stop`.
    pub halt: Halt,
}

/// How much `regild stop` stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    Nothing,
    /// Orders that did not begin do not begin. A disk that was begun is finished: half a disk helps nobody.
    NotBegun,
    /// Nothing is written any more.
    Everything,
    /// Of one host: its order must not begin. It came under protection, or its version was blocked, after the order was
    /// opened.
    Barred,
    /// Of one host: no look at its disk may begin, since as many machines as may be are away for an order or a look.
    /// Orders have passed the brakes already.
    LooksFull,
}

/// What to tell a netboot client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootDecision {
    /// No boot file at all, and why.
    Ignore { reason: IgnoreReason },
    /// Firmware with an open order, or a verification: fetch iPXE, which will ask again.
    Chainload { arch: FirmwareArch },
    /// iPXE with an open order: boot the deploy environment.
    BootAgent { generation: u64 },
    /// iPXE of a host that is to be verified: boot the deploy environment, which only reads. No order is open.
    BootVerify { number: VerifyNumber },
    /// Boot the machine's own disk.
    BootLocal { reason: LocalReason },
}

/// Why a client gets no boot file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IgnoreReason {
    /// An installed system or the deploy environment asking for an address only.
    NotNetboot,
    /// UEFI HTTP boot: comes in a later issue. Without an answer the firmware goes on to PXE.
    UefiHttpNotServed,
    /// We have no loader for this architecture (RFC 4578 section 2.1), and a wrong one must not be offered.
    UnknownArchitecture(u16),
    /// The firmware does not say what it is (no option 93): a loader would be a guess.
    NoArchitecture,
}

/// Why a machine boots its own disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalReason {
    UnknownHost,
    NotApproved,
    NoOpenOrder,
    Held,
    AttemptsUsedUp,
    ImageBlocked,
    Stopped,
    Barred,
    LooksFull,
}

impl LocalReason {
    /// One sentence for the machine's console and the log.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            LocalReason::UnknownHost => "this machine is not known yet",
            LocalReason::NotApproved => "this machine is not approved",
            LocalReason::NoOpenOrder => "no order is open for this machine",
            LocalReason::Held => "this machine is held by an operator",
            LocalReason::Barred => "this machine or its image is not to be touched any more",
            LocalReason::LooksFull => "its disk is looked at later: as many machines as may be are away at once",
            LocalReason::Stopped => "everything is stopped by an operator",
            LocalReason::ImageBlocked => "the version of its order is blocked",
            LocalReason::AttemptsUsedUp => "all attempts are used up",
        }
    }
}

/// The one decision (rule 1).
#[must_use]
pub fn boot(client: NetbootClient, host: Option<&Host>, policy: BootPolicy) -> BootDecision {
    let chain = match client {
        NetbootClient::NotNetboot => return BootDecision::Ignore { reason: IgnoreReason::NotNetboot },
        NetbootClient::UefiHttp => return BootDecision::Ignore { reason: IgnoreReason::UefiHttpNotServed },
        NetbootClient::UnknownArch(arch) => {
            return BootDecision::Ignore { reason: IgnoreReason::UnknownArchitecture(arch) };
        }
        NetbootClient::ArchMissing => return BootDecision::Ignore { reason: IgnoreReason::NoArchitecture },
        NetbootClient::Firmware { arch } => Some(arch),
        NetbootClient::Ipxe { .. } => None,
    };
    match (permission(host, policy), chain) {
        (Ok(_), Some(arch)) => BootDecision::Chainload { arch },
        (Ok(generation), None) => BootDecision::BootAgent { generation },
        (Err(reason), chain) => match (verification(host, policy), chain) {
            (Err(none), _) => BootDecision::BootLocal { reason: none.unwrap_or(reason) },
            (Ok(_), Some(arch)) => BootDecision::Chainload { arch },
            (Ok(number), None) => BootDecision::BootVerify { number },
        },
    }
}

/// The verification for which this host's disk may be read now, or where there is one, why not. Beside an order there is
/// none: what the order writes is read back.
fn verification(host: Option<&Host>, policy: BootPolicy) -> Result<VerifyNumber, Option<LocalReason>> {
    let host = host.filter(|host| host.order.is_none() && matches!(host.state, State::Ready { .. })).ok_or(None)?;
    let wish = host.verify.wish.as_ref().ok_or(None)?;
    if wish.attempts >= policy.attempts_max {
        return Err(Some(LocalReason::AttemptsUsedUp));
    }
    match policy.halt {
        Halt::NotBegun | Halt::Everything => Err(Some(LocalReason::Stopped)),
        Halt::Barred => Err(Some(LocalReason::Barred)),
        Halt::LooksFull => Err(Some(LocalReason::LooksFull)),
        Halt::Nothing => Ok(wish.number),
    }
}

/// The generation under which this host may be written now, or why not.
fn permission(host: Option<&Host>, policy: BootPolicy) -> Result<u64, LocalReason> {
    let host = host.ok_or(LocalReason::UnknownHost)?;
    match (&host.state, &host.order) {
        (State::Held { .. }, _) => Err(LocalReason::Held),
        (State::Discovered, _) => Err(LocalReason::NotApproved),
        (_, None) => Err(LocalReason::NoOpenOrder),
        (_, Some(order)) if order.attempts >= policy.attempts_max => Err(LocalReason::AttemptsUsedUp),
        // A record that contradicts itself is a confused machine: local boot.
        (_, Some(order)) if order.generation != host.generation => Err(LocalReason::NoOpenOrder),
        (_, Some(order)) if order.blocked.is_some() => Err(LocalReason::ImageBlocked),
        (_, Some(_)) if policy.halt == Halt::Everything => Err(LocalReason::Stopped),
        (_, Some(order)) if policy.halt == Halt::NotBegun && order.attempts == 0 => Err(LocalReason::Stopped),
        (_, Some(order)) if policy.halt == Halt::Barred && order.attempts == 0 => Err(LocalReason::Barred),
        (_, Some(order)) => Ok(order.generation),
    }
}
