//! Uploads: what came stays, over restarts; and nothing grows without bound.

use super::*;

const LIMITS: UploadLimits = UploadLimits { uploads_max: 3, bytes_max: 1000, keep_seconds: 100 };

fn wish(image: &str, bytes: u64) -> Create {
    let digest = format!("sha256:{}", "0".repeat(64));
    let provenance = crate::wire::image_facts::Provenance::default();
    Create { image: image.into(), bytes, digest, format: None, preview: false, source: "disk.raw".into(), provenance }
}

fn uploads() -> (tempfile::TempDir, Uploads) {
    let dir = tempfile::tempdir().unwrap();
    let uploads = Uploads::open(&dir.path().join("uploads"), LIMITS).unwrap();
    (dir, uploads)
}

fn again(dir: &tempfile::TempDir) -> Uploads {
    Uploads::open(&dir.path().join("uploads"), LIMITS).unwrap()
}

fn files(dir: &tempfile::TempDir) -> usize {
    fs::read_dir(dir.path().join("uploads")).unwrap().count()
}

/// Promise: who asks with the same words gets the same upload where it was, after a restart too.
#[test]
fn what_came_stays_and_is_found_by_what_it_is_to_be() {
    let (dir, uploads) = uploads();
    let begun = uploads.create("ci", &wish("a:1", 10), 5).unwrap();
    assert_eq!((begun.offset, begun.expires_at), (0, 105));
    let mut taken = uploads.take("ci", &begun.id).unwrap();
    taken.append(b"hello").unwrap();
    taken.sync(50).unwrap();
    drop(taken);
    drop(uploads);
    // A part whose json never came, and a json that was not renamed: nobody was told of them.
    fs::write(dir.path().join("uploads/1234.part"), "x").unwrap();
    fs::write(dir.path().join("uploads/1234.new"), "x").unwrap();
    let uploads = again(&dir);
    assert_eq!(files(&dir), 2);
    let found = uploads.create("ci", &wish("a:1", 10), 60).unwrap();
    assert_eq!((&found.id, found.offset, found.expires_at), (&begun.id, 5, 150));
    let mut taken = uploads.take("ci", &found.id).unwrap();
    assert!(matches!(taken.is_at(4), Err(UploadError::OtherOffset { offset: 5, .. })));
    assert!(matches!(taken.whole(), Err(UploadError::NotWhole { offset: 5, bytes: 10 })));
    assert!(matches!(taken.append(b"world!"), Err(UploadError::TooLong { .. })));
    taken.is_at(5).unwrap();
    taken.append(b"world").unwrap();
    let mut content = String::new();
    io::Read::read_to_string(&mut taken.whole().unwrap(), &mut content).unwrap();
    assert_eq!(content, "helloworld");
    taken.finish(70).unwrap();
    drop(taken);
    drop(uploads);
    assert_eq!(files(&dir), 1, "its bytes are gone");
    let uploads = again(&dir);
    assert!(uploads.show("ci", &begun.id).unwrap().finished);
    uploads.take("ci", &begun.id).unwrap().give_up();
    assert_eq!(files(&dir), 0);
}

#[test]
fn one_at_a_time_and_only_its_owner() {
    let (_dir, uploads) = uploads();
    let begun = uploads.create("ci", &wish("a:1", 10), 5).unwrap();
    let taken = uploads.take("ci", &begun.id).unwrap();
    assert!(matches!(uploads.take("ci", &begun.id), Err(UploadError::Busy)));
    uploads.expire(1_000_000);
    drop(taken);
    drop(uploads.take("ci", &begun.id).unwrap());
    assert!(matches!(uploads.take("other", &begun.id), Err(UploadError::NotThere)));
    assert!(matches!(uploads.show("other", &begun.id), Err(UploadError::NotThere)));
    let others = uploads.create("other", &wish("a:1", 10), 5).unwrap();
    assert_ne!(others.id, begun.id, "the same words of somebody else are another upload");
    assert!(matches!(uploads.take("ci", "../../etc/passwd"), Err(UploadError::NotThere)));
}

/// Promise: so many, so large, so long; what is over makes room.
#[test]
fn uploads_are_bounded_and_expire() {
    let (dir, uploads) = uploads();
    uploads.create("ci", &wish("a:1", 400), 0).unwrap();
    let refused = uploads.create("ci", &wish("a:2", 601), 0).unwrap_err();
    assert!(matches!(refused, UploadError::NoRoom { left: 600, bytes: 601 }), "{refused}");
    uploads.create("ci", &wish("a:2", 500), 50).unwrap();
    let third = uploads.create("ci", &wish("a:3", 1), 50).unwrap();
    assert!(matches!(uploads.create("ci", &wish("a:4", 1), 99), Err(UploadError::TooMany { count: 3 })));
    // The first one is over at 100.
    uploads.create("ci", &wish("a:4", 400), 100).unwrap();
    assert_eq!(files(&dir), 6);
    // Finished ones take no room, and the oldest are forgotten.
    uploads.take("ci", &third.id).unwrap().finish(100).unwrap();
    uploads.create("ci", &wish("a:5", 100), 100).unwrap();
    uploads.expire(150);
    assert!(uploads.show("ci", &third.id).unwrap().finished);
    uploads.expire(200);
    assert_eq!(files(&dir), 0);
}
