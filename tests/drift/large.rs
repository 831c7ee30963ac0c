//! Trees with more in them than fits anywhere.

use crate::place::{CYCLE, Place, agent};
use regild::agent::drift::Summary;
use regild::wire::drift::{FINDINGS_MAX, REPORT_BYTES_MAX, Report};
use serde_json::Value;
use std::fs::File;

fn report_bytes(summary: &Summary) -> usize {
    let (findings, gaps) = (summary.findings.clone(), summary.gaps.clone());
    let report = Report { findings, gaps, scan: summary.scan.clone(), ..Report::default() };
    serde_json::to_vec(&report).unwrap().len()
}

/// Issue 4: a host with findings without number, half of them in one directory. Memory does not grow with them (the
/// names of one directory are the exception: 13 bytes each here), and a report holds the first of them.
#[test]
fn findings_without_number_need_no_memory_and_fit_into_a_report() {
    let mut place = Place::small();
    place.record();
    let count = 100_000;
    for at in 0..count {
        let in_one = at % 2 == 0;
        let path = if in_one { format!("srv/one/{at}") } else { format!("srv/{}/{at}", at % 100) };
        if at < 200 {
            place.write(&path, b"");
        } else {
            File::create(place.at(&path)).unwrap();
        }
    }
    let mut scan = agent();
    scan.args(["scan", "--json", "--root"]).arg(place.root()).arg("--baseline").arg(place.beside("baseline"));
    let output = String::from_utf8(scan.output().unwrap().stdout).unwrap();
    let summary: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    let peak = summary["peak_bytes"].as_u64().unwrap();
    println!("peak memory with {count} findings: {peak} bytes");
    assert!(peak < 50_000_000, "{peak} bytes");
    let said = place.scan(CYCLE);
    // With /srv, /srv/one and fifty more directories.
    assert_eq!((said.summary.findings_total, said.summary.findings.len()), (count + 52, FINDINGS_MAX));
    assert!(report_bytes(&said.summary) < REPORT_BYTES_MAX);
    assert_eq!(said.summary.findings.iter().map(|one| one.path.0.clone()).collect::<Vec<_>>(), {
        let first = said.found.iter().take(FINDINGS_MAX);
        first.map(|one| one.finding.path.clone()).collect::<Vec<_>>()
    });
}

/// Paths and attributes as long as they may be: fewer findings are kept, and the number of all is right.
#[test]
fn findings_that_are_long_fit_into_a_report_too() {
    let place = Place::small();
    place.run(
        "d=$(printf 'n%.0s' $(seq 250)); mkdir -p long; cd long; for i in $(seq 15); do mkdir $d; cd $d; done; \
               for i in $(seq 300); do : > $(printf '\\001%.0s' $(seq 100))$i; done",
    );
    let said = place.scan(CYCLE);
    assert_eq!(said.summary.findings_total, 300 + 15 + 1);
    assert!(said.summary.findings.len() < 100 && report_bytes(&said.summary) < REPORT_BYTES_MAX);
}
