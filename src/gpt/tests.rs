use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

/// The first MiB of an 8 MiB disk with an ESP from 1 to 3 MiB, made by gptman.
fn head(sector: u64) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0u8; 8 << 20]);
    let mut gpt = gptman::GPT::new_from(&mut disk, sector, [5; 16]).unwrap();
    gpt[1] = GPTPartitionEntry {
        partition_type_guid: [
            0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
        ],
        unique_partition_guid: [6; 16],
        starting_lba: MIB / sector,
        ending_lba: 3 * MIB / sector - 1,
        attribute_bits: 0,
        partition_name: "esp".into(),
    };
    gpt.write_into(&mut disk).unwrap();
    gptman::GPT::write_protective_mbr_into(&mut disk, sector).unwrap();
    let mut bytes = disk.into_inner();
    bytes.truncate(1 << 20);
    bytes
}

#[test]
fn the_sector_size_is_where_the_table_is() {
    for sector in [512, 4096] {
        let table = read(&head(sector)).unwrap().unwrap();
        assert_eq!(u64::from(table.sector_bytes), sector);
        let [esp] = table.partitions().try_into().unwrap();
        assert_eq!((esp.number, esp.name.as_str(), esp.type_guid.as_str()), (1, "esp", ESP_TYPE));
        assert_eq!((esp.first_lba * sector, (esp.last_lba + 1) * sector), (MIB, 3 * MIB));
    }
    assert!(read(&vec![0; 1 << 20]).unwrap().is_none());
    assert!(read(b"").unwrap().is_none());
}

/// A9: on a larger disk the backup table is at the very end, and other tools agree.
#[test]
fn the_table_fits_a_larger_disk_and_gptman_reads_both_copies() {
    for sector in [512, 4096] {
        let head = head(sector);
        let disk_bytes = 32 * MIB;
        let fitted = read(&head).unwrap().unwrap().fit(&head, disk_bytes).unwrap();
        assert_eq!(fitted.tail_offset_bytes + fitted.tail.len() as u64, disk_bytes);
        let mut disk = vec![0; disk_bytes as usize];
        disk[..head.len()].copy_from_slice(&fitted.head);
        disk[fitted.tail_offset_bytes as usize..].copy_from_slice(&fitted.tail);
        let primary = gptman::GPT::read_from(&mut Cursor::new(&disk), sector).unwrap();
        assert_eq!(primary.header.backup_lba, disk_bytes / sector - 1);
        let sectors = u32::from_le_bytes(disk[458..462].try_into().unwrap());
        assert_eq!(u64::from(sectors), disk_bytes / sector - 1, "protective MBR");
        disk[sector as usize..MIB as usize].fill(0);
        let backup = gptman::GPT::read_from(&mut Cursor::new(&disk), sector).unwrap();
        assert_eq!(backup.header.last_usable_lba, primary.header.last_usable_lba);
        assert_eq!(backup[1], primary[1]);
    }
}

#[test]
fn a_disk_that_ends_before_the_last_partition_is_refused() {
    let head = head(512);
    let table = read(&head).unwrap().unwrap();
    let just_fits = 3 * MIB + 33 * 512;
    assert!(table.fit(&head, just_fits).is_ok());
    assert!(matches!(table.fit(&head, just_fits - 512), Err(GptError::DoesNotFit { .. })));
    assert!(table.fit(&head, 0).is_err());
}

/// Writes changed header fields with a right checksum, as an attacker would.
fn forged(change: impl FnOnce(&mut GPTHeader)) -> Vec<u8> {
    let mut head = head(512);
    let mut header = GPTHeader::read_from(&mut Cursor::new(&head[512..])).unwrap();
    change(&mut header);
    header.update_crc32_checksum();
    let fields = [
        (24, header.primary_lba),
        (40, header.first_usable_lba),
        (48, header.last_usable_lba),
        (72, header.partition_entry_lba),
    ];
    for (at, value) in fields {
        head[512 + at..][..8].copy_from_slice(&value.to_le_bytes());
    }
    for (at, value) in
        [(16, header.crc32_checksum), (80, header.number_of_partition_entries), (84, header.size_of_partition_entry)]
    {
        head[512 + at..][..4].copy_from_slice(&value.to_le_bytes());
    }
    head
}

/// Rule 10: a table with a right checksum and absurd numbers neither panics nor takes memory.
#[test]
fn forged_headers_are_refused() {
    let lies: &[fn(&mut GPTHeader)] = &[
        |h| h.number_of_partition_entries = u32::MAX,
        |h| h.number_of_partition_entries = 0,
        |h| h.size_of_partition_entry = 1,
        |h| h.partition_entry_lba = u64::MAX / 256,
        |h| h.primary_lba = u64::MAX,
        |h| h.first_usable_lba = 0,
        |h| h.last_usable_lba = u64::MAX,
    ];
    for (index, lie) in lies.iter().enumerate() {
        assert!(matches!(read(&forged(lie)), Err(GptError::Unusual(_))), "lie {index}");
    }
    assert!(read(&forged(|_| ())).unwrap().is_some(), "the forger's own checksum is right");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_tables_never_panic(changes in proptest::collection::vec((440usize..2048, any::<u8>()), 1..5), disk_mib in 0u64..64) {
        let mut head = head(512);
        for (at, byte) in changes {
            head[at] = byte;
        }
        if let Ok(Some(table)) = read(&head) {
            let _ = table.fit(&head, disk_mib * MIB);
        }
    }
}
