//! What operators are shown of a host's drift.

use super::problem::Problem;
use super::{Shared, drift_image};
use crate::clock;
use crate::decide::drift::effective::EXCEPTION;
use crate::decide::drift::finding::Aspects;
use crate::decide::drift::judge::Judged;
use crate::decide::drift::policy::{Rule, leaves_out, rule};
use crate::decide::drift::{finding, path};
use crate::registry::HostView;
use crate::registry::drift::{AllListed, Found, JudgedPath, Source, Watched};
use crate::wire::drift as drift_wire;
use crate::wire::drift::CONTENT_BYTES_MAX;
use crate::wire::operator_drift as wire;
use std::sync::Arc;

/// Every word of `Line::standing`.
pub(super) const STANDINGS: [&str; 5] = ["clean", "drifted", "silent", "unwatched", "no_baseline"];
/// Files that are compared line by line in one answer: each is read out of the image.
const DIFFS_MAX: usize = 50;
/// Lines around a change.
const CONTEXT_LINES: usize = 3;

pub(super) fn words(aspects: Aspects) -> Vec<String> {
    aspects.iter().map(|aspect| aspect.word().to_string()).collect()
}

pub(super) fn line(view: &HostView, watched: Option<&Watched>, has_baseline: bool) -> wire::Line {
    let host = &view.host;
    let watched = watched.filter(|watched| watched.generation == host.reported_generation);
    let newest = watched.and_then(Watched::newest);
    let standing = match watched.map(|watched| (watched.silent, watched.drifted)) {
        Some((true, _)) => "silent",
        Some((false, Some(true))) => "drifted",
        Some((false, Some(false))) => "clean",
        Some((false, None)) | None if has_baseline => "unwatched",
        Some((false, None)) | None => "no_baseline",
    };
    wire::Line {
        host: host.id.clone(),
        name: host.name.clone(),
        group: host.group.clone(),
        image: host.reported.as_ref().map(|image| image.name.clone()),
        standing: standing.to_string(),
        findings: watched.map_or(0, |watched| watched.findings),
        asking: watched.map_or(0, |watched| watched.asking),
        reported_at: newest.map(|(_, heard)| heard.at),
        looked_at: newest.map(|(_, heard)| heard.scan.ended).filter(|at| *at > 0),
        content_since: newest.map(|(_, heard)| heard.scan.content_since).filter(|at| *at > 0),
        gaps: newest.map_or(0, |(_, heard)| heard.gaps),
        source: newest.map(|(source, _)| source.word().to_string()),
    }
}

pub(super) async fn shown(shared: &Arc<Shared>, view: &HostView) -> Result<wire::Shown, Problem> {
    let host = &view.host;
    let now = clock::now();
    let listed = shared.registry.drift_listed(&host.id).await?;
    let (rules, watched) =
        shared.registry.read(|all| (all.drift_rules(host, now), all.drift().host(&host.id).cloned()));
    let baseline = match &host.reported {
        Some(image) => drift_image::baseline_of(shared, &image.manifest).await,
        None => Err("no image of ours was put on this machine yet".to_string()),
    };
    let has_baseline = baseline.is_ok();
    let (mut found, mut accepted) = (Vec::new(), Vec::new());
    for at in listed.paths() {
        let Some(JudgedPath { found: one, judged, .. }) = at.judged(watched.as_deref(), &rules.rules, now) else {
            continue;
        };
        if !judged.left.is_empty() {
            found.push(shown_finding(one, &judged));
        } else if judged.rule.is_some_and(|rule| rule.from.starts_with(EXCEPTION)) {
            accepted.push(shown_finding(one, &judged));
        }
    }
    let manifest = host.reported.as_ref().map(|image| image.manifest.clone());
    if let Some(manifest) = manifest {
        let shared = shared.clone();
        let diffs = tokio::task::spawn_blocking(move || {
            with_diffs(&shared, &manifest, found.iter_mut().chain(&mut accepted));
            (found, accepted)
        });
        let failed = |error| Problem::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, format!("{error}"));
        (found, accepted) = diffs.await.map_err(failed)?;
    }
    let newest = watched.as_deref().and_then(Watched::newest);
    let gaps_listed = newest.map_or_else(Vec::new, |(source, _)| gaps(&listed, source));
    let line = line(view, watched.as_deref(), has_baseline);
    Ok(wire::Shown {
        baseline: baseline.map_or_else(|reason| reason, |known| known.origin),
        scan: newest.map(|(_, heard)| heard.scan.clone()),
        gaps_listed,
        found,
        accepted,
        findings_total: line.findings,
        line,
    })
}

fn gaps(listed: &AllListed, source: Source) -> Vec<drift_wire::Gap> {
    match source {
        Source::Agent => listed.agent.gaps.clone(),
        Source::Outside => listed.outside.gaps.clone(),
    }
}

fn shown_finding(one: &Found, judged: &Judged<'_>) -> wire::Found {
    let mut finding = one.finding.clone();
    // The policy may have let it out when it was reported, and no longer does.
    finding.content = finding.content.filter(|_| judged.content);
    wire::Found {
        finding,
        aspects: words(judged.left),
        action: judged.verdict.word().to_string(),
        rule: judged.rule.map_or_else(|| "no rule".to_string(), |rule| rule.from.clone()),
        why: judged.rule.map_or_else(String::new, |rule| rule.why.clone()),
        known_since: one.known_since(),
        diff: None,
    }
}

/// Reads files out of the image: not for where others wait. What a removed file held is the image's, and no secret of the
/// host.
fn with_diffs<'f>(shared: &Shared, manifest: &str, found: impl Iterator<Item = &'f mut wire::Found>) {
    let with_content = found.filter(|one| one.finding.content.is_some() || is_removed_text(&one.finding));
    for one in with_content.take(DIFFS_MAX) {
        let path = &one.finding.path.0;
        let before = if one.finding.expected.is_some() {
            // One byte more shows that it is longer.
            drift_image::file(shared, manifest, path, CONTENT_BYTES_MAX + 1)
        } else {
            Some(Vec::new())
        };
        let before = before.filter(|before| before.len() <= CONTENT_BYTES_MAX).and_then(|b| String::from_utf8(b).ok());
        let after = one.finding.content.as_deref().unwrap_or("");
        one.diff = before.filter(|before| !before.contains('\0')).map(|before| diff(path, &before, after));
    }
}

fn is_removed_text(finding: &drift_wire::Finding) -> bool {
    let bytes = finding.expected.as_ref().filter(|_| finding.seen.is_none()).and_then(|node| node.bytes);
    bytes.is_some_and(|bytes| bytes <= CONTENT_BYTES_MAX as u64)
}

/// A unified diff whose lines act on no terminal.
fn diff(at: &[u8], before: &str, after: &str) -> String {
    let (before, after) = (harmless(before), harmless(after));
    let name = path::to_text(at);
    let diff = similar::TextDiff::from_lines(before.as_str(), after.as_str());
    let (from, to) = (format!("image{name}"), format!("host{name}"));
    diff.unified_diff().context_radius(CONTEXT_LINES).header(&from, &to).to_string()
}

/// Text with every character shown, but for the ends of lines and tabulators.
fn harmless(text: &str) -> String {
    let shown =
        |piece: &str| piece.split('\t').map(|part| path::to_text(part.as_bytes())).collect::<Vec<_>>().join("\t");
    text.split('\n').map(shown).collect::<Vec<_>>().join("\n")
}

pub(super) async fn explained(shared: &Arc<Shared>, view: &HostView, at: &[u8]) -> Result<wire::Explained, Problem> {
    let host = &view.host;
    let now = clock::now();
    let listed = shared.registry.drift_listed(&host.id).await?;
    let (rules, watched) =
        shared.registry.read(|all| (all.drift_rules(host, now), all.drift().host(&host.id).cloned()));
    let known = listed.paths().find(|known| known.path == at);
    let heaviest = known.and_then(|known| known.judged(watched.as_deref(), &rules.rules, now));
    let present = heaviest.map(|judged| judged.found.finding.clone());
    let aspects = known.map_or(Aspects::ALL, |known| {
        let both = known.agent.into_iter().chain(known.outside);
        both.flat_map(|found| aspects_of(&found.finding).iter().collect::<Vec<_>>()).collect()
    });
    let ruling = rule(&rules.rules, at, aspects, now);
    let decided = ruling.decided.iter().map(|(aspect, rule)| wire::Decided {
        aspect: aspect.word().to_string(),
        rule: rule.map(drift_wire::Rule::from),
    });
    let in_image = match &host.reported {
        Some(image) => drift_image::holds(shared, &image.manifest, at).await,
        None => None,
    };
    let content = ruling.content();
    Ok(wire::Explained {
        path: path::to_text(at),
        in_image,
        decided: decided.collect(),
        finding: present.map(|finding| {
            let shown = finding.content.clone().filter(|_| content);
            drift_wire::Finding { content: shown, ..finding }
        }),
        pruned_by: pruned_by(&rules.rules, at, now).map(drift_wire::Rule::from),
    })
}

fn aspects_of(finding: &drift_wire::Finding) -> Aspects {
    // It was taken because its words mean something.
    let meant = finding::Finding::try_from(finding);
    meant.map_or(Aspects::ALL, |meant| meant.aspects())
}

/// The rule that keeps scans out of a directory on the way to this path.
fn pruned_by<'r>(rules: &'r [Rule], at: &[u8], now: u64) -> Option<&'r Rule> {
    let ends = at.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at.max(1));
    let wholly = |end| leaves_out(rules, at.get(..end)?, now).filter(|left_out| !left_out.but_privilege);
    ends.filter(|end| *end < at.len()).find_map(wholly).map(|left_out| left_out.rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::drift::policy::{Action, Pattern};

    /// Rule 10: what a host's file holds goes to an operator's terminal.
    #[test]
    fn a_diff_shows_each_line_and_acts_on_no_terminal() {
        let text = diff(b"/etc/m\x1b", "a\nb\nc\n", "a\n\x1b[2Jb\u{202e}\tx\r\nc\n");
        assert_eq!(
            text,
            "--- image/etc/m\\x1b\n+++ host/etc/m\\x1b\n@@ -1,3 +1,3 @@\n a\n-b\n+\\x1b[2Jb\\xe2\\x80\\xae\tx\\x0d\n c\n"
        );
    }

    #[test]
    fn a_path_is_kept_out_of_scans_by_a_rule_for_a_directory_above_it() {
        let rule = Rule {
            pattern: Pattern::new(b"/var/log/**").unwrap(),
            aspects: Aspects::ALL,
            action: Action::Allow,
            content: false,
            why: String::new(),
            until: None,
            from: "logs".into(),
        };
        let looked_through = Rule { aspects: Aspects::ALL_BUT_PRIVILEGE, ..rule.clone() };
        assert_eq!(pruned_by(&[looked_through], b"/var/log/x", 0), None);
        let rules = [rule];
        let by = |path: &str| pruned_by(&rules, path.as_bytes(), 0).map(|rule| rule.from.as_str());
        assert_eq!(
            (by("/var/log/apt/x"), by("/var/log/x"), by("/var/log"), by("/")),
            (Some("logs"), Some("logs"), None, None)
        );
    }
}
