//! Images of xfs and btrfs, which the server cannot read: the baseline that the deploy environment makes of a disk that
//! was just written (`regild-agent record-files`), and the look from outside at such a disk (`verify-files`). The kernel
//! of this machine mounts them. Needs root (loop devices) and a kernel with xfs and btrfs.

mod disks;
#[path = "volume/lab.rs"]
#[allow(dead_code)]
mod lab;
#[path = "volume/truth.rs"]
mod truth;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use disks::server::Server;
use disks::{StoreSource, Watch};
use lab::{Mounted, fill, image, sh};
use regild::agent::{WriteOptions, write_image};
use regild::decide::drift::finding::{Kind, Node};
use regild::decide::drift::path::to_text;
use regild::image::baseline::{BaselineState, FromHost};
use regild::image::{ImageRef, ImageStore, ImportRequest};
use regild::wire::baseline::{Header, Known, Origin, Reader};
use regild::wire::manifest::Manifest;
use serde_json::Value;

fn said(script: &str) -> String {
    let done = Command::new("bash").args(["-euo", "pipefail", "-c", script]).output().unwrap();
    assert!(done.status.success(), "{script}\n{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// A disk as block devices, which partitions of this machine's kernel may not be: one loop device for the whole, one
/// for each partition, called as the kernel would call them.
struct Attached {
    disk: PathBuf,
    loops: Vec<String>,
}

impl Attached {
    fn new(file: &Path, manifest: &Manifest, dir: &Path) -> Attached {
        std::fs::create_dir_all(dir).unwrap();
        let disk = dir.join("disk");
        let mut attached = Attached { disk: disk.clone(), loops: Vec::new() };
        attached.attach(file, "", &disk);
        for part in &manifest.boot.partitions {
            let (offset, length) = (part.first_lba * 512, (part.last_lba - part.first_lba + 1) * 512);
            let node = dir.join(format!("disk{}", part.number));
            attached.attach(file, &format!("--offset {offset} --sizelimit {length}"), &node);
        }
        attached
    }

    fn attach(&mut self, file: &Path, options: &str, node: &Path) {
        // Not --read-only: that nothing is written is what the tests are about.
        let name = said(&format!("losetup --find --show {options} {}", file.display()));
        let _ = std::fs::remove_file(node);
        std::os::unix::fs::symlink(&name, node).unwrap();
        self.loops.push(name);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        for name in &self.loops {
            let _ = Command::new("losetup").args(["--detach", name]).status();
        }
    }
}

fn digest(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut File::open(path).unwrap(), &mut hasher).unwrap();
    hasher.finalize()
}

/// An image on a disk that is larger than it, and the server that it came from.
struct Deployed {
    dir: tempfile::TempDir,
    store: Arc<ImageStore>,
    server: Server,
    disk: PathBuf,
    image: String,
    manifest: Manifest,
}

impl Deployed {
    fn new(dir: tempfile::TempDir, raw: &Path) -> Deployed {
        let store = Arc::new(ImageStore::open(&dir.path().join("store")).unwrap());
        let name: ImageRef = "golden:1".parse().unwrap();
        let request = ImportRequest { image: &name, now: 1, source: "test", max_image_bytes: 1 << 40 };
        let image = store.import(File::open(raw).unwrap(), &request, &|_| ()).unwrap().record().manifest.clone();
        store.make_baseline(&image, 1).unwrap();
        assert!(store.wants_host(&image));
        let manifest = store.manifest(&image).unwrap();
        let disk = dir.path().join("disk.raw");
        File::create(&disk).unwrap().set_len(manifest.image_bytes + (64 << 20)).unwrap();
        let options = WriteOptions { patience: Duration::from_secs(2), ..WriteOptions::default() };
        write_image(&StoreSource::new(&store), &manifest, &disk, &options, &Watch::default()).unwrap();
        let server = Server::start(store.clone());
        Deployed { dir, store, server, disk, image, manifest }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn attach(&self) -> Attached {
        Attached::new(&self.disk, &self.manifest, &self.at("nodes"))
    }

    /// A command of the agent that looks at the disk; it leaves no mount behind and no byte changed.
    fn looks(&self, arguments: &[&str]) -> String {
        let before = digest(&self.disk);
        let (attached, mounts) = (self.attach(), self.at("mounts"));
        let mut look = Command::new(env!("CARGO_BIN_EXE_regild-agent"));
        look.args(arguments).args(["--server", &self.server.url(), "--image", "golden:1"]);
        look.arg("--target").arg(&attached.disk).arg("--mounts").arg(&mounts);
        let done = look.output().unwrap();
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!table.contains(mounts.to_str().unwrap()), "still mounted:\n{table}");
        drop(attached);
        assert_eq!(digest(&self.disk), before, "the disk was written");
        format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
    }

    /// As a host makes it, and as the store takes it.
    fn record(&self) -> (Header, BTreeMap<Vec<u8>, Node>) {
        let out = self.at("list");
        let text = self.looks(&["record-files", "--host", "h-1", "--out", out.to_str().unwrap()]);
        assert!(text.contains(" entries"), "{text}");
        let host = FromHost { id: "h-1", os_release: Some("ID=golden\n"), is_last: false };
        let record = self.store.put_host_baseline(&self.image, host, File::open(&out).unwrap(), 9).unwrap();
        assert!(
            matches!(&record.state, BaselineState::Ready { origin: Origin::Host { id, .. }, .. } if id == "h-1"),
            "{record:?}"
        );
        assert_eq!(record.os_release.as_deref(), Some("ID=golden\n"), "it is in the list");
        let list = self.store.baseline_list(record.digest().unwrap()).unwrap();
        let reader = Reader::new(list).unwrap();
        let header = reader.header.clone();
        (header, reader.map(|entry| entry.map(|entry| (entry.path, entry.node)).unwrap()).collect())
    }

    /// Paths that a look from outside finds, and places that it could not look at.
    fn found(&self) -> (Vec<String>, Vec<String>) {
        let record = self.store.baseline_of(&self.image).unwrap().unwrap();
        let text = self.looks(&["verify-files", "--json", "--baseline", record.digest().unwrap()]);
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        assert_eq!(report["scan"]["kind"], "outside", "{report}");
        let list = |key: &str| -> Vec<String> {
            report[key].as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap().to_owned()).collect()
        };
        (list("findings"), list("gaps"))
    }

    /// Runs a script in the mounted file system of a partition.
    fn change(&self, partition: u32, options: &str, script: &str) {
        let part = self.manifest.boot.partitions.iter().find(|part| part.number == partition).unwrap();
        let options = format!("{options},offset={}", part.first_lba * 512);
        let mounted = Mounted::new(&self.disk, &self.at("change"), &options);
        sh(&format!("cd {}; {script}", mounted.0.display()));
    }
}

fn same(ours: &BTreeMap<Vec<u8>, Node>, truth: &BTreeMap<Vec<u8>, Node>) {
    for (path, node) in truth {
        assert_eq!(ours.get(path), Some(node), "ours and the kernel's of {}", to_text(path));
    }
    let more: Vec<String> = ours.keys().filter(|path| !truth.contains_key(*path)).map(|path| to_text(path)).collect();
    assert!(more.is_empty(), "the kernel does not show {more:?}");
}

/// What the kernel shows of a tree with others mounted over it, outer ones first.
fn merged(trees: &[(&str, &Path)]) -> BTreeMap<Vec<u8>, Node> {
    let mut all = BTreeMap::new();
    for (at, place) in trees {
        let within = |path: &[u8]| path.starts_with(format!("{at}/").as_bytes()) || path == at.as_bytes();
        all.retain(|path: &Vec<u8>, _| at.is_empty() || !within(path));
        all.extend(truth::walk(place).into_iter().map(|(path, node)| {
            let path =
                if path == b"/" && !at.is_empty() { at.as_bytes().to_vec() } else { [at.as_bytes(), &path].concat() };
            (path, node)
        }));
    }
    all
}

fn put(disk: &Path, number: u32, file: &Path) {
    sh(&format!(
        "dd if={} of={disk} bs=1M seek=$(( $(sgdisk -i {number} {disk} | sed -n 's/^First sector: \\([0-9]*\\).*/\\1/p') / 2048 )) \
         conv=notrunc,sparse status=none",
        file.display(),
        disk = disk.display()
    ));
}

/// A disk of an ESP, a root of xfs, an ext4 and a squashfs under `dir`, named `golden`; the images of its root and its data.
fn xfs_with_others(dir: &Path) -> [PathBuf; 2] {
    let at = |name: &str| dir.join(name);
    let root = image(dir, "root", 320, "mkfs.xfs -q -m uuid=0a1b2c3d-0000-4000-8000-000000000001");
    let data = image(dir, "data", 16, "mke2fs -q -t ext4 -L data");
    let esp = image(dir, "esp", 8, "mkfs.vfat -i 1a2b3c4d >/dev/null");
    {
        let (root, data) = (Mounted::new(&root, &at("mnt-root"), "rw"), Mounted::new(&data, &at("mnt-data"), "rw"));
        fill(&root.0);
        sh(&format!(
            r#"cd {root}; mkdir -p boot/efi/hidden srv/data usr/lib opt/app/hidden; echo x >srv/data/under-the-mount
            printf 'ID=golden\n' >usr/lib/os-release; ln -s ../usr/lib/os-release etc/os-release
            cat >etc/fstab <<'END'
            UUID=0a1b2c3d-0000-4000-8000-000000000001 / xfs defaults 0 0
            # /boot/efi was on /dev/sda1 during installation
            UUID=1A2B-3C4D /boot/efi vfat umask=0077 0 1
            LABEL=data /srv/data ext4 defaults 0 2
            PARTUUID=00000000-0000-4000-8000-000000000004 /opt/app squashfs ro 0 0
END
            cd {data}; echo y >file; mkdir -p deep/er; rmdir lost+found"#,
            root = root.0.display(),
            data = data.0.display(),
        ));
    }
    sh(&format!(
        "mkdir -p {tree}/EFI; echo loader >{tree}/EFI/loader; mcopy -s -i {esp} {tree}/EFI ::; \
         mksquashfs {tree} {squash} -quiet -no-progress; truncate -s 1M {squash}; truncate -s 360M {disk}; \
         sgdisk -n 1:0:+8M -t 1:EF00 -n 2:0:+320M -n 3:0:+16M \
           -n 4:0:+1M -u 4:00000000-0000-4000-8000-000000000004 {disk} >/dev/null",
        tree = at("tree").display(),
        esp = esp.display(),
        squash = at("squash").display(),
        disk = at("golden").display(),
    ));
    let squash = at("squash");
    for (number, file) in [(1, &esp), (2, &root), (3, &data), (4, &squash)] {
        put(&at("golden"), number, file);
    }
    [root, data]
}

/// Promises: of an image whose root is xfs, with an ESP, an ext4 and a squashfs beside it, a host makes the list of
/// exactly the files that the kernel shows with all of them mounted as its fstab says; not a byte of the disk changes;
/// a look from outside then finds it clean, and a swapped program with its times restored; a log that was not written
/// back is not replayed.
#[test]
fn an_image_of_xfs_is_known_by_its_first_host() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let [root, data] = xfs_with_others(dir.path());
    let raw = at("golden");
    let (mnt, mnt_data) = (at("mnt"), at("mnt-d"));
    let deployed = Deployed::new(dir, &raw);

    let (header, ours) = deployed.record();
    let how: Vec<_> = header.volumes.iter().map(|volume| (volume.partition, &*volume.format, &volume.known)).collect();
    assert_eq!(
        (how[0], how[1], how[2]),
        ((1, "vfat", &Known::Files), (2, "xfs", &Known::Files), (3, "ext4", &Known::Files))
    );
    assert!(matches!(how[3], (4, "squashfs", Known::Blocks { .. })), "{how:?}");
    {
        let mounts = [Mounted::new(&root, &mnt, "ro,norecovery,nouuid"), Mounted::new(&data, &mnt_data, "ro,noload")];
        let [root, data] = &mounts;
        let mut truth = merged(&[("", &root.0), ("/srv/data", &data.0)]);
        // What is mounted there is compared by its blocks, and is not in the list.
        truth.retain(|path, _| !path.starts_with(b"/opt/app"));
        // Of the FAT this machine's kernel may know nothing: by hand.
        truth.retain(|path, _| !path.starts_with(b"/boot/efi"));
        let mut ours = ours.clone();
        let loader = &ours[&b"/boot/efi/EFI/loader"[..]];
        let digest = *blake3::hash(b"loader\n").as_bytes();
        assert_eq!((loader.mode, &loader.kind), (0o700, &Kind::File { bytes: 7, digest: Some(digest) }));
        ours.retain(|path, _| !path.starts_with(b"/boot/efi"));
        assert!(truth.len() > 4000, "{} paths", truth.len());
        same(&ours, &truth);
    }
    let (findings, gaps) = deployed.found();
    assert_eq!(findings, Vec::<String>::new(), "{gaps:?}");
    assert!(!gaps.iter().any(|gap| gap.contains("partition-2") || !gap.starts_with('/')), "{gaps:?}");

    // As somebody does it who knows what is looked at.
    deployed.change(
        2,
        "rw,nouuid",
        "cp -p usr/bin/three-megabytes /tmp/regild-old.$$; printf EVIL | dd of=usr/bin/three-megabytes bs=1 seek=4096 conv=notrunc status=none; \
         touch -r /tmp/regild-old.$$ usr/bin/three-megabytes; rm /tmp/regild-old.$$; chmod u+s etc/passwd; rm one-byte",
    );
    let (mut findings, _) = deployed.found();
    findings.sort();
    assert_eq!(findings, ["/etc/passwd", "/one-byte", "/usr/bin/hard-link", "/usr/bin/three-megabytes"]);

    // A machine that lost its power: what only the log holds is not seen, and above all not written.
    let (raw, cut) = (deployed.disk.display().to_string(), deployed.at("cut").display().to_string());
    deployed.change(2, "rw,nouuid", &format!("echo late >etc/late; sync; cp --sparse=always {raw} {cut}"));
    sh(&format!("cp --sparse=always {cut} {raw}"));
    let (findings, _) = deployed.found();
    assert!(findings.len() >= 4 && findings.contains(&"/one-byte".to_owned()), "{findings:?}");
}

/// The same for btrfs as Debian's installer lays it out: the root in a subvolume that the fstab names, another one
/// mounted in it, one that nobody mounts.
#[test]
fn an_image_of_btrfs_is_known_by_the_subvolumes_that_it_mounts() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let root = image(dir.path(), "root", 320, "mkfs.btrfs -q -U 0a1b2c3d-0000-4000-8000-000000000002");
    {
        let top = Mounted::new(&root, &at("mnt"), "rw");
        sh(&format!(
            "cd {}; btrfs subvolume create @rootfs >/dev/null; btrfs subvolume create @home >/dev/null",
            top.0.display()
        ));
        fill(&top.0.join("@rootfs"));
        sh(&format!(
            r#"cd {}; mkdir -p @rootfs/home/hidden @rootfs/var/lib @rootfs/usr/lib; printf 'ID=golden\n' >@rootfs/usr/lib/os-release
            btrfs subvolume create @rootfs/var/lib/nested >/dev/null; echo in >@rootfs/var/lib/nested/file
            mkdir @home/me; echo mine >@home/me/file; setfattr -n user.x -v y @home/me/file
            cat >@rootfs/etc/fstab <<'END'
            UUID=0a1b2c3d-0000-4000-8000-000000000002 / btrfs defaults,subvol=@rootfs 0 0
            UUID=0a1b2c3d-0000-4000-8000-000000000002 /home btrfs subvol=/@home,compress=zstd 0 0
END
            btrfs subvolume snapshot -r @rootfs @snapshot >/dev/null"#,
            top.0.display()
        ));
    }
    sh(&format!("truncate -s 330M {0}; sgdisk -n 1:0:+320M {0} >/dev/null", at("golden").display()));
    put(&at("golden"), 1, &root);
    let raw = at("golden");
    let (mnt, mnt_home) = (at("mnt-r"), at("mnt-h"));
    let deployed = Deployed::new(dir, &raw);
    let (header, ours) = deployed.record();
    let how: Vec<_> = header
        .volumes
        .iter()
        .map(|volume| (volume.partition, &*volume.format, volume.mounted_at.as_deref(), volume.known == Known::Files))
        .collect();
    assert_eq!(how, [(1, "btrfs:@rootfs", Some("/"), true), (1, "btrfs:@home", Some("/home"), true)]);
    {
        let device = said(&format!("losetup --find --show {}", root.display()));
        let own = |at: &Path, name: &str| {
            std::fs::create_dir_all(at).unwrap();
            sh(&format!("mount -o ro,subvol={name} {device} {}", at.display()));
            Mounted(at.to_owned())
        };
        let mounts = [own(&mnt, "@rootfs"), own(&mnt_home, "@home")];
        let mut truth = merged(&[("", &mounts[0].0), ("/home", &mounts[1].0)]);
        let nested = truth::walk(&mounts[0].0.join("var/lib/nested")).into_iter();
        truth.extend(
            nested
                .filter(|(path, _)| path != b"/")
                .map(|(path, node)| ([b"/var/lib/nested", &path[..]].concat(), node)),
        );
        assert!(truth.len() > 4000, "{} paths", truth.len());
        same(&ours, &truth);
        drop(mounts);
        sh(&format!("losetup --detach {device}"));
    }
    let (findings, gaps) = deployed.found();
    assert_eq!(findings, Vec::<String>::new(), "{gaps:?}");

    deployed.change(
        1,
        "rw,subvol=/",
        "echo more >>@home/me/file; echo new >@rootfs/etc/new; echo other >@snapshot-of-mine",
    );
    let (mut findings, _) = deployed.found();
    findings.sort();
    assert_eq!(findings, ["/etc/new", "/home/me/file"]);
}

/// Promises: what cannot be mounted is an error with its reason, and no half a list.
#[test]
fn a_damaged_xfs_gives_a_reason_and_no_baseline() {
    let dir = tempfile::tempdir().unwrap();
    let root = image(dir.path(), "root", 320, "mkfs.xfs -q");
    // Behind the magic number: no superblock any more.
    sh(&format!("head -c 400 /dev/urandom | dd of={} bs=1 seek=8 conv=notrunc status=none", root.display()));
    let deployed = Deployed::new(dir, &root);
    let out = deployed.at("list");
    let text = deployed.looks(&["record-files", "--out", out.to_str().unwrap()]);
    assert!(text.contains("none is known as the root") && text.contains("xfs, partition 0"), "{text}");
}

/// Promises: where the server reads the root and not the data beside it, a host's list is taken when it has all that the
/// server has read as the server has read it, and adds the rest; one that says otherwise of the root is not taken.
#[test]
fn what_the_server_reads_itself_no_host_changes() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let root = image(dir.path(), "root", 16, "mke2fs -q -t ext4 -L root");
    let data = image(dir.path(), "data", 320, "mkfs.xfs -q -L data");
    {
        let (root, data) = (Mounted::new(&root, &at("mnt-root"), "rw"), Mounted::new(&data, &at("mnt-data"), "rw"));
        sh(&format!(
            "cd {}; mkdir -p etc usr/lib srv/data; printf 'ID=golden\\n' >usr/lib/os-release; \
             printf 'LABEL=root / ext4 defaults 0 1\\nLABEL=data /srv/data xfs defaults 0 0\\n' >etc/fstab; \
             cd {}; mkdir a; echo data >a/file",
            root.0.display(),
            data.0.display()
        ));
    }
    let raw = at("golden");
    sh(&format!("truncate -s 350M {0}; sgdisk -n 1:0:+16M -n 2:0:+320M {0} >/dev/null", raw.display()));
    put(&raw, 1, &root);
    put(&raw, 2, &data);
    let deployed = Deployed::new(dir, &raw);
    let own = deployed.store.baseline_of(&deployed.image).unwrap().unwrap();
    assert!(matches!(&own.state, BaselineState::Ready { origin: Origin::Image, .. }), "{own:?}");
    assert!(deployed.store.wants_host(&deployed.image));

    // A host whose root is another one, as if its list had been made later.
    let kept = deployed.at("kept");
    sh(&format!("cp --sparse=always {} {}", deployed.disk.display(), kept.display()));
    deployed.change(1, "rw", "echo evil >usr/lib/program");
    let out = deployed.at("list");
    deployed.looks(&["record-files", "--host", "h-1", "--out", out.to_str().unwrap()]);
    let host = FromHost { id: "h-1", os_release: None, is_last: false };
    let refused = deployed.store.put_host_baseline(&deployed.image, host, File::open(&out).unwrap(), 9).unwrap_err();
    assert!(refused.to_string().contains("is told otherwise: /usr/lib"), "{refused}");
    assert!(!refused.is_known(), "the next host is asked, and this one counts");
    assert_eq!(deployed.store.baseline_of(&deployed.image).unwrap(), Some(own.clone()));
    deployed.store.note_host_failure(&deployed.image, "h-1", "no such module").unwrap();
    let noted = deployed.store.baseline_of(&deployed.image).unwrap().unwrap();
    assert!(
        matches!(&noted.volumes[1].known, Known::Not { reason } if reason.ends_with("tried on h-1: no such module")),
        "{noted:?}"
    );

    sh(&format!("cp --sparse=always {} {}", kept.display(), deployed.disk.display()));
    let (header, ours) = deployed.record();
    assert!(header.volumes.iter().all(|volume| volume.known == Known::Files), "{header:?}");
    assert!(ours.contains_key(&b"/srv/data/a/file"[..]) && ours.contains_key(&b"/etc/fstab"[..]));
    assert!(!deployed.store.wants_host(&deployed.image));
    let (findings, gaps) = deployed.found();
    assert_eq!(findings, Vec::<String>::new(), "{gaps:?}");
    deployed.change(2, "rw,nouuid", "echo more >>a/file");
    assert_eq!(deployed.found().0, ["/srv/data/a/file"]);
}
