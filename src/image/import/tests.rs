//! What an import refuses, and what it makes whole.

use super::*;
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
