//! What drift needs of images: the one place that asks the image store for a baseline, or for a file of an image.

use super::Shared;

/// A baseline that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub digest: String,
    /// Where it comes from, for people.
    pub origin: String,
}

/// The baseline of an image, by its manifest's digest.
///
/// # Errors
/// Why there is none, for people.
pub(super) async fn baseline_of(_: &Shared, _: &str) -> Result<Known, String> {
    Err("no baseline was made of this image yet".to_string())
}

/// Whether a path is in the image's baseline; `None`: there is none, or it cannot be read.
pub(super) async fn holds(_: &Shared, _: &str, _: &[u8]) -> Option<bool> {
    None
}

/// The first bytes of a file of an image. Reads the image's file system.
pub(super) fn file(_: &Shared, _: &str, _: &[u8], _: usize) -> Option<Vec<u8>> {
    None
}
