//! Watches the image's file systems between two scans: out of the kernel's events comes a bounded set of paths that
//! are to be looked at. Whatever is lost on the way (the kernel's queue was full, a directory cannot be named, the
//! bound is reached) becomes "look at everything", and is counted. Nothing becomes silence.
//!
//! A thread of its own takes the events, so that they do not pile up in the kernel while a scan runs. It rests between
//! two turns, and the kernel merges what repeats meanwhile; and it remembers what a directory is called and whether
//! anybody cares, so that a host that writes logs costs a look into a table for each event, and no path is made.

use super::dirty::{Changes, Depth, Dirty};
use super::fanotify::{self, Event, FsId, Group, Handle, Place};
use crate::clock;
use crate::decide::drift::{path, policy};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two turns of reading. dpkg on a fast disk makes some thousand events in it, the kernel keeps 16,384.
const REST: Duration = Duration::from_millis(200);
const READ_BYTES: usize = 64 << 10;
/// Directories whose name is remembered, about 200 bytes each. One that is full begins anew.
const KNOWN_MAX: usize = 4096;

/// What is watched, and of it what nobody asks about.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    /// The image's `/`, canonical.
    pub root: PathBuf,
    /// In the image's tree; each file system once.
    pub mounts: Vec<Vec<u8>>,
    pub rules: Arc<Vec<policy::Rule>>,
    /// The service's own directory, canonical: what it writes there is no change.
    pub own: PathBuf,
    pub now: clock::UnixSeconds,
}

#[derive(Debug)]
pub(super) struct Watch {
    group: Arc<Group>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Debug)]
struct State {
    dirty: Dirty,
    overflows: u64,
    scope: Arc<Covered>,
    /// Why the thread has ended.
    lost: Option<String>,
}

#[derive(Debug)]
struct Covered {
    scope: Scope,
    /// Where a file system is mounted: handles are opened there. Not held open, so that it can be unmounted.
    mounts: Vec<(FsId, PathBuf)>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked ends the process (src/bin/regild-agent.rs), and in tests its state is whole between two steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Begins to watch; what, [`Watch::cover`] says.
    ///
    /// # Errors
    /// EPERM in a container, EINVAL before Linux 5.9: then there are scans only.
    pub(super) fn start(scope: Scope) -> io::Result<Watch> {
        let group = Arc::new(Group::new()?);
        // A handle that cannot be opened is no use: better known now than with each event.
        let root = File::open(&scope.root)?;
        fanotify::locate(&root, &fanotify::handle_of(&scope.root)?)?;
        let covered = Arc::new(Covered { scope, mounts: Vec::new() });
        let state = State { dirty: Dirty::default(), overflows: 0, scope: covered, lost: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), rung: Condvar::new() });
        let (thread_group, thread_shared) = (Arc::clone(&group), Arc::clone(&shared));
        let run = move || take_events(&thread_group, &thread_shared);
        std::thread::Builder::new().name("events".into()).stack_size(256 << 10).spawn(run)?;
        Ok(Watch { group, shared })
    }

    /// Watches this from now on. To be said again now and then: a file system that was mounted since, and rules that
    /// have ended, count from then on. What cannot be watched comes back, with why.
    pub(super) fn cover(&self, scope: Scope) -> Vec<(Vec<u8>, io::Error)> {
        let (mut mounts, mut failed): (Vec<(FsId, PathBuf)>, _) = (Vec::new(), Vec::new());
        for mount in &scope.mounts {
            let place = on_host(&scope.root, mount);
            let marked = || -> io::Result<FsId> {
                self.group.mark(&place)?;
                fanotify::fsid_of(&File::open(&place)?)
            };
            match marked() {
                Ok(fsid) if mounts.iter().any(|(known, _)| *known == fsid) => {}
                Ok(fsid) => mounts.push((fsid, place)),
                Err(error) => failed.push((mount.clone(), error)),
            }
        }
        self.shared.state().scope = Arc::new(Covered { scope, mounts });
        failed
    }

    /// Sleeps until there is something to look at, once it has been quiet for `settle` and not before `not_before`, or
    /// until `until`.
    pub(super) fn wait(&self, settle: Duration, not_before: Instant, until: Instant) {
        let mut state = self.shared.state();
        loop {
            let wake = state.dirty.ripe_at(settle).map_or(until, |ripe| ripe.max(not_before).min(until));
            let left = wake.saturating_duration_since(clock::instant());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.rung.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What has changed and is quiet; `None` where there is nothing (yet).
    pub(super) fn take_ripe(&self, settle: Duration) -> Option<Changes> {
        let mut state = self.shared.state();
        let is_ripe = state.dirty.ripe_at(settle).is_some_and(|ripe| ripe <= clock::instant());
        is_ripe.then(|| state.dirty.take())
    }

    /// Forgets what has changed: everything is about to be looked at.
    pub(super) fn clear(&self) {
        drop(self.shared.state().dirty.take());
    }

    /// How often changes were lost, so that everything had to be looked at.
    pub(super) fn overflows(&self) -> u64 {
        self.shared.state().overflows
    }

    /// Why nothing is watched any more.
    pub(super) fn lost(&self) -> Option<String> {
        self.shared.state().lost.clone()
    }
}

fn on_host(root: &Path, image_path: &[u8]) -> PathBuf {
    let inner = image_path.strip_prefix(b"/").unwrap_or(image_path);
    root.join(Path::new(std::ffi::OsStr::from_bytes(inner)))
}

/// Takes events until the descriptor fails, which nothing but a broken kernel does: then everything is to be looked
/// at, and scans are left.
fn take_events(group: &Group, shared: &Shared) {
    let mut reader = Reader::default();
    let mut buffer = vec![0; READ_BYTES];
    let error = loop {
        if let Err(error) = group.wait() {
            break error;
        }
        match group.read(&mut buffer) {
            Ok(count) => reader.turn(buffer.get(..count).unwrap_or_default(), shared),
            Err(error) => break error,
        }
        // A full buffer means that there is more.
        if reader.taken_bytes < READ_BYTES / 2 {
            clock::sleep(REST);
        }
    };
    let mut state = shared.state();
    state.lost = Some(error.to_string());
    state.overflows += 1;
    state.dirty.add_everything(clock::instant());
    shared.rung.notify_all();
}

#[derive(Debug, Default)]
struct Reader {
    known: HashMap<Handle, Decision>,
    /// The scope that `known` is of.
    scope: Option<Arc<Covered>>,
    taken_bytes: usize,
}

#[derive(Debug, Clone)]
enum Decision {
    /// Nobody asks about what is in it.
    Pass,
    /// In the image's tree.
    At(Vec<u8>),
}

impl Reader {
    fn turn(&mut self, bytes: &[u8], shared: &Shared) {
        self.taken_bytes = bytes.len();
        let scope = Arc::clone(&shared.state().scope);
        if !self.scope.as_ref().is_some_and(|known| Arc::ptr_eq(known, &scope)) {
            self.known.clear();
            self.scope = Some(Arc::clone(&scope));
        }
        let (mut changed, mut is_lost) = (Vec::new(), false);
        for event in fanotify::events(bytes) {
            match event {
                Event::Overflow | Event::Unclear => is_lost = true,
                Event::At { mask, directory, name } => match self.change(&scope, mask, directory, name) {
                    Ok(Some(change)) => changed.push(change),
                    Ok(None) => {}
                    Err(_) => is_lost = true,
                },
            }
        }
        if changed.is_empty() && !is_lost {
            return;
        }
        let now = clock::instant();
        let mut state = shared.state();
        let was_empty = state.dirty.is_empty();
        if is_lost && state.dirty.add_everything(now) {
            state.overflows += 1;
        }
        for (path, depth) in changed {
            if state.dirty.add(path, depth, now) {
                state.overflows += 1;
            }
        }
        // Who waits already knows that it waits for quiet.
        if was_empty {
            shared.rung.notify_all();
        }
    }

    fn change(
        &mut self,
        scope: &Covered,
        mask: u64,
        directory: Handle,
        name: &[u8],
    ) -> io::Result<Option<(Vec<u8>, Depth)>> {
        const MOVED: u64 = libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
        let of_directory = if mask & libc::FAN_ONDIR != 0 { mask } else { 0 };
        if of_directory & MOVED != 0 {
            // Whatever is in it is called otherwise now.
            self.known.clear();
        }
        let decision = match self.known.get(&directory) {
            Some(known) => known.clone(),
            None => match decide(scope, &directory)? {
                Some(decision) => {
                    if self.known.len() >= KNOWN_MAX {
                        self.known.clear();
                    }
                    self.known.insert(directory, decision.clone());
                    decision
                }
                None => return Ok(None),
            },
        };
        let Decision::At(mut path) = decision else { return Ok(None) };
        if !name.is_empty() {
            if path.last() != Some(&b'/') {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        // Of one that came or went, what happened within may have no name any more: its handles are stale.
        let is_whole = of_directory & (MOVED | libc::FAN_CREATE | libc::FAN_DELETE) != 0;
        let depth = if is_whole { Depth::AllUnder } else { Depth::Itself };
        Ok(Some((path, depth)))
    }
}

/// What a directory is called in the image's tree; `None`: it is gone.
fn decide(scope: &Covered, directory: &Handle) -> io::Result<Option<Decision>> {
    let Covered { scope, mounts } = scope;
    // Before the first `cover` there is no event, and after an unmounting there may be one that is late.
    let Some((_, mount)) = mounts.iter().find(|(fsid, _)| *fsid == directory.fsid) else {
        return Ok(Some(Decision::Pass));
    };
    let mount = File::open(mount)?;
    if fanotify::fsid_of(&mount)? != directory.fsid {
        // Unmounted: its changes are no longer part of the tree.
        return Ok(Some(Decision::Pass));
    }
    let Place::At(place) = fanotify::locate(&mount, directory)? else { return Ok(None) };
    if path::is_within(&place, scope.own.as_os_str().as_bytes()) {
        return Ok(Some(Decision::Pass));
    }
    let root = scope.root.as_os_str().as_bytes();
    if !path::is_within(&place, root) {
        return Ok(Some(Decision::Pass));
    }
    let inner = place.strip_prefix(root.strip_suffix(b"/").unwrap_or(root)).unwrap_or(&place);
    let inner = if inner.is_empty() { b"/" } else { inner };
    // A privilege that appears in a directory that is allowed otherwise is left to the next scan: logs would cost a look
    // for each line.
    let passed = policy::leaves_out(&scope.rules, inner, scope.now).is_some();
    Ok(Some(if passed { Decision::Pass } else { Decision::At(inner.to_vec()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        let own = "/var/lib/regild-agent".into();
        Scope { root: "/".into(), mounts: Vec::new(), rules: Arc::default(), own, now: 0 }
    }

    /// struct fanotify_event_metadata without a place, as for an overflow.
    fn event(mask: u64) -> Vec<u8> {
        let mut bytes = vec![24, 0, 0, 0, 3, 0, 24, 0];
        bytes.extend(mask.to_ne_bytes());
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn what_the_kernel_lost_and_what_is_not_understood_is_everything_and_counted_once() {
        let scope = Arc::new(Covered { scope: scope(), mounts: Vec::new() });
        for lost in [event(libc::FAN_Q_OVERFLOW), event(libc::FAN_CREATE), vec![1, 2, 3]] {
            let state = State { dirty: Dirty::default(), overflows: 0, scope: Arc::clone(&scope), lost: None };
            let shared = Shared { state: Mutex::new(state), rung: Condvar::new() };
            let mut reader = Reader::default();
            reader.turn(&[&lost[..], &lost[..]].concat(), &shared);
            reader.turn(&lost, &shared);
            let mut state = shared.state();
            assert_eq!((state.dirty.take(), state.overflows), (Changes::Everything, 1));
        }
    }

    /// Removed and made again, a directory has another handle: what happened in the first one cannot be named.
    #[test]
    fn a_directory_that_comes_or_goes_is_looked_at_with_all_under_it() {
        let covered = Covered { scope: scope(), mounts: Vec::new() };
        let handle = || Handle { fsid: [0; 8], kind: 1, bytes: vec![1] };
        let known = HashMap::from([(handle(), Decision::At(b"/etc".to_vec()))]);
        let mut reader = Reader { known, ..Reader::default() };
        let mut depth = |mask| reader.change(&covered, mask, handle(), b"x").unwrap();
        for (mask, wanted) in [
            (libc::FAN_DELETE | libc::FAN_CREATE | libc::FAN_ONDIR, Depth::AllUnder),
            (libc::FAN_DELETE | libc::FAN_ONDIR, Depth::AllUnder),
            (libc::FAN_ATTRIB | libc::FAN_ONDIR, Depth::Itself),
            (libc::FAN_DELETE | libc::FAN_CREATE, Depth::Itself),
        ] {
            assert_eq!(depth(mask), Some((b"/etc/x".to_vec(), wanted)), "{mask:#x}");
        }
        // Moved, nothing is called as it was; here no file system is covered, so nobody asks.
        assert_eq!(depth(libc::FAN_MOVED_FROM | libc::FAN_ONDIR), None);
    }
}
