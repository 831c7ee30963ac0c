//! Whatever may be handed to an import: its kind is told by the first bytes, it is unpacked, and read to a limit.
#![no_main]

use std::io;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use regild::image::fuzzing::disk_bytes;

const IMAGE_BYTES_MAX: u64 = 8 << 20;

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("room for a directory");
    std::fs::create_dir(dir.path().join("tmp")).expect("room for a directory");
    dir
});

/// Every stream that begins like one of these gets behind the first look.
const MAGIC: [&[u8]; 5] = [b"", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"\x1f\x8b\x08", b"QFI\xfb\0\0\0\x03"];

fuzz_target!(
    // imago has assertions, and the reader catches those that fail.
    init: std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))),
    |input: (u8, Vec<u8>)| {
        let (kind, bytes) = input;
        let stream = [MAGIC[usize::from(kind) % MAGIC.len()], &bytes].concat();
        // A bomb stops at the limit; what is short of it is a disk or an error.
        if let Ok(read) = disk_bytes(&stream[..], IMAGE_BYTES_MAX, DIR.path()) {
            assert!(read <= IMAGE_BYTES_MAX + 1);
        }
        // The same, zstd around it: as the command line sends it.
        let packed = zstd::bulk::compress(&stream, 1).expect("room");
        let _ = disk_bytes(io::Cursor::new(packed), IMAGE_BYTES_MAX, DIR.path());
        assert_eq!(std::fs::read_dir(DIR.path().join("tmp")).expect("it is there").count(), 0);
    }
);
