//! Inventories as they are kept in memory: every machine that ever checked in has one, and they are looked at when a
//! person asks for the host and written when its record changes. Decoded, those of 100,000 servers took 170 MB.

use crate::wire::agent::Inventory;
use std::sync::Arc;

/// An inventory in postcard's form, shared by the versions of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed(Arc<[u8]>);

impl Packed {
    #[must_use]
    pub fn of(inventory: &Inventory) -> Packed {
        // Strings, numbers and lists of them into memory: postcard has no way to refuse them.
        Packed(postcard::to_stdvec(inventory).unwrap_or_default().into())
    }

    #[must_use]
    pub fn unpacked(&self) -> Inventory {
        // What `of` wrote, in this very process.
        postcard::from_bytes(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::agent::Disk;

    #[test]
    fn an_inventory_is_unpacked_as_it_was_packed() {
        let disk = Disk { name: "vda".into(), wwn: Some("w".into()), size_bytes: u64::MAX, ..Disk::default() };
        let said = Inventory {
            system_uuid: Some("u".into()),
            serial: None,
            product: Some("p".into()),
            macs: vec!["52:54:00:00:00:01".into()],
            disks: vec![disk, Disk { removable: true, content: Some("gpt".into()), ..Disk::default() }],
        };
        let again = Packed::of(&said).unpacked();
        assert_eq!(serde_json::to_string(&again).unwrap(), serde_json::to_string(&said).unwrap());
    }
}
