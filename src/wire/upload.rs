//! Pushing an image from afar, piece by piece (`regild image push`): what client and upload listener say to each other.
//!
//! ```text
//! POST   /v1/uploads                   Create -> Upload; the same Create again gives the same upload
//! GET    /v1/uploads/ID                Upload
//! PATCH  /v1/uploads/ID?offset=BYTES   the file's bytes from there on; cut or not, what came stays -> Upload
//! POST   /v1/uploads/ID/finish         imports it -> operator::Image; asked again, the same answer
//! DELETE /v1/uploads/ID                gives it up
//! ```
//!
//! 401 wrong token, 403 an image that this token may not push, 404 no such upload (over, expired, another token's), 412 not
//! at that offset, 423 somebody is at it just now, 507 no room. Else as an import by an operator answers.

use super::image_facts::Provenance;
use serde::{Deserialize, Serialize};

/// `POST /v1/uploads`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// `NAME:VERSION`.
    pub image: String,
    /// Of the file, as it is pushed.
    pub bytes: u64,
    /// Of the file, `sha256:HEX` or `blake3:HEX`. It must be right in the end.
    pub digest: String,
    /// `raw` or `qcow2`, where it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Only hosts that are named get it, until it is activated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preview: bool,
    /// The file's name, for people.
    #[serde(default)]
    pub source: String,
    /// What its maker says of it.
    #[serde(default, skip_serializing_if = "Provenance::is_empty")]
    pub provenance: Provenance,
}

/// How far an upload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    pub id: String,
    pub image: String,
    pub bytes: u64,
    /// Bytes that are there: the next ones go from here on.
    pub offset: u64,
    /// Unix seconds; each piece puts it off.
    pub expires_at: u64,
    /// True when it is an image: what is left is to ask for `finish`, which says which one.
    pub finished: bool,
}
