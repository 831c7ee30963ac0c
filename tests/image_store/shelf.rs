//! A store of versions whose content follows from their number, and what can be said of it from outside.

use regild::image::gc::{GcReport, GcRequest};
use regild::image::{ImageRef, ImageStore, ImportRequest};
use regild::wire::manifest::{Manifest, to_hex};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};
use std::path::Path;
use std::time::Duration;

pub const KIB: usize = 1 << 10;

/// Reproducible noise that does not compress.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Version `number`: parts of its forerunners, so that packs are shared and thinned, and a part of its own.
pub fn content(number: u64) -> Vec<u8> {
    let part = |of: u64| noise(of, 600 * KIB);
    let mut image = part(number);
    image.extend_from_slice(&part(number.saturating_sub(1))[..300 * KIB]);
    image.extend_from_slice(&part(number.saturating_sub(3))[256 * KIB..512 * KIB]);
    image
}

pub fn name(number: u64) -> ImageRef {
    ImageRef::new("kept", &number.to_string()).unwrap()
}

pub fn import(store: &ImageStore, number: u64) -> Result<(), regild::image::ImportError> {
    let image = name(number);
    let request = ImportRequest { image: &image, now: number, source: "test", max_image_bytes: 1 << 30 };
    store.import(&content(number)[..], &request, &|_| ()).map(|_| ())
}

pub fn gc(store: &ImageStore, collect: &[u64], dry_run: bool) -> GcReport {
    let collect: BTreeSet<ImageRef> = collect.iter().map(|number| name(*number)).collect();
    let in_use = BTreeMap::new();
    let request = GcRequest { collect: &collect, in_use: &in_use, now: 1, patience: Duration::from_secs(60), dry_run };
    store.gc(&request).unwrap()
}

/// The numbers that are listed.
pub fn listed(store: &ImageStore) -> BTreeSet<u64> {
    store.list().unwrap().iter().map(|record| record.image.version().parse().unwrap()).collect()
}

/// A listed version is there, byte for byte.
#[track_caller]
pub fn is_whole(store: &ImageStore, number: u64) {
    let mut file = tempfile::tempfile().unwrap();
    store.export(&name(number), &file).unwrap_or_else(|error| panic!("{number} is lost: {error:?}"));
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == content(number), "{number} is another");
}

fn files(dir: &Path, ending: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.filter_map(|name| name.strip_suffix(ending).map(str::to_owned)).collect()
}

/// Looked at from outside, without the store's own marking: nothing lies in its directories that no listed version needs.
#[track_caller]
pub fn nothing_is_left_over(store: &ImageStore, dir: &Path) {
    let records = store.list().unwrap();
    let manifests: BTreeSet<String> = records.iter().map(|record| record.manifest.clone()).collect();
    assert_eq!(files(&dir.join("manifests"), ""), manifests, "manifests");
    let mut packs: BTreeSet<String> = BTreeSet::new();
    let mut needed: BTreeMap<String, BTreeSet<(u64, u64)>> = BTreeMap::new();
    for digest in &manifests {
        let manifest = Manifest::decode(&store.manifest_bytes(digest).unwrap(), None).unwrap();
        packs.extend(manifest.packs.iter().map(to_hex));
        for frame in &manifest.frames {
            let frames = needed.entry(manifest.pack_id(frame)).or_default();
            frames.insert((frame.offset_bytes, u64::from(frame.compressed_bytes)));
        }
    }
    assert_eq!(files(&dir.join("packs"), ".pack"), packs, "packs");
    assert_eq!(files(&dir.join("packs"), ".idx"), packs, "indexes");
    assert_eq!(files(&dir.join("tmp"), ""), BTreeSet::new(), "temporary files");
    let names: BTreeSet<String> = records.iter().map(|record| record.image.to_string()).collect();
    let copies = files(&dir.join("copies"), "");
    let unneeded: Vec<&String> =
        copies.iter().filter(|copy| !names.contains(*copy) && !manifests.contains(*copy)).collect();
    assert!(unneeded.is_empty(), "copies: {unneeded:?}");
    for (pack, frames) in &needed {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(dir.join("packs").join(format!("{pack}.pack"))).unwrap();
        let live: u64 = frames.iter().map(|(_, bytes)| bytes).sum();
        let (room, slack) = (metadata.blocks() * 512, 8 * KIB as u64 * (frames.len() as u64 + 1));
        // What is not worth a copy stays: at most a quarter, or 64 KiB.
        let most = (live * 4 / 3).max(live + 64 * KIB as u64) + slack;
        assert!(room <= most, "pack {pack} takes {room} bytes, {live} of them needed");
    }
}
