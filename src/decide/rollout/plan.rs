//! The plan of a rollout: which hosts, in which waves, by which rules. Immutable once it has its number.

use crate::decide::group::Check;
use crate::decide::host::ImageChoice;

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The selector as written, for people.
    pub selector: String,
    pub goal: Goal,
    pub by: String,
    pub reason: String,
    /// Hosts of the first wave; 0: no canary.
    pub canary: u32,
    /// Sizes of the waves after the canary, the last one repeated until all hosts are in.
    pub waves: Vec<WaveSize>,
    /// At most this share of the hosts of one rack (or other value of `spread`) in one wave, in percent; a rack of
    /// few hosts still loses one at a time.
    pub spread_percent: u32,
    /// The label over which waves are spread.
    pub spread: String,
    /// Hosts that may fail before the rollout halts; the next one halts it.
    pub failures_max: u32,
    pub gate: Gate,
}

/// What the hosts shall run afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    Image(ImageChoice),
    /// Each host what it ran before rollout `of`: a rollback.
    Former {
        of: u64,
    },
}

/// How large a wave is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaveSize {
    Hosts(u32),
    /// Of all hosts of the rollout, rounded up, at least one.
    Percent(u32),
}

/// What must hold before the next wave begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Ready counts only when the installed system confirmed it.
    pub confirmed: bool,
    pub check: Option<Check>,
    /// So long must every host of the wave stay healthy.
    pub soak_seconds: u64,
    /// So long may a host that is Ready take until the gate holds for it (confirmed, check passed). Then it counts as
    /// failed: without this, one host that never confirms would hold the rollout for ever.
    pub health_seconds: u64,
}

impl Gate {
    /// Firmware, boot and services of a large server, with room.
    pub const HEALTH_SECONDS: u64 = 20 * 60;
    /// What an operator may ask for instead. Less than a minute leaves no time to ask a second time; whoever waits
    /// for longer than a day waits for something else.
    pub const HEALTH_SECONDS_RANGE: std::ops::RangeInclusive<u64> = 60..=86_400;
}

/// The facts of one host that a plan is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: String,
    pub name: Option<String>,
    /// Value of the spread label; `None` counts as a value of its own.
    pub spread: Option<String>,
    /// What it last said it runs: what a rollback goes back to.
    pub reported: Option<ImageChoice>,
    /// The newest order reached its end, so that `reported` is what is on the disk. A host that failed halfway still
    /// reports its former image and needs the new one all the same.
    pub whole: bool,
    /// Why it is left out (held, protected, not approved, an order is open), if it is.
    pub excluded: Option<String>,
    /// Compressed bytes that it would fetch.
    pub fetch_bytes: u64,
}

/// One host's place in a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    /// As it was called, and where it stood, when the plan was made: for people.
    pub name: Option<String>,
    pub spread: Option<String>,
    /// What it shall run.
    pub image: ImageChoice,
    pub former: Option<ImageChoice>,
    pub fetch_bytes: u64,
}

/// The document. Only its number is given from outside; all else follows from the request and the facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub number: u64,
    pub made_at: u64,
    pub request: Request,
    /// In order; the first one is the canary when there is one.
    pub waves: Vec<Vec<Member>>,
    /// Hosts that the selector matched but that are left out, and why.
    pub excluded: Vec<(String, String)>,
    /// Hosts that run the image already: nothing to do for them. A plan made again after it is done has only these.
    pub done_already: Vec<String>,
}

impl Plan {
    /// Whether there is nothing to do: what planning again says after a rollout is done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waves.is_empty()
    }

    /// All members, in the order in which they are asked.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.waves.iter().flatten()
    }

    #[must_use]
    pub fn fetch_bytes(&self) -> u64 {
        self.members().fold(0, |sum, member| sum.saturating_add(member.fetch_bytes))
    }
}
