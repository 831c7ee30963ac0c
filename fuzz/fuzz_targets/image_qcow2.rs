//! A hostile qcow2: a right one with spoiled header, tables and compressed data.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use regild::image::fuzzing::disk_bytes;

const IMAGE_BYTES_MAX: u64 = 8 << 20;
const CLUSTER: usize = 512;

#[derive(Debug, Arbitrary)]
struct Input {
    /// Cluster, place in it, byte: clusters are header, L1, L2, refcounts, data.
    bytes: Vec<(u8, u16, u8)>,
    /// Whole entries of tables: table, place, value.
    words: Vec<(bool, u8, u64)>,
    cut: Option<u16>,
}

/// Clusters of 512 bytes: header, L1 table, L2 table, refcount table, refcount block, two of data, one compressed.
static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut image = vec![0; 8 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &9u32.to_be_bytes());
    put(24, &(32 * CLUSTER as u64).to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &(CLUSTER as u64).to_be_bytes());
    put(48, &(3 * CLUSTER as u64).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(CLUSTER, &(1 << 63 | 2 * CLUSTER as u64).to_be_bytes());
    put(3 * CLUSTER, &(4 * CLUSTER as u64).to_be_bytes());
    put(2 * CLUSTER, &(1 << 63 | 5 * CLUSTER as u64).to_be_bytes());
    put(2 * CLUSTER + 24, &(1 << 63 | 6 * CLUSTER as u64).to_be_bytes());
    put(2 * CLUSTER + 40, &(1 << 62 | 7 * CLUSTER as u64).to_be_bytes());
    put(5 * CLUSTER, &[b'd'; 2 * CLUSTER]);
    // deflate: 512 times the same byte would do; stored blocks are simpler, and spoil as well.
    put(7 * CLUSTER, &[0x01, 0x00, 0x01, 0xff, 0xfe]);
    image
});

fuzz_target!(
    init: std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))),
    |input: Input| {
        let mut image = IMAGE.clone();
        for (cluster, at, byte) in &input.bytes {
            image[usize::from(*cluster) % 8 * CLUSTER + usize::from(*at) % CLUSTER] = *byte;
        }
        for (is_l2, place, value) in &input.words {
            let at = CLUSTER * (1 + usize::from(*is_l2)) + usize::from(*place) % 64 * 8;
            image[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        image.truncate(input.cut.map_or(usize::MAX, usize::from));
        let dir = DIR.path();
        if let Ok(read) = disk_bytes(&image[..], IMAGE_BYTES_MAX, dir) {
            assert!(read <= IMAGE_BYTES_MAX, "{read} bytes came out");
        }
        assert_eq!(std::fs::read_dir(dir.join("tmp")).expect("it is there").count(), 0);
    }
);

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("room for a directory");
    std::fs::create_dir(dir.path().join("tmp")).expect("room for a directory");
    dir
});
