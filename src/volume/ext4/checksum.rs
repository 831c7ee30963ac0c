//! CRC-32C as ext4 and its journal use it: carried on from a seed, never inverted at its end.

/// Same polynomial as iSCSI's.
const CASTAGNOLI: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);

/// The kernel's `crc32c(seed, bytes)`.
pub(super) fn crc32c(seed: u32, parts: &[&[u8]]) -> u32 {
    static TABLE: crc::Crc<u32, crc::Table<16>> = CASTAGNOLI;
    // The crate takes its start as not yet reflected, and inverts the end.
    let mut digest = TABLE.digest_with_initial(seed.reverse_bits());
    parts.iter().for_each(|part| digest.update(part));
    !digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4: 32 bytes of zeros have 8a9136aa, inverted at the end; and parts are the whole.
    #[test]
    fn it_is_the_published_one_and_can_be_carried_on() {
        assert_eq!(!crc32c(!0, &[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(crc32c(crc32c(!0, &[&[0; 20]]), &[&[0; 12]]), !0x8a91_36aa);
    }
}
