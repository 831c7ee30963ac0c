//! What differs now, as far as it was seen: all of it after a look at the whole tree, and what changed since.

use super::dirty::Depth;
use crate::agent::drift::fitting::{Fitting, asks_by};
use crate::agent::drift::{Reach, Spots, Summary, more_gaps};
use crate::clock::UnixSeconds;
use crate::decide::drift::path;
use crate::decide::drift::policy::Rule;
use crate::wire::drift::{FINDINGS_MAX, Finding, Gap, PathText, REPORT_BYTES_MAX, Report, Scan};
use std::collections::BTreeMap;

/// Room for what stands around findings: host, digests, scan, commas.
const FRAME_BYTES: usize = 4096;
/// Gaps have a quarter of the rest at most, so that findings always find room.
const GAPS_BYTES_MAX: usize = (REPORT_BYTES_MAX - FRAME_BYTES) / 4;
/// As many as the server lists; the last one says how many more there are.
const GAPS_MAX: usize = 200;

#[derive(Debug, Default)]
pub(super) struct View {
    pub scan: Scan,
    findings: Vec<Finding>,
    findings_total: u64,
    gaps: Vec<Gap>,
    /// Places beside them that were not looked at.
    gaps_left_out: u64,
}

impl View {
    /// The first findings are not all of them: what changed cannot be put in and taken out one by one.
    pub(super) fn is_cut(&self) -> bool {
        self.findings_total > self.findings.len() as u64
    }

    /// After a look at everything.
    pub(super) fn replace(&mut self, kind: &str, summary: Summary) {
        self.gaps_left_out = summary.gaps_left_out();
        let Summary { scan, mut findings, findings_total, gaps, .. } = summary;
        // The state counts from the first look at everything; an event may have shown it before.
        let before: BTreeMap<&PathText, u64> =
            self.findings.iter().map(|finding| (&finding.path, finding.first_seen)).collect();
        for finding in &mut findings {
            let since = before.get(&finding.path).copied().unwrap_or(finding.first_seen);
            finding.first_seen = finding.first_seen.min(since);
        }
        self.scan = Scan { kind: kind.to_string(), ..scan };
        (self.findings, self.findings_total) = (findings, findings_total);
        let before = std::mem::take(&mut self.gaps);
        self.take_gaps(gaps, &before);
    }

    /// After a look at some places: what was known of them is over, what was found there holds.
    pub(super) fn merge(&mut self, looked_at: &BTreeMap<Vec<u8>, Depth>, summary: Summary, rules: &[Rule]) {
        // What did not fit into the summary; the view is not cut, or it would not be merged.
        let cut = summary.findings_total.saturating_sub(summary.findings.len() as u64);
        let is_of = |path: &PathText| covers(looked_at, &path.0);
        let before: BTreeMap<PathText, u64> =
            self.findings.iter().map(|finding| (finding.path.clone(), finding.first_seen)).collect();
        self.findings.retain(|finding| !is_of(&finding.path));
        let before_gaps = self.gaps.clone();
        self.gaps.retain(|gap| !is_of(&gap.path));
        // Which of those that were left out lay there is not known: they count until the next look at everything.
        self.gaps_left_out += summary.gaps_left_out();
        self.take_gaps(summary.gaps, &before_gaps);
        self.findings.extend(summary.findings.into_iter().map(|mut finding| {
            finding.first_seen = before.get(&finding.path).copied().unwrap_or(finding.first_seen);
            finding
        }));
        self.findings.sort_by(|a, b| path::order(&a.path.0, &b.path.0));
        self.findings.dedup_by(|a, b| a.path == b.path);
        self.findings_total = self.findings.len() as u64 + cut;
        let now = summary.scan.began;
        self.findings = fitting(std::mem::take(&mut self.findings), usize::MAX, rules, now);
        // Of the whole tree are its number, how many paths it has and since when all content is known.
        let Scan { number, paths, content_since, .. } = self.scan;
        self.scan = Scan { kind: "events".into(), number, paths, content_since, ..summary.scan };
    }

    /// Each place and reason once, since when it was first so.
    fn take_gaps(&mut self, gaps: Vec<Gap>, before: &[Gap]) {
        let before: BTreeMap<(&PathText, &str), u64> =
            before.iter().map(|gap| ((&gap.path, gap.reason.as_str()), gap.since)).collect();
        self.gaps.extend(gaps.into_iter().map(|mut gap| {
            let since = before.get(&(&gap.path, gap.reason.as_str())).copied().unwrap_or(gap.since);
            gap.since = gap.since.min(since);
            gap
        }));
        self.gaps.sort_by(|a, b| {
            path::order(&a.path.0, &b.path.0).then_with(|| (&a.reason, a.since).cmp(&(&b.reason, b.since)))
        });
        self.gaps.dedup_by(|later, kept| later.path == kept.path && later.reason == kept.reason);
        self.gaps_left_out += self.gaps.len().saturating_sub(GAPS_MAX) as u64;
        self.gaps.truncate(GAPS_MAX);
    }

    pub(super) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    pub(super) fn findings_total(&self) -> u64 {
        self.findings_total
    }

    /// All of it as a report; who says it and its number come later. `own`: what this service could not do.
    pub(super) fn report(&self, own: &[Gap], rules: &[Rule]) -> Report {
        let gaps = self.gaps_that_fit(own);
        let used_bytes: usize = FRAME_BYTES + gaps.iter().map(json_bytes).sum::<usize>();
        let room_bytes = REPORT_BYTES_MAX.saturating_sub(used_bytes);
        let findings = fitting(self.findings.clone(), room_bytes, rules, self.scan.began);
        let findings_total = self.findings_total;
        Report { scan: self.scan.clone(), gaps, findings, findings_total, ..Report::default() }
    }

    fn gaps_that_fit(&self, own: &[Gap]) -> Vec<Gap> {
        // Room for the last one, whatever its number.
        let last = more_gaps(u64::MAX, u64::MAX);
        let mut gaps_bytes = last.as_ref().map_or(0, json_bytes);
        let fits = |gap: &&Gap| {
            gaps_bytes += json_bytes(gap);
            gaps_bytes <= GAPS_BYTES_MAX
        };
        let all = own.iter().chain(&self.gaps);
        let mut gaps: Vec<Gap> = all.take(GAPS_MAX - 1).take_while(fits).cloned().collect();
        let left_out = (own.len() + self.gaps.len() - gaps.len()) as u64;
        gaps.extend(more_gaps(self.gaps_left_out.saturating_add(left_out), self.scan.began));
        gaps
    }
}

/// Those that ask for a rebuild come in before the others.
fn fitting(findings: Vec<Finding>, bytes_max: usize, rules: &[Rule], now: UnixSeconds) -> Vec<Finding> {
    let mut fitting = Fitting::new(FINDINGS_MAX, bytes_max);
    for finding in findings {
        let asks = asks_by(rules, &finding, now);
        fitting.push(finding, asks);
    }
    fitting.into_findings()
}

/// With the comma. Text in JSON always has a form.
fn json_bytes(value: &impl serde::Serialize) -> usize {
    serde_json::to_string(value).map_or(0, |text| text.len()) + 1
}

/// What the findings of a report come to: the same as long as the same things differ in the same way, however often
/// they were seen.
pub(super) fn digest(report: &Report) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&report.findings_total.to_le_bytes());
    for finding in &report.findings {
        let steady = Finding { first_seen: 0, scans: 0, ..finding.clone() };
        hasher.update(serde_json::to_string(&steady).unwrap_or_default().as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Whether a look at these places has looked at `path`.
fn covers(looked_at: &BTreeMap<Vec<u8>, Depth>, path: &[u8]) -> bool {
    // A volume without a place has a name that is no path: only a look at everything speaks of it.
    if !path.starts_with(b"/") {
        return false;
    }
    if looked_at.contains_key(path) || looked_at.get(&b"/"[..]) == Some(&Depth::AllUnder) {
        return true;
    }
    let ends = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    ends.into_iter().any(|end| looked_at.get(path.get(..end).unwrap_or_default()) == Some(&Depth::AllUnder))
}

/// For the scan.
pub(super) fn spots(changed: &BTreeMap<Vec<u8>, Depth>) -> Spots {
    let reach = |depth: &Depth| match depth {
        Depth::Itself => Reach::Itself,
        Depth::AllUnder => Reach::Everything,
    };
    let mut spots = Spots::default();
    for (path, depth) in changed {
        spots.add(path, reach(depth));
    }
    spots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::drift::Node;

    fn node() -> Node {
        serde_json::from_str(r#"{"kind": "directory", "mode": 493, "uid": 0, "gid": 0, "modified": 0}"#).unwrap()
    }

    fn finding(path: &str, first_seen: u64) -> Finding {
        let path = PathText(path.as_bytes().to_vec());
        Finding { path, expected: None, seen: Some(node()), first_seen, scans: 1, content: None }
    }

    fn summary(findings: &[(&str, u64)]) -> Summary {
        let findings: Vec<Finding> = findings.iter().map(|(path, at)| finding(path, *at)).collect();
        Summary { findings_total: findings.len() as u64, findings, ..Summary::default() }
    }

    fn paths(view: &View) -> Vec<String> {
        view.findings().iter().map(|finding| String::from_utf8(finding.path.0.clone()).unwrap()).collect()
    }

    #[test]
    fn what_was_looked_at_again_holds_and_the_rest_stays() {
        let mut view = View::default();
        view.replace("full", summary(&[("/a", 5), ("/b", 5), ("/d/x", 5), ("/d/y/z", 5), ("/d!", 5)]));
        let looked_at = [(b"/b".to_vec(), Depth::Itself), (b"/d".to_vec(), Depth::AllUnder)].into();
        view.merge(&looked_at, summary(&[("/d/n", 9), ("/d/y/z", 9)]), &[]);
        assert_eq!(paths(&view), ["/a", "/d/n", "/d/y/z", "/d!"]);
        assert_eq!(view.findings()[2].first_seen, 5, "it was there before");
        assert_eq!((view.findings_total(), view.is_cut()), (4, false));
        view.replace("metadata", summary(&[("/d/n", 12)]));
        assert_eq!(view.findings()[0].first_seen, 9, "an event showed it before the state knew it");
    }

    /// What did not fit into one look is counted, however many findings the view has.
    #[test]
    fn what_did_not_fit_a_look_at_changes_is_counted() {
        let mut view = View::default();
        view.replace("full", summary(&[("/a", 5), ("/b", 5), ("/c", 5)]));
        let looked_at = [(b"/d".to_vec(), Depth::AllUnder)].into();
        view.merge(&looked_at, Summary { findings_total: 4, ..summary(&[("/d/x", 9), ("/d/y", 9)]) }, &[]);
        assert_eq!((view.findings_total(), view.findings().len(), view.is_cut()), (7, 5, true));
    }

    fn gap(path: &str, reason: &str, since: u64) -> Gap {
        Gap { path: PathText(path.as_bytes().to_vec()), reason: reason.into(), since }
    }

    #[test]
    fn a_gap_is_told_once_and_since_it_was_first_seen() {
        let mut view = View::default();
        let with = |gaps: Vec<Gap>| Summary { gaps_total: gaps.len() as u64, gaps, ..Summary::default() };
        view.replace("full", with(vec![gap("/data", "xfs", 5), gap("/srv", "busy", 5)]));
        let looked_at = [(b"/srv".to_vec(), Depth::Itself)].into();
        for now in [7, 8] {
            view.merge(&looked_at, with(vec![gap("/data", "xfs", now), gap("/srv", "busy", now)]), &[]);
        }
        let wanted = vec![gap("/data", "xfs", 5), gap("/srv", "busy", 5)];
        assert_eq!(view.report(&[], &[]).gaps, wanted);
        view.replace("metadata", with(vec![gap("/data", "xfs", 9), gap("/srv", "busy", 9)]));
        assert_eq!(view.report(&[], &[]).gaps, wanted);
        view.replace("metadata", with(vec![gap("/data", "ntfs", 9)]));
        assert_eq!(view.report(&[], &[]).gaps, [gap("/data", "ntfs", 9)]);
    }

    #[test]
    fn gaps_for_which_there_is_no_room_are_counted_in_the_last_one() {
        let mut view = View::default();
        let gaps: Vec<Gap> = (0..200).map(|number| gap(&format!("/{number:03}"), "r", 1)).collect();
        view.replace("full", Summary { gaps_total: 1000, gaps, ..Summary::default() });
        let told = view.report(&[gap("/", "own", 1)], &[]).gaps;
        assert_eq!((told.len(), told[0].reason.as_str()), (GAPS_MAX, "own"));
        assert_eq!(told[199].reason, "and 802 more places were not looked at");
    }

    #[test]
    fn a_report_says_the_same_until_something_differs_otherwise() {
        let mut view = View::default();
        view.replace("full", summary(&[("/a", 5)]));
        let first = digest(&view.report(&[], &[]));
        view.findings[0].scans = 9;
        assert_eq!(digest(&view.report(&[], &[])), first);
        view.findings[0].seen.as_mut().unwrap().mode = 0;
        assert_ne!(digest(&view.report(&[], &[])), first);
    }

    /// Issue 4, bad input: a host with millions of findings, and long paths.
    #[test]
    fn a_report_never_outgrows_its_bound_and_counts_the_rest() {
        let mut view = View::default();
        let long: Vec<String> =
            (0..FINDINGS_MAX).map(|number| format!("/{number:04}/{}", "\u{1}".repeat(900))).collect();
        let findings: Vec<(&str, u64)> = long.iter().map(|path| (path.as_str(), 1)).collect();
        view.replace("full", Summary { findings_total: 3_000_000, ..summary(&findings) });
        let gap = Gap { path: PathText(vec![1; 900]), reason: "r".into(), since: 1 };
        let report = view.report(&vec![gap; 100], &[]);
        let bytes = serde_json::to_string(&report).unwrap().len();
        assert!(bytes <= REPORT_BYTES_MAX && bytes > REPORT_BYTES_MAX / 2, "{bytes}");
        assert!(view.is_cut() && report.findings_total == 3_000_000 && !report.gaps.is_empty());
    }

    /// A host cannot hide what asks for a rebuild behind findings that come before it: neither by their number nor by
    /// their length, and neither in a look at everything nor in one at what changed.
    #[test]
    fn what_asks_for_a_rebuild_is_in_the_report_whatever_else_there_is() {
        let rule = r#"{"pattern": "/usr/**", "action": "rebuild", "grace_seconds": 60, "scans_min": 3}"#;
        let rule: crate::wire::drift::Rule = serde_json::from_str(rule).unwrap();
        let rules = [Rule::try_from(&rule).unwrap()];
        let long: Vec<String> = (0..FINDINGS_MAX - 1).map(|at| format!("/a/{at:04}/{}", "\u{1}".repeat(900))).collect();
        let mut all: Vec<(&str, u64)> = long.iter().map(|path| (path.as_str(), 1)).collect();
        all.push(("/usr/bin/su", 1));
        let mut view = View::default();
        view.replace("full", summary(&all));
        let last = |view: &View| view.report(&[], &rules).findings.last().unwrap().path.0.clone();
        assert_eq!(last(&view), b"/usr/bin/su");
        view.merge(&[(b"/usr/bin/sudo".to_vec(), Depth::Itself)].into(), summary(&[("/usr/bin/sudo", 9)]), &rules);
        assert_eq!((last(&view), view.findings_total(), view.is_cut()), (b"/usr/bin/sudo".to_vec(), 501, true));
    }
}
