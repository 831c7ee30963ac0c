//! What the server told us of this host: image, baseline, rules, intervals. Kept on disk, so that a server that is away
//! stops no scan; and not believed where it makes no sense.

use super::server::{AskError, Server, TERMS_BYTES_MAX};
use super::state_dir::StateDir;
use crate::decide::drift::finding::Aspects;
use crate::decide::drift::policy::{Action, Pattern, Rule};
use crate::wire::baseline::{self, BaselineError, Known, Volume};
use crate::wire::drift::{self as words, Terms};
use crate::wire::manifest;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TERMS: &str = "terms.json";
const BASELINE: &str = "baseline-";
const HOST_BYTES_MAX: usize = 256;
const RULES_MAX: usize = 10_000;
const SEQUENCE_MAX: u64 = 1 << 63;
/// Whatever a server says: no busy loop, and no year without a look.
const SCAN_SECONDS: (u64, u64) = (10, 7 * 86_400);
const CYCLE_SECONDS: (u64, u64) = (600, 60 * 86_400);
const REPORT_SECONDS: (u64, u64) = (5, 7 * 86_400);

#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    #[error("the server cannot be asked what to compare with")]
    Ask(#[from] AskError),
    #[error("the server's terms make no sense: {0}")]
    Nonsense(String),
    #[error("the server has no baseline of this image: {0}")]
    NoBaseline(String),
    #[error("{0} cannot be kept")]
    Keep(PathBuf, #[source] io::Error),
}

/// Terms that were looked through.
#[derive(Debug, Clone)]
pub(super) struct Agreed {
    pub terms: Terms,
    pub rules: Arc<Vec<Rule>>,
    /// What of the rules is beyond this program.
    pub unclear: Vec<String>,
    /// As the server said it, as JSON.
    text: Vec<u8>,
}

impl Agreed {
    /// # Errors
    /// [`TermsError::Nonsense`].
    fn new(mut terms: Terms) -> Result<Agreed, TermsError> {
        let nonsense = |what: String| Err(TermsError::Nonsense(what));
        let text = serde_json::to_vec(&terms).map_err(|error| TermsError::Nonsense(error.to_string()))?;
        if terms.host.is_empty() || terms.host.len() > HOST_BYTES_MAX {
            return nonsense(format!("a host's name of {} bytes", terms.host.len()));
        }
        if terms.baseline.as_ref().is_some_and(|digest| manifest::from_hex(digest).is_none()) {
            return nonsense("what it calls a baseline is no digest".to_string());
        }
        // Numbers only grow: one near the end of u64 would leave none for the host.
        if terms.sequence > SEQUENCE_MAX {
            return nonsense(format!("report number {}; at most {SEQUENCE_MAX}", terms.sequence));
        }
        if terms.rules.len() > RULES_MAX {
            return nonsense(format!("{} rules; at most {RULES_MAX}", terms.rules.len()));
        }
        for (seconds, (least, most)) in [
            (&mut terms.scan_seconds, SCAN_SECONDS),
            (&mut terms.cycle_seconds, CYCLE_SECONDS),
            (&mut terms.report_seconds, REPORT_SECONDS),
        ] {
            *seconds = (*seconds).clamp(least, most);
        }
        let (mut rules, mut unclear) = (Vec::new(), Vec::new());
        for words in &terms.rules {
            match Rule::try_from(words) {
                Ok(rule) => rules.push(rule),
                Err(error) => {
                    unclear.push(error.to_string());
                    rules.extend(reported(words));
                }
            }
        }
        terms.rules = Vec::new();
        Ok(Agreed { terms, rules: Arc::new(rules), unclear, text })
    }

    /// What is kept of a process before us.
    pub(super) fn kept(state: &StateDir) -> Option<Agreed> {
        Agreed::new(state.read_json(TERMS, TERMS_BYTES_MAX)?).ok()
    }

    /// # Errors
    /// [`TermsError`].
    pub(super) fn ask(server: &Server) -> Result<Agreed, TermsError> {
        Agreed::new(server.terms()?)
    }

    /// For the next start. Terms that cannot be written down hold all the same.
    pub(super) fn keep(&self, state: &StateDir) {
        let is_known = state.read(TERMS, TERMS_BYTES_MAX).ok().flatten().is_some_and(|kept| kept == self.text);
        if !is_known {
            let _ = state.write(TERMS, &self.text);
        }
    }

    /// Where the baseline lies here, fetched when it does not yet. `None`: the server has none.
    ///
    /// # Errors
    /// [`TermsError`].
    pub(super) fn baseline(&self, server: &Server, state: &StateDir) -> Result<Option<PathBuf>, TermsError> {
        let Some(digest) = &self.terms.baseline else { return Ok(None) };
        let name = baseline_name(digest);
        let path = state.file(&name);
        if File::open(&path).is_ok_and(|file| baseline::check_digest(BufReader::new(file), digest).is_ok()) {
            remove_baselines_but(state, digest);
            return Ok(Some(path));
        }
        // Before the new one comes: on a small disk both may not fit, and a damaged one is of no use.
        remove_baselines_but(state, "");
        let part = state.file(&format!("{name}.part"));
        let keep = |error| TermsError::Keep(part.clone(), error);
        let mut file = state.new_file(&part).map_err(keep)?;
        if let Err(error) = server.baseline(digest, &mut file) {
            let _ = fs::remove_file(&part);
            return Err(error.into());
        }
        state.put_in_place(&part, &name).map_err(keep)?;
        Ok(Some(path))
    }
}

/// A rule with words that this program does not know, a newer server's: as one that reports, so that nothing behind it
/// is allowed because of us. The server judges again.
fn reported(words: &words::Rule) -> Option<Rule> {
    let pattern = Pattern::new(&words.pattern.0).ok()?;
    let (why, from) = (words.why.clone(), words.from.clone());
    let (aspects, action) = (Aspects::ALL, Action::Report);
    Some(Rule { pattern, aspects, action, content: false, why, until: words.until, from })
}

pub(super) fn baseline_name(digest: &str) -> String {
    format!("{BASELINE}{digest}")
}

/// Baselines of other images, and what was left of a fetch.
fn remove_baselines_but(state: &StateDir, digest: &str) {
    let kept = baseline_name(digest);
    for entry in fs::read_dir(state.path()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(BASELINE) && name != kept) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The volumes whose files a baseline holds.
///
/// # Errors
/// [`BaselineError`].
pub(super) fn volumes(path: &Path) -> Result<Vec<Volume>, BaselineError> {
    let header = baseline::Reader::new(BufReader::new(File::open(path)?))?.header;
    Ok(header.volumes.into_iter().filter(|volume| volume.known == Known::Files).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::drift::policy;

    fn terms(rules: &str) -> Terms {
        let text = format!(
            r#"{{"host": "h", "generation": 1, "image": "a:1", "manifest": "", "baseline": null, "key": null,
                "sequence": 0, "policy": "p", "scan_seconds": 0, "cycle_seconds": 0, "report_seconds": 0,
                "rules": {rules}, "a newer word": true}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_server_cannot_make_us_run_hot_or_fall_asleep() {
        let agreed = Agreed::new(terms("[]")).unwrap().terms;
        assert_eq!((agreed.scan_seconds, agreed.cycle_seconds, agreed.report_seconds), (10, 600, 5));
        let sleepy = Terms { scan_seconds: u64::MAX, report_seconds: u64::MAX, ..terms("[]") };
        assert_eq!(Agreed::new(sleepy).unwrap().terms.scan_seconds, 7 * 86_400);
        assert!(Agreed::new(Terms { host: "x".repeat(300), ..terms("[]") }).is_err());
        assert!(Agreed::new(Terms { sequence: SEQUENCE_MAX + 1, ..terms("[]") }).is_err());
        assert!(Agreed::new(Terms { sequence: SEQUENCE_MAX, ..terms("[]") }).is_ok());
        assert!(Agreed::new(Terms { baseline: Some("../../etc/passwd".into()), ..terms("[]") }).is_err());
    }

    /// A newer server's rule in front of one that allows: nothing becomes allowed because this program is old.
    #[test]
    fn a_rule_that_is_not_understood_allows_nothing() {
        let rules = r#"[{"pattern": "/var/log/audit/**", "action": "seal"},
            {"pattern": "/var/log/**", "action": "allow"}, {"pattern": "log", "action": "allow"}]"#;
        let agreed = Agreed::new(terms(rules)).unwrap();
        assert_eq!((agreed.rules.len(), agreed.unclear.len()), (2, 2));
        assert!(policy::leaves_out(&agreed.rules, b"/var/log", 0).is_none());
        assert!(policy::leaves_out(&agreed.rules, b"/var/log/apt", 0).is_some());
    }
}
