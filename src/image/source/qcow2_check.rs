//! A qcow2 file's header and tables, judged before a library reads it: that it stands alone, that its tables lie inside
//! of it and on nothing else, and that they are no larger than they need be. After this, what is read is bounded by the
//! file and by the image's size, whatever is in it.
//!
//! Offsets and bits: docs/interop/qcow2.txt of qemu.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::SourceError;

const HEADER_BYTES: usize = 104;
const V2_HEADER_BYTES: u32 = 72;
/// 512 bytes to 2 MiB: what qemu takes.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// qemu's own limits (QCOW_MAX_L1_SIZE, QCOW_MAX_REFTABLE_SIZE).
const L1_BYTES_MAX: u64 = 32 << 20;
const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
/// Two bits are kept for each cluster of the file: 64 MiB of them, for 16 TiB with clusters of 64 KiB.
const CLUSTERS_MAX: u64 = 1 << 28;
const SECTOR_BYTES: u64 = 512;

const OFFSET_BITS: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const COPIED: u64 = 1 << 63;
const READS_AS_ZEROS: u64 = 1;

const FLATTEN: &str = "make it one file: qemu-img convert -O qcow2 IN OUT";
const REPAIR: &str = "close it cleanly or repair it: qemu-img check -r all IN";

fn kind(what: impl Into<String>, advice: &'static str) -> SourceError {
    SourceError::Qcow2Kind { what: what.into(), advice }
}

fn damaged(what: impl Into<String>) -> SourceError {
    SourceError::Qcow2Damaged { what: what.into() }
}

/// What of the header is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    version: u32,
    cluster_bits: u32,
    image_bytes: u64,
    l1_entries: u32,
    l1_offset: u64,
    refcount_offset: u64,
    refcount_clusters: u32,
}

/// The image's size in bytes.
///
/// # Errors
/// [`SourceError`]: which kind of qcow2 is not taken, or what is wrong with it.
pub(super) fn check(file: &File, file_bytes: u64, image_bytes_max: u64) -> Result<u64, SourceError> {
    let header = header(file, image_bytes_max)?;
    let tables = Tables { file, file_bytes, header };
    tables.check()?;
    Ok(header.image_bytes)
}

/// Looks at the header alone, in a file of which the rest is still to come.
///
/// # Errors
/// As [`check`].
pub(super) fn check_header(file: &File, image_bytes_max: u64) -> Result<(), SourceError> {
    header(file, image_bytes_max).map(drop)
}

fn header(file: &File, image_bytes_max: u64) -> Result<Header, SourceError> {
    let mut bytes = [0; HEADER_BYTES];
    read_up_to(file, &mut bytes, 0)?;
    let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let version = u32_at(4);
    if !(2..=3).contains(&version) {
        return Err(kind(format!("has version {version}"), "convert it to version 2 or 3: qemu-img convert"));
    }
    stands_alone(file, u64_at(8), u32_at(16), u32_at(32), u32_at(60))?;
    if version == 3 {
        features(u64_at(72))?;
        if u32_at(100) < HEADER_BYTES as u32 || u32_at(96) > 6 {
            return Err(damaged("its header contradicts itself"));
        }
    }
    let header = Header {
        version,
        cluster_bits: u32_at(20),
        image_bytes: u64_at(24),
        l1_entries: u32_at(36),
        l1_offset: u64_at(40),
        refcount_offset: u64_at(48),
        refcount_clusters: u32_at(56),
    };
    if !CLUSTER_BITS.contains(&header.cluster_bits) {
        return Err(damaged(format!("its clusters would have 2^{} bytes", header.cluster_bits)));
    }
    if version == 2 && V2_HEADER_BYTES > 1 << header.cluster_bits {
        return Err(damaged("its header is larger than a cluster"));
    }
    if header.image_bytes > image_bytes_max {
        return Err(SourceError::ImageTooLarge { image_bytes: header.image_bytes, bytes_max: image_bytes_max });
    }
    Ok(header)
}

/// No other file, no key, no second state.
fn stands_alone(
    file: &File,
    backing_offset: u64,
    backing_bytes: u32,
    encryption: u32,
    snapshots: u32,
) -> Result<(), SourceError> {
    if backing_offset != 0 {
        let mut name = vec![0; backing_bytes.min(1023) as usize];
        let count = read_up_to(file, &mut name, backing_offset)?;
        let name: String = String::from_utf8_lossy(&name[..count]).chars().take(200).collect();
        return Err(kind(format!("needs a backing file ({name:?})"), FLATTEN));
    }
    if encryption != 0 {
        return Err(kind("is encrypted", "decrypt it: qemu-img convert with --object secret"));
    }
    if snapshots != 0 {
        let advice = "say which state is meant: qemu-img convert [-l SNAPSHOT] -O qcow2 IN OUT";
        return Err(kind(format!("has {snapshots} internal snapshots"), advice));
    }
    Ok(())
}

/// Incompatible features: a reader that does not know one must not read.
fn features(bits: u64) -> Result<(), SourceError> {
    let known: [(u64, &str, &str); 5] = [
        (1 << 1, "is marked as corrupt", REPAIR),
        (1 << 2, "has its data in another file", FLATTEN),
        (1, "was not closed cleanly (dirty bit)", REPAIR),
        (
            1 << 3,
            "has clusters that are compressed with zstd",
            "pack it with zlib: qemu-img convert -c -O qcow2 IN OUT",
        ),
        (1 << 4, "has extended L2 entries", "write it without them: qemu-img convert -O qcow2 IN OUT"),
    ];
    match known.into_iter().find(|(bit, ..)| bits & bit != 0) {
        Some((_, what, advice)) => Err(kind(what, advice)),
        None if bits != 0 => Err(kind(format!("has features that are not known here ({bits:#x})"), FLATTEN)),
        None => Ok(()),
    }
}

struct Tables<'f> {
    file: &'f File,
    file_bytes: u64,
    header: Header,
}

impl Tables<'_> {
    fn cluster(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    fn check(&self) -> Result<(), SourceError> {
        let clusters = self.file_bytes.div_ceil(self.cluster());
        if clusters > CLUSTERS_MAX {
            let advice = "write it with larger clusters: qemu-img convert -O qcow2 -o cluster_size=64k IN OUT";
            return Err(kind(format!("has {clusters} clusters"), advice));
        }
        let mut claims = Claims::new(clusters);
        claims.take(0, "the header")?;
        let l1 = self.l1(&mut claims)?;
        self.refcount_table(&mut claims)?;
        for (number, entry) in (0..).zip(l1) {
            if entry != 0 {
                self.l2(number, entry, &mut claims)?;
            }
        }
        Ok(())
    }

    /// The entries that the image's size needs.
    fn l1(&self, claims: &mut Claims) -> Result<Vec<u64>, SourceError> {
        let per_table = self.cluster() / 8;
        let needed = self.header.image_bytes.div_ceil(self.cluster()).div_ceil(per_table);
        let entries = u64::from(self.header.l1_entries);
        if entries * 8 > L1_BYTES_MAX || entries < needed {
            return Err(damaged(format!("its L1 table has {entries} entries, its size needs {needed}")));
        }
        self.claim_table(self.header.l1_offset, entries * 8, "the L1 table", claims)?;
        // At most L1_BYTES_MAX, and inside the file.
        self.words(self.header.l1_offset, needed as usize)
    }

    /// Only reading for writing needs it, but the library loads it too.
    fn refcount_table(&self, claims: &mut Claims) -> Result<(), SourceError> {
        let bytes = u64::from(self.header.refcount_clusters) * self.cluster();
        if bytes > REFCOUNT_TABLE_BYTES_MAX {
            return Err(damaged(format!("its refcount table would have {bytes} bytes")));
        }
        self.claim_table(self.header.refcount_offset, bytes, "the refcount table", claims)
    }

    fn claim_table(&self, offset: u64, bytes: u64, what: &str, claims: &mut Claims) -> Result<(), SourceError> {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.file_bytes);
        if !offset.is_multiple_of(self.cluster()) || !inside {
            return Err(damaged(format!("{what} does not lie in the file")));
        }
        for cluster in 0..bytes.div_ceil(self.cluster()) {
            claims.take((offset >> self.header.cluster_bits) + cluster, what)?;
        }
        Ok(())
    }

    fn l2(&self, number: u64, l1_entry: u64, claims: &mut Claims) -> Result<(), SourceError> {
        let what = format!("L2 table {number}");
        if l1_entry & !(OFFSET_BITS | COPIED) != 0 {
            return Err(damaged(format!("{what} has reserved bits in its entry")));
        }
        let offset = l1_entry & OFFSET_BITS;
        self.claim_table(offset, self.cluster(), &what, claims)?;
        // A table is a cluster: at most 2 MiB.
        let entries = self.words(offset, (self.cluster() / 8) as usize)?;
        for (place, entry) in (0..).zip(entries) {
            let guest = (number * (self.cluster() / 8) + place) << self.header.cluster_bits;
            match entry {
                0 => {}
                _ if guest >= self.header.image_bytes => {
                    return Err(damaged(format!("{what} maps what lies behind the image's end")));
                }
                entry if entry & COMPRESSED != 0 => self.compressed(guest, entry, claims)?,
                entry => self.plain(guest, entry, claims)?,
            }
        }
        Ok(())
    }

    fn plain(&self, guest: u64, entry: u64, claims: &mut Claims) -> Result<(), SourceError> {
        let flags = if self.header.version == 3 { READS_AS_ZEROS } else { 0 };
        if entry & !(OFFSET_BITS | COPIED | flags) != 0 {
            return Err(damaged(format!("the entry of byte {guest} has reserved bits")));
        }
        let offset = entry & OFFSET_BITS;
        if offset == 0 {
            return Ok(());
        }
        // The last cluster of an image may be there in part only.
        let bytes = self.cluster().min(self.header.image_bytes - guest);
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.file_bytes);
        if !offset.is_multiple_of(self.cluster()) || !inside {
            return Err(damaged(format!("the data of byte {guest} does not lie in the file: was it cut short?")));
        }
        claims.take(offset >> self.header.cluster_bits, "data")
    }

    fn compressed(&self, guest: u64, entry: u64, claims: &mut Claims) -> Result<(), SourceError> {
        let offset_width = 62 - (self.header.cluster_bits - 8);
        let descriptor = entry & (COMPRESSED - 1);
        let offset = descriptor & ((1 << offset_width) - 1);
        let sectors = (descriptor >> offset_width) + 1;
        // Whole sectors are counted, from the one that it begins in; the last need not be in the file as a whole.
        let end = (offset & !(SECTOR_BYTES - 1)).checked_add(sectors * SECTOR_BYTES);
        let end = end.filter(|end| *end < self.file_bytes + SECTOR_BYTES);
        let Some(end) = end.filter(|_| entry & COPIED == 0 && offset < self.file_bytes) else {
            return Err(damaged(format!("the compressed data of byte {guest} does not lie in the file")));
        };
        let last = (end.min(self.file_bytes) - 1) >> self.header.cluster_bits;
        for cluster in offset >> self.header.cluster_bits..=last {
            claims.share(cluster)?;
        }
        Ok(())
    }

    fn words(&self, offset: u64, count: usize) -> Result<Vec<u64>, SourceError> {
        let mut bytes = vec![0; count * 8];
        self.file.read_exact_at(&mut bytes, offset).map_err(SourceError::Qcow2Read)?;
        Ok(bytes.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().expect("eight bytes"))).collect())
    }
}

/// Who has which cluster of the file: a table or data alone, compressed data with other compressed data. A cluster that
/// two entries name would be a loop (a table in itself), or a small file that makes a large one.
struct Claims {
    alone: Vec<u64>,
    shared: Vec<u64>,
}

impl Claims {
    fn new(clusters: u64) -> Claims {
        // At most CLUSTERS_MAX.
        let words = clusters.div_ceil(64) as usize;
        Claims { alone: vec![0; words], shared: vec![0; words] }
    }

    fn take(&mut self, cluster: u64, what: &str) -> Result<(), SourceError> {
        let (word, bit) = Claims::place(cluster);
        if (self.alone[word] | self.shared[word]) & bit != 0 {
            return Err(damaged(format!("{what} lies where something else is (cluster {cluster})")));
        }
        self.alone[word] |= bit;
        Ok(())
    }

    fn share(&mut self, cluster: u64) -> Result<(), SourceError> {
        let (word, bit) = Claims::place(cluster);
        if self.alone[word] & bit != 0 {
            return Err(damaged(format!("compressed data lies where something else is (cluster {cluster})")));
        }
        self.shared[word] |= bit;
        Ok(())
    }

    /// Callers have looked that the cluster lies in the file.
    fn place(cluster: u64) -> (usize, u64) {
        ((cluster / 64) as usize, 1 << (cluster % 64))
    }
}

/// What there is, up to the length of `out`.
fn read_up_to(file: &File, out: &mut [u8], offset: u64) -> Result<usize, SourceError> {
    let mut count = 0;
    while count < out.len() {
        let at = offset.saturating_add(count as u64);
        // What lies behind any file's end.
        if i64::try_from(at).is_err() {
            break;
        }
        match file.read_at(&mut out[count..], at) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SourceError::Qcow2Read(error)),
        }
    }
    Ok(count)
}
