//! A disk that was deployed, looked at from outside by the real agent (`regild-agent verify-files`), after it was changed
//! with no system running on it: what is found, that it is what the installed agent's scan finds, and that nothing is
//! written. Needs root (loop devices) and the tiny image (`make images`).

mod disks;
#[path = "volume/lab.rs"]
#[allow(dead_code)]
mod lab;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use disks::server::Server;
use disks::{StoreSource, Watch};
use lab::{Mounted, sh};
use regild::agent::{WriteOptions, write_image};
use regild::image::{ImageRef, ImageStore, ImportRequest};
use regild::wire::baseline::{Header, Known, Reader};
use regild::wire::manifest::Manifest;
use serde_json::Value;

const TINY: &str = "target/lab/tiny-v1.raw";

/// The tiny image on a disk that is larger than it, and the server that it came from.
struct Deployed {
    dir: tempfile::TempDir,
    server: Server,
    disk: PathBuf,
    baseline: String,
    header: Header,
    manifest: Manifest,
}

impl Deployed {
    fn new() -> Deployed {
        Deployed::of(Path::new(TINY))
    }

    fn of(image: &Path) -> Deployed {
        let dir = tempfile::tempdir().unwrap();
        let file = File::open(image).unwrap();
        let store = Arc::new(ImageStore::open(&dir.path().join("store")).unwrap());
        let image: ImageRef = "tiny:v1".parse().unwrap();
        let request = ImportRequest { image: &image, now: 1, source: "test", max_image_bytes: 1 << 40 };
        let digest = store.import(file, &request, &|_| ()).unwrap().record().manifest.clone();
        let baseline = store.make_baseline(&digest, 1).unwrap().digest().expect("a baseline").to_owned();
        let header = Reader::new(store.baseline_list(&baseline).unwrap()).unwrap().header;
        let manifest = store.manifest(&digest).unwrap();
        let disk = dir.path().join("disk");
        File::create(&disk).unwrap().set_len(manifest.image_bytes + (64 << 20)).unwrap();
        let options = WriteOptions { patience: Duration::from_secs(2), ..WriteOptions::default() };
        write_image(&StoreSource::new(&store), &manifest, &disk, &options, &Watch::default()).unwrap();
        let server = Server::start(store);
        Deployed { dir, server, disk, baseline, header, manifest }
    }

    /// First byte of the partition that is mounted there.
    fn offset(&self, mounted_at: &str) -> u64 {
        let volume = self.header.volumes.iter().find(|volume| volume.mounted_at.as_deref() == Some(mounted_at));
        let number = volume.unwrap_or_else(|| panic!("{:?}", self.header.volumes)).partition;
        self.manifest.boot.partitions.iter().find(|part| part.number == number).unwrap().first_lba * 512
    }

    fn report(&self) -> Value {
        self.report_by("[]")
    }

    /// By these rules.
    fn report_by(&self, rules: &str) -> Value {
        let file = self.dir.path().join("rules");
        std::fs::write(&file, rules).unwrap();
        let before = digest(&self.disk);
        let mut look = Command::new(env!("CARGO_BIN_EXE_regild-agent"));
        look.args(["verify-files", "--server", &self.server.url(), "--image", "tiny:v1", "--json"]);
        look.args(["--baseline", &self.baseline, "--target", self.disk.to_str().unwrap()]);
        look.arg("--rules").arg(&file);
        let done = look.output().unwrap();
        assert_eq!(digest(&self.disk), before, "the disk was written");
        let text = String::from_utf8_lossy(&done.stdout);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}\n{}", String::from_utf8_lossy(&done.stderr)))
    }

    fn found(&self) -> BTreeSet<String> {
        let report = self.report();
        let findings = report["findings"].as_array().unwrap().clone();
        assert_eq!(report["findings_total"], findings.len(), "{report}");
        findings.iter().map(|finding| finding["path"].as_str().unwrap().to_owned()).collect()
    }

    /// Runs commands of debugfs on the root file system.
    fn debugfs(&self, commands: &str) {
        debugfs(&self.disk, self.offset("/"), commands, self.dir.path());
    }

    fn flip(&self, at: u64) {
        let file = File::options().read(true).write(true).open(&self.disk).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
    }
}

fn debugfs(disk: &Path, offset: u64, commands: &str, scratch: &Path) {
    let file = scratch.join("commands");
    std::fs::write(&file, commands).unwrap();
    sh(&format!("debugfs -w -f {} '{}?offset={offset}' >&2", file.display(), disk.display()));
}

fn digest(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut File::open(path).unwrap(), &mut hasher).unwrap();
    hasher.finalize()
}

fn paths(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|path| (*path).to_owned()).collect()
}

/// Promises: what was just deployed is clean, with the gaps stated; a swapped program with its times restored, a setuid
/// bit, a removed and an added file are found, and nothing else; the installed agent's scan of the same tree says the same.
#[test]
fn what_was_changed_while_nothing_ran_is_found_and_the_disk_stays_as_it_is() {
    let deployed = Deployed::new();
    let clean = deployed.report();
    assert_eq!((&clean["findings_total"], &clean["scan"]["kind"]), (&0.into(), &"outside".into()), "{clean}");
    assert!(clean["scan"]["paths"].as_u64().unwrap() > 50 && clean["scan"]["content_since"].as_u64().unwrap() > 0);
    let gaps: Vec<&str> = clean["gaps"].as_array().unwrap().iter().map(|gap| gap["path"].as_str().unwrap()).collect();
    assert!(gaps.contains(&"/.regild/disk/behind-image"), "{gaps:?}");

    // A program of the same length with the same times, as somebody puts it there who knows what is looked at.
    let swapped = deployed.dir.path().join("swapped");
    let offset = deployed.offset("/");
    sh(&format!(
        "debugfs -R 'dump /bin/busybox {0}' '{1}?offset={offset}' 2>&1; printf EVIL | dd of={0} bs=1 seek=4096 conv=notrunc 2>&1",
        swapped.display(),
        deployed.disk.display()
    ));
    deployed.debugfs(&format!(
        "stat /bin/busybox\nrm /bin/busybox\nwrite {} /bin/busybox\nset_inode_field /bin/busybox mode 0100755\n\
         set_inode_field /bin/busybox mtime @1700000000\nset_inode_field /sbin/init mode 0104755\n\
         rm /etc/regild-image\nmkdir /etc/cron.d\nset_inode_field /etc/cron.d mode 040755\nq\n",
        swapped.display()
    ));
    let expected = paths(&["/bin/busybox", "/etc/cron.d", "/etc/regild-image", "/sbin/init"]);
    let found = deployed.found();
    let extra: BTreeSet<_> = found.difference(&expected).collect();
    assert_eq!(found, expected, "{extra:?}");

    // The installed agent on the same tree, mounted by the kernel.
    let at = deployed.dir.path().join("mnt");
    let root = Mounted::new(&deployed.disk, &at, &format!("ro,noload,offset={offset}"));
    let baseline = deployed.dir.path().join("baseline");
    std::fs::write(
        &baseline,
        std::fs::read(deployed.dir.path().join(format!("store/baselines/{}", deployed.baseline))).unwrap(),
    )
    .unwrap();
    let mut scan = Command::new(env!("CARGO_BIN_EXE_regild-agent"));
    scan.args([
        "scan",
        "--full",
        "--json",
        "--root",
        root.0.to_str().unwrap(),
        "--baseline",
        baseline.to_str().unwrap(),
    ]);
    let said = String::from_utf8(scan.output().unwrap().stdout).unwrap();
    let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let inside: BTreeSet<String> =
        lines.filter_map(|line| line["finding"]["path"].as_str().map(str::to_owned)).collect();
    assert_eq!(inside, found);
}

/// Promise: in a directory that the policy allows as a whole, a set-uid program and a device are found from outside, too.
#[test]
fn a_privilege_in_an_allowed_directory_is_found_from_outside() {
    let deployed = Deployed::new();
    let file = deployed.dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let write = |name: &str| format!("write {} /var/drop/{name}\n", file.display());
    deployed.debugfs(&format!(
        "mkdir /var\nmkdir /var/drop\nset_inode_field /var/drop mode 040755\n{}{}set_inode_field /var/drop/su mode 0104755\n\
         cd /var/drop\nmknod disk b 8 0\nq\n",
        write("plain"),
        write("su")
    ));
    let rules = r#"[{"pattern": "/var/drop/**", "action": "allow"}, {"pattern": "/var", "action": "allow"}]"#;
    let report = deployed.report_by(rules);
    let found = report["findings"].as_array().unwrap().iter().map(|finding| finding["path"].as_str().unwrap());
    assert_eq!(found.collect::<Vec<_>>(), ["/var/drop/disk", "/var/drop/su"], "{report}");
}

/// Promises: boot code, partition table, boot sector and the space between partitions are looked at; a table that was
/// fitted to the disk, or a partition that was grown into it, is no difference.
#[test]
fn what_boots_the_machine_is_looked_at_outside_of_any_file_system() {
    let deployed = Deployed::new();
    assert_eq!(deployed.found(), paths(&[]));
    let disk = deployed.disk.display().to_string();
    let original = deployed.dir.path().join("original");
    sh(&format!("cp --sparse=always {disk} {}", original.display()));
    let anew = || sh(&format!("cp --sparse=always {} {disk}", original.display()));

    deployed.flip(100);
    assert_eq!(deployed.found(), paths(&["/.regild/disk/boot-area"]), "boot code in the MBR");
    anew();
    deployed.flip(deployed.offset("/") + 512);
    let root = deployed.header.volumes.iter().find(|volume| volume.mounted_at.as_deref() == Some("/")).unwrap();
    let sector = format!("/.regild/disk/partition-{}/boot-sector", root.partition);
    assert_eq!(deployed.found(), paths(&[&sector]), "in front of the root's superblock");
    anew();

    // The last partition grows into the larger disk, as cloud-init has it at the first boot.
    let last = deployed.manifest.boot.partitions.iter().max_by_key(|part| part.first_lba).unwrap();
    let (number, first, kind, unique) = (last.number, last.first_lba, &last.type_guid, &last.unique_guid);
    sh(&format!("sgdisk -d {number} -n {number}:{first}:0 -t {number}:{kind} -u {number}:{unique} {disk} >&2"));
    assert_eq!(deployed.found(), paths(&[]), "grown");
    // A partition of somebody's own behind it is stated; another type for one of the image's is a difference.
    anew();
    sh(&format!("sgdisk -n 9:0:+1M {disk} >&2"));
    let report = deployed.report();
    assert_eq!(report["findings_total"], 0, "{report}");
    assert!(report["gaps"].to_string().contains("/.regild/disk/partition-9"), "{report}");
    sh(&format!("sgdisk -t {number}:8300 -u {number}:R {disk} >&2"));
    assert_eq!(deployed.found(), paths(&["/.regild/disk/partition-table"]));
    anew();
    deployed.flip(deployed.disk.metadata().unwrap().len() - 512 * 33 + 40);
    assert_eq!(deployed.found(), paths(&["/.regild/disk/backup-partition-table"]));

    // What nobody writes to in use, block by block.
    anew();
    let blocks = deployed.header.volumes.iter().find_map(|volume| match volume.known {
        Known::Blocks { offset_bytes, .. } => Some((volume.partition, offset_bytes)),
        _ => None,
    });
    let (partition, at) = blocks.expect("the tiny image has a partition for GRUB's core");
    deployed.flip(at + 5000);
    assert_eq!(deployed.found(), paths(&[&format!("/.regild/disk/partition-{partition}")]));
}

/// A host that lost its power in the middle: what stands only in its journal counts, and the journal stays as it is.
#[test]
fn a_dirty_journal_is_read_and_not_replayed_onto_the_disk() {
    let deployed = Deployed::new();
    let (disk, dir) = (deployed.disk.display().to_string(), deployed.dir.path().display().to_string());
    let at = deployed.offset("/");
    {
        let root = Mounted::new(&deployed.disk, &deployed.dir.path().join("mnt"), &format!("rw,offset={at}"));
        sh(&format!("echo late >{}/etc/late; sync; cp --sparse=always {disk} {dir}/cut", root.0.display()));
    }
    sh(&format!("cp --sparse=always {dir}/cut {disk}; dumpe2fs -h '{disk}?offset={at}' 2>&1 | grep -q needs_recovery"));
    assert_eq!(deployed.found(), paths(&["/etc/late"]));
}

/// Bad input: an EFI system partition on which the reader of FAT panics (a directory in a cluster that no FAT has). That is
/// a gap with its reason; the rest of the disk is compared, and a finding beside it is told.
#[test]
fn a_fat_that_its_reader_panics_over_is_a_gap_and_the_rest_is_looked_at() {
    let scratch = tempfile::tempdir().unwrap();
    let (image, fstab) = (scratch.path().join("image"), scratch.path().join("fstab"));
    sh(&format!("cp --sparse=always {TINY} {}", image.display()));
    std::fs::write(&fstab, "# /mnt was on /dev/sda1 during installation\nUUID=1234-ABCD /mnt vfat umask=0077 0 0\n")
        .unwrap();
    // As the tiny image is partitioned (tests/images/build-tiny.sh).
    let (esp, root) = (4096 * 512, 135_168 * 512);
    debugfs(&image, root, &format!("mkdir /mnt\nwrite {} /etc/fstab\nq\n", fstab.display()), scratch.path());
    let deployed = Deployed::of(&image);
    assert_eq!((deployed.offset("/mnt"), deployed.offset("/")), (esp, root));
    assert_eq!(deployed.found(), paths(&[]));
    let file = File::options().read(true).write(true).open(&deployed.disk).unwrap();
    let mut fat = vec![0; 16 << 20];
    file.read_exact_at(&mut fat, esp).unwrap();
    let entry = fat.chunks_exact(32).position(|entry| entry.starts_with(b"EFI        \x10")).unwrap() as u64 * 32;
    // Its first cluster, the upper and the lower half.
    for (field, value) in [(20, [0, 0]), (26, [1, 0])] {
        file.write_all_at(&value, esp + entry + field).unwrap();
    }
    deployed.debugfs("rm /etc/regild-image\nq\n");
    let report = deployed.report();
    let gaps = report["gaps"].as_array().unwrap();
    let gap = gaps.iter().find(|gap| gap["path"] == "/mnt").unwrap_or_else(|| panic!("{report}"));
    assert!(gap["reason"].as_str().unwrap().contains("the FAT reader gave up on it"), "{gap}");
    assert_eq!(deployed.found(), paths(&["/etc/regild-image"]));
}
