//! What a stream is, by its first bytes. Pure.
//!
//! A raw disk has no magic of its own, so it is what nothing else claims; therefore everything that people have lying
//! about and that is not a raw disk is known here by name, and refused with what to do. An image that was declared raw is
//! judged in the same way: a qcow2 file written to a disk as it is boots nothing (and what is called raw and read as qcow2
//! is how guests read their host's files, CVE-2008-2004).

use super::{Compression, SourceError};

/// As many bytes as are looked at. Behind them no format has its magic that is told apart here.
pub(super) const HEAD_BYTES: usize = 512;

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Compressed(Compression),
    Qcow2,
    /// Nothing else claims it.
    Raw,
}

const TO_RAW: &str = "convert it first: qemu-img convert -O raw IN OUT";
const UNPACK: &str = "unpack it first, or pack it with zstd, xz or gzip";

/// Magic, where it stands, what has it, what to do.
const FOREIGN: [(&[u8], usize, &str, &str); 17] = [
    (b"KDMV", 0, "a VMDK image", TO_RAW),
    (b"COWD", 0, "a VMDK image", TO_RAW),
    (b"# Disk DescriptorFile", 0, "a VMDK descriptor, which has its data in other files", TO_RAW),
    (b"conectix", 0, "a VHD image", TO_RAW),
    (b"vhdxfile", 0, "a VHDX image", TO_RAW),
    (b"\x7f\x10\xda\xbe", 0x40, "a VDI image", TO_RAW),
    (b"QED\0", 0, "a QED image", TO_RAW),
    (b"WithoutFreeSpace", 0, "a Parallels image", TO_RAW),
    (b"WithouFreSpacExt", 0, "a Parallels image", TO_RAW),
    (b"\x3a\xff\x26\xed", 0, "an Android sparse image", "convert it first: simg2img IN OUT"),
    (b"ustar", 257, "a tar archive (an OVA is one, too)", "unpack it, and import the disk image that is in it"),
    (b"BZh", 0, "compressed with bzip2", UNPACK),
    (b"\x04\x22\x4d\x18", 0, "compressed with lz4", UNPACK),
    (b"LZIP", 0, "compressed with lzip", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", UNPACK),
    (b"PK\x03\x04", 0, "a zip archive", UNPACK),
    (b"\x1f\x9d", 0, "compressed with compress", UNPACK),
];

/// What begins with `head`.
///
/// # Errors
/// [`SourceError::Foreign`] for what is known and not taken.
pub(super) fn kind(head: &[u8]) -> Result<Kind, SourceError> {
    let has = |magic: &[u8], at: usize| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    for compression in [Compression::Zstd, Compression::Xz, Compression::Gzip] {
        if has(compression.magic(), 0) {
            return Ok(Kind::Compressed(compression));
        }
    }
    if has(b"QFI\xfb", 0) {
        return Ok(Kind::Qcow2);
    }
    match FOREIGN.into_iter().find(|(magic, at, ..)| has(magic, *at)) {
        Some((_, _, what, advice)) => Err(SourceError::Foreign { what, advice }),
        None => Ok(Kind::Raw),
    }
}

/// A VHD of fixed size is a raw disk with a sector behind it.
pub(super) fn last_sector(sector: &[u8]) -> Result<(), SourceError> {
    if sector.starts_with(b"conectix") {
        return Err(SourceError::Foreign { what: "a VHD image of fixed size", advice: TO_RAW });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: what is known is never taken for a raw disk, and a raw disk is never taken for anything else.
    #[test]
    fn each_magic_is_known_and_a_disk_is_raw() {
        for (magic, at, what, _) in FOREIGN {
            let mut head = vec![0; HEAD_BYTES];
            head[at..at + magic.len()].copy_from_slice(magic);
            let refused = kind(&head).unwrap_err().to_string();
            assert!(refused.contains(what), "{refused}");
            // Cut in its magic it is not that any more.
            assert_eq!(kind(&head[..at + magic.len() - 1]).unwrap(), Kind::Raw);
        }
        let mut disk = vec![0; HEAD_BYTES];
        disk[..3].copy_from_slice(b"\xeb\x63\x90");
        disk[510..].copy_from_slice(b"\x55\xaa");
        for head in [&disk[..], &disk[..1], &[], &[0; 512]] {
            assert_eq!(kind(head).unwrap(), Kind::Raw);
        }
        assert_eq!(kind(b"QFI\xfb").unwrap(), Kind::Qcow2);
        assert_eq!(kind(b"\xfd7zXZ\0").unwrap(), Kind::Compressed(Compression::Xz));
        assert_eq!(kind(b"\x1f\x8b\x08").unwrap(), Kind::Compressed(Compression::Gzip));
        assert!(last_sector(b"conectix\0\0").is_err() && last_sector(&[0; 512]).is_ok());
    }
}
