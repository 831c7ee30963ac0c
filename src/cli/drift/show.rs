//! Drift as text for people. Everything from a host goes through [`plain`]: it may hold any byte (rule 10).

use crate::cli::output;
use crate::decide::drift::path;
use crate::wire::drift::{Node, Rule};
use crate::wire::operator_drift::{Explained, Found, Line, Shown};
use std::fmt::Write;

/// Text as it is, but for what a terminal would obey or hide. The paths on the wire have that form already
/// (`path::to_text`), so their backslashes stay as they are.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' | '\t' => shown.push(character),
            other => shown.push_str(&path::to_text(other.encode_utf8(&mut [0; 4]).as_bytes())),
        }
    }
    shown
}

/// `drift show`.
#[must_use]
pub fn text(shown: &Shown) -> String {
    let mut text = head(shown);
    for found in &shown.found {
        text.push('\n');
        text += &of_found(found);
    }
    if !shown.accepted.is_empty() {
        text += "\naccepted for a while, and no finding:\n";
    }
    shown.accepted.iter().for_each(|found| text += &of_found(found));
    let listed = shown.found.len() as u64;
    if shown.findings_total > listed {
        text += &format!("\n{} more findings are not listed: too many to send\n", shown.findings_total - listed);
    }
    if !shown.gaps_listed.is_empty() {
        text += "\nnot looked at:\n";
    }
    for gap in &shown.gaps_listed {
        let (path, since) = (path::to_text(&gap.path.0), output::time(gap.since));
        text += &format!("    {path}: {} (since {since})\n", plain(&gap.reason));
    }
    let more = shown.line.gaps.saturating_sub(shown.gaps_listed.len() as u64);
    if more > 0 {
        text += &format!("    and {more} more\n");
    }
    text
}

fn head(shown: &Shown) -> String {
    let Line { host, name, group, image, standing, findings, asking, reported_at, content_since, source, .. } =
        &shown.line;
    let called = name.as_ref().map_or_else(|| plain(host), |name| format!("{} ({})", plain(name), plain(host)));
    let image = image.as_deref().unwrap_or("no known image");
    let mut text = format!("{called}, group {}, {}: {}", plain(group), plain(image), plain(standing));
    if *findings > 0 {
        let (what, ask) =
            (if *findings == 1 { "finding" } else { "findings" }, if *asking == 1 { "asks" } else { "ask" });
        text += &format!(", {findings} {what}, {asking} of them {ask} for a rebuild");
    }
    text.push('\n');
    text += &format!("baseline: {}\n", plain(&shown.baseline));
    if let Some(scan) = &shown.scan {
        let content = match content_since {
            Some(since) if *since > 0 => format!("every file was read after {}", output::time(*since)),
            _ => "not every file has been read yet".to_string(),
        };
        let (kind, ended) = (plain(&scan.kind), output::time(scan.ended));
        text += &format!("last look: {kind}, {} paths, ended {ended}; {content}\n", scan.paths);
        if scan.overflows > 0 {
            text +=
                &format!("the kernel lost count of changes {} times; all was looked at each time\n", scan.overflows);
        }
    }
    let by = match source.as_deref() {
        Some("outside") => "seen from outside, while its own system did not run",
        Some(_) => "said by the agent in its running system",
        None => "nobody has reported",
    };
    let at = reported_at.map_or_else(String::new, |at| format!(", {}", output::time(at)));
    text + by + &at + "\n"
}

fn of_found(found: &Found) -> String {
    let finding = &found.finding;
    let action = match found.action.as_str() {
        "rebuild" => "asks for a rebuild",
        "rebuild_later" => "will ask for a rebuild",
        "report" => "reported",
        "allow" => "accepted",
        other => other,
    };
    let why = if found.why.is_empty() { String::new() } else { format!(": {}", plain(&found.why)) };
    // Of what is allowed no way to differ is left.
    let aspects = if found.aspects.is_empty() { String::new() } else { format!("  {}", found.aspects.join("+")) };
    let path = path::to_text(&finding.path.0);
    let mut text = format!("{path}{}  ({}, {}{why})\n", plain(&aspects), plain(action), plain(&found.rule));
    for (side, node) in [("image", &finding.expected), ("host ", &finding.seen)] {
        let node = node.as_ref().map_or_else(|| "nothing".to_string(), of_node);
        text += &format!("    {side}  {node}\n");
    }
    let (since, scans) = (output::time(found.known_since), finding.scans);
    text += &format!("    known since {since}, seen in {scans} {}\n", if scans == 1 { "look" } else { "looks" });
    for line in found.diff.iter().flat_map(|diff| diff.lines()) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    {}", plain(line));
    }
    text
}

/// `file 0644 0:0 3254 bytes, 2026-11-28T09:00:00Z, blake3 0123456789ab`.
fn of_node(node: &Node) -> String {
    let mut text = format!("{} {:04o} {}:{}", plain(&node.kind), node.mode, node.uid, node.gid);
    if let Some(bytes) = node.bytes {
        text += &format!(" {bytes} bytes");
    }
    if let Some(target) = &node.target {
        text += &format!(" -> {}", path::to_text(&target.0));
    }
    if let Some((major, minor)) = node.device {
        text += &format!(" device {major}:{minor}");
    }
    let modified = jiff::Timestamp::from_second(node.modified);
    text += &format!(", {}", modified.map_or_else(|_| node.modified.to_string(), |time| time.to_string()));
    if let Some(digest) = &node.digest {
        text += &format!(", blake3 {}", plain(&digest.chars().take(12).collect::<String>()));
    }
    for (name, value) in &node.xattrs {
        text += &format!(", {}={}", path::to_text(&name.0), path::to_text(&value.0));
    }
    text
}

/// `drift explain`.
#[must_use]
pub fn explained(explained: &Explained) -> String {
    let in_image = match explained.in_image {
        Some(true) => "in the image",
        Some(false) => "not in the image",
        None => "there is no baseline to look it up in",
    };
    let mut text = format!("{}: {in_image}\n", plain(&explained.path));
    match &explained.finding {
        Some(finding) => {
            for (side, node) in [("image", &finding.expected), ("host ", &finding.seen)] {
                text += &format!("    {side}  {}\n", node.as_ref().map_or_else(|| "nothing".to_string(), of_node));
            }
        }
        None => text += "    no finding there now\n",
    }
    if let Some(rule) = &explained.pruned_by {
        text += &format!("scans do not go there: {}\n", of_rule(rule));
    }
    for decided in &explained.decided {
        let rule = decided.rule.as_ref().map_or_else(|| "reported: no rule matches".to_string(), of_rule);
        text += &format!("{:<8} {rule}\n", plain(&decided.aspect));
    }
    text
}

/// `allowed by policy web, rule 3 (/etc/motd, until 2027-03-01T00:00:00Z): set by the orchestrator`.
fn of_rule(rule: &Rule) -> String {
    let action = match rule.action.as_str() {
        "allow" => "allowed".to_string(),
        "report" => "reported".to_string(),
        "rebuild" => {
            let grace = crate::decide::span::span(rule.grace_seconds);
            format!("asks for a rebuild after {grace} and {} looks,", rule.scans_min)
        }
        other => plain(other),
    };
    let until = rule.until.map_or_else(String::new, |until| format!(", until {}", output::time(until)));
    let why = if rule.why.is_empty() { String::new() } else { format!(": {}", plain(&rule.why)) };
    let from = if rule.from.is_empty() { "a rule".to_string() } else { plain(&rule.from) };
    format!("{action} by {from} ({}{until}){why}", path::to_text(&rule.pattern.0))
}
