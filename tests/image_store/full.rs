//! A disk that is full at any write: the store is as it was before, it opens, and it can be emptied.

use std::path::{Path, PathBuf};
use std::process::Command;

use regild::image::{ImageStore, ImportError};
use rustix::thread::UnshareFlags;

use crate::shelf::{KIB, gc, import, is_whole, listed, name, noise, nothing_is_left_over};

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file system of 8 MiB that only this thread and its children see.
fn small_disk(dir: &Path) {
    // SAFETY: a mount namespace (and with it the thread's own root and working directory); no memory, no descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
        .unwrap_or_else(|error| panic!("a mount namespace of our own: {error}; these tests need root"));
    run("mount", &["--make-rprivate", "/"]);
    run("mount", &["-t", "tmpfs", "-o", "size=8m", "tmpfs", dir.to_str().unwrap()]);
}

fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path))
        } else {
            files.push((path.clone(), std::fs::read(&path).unwrap()))
        }
    }
    files.sort();
    files
}

/// Leaves so much room.
fn fill(dir: &Path, room: usize) -> PathBuf {
    let ballast = dir.join("ballast");
    let free = rustix::fs::statvfs(dir).unwrap();
    let free = (free.f_bavail * free.f_frsize) as usize;
    std::fs::write(&ballast, noise(1, free.saturating_sub(room))).unwrap();
    ballast
}

#[test]
fn an_import_on_a_full_disk_changes_nothing_wherever_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    small_disk(dir.path());
    let path = dir.path().join("images");
    let store = ImageStore::open(&path).unwrap();
    import(&store, 1).unwrap();
    let (mut refused, mut room) = (0, 0);
    loop {
        let before = tree(&path);
        let ballast = fill(dir.path(), room);
        let done = import(&store, 2);
        std::fs::remove_file(ballast).unwrap();
        match done {
            Ok(()) => break,
            Err(ImportError::Store(_)) => refused += 1,
            Err(other) => panic!("with {room} bytes: {other:?}"),
        }
        assert_eq!(listed(&store).into_iter().collect::<Vec<_>>(), [1], "with {room} bytes");
        // The pack may be there already when there is no room for the manifest: data without a name, which a collection
        // finds. All that was there before is there, to the byte.
        let after = tree(&path);
        let lost: Vec<&PathBuf> = before.iter().filter(|file| !after.contains(file)).map(|(path, _)| path).collect();
        assert!(lost.is_empty(), "with {room} bytes: {lost:?}");
        gc(&store, &[], false);
        assert!(tree(&path) == before, "with {room} bytes something is left");
        // In small steps where the last small files are written.
        room += if room < 700 * KIB { 47 * KIB } else { 4 * KIB };
    }
    eprintln!("an import stopped at {refused} different places, and went through with {} KiB", room / KIB);
    assert!(refused > 10, "{refused}");
    is_whole(&store, 1);
    is_whole(&store, 2);
}

/// A full store is emptied by the very command that is meant for it.
#[test]
fn a_collection_on_a_full_disk_frees_it() {
    let dir = tempfile::tempdir().unwrap();
    small_disk(dir.path());
    let path = dir.path().join("images");
    let store = ImageStore::open(&path).unwrap();
    (1..=3).for_each(|number| import(&store, number).unwrap());
    for room in [0, 4 * KIB, 64 * KIB] {
        let ballast = fill(dir.path(), room);
        let gone = [1, 2].map(|number| store.gone(&name(number)).unwrap().is_some());
        let report = gc(&store, if gone[0] { &[2] } else { &[1] }, false);
        assert_eq!(report.collected.len(), usize::from(!gone[1]), "{room}: {report:?}");
        is_whole(&store, 3);
        assert!(gone[1] || !listed(&store).contains(&1));
        std::fs::remove_file(ballast).unwrap();
    }
    // What had no room to be written anew was left as it was, and is now.
    gc(&store, &[], false);
    nothing_is_left_over(&store, &path);
    is_whole(&store, 3);
}
