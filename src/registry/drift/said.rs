//! A report as it came, checked and cut to what is kept of it (rule 10).

use super::state::Source;
use crate::decide::drift::finding::{self, Aspects};
use crate::decide::drift::path;
use crate::wire::baseline::PATH_BYTES_MAX;
use crate::wire::drift::{CONTENT_BYTES_MAX, CONTENTS_BYTES_MAX, FINDINGS_MAX, Finding, Gap, Report, Scan};
use std::cmp::Ordering;

/// Places left out that are listed; the rest is counted.
const GAPS_MAX: usize = 200;
const REASON_BYTES_MAX: usize = 200;
const KIND_BYTES_MAX: usize = 20;
/// More findings than any tree of a host has files: what is said beyond it is a lie, and must wrap no sum (over two lists,
/// over the hosts of a fleet).
pub const FINDINGS_TOTAL_MAX: u64 = 1 << 32;
const OUTSIDE: &str = "outside";

/// A report whose words mean something.
#[derive(Debug, Clone)]
pub struct Said {
    pub source: Source,
    /// Number of the verification that a look from outside is for.
    pub verification: Option<u64>,
    /// The agent's key that signed it, and the digest of what was signed.
    pub key: Option<[u8; 32]>,
    pub digest: [u8; 32],
    pub generation: u64,
    pub sequence: u64,
    pub scan: Scan,
    pub gaps: Vec<Gap>,
    pub gaps_total: u64,
    pub same_as: Option<u64>,
    /// By path, each with what differs. One in which nothing differs is left out.
    pub findings: Vec<(Finding, Aspects)>,
    pub total: u64,
}

impl Said {
    /// # Errors
    /// What is not right, for the agent's log.
    pub fn of(report: Report, source: Source) -> Result<Said, String> {
        check_bounds(&report, source)?;
        let listed = report.findings.len() as u64;
        let mut findings = Vec::with_capacity(report.findings.len());
        for finding in report.findings {
            let shown = path::to_text(&finding.path.0);
            let meant = finding::Finding::try_from(&finding).map_err(|error| format!("{shown}: {error}"))?;
            let aspects = meant.aspects();
            if !aspects.is_empty() {
                findings.push((finding, aspects));
            }
        }
        let nothing = listed - findings.len() as u64;
        let gaps_total = report.gaps.len() as u64;
        let reason = |gap: Gap| Gap { reason: line(&gap.reason, REASON_BYTES_MAX), ..gap };
        Ok(Said {
            source,
            verification: None,
            key: None,
            digest: [0; 32],
            generation: report.generation,
            sequence: report.sequence,
            scan: Scan { kind: line(&report.scan.kind, KIND_BYTES_MAX), ..report.scan },
            gaps: report.gaps.into_iter().take(GAPS_MAX).map(reason).collect(),
            gaps_total,
            same_as: report.same_as,
            total: report.findings_total.min(FINDINGS_TOTAL_MAX).max(listed) - nothing,
            findings,
        })
    }
}

fn check_bounds(report: &Report, source: Source) -> Result<(), String> {
    if (report.scan.kind == OUTSIDE) != (source == Source::Outside) {
        return Err(format!("a look of kind {OUTSIDE:?} comes from the deploy environment, and only such a one"));
    }
    if report.same_as.is_some() && (!report.findings.is_empty() || source == Source::Outside) {
        return Err("a report that is the same as another lists no findings".to_string());
    }
    if report.findings.len() > FINDINGS_MAX {
        return Err(format!("it lists {} findings; at most {FINDINGS_MAX}", report.findings.len()));
    }
    let contents = report.findings.iter().filter_map(|finding| finding.content.as_ref()).map(String::len);
    if contents.clone().any(|bytes| bytes > CONTENT_BYTES_MAX) || contents.sum::<usize>() > CONTENTS_BYTES_MAX {
        return Err(format!("more content than {CONTENT_BYTES_MAX} bytes of a file, or {CONTENTS_BYTES_MAX} in all"));
    }
    let is_path = |path: &[u8]| path.first() == Some(&b'/') && path.len() <= PATH_BYTES_MAX && !path.contains(&0);
    let paths = report.findings.iter().map(|finding| &finding.path.0).chain(report.gaps.iter().map(|gap| &gap.path.0));
    for text in paths {
        if !is_path(text) {
            let text: String = path::to_text(text).chars().take(200).collect();
            return Err(format!("{text:?} is no absolute path of at most {PATH_BYTES_MAX} bytes"));
        }
    }
    let in_order = |pair: &[Finding]| path::order(&pair[0].path.0, &pair[1].path.0) == Ordering::Less;
    if !report.findings.windows(2).all(in_order) {
        return Err("its findings are not in the order of their paths, each once".to_string());
    }
    Ok(())
}

/// One line that acts on no terminal, of a bounded length.
fn line(said: &str, bytes_max: usize) -> String {
    let mut text = path::to_text(said.as_bytes());
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::drift::{Node, PathText};

    fn link(path: &[u8], target: &[u8]) -> Finding {
        let seen = Node {
            kind: "symlink".into(),
            mode: 0o777,
            uid: 0,
            gid: 0,
            modified: 0,
            bytes: None,
            digest: None,
            target: Some(PathText(target.to_vec())),
            device: None,
            xattrs: Vec::new(),
        };
        let path = PathText(path.to_vec());
        Finding { path, expected: None, seen: Some(seen), first_seen: 0, scans: 1, content: None }
    }

    fn report(findings: Vec<Finding>) -> Report {
        let scan = Scan { kind: "full".into(), ..Scan::default() };
        Report { scan, findings, ..Report::default() }
    }

    #[track_caller]
    fn refused(report: Report) -> String {
        let said = Said::of(report, Source::Agent).unwrap_err();
        assert!(said.len() < 400 && said.chars().all(|c| !c.is_control()), "{said:?}");
        said
    }

    /// Issue 4: "a host that reports millions of findings, paths with any byte in them".
    #[test]
    fn what_is_out_of_bounds_is_refused_with_a_sentence() {
        let many: Vec<Finding> = (0..=FINDINGS_MAX).map(|n| link(format!("/{n:05}").as_bytes(), b"t")).collect();
        assert!(refused(report(many.clone())).contains("501 findings"));
        let counted = Report { findings_total: 1_000_000, ..report(many[..FINDINGS_MAX].to_vec()) };
        assert_eq!(Said::of(counted, Source::Agent).unwrap().total, 1_000_000);
        let lies = Report { findings_total: u64::MAX, ..report(vec![link(b"/a", b"t")]) };
        assert_eq!(Said::of(lies, Source::Agent).unwrap().total, FINDINGS_TOTAL_MAX);
        let less = Report { findings_total: 0, ..report(vec![link(b"/a", b"t")]) };
        assert_eq!(Said::of(less, Source::Agent).unwrap().total, 1, "no less than it lists");
        assert!(refused(report(vec![link(b"/b", b"t"), link(b"/a", b"t")])).contains("order of their paths"));
        assert!(refused(report(vec![link(b"/a", b"t"), link(b"/a", b"u")])).contains("each once"));
        assert!(refused(report(vec![link(b"etc\n", b"t")])).contains("absolute path"));
        assert!(refused(report(vec![link(&[b'/'; PATH_BYTES_MAX + 1], b"t")])).contains("absolute path"));
        let content = |bytes| Finding { content: Some("x".repeat(bytes)), ..link(b"/a", b"t") };
        assert!(refused(report(vec![content(CONTENT_BYTES_MAX + 1)])).contains("more content"));
        let no_target = Node { target: None, ..link(b"/a\xff", b"").seen.unwrap() };
        let nonsense = Finding { seen: Some(no_target), ..link(b"/a\xff", b"") };
        assert_eq!(refused(report(vec![nonsense])), "/a\\xff: a symlink has no target");
        let outside = Scan { kind: OUTSIDE.into(), ..Scan::default() };
        assert!(refused(Report { scan: outside, ..report(Vec::new()) }).contains("deploy environment"));
        assert!(Said::of(report(Vec::new()), Source::Outside).is_err());
        assert!(refused(Report { same_as: Some(1), ..report(vec![link(b"/a", b"t")]) }).contains("lists no findings"));
    }

    #[test]
    fn what_is_kept_is_bounded_and_acts_on_no_terminal() {
        let gap = Gap { path: PathText(b"/a\n".to_vec()), reason: "\u{1b}[2J\u{fc}".repeat(1000), since: 1 };
        let scan = Scan { kind: "\u{1b}full".repeat(100), ..Scan::default() };
        let every = (1..=255u8).filter(|byte| *byte != b'/').map(|byte| link(&[b'/', byte], b"t")).collect();
        let said = Said::of(Report { gaps: vec![gap; 1000], scan, ..report(every) }, Source::Agent).unwrap();
        assert_eq!((said.gaps.len(), said.gaps_total, said.findings.len()), (GAPS_MAX, 1000, 254));
        assert!(said.gaps[0].reason.len() <= REASON_BYTES_MAX && !said.gaps[0].reason.contains('\u{1b}'));
        assert!(said.scan.kind.len() <= KIND_BYTES_MAX && !said.scan.kind.contains('\u{1b}'));
        let same = link(&b"/x"[..], b"t");
        let nothing = Finding { expected: same.seen.clone(), ..same };
        let said = Said::of(report(vec![nothing]), Source::Agent).unwrap();
        assert_eq!((said.findings.len(), said.total), (0, 0), "what does not differ is no finding");
    }
}
