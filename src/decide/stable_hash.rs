//! A hash that gives the same number in every build, on every server, for ever.
//!
//! Orders and due times are spread by it, and both must survive a restart and an update: std's hasher promises no
//! stable result. Not for anything that an attacker must not foresee.

/// FNV-1a of 64 bits over all parts, with MurmurHash3's finalizer behind it: FNV alone leaves the high bits of similar
/// short texts alike, and host ids are similar short texts.
#[must_use]
pub fn stable_hash(parts: &[&str]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        // A byte that no text has ends a part: ("ab", "c") is not ("a", "bc").
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Due times and the order of waves would move in every installation: these numbers never change.
    #[test]
    fn the_hash_of_a_host_is_the_same_for_ever() {
        assert_eq!(stable_hash(&["h-525400000001"]), 0xd1a7_31e1_d298_2389);
        assert_eq!(stable_hash(&[]), 0xefd0_1f60_ba99_2926);
        assert_ne!(stable_hash(&["ab", "c"]), stable_hash(&["a", "bc"]));
    }

    /// 10,000 neighbouring MACs into 100 boxes: none gets more than half as much again as its share.
    #[test]
    fn neighbouring_machines_are_spread_evenly() {
        let mut boxes = [0u32; 100];
        for number in 0..10_000 {
            let hash = stable_hash(&[&format!("h-5254{number:08x}")]);
            boxes[usize::try_from(hash % 100).unwrap()] += 1;
        }
        assert!(boxes.iter().all(|count| (50..=150).contains(count)), "{boxes:?}");
    }
}
