//! The server under test: the real binary with config/lab.toml, and its CLI beside it.

use super::Lab;
use super::process::{POLL, Process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// `regild serve` in a lab.
#[derive(Debug)]
pub struct Server {
    binary: PathBuf,
    dir: PathBuf,
    process: Option<Process>,
    starts: u32,
}

impl Server {
    /// Starts the server in the lab's directory, with boot assets as `make assets` built them.
    pub fn start(lab: &Lab, binary: &Path) -> Server {
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/boot-assets");
        assert!(assets.join("SHA256SUMS").exists(), "no boot assets; do: make assets");
        std::os::unix::fs::symlink(assets, lab.dir().join("boot-assets")).expect("linking the boot assets");
        let mut server = Server { binary: binary.to_owned(), dir: lab.dir().to_owned(), process: None, starts: 0 };
        server.start_again(lab);
        server
    }

    /// Starts it on the state that the former one left behind.
    pub fn start_again(&mut self, lab: &Lab) {
        self.start_with(lab, &[]);
    }

    /// The same, so many seconds later by its wall clock: as after a downtime, since the monotonic clock of a process
    /// says nothing of the time before it.
    pub fn start_later(&mut self, lab: &Lab, seconds: u64) {
        const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
        assert!(Path::new(FAKETIME).exists(), "no {FAKETIME}; do: apt-get install libfaketime");
        let later = format!("+{seconds}s");
        self.start_with(lab, &[("LD_PRELOAD", FAKETIME), ("FAKETIME", &later), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]);
        // libfaketime's own, for child processes, of which there are none; a killed server would leave them behind.
        for name in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = std::fs::remove_file(format!("/dev/shm/{name}{}", self.pid()));
        }
    }

    fn start_with(&mut self, lab: &Lab, environment: &[(&str, &str)]) {
        self.starts += 1;
        let mut serve = Command::new(&self.binary);
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/lab.toml");
        serve.args(["serve", "--config"]).arg(config).current_dir(&self.dir);
        serve.envs(environment.iter().copied());
        let mut process = lab.spawn(serve, &format!("serve-{}.log", self.starts));
        process.wait_log("serving", Duration::from_secs(20)).expect("the server starts");
        self.process = Some(process);
    }

    /// kill -9: no farewell, nothing flushed that was not flushed before.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server runs").pid()
    }

    /// What the server logged since its last start.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("state/regild.sock")
    }

    /// Runs an operator's command and gives its standard output; the command must succeed.
    pub fn regild(&self, arguments: &[&str]) -> String {
        let output = self.try_regild(arguments);
        assert!(output.status.success(), "regild {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn try_regild(&self, arguments: &[&str]) -> Output {
        let socket = self.socket();
        let mut command = Command::new(&self.binary);
        command.arg("--server").arg(socket).args(arguments).env("USER", "lab");
        command.output().expect("running the regild command")
    }

    /// One host as `-o json` shows it, or null when it is not known.
    pub fn host(&self, id: &str) -> Value {
        let output = self.try_regild(&["host", "show", id, "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Waits until `wanted` holds for a host.
    pub fn wait_host(
        &self,
        id: &str,
        what: &str,
        timeout: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, String> {
        let start = Instant::now();
        loop {
            let host = self.host(id);
            if wanted(&host) {
                return Ok(host);
            }
            if start.elapsed() > timeout {
                let log = self.log();
                let end = log.lines().rev().take(25).collect::<Vec<_>>().into_iter().rev();
                let end = end.collect::<Vec<_>>().join("\n");
                return Err(format!("{id} is not {what} after {timeout:?}: {host:#}\nserver log:\n{end}"));
            }
            std::thread::sleep(POLL * 5);
        }
    }
}
