//! A tree of files, its baseline, and the scans of it one after another.

use regild::agent::drift::{Found, LiveTree, Look, Scan, ScanError, Summary, Tree, record, state};
use regild::clock;
use regild::decide::drift::path;
use regild::decide::drift::policy::Rule;
use regild::wire::baseline::{Header, Known, Origin, Reader, Volume};
use regild::wire::manifest;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

pub const DAY: u64 = 86_400;
pub const CYCLE: Look<'static> = Look::Due { cycle_seconds: DAY };

pub struct Place {
    directory: tempfile::TempDir,
    /// The host's clock. Apart from the real one, so that what a test just wrote is not "just now".
    now: AtomicU64,
    pub rules: Vec<Rule>,
    baseline: String,
    /// Volumes beside `/`.
    pub volumes: Vec<Volume>,
}

/// What one scan said.
#[derive(Debug)]
pub struct Said {
    /// `aspects path`, in order.
    pub lines: Vec<String>,
    pub found: Vec<Found>,
    pub summary: Summary,
}

impl Place {
    pub fn empty() -> Place {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("root")).unwrap();
        let (rules, volumes) = (Vec::new(), Vec::new());
        // Each content has its hour of the day (`content::Turn`): at the same one, every run reads the same.
        let now = (clock::now() / DAY + 1) * DAY + 10_000;
        Place { directory, now: AtomicU64::new(now), rules, baseline: String::new(), volumes }
    }

    /// Something of everything, with its baseline.
    pub fn small() -> Place {
        let mut place = Place::empty();
        place.write("etc/passwd", b"root:x:0:0\n");
        place.write("etc/shadow", b"root:*\n");
        place.write("usr/bin/tool", &[7; 3 << 20]);
        place.write("usr/bin/su", b"\x7fELF su");
        place.write("usr/lib/unit.service", b"[Unit]\n");
        place.write("var/log/syslog", b"");
        place.run(
            "chmod 640 etc/shadow && chmod 4755 usr/bin/su && ln -s tool usr/bin/link && ln usr/bin/su usr/bin/su2",
        );
        place.run("mkfifo var/fifo && mknod var/null c 1 3 && truncate -s 5M var/holes && printf x >> var/holes");
        place.record();
        place
    }

    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub fn set_clock(&self, now: u64) {
        self.now.store(now, Ordering::Relaxed);
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// Outside of the tree.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root().join(path)
    }

    pub fn write(&self, path: impl AsRef<Path>, content: &[u8]) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// In the root of the tree.
    pub fn run(&self, script: &str) {
        let status = Command::new("sh").args(["-euc", script]).current_dir(self.root()).status().unwrap();
        assert!(status.success(), "{script}");
    }

    pub fn tree(&self) -> LiveTree {
        let known = self.volumes.iter().filter(|volume| volume.known == Known::Files);
        let declared = known.filter_map(|volume| volume.mounted_at.as_deref());
        LiveTree::new(&self.root(), declared.map(str::as_bytes)).unwrap()
    }

    pub fn record(&mut self) {
        let file = fs::File::create(self.beside("baseline")).unwrap();
        let all = Volume { partition: 1, format: "ext4".into(), mounted_at: Some("/".into()), known: Known::Files };
        let volumes = [vec![all], self.volumes.clone()].concat();
        let header = Header { image: "0".repeat(64), origin: Origin::Image, volumes };
        let (_, recorded) = record::record(&self.tree(), &header, file, 2, self.now()).unwrap();
        self.baseline = manifest::to_hex(&recorded.digest);
    }

    /// The next scan, a quarter of an hour after the one before.
    pub fn scan(&self, look: Look<'_>) -> Said {
        self.scan_of(&self.tree(), look)
    }

    pub fn scan_of(&self, tree: &impl Tree, look: Look<'_>) -> Said {
        self.set_clock(self.now() + 900);
        let state = self.beside("state");
        self.scan_with(tree, look, state::Reader::open(&state), &mut state::Writer::create(&state)).unwrap()
    }

    pub fn scan_with(
        &self,
        tree: &impl Tree,
        look: Look<'_>,
        former: Option<state::Reader>,
        out: &mut state::Writer,
    ) -> Result<Said, ScanError> {
        let baseline = Reader::new(fs::File::open(self.beside("baseline")).unwrap())?;
        let scan = Scan { tree, rules: &self.rules, look, now: self.now(), baseline: &self.baseline, threads: 2 };
        let mut found = Vec::new();
        let summary = scan.run(baseline, former, out, &mut |one| found.push(one.clone()))?;
        let line = |one: &Found| format!("{} {}", one.left, path::to_text(&one.finding.path));
        Ok(Said { lines: found.iter().map(line).collect(), found, summary })
    }
}

pub fn agent() -> Command {
    Command::new(env!("CARGO_BIN_EXE_regild-agent"))
}

pub fn rule(json: &str) -> Rule {
    let words: regild::wire::drift::Rule = serde_json::from_str(json).unwrap();
    Rule::try_from(&words).unwrap()
}
