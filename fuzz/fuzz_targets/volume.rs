//! File systems of images and of disks: what lies in a range, and a walk of all of it with digests.
//!
//! The input is a list of changes to a file system that is whole (inputs of noise would end at the superblock), or the
//! bytes themselves. Each must end in an answer or an error; an order that is not that of walks is a crash.

#![no_main]

use std::cmp::Ordering;
use std::io::Cursor;
use std::process::Command;
use std::sync::OnceLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use regild::decide::drift::path::order;
use regild::volume::batch::Hashed;
use regild::volume::{Format, detect, fat, open};

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Ext4 {
        changes: Vec<(u32, u8)>,
    },
    /// No extents, content in inodes, and no journal.
    Old {
        changes: Vec<(u32, u8)>,
    },
    Fat {
        changes: Vec<(u32, u8)>,
    },
    Bytes {
        format: u8,
        bytes: &'a [u8],
    },
}

/// Made once by the distribution's tools; checksums of metadata are off, or no change would get far.
fn seeds() -> &'static [Vec<u8>; 3] {
    static SEEDS: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory for the seeds");
        let script = "set -e; mkdir -p tree/a/b tree/many; echo x >tree/a/file; ln -s a tree/link; mkfifo tree/fifo
            for n in 1 2 3 4 5 6 7 8 9; do echo $n >tree/many/$n; done; dd if=/dev/zero of=tree/zeros bs=1k count=40
            truncate -s 1M ext4 old fat
            mke2fs -q -t ext4 -b 1024 -N 128 -O ^has_journal,^metadata_csum -d tree ext4
            mke2fs -q -t ext4 -b 1024 -N 128 -O ^has_journal,^metadata_csum,^extents,^64bit,inline_data -d tree old
            mkfs.vfat fat; mcopy -s -i fat tree/a tree/many ::";
        let done = Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().expect("a shell");
        assert!(done.status.success(), "the seeds need e2fsprogs, dosfstools, mtools: {done:?}");
        ["ext4", "old", "fat"].map(|name| std::fs::read(dir.path().join(name)).expect("it was just made"))
    })
}

fn changed(seed: usize, changes: &[(u32, u8)]) -> Vec<u8> {
    let mut image = seeds()[seed].clone();
    for (at, byte) in changes {
        let length = image.len();
        image[*at as usize % length] = *byte;
    }
    image
}

fn walk(image: &[u8], format: Format) {
    let _ = detect::detect(Cursor::new(image));
    let Ok(mut tree) = open(Cursor::new(image), format, fat::Options::default()) else { return };
    let mut before: Option<Vec<u8>> = None;
    for found in Hashed::new(&mut *tree, |_| true) {
        let Ok(found) = found else { break };
        if let Some(before) = &before {
            assert_eq!(order(before, &found.path), Ordering::Less, "out of order");
        }
        before = Some(found.path);
    }
    let _ = tree.find(b"/a/file").map(|found| found.map(|found| tree.read(&found, 100)));
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Ext4 { changes } => walk(&changed(0, &changes), Format::Ext4),
    Input::Old { changes } => walk(&changed(1, &changes), Format::Ext4),
    Input::Fat { changes } => walk(&changed(2, &changes), Format::Vfat),
    Input::Bytes { format, bytes } => walk(bytes, if format % 2 == 0 { Format::Ext4 } else { Format::Vfat }),
});
