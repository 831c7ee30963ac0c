//! The store's promises, told with small images.

use std::io::{self, Read};

use super::*;

pub(super) const MIB: usize = 1 << 20;
const LIMIT: u64 = 1 << 30;

/// Reproducible noise that does not compress, like the packages in a real image.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut output = vec![0; len];
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    reader.fill(&mut output);
    output
}

/// 4 MiB and a half block: noise, a hole, a repeated block, a tail that is no whole block.
pub(super) fn image(seed: u64) -> Vec<u8> {
    let mut image = noise(seed, 4 * MIB + 512);
    image[MIB + 8192..3 * MIB - 4096].fill(0);
    let block = image[..4096].to_vec();
    image[3 * MIB + 4096..3 * MIB + 8192].copy_from_slice(&block);
    image
}

pub(super) fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

pub(super) fn import(store: &ImageStore, name: &str, reader: impl Read) -> Result<Imported, ImportError> {
    let request = ImportRequest {
        image: &name.parse().unwrap(),
        now: 1_700_000_000,
        source: "image.raw",
        max_image_bytes: LIMIT,
    };
    store.import(reader, &request, &|_| ())
}

pub(super) fn export(store: &ImageStore, name: &str) -> Vec<u8> {
    let mut out = tempfile::tempfile().unwrap();
    store.export(&name.parse().unwrap(), &out).unwrap();
    let mut bytes = Vec::new();
    io::Seek::rewind(&mut out).unwrap();
    out.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Everything under a directory with its content, for "nothing changed".
pub(super) fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else {
            files.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

#[test]
fn what_comes_out_is_byte_for_byte_what_went_in() {
    let (_dir, store) = store();
    let sizes = [512, 4096, 4608, MIB, MIB + 512, 4 * MIB + 512];
    for (version, len) in sizes.into_iter().enumerate() {
        let image = &image(7)[..len];
        import(&store, &format!("sizes:{version}"), image).unwrap();
        assert!(export(&store, &format!("sizes:{version}")) == image, "{len} bytes");
    }
    let all_zero = vec![0; 2 * MIB];
    let record = import(&store, "zero:1", &all_zero[..]).unwrap().record().clone();
    assert_eq!((record.data_bytes, record.added_bytes), (0, 0), "zeros cost nothing");
    assert!(export(&store, "zero:1") == all_zero);
    assert_eq!(store.list().unwrap().len(), 7);
}

#[test]
fn an_image_compressed_with_zstd_is_the_same_image() {
    let (_dir, store) = store();
    let image = image(1);
    let plain = import(&store, "a:1", &image[..]).unwrap();
    let compressed = zstd::bulk::compress(&image, 3).unwrap();
    let other = import(&store, "a:2", &compressed[..]).unwrap();
    assert_eq!(plain.record().content_digest, other.record().content_digest);
    assert_eq!(other.record().added_bytes, 0, "the second import shares every block");
    assert_eq!(import(&store, "a:1", &compressed[..]).unwrap(), Imported::AlreadyThere(plain.record().clone()));
    assert!(export(&store, "a:2") == image);
}

/// Versions share blocks wherever they lie: here everything moved by one block and a little is new.
#[test]
fn a_second_version_adds_only_what_is_new() {
    let (_dir, store) = store();
    let first = image(1);
    import(&store, "a:1", &first[..]).unwrap();
    let mut second = noise(99, 4096);
    second.extend_from_slice(&first);
    let record = import(&store, "a:2", &second[..]).unwrap().record().clone();
    assert!(record.added_bytes < 2 * 4096 + 1024, "one new block, and a tail: {}", record.added_bytes);
    assert!(export(&store, "a:2") == second);
    assert!(export(&store, "a:1") == first);
    let manifest = store.manifest(&record.manifest).unwrap();
    assert_eq!(manifest.packs.len(), 2);
}

/// Rule 8: a version never changes, and the refusal says which content is which.
#[test]
fn other_content_under_an_existing_version_is_refused_and_leaves_no_trace() {
    let (dir, store) = store();
    let first = import(&store, "a:1", &image(1)[..]).unwrap().record().clone();
    let before = tree(dir.path());
    let refused = import(&store, "a:1", &image(2)[..]).unwrap_err();
    let ImportError::OtherContent { existing, offered, .. } = &refused else {
        panic!("{refused}");
    };
    assert_eq!(*existing, first.content_digest);
    assert_ne!(existing, offered);
    assert!(refused.to_string().contains(offered.as_str()));
    assert!(tree(dir.path()) == before, "no pack, no manifest, no temporary file");
    assert_eq!(import(&store, "a:1", &image(1)[..]).unwrap(), Imported::AlreadyThere(first));
    assert!(tree(dir.path()) == before);
}

/// Yields some bytes and then an error, as a cut connection does.
struct Cut<'a> {
    bytes: &'a [u8],
}

impl Read for Cut<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.bytes.read(out)
    }
}

/// I1: an upload that is cut is not listed and leaves nothing; the next one works, with other bytes too.
#[test]
fn a_cut_import_leaves_nothing_and_the_next_one_works() {
    let (dir, store) = store();
    let image = image(1);
    let empty = tree(dir.path());
    for per_mille in [0, 500, 999] {
        let bytes = &image[..image.len() * per_mille / 1000];
        assert!(matches!(import(&store, "a:1", Cut { bytes }), Err(ImportError::Read(_))));
        assert!(store.list().unwrap().is_empty());
        assert!(tree(dir.path()) == empty, "after {per_mille}/1000");
        // The same cut in a compressed upload.
        let compressed = zstd::bulk::compress(&image, 1).unwrap();
        let truncated = &compressed[..compressed.len() * per_mille / 1000];
        assert!(import(&store, "a:1", truncated).is_err());
        assert!(tree(dir.path()) == empty, "compressed, after {per_mille}/1000");
    }
    import(&store, "a:1", &image[..]).unwrap();
    assert!(export(&store, "a:1") == image);
    assert!(matches!(import(&store, "a:1", &noise(5, MIB)[..]), Err(ImportError::OtherContent { .. })));
}

/// A process that was killed could not clean up: the next one does.
#[test]
fn leftovers_of_a_killed_import_are_removed_when_the_store_is_opened() {
    let (dir, store) = store();
    let path = dir.path().join("store");
    import(&store, "a:1", &image(1)[..]).unwrap();
    assert!(matches!(ImageStore::open(&path), Err(StoreError::Locked(_))), "S6: one process at a time");
    drop(store);
    let before = tree(&path);
    fs::write(path.join("tmp/4711-0"), b"half a pack").unwrap();
    fs::write(path.join("packs").join(format!("{}.idx", "0".repeat(64))), b"index without its pack").unwrap();
    let store = ImageStore::open(&path).unwrap();
    assert!(tree(&path) == before);
    assert!(export(&store, "a:1") == image(1));
}

/// I4: a small file that unpacks to a huge one stops at the limit.
#[test]
fn a_zstd_bomb_stops_at_the_limit() {
    let (dir, store) = store();
    let bomb = zstd::bulk::compress(&vec![0; 64 * MIB], 19).unwrap();
    assert!(bomb.len() < 16 * 1024, "{} bytes", bomb.len());
    let request =
        ImportRequest { image: &"bomb:1".parse().unwrap(), now: 0, source: "", max_image_bytes: 8 * MIB as u64 };
    let furthest = std::cell::Cell::new(0);
    let refused = store.import(&bomb[..], &request, &|done| furthest.set(done)).unwrap_err();
    assert!(matches!(refused, ImportError::TooLarge { .. }), "{refused}");
    assert!(furthest.get() <= 8 * MIB as u64);
    assert!(store.list().unwrap().is_empty());
    assert!(fs::read_dir(dir.path().join("store/tmp")).unwrap().next().is_none());
}

#[test]
fn what_is_no_disk_image_is_refused() {
    let (_dir, store) = store();
    assert!(matches!(import(&store, "a:1", io::empty()), Err(ImportError::Empty)));
    let odd = import(&store, "a:1", &noise(1, 1000)[..]);
    assert!(matches!(odd, Err(ImportError::NotWholeSectors { image_bytes: 1000 })));
    let mut trailing = zstd::bulk::compress(&noise(1, MIB), 1).unwrap();
    trailing.extend_from_slice(b"garbage behind the frame");
    assert!(matches!(import(&store, "a:1", &trailing[..]), Err(ImportError::Source(_))));
    assert!(store.list().unwrap().is_empty());
}

/// I5: damage at rest is found by digest when it is read, and never comes out as data.
#[test]
fn damage_in_the_store_is_found() {
    let (dir, store) = store();
    let record = import(&store, "a:1", &image(1)[..]).unwrap().record().clone();
    let manifest = store.manifest(&record.manifest).unwrap();
    let pack = store.pack_path(&manifest::to_hex(&manifest.packs[0]));
    let good = fs::read(&pack).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    // Replaced, not changed in place: the store may have it mapped.
    fs::write(dir.path().join("bad"), bad).unwrap();
    fs::rename(dir.path().join("bad"), &pack).unwrap();
    drop(store);
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    let out = tempfile::tempfile().unwrap();
    let refused = store.export(&record.image, &out).unwrap_err();
    assert!(matches!(refused, ExportError::Read { .. }), "{refused}");

    let path = store.manifest_path(&record.manifest);
    fs::write(&path, b"something else").unwrap();
    assert!(matches!(store.manifest_bytes(&record.manifest), Err(StoreError::Damaged { .. })));
    let index = pack.with_extension("idx");
    let mut bytes = fs::read(&index).unwrap();
    bytes[100] ^= 1;
    fs::write(dir.path().join("bad"), bytes).unwrap();
    fs::rename(dir.path().join("bad"), &index).unwrap();
    // What cannot be known to be there is stored once more.
    let again = import(&store, "a:2", &image(1)[..]).unwrap();
    assert!(again.record().added_bytes >= record.added_bytes);
    assert!(export(&store, "a:2") == image(1));
}

/// Rule 10: digests and ids come from URLs.
#[test]
fn names_from_outside_never_become_other_paths() {
    let (_dir, store) = store();
    import(&store, "a:1", &image(1)[..]).unwrap();
    for name in ["", "..", "../names/a/1", "../../etc/passwd", "AB", &"A".repeat(64), &"0".repeat(63)] {
        assert!(store.manifest_bytes(name).unwrap_err().is_missing(), "{name}");
        assert!(store.pack_file(name).unwrap_err().is_missing(), "{name}");
    }
    assert!(store.show(&"a:2".parse().unwrap()).unwrap_err().is_missing());
}

#[test]
fn a_pack_is_named_by_its_content() {
    let (_dir, store) = store();
    let record = import(&store, "a:1", &image(1)[..]).unwrap().record().clone();
    let manifest = store.manifest(&record.manifest).unwrap();
    let id = manifest::to_hex(&manifest.packs[0]);
    assert_eq!(manifest::digest_hex(&fs::read(store.pack_path(&id)).unwrap()), id);
    assert_eq!(store.resolve(&record.image).unwrap(), record.manifest);
    // No extent crosses a MiB, so that the head of a disk is extents of its own.
    assert!(manifest.extents.iter().any(|e| e.target().end == MIB as u64));
}
