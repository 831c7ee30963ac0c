use std::io::{Cursor, Write as _};

use proptest::prelude::*;

use crate::gpt;
use crate::image::{ImageStore, ImportError, ImportRequest};
use crate::wire::manifest::BootFacts;

const MIB: usize = 1 << 20;
const SECTOR: usize = 512;

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
        partition_type_guid: [
            0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
        ],
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
