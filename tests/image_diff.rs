//! `image diff` on real file systems, made by the distribution's tools: each line of what it says.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use regild::image::baseline::BaselineState;
use regild::image::diff::{DiffError, Page};
use regild::image::{ImageRef, ImageStore, ImportRequest};
use regild::wire::operator_diff::{FileDiff, ImageDiff, PartitionDiff};

#[path = "volume/lab.rs"]
#[allow(dead_code)]
mod lab;

use lab::sh;

const MIB: u64 = 1 << 20;
const ALL: Page = Page { skip: 0, limit: 1000 };

struct Store {
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl Store {
    fn new() -> Store {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("store")).unwrap();
        Store { dir, store }
    }

    fn import(&self, file: &str, name: &str) {
        let image: ImageRef = name.parse().unwrap();
        let request = ImportRequest { image: &image, now: 1, source: "test", max_image_bytes: 1 << 40 };
        self.store.import(File::open(self.dir.path().join(file)).unwrap(), &request, &|_| ()).unwrap();
    }

    fn try_diff(&self, from: &str, to: &str, page: Page) -> Result<ImageDiff, DiffError> {
        self.store.diff(&from.parse().unwrap(), &to.parse().unwrap(), page, &|| false)
    }

    fn diff(&self, from: &str, to: &str) -> ImageDiff {
        let diff = self.try_diff(from, to, ALL).unwrap();
        let sums = &diff.blocks;
        assert_eq!(sums.same_bytes + sums.moved_bytes + sums.new_bytes, diff.to.data_bytes, "{sums:?}");
        diff
    }
}

fn part(diff: &ImageDiff, number: u32) -> &PartitionDiff {
    diff.partitions.iter().find(|part| part.number == number).unwrap_or_else(|| panic!("{number}: {diff:?}"))
}

fn paths(files: &[FileDiff]) -> Vec<(u32, &str, String)> {
    files.iter().map(|file| (file.partition, &*file.path, file.what.join("+"))).collect()
}

/// Two versions of a machine: an EFI system partition, a root that grew, a squashfs that only moved, a partition that went,
/// one that came.
fn two_versions(store: &Store) {
    let top = store.dir.path().display();
    sh(&format!(
        r#"cd {top}; umask 022; mkdir -p 1/etc 1/usr/bin 1/home 1/gone esp/EFI/BOOT sq
        printf one >1/etc/issue; printf aaaa >1/etc/same-size; head -c 900000 /dev/urandom >1/usr/bin/big
        printf x >1/etc/mode; printf x >1/etc/owner; printf x >1/etc/attribute; ln -s here 1/etc/link; printf x >1/etc/kind
        printf x >1/gone/file; touch -d 2001-01-01 1/etc/touched; : >1/etc/fstab
        cp -a 1 2; rm -r 2/gone 2/etc/kind 2/etc/link
        printf 'one more' >2/etc/issue; printf bbbb >2/etc/same-size; chmod 4755 2/etc/mode; chown 7:8 2/etc/owner
        setfattr -n user.note -v x 2/etc/attribute; ln -s there 2/etc/link; mkdir 2/etc/kind; touch 2/etc/touched
        printf new >2/home/$'line\nbreak \x1b[2J'; printf new >2/home/$'not-utf8-\xff'; printf new >'2/home/back\slash'
        head -c 500000 /dev/urandom >sq/data; mksquashfs sq squash -quiet -no-progress -all-time 0; truncate -s 1M squash
        printf loader-1 >esp/EFI/BOOT/BOOTX64.EFI
        for v in 1 2; do
          truncate -s $((16 + 8 * v))M root-$v
          mke2fs -q -t ext4 -U 0a1b2c3d-0000-4000-8000-000000000001 -L root -d $v root-$v
          truncate -s 8M esp-$v; mkfs.vfat -i 1a2b3c4d esp-$v >/dev/null; mcopy -s -i esp-$v esp/EFI ::
          printf loader-2 >esp/EFI/BOOT/BOOTX64.EFI
          truncate -s 64M disk-$v
        done
        common="-U 00000000-0000-4000-8000-0000000000aa -n 1:1M:+8M -t 1:ef00 -u 1:00000000-0000-4000-8000-000000000001"
        sgdisk $common -n 2:9M:+24M -c 2:root -u 2:00000000-0000-4000-8000-000000000002 \
          -n 3:40M:+1M -u 3:00000000-0000-4000-8000-000000000003 -n 4:42M:+1M -c 4:$'old\x1b' disk-1 >/dev/null
        sgdisk $common -n 2:9M:+32M -c 2:'the root' -u 2:00000000-0000-4000-8000-000000000002 -A 2:set:60 \
          -n 3:44M:+1M -u 3:00000000-0000-4000-8000-000000000003 -n 5:46M:+1M disk-2 >/dev/null
        put() {{ dd if=$2 of=$1 bs=1M seek=$3 conv=notrunc,sparse status=none; }}
        for v in 1 2; do put disk-$v esp-$v 1; put disk-$v root-$v 9; done
        put disk-1 squash 40; put disk-2 squash 44"#
    ));
    store.import("disk-1", "a:1");
    store.import("disk-2", "a:2");
}

/// Issue 5, line 4: "what changed: bytes new, bytes shared, which partitions, and which files".
#[test]
fn two_versions_of_a_machine_are_told_apart() {
    let store = Store::new();
    two_versions(&store);
    let diff = store.diff("a:1", "a:2");
    assert!(!diff.is_same && diff.blocks.same_bytes > 0 && diff.blocks.new_bytes > 0, "{:?}", diff.blocks);
    // What the import of the second has added to the store is what is new in it.
    let added = store.store.show(&"a:2".parse().unwrap()).unwrap().added_bytes;
    assert!(added.abs_diff(diff.new_compressed_bytes) < 64, "{added} {}", diff.new_compressed_bytes);
    let states: Vec<_> = diff.partitions.iter().map(|p| (p.number, &*p.state, p.entry.join("+"), &*p.how)).collect();
    let none = String::new;
    assert_eq!(
        states,
        [
            (1, "changed", none(), "compared"),
            (2, "changed", "resized+name+flags".to_owned(), "compared"),
            (3, "changed", "moved".to_owned(), "same"),
            (4, "removed", none(), "blocks only"),
            (5, "added", none(), "blocks only"),
        ]
    );
    let root = part(&diff, 2);
    assert_eq!(root.to.as_ref().map(|side| (&*side.name, side.flags)), Some(("the root", 1 << 60)));
    assert_eq!(part(&diff, 4).from.as_ref().map(|side| &*side.name), Some("old\\x1b"));
    assert_eq!(part(&diff, 3).blocks.moved_bytes + part(&diff, 3).blocks.new_bytes, 0);
    assert_eq!(part(&diff, 5).reason.as_deref(), Some("nothing is in it"));
    assert_eq!(
        paths(&diff.file_list),
        [
            (1, "/EFI/BOOT/BOOTX64.EFI", "content"),
            (2, "/etc/attribute", "xattrs"),
            (2, "/etc/issue", "content"),
            (2, "/etc/kind", "kind"),
            (2, "/etc/link", "content"),
            (2, "/etc/mode", "mode+privilege"),
            (2, "/etc/owner", "owner"),
            (2, "/etc/same-size", "content"),
            (2, "/gone", "removed"),
            (2, "/gone/file", "removed"),
            (2, "/home/back\\\\slash", "added"),
            (2, "/home/line\\x0abreak \\x1b[2J", "added"),
            (2, "/home/not-utf8-\\xff", "added"),
        ]
        .map(|(part, path, what)| (part, path, what.to_owned()))
    );
    assert_eq!((root.files.added, root.files.removed, root.files.changed), (3, 2, 7));
    let of = |path: &str| diff.file_list.iter().find(|file| file.path == path).unwrap();
    let sizes = [&of("/etc/issue").from, &of("/etc/issue").to].map(|side| side.as_ref().unwrap().bytes);
    assert_eq!(sizes, [Some(3), Some(8)]);
    let targets = [&of("/etc/link").from, &of("/etc/link").to].map(|side| side.as_ref().unwrap().target.clone());
    assert_eq!(targets, [Some("here".to_owned()), Some("there".to_owned())]);
}

/// The other way round what was added is removed; an image against itself is nothing; pages make up the whole.
#[test]
fn a_comparison_is_one_of_both_directions_and_comes_in_pages() {
    let store = Store::new();
    two_versions(&store);
    let (there, back) = (store.diff("a:1", "a:2"), store.diff("a:2", "a:1"));
    let swapped = |files: &[FileDiff]| -> Vec<(u32, String, String)> {
        let other = |what: String| match &*what {
            "added" => "removed".to_owned(),
            "removed" => "added".to_owned(),
            _ => what.replace("+privilege", ""),
        };
        paths(files).into_iter().map(|(part, path, what)| (part, path.to_owned(), other(what))).collect()
    };
    // A privilege that is new one way is not the other way round.
    let plain = |files: &[FileDiff]| -> Vec<_> {
        let what = |what: String| what.replace("+privilege", "");
        paths(files).into_iter().map(|(part, path, told)| (part, path.to_owned(), what(told))).collect()
    };
    assert_eq!(plain(&there.file_list), swapped(&back.file_list));
    let nothing = store.diff("a:1", "a:1");
    assert!(nothing.is_same && nothing.blocks.is_same() && nothing.new_compressed_bytes == 0);
    assert!(nothing.partitions.iter().all(|part| part.state == "same") && nothing.file_list.is_empty());
    let mut pages = Vec::new();
    for skip in (0..).step_by(4).take_while(|skip| *skip < there.files.all()) {
        let page = store.try_diff("a:1", "a:2", Page { skip, limit: 4 }).unwrap();
        assert_eq!(page.files, there.files, "counted whole, whatever is listed");
        assert_eq!(page.skipped + page.cut + page.file_list.len() as u64, there.files.all());
        pages.extend(page.file_list);
    }
    assert_eq!(pages, there.file_list);
}

/// Images of one file system without a table; one that grew; content that only moved.
#[test]
fn an_image_without_a_table_is_one_part() {
    let store = Store::new();
    sh(&format!(
        r#"cd {}; mkdir tree; printf 1 >tree/a; truncate -s 4M one; mke2fs -q -t ext2 -U clear -d tree one
        printf 2 >tree/b; truncate -s 6M two; mke2fs -q -t ext2 -U clear -d tree two
        head -c 2M /dev/urandom >noise; (head -c 1M /dev/zero; cat noise; head -c 4096 /dev/urandom) >shifted"#,
        store.dir.path().display()
    ));
    for (file, name) in [("one", "w:1"), ("two", "w:2"), ("noise", "n:1"), ("shifted", "n:2")] {
        store.import(file, name);
    }
    let diff = store.diff("w:1", "w:2");
    assert_eq!((&*diff.from_table, &*diff.to_table), ("none", "none"));
    assert_eq!((diff.from.image_bytes, diff.to.image_bytes), (4 * MIB, 6 * MIB));
    assert_eq!(part(&diff, 0).entry, ["resized"]);
    assert_eq!(paths(&diff.file_list), [(0, "/b", "added".to_owned())]);
    let diff = store.diff("n:1", "n:2");
    assert_eq!((diff.blocks.moved_bytes, diff.blocks.new_bytes), (2 * MIB, 4096), "{:?}", diff.blocks);
    assert_eq!(diff.blocks.zeroed_bytes, MIB);
    assert_eq!(part(&diff, 0).reason.as_deref(), Some("it is not known what is in it"));
    // From a machine with partitions to one without.
    two_versions(&store);
    let diff = store.diff("a:1", "w:1");
    assert_eq!((&*diff.from_table, &*diff.to_table), ("gpt", "none"));
    assert_eq!(
        diff.partitions.iter().map(|part| &*part.state).collect::<Vec<_>>(),
        ["added", "removed", "removed", "removed", "removed"]
    );
}

/// A partition table of four entries, as every PC before UEFI had it.
#[test]
fn entries_of_an_mbr_are_told_apart() {
    let store = Store::new();
    let disk = |name: &str, entries: &[(u8, u8, u32, u32)]| {
        let mut bytes = vec![0; 4 << 20];
        bytes[440..444].copy_from_slice(&[1, 2, 3, 4]);
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        for (at, (status, kind, first, count)) in entries.iter().enumerate() {
            let entry = &mut bytes[446 + 16 * at..][..16];
            (entry[0], entry[4]) = (*status, *kind);
            entry[8..12].copy_from_slice(&first.to_le_bytes());
            entry[12..16].copy_from_slice(&count.to_le_bytes());
            bytes[*first as usize * 512..][..8].copy_from_slice(b"content ");
        }
        fs::write(store.dir.path().join(name), bytes).unwrap();
        store.import(name, &format!("mbr:{name}"));
    };
    // The third begins at no block's border, as partitions of old did (sector 63).
    disk("1", &[(0x80, 0x83, 2048, 1024), (0, 0x83, 3072, 512), (0, 0x83, 4095, 512)]);
    disk("2", &[(0, 0x83, 2048, 1024), (0, 0x82, 3072, 256), (0, 0x83, 4096, 512), (0, 0x0c, 6144, 512)]);
    let diff = store.diff("mbr:1", "mbr:2");
    assert_eq!((&*diff.from_table, &*diff.to_table), ("mbr", "mbr"));
    let entries: Vec<_> =
        diff.partitions.iter().map(|part| (part.number, &*part.state, part.entry.join("+"))).collect();
    let entries: Vec<_> = entries.iter().map(|(number, state, entry)| (*number, *state, &**entry)).collect();
    let expected = [(1, "changed", "flags"), (2, "changed", "resized+type"), (3, "changed", "moved"), (4, "added", "")];
    assert_eq!(entries, expected);
    let kinds = [&part(&diff, 2).from, &part(&diff, 2).to].map(|side| side.as_ref().unwrap().kind.clone());
    assert_eq!(kinds, ["0x83", "0x82"]);
}

/// Nothing keeps the entries of an MBR from lying on each other. What changed in both is changed in each.
#[test]
fn partitions_that_lie_on_each_other_are_none_of_them_the_same() {
    let store = Store::new();
    sh(&format!(
        r#"cd {}; mkdir tree; printf aaaa >tree/file; truncate -s 4M one; mke2fs -q -t ext2 -U clear -d tree one
        printf bbbb >tree/file; truncate -s 4M two; mke2fs -q -t ext2 -U clear -d tree two"#,
        store.dir.path().display()
    ));
    for (name, file_system) in [("1", "one"), ("2", "two")] {
        let mut bytes = vec![0; 8 << 20];
        bytes[440..444].copy_from_slice(&[1, 2, 3, 4]);
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        // All of the first but its first block is the second's, or behind the second, which is empty.
        for (at, (first, count)) in [(2048u32, 8192u32), (2056, 8184), (10000, 8)].into_iter().enumerate() {
            let entry = &mut bytes[446 + 16 * at..][..16];
            entry[4] = 0x83;
            entry[8..12].copy_from_slice(&first.to_le_bytes());
            entry[12..16].copy_from_slice(&count.to_le_bytes());
        }
        bytes[1 << 20..][..4 << 20].copy_from_slice(&fs::read(store.dir.path().join(file_system)).unwrap());
        fs::write(store.dir.path().join(name), bytes).unwrap();
        store.import(name, &format!("mbr:{name}"));
    }
    let diff = store.diff("mbr:1", "mbr:2");
    assert_eq!((&*part(&diff, 1).state, &*part(&diff, 1).how), ("changed", "compared"));
    assert_eq!(paths(&diff.file_list), [(1, "/file", "content".to_owned())]);
    assert_eq!(diff.outside.new_bytes, 0, "all that is new lies in a partition: {diff:?}");
    assert!(part(&diff, 2).blocks.new_bytes > 0, "and of two that share it, in the one that begins last: {diff:?}");
}

/// Files with more holes than are read are never told as the same.
#[test]
fn a_file_that_is_not_read_is_not_told_as_the_same() {
    let store = Store::new();
    sh(&format!(
        r#"cd {}; mkdir tree; printf x >tree/small; truncate -s 17G tree/holes; printf aaaa >>tree/holes
        truncate -s 16M one; mke2fs -q -t ext4 -U clear -d tree one
        printf bbbb | dd of=tree/holes bs=1 seek=$((17 << 30)) conv=notrunc status=none
        truncate -s 16M two; mke2fs -q -t ext4 -U clear -d tree two"#,
        store.dir.path().display()
    ));
    store.import("one", "w:1");
    store.import("two", "w:2");
    let diff = store.diff("w:1", "w:2");
    assert_eq!(paths(&diff.file_list), [(0, "/holes", "content".to_owned())]);
    let whole = part(&diff, 0);
    assert_eq!((&*whole.how, whole.files.changed), ("compared", 1));
    assert!(whole.reason.as_deref().unwrap().starts_with("1 with more than 16 GiB of holes"), "{:?}", whole.reason);
}

fn pack(store: &Store) -> PathBuf {
    let packs = fs::read_dir(store.dir.path().join("store/packs")).unwrap().map(|entry| entry.unwrap().path());
    packs.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "pack")).unwrap()
}

/// Two versions with files all over, of which the second adds little. Gives the pack of the first.
fn two_of_one_pack(store: &Store) -> PathBuf {
    sh(&format!(
        r#"cd {}; mkdir -p tree/etc; : >tree/etc/fstab; head -c 12M /dev/urandom >tree/data
        truncate -s 24M one; mke2fs -q -t ext4 -d tree one
        printf x >tree/other; truncate -s 24M two; mke2fs -q -t ext4 -d tree two"#,
        store.dir.path().display()
    ));
    store.import("one", "w:1");
    let pack = pack(store);
    store.import("two", "w:2");
    pack
}

fn cut(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// Promise: a pack that is cut short under those who have read it, or are just reading it, ends what they do with an error
/// that names the pack, and not the server (bad input: faults of disks and of people). Reading a mapping of it would be
/// SIGBUS: this test's process would die.
#[test]
fn a_pack_that_is_cut_short_while_it_is_read_is_an_error() {
    let store = Store::new();
    let pack = two_of_one_pack(&store);
    let name = pack.file_name().unwrap().to_str().unwrap();
    let image: ImageRef = "w:1".parse().unwrap();
    let manifest = store.store.resolve(&image).unwrap();
    let out = File::options().read(true).write(true).create_new(true).open(store.dir.path().join("out")).unwrap();
    // All of them have had it open once, and serving has it mapped.
    store.store.export(&image, &out).unwrap();
    let record = store.store.make_baseline(&manifest, 7).unwrap();
    assert!(record.digest().is_some(), "{record:?}");
    store.store.remove_baseline(&manifest).unwrap();
    assert!(store.store.pack_file(&pack.file_stem().unwrap().to_string_lossy()).unwrap().length() > 12 << 20);
    // As soon as the comparison reads.
    let is_cut = std::cell::Cell::new(false);
    let cutting = || {
        if !is_cut.replace(true) {
            cut(&pack);
        }
        false
    };
    let refused = store.store.diff(&image, &"w:2".parse().unwrap(), ALL, &cutting).unwrap_err();
    let is_said = |said: &str| {
        let all = [name, "the frame at byte ", "the file ends before", "regild image scrub"];
        assert!(all.iter().all(|part| said.contains(part)), "{said}");
    };
    is_said(&regild::causes::in_one_line(&refused));
    is_said(&regild::causes::in_one_line(&store.store.export(&image, &out).unwrap_err()));
    let BaselineState::Failed { reason } = store.store.make_baseline(&manifest, 8).unwrap().state else {
        panic!("a baseline of half a pack");
    };
    is_said(&reason);
}

/// The same of the index that says what a pack's blocks are.
#[test]
fn an_index_that_is_cut_short_while_it_is_read_is_an_error() {
    let store = Store::new();
    let index = two_of_one_pack(&store).with_extension("idx");
    let is_cut = std::cell::Cell::new(false);
    let cutting = || {
        if !is_cut.replace(true) {
            cut(&index);
        }
        false
    };
    let refused = store.store.diff(&"w:1".parse().unwrap(), &"w:2".parse().unwrap(), ALL, &cutting).unwrap_err();
    let said = regild::causes::in_one_line(&refused);
    assert!(said.contains(index.to_str().unwrap()) && said.contains("regild image scrub"), "{said}");
}

/// A damaged frame ends the comparison with its name, and is never told as a file that differs.
#[test]
fn damage_in_the_store_is_named() {
    let store = Store::new();
    sh(&format!(
        r#"cd {}; mkdir tree; head -c 3M /dev/urandom >tree/data; truncate -s 8M one; mke2fs -q -t ext2 -d tree one
        printf x >tree/other; truncate -s 8M two; mke2fs -q -t ext2 -d tree two"#,
        store.dir.path().display()
    ));
    store.import("one", "w:1");
    let pack = pack(&store);
    store.import("two", "w:2");
    assert_eq!(paths(&store.diff("w:1", "w:2").file_list), [(0, "/other", "added".to_owned())]);
    let whole = fs::read(&pack).unwrap();
    let mut bytes = whole.clone();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    damaged_file(&pack, &bytes);
    let store = reopened(store);
    let said = regild::causes::in_one_line(&store.try_diff("w:1", "w:2", ALL).unwrap_err());
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(name) && said.contains("the frame at byte ") && said.contains("is damaged"), "{said}");
    damaged_file(&pack, &whole);
    // Its index: nothing can be said of its blocks.
    let index = pack.with_extension("idx");
    let mut bytes = fs::read(&index).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    damaged_file(&index, &bytes);
    let store = reopened(store);
    let said = store.try_diff("w:1", "w:2", ALL).unwrap_err().to_string();
    assert!(said.contains(".idx is damaged") && said.contains("image scrub"), "{said}");
}

/// Under the same name, as another file: the store's own rule for its mappings.
fn damaged_file(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    fs::write(&beside, bytes).unwrap();
    fs::rename(beside, path).unwrap();
}

fn reopened(store: Store) -> Store {
    let Store { dir, store } = store;
    drop(store);
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    Store { dir, store }
}

/// A file system that lies costs its own files: blocks are told all the same, and which side it was.
#[test]
fn a_broken_file_system_is_blocks_only() {
    let store = Store::new();
    sh(&format!(
        r#"cd {}; mkdir -p tree/usr/bin; echo x >tree/usr/bin/program
        for name in one two; do truncate -s 8M $name; mke2fs -q -t ext4 -b 1024 -O ^metadata_csum -d tree $name; done
        debugfs -w -R 'set_inode_field /usr/bin/program block[0] 99999999' two 2>/dev/null
        debugfs -w -R 'set_inode_field /usr/bin/program flags 0' two 2>/dev/null"#,
        store.dir.path().display()
    ));
    store.import("one", "w:1");
    store.import("two", "w:2");
    let diff = store.diff("w:1", "w:2");
    let whole = part(&diff, 0);
    assert_eq!(whole.how, "blocks only");
    let reason = whole.reason.as_deref().unwrap();
    assert!(reason.contains("the newer one:") && reason.contains("cannot read /usr/bin/program"), "{reason}");
    assert!(diff.file_list.is_empty() && diff.files.all() == 0 && diff.blocks.new_bytes > 0);
}

/// Nobody waits for it any more: it ends.
#[test]
fn a_comparison_that_nobody_wants_ends() {
    let store = Store::new();
    two_versions(&store);
    let stopped = store.store.diff(&"a:1".parse().unwrap(), &"a:2".parse().unwrap(), ALL, &|| true).unwrap_err();
    assert!(matches!(stopped, DiffError::Stopped), "{stopped}");
}

/// Figures, by hand: `cargo test --test image_diff figures -- --ignored --nocapture`. REGILD_DATA_MIB (2048) of files in an
/// ext4 of 40 GiB, and the same with one file more; the directory needs five times as much.
#[test]
#[ignore = "prints time and memory of a comparison of two large images"]
fn figures() {
    let mib: u64 = std::env::var("REGILD_DATA_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(2048);
    let store = Store::new();
    sh(&format!(
        r#"cd {}; mkdir -p tree/data; for n in $(seq {}); do head -c 16M /dev/urandom >tree/data/$n; done
        truncate -s 40G one; mke2fs -q -t ext4 -U clear -d tree one; printf x >tree/more
        truncate -s 40G two; mke2fs -q -t ext4 -U clear -d tree two; rm -r tree"#,
        store.dir.path().display(),
        mib / 16
    ));
    for (file, name) in [("one", "w:1"), ("two", "w:2")] {
        store.import(file, name);
        fs::remove_file(store.dir.path().join(file)).unwrap();
    }
    let store = reopened(store);
    let status = |key: &str| {
        let text = fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    // Anonymous memory: nothing else is read into.
    let before = status("RssAnon:");
    let peak = std::sync::atomic::AtomicU64::new(0);
    let look = || {
        peak.fetch_max(status("RssAnon:"), std::sync::atomic::Ordering::Relaxed);
        false
    };
    let began = std::time::Instant::now();
    let diff = store.store.diff(&"w:1".parse().unwrap(), &"w:2".parse().unwrap(), ALL, &look).unwrap();
    println!("diff: {:?}, RssAnon {before} MiB before, {} MiB at most", began.elapsed(), peak.into_inner());
    println!("{:?}, {:?}, {} new compressed", diff.blocks, paths(&diff.file_list), diff.new_compressed_bytes);
    let began = std::time::Instant::now();
    let plan = store.store.plan(Some(&"w:1".parse().unwrap()), &"w:2".parse().unwrap(), None).unwrap();
    println!("plan: {:?}, RssAnon {} MiB after: {plan:?}", began.elapsed(), status("RssAnon:"));
}
