use std::io::Cursor;

use crate::image::tests::{MIB, import, store};

/// A FAT that fills `len` bytes.
pub(in crate::image) fn fat(len: usize) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; len]);
    fatfs::format_volume(&mut disk, fatfs::FormatVolumeOptions::new()).unwrap();
    disk.into_inner()
}

/// A FAT with a directory of deleted entries whose clusters run in a circle.
pub(in crate::image) fn round_fat() -> Vec<u8> {
    let mut disk = fat(4 * MIB);
    {
        let files = fatfs::FileSystem::new(Cursor::new(&mut disk), fatfs::FsOptions::new()).unwrap();
        files.root_dir().create_dir("round").unwrap();
    }
    let at = |disk: &[u8], at: usize| usize::from(u16::from_le_bytes([disk[at], disk[at + 1]]));
    let (sector, per_cluster, reserved, fats) = (at(&disk, 11), usize::from(disk[13]), at(&disk, 14), disk[16]);
    let (entries, fat_sectors) = (at(&disk, 17), at(&disk, 22));
    let root = (reserved + usize::from(fats) * fat_sectors) * sector;
    let entry = (root..).step_by(32).find(|entry| disk[entry + 11] == 0x10).unwrap();
    let cluster = at(&disk, entry + 26);
    let directory = root + entries * 32 + (cluster - 2) * per_cluster * sector;
    // All of its entries are deleted, and its cluster follows itself; 4 MiB make a FAT12.
    disk[directory..][..per_cluster * sector].fill(0xe5);
    for copy in 0..usize::from(fats) {
        let place = (reserved + copy * fat_sectors) * sector + cluster * 3 / 2;
        let (low, high) = (disk[place], disk[place + 1]);
        let number = cluster as u16;
        (disk[place], disk[place + 1]) = match cluster % 2 {
            0 => (number as u8, (high & 0xf0) | (number >> 8) as u8),
            _ => ((low & 0x0f) | ((number & 15) << 4) as u8, (number >> 4) as u8),
        };
    }
    disk
}

/// Bad input: an endless directory in an image of 16 TiB, most of it holes: by its length alone the reader might go on for
/// days.
#[test]
fn what_runs_in_a_circle_ends_at_the_budget() {
    let (_dir, store) = store();
    let imported = import(&store, "round:1", &round_fat()[..]).unwrap();
    let facts = imported.record().facts.as_ref().unwrap();
    assert_eq!((&*facts.table, &*facts.partitions[0].file_system), ("none", "vfat"));
    let mut manifest = store.manifest(&imported.record().manifest).unwrap();
    manifest.image_bytes = 1 << 44;
    let facts = store.look_at(&manifest);
    let why = facts.partitions[0].unreadable.as_deref().unwrap();
    assert!(why.contains("more reading than is spent on it"), "{why}");
}
