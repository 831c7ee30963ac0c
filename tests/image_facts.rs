//! What an image says of itself, read at the import without mounting: on images made by the distribution's own tools.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use regild::image::{Declared, ImageRef, ImageStore, ImportRequest, Imported, Record};
use regild::wire::image_facts::{Facts, PartitionFacts, Provenance};

#[path = "volume/lab.rs"]
#[allow(dead_code)]
mod lab;

use lab::{image, sh};

const MIB: usize = 1 << 20;

fn name(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn import_as(store: &ImageStore, bytes: &[u8], image: &str, provenance: &Provenance) -> Imported {
    let image = name(image);
    let request = ImportRequest { image: &image, now: 1, source: "test", max_image_bytes: 1 << 40 };
    let declared = Declared { provenance: provenance.clone(), ..Declared::default() };
    store.import_declared(bytes, &declared, &request, &|_| ()).unwrap()
}

fn record(store: &ImageStore, bytes: &[u8], image: &str) -> Record {
    import_as(store, bytes, image, &Provenance::default()).record().clone()
}

fn facts_of(bytes: &[u8]) -> Facts {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    *record(&store, bytes, "a:1").facts.unwrap()
}

/// A tree as a system's root; `more` is a shell script that runs in it.
fn tree(dir: &Path, more: &str) -> PathBuf {
    let tree = dir.join("tree");
    let _ = fs::remove_dir_all(&tree);
    sh(&format!(
        r#"mkdir -p {tree}; cd {tree}; mkdir -p etc usr/lib/modules/6.1.0-18-amd64 usr/lib/modules/6.6.1 usr/bin boot/grub sbin
        printf 'PRETTY_NAME="Test Linux 12 (story)"\nID=test\nVERSION_ID="12"\n' >usr/lib/os-release
        ln -s ../usr/lib/os-release etc/os-release; echo '/dev/vda2 / ext4 defaults 0 1' >etc/fstab
        echo kernel >boot/vmlinuz-6.1.0-18-amd64; echo kernel >boot/vmlinuz-5.10; echo x >boot/initrd.img-5.10
        printf '\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\xb7\0\x01\0\0\0' >usr/bin/busybox; ln -s ../usr/bin/busybox sbin/init
        {more}"#,
        tree = tree.display()
    ));
    tree
}

fn ext4(dir: &Path, file: &str, tree: &Path) -> Vec<u8> {
    let options = "-U 0a1b2c3d-0000-4000-8000-000000000001 -L rootfs";
    let made = format!("mke2fs -q -t ext4 {options} -d {}", tree.display());
    fs::read(image(dir, file, 12, &made)).unwrap()
}

/// An EFI system partition with one loader.
fn esp(dir: &Path, loader: &str) -> Vec<u8> {
    let file = image(dir, "esp", 4, "mkfs.vfat -i 1a2b3c4d -n BOOT >/dev/null");
    sh(&format!(
        "cd {}; rm -rf e; mkdir -p e/EFI/BOOT; echo x >e/EFI/BOOT/{loader}; mcopy -s -i {} e/EFI ::",
        dir.display(),
        file.display()
    ));
    fs::read(file).unwrap()
}

/// EFI system partition from 1 MiB, root from 5 MiB.
fn gpt(dir: &Path, esp: &[u8], root: &[u8]) -> Vec<u8> {
    let file = dir.join("disk");
    let disk = vec![0; 6 * MIB + root.len()];
    fs::write(&file, &disk).unwrap();
    sh(&format!(
        "sgdisk -n 1:0:+4M -t 1:EF00 -c 1:esp -n 2:0:+{}M -c 2:root -u 2:00000000-0000-4000-8000-000000000002 {} >/dev/null",
        root.len() / MIB,
        file.display()
    ));
    let mut disk = fs::read(&file).unwrap();
    disk[MIB..][..esp.len()].copy_from_slice(esp);
    disk[5 * MIB..][..root.len()].copy_from_slice(root);
    disk
}

#[test]
fn a_whole_image_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = ext4(dir.path(), "root", &tree(dir.path(), ""));
    let mut disk = gpt(dir.path(), &esp(dir.path(), "BOOTX64.EFI"), &root);
    disk[0] = 0xeb;
    let facts = facts_of(&disk);
    assert_eq!((&*facts.table, &facts.boot[..]), ("gpt", &["BIOS".to_owned(), "UEFI x64".to_owned()][..]));
    let root = PartitionFacts {
        number: 2,
        name: Some("root".into()),
        type_id: "0fc63daf-8483-4772-8e79-3d69d8477de4".into(),
        type_name: Some("Linux".into()),
        part_uuid: Some("00000000-0000-4000-8000-000000000002".into()),
        start_bytes: 5 * MIB as u64,
        bytes: 12 * MIB as u64,
        file_system: "ext4".into(),
        label: Some("rootfs".into()),
        uuid: Some("0a1b2c3d-0000-4000-8000-000000000001".into()),
        file_system_bytes: Some(12 * MIB as u64),
        unreadable: None,
    };
    assert_eq!(facts.partitions[1], root);
    let esp = &facts.partitions[0];
    let said = (&*esp.file_system, esp.label.as_deref(), esp.uuid.as_deref(), esp.type_name.as_deref());
    assert_eq!(said, ("vfat", Some("BOOT"), Some("1A2B-3C4D"), Some("EFI system")));
    assert_eq!(esp.file_system_bytes, Some(4 * MIB as u64));
    let os = [&facts.os.pretty_name, &facts.os.id, &facts.os.version_id, &facts.os.evidence];
    let os = os.map(|text| text.as_deref().unwrap_or_default());
    assert_eq!(os, ["Test Linux 12 (story)", "test", "12", "/usr/lib/os-release"]);
    let arch = (facts.arch.name.as_deref(), &*facts.arch.evidence);
    assert_eq!(arch, (Some("aarch64"), "ELF header of /usr/bin/busybox"), "the programs count, not the loader");
    let kernels: Vec<_> = facts.kernels.iter().map(|k| (&*k.version, k.image.is_some(), k.modules.is_some())).collect();
    assert_eq!(kernels, [("5.10", true, false), ("6.1.0-18-amd64", true, true), ("6.6.1", false, true)]);
    assert_eq!((facts.kernels_unread, facts.unread), (None, None));
}

/// An MBR: type, first sector, number of sectors of each entry.
fn mbr(sector: &mut [u8], entries: &[(u8, u32, u32)]) {
    for (entry, (kind, first, count)) in sector[446..510].chunks_mut(16).zip(entries) {
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..16].copy_from_slice(&count.to_le_bytes());
    }
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
}

#[test]
fn an_image_with_an_mbr_only_is_read_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let (root, esp) = (ext4(dir.path(), "root", &tree(dir.path(), "")), esp(dir.path(), "BOOTAA64.EFI"));
    let swap = fs::read(image(dir.path(), "swap", 1, "mkswap -L sw")).unwrap();
    let at = |mib: usize| (mib * MIB / 512) as u32;
    let mut disk = vec![0; 20 * MIB];
    disk[..4].copy_from_slice(&[0xeb, 0x63, 0x90, 1]);
    disk[440..444].copy_from_slice(&0x1234_abcd_u32.to_le_bytes());
    mbr(&mut disk[..512], &[(0x83, at(1), at(12)), (0xef, at(13), at(4)), (0x05, at(17), at(3))]);
    mbr(&mut disk[17 * MIB..][..512], &[(0x82, at(1), at(1))]);
    disk[MIB..][..root.len()].copy_from_slice(&root);
    disk[13 * MIB..][..esp.len()].copy_from_slice(&esp);
    disk[18 * MIB..][..swap.len()].copy_from_slice(&swap);
    let facts = facts_of(&disk);
    assert_eq!((&*facts.table, &facts.boot[..]), ("mbr", &["BIOS".to_owned(), "UEFI aa64".to_owned()][..]));
    let parts: Vec<_> = facts
        .partitions
        .iter()
        .map(|p| (p.number, &*p.type_id, p.type_name.as_deref().unwrap(), &*p.file_system, p.start_bytes / MIB as u64))
        .collect();
    let expected =
        [(1, "0x83", "Linux", "ext4", 1), (2, "0xef", "EFI system", "vfat", 13), (5, "0x82", "Linux swap", "swap", 18)];
    assert_eq!(parts, expected);
    assert_eq!(facts.partitions[2].part_uuid.as_deref(), Some("1234abcd-05"));
    assert_eq!((facts.os.id.as_deref(), facts.kernels.len()), (Some("test"), 3));
}

#[test]
fn a_root_that_is_not_read_leaves_its_system_unknown_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let xfs = fs::read(image(dir.path(), "xfs", 320, "mkfs.xfs -q -L big")).unwrap();
    let facts = facts_of(&gpt(dir.path(), &esp(dir.path(), "BOOTX64.EFI"), &xfs));
    let why = "partition 2 is xfs, which is not read without a kernel";
    assert_eq!((facts.os.unknown.as_deref(), facts.kernels_unread.as_deref()), (Some(why), Some(why)));
    assert_eq!(facts.arch.name.as_deref(), Some("x86_64"));
    assert_eq!(facts.arch.evidence, format!("name of its EFI loader ({why})"));
    let part = &facts.partitions[1];
    assert_eq!((&*part.file_system, part.label.as_deref()), ("xfs", Some("big")));
    assert_eq!(part.file_system_bytes, Some(320 * MIB as u64));
    // The whole image one file system; with a /boot that can be read beside a root that cannot.
    let alone = facts_of(&xfs);
    assert_eq!((&*alone.table, alone.partitions[0].number, alone.arch.name), ("none", 0, None));
    let boot = dir.path().join("boot");
    sh(&format!("mkdir -p {0}/grub; echo k >{0}/vmlinuz-5.14.0", boot.display()));
    let boot = fs::read(image(dir.path(), "b", 4, &format!("mke2fs -q -t ext4 -d {}", boot.display()))).unwrap();
    let facts = facts_of(&gpt(dir.path(), &boot, &xfs));
    assert_eq!(facts.kernels[0].image.as_deref(), Some("partition 1:/vmlinuz-5.14.0"));
    assert_eq!(facts.arch.evidence, why);
}

/// All texts of the facts, to be looked at.
fn every_text(facts: &Facts) -> String {
    serde_json::to_string(facts).unwrap()
}

/// Bad input: whatever stands in an image's texts is bounded, and nothing of it reaches a terminal as it is.
#[test]
fn an_images_own_words_cannot_hurt_who_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let more = r#"python3 - <<'END'
import os
with open('usr/lib/os-release', 'wb') as f:
    f.write(b'ID="\x1b[2J\xe2\x80\xae\xff"\nPRETTY_NAME="' + b'long ' * 1500 + b'"\nVERSION_ID=\x1b]0;title\x07\n')
for number in range(300):
    os.mkdir('usr/lib/modules/%03d-\x1b[31m\n' % number)
END"#;
    let root = ext4(dir.path(), "root", &tree(dir.path(), more));
    let mut disk = gpt(dir.path(), &esp(dir.path(), "BOOTX64.EFI"), &root);
    // The label of an ext4, behind its superblock's start; the checksum of the superblock is not looked at.
    disk[5 * MIB + 0x478..][..8].copy_from_slice(b"\x1b[31mred");
    let facts = facts_of(&disk);
    assert_eq!(facts.partitions[1].label.as_deref(), Some("\\x1b[31mred"));
    assert_eq!(facts.os.id.as_deref(), Some("\\x1b[2J\\xe2\\x80\\xae\\xff"));
    assert!(facts.os.pretty_name.as_ref().unwrap().len() <= 256);
    assert!(facts.kernels.len() == 64 && facts.kernels[5].version.ends_with("\\x1b[31m\\x0a"), "{:?}", facts.kernels);
    let text = every_text(&facts);
    assert!(!text.chars().any(regild::decide::drift::path::is_hidden) && !text.contains("\\u00"), "{text}");
    assert!(text.len() < 64 << 10, "{}", text.len());
}

/// Bad input: a damaged file system is said to be so in its place; the others are read, and the image is imported.
#[test]
fn damage_in_one_partition_costs_that_partition() {
    let dir = tempfile::tempdir().unwrap();
    let root = ext4(dir.path(), "root", &tree(dir.path(), ""));
    let mut disk = gpt(dir.path(), &esp(dir.path(), "BOOTX64.EFI"), &root);
    // Inodes of one byte.
    disk[5 * MIB + 1024 + 0x58..][..2].copy_from_slice(&[1, 0]);
    let facts = facts_of(&disk);
    let why = facts.partitions[1].unreadable.as_deref().unwrap();
    assert!(why.contains("contradict each other"), "{why}");
    assert!(facts.os.unknown.as_ref().unwrap().contains("contradict each other"), "{:?}", facts.os);
    assert_eq!((facts.partitions[0].unreadable.as_ref(), facts.arch.name.as_deref()), (None, Some("x86_64")));
}

/// A record of before: nothing is missing from `image show`, and the record is not written again.
#[test]
fn an_image_that_was_imported_before_is_looked_at_when_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let root = ext4(dir.path(), "root", &tree(dir.path(), ""));
    let place = dir.path().join("store");
    let store = ImageStore::open(&place).unwrap();
    let facts = record(&store, &root, "a:1").facts.unwrap();
    let file = place.join("names/a/1");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert!(json.as_object_mut().unwrap().remove("facts").is_some());
    let old = serde_json::to_vec(&json).unwrap();
    fs::write(&file, &old).unwrap();
    assert_eq!(store.show(&name("a:1")).unwrap().facts, None);
    assert_eq!(store.facts(&name("a:1")).unwrap(), *facts);
    assert_eq!(fs::read(&file).unwrap(), old);
    // What is damaged can be shown all the same.
    let manifest = place.join("manifests").join(store.show(&name("a:1")).unwrap().manifest);
    fs::write(manifest, b"damaged").unwrap();
    let unread = store.facts(&name("a:1")).unwrap().unread.unwrap();
    assert!(unread.contains("is damaged"), "{unread}");
}

/// Promise: a record never changes, whatever is said of the same content later.
#[test]
fn provenance_is_what_was_said_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let said = |builder| Provenance::said(Some(builder), Some("0541e08"), ["team=web"]).unwrap();
    let disk = vec![7; MIB];
    let first = import_as(&store, &disk, "a:1", &said("ci 7"));
    assert_eq!((&first.record().provenance, matches!(first, Imported::New(_))), (&said("ci 7"), true));
    let again = import_as(&store, &disk, "a:1", &said("ci 8"));
    assert_eq!(again, Imported::AlreadyThere(first.record().clone()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Bad input: bytes of the file systems are changed anywhere; the import takes the image, and says what it can.
    #[test]
    fn no_damage_keeps_an_image_out(changes in proptest::collection::vec((0usize..16 * MIB, any::<u8>()), 1..40), near in any::<bool>()) {
        static DISK: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let disk = DISK.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            gpt(dir.path(), &esp(dir.path(), "BOOTX64.EFI"), &ext4(dir.path(), "root", &tree(dir.path(), "")))
        });
        let mut disk = disk.clone();
        for (at, byte) in changes {
            // Where the superblocks, tables and first directories are, or anywhere.
            let at = if near { at % (64 << 10) + if at % 2 == 0 { MIB } else { 5 * MIB } } else { MIB + at };
            disk[at] = byte;
        }
        let facts = facts_of(&disk);
        prop_assert_eq!(facts.partitions.len(), 2);
        prop_assert_eq!(&facts.unread, &None);
        prop_assert!(every_text(&facts).len() < 64 << 10);
    }
}
