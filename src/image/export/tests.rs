//! What comes out is the disk that went in; what goes wrong leaves nothing.

use super::*;
use crate::image::{ImageStore, ImportRequest};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

const MIB: usize = 1 << 20;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// 40 MiB and a sector with 3 MiB of data: at the start, across a border of clusters, at the very end.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 40 * MIB + 512];
    disk[..MIB].copy_from_slice(&noise(1, MIB));
    disk[9 * MIB - 4096..10 * MIB].copy_from_slice(&noise(2, MIB + 4096));
    disk[20 * MIB + 4096..][..8192].copy_from_slice(&noise(3, 8192));
    let end = disk.len();
    disk[end - 70_144..].copy_from_slice(&noise(4, 70_144));
    disk
}

fn store_with(dir: &Path, disk: &[u8]) -> (ImageStore, ImageRef) {
    let store = ImageStore::open(&dir.join("store")).unwrap();
    let image: ImageRef = "disk:1".parse().unwrap();
    let request = ImportRequest { image: &image, now: 1, source: "test", max_image_bytes: 1 << 30 };
    store.import(disk, &request, &|_| ()).unwrap();
    (store, image)
}

#[track_caller]
fn qemu_img(arguments: &[&str], dir: &Path) {
    let output = Command::new("qemu-img").args(arguments).current_dir(dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments:?}: {said}");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Promise: raw is the same bytes with holes where zeros are; qcow2 is the same disk to qemu, its tables are right, and
/// imported again it is the same image.
#[test]
fn what_comes_out_is_the_disk_that_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk();
    let (store, image) = store_with(dir.path(), &disk);
    let out = |name: &str| dir.path().join(name);
    store.export_file(&image, &out("disk.raw"), Format::Raw, false).unwrap();
    assert!(fs::read(out("disk.raw")).unwrap() == disk);
    store.export_file(&image, &out("disk.qcow2"), Format::Qcow2, false).unwrap();
    qemu_img(&["check", "-f", "qcow2", "disk.qcow2"], dir.path());
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", "disk.raw", "disk.qcow2"], dir.path());
    for name in ["disk.raw", "disk.qcow2"] {
        let stored = fs::metadata(out(name)).unwrap().blocks() * 512;
        assert!(stored < 5 * MIB as u64, "{name} takes {stored} bytes");
    }
    let again: ImageRef = "disk:2".parse().unwrap();
    let request = ImportRequest { image: &again, now: 1, source: "test", max_image_bytes: 1 << 30 };
    let qcow2 = File::open(out("disk.qcow2")).unwrap();
    let record = store.import(qcow2, &request, &|_| ()).unwrap().record().clone();
    assert_eq!(record.content_digest, store.show(&image).unwrap().content_digest);
    assert_eq!(names(dir.path()), ["disk.qcow2", "disk.raw", "store"]);
}

/// Promise: nothing is overwritten by a slip; and what is no file never.
#[test]
fn a_file_that_is_there_stays_unless_it_is_forced() {
    let dir = tempfile::tempdir().unwrap();
    let (store, image) = store_with(dir.path(), &noise(5, MIB));
    let out = dir.path().join("out");
    fs::write(&out, "precious").unwrap();
    for format in [Format::Raw, Format::Qcow2] {
        let refused = store.export_file(&image, &out, format, false).unwrap_err();
        assert!(matches!(refused, ExportError::Exists { .. }), "{refused}");
        assert_eq!(fs::read(&out).unwrap(), b"precious");
    }
    // It comes while the export runs: the rename does not replace it either.
    let growing = Growing::create(&out).unwrap();
    assert!(matches!(growing.put_in_place(&out, false), Err(ExportError::Exists { .. })));
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    store.export_file(&image, &out, Format::Raw, true).unwrap();
    assert!(fs::read(&out).unwrap() == noise(5, MIB));

    fs::create_dir(dir.path().join("directory")).unwrap();
    std::os::unix::fs::symlink("/dev/null", dir.path().join("link")).unwrap();
    for name in ["directory", "link"] {
        let refused = store.export_file(&image, &dir.path().join(name), Format::Raw, true).unwrap_err();
        assert!(matches!(refused, ExportError::NotAFile { .. }), "{refused}");
    }
    let missing = dir.path().join("no/such/directory");
    assert!(matches!(store.export_file(&image, &missing, Format::Raw, false), Err(ExportError::Create { .. })));
    let unknown = "disk:9".parse().unwrap();
    assert!(matches!(store.export_file(&unknown, &missing, Format::Raw, false), Err(ExportError::Store(_))));
    assert_eq!(names(dir.path()), ["directory", "link", "out", "store"]);
}

/// Promise: damage in the store, found half way, leaves no file that could be taken for an image.
#[test]
fn an_export_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, image) = store_with(dir.path(), &disk());
    let manifest = store.manifest(&store.show(&image).unwrap().manifest).unwrap();
    let pack = store.pack_path(&manifest::to_hex(&manifest.packs[0]));
    let mut bad = fs::read(&pack).unwrap();
    let end = bad.len() - 1000;
    bad[end] ^= 1;
    drop(store);
    fs::write(dir.path().join("bad"), bad).unwrap();
    fs::rename(dir.path().join("bad"), &pack).unwrap();
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    for format in [Format::Raw, Format::Qcow2] {
        let refused = store.export_file(&image, &dir.path().join("out"), format, false).unwrap_err();
        assert!(matches!(refused, ExportError::Read { .. } | ExportError::Content { .. }), "{refused}");
        assert_eq!(names(dir.path()), ["store"]);
    }
}

/// Promise: a pack that is cut short while the threads of an export have it open is an error that names it. (Reading a
/// mapping of it would be SIGBUS, the end of this process.)
#[test]
fn a_pack_that_is_cut_short_while_it_is_exported_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (store, image) = store_with(dir.path(), &disk());
    let manifest = store.manifest(&store.show(&image).unwrap().manifest).unwrap();
    let id = manifest::to_hex(&manifest.packs[0]);
    let packs = store.packs_of(&manifest).unwrap();
    File::options().write(true).open(store.pack_path(&id)).unwrap().set_len(1_000_000).unwrap();
    let Failed::Read(error) = parts::write(&manifest, &packs, &Sink::InOrder, |_, _| Ok(())).unwrap_err() else {
        panic!("the other side failed");
    };
    let said = error.to_string();
    assert!(said.contains(&id) && said.contains("the file ends before") && said.contains("image scrub"), "{said}");
}

/// Promise: an export that has begun goes on to its end when its version is collected meanwhile.
#[test]
fn a_pack_that_is_removed_while_it_is_exported_is_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (store, image) = store_with(dir.path(), &disk());
    let record = store.show(&image).unwrap();
    let manifest = store.manifest(&record.manifest).unwrap();
    let packs = store.packs_of(&manifest).unwrap();
    fs::remove_file(store.pack_path(&manifest::to_hex(&manifest.packs[0]))).unwrap();
    let got = parts::write(&manifest, &packs, &Sink::InOrder, |_, _| Ok(())).unwrap();
    assert_eq!(manifest::to_hex(&got), record.content_digest);
}

/// A small file system of its own, which needs root like much of the test suite.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: &str) -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path());
        assert!(mount.status().unwrap().success(), "this test mounts a tmpfs: run it as root");
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Promise: a disk that is full during an export has nothing of it afterwards; one that fills during an import of a qcow2
/// has nothing of that.
#[test]
fn a_full_disk_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, image) = store_with(dir.path(), &noise(6, 8 * MIB));
    let small = SmallDisk::mount("4m");
    for format in [Format::Raw, Format::Qcow2] {
        let refused = store.export_file(&image, &small.0.path().join("out"), format, false).unwrap_err();
        assert!(matches!(refused, ExportError::Write(_)), "{refused}");
        assert_eq!(names(small.0.path()), [""; 0]);
    }
    store.export_file(&image, &dir.path().join("disk.qcow2"), Format::Qcow2, false).unwrap();
    let full = ImageStore::open(&small.0.path().join("store")).unwrap();
    let request = ImportRequest { image: &image, now: 1, source: "test", max_image_bytes: 1 << 30 };
    let qcow2 = File::open(dir.path().join("disk.qcow2")).unwrap();
    let refused = full.import(qcow2, &request, &|_| ()).unwrap_err();
    assert!(matches!(refused, crate::image::ImportError::Store(StoreError::Io { .. })), "{refused}");
    assert_eq!(names(&small.0.path().join("store/tmp")), [""; 0]);
    assert!(full.list().unwrap().is_empty());
}
