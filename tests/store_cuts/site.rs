//! The real `regild`, in a network namespace of this thread.

use regild::image::{ImageStore, ImportRequest};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::life::IMAGE;
use crate::process::Process;
use crate::records::config_text;

/// For a server to start or to refuse, on a machine that others use too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a configuration, boot assets (of a few bytes: nothing boots here) and one image.
#[derive(Debug)]
pub struct Site {
    dir: tempfile::TempDir,
    process: Option<Process>,
    starts: u32,
}

impl Site {
    /// Moves this thread into a network namespace whose loopback has the server's address and all hosts'.
    pub fn new() -> Site {
        // SAFETY: CLONE_NEWNET changes nothing but this thread's network namespace; no memory, file descriptor
        // or file system state, which is what the function's safety section is about.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
            .unwrap_or_else(|error| panic!("a network namespace of our own: {error}; these tests need root"));
        ip("link set lo up");
        ip("address add 10.77.0.1/16 dev lo");
        let site = Site { dir: tempfile::tempdir().expect("a directory"), process: None, starts: 0 };
        std::fs::write(site.path("regild.toml"), config_text("state")).expect("writing the configuration");
        let assets = site.path("boot-assets");
        std::fs::create_dir(&assets).expect("a directory of boot assets");
        for name in regild::http::assets::NEEDED {
            std::fs::write(assets.join(name), name).expect("writing a boot asset");
        }
        let sums = Command::new("sha256sum").args(regild::http::assets::NEEDED).current_dir(&assets).output();
        std::fs::write(assets.join("SHA256SUMS"), sums.expect("running sha256sum").stdout).expect("writing the sums");
        let store = ImageStore::open(&site.state().join("images")).expect("an image store");
        let image = IMAGE.parse().expect("a name");
        let request = ImportRequest { image: &image, now: 1, source: "test", max_image_bytes: 1 << 20 };
        store.import(&[7u8; 4096][..], &request, &|_| ()).expect("importing");
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Begins a start, and does not wait for it.
    pub fn begin(&mut self) {
        self.starts += 1;
        self.process = Some(self.serve(&format!("serve-{}.log", self.starts)));
    }

    fn serve(&self, log: &str) -> Process {
        let mut serve = self.command(&["serve", "--config", "regild.toml"]);
        // What happens to each host would be most of the work of the disk.
        serve.env("RUST_LOG", "warn,regild::serve=info");
        Process::spawn(serve, &self.path(log))
    }

    /// Starts the server; gives the time until it serves.
    pub fn start(&mut self) -> Duration {
        let began = Instant::now();
        self.begin();
        let process = self.process.as_mut().expect("just begun");
        loop {
            let running = process.is_running();
            if process.log().contains("serving") {
                return began.elapsed();
            }
            assert!(running && began.elapsed() < PATIENCE, "the server does not start:\n{}", process.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// An orderly stop.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal(Signal::TERM);
        let status = process.wait(PATIENCE);
        assert!(status.is_some_and(|status| status.success()), "{status:?}:\n{}", process.log());
    }

    /// A start that must fail, beside the server if one runs: what it said.
    pub fn refused_start(&self) -> String {
        let log = "refused.log";
        let _ = std::fs::remove_file(self.path(log));
        let mut process = self.serve(log);
        let status = process.wait(PATIENCE);
        assert!(status.is_some_and(|status| status.code() == Some(1)), "{status:?}:\n{}", process.log());
        process.log()
    }

    /// Any other command, to its end.
    pub fn regild(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("running regild")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_regild"));
        command.args(arguments).current_dir(self.dir.path()).env("REGILD_SERVER", self.state().join("regild.sock"));
        command
    }

    /// What a power cut or a person with `cp` would find: the state without the images.
    pub fn copy_state(&self, to: &Path) {
        let _ = std::fs::remove_dir_all(to);
        std::fs::create_dir_all(to).expect("a directory for the copy");
        for part in ["store", "watermark"].map(|name| self.state().join(name)).iter().filter(|part| part.exists()) {
            let copied = Command::new("cp").arg("-r").arg(part).arg(to).status().expect("running cp");
            assert!(copied.success(), "copying {}", part.display());
        }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("running ip (package iproute2)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
