//! `regild stop`: a file beside the store, and nothing else.
//!
//! It must work when the store does not, survive a restart, and hold within a second: so it is no record but
//! `<state_dir>/stopped`, looked at before each decision (one stat(2), about a microsecond). The CLI can make the file
//! itself when the server does not answer. A file that is there but cannot be read counts as pressed.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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
pub struct StopSwitch {
    path: PathBuf,
}

impl StopSwitch {
    #[must_use]
    pub fn new(state_dir: &Path) -> StopSwitch {
        StopSwitch { path: state_dir.join(FILE_NAME) }
    }

    /// What the switch says now.
    #[must_use]
    pub fn pressed(&self) -> Option<Stop> {
        let unreadable = |why: String| Stop {
            by: "nobody knows".to_string(),
            reason: format!("{} cannot be read: {why}", self.path.display()),
            at: 0,
            running_too: false,
        };
        match fs::read(&self.path) {
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
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(stop)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        self.sync_dir()
    }

    /// Ends it.
    ///
    /// # Errors
    /// What removing the file gives; a switch that is not pressed is no error.
    pub fn release(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync_dir(),
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
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
    }
}
