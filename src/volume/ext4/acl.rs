//! POSIX ACLs: ext4 stores a short form, getxattr(2) gives the one of include/uapi/linux/posix_acl_xattr.h.

use crate::volume::Fault;
use crate::volume::number::{le16, le32};

const STORED_VERSION: u32 = 1;
const SHOWN_VERSION: u32 = 2;
const TAG_USER: u16 = 0x02;
const TAG_GROUP: u16 = 0x08;
const NO_ID: u32 = u32::MAX;

/// Only entries for one user or one group have an id when stored; shown, all have one.
pub(super) fn as_getxattr(stored: &[u8]) -> Result<Vec<u8>, Fault> {
    if le32(stored, 0)? != STORED_VERSION {
        return Fault::damaged("an ACL of an unknown version");
    }
    let mut shown = SHOWN_VERSION.to_le_bytes().to_vec();
    let mut at = 4;
    while at < stored.len() {
        let (tag, permissions) = (le16(stored, at)?, le16(stored, at + 2)?);
        at += 4;
        let mut id = NO_ID;
        if matches!(tag, TAG_USER | TAG_GROUP) {
            id = le32(stored, at)?;
            at += 4;
        }
        shown.extend_from_slice(&tag.to_le_bytes());
        shown.extend_from_slice(&permissions.to_le_bytes());
        shown.extend_from_slice(&id.to_le_bytes());
    }
    Ok(shown)
}
