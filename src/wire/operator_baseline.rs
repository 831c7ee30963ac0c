//! The words about an image's baseline between server and operator (JSON over the Unix socket).
//!
//! `GET /v1/images/{NAME:VERSION}/baseline` -> [`ImageBaseline`]; `POST` on it makes it, now, and answers the same;
//! `GET /v1/images/{NAME:VERSION}/files?prefix=TEXT` -> an array of [`ImageFile`]s.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageBaseline {
    pub image: String,
    pub manifest: String,
    /// `ready`; `pending`: it is being made or waits for that; `needs_host`; `failed`.
    pub state: String,
    /// Why there is none.
    pub reason: Option<String>,
    pub digest: Option<String>,
    /// `image`, or `host ID`.
    pub origin: Option<String>,
    /// Unix seconds.
    pub made_at: Option<u64>,
    pub entries: Option<u64>,
    pub baseline_bytes: Option<u64>,
    pub volumes: Vec<ImageVolume>,
}

/// One partition of the image, and how it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolume {
    /// 0: the whole image.
    pub partition: u32,
    pub format: String,
    pub mounted_at: Option<String>,
    /// `files`, `blocks` or `not`.
    pub known: String,
    /// Why not.
    pub reason: Option<String>,
}

/// One path of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// As `decide::drift::path::to_text` writes it: no byte of it acts on a terminal.
    pub path: String,
    pub kind: String,
    /// `4755`, octal.
    pub mode: String,
    pub uid: u32,
    pub gid: u32,
    /// Of files.
    pub bytes: Option<u64>,
    /// blake3, hex; of files.
    pub digest: Option<String>,
    /// Of symlinks; as `path`.
    pub target: Option<String>,
    /// `MAJOR:MINOR` of devices.
    pub device: Option<String>,
    /// Names of extended attributes; as `path`.
    pub xattrs: Vec<String>,
    /// Unix seconds.
    pub modified: i64,
}
