//! What was found last, for a person at the host: `regild-agent watch --status`.

use super::state_dir::StateDir;
use super::terms::Agreed;
use super::view::View;
use crate::clock;
use crate::decide::drift::finding;
use crate::wire::drift::Finding;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

pub(super) const FILE: &str = "status.json";
const PATHS_MAX: usize = 50;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Status {
    host: String,
    generation: u64,
    image: String,
    /// Unix seconds.
    looked_at: u64,
    findings_total: u64,
    /// The first of them: a path, and how it differs.
    findings: Vec<(String, String)>,
    /// Why nothing can be told to the server.
    mute: Option<String>,
}

/// Where it cannot be written nothing is lost but a convenience.
pub(super) fn write(state: &StateDir, agreed: &Agreed, view: &View, mute: Option<&str>) {
    let line = |finding: &Finding| {
        let path = crate::decide::drift::path::to_text(&finding.path.0);
        let aspects = finding::Finding::try_from(finding).map(|finding| finding.aspects().to_string());
        (path, aspects.unwrap_or_default())
    };
    let status = Status {
        host: agreed.terms.host.clone(),
        generation: agreed.terms.generation,
        image: agreed.terms.image.clone(),
        looked_at: clock::now(),
        findings_total: view.findings_total(),
        findings: view.findings().iter().take(PATHS_MAX).map(line).collect(),
        mute: mute.map(str::to_owned),
    };
    let _ = serde_json::to_vec(&status).map(|text| state.write(FILE, &text));
}

/// # Errors
/// There is none, or it is not readable for who asks.
pub(super) fn read(path: &Path) -> io::Result<Status> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// For a terminal; a path cannot act on it (`path::to_text`).
pub(super) fn text(status: &Status) -> String {
    let Status { host, generation, image, findings_total, findings, .. } = status;
    let minutes = clock::now().saturating_sub(status.looked_at) / 60;
    let mut text =
        format!("{host}, generation {generation}, {image}: {findings_total} findings, {minutes} minutes ago\n");
    for (path, aspects) in findings {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {aspects:<10} {path}");
    }
    let more = findings_total.saturating_sub(findings.len() as u64);
    if more > 0 {
        let _ = writeln!(text, "  and {more} more");
    }
    if let Some(why) = &status.mute {
        let _ = writeln!(text, "the server is not told: {why}");
    }
    text
}
