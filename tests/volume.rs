//! What is read of a file system without mounting it is what the kernel shows of it, mounted: node by node.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use regild::decide::drift::finding::{Kind, Node};
use regild::decide::drift::path::{order, to_text};
use regild::volume::batch::Hashed;
use regild::volume::{self, Format, fat};

#[path = "volume/lab.rs"]
mod lab;
#[path = "volume/truth.rs"]
mod truth;

use lab::{Mounted, fill, image, sh};

/// Our own walk of an image that holds nothing but a file system.
fn ours(image: &Path) -> Vec<(Vec<u8>, Node)> {
    let detected = volume::detect::detect(File::open(image).unwrap()).unwrap();
    let mut tree = volume::open(File::open(image).unwrap(), detected.format, fat::Options::default()).unwrap();
    let all = Hashed::new(&mut *tree, |_| true);
    all.map(|found| found.map(|found| (found.path, found.node))).collect::<Result<_, _>>().unwrap()
}

/// Says which path differs and how, not two lists of thousands.
fn same(ours: &[(Vec<u8>, Node)], truth: &[(Vec<u8>, Node)]) {
    for pair in ours.windows(2) {
        assert!(order(&pair[0].0, &pair[1].0).is_lt(), "{} is out of order", to_text(&pair[1].0));
    }
    let truth: BTreeMap<_, _> = truth.iter().map(|(path, node)| (path.clone(), node)).collect();
    let mine: BTreeMap<_, _> = ours.iter().map(|(path, node)| (path.clone(), node)).collect();
    for (path, node) in &truth {
        assert_eq!(mine.get(path), Some(node), "ours and the kernel's of {}", to_text(path));
    }
    for path in mine.keys() {
        assert!(truth.contains_key(path), "the kernel does not show {}", to_text(path));
    }
}

fn by_kernel(image: &Path, dir: &Path) -> Vec<(Vec<u8>, Node)> {
    truth::walk(&Mounted::new(image, &dir.join("truth"), "ro").0)
}

/// `mkfs`, filled by the kernel, compared.
fn agrees(mkfs: &str, expected: Format) {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "image", 96, mkfs);
    fill(&Mounted::new(&image, &dir.path().join("mnt"), "rw").0);
    assert_eq!(volume::detect::detect(File::open(&image).unwrap()).unwrap().format, expected, "{mkfs}");
    let ours = ours(&image);
    assert!(ours.len() > 4000, "{mkfs}: {} paths", ours.len());
    same(&ours, &by_kernel(&image, dir.path()));
}

/// Issue 4, line 1: path, type, mode, owner, size, link target, xattrs, content digest.
#[test]
fn ext4_as_debian_makes_it_is_read_as_the_kernel_shows_it() {
    // Its sizes for a large disk: 4 KiB blocks.
    agrees("mke2fs -q -t ext4 -T default", Format::Ext4);
}

#[test]
fn ext4_of_other_shapes_is_read_as_the_kernel_shows_it() {
    for mkfs in [
        "mke2fs -q -t ext4 -b 1024 -I 512 -O inline_data",
        "mke2fs -q -t ext4 -I 256 -O inline_data,^metadata_csum",
        "mke2fs -q -t ext4 -b 4096 -I 256 -O inline_data",
        "mke2fs -q -t ext4 -O meta_bg,^resize_inode,^64bit -b 1024",
        "mke2fs -q -t ext4 -O ^extents,^64bit,^flex_bg,sparse_super2",
        "mke2fs -q -t ext4 -O ea_inode,metadata_csum_seed,large_dir",
        "mke2fs -q -t ext4 -O bigalloc -C 16384 -I 128",
    ] {
        agrees(mkfs, Format::Ext4);
    }
}

#[test]
fn ext2_and_ext3_are_read_as_the_kernel_shows_them() {
    agrees("mke2fs -q -t ext3 -b 1024", Format::Ext3);
    agrees("mke2fs -q -t ext2 -b 1024 -I 256", Format::Ext2);
}

/// A host that lost power: what its journal holds is what it will boot with.
#[test]
fn a_journal_that_was_not_played_back_is_heeded() {
    for mkfs in
        ["mke2fs -q -t ext4 -T default", "mke2fs -q -t ext4 -b 1024 -O ^metadata_csum,^64bit", "mke2fs -q -t ext3"]
    {
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path(), "image", 96, mkfs);
        let snapshot = dir.path().join("snapshot");
        {
            let mounted = Mounted::new(&image, &dir.path().join("mnt"), "rw,data=journal");
            fill(&mounted.0);
            let top = mounted.0.display();
            sh(&format!(
                r#"sync; cd {top}; echo changed >etc/passwd; mkdir -p new/dir; echo 'after the sync' >new/dir/file
                rm -r many; mkdir many; echo again >many/file-7; mv a renamed; rm usr/bin/hard-link
                printf '\xc0\x3b\x39\x98 begins like a block of the journal' >new/escaped
                head -c 5000 /dev/urandom >>new/escaped; sync new/dir/file new/escaped
                cp --sparse=always {} {}"#,
                image.display(),
                snapshot.display()
            ));
        }
        let before = fs::read(&snapshot).unwrap();
        let recovered = u32::from_le_bytes(before[0x460..0x464].try_into().unwrap()) & 4;
        assert_eq!(recovered, 4, "{mkfs}: the snapshot needs no recovery, so this shows nothing");
        let ours = ours(&snapshot);
        assert!(before == fs::read(&snapshot).unwrap(), "reading wrote");
        assert!(ours.iter().any(|(path, _)| path == b"/new/dir/file"), "{mkfs}: the journal was passed over");
        // The kernel plays it back, on the copy.
        drop(Mounted::new(&snapshot, &dir.path().join("mnt"), "rw"));
        same(&ours, &by_kernel(&snapshot, dir.path()));
    }
}

/// Content in the order of the disk, paths in the order of names; a file with two names is read once.
#[test]
fn only_what_is_asked_for_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "image", 96, "mke2fs -q -t ext4");
    fill(&Mounted::new(&image, &dir.path().join("mnt"), "rw").0);
    let mut tree = volume::open(File::open(&image).unwrap(), Format::Ext4, fat::Options::default()).unwrap();
    let found: Vec<_> =
        Hashed::new(&mut *tree, |found| found.path.starts_with(b"/etc/")).map(|found| found.unwrap()).collect();
    for found in &found {
        if let Kind::File { digest, .. } = &found.node.kind {
            assert_eq!(digest.is_some(), found.path.starts_with(b"/etc/"), "{}", to_text(&found.path));
        }
    }
    let named = |path: &[u8]| found.iter().find(|found| found.path == path).unwrap();
    let (one, other) = (named(b"/usr/bin/hard-link"), named(b"/usr/bin/three-megabytes"));
    assert_eq!((one.inode, one.links), (other.inode, 2));
    assert_eq!(tree.read(named(b"/etc/passwd"), 4).unwrap(), b"root");
    let passwd = tree.find(b"/etc/passwd").unwrap().unwrap();
    assert_eq!(tree.read(&passwd, 100).unwrap(), b"root:x:0:0");
    assert!(tree.find(b"/etc/none").unwrap().is_none() && tree.find(b"/etc/passwd/x").unwrap().is_none());
}

/// The machine that tests has no vfat in its kernel: what was copied in by mtools is what must come out.
#[test]
fn fat_is_read_as_its_fstab_line_mounts_it() {
    let dir = tempfile::tempdir().unwrap();
    for (bits, mib) in [("12", 4), ("16", 32), ("32", 64)] {
        let image = image(dir.path(), bits, mib, &format!("mkfs.vfat -F {bits} -i 1a2b3c4d -n ESP-{bits} >/dev/null"));
        let top = dir.path().join(format!("tree-{bits}"));
        sh(&format!(
            r#"mkdir -p {0}/EFI/BOOT {0}/empty; cd {0}; head -c 700001 /dev/urandom >EFI/BOOT/BOOTX64.EFI
            echo text >'EFI/a long name with Capitals.txt'; : >EFI/none; echo m >'müll-☃'; touch -d '2024-02-29 12:34:56 UTC' EFI/none
            TZ=UTC LC_ALL=C.UTF-8 mcopy -s -m -i {1} EFI empty 'müll-☃' ::; mattrib -i {1} +r ::/EFI/none"#,
            top.display(),
            image.display()
        ));
        let detected = volume::detect::detect(File::open(&image).unwrap()).unwrap();
        assert_eq!((detected.format, detected.uuid.as_deref()), (Format::Vfat, Some("1A2B-3C4D")));
        assert_eq!(detected.label, Some(format!("ESP-{bits}")));
        let options = fat::Options::from_fstab("defaults,umask=0077,gid=7,fmask=0137");
        let mut tree = volume::open(File::open(&image).unwrap(), Format::Vfat, options).unwrap();
        let ours: Vec<_> = Hashed::new(&mut *tree, |_| true).map(|found| found.unwrap()).collect();
        let ours: Vec<_> = ours.into_iter().map(|found| (found.path, found.node)).collect();
        let expected: Vec<_> = truth::walk(&top)
            .into_iter()
            .map(|(path, mut node)| {
                node.mode = if node.kind == Kind::Directory { 0o700 } else { 0o640 };
                if path == b"/EFI/none" {
                    assert_eq!(ours.iter().find(|(path, _)| path == b"/EFI/none").unwrap().1.modified, 1_709_210_096);
                    node.mode = 0o440;
                }
                let modified = ours.iter().find(|(other, _)| *other == path).map_or(0, |(_, node)| node.modified);
                (path, Node { uid: 0, gid: 7, modified, ..node })
            })
            .collect();
        same(&ours, &expected);
    }
}

#[test]
fn what_lies_in_a_partition_is_known_by_its_superblock() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let tree = place("tree");
    sh(&format!(
        "mkdir {0}; echo x >{0}/x; mksquashfs {0} {1} -quiet -no-progress; mkfs.erofs --quiet {2} {0}",
        tree.display(),
        place("squashfs").display(),
        place("erofs").display()
    ));
    for (name, mib, mkfs) in [
        ("ext4", 16, "mke2fs -q -t ext4 -L root"),
        ("ext3", 16, "mke2fs -q -t ext3"),
        ("ext2", 16, "mke2fs -q -t ext2"),
        ("xfs", 320, "mkfs.xfs -q -L root"),
        ("btrfs", 128, "mkfs.btrfs -q -L root"),
        ("swap", 4, "mkswap -L root"),
        ("blank", 1, "true"),
        ("unknown", 1, "echo noise | tee"),
    ] {
        image(dir.path(), name, mib, mkfs);
    }
    for (name, is_read_here, is_labelled) in [
        ("ext4", true, true),
        ("ext3", true, false),
        ("ext2", true, false),
        ("xfs", false, true),
        ("btrfs", false, true),
        ("swap", false, true),
        ("squashfs", false, false),
        ("erofs", false, false),
        ("blank", false, false),
        ("unknown", false, false),
    ] {
        let detected = volume::detect::detect(File::open(place(name)).unwrap()).unwrap();
        assert_eq!(detected.format.word(), name);
        assert_eq!(detected.format.is_read_here(), is_read_here, "{name}");
        assert_eq!(detected.label.as_deref(), is_labelled.then_some("root"), "{name}");
        if !["squashfs", "blank", "unknown", "erofs"].contains(&name) {
            let by_blkid = std::process::Command::new("blkid")
                .args(["-p", "-o", "value", "-s", "UUID"])
                .arg(place(name))
                .output()
                .unwrap();
            assert_eq!(detected.uuid.unwrap(), String::from_utf8(by_blkid.stdout).unwrap().trim(), "{name}");
        }
    }
}
