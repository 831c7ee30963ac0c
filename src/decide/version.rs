//! The life of one image version: what it may be given to, what moves it on, and when its data may go.
//!
//! ```text
//!               activate                deprecate
//!   Preview  ------------->  Active  -------------->  Deprecated        block: from anywhere
//!      ^                      |  ^                       |              +----------> Blocked
//!      +----------------------+  +-----------------------+
//!        preview (used by         activate (also from Blocked and Retired)
//!        named hosts at most)
//!                                       retire: from anywhere but under a channel or a rollout that runs
//!                                       +----------> Retired ---------> collected
//!                                                       nobody uses it; for good
//! ```
//!
//! - **Preview**: only what a person gives to hosts that he names, one by one: for trying a version out. No channel points to
//!   it, no rollout and no selector takes it, so it cannot become many hosts' by one word.
//! - **Active**: any use.
//! - **Deprecated**: no host gets it that does not have it. Hosts on it are stale and ask for what their group should run.
//! - **Blocked**: no order at all, also not for hosts that run it.
//! - **Retired**: as blocked, and its data is collected once no host runs it, wants it or may go back to it.
//!
//! Collected is not a stage: the version is no longer there. Its name and content digest are kept, and only the same content
//! may ever be imported under that name.

use std::collections::BTreeMap;
use std::fmt;

/// Where a version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Preview,
    Active,
    Deprecated,
    Blocked,
    Retired,
}

impl Stage {
    pub const ALL: [Stage; 5] = [Stage::Preview, Stage::Active, Stage::Deprecated, Stage::Blocked, Stage::Retired];

    /// The word in JSON and tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Stage::Preview => "preview",
            Stage::Active => "active",
            Stage::Deprecated => "deprecated",
            Stage::Blocked => "blocked",
            Stage::Retired => "retired",
        }
    }

    #[must_use]
    pub fn named(word: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.word() == word)
    }
}

/// One thing that keeps a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// The host said that it runs it.
    Reported {
        host: String,
    },
    /// The host should run it.
    Desired {
        host: String,
    },
    /// A cause that waits asks for it.
    Asked {
        host: String,
    },
    /// An order for it is open.
    Ordered {
        host: String,
    },
    /// A rollout that is not over gives it to the host, or took the host off it.
    RollingOut {
        host: String,
        rollout: u64,
    },
    /// `rollout undo` would give it to the host.
    WayBack {
        host: String,
        rollout: u64,
    },
    Channel {
        channel: String,
    },
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Use::Reported { host } => write!(f, "{host} runs it"),
            Use::Desired { host } => write!(f, "{host} should run it"),
            Use::Asked { host } => write!(f, "a rebuild of {host} with it waits"),
            Use::Ordered { host } => write!(f, "{host} has an open order for it"),
            Use::RollingOut { host, rollout } => write!(f, "{host} is in rollout {rollout} with it"),
            Use::WayBack { host, rollout } => write!(f, "{host} would go back to it if rollout {rollout} were undone"),
            Use::Channel { channel } => write!(f, "{channel} points to it"),
        }
    }
}

/// Sentences of a refusal that are shown; a version may have thousands of hosts.
const SHOWN_MAX: usize = 20;

/// What is asked of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    To(Stage),
    /// Retire, and only if nobody uses it.
    Remove,
}

/// Why a version does not move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is used, and by what; the first of them, and how many there are.
    Used { uses: Vec<Use>, count: usize },
    /// Only an active version becomes a preview.
    NotActive { stage: Stage },
    /// A channel points to it, or a rollout goes on with it: others would get it by them.
    Public { uses: Vec<Use> },
    /// It is being collected.
    Collected,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Used { uses, count } => {
                write!(f, "it is in use: {}", sentences(uses))?;
                if *count > uses.len() {
                    write!(f, "; and {} more", count - uses.len())?;
                }
                write!(f, ". `image retire` gives it to nobody any more, and it goes once the last of them is gone")
            }
            Refusal::NotActive { stage } => {
                write!(f, "it is {}; only an active version becomes a preview (`image activate`)", stage.word())
            }
            Refusal::Public { uses } => {
                write!(f, "{}; move the channel, or end the rollout, first", sentences(uses))
            }
            Refusal::Collected => {
                write!(f, "its data is being collected; import the same content again to have it back")
            }
        }
    }
}

fn sentences(uses: &[Use]) -> String {
    uses.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Moves a version on. `is_collected`: a collection of its data has begun.
///
/// # Errors
/// [`Refusal`].
pub fn step(from: Stage, word: Word, is_collected: bool, uses: &[Use]) -> Result<Stage, Refusal> {
    if is_collected {
        return if word == Word::Remove || word == Word::To(Stage::Retired) {
            Ok(from)
        } else {
            Err(Refusal::Collected)
        };
    }
    let to = match word {
        Word::Remove if uses.is_empty() => Stage::Retired,
        Word::Remove => {
            let first = uses.iter().take(SHOWN_MAX).cloned().collect();
            return Err(Refusal::Used { uses: first, count: uses.len() });
        }
        Word::To(stage) => stage,
    };
    if to == Stage::Preview && !matches!(from, Stage::Active | Stage::Preview) {
        return Err(Refusal::NotActive { stage: from });
    }
    if matches!(to, Stage::Preview | Stage::Retired) {
        let is_public = |one: &&Use| matches!(one, Use::Channel { .. } | Use::RollingOut { .. });
        let public: Vec<Use> = uses.iter().filter(is_public).take(SHOWN_MAX).cloned().collect();
        if !public.is_empty() {
            return Err(Refusal::Public { uses: public });
        }
    }
    Ok(to)
}

/// To whom a version is to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Hosts that a person names one by one; whether all of them have it already.
    NamedHosts { have_it: bool },
    /// A selector, a rollout, a channel: whoever it may concern.
    Many,
    /// Back to what hosts ran before.
    Undo,
}

/// Why a version is not given to somebody.
#[must_use]
pub fn refuses(stage: Stage, asker: Asker) -> Option<&'static str> {
    match (stage, asker) {
        (Stage::Active, _) | (Stage::Preview, Asker::NamedHosts { .. } | Asker::Undo) => None,
        (Stage::Preview, Asker::Many) => {
            Some("is a preview: give it to hosts by name, or `image activate` it for channels, rollouts and selectors")
        }
        // A host that has it may be rebuilt with it, until its group offers something better.
        (Stage::Deprecated, Asker::NamedHosts { have_it: true } | Asker::Undo) => None,
        (Stage::Deprecated, _) => Some("is deprecated: no host gets it that does not have it; choose another version"),
        (Stage::Blocked, _) => Some("is blocked; choose another version"),
        (Stage::Retired, _) => Some("is retired, and its data goes; choose another version, or `image activate` it"),
    }
}

/// How long versions stay that nobody uses. A version stays when one of these says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// The newest so many of each name.
    pub keep_newest: Option<u32>,
    pub keep_younger_than_seconds: Option<u64>,
}

/// One version, for the decision what goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub name: String,
    pub version: String,
    pub imported_at: u64,
    pub stage: Stage,
    /// A use, if there is one, and how many there are.
    pub used: Option<(Use, usize)>,
}

/// What is to become of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Stays(String),
    Goes(String),
}

/// For each version, in the given order, whether it goes.
#[must_use]
pub fn fates(versions: &[Version], retention: Retention, now: u64) -> Vec<Fate> {
    let ranks = ranks(versions);
    versions.iter().zip(ranks).map(|(version, rank)| fate(version, rank, retention, now)).collect()
}

fn fate(version: &Version, rank: u32, retention: Retention, now: u64) -> Fate {
    if let Some((first, count)) = &version.used {
        let more = if *count > 1 { format!("; {} more uses", count - 1) } else { String::new() };
        return Fate::Stays(format!("{first}{more}"));
    }
    match version.stage {
        Stage::Retired => return Fate::Goes("it is retired, and nobody uses it".to_string()),
        // Somebody had a reason to forbid it, and wants to look at it.
        Stage::Blocked => return Fate::Stays("it is blocked; `image remove` lets it go".to_string()),
        Stage::Preview | Stage::Active | Stage::Deprecated => {}
    }
    if retention.keep_newest.is_none() && retention.keep_younger_than_seconds.is_none() {
        return Fate::Stays("there is no retention policy; `image remove` lets it go".to_string());
    }
    if let Some(newest) = retention.keep_newest.filter(|newest| rank < *newest) {
        return Fate::Stays(format!("it is one of the newest {newest} of {}", version.name));
    }
    let age = now.saturating_sub(version.imported_at);
    if retention.keep_younger_than_seconds.is_some_and(|seconds| age < seconds) {
        return Fate::Stays(format!("it was imported {} ago", crate::decide::span::span(age)));
    }
    Fate::Goes("nobody uses it, and the retention policy does not keep it".to_string())
}

/// How many newer versions of its name there are; a clock that stood still counts by version name.
fn ranks(versions: &[Version]) -> Vec<u32> {
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, version) in versions.iter().enumerate() {
        // One that is blocked or retired is not what people mean by the newest.
        if !matches!(version.stage, Stage::Blocked | Stage::Retired) {
            by_name.entry(&version.name).or_default().push(at);
        }
    }
    let mut ranks = vec![u32::MAX; versions.len()];
    for places in by_name.values_mut() {
        places.sort_by_key(|at| {
            let version = &versions[*at];
            (std::cmp::Reverse(version.imported_at), std::cmp::Reverse(&version.version))
        });
        for (rank, at) in (0..).zip(places.iter()) {
            ranks[*at] = rank;
        }
    }
    ranks
}

#[cfg(test)]
mod tests;
