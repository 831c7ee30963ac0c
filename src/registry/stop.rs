//! `regild stop`: a file beside the store, and nothing else.
//!
//! It must work when the store does not, survive a restart, and hold within a second: so it is no record but
//! `<state_dir>/stopped`, looked at before each decision (one stat(2), about a microsecond). The CLI can make the file
//! itself when the server does not answer. A file that is there but cannot be read counts as pressed.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Where the switch is, for whoever must press it by hand.
pub const FILE_NAME: &str = "stopped";

/// Who stopped everything, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub by: String,
    pub reason: String,
    /// Unix seconds.
    pub at: u64,
    /// Also agents that are at work stop, at their next report. Their disks do not boot until the order is done.
    pub running_too: bool,
}

impl Stop {
    /// `by: reason`, for whoever waits because of it.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!("by {}: {}", self.by, self.reason)
    }
}

/// The switch of one server.
#[derive(Debug, Clone)]
pub struct StopSwitch(Place);

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    /// Of a simulated server, which presses it thousands of times a second. Clones are one switch.
    Memory(Arc<Mutex<Option<Stop>>>),
}

impl StopSwitch {
    #[must_use]
    pub fn new(state_dir: &Path) -> StopSwitch {
        StopSwitch(Place::File(state_dir.join(FILE_NAME)))
    }

    /// A switch that is no file, for simulations: nothing of it outlives the process.
    #[must_use]
    pub fn in_memory() -> StopSwitch {
        StopSwitch(Place::Memory(Arc::default()))
    }

    /// What the switch says now.
    #[must_use]
    pub fn pressed(&self) -> Option<Stop> {
        let path = match &self.0 {
            Place::File(path) => path,
            Place::Memory(stop) => return stop.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        let unreadable = |why: String| Stop {
            by: "nobody knows".to_string(),
            reason: format!("{} cannot be read: {why}", path.display()),
            at: 0,
            running_too: false,
        };
        match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(unreadable(error.to_string())),
            Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap_or_else(|error| unreadable(error.to_string()))),
        }
    }

    /// Stops everything, on stable storage when this returns.
    ///
    /// # Errors
    /// What writing the file gives. When even that fails, `touch <state_dir>/stopped` or stop the server.
    pub fn press(&self, stop: &Stop) -> io::Result<()> {
        let path = match &self.0 {
            Place::File(path) => path,
            Place::Memory(switch) => {
                *switch.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop.clone());
                return Ok(());
            }
        };
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(stop)?)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        sync_dir(path)
    }

    /// Ends it.
    ///
    /// # Errors
    /// What removing the file gives; a switch that is not pressed is no error.
    pub fn release(&self) -> io::Result<()> {
        let path = match &self.0 {
            Place::File(path) => path,
            Place::Memory(switch) => {
                *switch.lock().unwrap_or_else(PoisonError::into_inner) = None;
                return Ok(());
            }
        };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_dir(path),
        }
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_is_a_file_and_one_that_cannot_be_read_counts_as_pressed() {
        let dir = tempfile::tempdir().unwrap();
        let switch = StopSwitch::new(dir.path());
        assert_eq!(switch.pressed(), None);
        switch.release().unwrap();
        let stop = Stop { by: "ann".into(), reason: "smoke in row 3".into(), at: 7, running_too: true };
        switch.press(&stop).unwrap();
        assert_eq!(StopSwitch::new(dir.path()).pressed(), Some(stop));
        switch.release().unwrap();
        assert_eq!(switch.pressed(), None);
        // By hand, with nothing but a shell.
        fs::write(dir.path().join(FILE_NAME), "").unwrap();
        assert!(switch.pressed().unwrap().reason.contains("cannot be read"));
        fs::remove_file(dir.path().join(FILE_NAME)).unwrap();
        fs::create_dir(dir.path().join(FILE_NAME)).unwrap();
        assert!(switch.pressed().unwrap().reason.contains("cannot be read"));
    }

    #[test]
    fn clones_of_a_switch_in_memory_are_one_switch() {
        let switch = StopSwitch::in_memory();
        let other = switch.clone();
        let stop = Stop { by: "ann".into(), reason: "smoke in row 3".into(), at: 7, running_too: false };
        switch.press(&stop).unwrap();
        assert_eq!(other.pressed(), Some(stop));
        other.release().unwrap();
        assert_eq!(switch.pressed(), None);
    }
}
