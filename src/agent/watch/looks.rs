//! Looks at the tree: at all of it by the clock, and at what changed in between.

use super::dirty::{Changes, Depth};
use super::events::{Scope, Watch};
use super::state_dir::StateDir;
use super::terms::{self, Agreed};
use super::view::{self, View};
use crate::agent::drift::{LiveTree, Look, Scan, ScanError, Spots, Summary, state};
use crate::clock;
use crate::decide::drift::path;
use crate::decide::drift::policy::{Action, Pattern, Rule};
use crate::wire::baseline::{self, BaselineError};
use crate::wire::drift::{Gap, PathText, Report};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SCAN_STATE: &str = "scan";
/// After a look, events ask for the next one only after so many times the processor time that it took: a host that
/// floods the queue, or one with a million files where something always changes, costs a twentieth of one core at most.
/// Not times how long it took: at idle priority on a busy host that is many times as much, and changes would wait.
const REST_FACTOR: u32 = 20;
/// But what changed is looked at by then.
const REST_MAX: Duration = Duration::from_secs(120);
/// After a look that failed: a disk that is gone does not come back within a second.
const FAILED_REST: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error("the tree at {0} cannot be looked at")]
    Tree(PathBuf, #[source] io::Error),
    #[error("the tree at {0} cannot be compared")]
    Scan(PathBuf, #[source] ScanError),
    #[error("{0} cannot be read")]
    Baseline(PathBuf, #[source] BaselineError),
    #[error("there is nothing to compare with yet")]
    NoBaseline,
}

/// Events between looks, or why there are none.
#[derive(Debug)]
enum Watching {
    Not { why: String, since: u64 },
    Events(Watch),
}

/// What is looked at, by which baseline and rules.
#[derive(Debug)]
pub(super) struct Looks {
    root: PathBuf,
    watching: Watching,
    baseline: Option<Compared>,
    pub view: View,
    has_looked: bool,
    state_lost: Option<(String, u64)>,
    unwatched: Vec<Gap>,
    everything_not_before: Instant,
    changes_not_before: Instant,
    everything_wanted: bool,
}

#[derive(Debug)]
struct Compared {
    digest: String,
    path: PathBuf,
    /// Digest of the policy, as the server names it.
    policy: String,
    rules: Arc<Vec<Rule>>,
    /// Where the image's volumes are mounted.
    mounts: Vec<Vec<u8>>,
    cycle_seconds: u64,
}

impl Looks {
    /// `watches`: between scans as well.
    ///
    /// # Errors
    /// [`LookError::Tree`]: the root is not there.
    pub(super) fn new(root: &Path, state: &StateDir, watches: bool) -> Result<Looks, LookError> {
        let root = root.canonicalize().map_err(|error| LookError::Tree(root.to_path_buf(), error))?;
        let scope =
            Scope { root: root.clone(), mounts: Vec::new(), rules: Arc::default(), own: own(state), now: clock::now() };
        let not = |why: String| Watching::Not { why, since: clock::now() };
        let watching = match watches.then(|| Watch::start(scope)) {
            None => not("one look only".to_string()),
            Some(Ok(watch)) => Watching::Events(watch),
            Some(Err(error)) => not(format!("the kernel reports no changes here (fanotify: {error})")),
        };
        Ok(Looks {
            root,
            watching,
            baseline: None,
            view: View::default(),
            has_looked: false,
            state_lost: None,
            unwatched: Vec::new(),
            everything_not_before: clock::instant(),
            changes_not_before: clock::instant(),
            everything_wanted: true,
        })
    }

    /// Takes on what to compare with; another baseline or other rules ask for a look at everything.
    ///
    /// # Errors
    /// [`LookError::Baseline`].
    pub(super) fn agree(&mut self, agreed: &Agreed, baseline: PathBuf, state: &StateDir) -> Result<(), LookError> {
        let digest = agreed.terms.baseline.clone().unwrap_or_default();
        let own = own_rule(&self.root, state);
        let rules: Vec<Rule> = own.into_iter().chain(agreed.rules.iter().cloned()).collect();
        let is_same = |known: &Compared| known.digest == digest && *known.rules == rules;
        if !self.baseline.as_ref().is_some_and(is_same) {
            self.everything_wanted = true;
            self.everything_not_before = clock::instant();
        }
        // A report names baseline and policy: what was seen by others must not be told as if it were by these.
        let is_named_so = |known: &Compared| known.digest == digest && known.policy == agreed.terms.policy;
        if !self.baseline.as_ref().is_some_and(is_named_so) {
            self.forget_view();
        }
        let mut mounts = vec![b"/".to_vec()];
        let volumes = terms::volumes(&baseline).map_err(|error| LookError::Baseline(baseline.clone(), error))?;
        let mounted = volumes.into_iter().filter_map(|volume| volume.mounted_at);
        mounts.extend(mounted.map(String::into_bytes).filter(|path| path != b"/"));
        let cycle_seconds = agreed.terms.cycle_seconds;
        let (policy, rules) = (agreed.terms.policy.clone(), Arc::new(rules));
        self.baseline = Some(Compared { digest, path: baseline, policy, rules, mounts, cycle_seconds });
        Ok(())
    }

    /// There is nothing to compare with any more.
    pub(super) fn forget_baseline(&mut self) {
        self.baseline = None;
        self.forget_view();
    }

    pub(super) fn has_baseline(&self) -> bool {
        self.baseline.is_some()
    }

    /// In this process, with these rules or others: what differs is known.
    pub(super) fn has_looked(&self) -> bool {
        self.has_looked
    }

    /// Everything is to be looked at out of turn: changes were lost, or it is compared with something else.
    pub(super) fn is_everything_due(&self) -> bool {
        self.everything_wanted && self.baseline.is_some() && self.everything_not_before <= clock::instant()
    }

    /// Sleeps until `until`, or until changes are quiet.
    pub(super) fn wait(&self, settle: Duration, until: Instant) {
        let until = if self.everything_wanted && self.baseline.is_some() {
            until.min(self.everything_not_before.max(clock::instant()))
        } else {
            until
        };
        match &self.watching {
            Watching::Events(watch) if watch.lost().is_none() && self.baseline.is_some() => {
                watch.wait(settle, self.changes_not_before, until)
            }
            _ => clock::sleep(until.saturating_duration_since(clock::instant())),
        }
    }

    /// At everything: metadata, and the content of what changed or has its turn.
    ///
    /// # Errors
    /// [`LookError`].
    pub(super) fn at_everything(&mut self, state: &StateDir) -> Result<(), LookError> {
        let used = clock::processor_time();
        self.cover(state);
        if let Watching::Events(watch) = &self.watching {
            // What comes from now on may come behind the look's back.
            watch.clear();
        }
        self.everything_wanted = false;
        let former = state::Reader::open(&state.file(SCAN_STATE));
        let kind = if former.is_some() { "metadata" } else { "full" };
        let mut out = state::Writer::create(&state.file(SCAN_STATE));
        let summary = self.look(|cycle_seconds| Look::Due { cycle_seconds }, former, &mut out);
        self.everything_not_before = rest_after(used);
        let summary = summary.inspect_err(|_| {
            self.everything_wanted = true;
            self.everything_not_before += FAILED_REST;
        })?;
        self.state_lost = summary.state_lost.clone().map(|why| (why, clock::now()));
        self.view.replace(kind, summary);
        self.has_looked = true;
        Ok(())
    }

    /// At what changed and is quiet. True: there was something, and findings may have changed.
    ///
    /// # Errors
    /// [`LookError`].
    pub(super) fn at_changes(&mut self, state: &StateDir, settle: Duration) -> Result<bool, LookError> {
        let Watching::Events(watch) = &self.watching else { return Ok(false) };
        if self.baseline.is_none() || clock::instant() < self.changes_not_before {
            return Ok(false);
        }
        if !self.has_looked {
            // Half a view would make the server forget what it knows; the look at everything sees these as well.
            watch.clear();
            self.everything_wanted = true;
            return Ok(false);
        }
        let changed = match watch.take_ripe(settle) {
            None => return Ok(false),
            // Where not all findings are known one by one, they are told by a look at everything.
            Some(Changes::Paths(changed)) if !self.view.is_cut() => changed,
            Some(_) => {
                self.everything_wanted = true;
                return Ok(false);
            }
        };
        if changed.is_empty() {
            return Ok(false);
        }
        let spots = view::spots(&changed);
        let former = state::Reader::open(&state.file(SCAN_STATE));
        let used = clock::processor_time();
        let looked = self.look_only(&spots, former);
        self.changes_not_before = rest_after(used);
        match looked {
            Ok(summary) => self.put_in(&changed, summary),
            Err(error) => {
                self.everything_wanted = true;
                return Err(error);
            }
        }
        Ok(true)
    }

    fn look_only(&self, spots: &Spots, former: Option<state::Reader>) -> Result<Summary, LookError> {
        self.look(|_| Look::Only(spots), former, &mut state::Writer::none())
    }

    fn put_in(&mut self, changed: &BTreeMap<Vec<u8>, Depth>, summary: Summary) {
        let rules = self.rules();
        self.view.merge(changed, summary, &rules);
        if self.view.is_cut() {
            self.everything_wanted = true;
        }
    }

    fn look<'l>(
        &self,
        look: impl FnOnce(u64) -> Look<'l>,
        former: Option<state::Reader>,
        out: &mut state::Writer,
    ) -> Result<Summary, LookError> {
        let Some(compared) = &self.baseline else { return Err(LookError::NoBaseline) };
        let file = File::open(&compared.path).map_err(BaselineError::from);
        let baseline = file.and_then(|file| baseline::Reader::new(BufReader::new(file)));
        let baseline = baseline.map_err(|error| LookError::Baseline(compared.path.clone(), error))?;
        let tree = LiveTree::new(&self.root, compared.mounts.iter().map(Vec::as_slice));
        let tree = tree.map_err(|error| LookError::Tree(self.root.clone(), error))?;
        let scan = Scan {
            tree: &tree,
            rules: &compared.rules,
            look: look(compared.cycle_seconds),
            now: clock::now(),
            baseline: &compared.digest,
            threads: 1,
        };
        let mut summary = scan.run(baseline, former, out, &mut |_| {});
        if let Ok(summary) = &mut summary {
            summary.scan.overflows = self.overflows();
        }
        summary.map_err(|error| LookError::Scan(self.root.clone(), error))
    }

    /// File systems may have been mounted since, and rules may have ended.
    fn cover(&mut self, state: &StateDir) {
        let (Watching::Events(watch), Some(compared)) = (&self.watching, &self.baseline) else { return };
        let scope = Scope {
            root: self.root.clone(),
            mounts: compared.mounts.clone(),
            rules: Arc::clone(&compared.rules),
            own: own(state),
            now: clock::now(),
        };
        let before = std::mem::take(&mut self.unwatched);
        for (mount, error) in watch.cover(scope) {
            let since = before.iter().find(|gap| gap.path.0 == mount).map_or(clock::now(), |gap| gap.since);
            let reason = format!("changes are seen by scans only (fanotify: {error})");
            self.unwatched.push(Gap { path: PathText(mount), reason, since });
        }
    }

    /// All that was seen, as a report; who says it and its number come later. `own`: what this service could not do.
    pub(super) fn report(&self, own: &[Gap]) -> Report {
        self.view.report(own, &self.rules())
    }

    fn rules(&self) -> Arc<Vec<Rule>> {
        self.baseline.as_ref().map(|compared| Arc::clone(&compared.rules)).unwrap_or_default()
    }

    pub(super) fn overflows(&self) -> u64 {
        match &self.watching {
            Watching::Events(watch) => watch.overflows(),
            Watching::Not { .. } => 0,
        }
    }

    /// What this part of the service cannot do.
    pub(super) fn gaps(&self) -> Vec<Gap> {
        let everywhere = |reason: String, since| Gap { path: PathText(b"/".to_vec()), reason, since };
        let mut gaps = self.unwatched.clone();
        match &self.watching {
            Watching::Not { why, since } => gaps.push(everywhere(format!("between scans: {why}"), *since)),
            Watching::Events(watch) => {
                let lost = watch.lost().map(|why| everywhere(format!("between scans: fanotify ended: {why}"), 0));
                gaps.extend(lost);
            }
        }
        let state_lost = self.state_lost.clone();
        gaps.extend(state_lost.map(|(why, since)| everywhere(format!("what was read cannot be kept: {why}"), since)));
        gaps
    }

    /// A generation is a system of its own: what was known of the one before is nothing.
    pub(super) fn forget(&mut self, state: &StateDir) {
        let _ = fs::remove_file(state.file(SCAN_STATE));
        self.forget_view();
    }

    /// What differs is not known until everything was looked at.
    fn forget_view(&mut self) {
        self.view = View::default();
        self.has_looked = false;
        self.everything_wanted = true;
    }
}

/// `used`: the processor time before the look.
fn rest_after(used: Duration) -> Instant {
    let took = clock::processor_time().saturating_sub(used);
    clock::instant() + (took * REST_FACTOR).min(REST_MAX)
}

fn own(state: &StateDir) -> PathBuf {
    state.path().canonicalize().unwrap_or_else(|_| state.path().to_path_buf())
}

/// What this service writes is no drift, wherever it was told to write.
fn own_rule(root: &Path, state: &StateDir) -> Option<Rule> {
    let (own, root) = (own(state), root.as_os_str().as_bytes());
    let own = own.as_os_str().as_bytes();
    if !path::is_within(own, root) {
        return None;
    }
    let inner = own.strip_prefix(root.strip_suffix(b"/").unwrap_or(root))?;
    let pattern = Pattern::new(&[inner, b"/**"].concat()).ok()?;
    let (why, from) = ("its own state".to_string(), "the agent itself".to_string());
    let action = Action::Allow;
    Some(Rule { pattern, aspects: action.aspects_unnamed(), action, content: false, why, until: None, from })
}
