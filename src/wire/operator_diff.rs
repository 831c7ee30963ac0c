//! The words about what differs between two images, and what a machine would fetch (JSON over the Unix socket).
//!
//! `GET /v1/images/{REF}/diff?to=REF&limit=N&skip=N` -> [`ImageDiff`];
//! `GET /v1/images/{REF}/plan?from=REF&disk_bytes=N` -> [`ImagePlan`]. REF is NAME:VERSION or NAME@CHANNEL.
//!
//! Names out of an image are written as `decide::drift::path::to_text` does: no byte of them acts on a terminal.

use serde::{Deserialize, Serialize};

/// From one image to another. Sizes are of data: blocks of 4 KiB that are not all zeros.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDiff {
    pub from: DiffedImage,
    pub to: DiffedImage,
    /// Both have the same content, byte for byte.
    pub is_same: bool,
    /// Of `to`, against all of `from`.
    pub blocks: BlockSums,
    /// Of `to`, outside of its partitions: the table, boot loaders.
    pub outside: BlockSums,
    /// Compressed bytes of `to` that lie in no frame of `from`: what the store holds for it beside `from`.
    pub new_compressed_bytes: u64,
    /// `gpt`, `mbr`, `none`.
    pub from_table: String,
    pub to_table: String,
    pub partitions: Vec<PartitionDiff>,
    pub files: FileCounts,
    /// By partition and path; those that `skip` and `limit` leave.
    pub file_list: Vec<FileDiff>,
    /// Files that differ and are in front of the list.
    pub skipped: u64,
    /// Files that differ and are behind the list: cut.
    pub cut: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffedImage {
    pub image: String,
    pub manifest: String,
    pub image_bytes: u64,
    pub data_bytes: u64,
}

/// Where the data of the newer side comes from. The first three make up the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlockSums {
    /// In the older image at the same place (of a partition: counted from its start).
    pub same_bytes: u64,
    /// In the older image at another place.
    pub moved_bytes: u64,
    /// Nowhere in the older image.
    pub new_bytes: u64,
    /// Zeros now where the older image had data.
    pub zeroed_bytes: u64,
}

impl BlockSums {
    /// Nothing differs.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.moved_bytes == 0 && self.new_bytes == 0 && self.zeroed_bytes == 0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionDiff {
    /// 0: an image without partitions, as a whole. Partitions are matched by their numbers.
    pub number: u32,
    /// `same`, `changed`, `added`, `removed`.
    pub state: String,
    /// Of its entry in the table: `moved`, `resized`, `type`, `name`, `guid`, `flags`; and `format`, `label`, `uuid` of what
    /// lies in it.
    pub entry: Vec<String>,
    pub from: Option<PartitionSide>,
    pub to: Option<PartitionSide>,
    pub blocks: BlockSums,
    /// Where the image's own system mounts it, if that is known.
    pub mounted_at: Option<String>,
    /// `compared`, `same` (no block differs, so no file was looked at) or `blocks only`.
    pub how: String,
    /// Why only blocks; of those compared, what was not read.
    pub reason: Option<String>,
    pub files: FileCounts,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionSide {
    pub offset_bytes: u64,
    pub bytes: u64,
    /// A GUID, or an MBR's `0x83`.
    pub kind: String,
    pub name: String,
    /// PARTUUID.
    pub guid: String,
    /// The 64 attribute bits of a GPT entry; 0x80: an active partition of an MBR.
    pub flags: u64,
    /// As `blkid` names it.
    pub format: String,
    /// Of the file system.
    pub label: Option<String>,
    pub uuid: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileCounts {
    pub added: u64,
    pub removed: u64,
    pub changed: u64,
}

impl FileCounts {
    #[must_use]
    pub fn all(&self) -> u64 {
        self.added + self.removed + self.changed
    }
}

/// One path that differs. At least one side is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDiff {
    pub partition: u32,
    /// From the root of its file system.
    pub path: String,
    /// `added`, `removed`, or some of `kind`, `content`, `mode`, `owner`, `xattrs`.
    pub what: Vec<String>,
    pub from: Option<FileSide>,
    pub to: Option<FileSide>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSide {
    pub kind: String,
    /// `4755`, octal.
    pub mode: String,
    pub uid: u32,
    pub gid: u32,
    /// Of files.
    pub bytes: Option<u64>,
    /// Of symlinks.
    pub target: Option<String>,
    /// `MAJOR:MINOR` of devices.
    pub device: Option<String>,
    /// Names of extended attributes.
    pub xattrs: Vec<String>,
}

/// What a machine would fetch to get an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePlan {
    pub image: String,
    /// What is on the disk, as the agent wrote it; `None`: nothing that is known.
    pub from: Option<String>,
    /// For a disk of this length.
    pub disk_bytes: u64,
    /// Comes on top, in each case.
    pub manifest_bytes: u64,
    /// What an order makes the agent fetch.
    pub order: PlannedFetch,
    /// The same without the manifest of what is on the disk, by which the agent copies there what has only moved (by hand:
    /// `regild-agent write` without `--seed-image`). `None` where the order gives it none, either.
    pub unseeded: Option<PlannedFetch>,
    /// Onto a disk that holds nothing of the image.
    pub blank: PlannedFetch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFetch {
    /// Compressed.
    pub fetched_bytes: u64,
    pub requests: u64,
    /// Data that is on the disk in its place.
    pub kept_bytes: u64,
    /// Data that is copied from another place of the disk.
    pub copied_bytes: u64,
}
