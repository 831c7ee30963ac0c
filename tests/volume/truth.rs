//! What the kernel says of a mounted file system: the same words as a walk of ours.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use regild::decide::drift::finding::{Kind, Node};
use regild::decide::drift::path;

/// Everything at and under `top`, in the order of walks; paths begin at `top`. Other file systems are not gone into.
pub fn walk(top: &Path) -> Vec<(Vec<u8>, Node)> {
    let mut all = Vec::new();
    let device = fs::symlink_metadata(top).unwrap().dev();
    visit(top, b"/", device, &mut all);
    all.sort_by(|a, b| path::order(&a.0, &b.0));
    all
}

fn visit(place: &Path, name: &[u8], device: u64, all: &mut Vec<(Vec<u8>, Node)>) {
    let node = node(place);
    let is_directory = node.kind == Kind::Directory;
    all.push((name.to_vec(), node));
    if !is_directory || fs::symlink_metadata(place).unwrap().dev() != device {
        return;
    }
    for entry in fs::read_dir(place).unwrap() {
        let entry = entry.unwrap();
        let separator: &[u8] = if name == b"/" { b"" } else { b"/" };
        visit(&entry.path(), &[name, separator, entry.file_name().as_bytes()].concat(), device, all);
    }
}

fn node(place: &Path) -> Node {
    let stat = fs::symlink_metadata(place).unwrap();
    let of = stat.file_type();
    let (major, minor) = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
    let kind = if of.is_file() {
        let mut hasher = blake3::Hasher::new();
        std::io::copy(&mut fs::File::open(place).unwrap(), &mut hasher).unwrap();
        Kind::File { bytes: stat.len(), digest: Some(*hasher.finalize().as_bytes()) }
    } else if of.is_dir() {
        Kind::Directory
    } else if of.is_symlink() {
        Kind::Symlink { target: fs::read_link(place).unwrap().as_os_str().as_bytes().to_vec() }
    } else if of.is_char_device() {
        Kind::CharDevice { major, minor }
    } else if of.is_block_device() {
        Kind::BlockDevice { major, minor }
    } else if of.is_fifo() {
        Kind::Fifo
    } else {
        Kind::Socket
    };
    let mode = u16::try_from(stat.mode() & 0o7777).unwrap();
    Node { kind, mode, uid: stat.uid(), gid: stat.gid(), modified: stat.mtime(), xattrs: xattrs(place) }
}

fn xattrs(place: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0u8; 64 << 10];
    let count = rustix::fs::llistxattr(place, &mut names[..]).unwrap();
    let mut all = Vec::new();
    for name in names[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; 64 << 10];
        let count = rustix::fs::lgetxattr(place, name, &mut value[..]).unwrap();
        all.push((name.to_vec(), value[..count].to_vec()));
    }
    all.sort_unstable();
    all
}
