//! The head of a hostile image: its partition table is read, and fitted to a disk.
#![no_main]

use std::io::Cursor;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use gptman::{GPT, GPTHeader, GPTPartitionEntry};
use libfuzzer_sys::fuzz_target;
use regild::gpt;
use regild_fuzz::{Patch, spoil};

/// All that a table of 128 entries takes, and some more.
const HEAD_BYTES: usize = 40 << 10;

#[derive(Debug, Arbitrary)]
struct Input {
    sector_is_4096: bool,
    patches: Vec<Patch>,
    /// An attacker computes checksums, too.
    checksums_right: bool,
    disk: DiskSize,
    length: Option<u16>,
}

#[derive(Debug, Arbitrary)]
enum DiskSize {
    Any(u64),
    Sectors(u32),
    NearLastPartition(i8),
}

static HEADS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| [512, 4096].map(head));

/// 1 GiB with an EFI system partition and a root partition, made by gptman.
fn head(sector: u64) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; 64 << 20]);
    let mut table = GPT::new_from(&mut disk, sector, [5; 16]).expect("room for a table");
    let esp = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
    for (number, partition_type_guid, first_mib, name) in [(1, esp, 1, "esp"), (3, [7; 16], 20, "root")] {
        table[number] = GPTPartitionEntry {
            partition_type_guid,
            unique_partition_guid: [number as u8; 16],
            starting_lba: (first_mib << 20) / sector,
            ending_lba: ((first_mib + 10) << 20) / sector - 1,
            attribute_bits: 0,
            partition_name: name.into(),
        };
    }
    table.write_into(&mut disk).expect("room for a table");
    GPT::write_protective_mbr_into(&mut disk, sector).expect("room for an MBR");
    let mut bytes = disk.into_inner();
    bytes.truncate(HEAD_BYTES);
    bytes
}

fuzz_target!(|input: Input| {
    let sector = if input.sector_is_4096 { 4096 } else { 512 };
    let mut head = HEADS[usize::from(input.sector_is_4096)].clone();
    spoil(&mut head, &input.patches);
    if input.checksums_right {
        set_checksums(&mut head, sector);
    }
    head.truncate(input.length.map_or(usize::MAX, usize::from));
    let Ok(Some(table)) = gpt::read(&head) else { return };
    let sector = u64::from(table.sector_bytes);
    let partitions = table.partitions();
    let last_lba = partitions.iter().map(|partition| partition.last_lba).max().unwrap_or(0);
    let disk_bytes = match input.disk {
        DiskSize::Any(bytes) => bytes,
        DiskSize::Sectors(sectors) => u64::from(sectors) * sector,
        DiskSize::NearLastPartition(more) => {
            (last_lba * sector).saturating_add_signed((i64::from(more) + 33) * sector as i64)
        }
    };
    let Ok(fitted) = table.fit(&head, disk_bytes) else { return };
    assert_eq!(fitted.head.len(), head.len());
    assert!(fitted.tail_offset_bytes > last_lba * sector, "the backup table lies on a partition");
    assert!(fitted.tail_offset_bytes >= head.len() as u64);
    assert_eq!(fitted.tail_offset_bytes + fitted.tail.len() as u64, disk_bytes / sector * sector);
    // A disk of more than 512 TiB gets a table that `read` would not take; no image is that large.
    if disk_bytes / sector <= 1 << 40 {
        let again = gpt::read(&fitted.head).expect("what was written can be read").expect("it is there");
        assert_eq!(again.partitions(), partitions);
        assert_eq!(again.fit(&fitted.head, disk_bytes).expect("it fits again"), fitted);
    }
    let mut backup = Cursor::new(&fitted.tail);
    backup.set_position(fitted.tail.len() as u64 - sector);
    let backup = GPTHeader::read_from(&mut backup).expect("others can read the backup");
    assert_eq!((backup.primary_lba, backup.backup_lba), (disk_bytes / sector - 1, 1));
    // Boot code, the disk's signature and whatever lies behind the table stay.
    assert_eq!(fitted.head[..446], head[..446]);
    let table_end = ((2 * sector) as usize + backup.number_of_partition_entries as usize * 128).min(head.len());
    assert_eq!(fitted.head[table_end..], head[table_end..]);
});

fn set_checksums(head: &mut [u8], sector: usize) {
    let word =
        |head: &[u8], at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let entries_bytes = word(head, sector + 80).saturating_mul(word(head, sector + 84));
    if let Some(entries) = head.get(2 * sector..(2 * sector).saturating_add(entries_bytes)) {
        let sum = crc32(entries);
        head[sector + 88..sector + 92].copy_from_slice(&sum.to_le_bytes());
    }
    // gptman sums up 92 bytes, whatever the header says of its own size.
    head[sector + 16..sector + 20].fill(0);
    let sum = crc32(&head[sector..sector + 92]);
    head[sector + 16..sector + 20].copy_from_slice(&sum.to_le_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _: i32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
