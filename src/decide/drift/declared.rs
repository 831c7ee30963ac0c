//! A drift policy as documents declare it: an object with a name, for groups and hosts that name it and for the images
//! that it names.

use super::classes::Class;
use super::defaults::Family;
use super::finding::Aspects;
use super::policy::{Action, Pattern};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// How many policies a fleet has, and rules a policy, at most.
pub const POLICIES_MAX: usize = 1_000;
pub const RULES_MAX: usize = 1_000;
/// Of a rule that asks for a rebuild and does not say it otherwise: a file that was caught while a person replaced it
/// is put right within the hour, or seen again.
pub const GRACE_SECONDS: u64 = HOUR;
pub const SCANS_MIN: u32 = 3;

/// One `[drift.NAME]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftPolicy {
    /// A word (`labels::is_word`).
    pub name: String,
    /// `NAME` or `NAME:VERSION`: it is for every host that runs one of these, also where neither host nor group name it.
    pub images: Vec<String>,
    /// `None`: those of the image's own distribution.
    pub defaults: Option<Family>,
    pub pace: Pace,
    /// Directories of which the author says that nothing ever writes there: whatever differs asks for a rebuild.
    pub read_only: Vec<Pattern>,
    pub rules: Vec<Declared>,
}

/// How often a host is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks at all metadata.
    pub scan_seconds: u64,
    /// Within which every byte is read once.
    pub cycle_seconds: u64,
    /// Between two reports when nothing changes.
    pub report_seconds: u64,
    /// A look from outside, at a netboot, at least so often. `None`: only when somebody asks.
    pub verify_every_seconds: Option<u64>,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { scan_seconds: 15 * MINUTE, cycle_seconds: DAY, report_seconds: HOUR, verify_every_seconds: None }
    }
}

/// One rule as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    pub what: What,
    /// Of a class, of its own ways to differ only these.
    pub aspects: Aspects,
    pub action: Action,
    pub content: bool,
    pub why: String,
    /// Unix seconds.
    pub until: Option<u64>,
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Path(Pattern),
    Class(&'static Class),
}

impl What {
    /// Which ways to differ a rule means that names none: those of its class, or those of the action.
    #[must_use]
    pub fn aspects_unnamed(&self, action: Action) -> Aspects {
        match self {
            What::Path(_) => action.aspects_unnamed(),
            What::Class(_) => Aspects::ALL,
        }
    }
}

impl DriftPolicy {
    #[must_use]
    pub fn new(name: &str) -> DriftPolicy {
        DriftPolicy {
            name: name.to_string(),
            images: Vec::new(),
            defaults: None,
            pace: Pace::default(),
            read_only: Vec::new(),
            rules: Vec::new(),
        }
    }

    /// How closely it means an image: 2 a version, 1 all versions of a name, 0 not at all.
    #[must_use]
    pub fn closeness(&self, image: &str) -> u8 {
        let name = image.split_once(':').map_or(image, |(name, _)| name);
        let of = |wanted: &String| match wanted.as_str() {
            exact if exact == image => 2,
            all if all == name => 1,
            _ => 0,
        };
        self.images.iter().map(of).max().unwrap_or(0)
    }
}

impl Declared {
    /// Hides something for good: `drift accept` can do the same only for a while.
    fn hides_for_good(&self) -> bool {
        self.action == Action::Allow && self.until.is_none()
    }

    /// Whether it is one that a second person should look at and that `old` does not have.
    #[must_use]
    pub fn loosens(&self, old: &[Declared]) -> bool {
        (self.hides_for_good() || self.content) && !old.contains(self)
    }
}

/// The keys by which hosts would be watched less closely under `new` than under `old` (`None`: no policy, the defaults
/// alone), so that a second person should look at it, as at a brake that holds less:
///
/// - `rule`: one that allows something for good, since one person can do that alone only for a while (`drift accept`);
///   one that reports or asks for a rebuild goes away, or comes to stand elsewhere; content may leave the host;
/// - `read_only`, `defaults`, `scan`, `cycle`, `report`, `verify_every`: a place is open again, others' defaults hold,
///   looks are rarer;
/// - `images`: hosts come or go while the policy allows something for good.
///
/// A rule that allows something until a day is none of these: it ends by itself, as an exception does.
#[must_use]
pub fn loosened(old: Option<&DriftPolicy>, new: Option<&DriftPolicy>) -> Vec<&'static str> {
    let nothing = DriftPolicy::new("");
    let (old, new) = (old.unwrap_or(&nothing), new.unwrap_or(&nothing));
    let (was, is) = (&old.pace, &new.pace);
    let rarer = |was: Option<u64>, is: Option<u64>| was.is_some_and(|was| is.is_none_or(|is| is > was));
    let any_for_good = || new.rules.iter().chain(&old.rules).any(Declared::hides_for_good);
    let found = [
        ("rule", rules_loosened(&old.rules, &new.rules)),
        ("read_only", old.read_only.iter().any(|place| !new.read_only.contains(place))),
        ("defaults", old.defaults != new.defaults && new.defaults != Some(Family::None)),
        ("images", old.images != new.images && any_for_good()),
        ("scan", is.scan_seconds > was.scan_seconds),
        ("cycle", is.cycle_seconds > was.cycle_seconds),
        ("report", is.report_seconds > was.report_seconds),
        ("verify_every", rarer(was.verify_every_seconds, is.verify_every_seconds)),
    ];
    found.into_iter().filter(|(_, holds_less)| *holds_less).map(|(key, _)| key).collect()
}

fn rules_loosened(old: &[Declared], new: &[Declared]) -> bool {
    let holds = |rule: &&Declared| rule.action != Action::Allow;
    let mut gone = old.iter().filter(|rule| !new.contains(rule));
    if new.iter().any(|rule| rule.loosens(old)) || gone.any(|rule| holds(&rule)) {
        return true;
    }
    // The first rule that matches decides, so of those that stay the order must stay.
    let stay_before = old.iter().filter(|rule| new.contains(rule));
    let stay_after = new.iter().filter(|rule| old.contains(rule));
    old.iter().any(|rule| holds(&rule)) && !stay_before.eq(stay_after)
}
