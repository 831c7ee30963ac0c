//! A hostile image: partition table and FAT of its EFI system partitions.
#![no_main]

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use regild::image::fuzzing::inspect;
use regild::wire::manifest::Manifest;

const SECTOR: usize = 512;
/// Small, so that a run is quick; but the backup table must lie behind the first MiB.
const ESP: usize = 64 << 10;
const ESP_BYTES: usize = 256 << 10;
const IMAGE_BYTES: usize = (1 << 20) + (64 << 10);
/// 64 MiB at no less than a sector a read, and the head.
const READS_MAX: usize = 200_000;

#[derive(Debug, Arbitrary)]
struct Input {
    /// In the file system's boot sector, tables, root directory and first clusters.
    fat: Vec<(u16, u8)>,
    /// In the partition table; few of these have a right checksum.
    table: Vec<(u16, u8)>,
    /// A name for the directory under EFI. fatfs writes 255 bytes of it at most; on disk it may have 255 UTF-16 units.
    vendor: Option<(u8, String)>,
    /// Instead of each `q` of it.
    letter: u16,
}

static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let image = image(&fat("debian"));
    let (boot, _) = inspect(Cursor::new(&image), IMAGE_BYTES as u64).expect("unspoiled it is right");
    assert_eq!(boot.loaders.len(), 2, "unspoiled its loaders are found");
    image
});

fn fat(vendor: &str) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; ESP_BYTES]);
    fatfs::format_volume(&mut disk, fatfs::FormatVolumeOptions::new()).expect("room for a FAT");
    let fat = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new()).expect("it was just made");
    let efi = fat.root_dir().create_dir("EFI").expect("room");
    // A name that FAT does not take leaves the directory out.
    for directory in ["BOOT", vendor] {
        let Ok(directory) = efi.create_dir(directory) else { continue };
        for name in ["bootx64.efi", "grubx64.efi", "shimaa64.efi"] {
            if let Ok(mut file) = directory.create_file(name) {
                file.write_all(b"MZ").expect("room");
            }
        }
    }
    drop(efi);
    drop(fat);
    disk.into_inner()
}

/// Another letter for each `q` of the long names.
fn widen(esp: &mut [u8], letter: u16) {
    for entry in esp.chunks_exact_mut(32).take(2048).filter(|entry| entry[11] == 0x0f) {
        for at in [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30] {
            if entry[at..at + 2] == *b"q\0" {
                entry[at..at + 2].copy_from_slice(&letter.to_le_bytes());
            }
        }
    }
}

fn image(esp: &[u8]) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; IMAGE_BYTES]);
    let mut table = gptman::GPT::new_from(&mut disk, SECTOR as u64, [1; 16]).expect("room for a table");
    table[1] = gptman::GPTPartitionEntry {
        partition_type_guid: [
            0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
        ],
        unique_partition_guid: [2; 16],
        starting_lba: (ESP / SECTOR) as u64,
        ending_lba: ((ESP + ESP_BYTES) / SECTOR - 1) as u64,
        attribute_bits: 0,
        partition_name: "esp".into(),
    };
    table.write_into(&mut disk).expect("room for a table");
    gptman::GPT::write_protective_mbr_into(&mut disk, SECTOR as u64).expect("room for an MBR");
    let mut bytes = disk.into_inner();
    bytes[ESP..ESP + esp.len()].copy_from_slice(esp);
    bytes
}

fuzz_target!(
    // fatfs panics on some damage, and `inspect` catches that: libfuzzer's own hook would end the process before. Panics
    // that are caught nowhere still end it.
    init: std::panic::set_hook(Box::new(|panic| {
        if panic.location().is_some_and(|place| place.file().contains("image_inspect")) {
            eprintln!("{panic}");
        }
    })),
    |input: Input| {
        let mut bytes = input.vendor.as_ref().map_or_else(|| IMAGE.clone(), |(count, name)| {
            image(&fat(&format!("{}{name}", "q".repeat(usize::from(*count)))))
        });
        widen(&mut bytes[ESP..], input.letter);
        for (at, byte) in &input.fat {
            bytes[ESP + usize::from(*at)] = *byte;
        }
        for (at, byte) in &input.table {
            bytes[usize::from(*at) % (34 * SECTOR)] = *byte;
        }
        let mut counted = Counted { image: Cursor::new(&bytes), reads: 0 };
        let found = inspect(&mut counted, IMAGE_BYTES as u64);
        assert!(counted.reads < READS_MAX, "{} reads", counted.reads);
        let Ok((boot, sector_bytes)) = found else { return };
        for loader in &boot.loaders {
            assert!(boot.partitions.iter().any(|partition| partition.number == loader.partition));
            assert!(loader.path.starts_with("\\EFI\\"));
        }
        let (extents, frames, packs) = (Vec::new(), Vec::new(), Vec::new());
        let image_bytes = IMAGE_BYTES as u64;
        let manifest = Manifest { image_bytes, sector_bytes, content_digest: [0; 32], boot, packs, frames, extents };
        manifest.encode().expect("what was found at an import can be imported");
    }
);

struct Counted<'a> {
    image: Cursor<&'a Vec<u8>>,
    reads: usize,
}

impl Read for Counted<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        self.image.read(out)
    }
}

impl Seek for Counted<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.image.seek(to)
    }
}
