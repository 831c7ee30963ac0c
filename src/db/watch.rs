//! Watching a store: every committed change of a prefix, in order, after it is durable (what etcd calls a watch).

use super::Revision;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::broadcast;

/// Commits that a watcher may be behind. Over it the oldest are gone and the watcher is told so (rule 9).
const BEHIND_MAX: usize = 1024;

/// One key as a commit left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    /// `None`: deleted.
    pub value: Option<Vec<u8>>,
    pub revision: Revision,
}

/// Why a watch gives no next change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    #[error("this watch fell {commits} commits behind and missed them; list again, then watch again")]
    Behind { commits: u64 },
    #[error("the store was closed")]
    Closed,
}

/// Where a store tells of its commits.
#[derive(Debug)]
pub struct Watched {
    commits: broadcast::Sender<Arc<[Change]>>,
}

impl Default for Watched {
    fn default() -> Self {
        Watched { commits: broadcast::channel(BEHIND_MAX).0 }
    }
}

impl Watched {
    /// Everything that is committed from now on under `prefix`.
    #[must_use]
    pub fn watch(&self, prefix: &str) -> Watch {
        Watch { prefix: prefix.to_string(), commits: self.commits.subscribe(), waiting: VecDeque::new() }
    }

    /// To be called when the changes are on stable storage. `changes` is not asked when nobody watches.
    pub fn tell(&self, changes: impl FnOnce() -> Vec<Change>) {
        if self.commits.receiver_count() > 0 {
            // The last watcher may have gone this instant; then there is nobody to tell.
            let _ = self.commits.send(changes().into());
        }
    }
}

/// One watcher's end.
#[derive(Debug)]
pub struct Watch {
    prefix: String,
    commits: broadcast::Receiver<Arc<[Change]>>,
    waiting: VecDeque<Change>,
}

impl Watch {
    /// The next change, when there is one.
    ///
    /// # Errors
    /// [`WatchError`]; after `Behind` the watch goes on with what is still there.
    pub async fn next(&mut self) -> Result<Change, WatchError> {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return Ok(change);
            }
            match self.commits.recv().await {
                Ok(commit) => {
                    let ours = commit.iter().filter(|change| change.key.starts_with(&self.prefix));
                    self.waiting.extend(ours.cloned());
                }
                Err(broadcast::error::RecvError::Lagged(commits)) => return Err(WatchError::Behind { commits }),
                Err(broadcast::error::RecvError::Closed) => return Err(WatchError::Closed),
            }
        }
    }
}
