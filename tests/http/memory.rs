//! Memory does not grow with the image: the server's own high-water mark, over imports of large sparse images.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::disks::{MIB, noise};
use crate::lab::Lab;

const GIB: u64 = 1 << 30;

/// 40 GiB with 1 GiB of data that does not compress, in pieces of 4 MiB all over it.
fn large(lab: &Lab) {
    let file = File::create(lab.path("large.raw")).unwrap();
    for number in 0..256 {
        file.write_all_at(&noise(number, 4 << 20), number * 160 * MIB + 4096).unwrap();
    }
    file.set_len(40 * GIB).unwrap();
}

/// Promise: 40 GiB of image with 1 GiB of data cost less than 300 MB, as a raw file and as a qcow2 that is packed, and are
/// the same image.
#[test]
fn memory_does_not_grow_with_the_image() {
    let lab = Lab::new();
    large(&lab);
    let mut convert = Command::new("sh");
    convert.args(["-c", "qemu-img convert -f raw -O qcow2 large.raw large.qcow2 && gzip -1 large.qcow2"]);
    assert!(convert.current_dir(lab.path("")).status().unwrap().success());
    let before = lab.peak_bytes();
    for (name, file) in [("large:raw", "large.raw"), ("large:qcow2", "large.qcow2.gz")] {
        lab.regild(&["image", "import", lab.path(file).to_str().unwrap(), "--as", name]);
        let peak = lab.peak_bytes();
        eprintln!("{file}: {} MiB, before any import {} MiB", peak / MIB, before / MIB);
        assert!(peak < 300_000_000, "{file}: {peak} bytes");
    }
    let digests = ["large:raw", "large:qcow2"].map(|name| lab.json(&["image", "show", name])["content_digest"].clone());
    assert_eq!(digests[0], digests[1]);
}
