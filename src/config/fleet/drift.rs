//! `[drift.NAME]`: drift policies as written, checked, and written again. What they mean stands in
//! `decide::drift::declared`, how to write one in docs/drift-policy.md.

use super::check::Wrong;
use super::words::{DAY, HOUR, MINUTE, Span, Text};
use crate::decide::drift::classes::{self, CLASSES, Class};
use crate::decide::drift::declared::{self, Declared, DriftPolicy, GRACE_SECONDS, Pace, RULES_MAX, SCANS_MIN, What};
use crate::decide::drift::defaults::Family;
use crate::decide::drift::finding::Aspect;
use crate::decide::drift::path;
use crate::decide::drift::policy::{self, Action, Pattern};
use crate::wire::reference::ImageRef;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const IMAGES_MAX: usize = 100;
const READ_ONLY_MAX: usize = 100;
const WHY_BYTES_MAX: usize = 512;
/// A finding that was seen in more scans than a year has quarters of an hour is no question of scans any more.
const SCANS_CEILING: u32 = 35_000;

/// One policy. A policy that is written is written whole: what it leaves out has its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drift {
    /// `NAME` or `NAME:VERSION`: it is for hosts that run one of these, also where neither group nor host name it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Text<ImageName>>,
    /// debian, ubuntu, rhel, other, none, or auto: by the image's os-release.
    pub defaults: Text<Defaults>,
    /// Between two looks at all metadata.
    pub scan: Text<Span<MINUTE, DAY>>,
    /// Within which every byte is read once.
    pub cycle: Text<Span<HOUR, { 30 * DAY }>>,
    /// Between two reports when nothing changes.
    pub report: Text<Span<MINUTE, { 7 * DAY }>>,
    /// A look from outside, at a netboot, at least so often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_every: Option<Text<Span<DAY, { 3_650 * DAY }>>>,
    /// Directories in which nothing but a rebuild writes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read_only: Vec<Text<Place>>,
    /// The first one that matches decides.
    #[serde(rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// `path` or `class` says what it is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Text<PathPattern>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Text<ClassName>>,
    /// Ways to differ; left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differs: Option<Vec<Text<Differs>>>,
    pub action: Does,
    /// Only of a rebuild: how long it must have been there, and in how many scans it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Text<Span<0, { 30 * DAY }>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scans: Option<u32>,
    /// Content of small text files may leave the host, for `drift show` and `drift export`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub content: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Text<Moment>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Does {
    Allow,
    Report,
    Rebuild,
}

impl Default for Drift {
    fn default() -> Self {
        Drift::from(&DriftPolicy::new(""))
    }
}

/// An image, or all versions of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName(pub String);

impl FromStr for ImageName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Any version makes a name a reference.
        let whole = if text.contains(':') { text.to_string() } else { format!("{text}:0") };
        let reference: Result<ImageRef, _> = whole.parse();
        reference.map(|_| ImageName(text.to_string())).map_err(|error| error.to_string())
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `None`: auto.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults(pub Option<Family>);

impl FromStr for Defaults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Defaults(None));
        }
        let words = Family::ALL.map(Family::word).join(", ");
        let unknown = || format!("{text:?} has no defaults; there are auto, {words}");
        Family::from_word(text).map(|family| Defaults(Some(family))).ok_or_else(unknown)
    }
}

impl fmt::Display for Defaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.map_or("auto", Family::word))
    }
}

/// A path with wildcards, in the form of [`path::to_text`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern(pub Pattern);

impl FromStr for PathPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let quoted = || text.chars().take(80).collect::<String>();
        let bytes = path::from_text(text).ok_or_else(|| {
            format!("{:?} is no path: a backslash is written \\\\ and any other byte \\xNN", quoted())
        })?;
        Pattern::new(&bytes)
            .map(PathPattern)
            .map_err(|error| format!("{:?} is no path pattern: {}", quoted(), error.sentence()))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&path::to_text(self.0.bytes()))
    }
}

/// A directory, without wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(pub Pattern);

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let PathPattern(pattern) = text.parse()?;
        let is_wild = pattern.bytes().iter().any(|byte| b"*?".contains(byte));
        // Room for the `/**` that it becomes.
        if is_wild || pattern.bytes().len() + 3 > policy::PATTERN_BYTES_MAX {
            return Err(format!("{text:?} must be a directory such as /usr, without wildcards"));
        }
        Ok(Place(pattern))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&path::to_text(self.0.bytes()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassName(pub &'static Class);

impl FromStr for ClassName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || CLASSES.iter().map(|class| class.name).collect::<Vec<_>>().join(", ");
        let quoted: String = text.chars().take(80).collect();
        classes::class(text).map(ClassName).ok_or_else(|| format!("{quoted:?} is no class; there are {}", names()))
    }
}

impl fmt::Display for ClassName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Differs(pub Aspect);

impl FromStr for Differs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = Aspect::ALL.map(Aspect::word).join(", ");
        let quoted: String = text.chars().take(80).collect();
        Aspect::from_word(text).map(Differs).ok_or_else(|| format!("{quoted:?} is no way to differ; there are {words}"))
    }
}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.word())
    }
}

/// A point in time: a day (its start, UTC), or to the second. Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub u64);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let quoted: String = text.chars().take(40).collect();
        let day = text.parse::<jiff::civil::Date>().ok().filter(|day| day.to_string() == text);
        let start = day.and_then(|day| day.to_zoned(jiff::tz::TimeZone::UTC).ok()).map(|start| start.timestamp());
        let time = start.or_else(|| text.parse::<jiff::Timestamp>().ok());
        let seconds = time.and_then(|time| u64::try_from(time.as_second()).ok());
        seconds.map(Moment).ok_or_else(|| {
            format!("{quoted:?} is no time; write a day like 2027-03-01 (its start, UTC) or 2027-03-01T12:00:00Z")
        })
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
        if self.0.is_multiple_of(DAY) {
            return write!(f, "{}", time.to_zoned(jiff::tz::TimeZone::UTC).date());
        }
        write!(f, "{time}")
    }
}

fn wrong<T>(key: impl Into<String>, message: impl Into<String>) -> Result<T, Wrong> {
    Err((key.into(), message.into()))
}

/// # Errors
/// [`Wrong`]: the first key that cannot stand.
pub fn check(name: &str, written: Drift) -> Result<DriftPolicy, Wrong> {
    let Drift { images, defaults, scan, cycle, report, verify_every, read_only, rules } = written;
    for (key, count, most) in [
        ("images", images.len(), IMAGES_MAX),
        ("read_only", read_only.len(), READ_ONLY_MAX),
        ("rule", rules.len(), RULES_MAX),
    ] {
        if count > most {
            return wrong(key, format!("has {count} entries, at most {most}: write fewer, with wildcards or classes"));
        }
    }
    let pace = Pace {
        scan_seconds: scan.0.0,
        cycle_seconds: cycle.0.0,
        report_seconds: report.0.0,
        verify_every_seconds: verify_every.map(|span| span.0.0),
    };
    if pace.cycle_seconds < pace.scan_seconds {
        return wrong("cycle", "is shorter than scan: every byte cannot be read more often than a scan begins");
    }
    let rule = |(at, rule): (usize, Rule)| {
        checked_rule(rule).map_err(|(key, message)| (format!("rule[{}].{key}", at + 1), message))
    };
    Ok(DriftPolicy {
        name: name.to_string(),
        images: images.into_iter().map(|image| image.0.0).collect(),
        defaults: defaults.0.0,
        pace,
        read_only: read_only.into_iter().map(|place| place.0.0).collect(),
        rules: rules.into_iter().enumerate().map(rule).collect::<Result<_, _>>()?,
    })
}

fn checked_rule(written: Rule) -> Result<Declared, Wrong> {
    let Rule { path, class, differs, action, grace, scans, content, why, until } = written;
    let what = match (path, class) {
        (Some(path), None) => What::Path(path.0.0),
        (None, Some(class)) => What::Class(class.0.0),
        (None, None) => return wrong("path", "is missing: a rule is about a path or a class"),
        (Some(_), Some(_)) => return wrong("class", "a rule is about a path or a class: make two rules of it"),
    };
    if differs.as_ref().is_some_and(Vec::is_empty) {
        return wrong("differs", "names no way to differ; leave it out to mean all of them");
    }
    if action != Does::Rebuild && (grace.is_some() || scans.is_some()) {
        return wrong(if grace.is_some() { "grace" } else { "scans" }, "only a rule with action = \"rebuild\" waits");
    }
    if let Some(scans) = scans
        && !(1..=SCANS_CEILING).contains(&scans)
    {
        return wrong("scans", format!("must be 1 to {SCANS_CEILING}"));
    }
    if why.len() > WHY_BYTES_MAX || why.chars().any(char::is_control) {
        return wrong("why", format!("must be one line of at most {WHY_BYTES_MAX} bytes"));
    }
    if action == Does::Allow && why.trim().is_empty() && matches!(what, What::Path(_)) {
        return wrong("why", "is missing: say why this may differ, for whoever reads `drift explain`");
    }
    let action = match action {
        Does::Allow => Action::Allow,
        Does::Report => Action::Report,
        Does::Rebuild => Action::Rebuild {
            grace_seconds: grace.map_or(GRACE_SECONDS, |grace| grace.0.0),
            scans_min: scans.unwrap_or(SCANS_MIN),
        },
    };
    let named = differs.map(|words| words.into_iter().map(|word| word.0.0).collect());
    let aspects = named.unwrap_or_else(|| what.aspects_unnamed(action));
    Ok(Declared { what, aspects, action, content, why, until: until.map(|until| until.0.0) })
}

impl From<&DriftPolicy> for Drift {
    fn from(policy: &DriftPolicy) -> Self {
        let DriftPolicy { name: _, images, defaults, pace, read_only, rules } = policy;
        let Pace { scan_seconds, cycle_seconds, report_seconds, verify_every_seconds } = *pace;
        Drift {
            images: images.iter().map(|image| Text(ImageName(image.clone()))).collect(),
            defaults: Text(Defaults(*defaults)),
            scan: Text(Span(scan_seconds)),
            cycle: Text(Span(cycle_seconds)),
            report: Text(Span(report_seconds)),
            verify_every: verify_every_seconds.map(|seconds| Text(Span(seconds))),
            read_only: read_only.iter().map(|place| Text(Place(place.clone()))).collect(),
            rules: rules.iter().map(Rule::from).collect(),
        }
    }
}

impl From<&Declared> for Rule {
    fn from(rule: &Declared) -> Self {
        let declared::Declared { what, aspects, action, content, why, until } = rule;
        let is_unnamed = *aspects == what.aspects_unnamed(*action);
        let (path, class) = match what {
            What::Path(pattern) => (Some(Text(PathPattern(pattern.clone()))), None),
            What::Class(class) => (None, Some(Text(ClassName(class)))),
        };
        let (action, grace, scans) = match *action {
            Action::Allow => (Does::Allow, None, None),
            Action::Report => (Does::Report, None, None),
            Action::Rebuild { grace_seconds, scans_min } => {
                (Does::Rebuild, Some(Text(Span(grace_seconds))), Some(scans_min))
            }
        };
        Rule {
            path,
            class,
            differs: (!is_unnamed).then(|| aspects.iter().map(|aspect| Text(Differs(aspect))).collect()),
            action,
            grace,
            scans,
            content: *content,
            why: why.clone(),
            until: until.map(|until| Text(Moment(until))),
        }
    }
}

#[cfg(test)]
mod tests;
