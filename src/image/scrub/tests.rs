//! Damage at rest: found, said, kept from new orders, and mended from what is there.

use super::*;
use crate::image::tests::{MIB, export, image, import, noise, store};
use crate::image::{Imported, gc};
use std::collections::{BTreeMap, BTreeSet};

fn scrub(store: &ImageStore) -> ScrubReport {
    let request = ScrubRequest { image: None, from: None, bytes_per_second: 0, now: 77 };
    store.scrub(&request, &|| false).unwrap()
}

fn reference(name: &str) -> ImageRef {
    name.parse().unwrap()
}

/// Changes a byte on the disk behind the store's back: a new file, since the old one may be mapped.
fn flip(store: &ImageStore, path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    let temp = store.dir.join("flipped");
    fs::write(&temp, bytes).unwrap();
    fs::rename(temp, path).unwrap();
    store.packs.forget(path.file_stem().unwrap().to_str().unwrap());
}

fn only_pack(store: &ImageStore, name: &str) -> std::path::PathBuf {
    let manifest = store.manifest(&store.resolve(&reference(name)).unwrap()).unwrap();
    store.pack_path(&manifest::to_hex(&manifest.packs[0]))
}

fn reopened(store: ImageStore) -> ImageStore {
    let dir = store.dir.clone();
    drop(store);
    ImageStore::open(&dir).unwrap()
}

#[test]
fn a_sound_store_is_found_sound() {
    let (_dir, store) = store();
    import(&store, "a:1", &image(1)[..]).unwrap();
    import(&store, "a:2", &noise(2, MIB)[..]).unwrap();
    let report = scrub(&store);
    assert_eq!((report.records, report.manifests, report.packs), (2, 2, 2));
    assert!(report.bad.is_empty() && report.mended.is_empty() && report.read_bytes > 3 * MIB as u64, "{report:?}");
    assert_eq!(reopened(store).scrubbed_at(), 77);
}

/// I5: found by a scrub, it concerns exactly the versions that need the frame, over a restart, until the same content is
/// imported again; then the very manifest that hosts and orders refer to is right again.
#[test]
fn a_damaged_frame_is_mended_by_an_import_of_the_same_content() {
    let (_dir, store) = store();
    let (first, second) = (noise(1, 2 * MIB), [noise(1, 2 * MIB), noise(2, MIB)].concat());
    import(&store, "a:1", &first[..MIB]).unwrap();
    import(&store, "a:2", &second[..]).unwrap();
    let (before, pack) = (store.resolve(&reference("a:2")).unwrap(), {
        let manifest = store.manifest(&store.resolve(&reference("a:2")).unwrap()).unwrap();
        store.pack_path(&manifest::to_hex(manifest.packs.last().unwrap()))
    });
    let bad_pack = pack.clone();
    flip(&store, &bad_pack, fs::metadata(&bad_pack).unwrap().len() as usize / 2);
    let is_of_second = bad_pack != only_pack(&store, "a:1");
    assert!(is_of_second || store.list().unwrap().len() == 2);
    let report = scrub(&store);
    assert_eq!(report.bad.len(), 1, "{report:?}");
    let store = reopened(store);
    let damaged = store.damaged().unwrap();
    assert!(damaged.iter().any(|(image, why)| *image == reference("a:2") && why.contains("import the same content")));
    // Another image with the same blocks does not build on the damaged ones, and mends them by the way.
    let again = import(&store, "a:2", &second[..]).unwrap();
    assert!(matches!(again, Imported::Mended(_)), "{again:?}");
    assert_eq!(again.record().manifest, before, "hosts that refer to it find it as it was");
    assert!(store.damaged().unwrap().is_empty());
    assert!(scrub(&store).bad.is_empty());
    assert!(export(&store, "a:2") == second);
    assert!(export(&store, "a:1") == first[..MIB]);
    assert!(matches!(import(&store, "a:2", &second[..]).unwrap(), Imported::AlreadyThere(_)));
}

#[test]
fn another_version_does_not_build_on_what_is_damaged() {
    let (_dir, store) = store();
    let first = noise(1, 2 * MIB);
    import(&store, "a:1", &first[..]).unwrap();
    let pack = only_pack(&store, "a:1");
    flip(&store, &pack, 5000);
    scrub(&store);
    // It has some of the frame's blocks, not all: what it needs is stored once more, and the frame stays damaged.
    let part = &first[8192..MIB];
    import(&store, "b:1", part).unwrap();
    assert!(export(&store, "b:1") == part);
    let damaged = store.damaged().unwrap();
    assert_eq!(damaged.iter().map(|(image, _)| image.clone()).collect::<Vec<_>>(), [reference("a:1")]);
}

#[test]
fn records_and_manifests_are_put_back_from_their_copies() {
    let (_dir, store) = store();
    let record = import(&store, "a:1", &image(1)[..]).unwrap().record().clone();
    flip(&store, &store.manifest_path(&record.manifest), 20);
    fs::write(store.record_path(&record.image), b"{\"format\":").unwrap();
    let report = scrub(&store);
    assert!(!report.mended.is_empty() && report.bad.is_empty(), "{report:?}");
    assert_eq!(store.show(&record.image).unwrap(), record);
    assert!(export(&store, "a:1") == image(1));
    // Without a good copy it is said what is wrong, and the others are as they were.
    import(&store, "b:1", &image(2)[..]).unwrap();
    for path in [store.manifest_path(&record.manifest), store.copy_path(&record.manifest)] {
        flip(&store, &path, 20);
    }
    let report = scrub(&store);
    assert!(report.bad.len() == 1 && report.bad[0].starts_with(&format!("manifest {}", record.manifest)), "{report:?}");
    let damaged = store.damaged().unwrap();
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].0, record.image);
    // A record alone is enough for the import of the same content to go on.
    fs::write(store.record_path(&reference("b:1")), b"").unwrap();
    assert!(matches!(import(&store, "b:1", &image(2)[..]).unwrap(), Imported::AlreadyThere(_)));
    assert!(export(&store, "b:1") == image(2));
}

#[test]
fn an_index_is_made_again() {
    let (_dir, store) = store();
    let (first, part) = (noise(1, 3 * MIB), noise(1, MIB));
    import(&store, "a:1", &first[..]).unwrap();
    let pack = only_pack(&store, "a:1");
    flip(&store, &pack.with_extension("idx"), 3000);
    let report = scrub(&store);
    assert!(report.mended.len() == 1 && report.bad.is_empty(), "{report:?}");
    assert_eq!(import(&store, "a:2", &part[..]).unwrap().record().added_bytes, 0, "every block is known again");
    // Index and frame both: the digests of the manifest's extents tell which frames are wrong.
    flip(&store, &pack.with_extension("idx"), 3000);
    flip(&store, &pack, 2 * MIB);
    let report = scrub(&store);
    assert_eq!((report.mended.len(), report.bad.len()), (1, 1), "{report:?}");
    assert_eq!(store.damaged().unwrap().len(), 1, "a:2 does not need it");
    assert!(export(&store, "a:2") == part);
}

#[test]
fn everything_comes_back_from_another_store() {
    let (_dir, store) = store();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = ImageStore::open(elsewhere.path()).unwrap();
    let first = noise(1, 2 * MIB);
    // Packed in another way there.
    import(&other, "z:9", &first[MIB..]).unwrap();
    import(&other, "z:8", &[&first[..MIB], &noise(5, MIB)].concat()[..]).unwrap();
    let record = import(&store, "a:1", &first[..]).unwrap().record().clone();
    flip(&store, &only_pack(&store, "a:1"), 5000);
    flip(&store, &only_pack(&store, "a:1"), 2 * MIB - 5000);
    assert_eq!(scrub(&store).bad.len(), 1);
    let request =
        ScrubRequest { image: Some(&record.image), from: Some(elsewhere.path()), bytes_per_second: 0, now: 1 };
    let report = store.scrub(&request, &|| false).unwrap();
    assert!(report.mended.len() == 1 && report.bad.is_empty(), "{report:?}");
    assert!(export(&store, "a:1") == first);
    // A whole pack that was lost, from a store of the same imports.
    import(&other, "b:1", &image(7)[..]).unwrap();
    import(&store, "b:1", &image(7)[..]).unwrap();
    let pack = only_pack(&store, "b:1");
    fs::remove_file(&pack).unwrap();
    let store = reopened(store);
    assert_eq!(scrub(&store).bad.len(), 1);
    let all = ScrubRequest { image: None, from: Some(elsewhere.path()), bytes_per_second: 0, now: 1 };
    assert!(store.scrub(&all, &|| false).unwrap().bad.is_empty());
    assert!(export(&store, "b:1") == image(7));
}

#[test]
fn damage_of_what_was_removed_is_forgotten() {
    let (_dir, store) = store();
    import(&store, "a:1", &noise(1, MIB)[..]).unwrap();
    flip(&store, &only_pack(&store, "a:1"), 5000);
    assert_eq!(scrub(&store).bad.len(), 1);
    let (collect, in_use) = (BTreeSet::from([reference("a:1")]), BTreeMap::new());
    let patience = Duration::ZERO;
    store.gc(&gc::GcRequest { collect: &collect, in_use: &in_use, now: 1, patience, dry_run: false }).unwrap();
    assert!(store.bad_list().is_empty());
    assert!(scrub(&store).bad.is_empty());
}

#[test]
fn a_scrub_that_is_told_to_end_ends() {
    let (_dir, store) = store();
    import(&store, "a:1", &noise(1, MIB)[..]).unwrap();
    let request = ScrubRequest { image: None, from: None, bytes_per_second: 0, now: 77 };
    assert!(store.scrub(&request, &|| true).unwrap().is_cut);
    assert_eq!(store.scrubbed_at(), 0, "it is due still");
    let unknown = ScrubRequest { image: Some(&reference("x:1")), ..request };
    assert!(store.scrub(&unknown, &|| false).unwrap_err().is_missing());
}

/// Noise is stored as it is: a byte in the middle of a frame can change and the frame unpacks all the same.
fn inside_a_frame(pack: &Path) -> usize {
    PackIndex::open(&pack.with_extension("idx")).unwrap().frame(2).offset_bytes as usize + 100_000
}

/// An index that is made again says nothing of a frame that is damaged: the next scrub must not take it for sound.
#[test]
fn damage_is_not_forgotten_when_the_index_was_made_again() {
    let (_dir, store) = store();
    import(&store, "a:1", &noise(1, 3 * MIB)[..]).unwrap();
    let pack = only_pack(&store, "a:1");
    let at = inside_a_frame(&pack);
    flip(&store, &pack, at);
    flip(&store, &pack.with_extension("idx"), 3000);
    let report = scrub(&store);
    assert_eq!((report.mended.len(), report.bad.len()), (1, 1), "{report:?}");
    let report = scrub(&store);
    assert_eq!((report.mended.len(), report.bad.len()), (0, 1), "{report:?}");
    assert_eq!(store.damaged().unwrap().len(), 1);
    // Nor does an import build on it.
    import(&store, "b:1", &noise(1, 3 * MIB)[8192..]).unwrap();
    assert!(export(&store, "b:1") == noise(1, 3 * MIB)[8192..]);
}

/// What only an unreadable manifest needs of a pack stays in it.
#[test]
fn an_index_is_not_made_again_while_a_manifest_cannot_be_read() {
    let (_dir, store) = store();
    let first = noise(1, 3 * MIB);
    let record = import(&store, "a:1", &first[..]).unwrap().record().clone();
    import(&store, "a:2", &first[..MIB]).unwrap();
    let (pack, manifest) = (only_pack(&store, "a:1"), store.manifest_path(&record.manifest));
    let copy = store.copy_path(&record.manifest);
    flip(&store, &pack.with_extension("idx"), 3000);
    flip(&store, &manifest, 20);
    flip(&store, &copy, 20);
    let before = fs::read(&pack).unwrap();
    let version = reference("a:2");
    for image in [Some(&version), None] {
        let request = ScrubRequest { image, from: None, bytes_per_second: 0, now: 1 };
        let report = store.scrub(&request, &|| false).unwrap();
        assert!(report.mended.is_empty() && !report.bad.is_empty(), "{report:?}");
        assert!(fs::read(&pack).unwrap() == before);
    }
    // With the manifest again, all of it is.
    flip(&store, &manifest, 20);
    let report = scrub(&store);
    assert!(report.mended.len() == 1 && report.bad.is_empty(), "{report:?}");
    assert!(export(&store, "a:1") == first);
}

/// A scrub that is cut in the middle of a pack keeps what was known of the rest of it.
#[test]
fn a_scrub_that_is_cut_inside_a_pack_forgets_nothing() {
    let (_dir, store) = store();
    import(&store, "a:1", &noise(1, 4 * MIB)[..]).unwrap();
    let pack = only_pack(&store, "a:1");
    flip(&store, &pack, 4 * MIB - 5000);
    assert_eq!(scrub(&store).bad.len(), 1);
    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 1
    };
    let request = ScrubRequest { image: None, from: None, bytes_per_second: 0, now: 99 };
    let report = store.scrub(&request, &stop).unwrap();
    assert!(report.is_cut && report.bad.len() == 1 && report.frames < 10, "{report:?}");
    assert_eq!(store.damaged().unwrap().len(), 1);
    assert_eq!(store.scrubbed_at(), 77, "it does not count as one of everything");
}
