//! The words between the agent in the deploy environment and the server (JSON over HTTP).
//!
//! `POST /agent/v1/checkin` -> [`Job`]; then `POST /agent/v1/report` until the host reboots, and `POST /agent/v1/baseline`
//! where the server asked for one. A verification has words of its
//! own ([`super::verify`]).
//! `PROTOCOL` must match on both sides: an agent of another protocol is refused before any write. The server refuses
//! fields that it does not know (`http::body`): agent and server come from one build, so such a field is an error.

use serde::{Deserialize, Serialize};

/// Version of this protocol. Raised whenever a field comes, goes or changes its meaning; but for a field that only the
/// server says, and without which the agent does rightly what it did before (it reads past what it does not know).
pub const PROTOCOL: u32 = 4;

/// The most of an os-release(5) that is sent or kept.
pub const OS_RELEASE_BYTES_MAX: usize = 8 << 10;

/// First word of the agent: who it is and what it sees.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckIn {
    pub protocol: u32,
    /// Host id and generation as on the kernel command line.
    pub host: String,
    pub generation: u64,
    /// The one-time token of the kernel command line, hex.
    pub token: String,
    /// A secret that the agent drew at start, hex, 32 bytes. The token is bound to it, so that a repeated
    /// check-in (an answer that was lost) is the same claim, and a second claimant is refused.
    pub session: String,
    /// True where the firmware that booted the agent is UEFI.
    pub uefi: bool,
    pub inventory: Inventory,
}

/// What the machine consists of. Hostile text until checked: see the limits in `http::agent`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// SMBIOS system UUID, lower case, when the firmware gives one.
    pub system_uuid: Option<String>,
    pub serial: Option<String>,
    pub product: Option<String>,
    /// Permanent addresses of all NICs, `aa:bb:cc:dd:ee:ff`.
    pub macs: Vec<String>,
    pub disks: Vec<Disk>,
}

/// One whole disk as the agent saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name, `vda`. For people; never used to choose.
    pub name: String,
    pub serial: Option<String>,
    pub wwn: Option<String>,
    pub model: Option<String>,
    pub size_bytes: u64,
    pub sector_bytes: u32,
    /// `virtio`, `nvme`, `ata`, `scsi`, `usb`, `other`.
    pub transport: String,
    pub removable: bool,
    pub read_only: bool,
    /// What its first and last bytes show: `None` is blank, else words such as `gpt`, `ext4`, `lvm`, `data`.
    pub content: Option<String>,
}

/// The server's answer to a check-in: write this image, on the one disk that the rule allows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub protocol: u32,
    pub host: String,
    pub generation: u64,
    pub attempt: u32,
    /// `NAME:VERSION`, for people.
    pub image: String,
    /// Hex blake3 of the encoded manifest: what `GET /images/manifests/<digest>` must hash to.
    pub manifest: String,
    pub disk_rule: DiskRule,
    /// The disk that regild wrote for this host before: its content is ours to replace.
    pub own_disk: Option<DiskId>,
    /// The operator released foreign content on the target for this order.
    pub foreign_released: bool,
    /// The manifest (hex digest) of what `own_disk` held when the host was last whole: what the image shares with it need
    /// not be fetched. A hint, which may be wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
}

/// Which disk may be written. Every field that is set must match; all unset allows any disk, and then
/// exactly one candidate must exist.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskRule {
    pub serial: Option<String>,
    pub wwn: Option<String>,
    pub model: Option<String>,
    pub transport: Option<String>,
    pub min_bytes: Option<u64>,
    pub max_bytes: Option<u64>,
}

/// What tells a disk from every other one, kept in the host record after a deploy began on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskId {
    pub serial: Option<String>,
    pub wwn: Option<String>,
    pub size_bytes: u64,
}

/// One report of the agent, authorised by its session secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub protocol: u32,
    pub host: String,
    pub generation: u64,
    pub session: String,
    pub event: Event,
}

/// What the agent says: `{"step": {"step": "survey"}}`. An unknown event is refused by name, not guessed.
///
/// Not tagged inside: serde then reads the whole event before it knows its type, and an error loses its path.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A step began.
    Step { step: Step },
    /// Sent before the first write: this disk is about to be changed.
    Target { disk: Disk },
    /// About once a second while bytes move.
    Progress { progress: Progress },
    /// Body, head and backup GPT are written, read back and equal to the manifest.
    Verified { disk: DiskId },
    /// The agent gave up. `reason` is for people; `listing` is what it saw (disks).
    Failed { step: Step, reason: String, listing: Vec<String> },
}

/// The steps of a deploy, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    CheckIn,
    ChooseDisk,
    /// Looking whether the disk already holds the image (a power cut after the last write).
    Survey,
    ClearHead,
    WriteBody,
    VerifyBody,
    WriteHead,
    BootEntry,
    Reboot,
}

/// Bytes done of the current step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub step: Step,
    pub done_bytes: u64,
    pub total_bytes: u64,
    /// Compressed bytes that came over the network so far.
    pub fetched_bytes: u64,
}

/// The server's answer to a report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReportAnswer {
    /// False: the order is closed or held; the agent must stop before its next write.
    pub go_on: bool,
    pub reason: Option<String>,
    /// To the word that the image was read back: the server cannot read the image's file systems itself, and asks this
    /// host for the list of its files. The machine reboots when so many seconds are over, with or without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_seconds: Option<u64>,
}

/// First line of `POST /agent/v1/baseline`, as JSON. Behind its newline comes the baseline ([`super::baseline`]), or
/// nothing where there is none. Under the session of the deploy that it was asked of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BaselineHead {
    pub protocol: u32,
    pub host: String,
    pub generation: u64,
    pub session: String,
    /// The image's os-release(5), where it has one of at most [`OS_RELEASE_BYTES_MAX`].
    pub os_release: Option<String>,
    /// Why there is no baseline.
    pub failed: Option<String>,
}

/// The server's answer to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BaselineAnswer {
    /// Whether it is the image's baseline now, or was before.
    pub taken: bool,
    pub reason: Option<String>,
}
