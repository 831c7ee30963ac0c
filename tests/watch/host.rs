//! A host: a file system of its own (ext4 in a file, as loop device) with an image's tree on it, and the agent's service.

use crate::server::Server;
use regild::agent::drift::{LiveTree, record};
use regild::clock;
use regild::wire::baseline::{Header, Known, Origin, Volume};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A mount that goes with its owner.
pub struct Mount(pub PathBuf);

impl Mount {
    pub fn new(at: &Path, arguments: &[&str]) -> Mount {
        fs::create_dir_all(at).unwrap();
        let done = Command::new("mount").args(arguments).arg(at).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "mount {arguments:?}: {said}; these tests need root and loop devices");
        Mount(at.to_path_buf())
    }

    pub fn remount(&self, options: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status().unwrap();
        assert!(done.success(), "remount {options}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: an agent that was just killed may still hold it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

pub struct Host {
    agent: Option<Child>,
    pub scratch: tempfile::TempDir,
    _disk: Mount,
    pub root: PathBuf,
    pub state: PathBuf,
    pub url: String,
}

const FILES: [(&str, &str); 6] = [
    ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
    ("etc/ssh/sshd_config", "PermitRootLogin no\n"),
    ("usr/bin/sudo", "a program\n"),
    ("usr/lib/unit", "[Unit]\n"),
    ("usr/lib/deep/er/file", "deep\n"),
    ("var/log/old", "log\n"),
];

impl Host {
    pub fn new() -> Host {
        let scratch = tempfile::tempdir().unwrap();
        let disk = scratch.path().join("disk");
        fs::File::create(&disk).unwrap().set_len(192 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F", "-N", "40000"]).arg(&disk).status().unwrap();
        assert!(made.success(), "mkfs.ext4");
        // Not the root of the file system, as it would be on a machine with subvolumes or bind mounts.
        let mounted = Mount::new(&scratch.path().join("mnt"), &["-o", "loop", disk.to_str().unwrap()]);
        let root = scratch.path().join("mnt/root");
        for (path, text) in FILES {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        }
        std::os::unix::fs::symlink("passwd", root.join("etc/link")).unwrap();
        let state = root.join("var/lib/regild-agent");
        Host { agent: None, scratch, _disk: mounted, root, state, url: String::new() }
    }

    /// As the server makes it of the image.
    pub fn baseline(&self) -> Vec<u8> {
        let mounted_at = Some("/".to_string());
        let volume = Volume { partition: 1, format: "ext4".into(), mounted_at, known: Known::Files };
        let header = Header { image: String::new(), origin: Origin::Image, volumes: vec![volume] };
        let tree = LiveTree::new(&self.root, []).unwrap();
        record::record(&tree, &header, Vec::new(), 1, clock::now()).unwrap().0
    }

    pub fn server(&mut self, rules: &str) -> Server {
        let mut rules: Vec<regild::wire::drift::Rule> = serde_json::from_str(rules).unwrap();
        // The root's and parents' own metadata are the image's; what the agent makes on its way is allowed by name.
        let own = r#"[{"pattern": "/var/lib", "action": "allow"}]"#;
        rules.extend(serde_json::from_str::<Vec<_>>(own).unwrap());
        let server = Server::start(self.baseline(), rules);
        self.url = server.url();
        server
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_regild-agent"));
        command.args(["watch", "--server", &self.url, "--settle-seconds", "1"]);
        command.arg("--root").arg(&self.root).arg("--state-dir").arg(&self.state);
        command.stdout(Stdio::null());
        command
    }

    pub fn start(&mut self) {
        self.agent = Some(self.command().spawn().unwrap());
    }

    /// With SIGKILL: there is no moment at which it may not be.
    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}
