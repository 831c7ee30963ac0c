//! Garbage collection's promises: what is needed stays as it is for everybody who reads it, what is not goes, and whatever
//! a crash leaves the next run finds.

use super::*;
use crate::image::tests::{MIB, export, image, import, noise, store, tree};
use crate::image::{ImportError, ImportRequest, pack::PackIndex};
use std::io::Read;

const NOW: u64 = 2_000_000_000;

fn names(images: &[&str]) -> BTreeSet<ImageRef> {
    images.iter().map(|image| image.parse().unwrap()).collect()
}

fn request<'a>(collect: &'a BTreeSet<ImageRef>, in_use: &'a BTreeMap<String, String>) -> GcRequest<'a> {
    GcRequest { collect, in_use, now: NOW, patience: Duration::ZERO, dry_run: false }
}

fn gc(store: &ImageStore, collect: &[&str]) -> GcReport {
    store.gc(&request(&names(collect), &BTreeMap::new())).unwrap()
}

/// What a run would do.
fn look(store: &ImageStore, collect: &[&str]) -> GcReport {
    let collect = names(collect);
    store.gc(&GcRequest { dry_run: true, ..request(&collect, &BTreeMap::new()) }).unwrap()
}

fn room(store: &ImageStore) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let packs = store.dir.join("packs");
    let blocks = |name: &String| fs::metadata(packs.join(name)).unwrap().blocks() * 512;
    files::entries(&packs).unwrap().iter().filter(|name| name.ends_with(".pack")).map(blocks).sum()
}

/// Two versions: the second has the first half of the first one, and a MiB of its own.
fn pair(store: &ImageStore) -> (Vec<u8>, Vec<u8>) {
    let first = noise(1, 4 * MIB);
    let second = [&first[..2 * MIB], &noise(2, MIB)].concat();
    import(store, "a:1", &first[..]).unwrap();
    import(store, "a:2", &second[..]).unwrap();
    (first, second)
}

/// What agents rely on: the pack's id and length, and every byte of every frame of a manifest, at its place.
fn frames(store: &ImageStore, name: &str) -> Vec<(String, usize, Vec<u8>)> {
    let manifest = store.manifest(&store.resolve(&name.parse().unwrap()).unwrap()).unwrap();
    let frame = |frame: &manifest::Frame| {
        let id = manifest.pack_id(frame);
        let pack = std::fs::read(store.pack_path(&id)).unwrap();
        let start = frame.offset_bytes as usize;
        (id, pack.len(), pack[start..start + frame.compressed_bytes as usize].to_vec())
    };
    manifest.frames.iter().map(frame).collect()
}

#[test]
fn a_version_that_goes_takes_along_what_nobody_else_needs() {
    let (_dir, store) = store();
    let (first, second) = pair(&store);
    let (served, before) = (frames(&store, "a:2"), room(&store));
    let whole = tree(&store.dir);
    let would = look(&store, &["a:1"]);
    assert!(tree(&store.dir) == whole, "a dry run changes nothing");
    let done = gc(&store, &["a:1"]);
    assert_eq!(done, would, "a dry run says what a run does");
    assert!(done.freed_bytes > 2 * MIB as u64 - 64 * 1024, "{done:?}");
    assert!(room(&store) < before - 19 * MIB as u64 / 10, "{} of {before} bytes", room(&store));
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(export(&store, "a:2") == second);
    // An agent in the middle of a:2 asks for the same ranges of the same packs, and gets the same bytes.
    assert!(frames(&store, "a:2") == served);
    assert!(look(&store, &[]).is_clean(), "{:?}", look(&store, &[]));
    // What was dropped is not built upon.
    assert!(import(&store, "b:1", &first[..]).unwrap().record().added_bytes > 2 * MIB as u64 - 64 * 1024);
    assert!(export(&store, "b:1") == first);
}

#[test]
fn the_last_version_of_all_leaves_an_empty_store() {
    let (_dir, store) = store();
    pair(&store);
    gc(&store, &["a:1", "a:2"]);
    for part in ["packs", "manifests", "names", "tmp"] {
        assert_eq!(files::entries(&store.dir.join(part)).unwrap(), Vec::<String>::new(), "{part}");
    }
    assert!(import(&store, "a:3", &image(3)[..]).is_ok());
}

/// Rule 8: a version never changes, whether it is there or not.
#[test]
fn a_name_that_is_gone_is_never_given_to_other_content() {
    let (_dir, store) = store();
    import(&store, "a:1", &image(1)[..]).unwrap();
    gc(&store, &["a:1"]);
    let refused = import(&store, "a:1", &image(2)[..]).unwrap_err();
    assert!(matches!(refused, ImportError::OtherContentBefore { .. }), "{refused}");
    assert!(store.list().unwrap().is_empty());
    // Refused in the end, after its blocks were written: they are nobody's, and nothing of them is left.
    assert!(look(&store, &[]).is_clean());
    import(&store, "a:1", &image(1)[..]).unwrap();
    assert!(export(&store, "a:1") == image(1));
    gc(&store, &["a:1"]);
    assert!(import(&store, "a:1", &image(2)[..]).is_err());
}

#[test]
fn what_hosts_use_or_fetch_stays_though_nothing_names_it() {
    let (_dir, store) = store();
    let (first, _) = pair(&store);
    let manifest = store.resolve(&"a:1".parse().unwrap()).unwrap();
    let served = frames(&store, "a:1");
    let in_use = BTreeMap::from([(manifest.clone(), "host web-1 has an order for it".to_string())]);
    let collect = names(&["a:1"]);
    let report = store.gc(&request(&collect, &in_use)).unwrap();
    assert_eq!(report.manifests, [(manifest.clone(), in_use.get(&manifest).cloned())]);
    assert_eq!((report.freed_bytes, report.packs.len()), (0, 0), "{report:?}");
    assert!(store.show(&"a:1".parse().unwrap()).unwrap_err().is_missing());
    let fetched = store.manifest(&manifest).unwrap();
    assert_eq!(fetched.frames.len(), served.len());
    // The order is over; an agent that somebody runs by hand has just asked for it.
    store.note_served(&manifest, NOW - GRACE_SECONDS + 1);
    assert_eq!(gc(&store, &[]).freed_bytes, 0);
    let (nothing, nobody) = (BTreeSet::new(), BTreeMap::new());
    let later = GcRequest { now: NOW + 1, ..request(&nothing, &nobody) };
    assert!(store.gc(&later).unwrap().freed_bytes > 0);
    assert!(store.manifest(&manifest).unwrap_err().is_missing());
    assert!(import(&store, "c:1", &first[..]).is_ok());
}

/// Reads some bytes, and then does something before it goes on.
struct Meanwhile<'a, F: FnMut()> {
    bytes: &'a [u8],
    act: Option<F>,
}

impl<F: FnMut()> Read for Meanwhile<'_, F> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.bytes.read(out)?;
        if count == 0
            && let Some(mut act) = self.act.take()
        {
            act();
        }
        Ok(count)
    }
}

#[test]
fn a_run_beside_an_import_takes_none_of_its_blocks() {
    let (_dir, store) = store();
    let (first, second) = pair(&store);
    let act = || {
        let report = gc(&store, &["a:1"]);
        assert!(report.held_back.is_some_and(|why| why.contains("an import is running")));
        assert_eq!(report.collected, ["a:1".parse().unwrap()]);
        assert!(look(&store, &[]).held_back.is_some());
    };
    // The same blocks as a:1, whose name goes while they are counted on.
    import(&store, "b:1", Meanwhile { bytes: &first, act: Some(act) }).unwrap();
    assert!(gc(&store, &[]).held_back.is_none());
    assert!(export(&store, "b:1") == first);
    assert!(export(&store, "a:2") == second);
}

/// Leaks of crashes between any two steps of an import or of a run: each is found by the next one.
#[test]
fn what_crashes_leave_is_found() {
    let (_dir, store) = store();
    let (first, second) = pair(&store);
    // Of an import: a pack that no manifest names; then a manifest without a name.
    let orphan = |name: &str, with_manifest: bool| {
        import(&store, name, &noise(9, MIB)[..]).unwrap();
        let image = name.parse().unwrap();
        if !with_manifest {
            fs::remove_file(store.manifest_path(&store.resolve(&image).unwrap())).unwrap();
        }
        fs::remove_file(store.record_path(&image)).unwrap();
    };
    for with_manifest in [false, true] {
        orphan("x:1", with_manifest);
        let freed = gc(&store, &[]).freed_bytes;
        assert!(freed >= MIB as u64, "{with_manifest}: {freed}");
        assert!(look(&store, &[]).is_clean());
    }
    // Of a run: the name is gone and nothing else; the pack is gone and its index is not; the index has lost its frames
    // and the pack has them still.
    store.take_off_the_list(&"a:1".parse().unwrap()).unwrap();
    fs::write(store.dir.join("packs").join(format!("{}.idx", "0".repeat(64))), b"index of a pack that went").unwrap();
    let needed = store.uses(&store.resolve(&"a:2".parse().unwrap()).unwrap()).unwrap();
    let live = Live::of(&[needed]);
    let pack = digests_in(&store.dir.join("packs"), ".pack").unwrap();
    let thick = pack.iter().max_by_key(|id| fs::metadata(store.pack_path(id)).unwrap().len()).unwrap();
    let before = room(&store);
    store.drop_frames(thick, &live).unwrap();
    let report = gc(&store, &[]);
    assert_eq!(report.packs.iter().map(|fate| fate.does).collect::<Vec<_>>(), [Does::Thinned], "{report:?}");
    assert!(room(&store) < before - 19 * MIB as u64 / 10);
    assert!(look(&store, &[]).is_clean(), "{:?}", look(&store, &[]));
    assert_eq!(digests_in(&store.dir.join("packs"), ".idx").unwrap(), pack);
    assert!(export(&store, "a:2") == second);
    assert!(import(&store, "b:1", &first[..]).is_ok());
}

#[test]
fn a_pack_that_was_thinned_twice_is_still_right() {
    let (_dir, store) = store();
    let all = noise(4, 4 * MIB);
    import(&store, "a:1", &all[..]).unwrap();
    import(&store, "a:2", &all[..2 * MIB]).unwrap();
    import(&store, "a:3", &all[..MIB]).unwrap();
    gc(&store, &["a:1"]);
    gc(&store, &["a:2"]);
    assert!(export(&store, "a:3") == all[..MIB]);
    let pack = &digests_in(&store.dir.join("packs"), ".pack").unwrap()[0];
    let index = PackIndex::open(&store.pack_path(pack).with_extension("idx")).unwrap();
    assert_eq!((0..index.frames()).filter(|frame| index.is_dropped(*frame)).count(), 6);
    assert!(room(&store) < MIB as u64 + 64 * 1024);
    // The index still gives every block that is there, and no other.
    let record = import(&store, "b:1", &all[..]).unwrap().record().clone();
    assert!(record.added_bytes > 3 * MIB as u64 - 64 * 1024 && record.added_bytes < 3 * MIB as u64 + 64 * 1024);
    assert!(export(&store, "b:1") == all);
}

#[test]
fn where_it_cannot_be_known_what_is_needed_nothing_of_the_data_goes() {
    let (_dir, store) = store();
    let (_, second) = pair(&store);
    import(&store, "b:1", &noise(7, MIB)[..]).unwrap();
    let manifest = store.manifest_path(&store.resolve(&"b:1".parse().unwrap()).unwrap());
    fs::write(&manifest, b"damaged").unwrap();
    store.uses.forget(&store.resolve(&"b:1".parse().unwrap()).unwrap());
    let before = room(&store);
    let report = gc(&store, &["a:1"]);
    assert!(report.held_back.as_ref().is_some_and(|why| why.contains("its digest is")), "{report:?}");
    assert_eq!(room(&store), before);
    fs::write(store.record_path(&"b:1".parse().unwrap()), b"{").unwrap();
    assert!(gc(&store, &[]).held_back.is_some_and(|why| why.starts_with("b:1: ")));
    assert_eq!(room(&store), before);
    // The version that nobody can read any more can be removed, and then all is known again.
    assert!(gc(&store, &["b:1"]).freed_bytes > 3 * MIB as u64 - 64 * 1024);
    assert!(look(&store, &[]).is_clean());
    assert!(export(&store, "a:2") == second);
}

#[test]
fn a_list_of_files_goes_with_the_last_manifest_that_has_it() {
    let (_dir, store) = store();
    pair(&store);
    let dir = store.dir.join("baselines");
    fs::create_dir_all(dir.join("by-image")).unwrap();
    let (list, other) = ("1".repeat(64), "2".repeat(64));
    for name in [&list, &other] {
        fs::write(dir.join(name), b"files").unwrap();
    }
    let manifest = |name: &str| store.resolve(&name.parse().unwrap()).unwrap();
    let (first, second) = (manifest("a:1"), manifest("a:2"));
    fs::write(dir.join("by-image").join(&first), format!("{list}\n")).unwrap();
    fs::write(dir.join("by-image").join(&second), format!("{list}\n")).unwrap();
    // Nothing points to it, but it may be new: somebody is about to say whose it is.
    let (nothing, nobody) = (BTreeSet::new(), BTreeMap::new());
    let young = GcRequest { now: crate::clock::now(), ..request(&nothing, &nobody) };
    store.gc(&young).unwrap();
    assert!(dir.join(&other).exists() && dir.join(&list).exists());
    gc(&store, &["a:1"]);
    assert!(!dir.join(&other).exists(), "it is old by now");
    assert!(dir.join(&list).exists() && !dir.join("by-image").join(&first).exists());
    gc(&store, &["a:2"]);
    assert!(!dir.join(&list).exists() && !dir.join("by-image").join(&second).exists());
}

#[test]
fn a_store_of_a_later_program_is_refused_untouched_and_an_older_one_is_taken_up() {
    let (dir, store) = store();
    let path = dir.path().join("store");
    import(&store, "a:1", &image(1)[..]).unwrap();
    drop(store);
    assert_eq!(fs::read_to_string(path.join("format")).unwrap(), "regild image store, version 3\n");
    fs::remove_file(path.join("format")).unwrap();
    drop(ImageStore::open(&path).unwrap());
    fs::write(path.join("format"), "regild image store, version 4\n").unwrap();
    fs::write(path.join("tmp/1-1"), b"somebody's").unwrap();
    let before = tree(&path);
    let refused = ImageStore::open(&path).unwrap_err();
    assert!(refused.to_string().contains("version 4, this program knows 1 to 3"), "{refused}");
    fs::write(path.join("format"), "tarball").unwrap();
    assert!(matches!(ImageStore::open(&path), Err(StoreError::Damaged { .. })));
    fs::write(path.join("format"), "regild image store, version 4\n").unwrap();
    assert!(tree(&path) == before);
}

/// The version that is named is the one that is collected, whatever was asked of the import.
#[test]
fn an_import_after_its_version_was_collected_is_new() {
    let (_dir, store) = store();
    let request = ImportRequest { image: &"a:1".parse().unwrap(), now: 5, source: "", max_image_bytes: 1 << 30 };
    store.import(&image(1)[..], &request, &|_| ()).unwrap();
    gc(&store, &["a:1", "never:there"]);
    let again = ImportRequest { now: 9, ..request };
    assert_eq!(store.import(&image(1)[..], &again, &|_| ()).unwrap().record().imported_at, 9);
}

/// A listed version whose manifest file is gone needs its packs still: the manifest may come back from its copy.
#[test]
fn what_a_lost_manifest_may_need_stays() {
    let (_dir, store) = store();
    let (first, _) = pair(&store);
    let lost = store.resolve(&"a:1".parse().unwrap()).unwrap();
    fs::remove_file(store.manifest_path(&lost)).unwrap();
    let before = room(&store);
    let done = gc(&store, &["a:2"]);
    assert!(done.held_back.as_ref().is_some_and(|why| why.contains(&lost)), "{done:?}");
    assert_eq!(room(&store), before);
    let request = crate::image::ScrubRequest { image: None, from: None, bytes_per_second: 0, now: NOW };
    assert!(store.scrub(&request, &|| false).unwrap().bad.is_empty());
    assert!(export(&store, "a:1") == first);
}
