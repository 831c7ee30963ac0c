//! One look at a disk: everything that the baseline and the manifest know of it, by the rules of the policy.

use std::fs::File;
use std::path::Path;

use super::blocks::{self, Looked};
use super::disk::ReadOnlyDisk;
use super::tree::OutsideTree;
use super::volumes::{self, OpenError};
use crate::agent::drift::fitting::{Fitting, asks_by};
use crate::agent::drift::scan::{Look, Scan, ScanError};
use crate::agent::drift::{Summary, more_gaps, state};
use crate::agent::write::{Job, WriteError};
use crate::clock;
use crate::decide::drift::finding::{self, Aspects};
use crate::decide::drift::path;
use crate::decide::drift::policy::{self, Rule};
use crate::wire::baseline::{self, BaselineError};
use crate::wire::drift::{self as words, FINDINGS_MAX, Gap, PathText, Report, Terms};

/// Gaps of a report, with those of the scan.
const GAPS_MAX: usize = 200;
/// Of the disk's own, so that those of its files have room: a hostile table has thousands of partitions.
const GAPS_OF_DISK_MAX: usize = 50;

/// Why nothing can be said of a disk.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error("the image cannot be had, or does not fit the disk")]
    Image(#[from] WriteError),
    #[error("the baseline cannot be used")]
    Baseline(#[from] BaselineError),
    #[error("a rule of the policy is not understood")]
    Rule(#[from] words::convert::MeaningError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Scan(#[from] ScanError),
}

/// What is looked with.
pub struct Means<'a> {
    pub terms: &'a Terms,
    /// The baseline that `terms` names, checked; `None`: there is none.
    pub baseline: Option<&'a File>,
    /// Where file systems may be mounted read-only that only the kernel reads; `None`: nowhere (by hand).
    pub mounts: Option<&'a Path>,
}

/// Looks at all of it.
///
/// # Errors
/// [`LookError`]: nothing, or nothing of use, can be said. What cannot be looked at beside the rest is a gap.
pub(in crate::agent) fn look(job: &Job, disk: &ReadOnlyDisk, means: &Means<'_>) -> Result<Report, LookError> {
    let rules: Vec<Rule> = means.terms.rules.iter().map(Rule::try_from).collect::<Result<_, _>>()?;
    let began = clock::now();
    let Some(file) = means.baseline else {
        let mut looked = blocks::look(job, disk, &[])?;
        let reason = format!("its files are not compared: {}", means.terms.reason);
        looked.gaps.insert(0, (b"/".to_vec(), reason));
        let scan = words::Scan { kind: "outside".to_owned(), began, ended: clock::now(), ..words::Scan::default() };
        return Ok(report(means, scan, joined(Summary::default(), looked, &rules, began)));
    };
    let reader = baseline::Reader::new(again(file)?)?;
    let looked = blocks::look(job, disk, &reader.header.volumes)?;
    let opened = volumes::open(disk, &reader.header.volumes, means.mounts)?;
    let tree = OutsideTree::new(opened.root, opened.others, opened.missing);
    let scan = Scan {
        tree: &tree,
        rules: &rules,
        look: Look::Full,
        now: began,
        baseline: means.terms.baseline.as_deref().unwrap_or_default(),
        threads: 2,
    };
    let mut summary = scan.run(reader, None, &mut state::Writer::none(), &mut |_| ())?;
    "outside".clone_into(&mut summary.scan.kind);
    summary.scan.read_bytes += looked.read_bytes;
    let scan = summary.scan.clone();
    let found = joined(summary, looked, &rules, began);
    drop(tree);
    drop(opened.mounted);
    Ok(report(means, words::Scan { ended: clock::now(), ..scan }, found))
}

fn again(mut file: &File) -> Result<std::io::BufReader<&File>, BaselineError> {
    std::io::Seek::rewind(&mut file)?;
    Ok(std::io::BufReader::new(file))
}

/// All findings and gaps, as many as a report holds.
struct All {
    findings: Vec<words::Finding>,
    findings_total: u64,
    gaps: Vec<Gap>,
}

/// Those of the disk among those of its files, by path. The disk's own are few and come in, whatever else there is.
fn joined(summary: Summary, looked: Looked, rules: &[Rule], now: u64) -> All {
    let mut gaps_left_out = summary.gaps_left_out();
    let Summary { mut findings, mut findings_total, gaps, .. } = summary;
    let of_disk = looked.findings.iter().filter(|finding| !left(rules, finding, now).is_empty());
    let of_disk: Vec<words::Finding> = of_disk.map(|finding| to_words(finding, now)).collect();
    findings_total += of_disk.len() as u64;
    let mut fitting = Fitting::new(FINDINGS_MAX.saturating_sub(of_disk.len()), usize::MAX);
    for finding in std::mem::take(&mut findings) {
        let asks = asks_by(rules, &finding, now);
        fitting.push(finding, asks);
    }
    findings = fitting.into_findings();
    findings.extend(of_disk);
    findings.sort_by(|a, b| path::order(&a.path.0, &b.path.0));
    let gap = |(path, reason): (Vec<u8>, String)| Gap {
        path: PathText(path),
        reason: reason.chars().take(200).collect(),
        since: now,
    };
    gaps_left_out += looked.gaps.len().saturating_sub(GAPS_OF_DISK_MAX) as u64;
    let mut all: Vec<Gap> = looked.gaps.into_iter().take(GAPS_OF_DISK_MAX).map(gap).collect();
    all.extend(gaps);
    // The last one says how many more there are.
    gaps_left_out += all.len().saturating_sub(GAPS_MAX - 1) as u64;
    all.truncate(GAPS_MAX - 1);
    all.sort_by(|a, b| path::order(&a.path.0, &b.path.0));
    all.extend(more_gaps(gaps_left_out, now));
    All { findings, findings_total, gaps: all }
}

fn left(rules: &[Rule], finding: &finding::Finding, now: u64) -> Aspects {
    policy::rule(rules, &finding.path, finding.aspects(), now).left()
}

fn to_words(finding: &finding::Finding, now: u64) -> words::Finding {
    words::Finding {
        path: PathText(finding.path.clone()),
        expected: finding.expected.as_ref().map(words::Node::from),
        seen: finding.seen.as_ref().map(words::Node::from),
        first_seen: now,
        scans: 1,
        content: None,
    }
}

fn report(means: &Means<'_>, scan: words::Scan, all: All) -> Report {
    let terms = means.terms;
    Report {
        host: terms.host.clone(),
        generation: terms.generation,
        sequence: 0,
        baseline: terms.baseline.clone().unwrap_or_default(),
        policy: terms.policy.clone(),
        scan,
        gaps: all.gaps,
        same_as: None,
        findings: all.findings,
        findings_total: all.findings_total,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bad input: a table of thousands of partitions that no image has.
    #[test]
    fn gaps_of_the_disk_leave_room_for_those_of_its_files_and_the_rest_is_counted() {
        let gaps = (0..3000).map(|number| (format!("/.regild/disk/{number}").into_bytes(), "r".to_owned())).collect();
        let looked = Looked { gaps, ..Looked::default() };
        let of_files = Gap { path: PathText(b"/srv".to_vec()), reason: "busy".to_owned(), since: 1 };
        let summary = Summary { gaps: vec![of_files.clone()], gaps_total: 8, ..Summary::default() };
        let all = joined(summary, looked, &[], 1).gaps;
        assert_eq!(all.len(), GAPS_OF_DISK_MAX + 2);
        assert!(all.contains(&of_files));
        assert_eq!(all[GAPS_OF_DISK_MAX + 1].reason, "and 2957 more places were not looked at");
    }
}
