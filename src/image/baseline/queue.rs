//! Baselines are made behind imports: an import is answered first, and takes no longer than it did.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{BaselineState, ImageStore, MakeError};
use crate::causes;
use crate::clock;

/// Images that wait. What does not fit is made when the server starts the next time, or when it is asked for.
const WAITING_MAX: usize = 10_000;

/// Manifests whose baselines are to be made.
#[derive(Debug, Default)]
pub(in crate::image) struct Queue {
    waiting: Mutex<VecDeque<String>>,
    more: Condvar,
    stopping: AtomicBool,
}

impl Queue {
    /// At the end, unless it waits already.
    pub fn push(&self, manifest: &str) {
        let mut waiting = self.lock();
        if waiting.len() >= WAITING_MAX {
            tracing::warn!(manifest, "too many baselines wait: this one is made when the server starts again");
        } else if !waiting.iter().any(|other| other == manifest) {
            waiting.push_back(manifest.to_owned());
            self.more.notify_one();
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Waits; `None` when the server stops.
    fn pop(&self) -> Option<String> {
        let mut waiting = self.lock();
        loop {
            if self.is_stopping() {
                return None;
            }
            if let Some(next) = waiting.pop_front() {
                return Some(next);
            }
            waiting = self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        // A list of names is whole whenever its lock is free.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ImageStore {
    /// Asks for an image's baseline: made in the background.
    pub fn want_baseline(&self, manifest: &str) {
        self.wanted.push(manifest);
    }

    /// Makes baselines, those of older versions first, until [`ImageStore::stop_baselines`]. For a thread of its own,
    /// which lets everybody else go first.
    pub fn make_wanted_baselines(&self) {
        // Of this thread only, on Linux. Refused or not, the work is the same.
        let _ = rustix::process::nice(19);
        match self.list() {
            Ok(records) => records.iter().filter(|record| self.lacks_baseline(&record.manifest)).for_each(|record| {
                self.wanted.push(&record.manifest);
            }),
            Err(error) => {
                tracing::error!(error = causes::in_one_line(&error), "which images have no baseline is not known")
            }
        }
        while let Some(manifest) = self.wanted.pop() {
            let began = clock::instant();
            match self.make_baseline(&manifest, clock::now()) {
                Ok(record) => {
                    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    match record.state {
                        BaselineState::Ready { digest, entries, .. } => {
                            tracing::info!(manifest, digest, entries, millis, "baseline made");
                        }
                        BaselineState::NeedsHost { reason } | BaselineState::Failed { reason } => {
                            tracing::warn!(manifest, reason, millis, "the image gives no baseline");
                        }
                    }
                }
                Err(MakeError::Stopped) => return,
                Err(error) => {
                    tracing::error!(manifest, error = causes::in_one_line(&error), "a baseline was not made");
                }
            }
        }
    }

    /// Ends [`ImageStore::make_wanted_baselines`], in the midst of one too.
    pub fn stop_baselines(&self) {
        self.wanted.stopping.store(true, Ordering::Relaxed);
        // Taken, so that nobody is between looking at the flag and waiting.
        let _waiting = self.wanted.lock();
        self.wanted.more.notify_all();
    }

    /// Those that a host must read are not tried again: nothing about them changes by itself.
    fn lacks_baseline(&self, manifest: &str) -> bool {
        let record = self.baseline_of(manifest).ok().flatten();
        record.is_none_or(|record| matches!(record.state, BaselineState::Failed { .. }))
    }
}
