//! Reports that the server has not taken yet. Each holds the whole state of findings, so the newest is what counts;
//! those before it tell what was there and went again. So a few are kept, the oldest goes first, and how many went is
//! said.

use super::state_dir::StateDir;
use crate::wire::drift::{REPORT_BYTES_MAX, Signed};
use std::fs;
use std::io;

/// Looks whose findings differed from the look before. With a look a minute at most, ten minutes of a host where
/// something changes all the time; at a usual host's pace weeks.
const REPORTS_MAX: usize = 10;
const DIRECTORY: &str = "queue";
/// JSON in JSON: a quote becomes two bytes.
const FILE_BYTES_MAX: u64 = 3 * REPORT_BYTES_MAX as u64;
const DROPPED: &str = "dropped";

#[derive(Debug)]
pub(super) struct Queue {
    /// Numbers of what lies in files, ascending.
    kept: Vec<u64>,
    /// The newest one, where the disk did not take it.
    unkept: Option<(u64, Signed)>,
    dropped: u64,
}

impl Queue {
    /// What a process before us left.
    pub(super) fn open(state: &StateDir) -> Queue {
        let mut kept: Vec<u64> = Vec::new();
        // Without it the first report makes it, or is kept in memory.
        let _ = fs::create_dir(state.file(DIRECTORY));
        for entry in fs::read_dir(state.file(DIRECTORY)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            match name.to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok()) {
                Some(number) => kept.push(number),
                // Half of a report that was being written when the process died.
                None => drop(fs::remove_file(entry.path())),
            }
        }
        kept.sort_unstable();
        let dropped = state.read_json(DROPPED, 64).unwrap_or(0);
        let mut queue = Queue { kept, unkept: None, dropped };
        queue.keep_bound(state);
        queue
    }

    /// Takes a report; those beyond the bound go, the oldest first.
    pub(super) fn push(&mut self, state: &StateDir, number: u64, report: Signed) {
        if self.unkept.take().is_some() {
            self.count_dropped(state, 1);
        }
        // The directory may have come and gone with a disk that was full.
        let _ = fs::create_dir(state.file(DIRECTORY));
        let written =
            serde_json::to_vec(&report).map_err(io::Error::from).and_then(|bytes| state.write(&name(number), &bytes));
        match written {
            Ok(()) => {
                self.kept.push(number);
                self.keep_bound(state);
            }
            Err(_) => self.unkept = Some((number, report)),
        }
    }

    fn keep_bound(&mut self, state: &StateDir) {
        let over = self.kept.len().saturating_sub(REPORTS_MAX);
        for number in self.kept.drain(..over) {
            let _ = fs::remove_file(state.file(&name(number)));
        }
        self.count_dropped(state, over as u64);
    }

    fn count_dropped(&mut self, state: &StateDir, more: u64) {
        if more > 0 {
            self.dropped = self.dropped.saturating_add(more);
            // A count only: of a full disk it survives in memory.
            let _ = state.write(DROPPED, self.dropped.to_string().as_bytes());
        }
    }

    /// The oldest one.
    pub(super) fn first(&mut self, state: &StateDir) -> Option<(u64, Signed)> {
        while let Some(number) = self.kept.first().copied() {
            if let Some(report) = state.read_json(&name(number), FILE_BYTES_MAX) {
                return Some((number, report));
            }
            // A disk that lost it.
            self.remove(state, number);
            self.count_dropped(state, 1);
        }
        self.unkept.clone()
    }

    /// The newest one.
    pub(super) fn last(&mut self, state: &StateDir) -> Option<Signed> {
        self.numbers().last().and_then(|number| self.get(state, *number))
    }

    pub(super) fn get(&self, state: &StateDir, number: u64) -> Option<Signed> {
        let unkept = self.unkept.as_ref().filter(|(unkept, _)| *unkept == number).map(|(_, report)| report.clone());
        unkept.or_else(|| state.read_json(&name(number), FILE_BYTES_MAX))
    }

    /// The server will never take it.
    pub(super) fn drop_one(&mut self, state: &StateDir, number: u64) {
        self.remove(state, number);
        self.count_dropped(state, 1);
    }

    /// The server has it.
    pub(super) fn remove(&mut self, state: &StateDir, number: u64) {
        self.kept.retain(|kept| *kept != number);
        let _ = fs::remove_file(state.file(&name(number)));
        self.unkept.take_if(|(unkept, _)| *unkept == number);
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        self.kept.iter().copied().chain(self.unkept.as_ref().map(|(number, _)| *number)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.unkept.is_none()
    }

    /// How many the server will never see, since it was last told.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The server was told.
    pub(super) fn forget_dropped(&mut self, state: &StateDir) {
        self.dropped = 0;
        let _ = fs::remove_file(state.file(DROPPED));
    }
}

fn name(number: u64) -> String {
    format!("{DIRECTORY}/{number:020}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(number: u64) -> Signed {
        Signed { payload: format!("\"{number}\""), signature: String::new() }
    }

    #[test]
    fn the_newest_are_kept_over_a_restart_and_the_rest_is_counted() {
        let scratch = tempfile::tempdir().unwrap();
        let state = StateDir::open(scratch.path()).unwrap();
        let mut queue = Queue::open(&state);
        for number in 1..=13 {
            queue.push(&state, number, report(number));
        }
        fs::write(state.file("queue/00000000000000000014.json.part"), "half").unwrap();
        let mut queue = Queue::open(&state);
        assert_eq!((queue.numbers(), queue.dropped()), ((4..=13).collect(), 3));
        assert_eq!(queue.first(&state).unwrap(), (4, report(4)));
        queue.remove(&state, 4);
        fs::write(state.file("queue/00000000000000000005.json"), "{").unwrap();
        assert_eq!(queue.first(&state).unwrap().0, 6, "one that the disk lost is passed over");
        assert_eq!(queue.dropped(), 4, "and counted");
        assert_eq!(queue.last(&state).unwrap(), report(13));
        queue.forget_dropped(&state);
        assert_eq!(Queue::open(&state).dropped(), 0);
    }

    #[test]
    fn a_disk_that_takes_nothing_leaves_the_newest_in_memory() {
        let scratch = tempfile::tempdir().unwrap();
        let state = StateDir::open(scratch.path()).unwrap();
        let mut queue = Queue::open(&state);
        fs::remove_dir(state.file(DIRECTORY)).unwrap();
        fs::write(state.file(DIRECTORY), "in the way").unwrap();
        queue.push(&state, 1, report(1));
        queue.push(&state, 2, report(2));
        assert_eq!((queue.first(&state).unwrap(), queue.dropped()), ((2, report(2)), 1));
        queue.remove(&state, 2);
        assert!(queue.is_empty());
    }
}
