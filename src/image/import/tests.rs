//! What an import refuses, and what it makes whole.

use super::*;
use crate::image::scrub::ScrubRequest;
use crate::image::tests::{MIB, export, image, import, noise, store};

/// An image that repeats one block is an extent for each of its blocks: an import's memory has a bound all the same.
#[test]
fn an_image_of_one_block_that_repeats_for_ever_is_refused() {
    let (_dir, store) = store();
    let mut ones = source::open(io::repeat(0xff), &Declared::default(), u64::MAX, &store.dir).unwrap();
    let mut scan = Scan::new(&store).unwrap();
    assert_eq!(scan.runs_max, EXTENTS_MAX);
    scan.runs_max = 1000;
    let refused = scan.read_all(&mut ones, 1 << 30, &|_| ()).unwrap_err();
    assert!(matches!(refused, ImportError::TooManyPieces { extents_max: 1000 }), "{refused}");
    assert!(scan.runs.len() <= 1000 && scan.image_bytes < 64 << 20, "{} bytes were read", scan.image_bytes);
    // With fewer of them it is an image like any other.
    let some = vec![0xff; MIB];
    import(&store, "a:1", &some[..]).unwrap();
    assert!(export(&store, "a:1") == some);
}

/// A manifest that is lost with its copy comes back by the same content, under the digest that hosts refer to, or it is
/// said that it does not.
#[test]
fn a_lost_manifest_is_made_again_or_it_is_said_why_not() {
    let (_dir, store) = store();
    let record = import(&store, "a:1", &image(1)[..]).unwrap().record().clone();
    let lose = || {
        for path in [store.manifest_path(&record.manifest), store.copy_path(&record.manifest)] {
            std::fs::write(path, b"nothing").unwrap();
        }
    };
    lose();
    let again = import(&store, "a:1", &image(1)[..]).unwrap();
    assert_eq!(again, Imported::Mended(record.clone()));
    assert!(export(&store, "a:1") == image(1));
    assert!(matches!(import(&store, "a:1", &image(1)[..]).unwrap(), Imported::AlreadyThere(_)));
    // In a store where the blocks lie elsewhere too, it would be another manifest.
    let first = noise(5, 2 * MIB);
    import(&store, "b:1", &first[MIB..]).unwrap();
    let record = import(&store, "b:2", &first[..]).unwrap().record().clone();
    let manifest = store.manifest(&record.manifest).unwrap();
    for id in &manifest.packs {
        // A pack without its index is not built upon: everything is packed anew, as one.
        std::fs::remove_file(store.pack_path(&manifest::to_hex(id)).with_extension("idx")).unwrap();
    }
    for path in [store.manifest_path(&record.manifest), store.copy_path(&record.manifest)] {
        std::fs::write(path, b"nothing").unwrap();
    }
    let refused = import(&store, "b:2", &first[..]).unwrap_err();
    assert!(matches!(refused, ImportError::OtherwisePacked { .. }), "{refused}");
}

/// Packs of before have frames of 64 blocks: they are built upon, exported and scrubbed beside those of today, and their
/// index is made again.
#[test]
fn packs_with_smaller_frames_go_on_being_used() {
    let (_dir, store) = store();
    let old = noise(7, 3 * MIB / 2 + 8192);
    let mut pack = pack::header().to_vec();
    let mut frames = Vec::new();
    for raw in old.chunks(256 << 10) {
        let packed = zstd::bulk::compress(raw, 3).unwrap();
        let (compressed_bytes, raw_bytes) = (packed.len() as u32, raw.len() as u32);
        frames.push(Frame { pack: 0, offset_bytes: pack.len() as u64, compressed_bytes, raw_bytes });
        pack.extend(packed);
    }
    let path = store.pack_path(&manifest::digest_hex(&pack));
    std::fs::write(&path, &pack).unwrap();
    let none = BTreeMap::new();
    pack::rebuild_index(&store.dir, &path, &frames, &none).unwrap();
    let record = import(&store, "a:1", &old[..]).unwrap().record().clone();
    assert_eq!(record.added_bytes, 0, "all of it is there");
    assert!(export(&store, "a:1") == old);
    let encoded = |record: &Record| std::fs::read(store.manifest_path(&record.manifest)).unwrap();
    assert_eq!(encoded(&record)[8..10], [1, 0]);
    let both = [&old[MIB / 2 + 4096..], &noise(8, MIB), &old[..MIB / 2]].concat();
    let record = import(&store, "a:2", &both[..]).unwrap().record().clone();
    assert!(record.added_bytes > MIB as u64 && record.added_bytes < MIB as u64 + 4096);
    assert!(export(&store, "a:2") == both);
    assert_eq!(encoded(&record)[8..10], [2, 0]);
    let mut odd = frames.clone();
    odd[3].raw_bytes -= 4096;
    assert!(pack::rebuild_index(&store.dir, &path, &odd, &none).unwrap_err().to_string().contains("not full"));
    std::fs::write(path.with_extension("idx"), b"lost").unwrap();
    let scrub = || {
        let request = ScrubRequest { image: None, from: None, bytes_per_second: 0, now: 77 };
        store.scrub(&request, &|| false).unwrap()
    };
    assert!(scrub().mended.iter().any(|said| said.contains("index")), "the index is made again");
    assert!(scrub().bad.is_empty() && import(&store, "a:3", &old[..]).unwrap().record().added_bytes == 0);
}
