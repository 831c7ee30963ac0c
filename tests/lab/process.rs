//! A child process that cannot outlive its test.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// How often a log is looked at. Short against what is waited for, long against the price of a look.
pub const POLL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Output and errors go to `log`, appended; there is no input.
    pub fn spawn(mut command: Command, log: &Path) -> Process {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("opening {}: {error}", log.display()));
        let errors = file.try_clone().expect("duplicating the log's descriptor");
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe and takes no lock.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {:?}: {error}", command.get_program()));
        Process { child, log: log.to_owned() }
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: what a crash or a power cut looks like.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, e.g. SIGTERM for an orderly stop or SIGHUP for a reload.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            let pid = Pid::from_child(&self.child);
            rustix::process::kill_process(pid, signal).expect("signalling a child of ours");
        }
    }

    /// The exit status, or `None` when it still runs after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if start.elapsed() > timeout {
                return None;
            }
            std::thread::sleep(POLL);
        }
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until the log holds `needle`; the error tells why not and shows the log's end.
    pub fn wait_log(&mut self, needle: &str, timeout: Duration) -> Result<Duration, String> {
        let start = Instant::now();
        loop {
            // In this order: what a process wrote just before it ended is found.
            let running = self.is_running();
            let log = self.log();
            if log.contains(needle) {
                return Ok(start.elapsed());
            }
            if !running || start.elapsed() > timeout {
                let why = if running { "timed out" } else { "the process ended" };
                return Err(format!("no {needle:?} in the log: {why}\n{}", last_lines(&log, 30)));
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
