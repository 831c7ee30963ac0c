//! What usual types of partitions are called.

/// Of the Discoverable Partitions Specification, the UEFI specification, and what fdisk knows.
const GUIDS: [(&str, &str); 22] = [
    (crate::gpt::ESP_TYPE, "EFI system"),
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"),
    ("ca7d7ccb-63ed-4c53-861c-1742536059cc", "LUKS"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "Linux /boot"),
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "Linux /home"),
    ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", "Linux /srv"),
    ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", "Linux /var"),
    ("7ec6f557-3bc5-4aca-b293-16ef5df639d1", "Linux /var/tmp"),
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "Linux / (x86-64)"),
    ("8484680c-9521-48c6-9c11-b0720656f69e", "Linux /usr (x86-64)"),
    ("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5", "verity of / (x86-64)"),
    ("77ff5f63-e7b6-4633-acf4-1565b864c0e6", "verity of /usr (x86-64)"),
    ("b921b045-1df0-41c3-af44-4c6f280d3fae", "Linux / (arm64)"),
    ("b0e01050-ee5f-4390-949a-9101b17104e9", "Linux /usr (arm64)"),
    ("df3300ce-d69f-4c92-978c-9bfb0f38d820", "verity of / (arm64)"),
    ("6e11a4e7-fbca-4ded-b9e9-e1a512bb664e", "verity of /usr (arm64)"),
    ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "Microsoft basic data"),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"),
];

const MBR: [(u8, &str); 10] = [
    (0x07, "NTFS or exFAT"),
    (0x0b, "FAT32"),
    (0x0c, "FAT32"),
    (0x0e, "FAT16"),
    (0x82, "Linux swap"),
    (0x83, "Linux"),
    (0x8e, "Linux LVM"),
    (0xee, "GPT"),
    (super::MBR_ESP, "EFI system"),
    (0xfd, "Linux RAID"),
];

pub(super) fn name(type_guid: &str, mbr_type: Option<u8>) -> Option<&'static str> {
    match mbr_type {
        Some(kind) => MBR.iter().find(|(known, _)| *known == kind).map(|(_, name)| *name),
        None => GUIDS.iter().find(|(known, _)| *known == type_guid).map(|(_, name)| *name),
    }
}
