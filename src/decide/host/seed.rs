//! What a deploy is told of the disk that it writes: the image that should be on it.

use super::{Host, ImageChoice};

/// The image of which the host's own disk may hold content that its open order can use: what was last read back there.
/// `is_seed` says of its manifest and the order's whether it is one ([`is_seed_of`]).
///
/// None for a host that never reported one or whose disk is not known. That a version is blocked is no reason: it is not
/// written, and what other versions share with it is theirs.
///
/// Only a hint. An attempt that was cut, or a disk that was exchanged, shows on the disk: the agent checks every byte.
pub fn seed(host: &Host, is_seed: impl Fn(&str, &str) -> bool) -> Option<&ImageChoice> {
    let order = host.order.as_ref()?;
    host.own_disk.as_ref()?;
    host.reported.as_ref().filter(|image| is_seed(&image.manifest, &order.image.manifest))
}

/// Whether the manifest `from` helps to write `to`: not the same, which the agent looks for in its place, and one that
/// agents get (`is_served`: it is in the store, and signed by a trusted key where that is asked for).
pub fn is_seed_of(from: &str, to: &str, is_served: impl Fn() -> bool) -> bool {
    from != to && is_served()
}
