//! faults.md rule 10: file systems that somebody has made up. Each ends in an error that says where, within bounds.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;

use proptest::prelude::*;
use regild::decide::drift::finding::Kind;
use regild::volume::batch::Hashed;
use regild::volume::{self, Fault, Format, Found, VolumeError, fat};

use crate::lab::sh;

/// A small ext4 without checksums, so that what is changed in it is believed.
fn small(dir: &Path, options: &str) -> Vec<u8> {
    sh(&format!(
        r#"cd {0}; rm -rf tree small; mkdir -p tree/dir/inner tree/wide; truncate -s 1M small
        echo content >tree/file; echo content >tree/dir/name_a; echo content >tree/dir/name_b; ln -s target tree/link
        seq -f tree/wide/n%g 1 200 | xargs touch; head -c 40000 /dev/urandom >tree/dir/blocks
        setfattr -n user.x -v value tree/file
        mke2fs -q -t ext4 -b 1024 -N 512 -O ^has_journal,^metadata_csum{options} -d tree small"#,
        dir.display()
    ));
    fs::read(dir.join("small")).unwrap()
}

fn walk(image: Vec<u8>) -> Result<Vec<Found>, VolumeError> {
    let mut tree = volume::open(Cursor::new(image), Format::Ext4, fat::Options::default())?;
    Hashed::new(&mut *tree, |_| true).collect()
}

fn replaced(mut image: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut count = 0;
    for at in 0..image.len() - from.len() {
        if image[at..].starts_with(from) {
            image[at..at + to.len()].copy_from_slice(to);
            count += 1;
        }
    }
    assert!(count > 0, "nothing to replace");
    image
}

fn debugfs(dir: &Path, command: &str) -> Vec<u8> {
    sh(&format!("cd {}; cp small changed; debugfs -w -R '{command}' changed", dir.display()));
    fs::read(dir.join("changed")).unwrap()
}

/// Another inode for the entry of this name: its number stands eight bytes before.
fn led_to(mut image: Vec<u8>, name: &[u8], inode: u32) -> Vec<u8> {
    let at = image.windows(name.len()).position(|bytes| bytes == name).unwrap();
    image[at - 8..at - 4].copy_from_slice(&inode.to_le_bytes());
    image
}

/// What it says, and of which path.
fn refused(image: Vec<u8>) -> (String, String) {
    let error = walk(image).map(|found| found.len()).unwrap_err();
    (error.to_string(), error.fault.to_string())
}

#[test]
fn made_up_directories_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let good = small(dir.path(), "");
    assert_eq!(walk(good.clone()).unwrap().len(), 210);
    let (place, why) = refused(replaced(good.clone(), b"name_b", b"name_a"));
    assert!(place.contains("read /dir ") && why.contains("name_a twice"), "{place}: {why}");
    let (place, why) = refused(replaced(good.clone(), b"name_b", b"na/e_b"));
    assert!(place.contains("read /dir ") && why.contains("a name that no file can have"), "{place}: {why}");
    // The root, the directory itself, its neighbour: `name_b` leads there.
    let inodes = walk(good.clone()).unwrap().into_iter().map(|found| (found.path, found.inode));
    let inodes: std::collections::BTreeMap<_, _> = inodes.collect();
    for to in [&b"/"[..], b"/dir", b"/dir/inner", b"/wide"] {
        let (place, why) = refused(led_to(good.clone(), b"name_b", inodes[to] as u32));
        assert!(place.contains('/') && why.contains("has a second path"), "{to:?}: {place}: {why}");
    }
    let (place, why) = refused(led_to(good.clone(), b"name_b", 9999));
    assert!(place.contains("/dir/name_b") && why.contains("inode 9999"), "{place}: {why}");
}

#[test]
fn a_size_that_is_a_lie_costs_no_time_and_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    small(dir.path(), "");
    let huge = walk(debugfs(dir.path(), "set_inode_field file size 0xfffffffffff")).unwrap();
    let file = huge.iter().find(|found| found.path == b"/file").unwrap();
    assert_eq!(file.node.kind, Kind::File { bytes: 0xfff_ffff_ffff, digest: None }, "all but a block of it is holes");
    let (place, _) = refused(debugfs(dir.path(), "set_inode_field dir/blocks block[5] 0xfffffff"));
    assert!(place.contains("/dir/blocks"), "{place}");
    let (place, _) = refused(debugfs(dir.path(), "set_inode_field link size 4000000"));
    assert!(place.contains("/link"), "{place}");
    let file = File::open(dir.path().join("small")).unwrap();
    let error = volume::open(file, Format::Vfat, fat::Options::default()).err().unwrap();
    assert!(matches!(error.fault, Fault::Io(_) | Fault::Damaged(_)), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes changed anywhere: an answer or an error, no panic, no endless walk.
    #[test]
    fn changed_bytes_end_in_an_answer_or_an_error(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..30),
        shape in 0usize..2,
    ) {
        static SHAPES: std::sync::OnceLock<[Vec<u8>; 2]> = std::sync::OnceLock::new();
        let shapes = SHAPES.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            [small(dir.path(), ""), small(dir.path(), ",^extents,^64bit,inline_data")]
        });
        let mut image = shapes[shape].clone();
        for (at, byte, is_metadata) in changes {
            // Half of them in what is dense: superblock, descriptors, inode table.
            let range = if is_metadata { 80 << 10 } else { image.len() };
            image[at.index(range)] = byte;
        }
        let _ = walk(image);
    }
}
