//! A thousand versions of one image: how long it takes to list, resolve and look at them, and how the store grows.

use std::io::Read;
use std::time::Instant;

use regild::image::{ImageRef, ImageStore, ImportRequest};

use crate::shelf::{gc, noise};

const VERSIONS: u64 = 1000;
/// Of each version; the rest is its forerunner's.
const NEW_BLOCKS: usize = 16;
const BLOCKS: usize = 4096;

/// One image of 16 MiB in which each version replaces four files of 16 KiB somewhere.
fn change(image: &mut [u8], version: u64) {
    for file in 0..4u64 {
        let place = u64::from_le_bytes(noise(version << 8 | file, 8).try_into().unwrap());
        let at = (place % (BLOCKS - NEW_BLOCKS / 4) as u64) as usize * 4096;
        image[at..at + NEW_BLOCKS * 1024].copy_from_slice(&noise(version << 16 | file, NEW_BLOCKS * 1024));
    }
}

/// Figures, no assertions of time: `cargo test --release --test image_store many -- --ignored --nocapture`.
#[test]
#[ignore = "measures; half a minute optimised"]
fn a_thousand_versions_are_listed_resolved_and_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images");
    let store = ImageStore::open(&path).unwrap();
    let mut image = noise(0, BLOCKS * 4096);
    let reference = |version: u64| ImageRef::new("many", &version.to_string()).unwrap();
    for version in 0..VERSIONS {
        change(&mut image, version);
        let request = ImportRequest { image: &reference(version), now: version, source: "", max_image_bytes: 1 << 30 };
        let began = Instant::now();
        store.import(&image[..], &request, &|_| ()).unwrap();
        if [0, 1, 10, 100, 250, 500, 750, 999].contains(&version) {
            eprintln!("import {version}: {:?}; {}", began.elapsed(), sizes(&path));
        }
    }
    drop(store);
    let store = ImageStore::open(&path).unwrap();
    let time = |what: &str, mut act: Box<dyn FnMut() + '_>| {
        let mut times: Vec<_> = (0..3)
            .map(|_| {
                let began = Instant::now();
                act();
                began.elapsed()
            })
            .collect();
        let first = times[0];
        times.sort();
        eprintln!("{what}: {first:?} the first time after a start, {:?} median of 3", times[1]);
    };
    time("list", Box::new(|| assert_eq!(store.list().unwrap().len() as u64, VERSIONS)));
    time(
        "resolve each",
        Box::new(|| (0..VERSIONS).for_each(|version| drop(store.resolve(&reference(version)).unwrap()))),
    );
    time("gc --dry-run", Box::new(|| assert!(gc(&store, &[], true).is_clean() || store.list().is_ok())));
    let half: Vec<ImageRef> = (0..VERSIONS / 2).map(reference).collect();
    let collect = half.into_iter().collect();
    let in_use = std::collections::BTreeMap::new();
    let began = Instant::now();
    let request = regild::image::gc::GcRequest {
        collect: &collect,
        in_use: &in_use,
        now: 1,
        patience: std::time::Duration::ZERO,
        dry_run: false,
    };
    let report = store.gc(&request).unwrap();
    eprintln!("gc of half: {:?}, {} KiB freed; {}", began.elapsed(), report.freed_bytes >> 10, sizes(&path));
    let mut out = tempfile::tempfile().unwrap();
    store.export(&reference(VERSIONS - 1), &out).unwrap();
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut out).unwrap();
    out.read_to_end(&mut bytes).unwrap();
    assert!(bytes == image, "the newest version is whole");
}

fn sizes(path: &std::path::Path) -> String {
    let bytes = |dir: &str, ending: &str| -> u64 {
        let entries = std::fs::read_dir(path.join(dir)).unwrap().map(|entry| entry.unwrap());
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(ending));
        named.map(|entry| entry.metadata().unwrap().len()).sum()
    };
    let (packs, indexes) = (bytes("packs", ".pack") >> 10, bytes("packs", ".idx") >> 10);
    format!("packs {packs} KiB, indexes {indexes} KiB, manifests {} KiB", bytes("manifests", "") >> 10)
}
