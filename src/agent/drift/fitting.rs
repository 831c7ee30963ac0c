//! Which findings a report has room for: those that ask for a rebuild before all others, whatever their paths. A host
//! that leaves a thousand files in front of a swapped program would hide it otherwise.

use crate::clock::UnixSeconds;
use crate::decide::drift::finding;
use crate::decide::drift::path;
use crate::decide::drift::policy::{self, Action, Rule, Ruling};
use crate::wire::drift as words;

/// As many findings as fit into both bounds.
#[derive(Debug)]
pub struct Fitting {
    count_max: usize,
    bytes_max: usize,
    kept: Vec<Kept>,
    bytes: usize,
    /// Of those that ask.
    asking_bytes: usize,
    /// Of those that do not ask, which make room for one that does.
    others: usize,
}

#[derive(Debug)]
struct Kept {
    finding: words::Finding,
    bytes: usize,
    asks: bool,
}

impl Fitting {
    /// `bytes_max`: of their JSON, with a comma behind each.
    #[must_use]
    pub fn new(count_max: usize, bytes_max: usize) -> Fitting {
        Fitting { count_max, bytes_max, kept: Vec::new(), bytes: 0, asking_bytes: 0, others: 0 }
    }

    /// Findings come in the order of their paths, and the first ones stay.
    pub fn push(&mut self, finding: words::Finding, asks: bool) {
        let bytes = json_bytes(&finding);
        // One that has no room beside others that ask must not cost those that do not.
        let could = self.kept.len() - self.others < self.count_max && self.asking_bytes + bytes <= self.bytes_max;
        while asks && could && self.others > 0 && !self.has_room(bytes) {
            self.drop_last_other();
        }
        if self.has_room(bytes) {
            self.bytes += bytes;
            self.asking_bytes += if asks { bytes } else { 0 };
            self.others += usize::from(!asks);
            self.kept.push(Kept { finding, bytes, asks });
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.kept.len() < self.count_max && self.bytes + bytes <= self.bytes_max
    }

    fn drop_last_other(&mut self) {
        if let Some(at) = self.kept.iter().rposition(|kept| !kept.asks) {
            self.bytes -= self.kept.remove(at).bytes;
            self.others -= 1;
        }
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.kept.len()
    }

    /// Bytes of text of files in those that are kept.
    #[must_use]
    pub fn contents_bytes(&self) -> usize {
        self.kept.iter().filter_map(|kept| kept.finding.content.as_ref()).map(String::len).sum()
    }

    /// In the order of their paths.
    #[must_use]
    pub fn into_findings(self) -> Vec<words::Finding> {
        let mut findings: Vec<words::Finding> = self.kept.into_iter().map(|kept| kept.finding).collect();
        findings.sort_by(|a, b| path::order(&a.path.0, &b.path.0));
        findings
    }
}

/// Whether the rules would have it rebuilt, now or when its grace is over.
#[must_use]
pub fn asks(ruling: &Ruling<'_>) -> bool {
    let is_rebuild = |rule: &Rule| matches!(rule.action, Action::Rebuild { .. });
    ruling.decided.iter().any(|(_, rule)| rule.is_some_and(is_rebuild))
}

/// The same of a finding in words.
#[must_use]
pub fn asks_by(rules: &[Rule], words: &words::Finding, now: UnixSeconds) -> bool {
    // Its words were made here; ones that mean nothing ask for nothing.
    finding::Finding::try_from(words)
        .is_ok_and(|finding| asks(&policy::rule(rules, &finding.path, finding.aspects(), now)))
}

fn json_bytes(words: &words::Finding) -> usize {
    // All of it has a JSON form.
    serde_json::to_vec(words).map_or(usize::MAX / 2, |json| json.len() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::drift::{FINDINGS_MAX, Finding, Node, PathText};

    fn finding(path: &str) -> Finding {
        let seen: Node =
            serde_json::from_str(r#"{"kind": "directory", "mode": 0, "uid": 0, "gid": 0, "modified": 0}"#).unwrap();
        let path = PathText(path.as_bytes().to_vec());
        Finding { path, expected: None, seen: Some(seen), first_seen: 1, scans: 1, content: None }
    }

    fn paths(fitting: Fitting) -> Vec<String> {
        fitting.into_findings().into_iter().map(|one| String::from_utf8(one.path.0).unwrap()).collect()
    }

    #[test]
    fn what_asks_for_a_rebuild_finds_room_behind_any_number_of_others() {
        let mut fitting = Fitting::new(FINDINGS_MAX, 1 << 20);
        (0..3000).for_each(|number| fitting.push(finding(&format!("/a/{number:04}")), false));
        fitting.push(finding("/usr/bin/sudo"), true);
        fitting.push(finding("/usr/bin/z"), false);
        let kept = paths(fitting);
        assert_eq!((kept.len(), kept[0].as_str(), kept[498].as_str()), (FINDINGS_MAX, "/a/0000", "/a/0498"));
        assert_eq!(kept[499], "/usr/bin/sudo");
    }

    #[test]
    fn one_that_does_not_fit_anyway_drops_nothing() {
        let each = json_bytes(&finding("/a/0"));
        let mut fitting = Fitting::new(9, each * 3);
        (0..2).for_each(|number| fitting.push(finding(&format!("/a/{number}")), false));
        fitting.push(finding("/a/2"), true);
        fitting.push(finding(&format!("/{}", "b".repeat(each * 3))), true);
        assert_eq!(paths(fitting), ["/a/0", "/a/1", "/a/2"]);
    }

    #[test]
    fn both_bounds_hold_and_the_first_of_those_that_ask_stay() {
        let each = json_bytes(&finding("/a/0"));
        let mut fitting = Fitting::new(4, each * 3);
        for (number, asks) in [(0, false), (1, true), (2, false), (3, true), (4, true), (5, true)] {
            fitting.push(finding(&format!("/a/{number}")), asks);
            assert!(fitting.count() <= 3 && fitting.bytes <= each * 3);
        }
        assert_eq!(paths(fitting), ["/a/1", "/a/3", "/a/4"]);
    }
}
