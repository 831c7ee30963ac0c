//! The drift policy: what may differ from the image, why, and until when; and of the rest, what asks for a rebuild.
//!
//! Rules are looked through from the first to the last, and for each aspect of a difference the first rule that matches
//! decides. What no rule matches is reported. The list is put together by the server, the nearest first: exceptions
//! (`drift accept`), the host's policy, the group's, the image's, the defaults of the image's distribution.

use super::finding::{Aspect, Aspects};

/// One rule. Where it came from (`from`) and what it is for (`why`) go with it: `drift explain` says both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub pattern: Pattern,
    /// The aspects that it decides; of others it says nothing.
    pub aspects: Aspects,
    pub action: Action,
    /// Content of small text files that this rule is about may leave the host, for `drift show`.
    pub content: bool,
    pub why: String,
    /// Unix seconds from which on it no longer holds.
    pub until: Option<u64>,
    /// `exception 7`, `policy web, rule 3`, `defaults of debian`.
    pub from: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// May be so.
    Allow,
    Report,
    /// Asks for a rebuild once it was there for so long and was seen in so many scans.
    Rebuild {
        grace_seconds: u64,
        scans_min: u32,
    },
}

impl Action {
    /// Which ways to differ a rule means that names none. Whoever allows `/home/**` hardly means set-uid programs in it.
    #[must_use]
    pub fn aspects_unnamed(self) -> Aspects {
        match self {
            Action::Allow => Aspects::ALL_BUT_PRIVILEGE,
            Action::Report | Action::Rebuild { .. } => Aspects::ALL,
        }
    }
}

/// A path with wildcards: `*` is any run of bytes but `/`, `?` one such byte, `**` as a whole component any number of
/// components. A pattern that ends in `/**` is the directory itself and all that is in it. Absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<u8>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternError {
    NotAbsolute,
    TooLong,
    /// `..`, `.`, an empty component or NUL in it: no path ever matches.
    NoPath,
}

impl PatternError {
    /// What to do about it.
    #[must_use]
    pub fn sentence(&self) -> &'static str {
        match self {
            PatternError::NotAbsolute => "it must begin with /",
            PatternError::TooLong => "it is longer than 4096 bytes",
            PatternError::NoPath => "it has an empty part, `.` or `..` in it, which no path has",
        }
    }
}

pub const PATTERN_BYTES_MAX: usize = 4096;

impl Pattern {
    /// # Errors
    /// [`PatternError`].
    pub fn new(text: &[u8]) -> Result<Pattern, PatternError> {
        if text.first() != Some(&b'/') {
            return Err(PatternError::NotAbsolute);
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        let inner = text.strip_prefix(b"/").unwrap_or(text);
        let is_path = inner.is_empty()
            || inner.split(|byte| *byte == b'/').all(|part| !part.is_empty() && part != b"." && part != b"..");
        if !is_path || text.contains(&0) {
            return Err(PatternError::NoPath);
        }
        Ok(Pattern(text.to_vec()))
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        // Most patterns and paths part within a few bytes, and a policy may have thousands of rules.
        if !path.starts_with(self.literal()) {
            return false;
        }
        match self.0.strip_suffix(b"/**") {
            Some([]) => true,
            Some(top) => {
                let parts = path.iter().enumerate().filter(|(at, byte)| **byte == b'/' && *at > 0).map(|(at, _)| at);
                parts.chain([path.len()]).any(|end| matches_components(top, &path[..end]))
            }
            None => matches_components(&self.0, path),
        }
    }

    /// What every path that matches begins with.
    fn literal(&self) -> &[u8] {
        let top = self.0.strip_suffix(b"/**").unwrap_or(&self.0);
        let end = top.iter().position(|byte| matches!(byte, b'*' | b'?')).unwrap_or(top.len());
        // `**` may stand for no component at all, and then there is no slash before it.
        let end = if top[end..].starts_with(b"**") { end.saturating_sub(1) } else { end };
        &top[..end]
    }

    /// `/**`, `/usr/**`, `/*/**`: with one of these one person would blind the fleet. Two names before the first wildcard
    /// say that somebody knows what he means.
    #[must_use]
    pub fn takes_in_a_tree(&self) -> bool {
        let is_name = |part: &&[u8]| !part.contains(&b'*') && !part.contains(&b'?');
        let names = self.0.split(|byte| *byte == b'/').skip(1).take_while(is_name).count();
        names < 2 && self.0.windows(2).any(|pair| pair == b"**")
    }

    /// Whether everything under `directory` matches, whatever its name.
    #[must_use]
    pub fn covers(&self, directory: &[u8]) -> bool {
        self.0.ends_with(b"/**") && self.matches(directory)
    }
}

/// At the first place where a pattern has a wildcard or another byte than a path.
fn is_other((own, _): (&u8, &u8)) -> bool {
    !matches!(own, b'*' | b'?')
}

fn matches_components(pattern: &[u8], path: &[u8]) -> bool {
    let pattern: Vec<&[u8]> = pattern.split(|byte| *byte == b'/').collect();
    let path: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    run(
        &pattern,
        &path,
        |part| part == b"**",
        |part, name| run(part, name, |c| *c == b'*', |c, b| *c == b'?' || c == b),
    )
}

/// Wildcard matching with one way back (the last star), so that no pattern takes more than length times length.
fn run<P, T>(pattern: &[P], text: &[T], is_star: impl Fn(&P) -> bool, is_like: impl Fn(&P, &T) -> bool) -> bool {
    let (mut at, mut on) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while on < text.len() {
        if pattern.get(at).is_some_and(&is_star) {
            back = Some((at, on));
            at += 1;
        } else if pattern.get(at).is_some_and(|part| is_like(part, &text[on])) {
            at += 1;
            on += 1;
        } else if let Some((star, from)) = back {
            at = star + 1;
            on = from + 1;
            back = Some((star, on));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(is_star)
}

/// What decided, for each aspect. `None`: no rule matched, so it is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling<'r> {
    pub decided: Vec<(Aspect, Option<&'r Rule>)>,
}

impl Ruling<'_> {
    /// The aspects that are not allowed: these make a finding.
    #[must_use]
    pub fn left(&self) -> Aspects {
        let left = self.decided.iter().filter(|(_, rule)| rule.is_none_or(|rule| rule.action != Action::Allow));
        left.map(|(aspect, _)| *aspect).collect()
    }

    /// Whether content of this path may leave the host.
    #[must_use]
    pub fn content(&self) -> bool {
        self.decided.iter().any(|(_, rule)| rule.is_some_and(|rule| rule.content))
    }
}

/// Which rule decides what of a difference at `path`, now.
#[must_use]
pub fn rule<'r>(rules: &'r [Rule], path: &[u8], aspects: Aspects, now: u64) -> Ruling<'r> {
    let holds = |rule: &&Rule| rule.until.is_none_or(|until| now < until) && rule.pattern.matches(path);
    let matching: Vec<&Rule> = rules.iter().filter(holds).collect();
    let decide = |aspect| matching.iter().find(|rule| rule.aspects.has(aspect)).copied();
    Ruling { decided: aspects.iter().map(|aspect| (aspect, decide(aspect))).collect() }
}

/// What a scan need not look at in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut<'r> {
    /// The one that allows the last of it.
    pub rule: &'r Rule,
    /// All but what has a privilege. Otherwise everything.
    pub but_privilege: bool,
}

/// Whether a scan need not look at what lies in this directory, since rules allow everything in it (but privileges),
/// and none before them could say otherwise of anything in it.
#[must_use]
pub fn leaves_out<'r>(rules: &'r [Rule], directory: &[u8], now: u64) -> Option<LeftOut<'r>> {
    let (mut allowed, mut barred) = (Aspects::NONE, Aspects::NONE);
    let mut but_privilege = None;
    for rule in rules.iter().filter(|rule| rule.until.is_none_or(|until| now < until)) {
        if rule.action != Action::Allow {
            let said = rule.aspects.without(allowed);
            if !said.is_empty() && may_match_under(&rule.pattern, directory) {
                barred = barred.or(said);
            }
            if !barred.and(Aspects::ALL_BUT_PRIVILEGE).is_empty() {
                return None;
            }
        } else if rule.pattern.covers(directory) {
            allowed = allowed.or(rule.aspects.without(barred));
            if allowed == Aspects::ALL {
                return Some(LeftOut { rule, but_privilege: false });
            }
            if Aspects::ALL_BUT_PRIVILEGE.without(allowed).is_empty() {
                but_privilege = but_privilege.or(Some(LeftOut { rule, but_privilege: true }));
            }
        }
    }
    but_privilege
}

/// Whether the pattern could match something in the directory; yes when in doubt.
fn may_match_under(pattern: &Pattern, directory: &[u8]) -> bool {
    let inside = pattern.0.iter().zip(directory).find(|(own, byte)| matches!(**own, b'*' | b'?') || own != byte);
    if inside.is_some_and(is_other) {
        return false;
    }
    let parts: Vec<&[u8]> = pattern.0.split(|byte| *byte == b'/').collect();
    let names: Vec<&[u8]> = directory.split(|byte| *byte == b'/').collect();
    for (at, name) in names.iter().enumerate() {
        match parts.get(at) {
            Some(part) if *part == b"**" => return true,
            Some(part) if run(part, name, |c| *c == b'*', |c, b| *c == b'?' || c == b) => {}
            _ => return false,
        }
    }
    parts.len() > names.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text.as_bytes()).unwrap()
    }

    fn allow(text: &str, aspects: Aspects) -> Rule {
        let (why, from) = (String::new(), text.to_string());
        Rule { pattern: pattern(text), aspects, action: Action::Allow, content: false, why, until: None, from }
    }

    #[test]
    fn a_pattern_matches_what_it_says() {
        for (text, path, matches) in [
            ("/etc/passwd", "/etc/passwd", true),
            ("/etc/passwd", "/etc/passwd-", false),
            ("/etc/ssh/*_key*", "/etc/ssh/ssh_host_rsa_key.pub", true),
            ("/etc/ssh/*_key*", "/etc/ssh/x/a_key", false),
            ("/var/log/**", "/var/log", true),
            ("/var/log/**", "/var/log/a/b", true),
            ("/var/log/**", "/var/logs", false),
            ("/**", "/", true),
            ("/**/__pycache__/**", "/usr/lib/python3/__pycache__/x.pyc", true),
            ("/**/__pycache__/**", "/usr/lib/python3/x.pyc", false),
            ("/usr/**/**", "/usr", true),
            ("/usr/**/*.pyc", "/usr/a.pyc", true),
            ("/usr/**/*.pyc", "/usr/a/b/c.pyc", true),
            ("/run/user/?", "/run/user/0", true),
        ] {
            assert_eq!(pattern(text).matches(path.as_bytes()), matches, "{text} {path}");
        }
        assert_eq!(Pattern::new(b"etc"), Err(PatternError::NotAbsolute));
        assert_eq!(Pattern::new(b"/etc/../x"), Err(PatternError::NoPath));
    }

    /// faults.md, rule 9: a policy comes from a document; no pattern may take the agent's processor for good.
    #[test]
    fn a_pattern_of_stars_ends() {
        let stars = pattern(&format!("/{}b", "*a".repeat(500)));
        assert!(!stars.matches(format!("/{}", "a".repeat(4000)).as_bytes()));
    }

    #[test]
    fn an_exception_names_more_than_a_tree() {
        for wide in ["/**", "/*/**", "/usr/**", "/etc/**", "/**/*.conf", "/etc/*/**"] {
            assert!(pattern(wide).takes_in_a_tree(), "{wide}");
        }
        for narrow in ["/etc/motd", "/etc/*", "/etc/ssh/**", "/usr/share/doc/**", "/var/lib/**/x"] {
            assert!(!pattern(narrow).takes_in_a_tree(), "{narrow}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides_each_aspect() {
        let mode = Aspects::NONE.with(Aspect::Mode);
        let rules = [allow("/etc/a", mode), Rule { until: Some(10), ..allow("/etc/**", Aspects::ALL) }];
        let both = mode.with(Aspect::Content);
        assert_eq!(rule(&rules, b"/etc/a", both, 9).left(), Aspects::NONE);
        assert_eq!(rule(&rules, b"/etc/a", both, 10).left().to_string(), "content", "the second has ended");
        assert_eq!(rule(&rules, b"/usr/a", both, 9).left(), both, "what no rule matches is reported");
    }

    #[test]
    fn a_directory_is_left_out_only_when_nothing_in_it_could_be_a_finding() {
        let prunes = |rules: &[Rule], directory: &[u8], now| {
            leaves_out(rules, directory, now).filter(|left_out| !left_out.but_privilege).map(|_| ())
        };
        let logs = allow("/var/log/**", Aspects::ALL);
        assert!(prunes(std::slice::from_ref(&logs), b"/var/log/apt", 0).is_some());
        assert!(prunes(std::slice::from_ref(&logs), b"/var", 0).is_none());
        let watched = Rule { action: Action::Report, ..allow("/var/log/audit/*", Aspects::ALL) };
        let rules = [watched, logs.clone()];
        assert!(prunes(&rules, b"/var/log", 0).is_none() && prunes(&rules, b"/var/log/audit", 0).is_none());
        assert!(prunes(&rules, b"/var/log/apt", 0).is_some());
        let mode = Aspects::NONE.with(Aspect::Mode);
        let but_not_modes = allow("/var/log/**", Aspects::ALL.without(mode));
        assert!(leaves_out(std::slice::from_ref(&but_not_modes), b"/var/log", 0).is_none());
        assert!(prunes(&[but_not_modes, allow("/var/**", mode)], b"/var/log", 0).is_some(), "both together allow all");
    }

    #[test]
    fn a_directory_of_which_all_but_privileges_are_allowed_is_looked_through_for_them() {
        let privilege = Aspects::NONE.with(Aspect::Privilege);
        let logs = allow("/var/log/**", Action::Allow.aspects_unnamed());
        let how = |rules: &[Rule]| leaves_out(rules, b"/var/log/x", 0).map(|left_out| left_out.but_privilege);
        assert_eq!(how(std::slice::from_ref(&logs)), Some(true));
        let watched = Rule { action: Action::Report, ..allow("/**", privilege) };
        assert_eq!(
            how(&[watched.clone(), logs.clone()]),
            Some(true),
            "a rule about privileges alone bars nothing else"
        );
        assert_eq!(how(&[logs.clone(), allow("/var/log/x/**", privilege)]), Some(false), "allowed by name");
        assert_eq!(how(&[watched, logs, allow("/var/log/x/**", privilege)]), Some(true), "but not before");
    }
}
