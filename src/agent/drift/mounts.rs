//! Which mounts lie in the tree, and which of them are the image's.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// File systems that hold an image's volume. Everything else (proc, sysfs, tmpfs, cgroup, devtmpfs, overlay, nfs,
/// autofs, fuse, ...) holds no file of the image, or may not answer.
const ON_DISK: [&str; 17] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "msdos", "exfat", "f2fs", "squashfs", "erofs", "iso9660", "jfs",
    "ntfs3", "reiserfs", "udf", "zfs",
];

/// Mount points in the tree by path (the root is `/`), each with the type of what lies on top.
#[derive(Debug, Default)]
pub struct Mounts {
    by_path: HashMap<Vec<u8>, String>,
}

impl Mounts {
    /// From the text of /proc/self/mountinfo: those under `root`.
    pub fn parse(mountinfo: &[u8], root: &Path) -> Mounts {
        let mut by_path = HashMap::new();
        let root = root.as_os_str().as_bytes();
        let root = root.strip_suffix(b"/").unwrap_or(root);
        for line in mountinfo.split(|byte| *byte == b'\n') {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            let kind = fields.iter().position(|field| *field == b"-").and_then(|dash| fields.get(dash + 1));
            let (Some(point), Some(kind)) = (fields.get(4), kind) else { continue };
            let point = unescaped(point);
            match point.strip_prefix(root) {
                // A later line of the same place lies on top of the former one.
                Some(inside) if inside.first() == Some(&b'/') => {
                    by_path.insert(inside.to_vec(), String::from_utf8_lossy(kind).into_owned());
                }
                _ => {}
            }
        }
        Mounts { by_path }
    }

    /// The type of the file system that is mounted at a path.
    pub fn at(&self, path: &[u8]) -> Option<&str> {
        self.by_path.get(path).map(String::as_str)
    }
}

pub fn is_on_disk(kind: &str) -> bool {
    ON_DISK.contains(&kind)
}

/// Space, tab, newline and backslash stand as `\040` and the like.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_known_by_the_path_in_the_tree() {
        let text = b"22 28 0:20 / /sys rw shared:1 - sysfs sysfs rw\n28 1 254:1 / / rw - ext4 /dev/vda1 rw\n\
            30 28 0:9 / /mnt/a\\040b rw - tmpfs x rw\n31 30 0:9 / /mnt/a\\040b rw - ext4 /dev/vdb rw\nodd line\n";
        let mounts = Mounts::parse(text, Path::new("/"));
        assert_eq!(
            (mounts.at(b"/sys"), mounts.at(b"/mnt/a b"), mounts.at(b"/mnt")),
            (Some("sysfs"), Some("ext4"), None)
        );
        let below = Mounts::parse(text, Path::new("/mnt"));
        assert_eq!((below.at(b"/a b"), below.at(b"/sys")), (Some("ext4"), None));
    }
}
