use std::io::{Cursor, Read, Seek, SeekFrom, Write as _};

use proptest::prelude::*;

use crate::gpt;
use crate::image::{ImageStore, ImportError, ImportRequest};
use crate::wire::manifest::BootFacts;

const MIB: usize = 1 << 20;
const SECTOR: usize = 512;
const ESP: [u8; 16] = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

/// A FAT with these files.
fn fat(len: usize, files: &[&str]) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; len]);
    fatfs::format_volume(&mut disk, fatfs::FormatVolumeOptions::new()).unwrap();
    {
        let fat = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new()).unwrap();
        for path in files {
            let mut dir = fat.root_dir();
            let (dirs, name) = path.rsplit_once('/').unwrap();
            for part in dirs.split('/') {
                dir = dir.create_dir(part).unwrap();
            }
            dir.create_file(name).unwrap().write_all(b"MZ").unwrap();
        }
    }
    disk.into_inner()
}

/// 8 MiB: boot code, and an EFI system partition from 1 to 5 MiB.
fn image(esp: &[u8]) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; 8 * MIB]);
    let mut table = gptman::GPT::new_from(&mut disk, SECTOR as u64, [1; 16]).unwrap();
    table[1] = gptman::GPTPartitionEntry {
        partition_type_guid: ESP,
        unique_partition_guid: [2; 16],
        starting_lba: (MIB / SECTOR) as u64,
        ending_lba: (5 * MIB / SECTOR - 1) as u64,
        attribute_bits: 0,
        partition_name: "esp".into(),
    };
    table.write_into(&mut disk).unwrap();
    gptman::GPT::write_protective_mbr_into(&mut disk, SECTOR as u64).unwrap();
    let mut bytes = disk.into_inner();
    bytes[MIB..][..esp.len()].copy_from_slice(esp);
    bytes
}

fn import(image: &[u8]) -> Result<(BootFacts, u32), ImportError> {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let request = ImportRequest { image: &"a:1".parse().unwrap(), now: 0, source: "", max_image_bytes: 1 << 30 };
    let imported = store.import(image, &request, &|_| ())?;
    let manifest = store.manifest(&imported.record().manifest).unwrap();
    Ok((manifest.boot, manifest.sector_bytes))
}

fn loaders(facts: &BootFacts) -> Vec<(&str, &str)> {
    facts.loaders.iter().map(|loader| (loader.arch.as_str(), loader.path.as_str())).collect()
}

#[test]
fn the_fallback_loader_is_preferred_and_named_as_firmware_names_it() {
    let esp = fat(4 * MIB, &["EFI/debian/grubx64.efi", "EFI/debian/shimx64.efi", "efi/boot/bootx64.efi"]);
    let (facts, sector_bytes) = import(&image(&esp)).unwrap();
    assert_eq!(loaders(&facts), [("x64", "\\EFI\\BOOT\\BOOTX64.EFI")]);
    assert_eq!((facts.gpt, facts.bios, sector_bytes), (true, false, 512));
    assert_eq!((facts.partitions[0].type_guid.as_str(), facts.loaders[0].partition), (gpt::ESP_TYPE, 1));
}

#[test]
fn without_a_fallback_shim_comes_before_grub_and_each_arch_counts() {
    let esp = fat(4 * MIB, &["EFI/debian/grubx64.efi", "EFI/debian/shimx64.efi", "EFI/debian/grubaa64.efi"]);
    let (facts, _) = import(&image(&esp)).unwrap();
    assert_eq!(loaders(&facts), [("x64", "\\EFI\\debian\\shimx64.efi"), ("aa64", "\\EFI\\debian\\grubaa64.efi")]);
}

#[test]
fn boot_code_in_the_mbr_means_bios() {
    let mut with_code = image(&[]);
    with_code[0] = 0xeb;
    let (facts, _) = import(&with_code).unwrap();
    assert!(facts.bios && facts.loaders.is_empty());
    // A file system without a table: not bootable, and no reason to refuse.
    let (facts, sector_bytes) = import(&fat(MIB, &["EFI/BOOT/BOOTX64.EFI"])).unwrap();
    assert_eq!((facts.gpt, facts.loaders.len(), sector_bytes), (false, 0, 512));
}

/// Better to hear it at the import than from the first host.
#[test]
fn a_damaged_partition_table_is_refused_at_import() {
    let mut damaged = image(&[]);
    damaged[2 * SECTOR + 40] ^= 1;
    assert!(matches!(import(&damaged), Err(ImportError::PartitionTable(_))));
}

/// The import was refused as "cut into more pieces than a manifest can list".
#[test]
fn a_directory_with_a_very_long_name_does_not_keep_an_image_out() {
    let long = format!("EFI/{}/shimaa64.efi", "q".repeat(200));
    let mut esp = fat(4 * MIB, &["EFI/BOOT/BOOTX64.EFI", &long]);
    // Entries of long names have UTF-16: of each letter one of three bytes in UTF-8, and the path has 600.
    for entry in esp.chunks_mut(32).filter(|entry| entry[11] == 0x0f) {
        for at in [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30] {
            if entry[at..at + 2] == *b"q\0" {
                entry[at..at + 2].copy_from_slice(&0x7530u16.to_le_bytes());
            }
        }
    }
    let (facts, _) = import(&image(&esp)).unwrap();
    assert_eq!(loaders(&facts), [("x64", "\\EFI\\BOOT\\BOOTX64.EFI")]);
}

/// Counts what is read of an image.
struct Counted {
    image: Cursor<Vec<u8>>,
    reads: usize,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.reads += 1;
        self.image.read(out)
    }
}

impl Seek for Counted {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.image.seek(to)
    }
}

/// Rule 9: a FAT whose root never ends costs a bounded number of reads, and so do sixteen of them.
#[test]
fn file_systems_that_run_in_circles_share_one_budget() {
    let endless = endless_fat();
    let reads = |count: usize| {
        let mut disk = Cursor::new(vec![0; 32 * MIB]);
        let mut table = gptman::GPT::new_from(&mut disk, SECTOR as u64, [1; 16]).unwrap();
        for number in 1..=count {
            table[number as u32] = gptman::GPTPartitionEntry {
                partition_type_guid: ESP,
                unique_partition_guid: [number as u8; 16],
                starting_lba: (number * MIB / SECTOR) as u64,
                ending_lba: ((number + 1) * MIB / SECTOR - 1) as u64,
                attribute_bits: 0,
                partition_name: "esp".into(),
            };
        }
        table.write_into(&mut disk).unwrap();
        let mut image = disk.into_inner();
        for number in 1..=count {
            image[number * MIB..][..endless.len()].copy_from_slice(&endless);
        }
        let image_bytes = image.len() as u64;
        let mut counted = Counted { image: Cursor::new(image), reads: 0 };
        super::inspect(&mut counted, image_bytes).unwrap();
        counted.reads
    };
    let budget = 64 * MIB / SECTOR;
    assert!(reads(1) > budget / 2, "the file system is not endless: {} reads", reads(1));
    assert!(reads(16) <= budget + 10, "{} reads", reads(16));
}

/// A FAT12 whose directory `EFI` fills its cluster with directories, each of which is `EFI` itself, and whose chain
/// leads from that cluster to itself.
fn endless_fat() -> Vec<u8> {
    let mut esp = fat(MIB, &["EFI/BOOT/BOOTX64.EFI"]);
    let word = |esp: &[u8], at: usize| usize::from(u16::from_le_bytes([esp[at], esp[at + 1]]));
    let (cluster_sectors, reserved, root_entries, fat_sectors) =
        (usize::from(esp[13]), word(&esp, 14), word(&esp, 17), word(&esp, 22));
    let data = (reserved + usize::from(esp[16]) * fat_sectors) * SECTOR + root_entries * 32;
    let root = data - root_entries * 32..data;
    let entry = root.step_by(32).find(|at| esp[*at..].starts_with(b"EFI     ")).expect("it was made above");
    let efi = word(&esp, entry + 26);
    let cluster_bytes = cluster_sectors * SECTOR;
    let directory = data + (efi - 2) * cluster_bytes;
    for entry in esp[directory..directory + cluster_bytes].chunks_mut(32) {
        entry.copy_from_slice(b"AGAIN      \x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        entry[26..28].copy_from_slice(&(efi as u16).to_le_bytes());
    }
    // Twelve bits for each cluster: here the number of the cluster itself.
    let place = reserved * SECTOR + efi * 3 / 2;
    let pair = word(&esp, place) as u16;
    let pair = if efi % 2 == 0 { pair & 0xf000 | efi as u16 } else { pair & 0x000f | (efi as u16) << 4 };
    esp[place..place + 2].copy_from_slice(&pair.to_le_bytes());
    esp
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rule 10: a FAT made to hurt neither ends the server nor keeps it busy; at worst it has no loaders.
    #[test]
    fn hostile_file_systems_end_in_an_answer(changes in proptest::collection::vec((0usize..24 * 512, any::<u8>()), 1..12)) {
        let mut esp = fat(MIB, &["EFI/BOOT/BOOTX64.EFI"]);
        for (at, byte) in changes {
            esp[at] = byte;
        }
        import(&image(&esp)).unwrap();
    }
}
