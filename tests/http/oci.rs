//! Disk images out of a real registry (Debian's docker-registry) on the loopback.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use sha2::Digest;

use crate::disks::{MIB, noise};
use crate::lab::Lab;
use crate::process::Process;
use crate::sources::{Web, ok};
use crate::upload::wait_until;

/// The password `registry-secret` of the user `ci`, as htpasswd -B writes it.
const HTPASSWD: &str = "ci:$2b$05$8njpdqoYuMQcBksmH9bzZeESbPfSBN5ov4lV72vXbY5vPtbXFnIwu\n";
/// `ci:registry-secret` in base64.
const BASIC: &str = "Y2k6cmVnaXN0cnktc2VjcmV0";

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Registry {
    address: String,
    dir: tempfile::TempDir,
    _process: Process,
}

impl Registry {
    /// `auth`: a part of its configuration.
    fn start(auth: &str) -> Registry {
        let dir = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let place = dir.path().display();
        std::fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {place}/data\nhttp:\n  addr: {address}\n{}",
            auth.replace("DIR", &place.to_string())
        );
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        let mut serve = Command::new("docker-registry");
        serve.arg("serve").arg(dir.path().join("config.yml"));
        let process = Process::spawn(serve, &dir.path().join("log"));
        let registry = Registry { address, dir, _process: process };
        let answers = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            std::net::TcpStream::connect(&registry.address).is_ok()
        });
        assert!(answers, "{}", std::fs::read_to_string(registry.dir.path().join("log")).unwrap_or_default());
        registry
    }

    #[track_caller]
    fn curl(&self, arguments: &[&str]) -> String {
        let output = Command::new("curl")
            .args(["-sS", "--fail-with-body", "-u", "ci:registry-secret"])
            .args(arguments)
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "curl {arguments:?}: {said}");
        said
    }

    fn blob(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.dir.path().join("blob"), bytes).unwrap();
        let url = format!("http://{}/v2/{name}/blobs/uploads/", self.address);
        let head = self.curl(&["-X", "POST", "-D", "-", "-o", "/dev/null", &url]);
        let location = head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().trim();
        let digest = format!("sha256:{}", sha256(bytes));
        let joint = if location.contains('?') { '&' } else { '?' };
        let put = format!("{location}{joint}digest={digest}");
        self.curl(&["-X", "PUT", "-H", "Content-Type: application/octet-stream", "--data-binary", "@blob", &put]);
        digest
    }

    /// Pushes an artifact with these layers, as `oras push` does; gives its digest.
    fn push(&self, name: &str, tag: &str, layers: &[(&str, &[u8])]) -> String {
        let config = self.blob(name, b"{}");
        let layers: Vec<_> = layers
            .iter()
            .map(|(kind, bytes)| json!({ "mediaType": kind, "digest": self.blob(name, bytes), "size": bytes.len() }))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 },
            "layers": layers,
        });
        let text = manifest.to_string();
        std::fs::write(self.dir.path().join("manifest"), &text).unwrap();
        let url = format!("http://{}/v2/{name}/manifests/{tag}", self.address);
        let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json";
        self.curl(&["-X", "PUT", "-H", kind, "--data-binary", "@manifest", &url]);
        format!("sha256:{}", sha256(text.as_bytes()))
    }

    fn url(&self, rest: &str) -> String {
        format!("oci://{}/{rest}", self.address)
    }
}

/// The command, with no credentials but those that are given.
fn import(lab: &Lab, url: &str, name: &str, auth_file: Option<&Path>) -> Result<(), String> {
    let mut command = lab.regild_command(&["image", "import", url, "--as", name]);
    command.env("HOME", "/nonexistent").env_remove("REGISTRY_AUTH_FILE").env_remove("XDG_RUNTIME_DIR");
    command.args(auth_file.iter().flat_map(|file| [Path::new("--auth-file"), file]));
    let output = command.output().unwrap();
    wait_until("nothing is left", || std::fs::read_dir(lab.path("state/images/tmp")).unwrap().count() == 0);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("registry-secret") && !said.contains(BASIC), "{said}");
    if output.status.success() { Ok(()) } else { Err(said) }
}

const DISK: &str = "application/x-qemu-disk";

/// Promise: by tag and by digest it is the disk that was pushed; what is no disk image is refused; what is damaged in the
/// registry is not taken.
#[test]
fn a_disk_image_comes_out_of_a_registry() {
    let lab = Lab::new();
    let registry = Registry::start("");
    let disk = noise(31, 2 * MIB as usize);
    std::fs::write(lab.path("disk.raw"), &disk).unwrap();
    let mut convert = Command::new("qemu-img");
    convert.args("convert -O qcow2 disk.raw disk.qcow2".split(' ')).current_dir(lab.path(""));
    assert!(convert.status().unwrap().success());
    let qcow2 = std::fs::read(lab.path("disk.qcow2")).unwrap();
    let packed = zstd::bulk::compress(&disk, 3).unwrap();
    let digest = registry.push("team/disk", "v1", &[(DISK, &qcow2)]);
    registry.push("team/disk", "v2", &[("application/vnd.example.disk+zstd", &packed)]);
    lab.regild(&["image", "import", lab.path("disk.raw").to_str().unwrap(), "--as", "disk:file"]);
    import(&lab, &registry.url("team/disk:v1"), "disk:tag", None).unwrap();
    import(&lab, &registry.url(&format!("team/disk@{digest}")), "disk:digest", None).unwrap();
    import(&lab, &registry.url("team/disk:v2"), "disk:packed", None).unwrap();
    let shown = |name: &str| lab.json(&["image", "show", name]);
    let first = shown("disk:file")["content_digest"].clone();
    for name in ["disk:tag", "disk:digest", "disk:packed"] {
        assert_eq!(shown(name)["content_digest"], first, "{name}");
    }
    assert_eq!(shown("disk:tag")["source"], registry.url(&format!("team/disk@{digest}")));

    let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
    registry.push("team/two", "v1", &[(DISK, &qcow2), (DISK, &packed)]);
    registry.push("team/container", "v1", &[(tar, &packed)]);
    registry.push("team/text", "v1", &[(DISK, b"no disk at all")]);
    for (place, words) in [
        ("team/two:v1", "this has 2 layers"),
        ("team/container:v1", "a container image"),
        ("team/text:v1", "no multiple of 512"),
        ("team/disk:v9", "404"),
        ("team/none:v1", "404"),
        ("team/disk", "must be oci://"),
    ] {
        let said = import(&lab, &registry.url(place), "bad:1", None).unwrap_err();
        assert!(said.contains(words), "{place}: {said}");
    }
    // Damage at rest in the registry, which its own API does not look for.
    let hex = sha256(&qcow2);
    let file = registry.dir.path().join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    let mut bad = std::fs::read(&file).unwrap();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(&file, bad).unwrap();
    let said = import(&lab, &registry.url("team/disk:v1"), "bad:1", None).unwrap_err();
    assert!(said.contains("another file"), "{said}");
    assert_eq!(lab.json(&["image", "list"]).as_array().unwrap().len(), 4);
}

fn auth_file(lab: &Lab, registry: &Registry, auth: &str) -> std::path::PathBuf {
    let path = lab.path("auth.json");
    std::fs::write(&path, json!({ "auths": { &registry.address: { "auth": auth } } }).to_string()).unwrap();
    path
}

/// Promise: a registry that wants a password gets the one that is kept for it, and no other registry does.
#[test]
fn a_registry_with_a_password_gets_it() {
    let lab = Lab::new();
    let registry = Registry::start("auth:\n  htpasswd:\n    realm: test\n    path: DIR/htpasswd\n");
    let disk = noise(32, MIB as usize);
    registry.push("disk", "v1", &[(DISK, &disk)]);
    let url = registry.url("disk:v1");
    assert!(import(&lab, &url, "disk:1", None).unwrap_err().contains("wants a user and a password"));
    let wrong = auth_file(&lab, &registry, "Y2k6d3Jvbmc=");
    assert!(import(&lab, &url, "disk:1", Some(&wrong)).unwrap_err().contains("401"));
    let right = auth_file(&lab, &registry, BASIC);
    import(&lab, &url, "disk:1", Some(&right)).unwrap();
}

/// Promise: the token flow: the challenge's service is asked for this very scope, with the password, and its token is used.
#[test]
fn a_registry_with_tokens_is_asked_with_one() {
    let lab = Lab::new();
    let web = Web::new(|_| ok(br#"{"token":"the-token"}"#));
    // Debian's registry has this for tests: it gives the challenge, and takes whatever is brought.
    let auth = format!("auth:\n  silly:\n    realm: http://{}/token\n    service: the-service\n", web.address);
    let registry = Registry::start(&auth);
    let disk = noise(33, MIB as usize);
    registry.push("team/disk", "v1", &[(DISK, &disk)]);
    let auth_file = auth_file(&lab, &registry, BASIC);
    import(&lab, &registry.url("team/disk:v1"), "disk:1", Some(&auth_file)).unwrap();
    let heads = web.heads.lock().unwrap();
    assert!(!heads.is_empty());
    let asked = "GET /token?service=the-service&scope=repository:team%2Fdisk:pull HTTP/1.1";
    for head in heads.iter() {
        assert!(head.starts_with(asked) && head.contains(&format!("Basic {BASIC}")), "{head}");
    }
}
