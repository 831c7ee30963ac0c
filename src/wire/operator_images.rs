//! The words between the operator's CLI and the server about keeping images: garbage collection, scrub, signatures.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `POST /v1/gc`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcAsked {
    /// Say what would go, remove nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a garbage collection did, or would do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GcReport {
    pub dry_run: bool,
    /// Every version, and why it goes or stays.
    pub versions: Vec<VersionFate>,
    /// Manifests that no version names.
    pub manifests: Vec<ManifestFate>,
    /// Packs in which something is not needed.
    pub packs: Vec<PackFate>,
    /// Compressed bytes that are free afterwards.
    pub freed_bytes: u64,
    /// Why data stays that would have gone.
    pub held_back: Option<String>,
    pub failed: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VersionFate {
    /// `NAME:VERSION`.
    pub image: String,
    /// `preview`, `active`, `deprecated`, `blocked` or `retired`.
    pub stage: String,
    pub goes: bool,
    pub why: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ManifestFate {
    pub digest: String,
    pub goes: bool,
    pub why: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PackFate {
    pub id: String,
    pub held_bytes: u64,
    /// Of them, what versions need.
    pub live_bytes: u64,
    /// `goes`, `is thinned` or `stays`.
    pub does: String,
}

/// `POST /v1/scrub`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubAsked {
    /// `NAME:VERSION`; `None`: everything.
    #[serde(default)]
    pub image: Option<String>,
    /// Another image store on the server, to take from it what is damaged here.
    #[serde(default)]
    pub from: Option<PathBuf>,
}

/// What a scrub found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ScrubReport {
    pub records: u64,
    pub manifests: u64,
    pub packs: u64,
    pub frames: u64,
    pub read_bytes: u64,
    /// A sentence for each thing that is damaged still.
    pub bad: Vec<String>,
    pub mended: Vec<String>,
    /// Versions that no host gets because of it.
    pub refused: Vec<String>,
    /// The server was told to stop before the end.
    pub is_cut: bool,
}

/// `POST /v1/images/NAME:VERSION/signatures`: one of the two forms.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NewSignature {
    Ed25519 { key: String, signature: String },
    Minisign { text: String },
}

/// `GET /v1/images/NAME:VERSION/signatures`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Signatures {
    /// `NAME:VERSION`.
    pub image: String,
    /// The text that is signed, to the byte.
    pub statement: String,
    /// Whether a trusted key has signed this name and content.
    pub trusted: bool,
    /// Whether the configuration refuses versions of which no trusted key has.
    pub required: bool,
    pub signatures: Vec<SignatureView>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignatureView {
    /// The trusted key that made it; null: none did.
    pub key: Option<String>,
    /// minisign's trusted comment.
    pub comment: Option<String>,
    pub added_at: u64,
    pub added_by: String,
}
