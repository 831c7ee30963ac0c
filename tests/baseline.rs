//! The baseline of an image is what its system shows, mounted as its own fstab mounts it: entry by entry.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use regild::decide::drift::finding::{Kind, Node};
use regild::decide::drift::path::to_text;
use regild::image::baseline::{BaselineRecord, BaselineState, FromHost};
use regild::image::gc::GcRequest;
use regild::image::{ImageRef, ImageStore, ImportRequest};
use regild::wire::baseline::{Entry, Header, Known, Origin, Reader, Volume, Writer};

#[path = "volume/lab.rs"]
#[allow(dead_code)]
mod lab;
#[path = "volume/truth.rs"]
mod truth;

use lab::{Mounted, image, sh};

fn import(store: &ImageStore, file: &Path, name: &str) -> String {
    let image: ImageRef = name.parse().unwrap();
    let request = ImportRequest { image: &image, now: 1, source: "test", max_image_bytes: 1 << 40 };
    store.import(File::open(file).unwrap(), &request, &|_| ()).unwrap().record().manifest.clone()
}

fn entries(store: &ImageStore, record: &BaselineRecord) -> BTreeMap<Vec<u8>, Node> {
    let digest = record.digest().unwrap_or_else(|| panic!("{record:?}"));
    let reader = Reader::new(store.baseline_list(digest).unwrap()).unwrap();
    assert_eq!((&reader.header.image, &reader.header.volumes), (&record.manifest, &record.volumes));
    reader.map(|entry| entry.map(|entry| (entry.path, entry.node)).unwrap()).collect()
}

fn same(ours: &BTreeMap<Vec<u8>, Node>, truth: &[(Vec<u8>, Node)], skip: &str) {
    let mut compared = 0;
    for (path, node) in truth {
        assert_eq!(ours.get(path), Some(node), "ours and the kernel's of {}", to_text(path));
        compared += 1;
    }
    let under = |path: &[u8]| path == skip.as_bytes() || path.starts_with(format!("{skip}/").as_bytes());
    let other = ours.keys().filter(|path| skip.is_empty() || !under(path)).count();
    assert_eq!(other, compared, "paths that the kernel does not show");
}

/// Issue 4: the lab's golden image, as it is imported and as it boots.
#[test]
fn the_baseline_of_the_tiny_image_is_what_the_kernel_shows() {
    let tiny = Path::new("target/lab/tiny-v1.raw");
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    let manifest = import(&store, tiny, "tiny:1");
    assert_eq!(store.baseline_of(&manifest).unwrap(), None, "an import does not wait for it");
    let record = store.make_baseline(&manifest, 7).unwrap();
    let BaselineState::Ready { entries: count, origin: Origin::Image, .. } = &record.state else {
        panic!("{record:?}")
    };
    assert!(record.os_release.as_ref().is_some_and(|text| text.starts_with("ID=regild-tiny\n")), "{record:?}");
    let ours = entries(&store, &record);
    assert_eq!(ours.len() as u64, *count);
    let root = store.manifest(&manifest).unwrap().boot.partitions.iter().find(|p| p.name == "root").unwrap().first_lba;
    let mounted = Mounted::new(tiny, &dir.path().join("mnt"), &format!("ro,noload,offset={}", root * 512));
    let truth = truth::walk(&mounted.0);
    assert!(truth.len() > 50, "{} paths", truth.len());
    same(&ours, &truth, "");
    let how: Vec<_> = record.volumes.iter().map(|volume| (volume.partition, &*volume.format)).collect();
    assert_eq!(how, [(1, "unknown"), (2, "vfat"), (3, "ext4")], "{:?}", record.volumes);
    assert_eq!(store.make_baseline(&manifest, 9).unwrap(), record, "it is made once");
    let some = truth.iter().find(|(_, node)| matches!(node.kind, Kind::File { bytes, .. } if bytes > 10)).unwrap();
    let content = store.read_file(&manifest, &some.0, 10).unwrap().unwrap();
    assert_eq!(content, fs::read(mounted.0.join(to_text(&some.0[1..]))).unwrap()[..10]);
    assert_eq!(store.read_file(&manifest, b"/none", 10).unwrap(), None);
}

/// A disk of seven partitions under `dir`, named `disk`; the images of its root and its /boot.
fn many_partitions(dir: &Path) -> [PathBuf; 2] {
    let at = |name: &str| dir.join(name);
    let place = |name: &str| at(name).display().to_string();
    let root = image(dir, "root", 24, "mke2fs -q -t ext4 -U 0a1b2c3d-0000-4000-8000-000000000001");
    let boot = image(dir, "boot", 8, "mke2fs -q -t ext2 -L 'my boot'");
    let esp = image(dir, "esp", 8, "mkfs.vfat -i 1a2b3c4d >/dev/null");
    let swap = image(dir, "swap", 4, "mkswap");
    let xfs = image(dir, "xfs", 320, "mkfs.xfs -q");
    {
        let (root, boot) = (Mounted::new(&root, &at("mnt-root"), "rw"), Mounted::new(&boot, &at("mnt-boot"), "rw"));
        sh(&format!(
            r#"cd {root}; mkdir -p etc usr/share opt/app boot/hidden 'srv/my data' bootstrap
            echo hidden >boot/hidden/file; echo x >opt/app/under-squashfs; echo y >bootstrap/z
            cat >etc/fstab <<'END'
            # made by hand
            UUID=0A1B2C3D-0000-4000-8000-000000000001 / ext4 errors=remount-ro 0 1
            LABEL=my\040boot /boot ext2 defaults 0 2
            UUID=1A2B-3C4D /boot/efi vfat umask=0077 0 1
            /dev/sda4 none swap sw 0 0
            PARTUUID=00000000-0000-4000-8000-000000000005 /opt/app squashfs ro 0 0
            PARTLABEL=data /srv/my\040data xfs defaults 0 0
            tmpfs /tmp tmpfs defaults 0 0
END
            cd {boot}; mkdir efi grub; echo kernel >vmlinuz; echo wrong >efi/under-the-mount"#,
            root = root.0.display(),
            boot = boot.0.display(),
        ));
    }
    sh(&format!(
        r#"mkdir -p {t}/EFI/BOOT; echo loader >{t}/EFI/BOOT/BOOTX64.EFI; mcopy -s -i {esp} {t}/EFI ::
        mksquashfs {t} {s} -quiet -no-progress; truncate -s 1M {s}
        truncate -s 400M {disk}
        sgdisk -n 1:0:+24M -n 2:0:+8M -c 2:BOOT -n 3:0:+8M -t 3:EF00 -n 4:0:+4M -t 4:8200 -n 5:0:+1M \
          -u 5:00000000-0000-4000-8000-000000000005 -n 6:0:+320M -c 6:data -n 7:0:+1M {disk} >/dev/null
        put() {{ dd if=$2 of={disk} bs=1M seek=$(( $(sgdisk -i $1 {disk} | sed -n 's/^First sector: \([0-9]*\).*/\1/p') / 2048 )) conv=notrunc,sparse status=none; }}
        put 1 {root}; put 2 {boot}; put 3 {esp}; put 4 {swap}; put 5 {s}; put 6 {xfs}"#,
        t = place("esp-tree"),
        s = place("squash"),
        disk = place("disk"),
        root = root.display(),
        boot = boot.display(),
        esp = esp.display(),
        swap = swap.display(),
        xfs = xfs.display(),
    ));
    [root, boot]
}

/// Root, /boot, /boot/efi, swap, squashfs, xfs, something blank: one tree, and a word for each that is not in it.
#[test]
fn partitions_become_one_tree_by_the_images_own_fstab() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let [root, boot] = many_partitions(dir.path());
    let store = ImageStore::open(&at("store")).unwrap();
    let record = store.make_baseline(&import(&store, &at("disk"), "many:1"), 7).unwrap();
    let ours = entries(&store, &record);
    // The truth: what the kernel shows of root and boot, mounted over each other; the rest of it is known by hand.
    let mounts = [Mounted::new(&root, &at("mnt-root"), "ro"), Mounted::new(&boot, &at("mnt-boot"), "ro")];
    let mut truth = truth::walk(&mounts[0].0);
    truth.retain(|(path, _)| !path.starts_with(b"/boot/") && path != b"/boot" && !path.starts_with(b"/opt/app"));
    truth.retain(|(path, _)| !path.starts_with(b"/srv/my data"));
    let inner = truth::walk(&mounts[1].0).into_iter().filter(|(path, _)| !path.starts_with(b"/efi"));
    truth.extend(
        inner.map(|(path, node)| (if path == b"/" { b"/boot".to_vec() } else { [b"/boot", &path[..]].concat() }, node)),
    );
    same(&ours, &truth, "/boot/efi");
    let loader = &ours[&b"/boot/efi/EFI/BOOT/BOOTX64.EFI"[..]];
    let digest = *blake3::hash(b"loader\n").as_bytes();
    assert_eq!((loader.mode, &loader.kind), (0o700, &Kind::File { bytes: 7, digest: Some(digest) }));
    assert!(!ours.contains_key(&b"/boot/efi/under-the-mount"[..]) && ours.contains_key(&b"/bootstrap/z"[..]));
    let said: Vec<_> = record
        .volumes
        .iter()
        .map(|volume| {
            let how = match &volume.known {
                Known::Files => "files".to_owned(),
                Known::Blocks { length_bytes, .. } => format!("blocks {length_bytes}"),
                Known::Not { reason } => reason.clone(),
            };
            (volume.partition, &*volume.format, volume.mounted_at.as_deref(), how)
        })
        .collect();
    let by_kernel =
        "the server does not read xfs; the deploy environment's kernel does, on the first host that gets the image";
    let expected: [(u32, &str, Option<&str>, &str); 7] = [
        (1, "ext4", Some("/"), "files"),
        (2, "ext2", Some("/boot"), "files"),
        (3, "vfat", Some("/boot/efi"), "files"),
        (4, "swap", None, "swap space has no files"),
        (5, "squashfs", Some("/opt/app"), "blocks 1048576"),
        (6, "xfs", Some("/srv/my data"), by_kernel),
        (7, "blank", None, "nothing is in it"),
    ];
    let expected: Vec<_> =
        expected.iter().map(|(number, format, at, how)| (*number, *format, *at, (*how).to_owned())).collect();
    assert_eq!(said, expected);
    // A host may add the xfs, and cannot leave out what the server has read: that counts against it.
    let origin = Origin::Host { id: "h-1".into(), at: 5 };
    let theirs = Header { image: record.manifest.clone(), origin, volumes: Vec::new() };
    let mut theirs = Writer::new(Vec::new(), &theirs).unwrap();
    theirs.add(Entry { path: b"/".to_vec(), node: ours[&b"/"[..]].clone() }).unwrap();
    let host = FromHost { id: "h-1", os_release: None, is_last: true };
    let refused = store.put_host_baseline(&record.manifest, host, &theirs.finish().unwrap().0[..], 8).unwrap_err();
    assert!(refused.to_string().contains("is told otherwise: /") && !refused.is_known(), "{refused}");
    assert!(store.wants_host(&record.manifest));
}

/// A root that the server cannot read: a host's deploy environment does, and its list stands in.
#[test]
fn a_root_of_xfs_waits_for_a_host() {
    let dir = tempfile::tempdir().unwrap();
    let file = image(dir.path(), "xfs", 320, "mkfs.xfs -q");
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    let manifest = import(&store, &file, "xfs:1");
    let record = store.make_baseline(&manifest, 7).unwrap();
    assert!(matches!(&record.state, BaselineState::NeedsHost { reason } if reason.contains("xfs")), "{record:?}");
    let list = |image: &str, origin: Origin, path: &str| {
        let header = Header { image: image.to_owned(), origin, volumes: Vec::new() };
        let mut writer = Writer::new(Vec::new(), &header).unwrap();
        let node = Node { kind: Kind::Directory, mode: 0o755, uid: 0, gid: 0, modified: 0, xattrs: Vec::new() };
        writer.add(Entry { path: path.as_bytes().to_vec(), node }).unwrap();
        writer.finish().unwrap().0
    };
    let host = |id: &str| Origin::Host { id: id.into(), at: 5 };
    let put = |list: Vec<u8>, id: &str, now| {
        store.put_host_baseline(&manifest, FromHost { id, os_release: None, is_last: false }, &list[..], now)
    };
    let bad = [
        list(&manifest, Origin::Image, "/"),
        list("other", host("h-1"), "/"),
        list(&manifest, host("h-2"), "/"),
        b"RGLDBASE\x01\0cut".to_vec(),
        Vec::new(),
    ];
    for (at, bytes) in bad.into_iter().enumerate() {
        assert!(put(bytes, "h-1", 9).is_err(), "{at}");
    }
    assert_eq!(store.baseline_of(&manifest).unwrap(), Some(record));
    assert!(store.wants_host(&manifest));
    let first = put(list(&manifest, host("h-1"), "/"), "h-1", 8).unwrap();
    assert!(!store.wants_host(&manifest));
    // Another host's list has another digest, since it names the host; the content counts.
    assert_eq!(put(list(&manifest, host("h-2"), "/"), "h-2", 9).unwrap(), first);
    let refused = put(list(&manifest, host("h-2"), "/other"), "h-2", 9).unwrap_err();
    assert!(refused.to_string().contains("h-1 has told another content") && refused.is_known(), "{refused}");
    assert_eq!(store.baseline_of(&manifest).unwrap().as_ref(), Some(&first));
    assert_eq!(entries(&store, &first).len(), 1);
    store.remove_baseline(&manifest).unwrap();
    assert_eq!(store.baseline_of(&manifest).unwrap(), None);
}

/// A kernel that could not read one of the volumes tells no whole image: the next host is asked, and only the last one's
/// list is better than none.
#[test]
fn a_list_that_lacks_a_volume_is_taken_from_the_last_host_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = image(dir.path(), "xfs", 320, "mkfs.xfs -q");
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    let manifest = import(&store, &file, "xfs:1");
    store.make_baseline(&manifest, 7).unwrap();
    let list = |known| {
        let home = Volume { partition: 2, format: "btrfs:@home".into(), mounted_at: Some("/home".into()), known };
        let origin = Origin::Host { id: "h-1".into(), at: 5 };
        let header = Header { image: manifest.clone(), origin, volumes: vec![home] };
        let mut writer = Writer::new(Vec::new(), &header).unwrap();
        let node = Node { kind: Kind::Directory, mode: 0o755, uid: 0, gid: 0, modified: 0, xattrs: Vec::new() };
        writer.add(Entry { path: b"/".to_vec(), node }).unwrap();
        writer.finish().unwrap().0
    };
    let put = |list: Vec<u8>, is_last| {
        store.put_host_baseline(&manifest, FromHost { id: "h-1", os_release: None, is_last }, &list[..], 9)
    };
    let lacking = list(Known::Not { reason: "no memory".into() });
    let refused = put(lacking.clone(), false).unwrap_err();
    assert!(refused.to_string().ends_with("partition 2: no memory") && !refused.is_known(), "{refused}");
    assert!(store.wants_host(&manifest));
    put(lacking, true).unwrap();
    let ready = store.baseline_of(&manifest).unwrap();
    store.note_host_failure(&manifest, "h-2", "too late").unwrap();
    assert_eq!(store.baseline_of(&manifest).unwrap(), ready, "the host's list stays as it is");
    store.remove_baseline(&manifest).unwrap();
    store.make_baseline(&manifest, 7).unwrap();
    put(list(Known::Files), false).unwrap();
}

/// A root of ext4 with a few files.
fn plain(dir: &Path) -> PathBuf {
    sh(&format!(
        "cd {}; mkdir -p tree/etc tree/usr; : >tree/etc/fstab; head -c 300000 /dev/urandom >tree/usr/data; truncate -s 4M plain
        mke2fs -q -t ext4 -d tree plain",
        dir.display()
    ));
    dir.join("plain")
}

#[test]
fn a_host_replaces_no_baseline_of_the_servers_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    let manifest = import(&store, &plain(dir.path()), "plain:1");
    let ours = store.make_baseline(&manifest, 7).unwrap();
    let header =
        Header { image: manifest.clone(), origin: Origin::Host { id: "h-1".into(), at: 5 }, volumes: Vec::new() };
    let mut theirs = Writer::new(Vec::new(), &header).unwrap();
    let node = Node { kind: Kind::Directory, mode: 0o755, uid: 0, gid: 0, modified: 0, xattrs: Vec::new() };
    theirs.add(Entry { path: b"/".to_vec(), node }).unwrap();
    let theirs = theirs.finish().unwrap().0;
    let host = FromHost { id: "h-1", os_release: None, is_last: false };
    let refused = store.put_host_baseline(&manifest, host, &theirs[..], 8).unwrap_err();
    assert!(refused.to_string().contains("has read this image itself"), "{refused}");
    assert_eq!(store.baseline_of(&manifest).unwrap(), Some(ours));
}

/// Files of a store go bad on disks; what is compared with hosts must not come from such a one.
#[test]
fn a_damaged_pack_makes_no_host_drift() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    let manifest = import(&store, &plain(dir.path()), "plain:1");
    let packs = fs::read_dir(dir.path().join("store/packs")).unwrap().map(|entry| entry.unwrap().path());
    let pack = packs.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "pack")).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let record = store.make_baseline(&manifest, 7).unwrap();
    assert!(matches!(&record.state, BaselineState::Failed { reason } if reason.contains("is damaged")), "{record:?}");
}

/// A pack of which a collection took what nobody needs any more has another digest than its name, and is right.
#[test]
fn a_pack_that_was_thinned_gives_a_baseline() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    let first = plain(dir.path());
    let mut bytes = fs::read(&first).unwrap();
    bytes.resize(8 << 20, 0);
    blake3::Hasher::new().finalize_xof().fill(&mut bytes[4 << 20..]);
    let longer = dir.path().join("longer");
    fs::write(&longer, bytes).unwrap();
    import(&store, &longer, "plain:longer");
    let manifest = import(&store, &first, "plain:1");
    let collect = ["plain:longer".parse().unwrap()].into();
    let in_use = BTreeMap::new();
    let patience = std::time::Duration::ZERO;
    let request = GcRequest { collect: &collect, in_use: &in_use, now: 2_000_000_000, patience, dry_run: false };
    let report = store.gc(&request).unwrap();
    assert!(report.freed_bytes > 3 << 20, "{report:?}");
    let id = &report.packs[0].id;
    assert_ne!(
        regild::wire::manifest::digest_hex(&fs::read(dir.path().join(format!("store/packs/{id}.pack"))).unwrap()),
        *id,
        "it was thinned"
    );
    let record = store.make_baseline(&manifest, 7).unwrap();
    assert_eq!(entries(&store, &record).len(), 6);
}

/// A crash between list and record leaves a list that nothing names: it goes, and what is named stays.
#[test]
fn a_list_that_nothing_names_is_removed_when_the_store_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    let store = ImageStore::open(&place).unwrap();
    let record = store.make_baseline(&import(&store, &plain(dir.path()), "plain:1"), 7).unwrap();
    let left_over = place.join("baselines").join("0".repeat(64));
    fs::write(&left_over, "left by a crash").unwrap();
    drop(store);
    let store = ImageStore::open(&place).unwrap();
    assert!(!left_over.exists());
    assert_eq!(entries(&store, &record).len(), 6);
}

/// faults.md C4: what is no system says so, and a damaged one names the partition and the path.
#[test]
fn an_image_without_a_baseline_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    let noise = image(dir.path(), "noise", 1, "dd if=/dev/urandom bs=1M count=1 status=none | tee");
    let reason = |name: &str, file: &Path| {
        let record = store.make_baseline(&import(&store, file, name), 7).unwrap();
        let BaselineState::Failed { reason } = record.state else { panic!("{record:?}") };
        reason
    };
    assert!(reason("noise:1", &noise).contains("known as its root (seen: unknown)"));
    let broken = image(dir.path(), "broken", 16, "mke2fs -q -t ext4 -b 1024");
    sh(&format!(
        r#"mkdir -p {0}/tree/usr/bin {0}/tree/etc; echo x >{0}/tree/usr/bin/program; : >{0}/tree/etc/fstab
        mke2fs -q -F -t ext4 -O ^metadata_csum -d {0}/tree {1} >&2
        debugfs -w -R 'set_inode_field /usr/bin/program block[0] 99999999' {1}
        debugfs -w -R 'set_inode_field /usr/bin/program flags 0' {1}"#,
        dir.path().display(),
        broken.display()
    ));
    let said = reason("broken:1", &broken);
    assert!(said.contains("partition 0") && said.contains("cannot read /usr/bin/program"), "{said}");
}

/// Figures, by hand: `REGILD_IMAGE=FILE cargo test --release --test baseline figures -- --ignored --nocapture`.
#[test]
#[ignore = "prints how long the baseline of REGILD_IMAGE takes, and how much memory"]
fn figures() {
    let file = std::env::var("REGILD_IMAGE").expect("REGILD_IMAGE names a raw image");
    let dir = tempfile::tempdir().unwrap();
    let peak = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        format!("{} {} {}", line("VmHWM"), line("RssAnon"), line("RssFile"))
    };
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    let began = std::time::Instant::now();
    let manifest = import(&store, Path::new(&file), "figures:1");
    println!("import {:?}", began.elapsed());
    drop(store);
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    // From here on the peak is the baseline's.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    println!("before: {}", peak());
    let began = std::time::Instant::now();
    let record = store.make_baseline(&manifest, 7).unwrap();
    println!("baseline {:?}: {}\n{:?}", began.elapsed(), peak(), record.state);
}
