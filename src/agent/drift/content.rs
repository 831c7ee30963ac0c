//! Digests of files, and when it is a content's turn to be read.
//!
//! A file of more than 1 MiB is remembered slice by slice: blake3 is a tree, whose inner nodes (RFC draft, section 2.1
//! of its paper) are digests of aligned ranges. Each slice has its own turn within the cycle, so that no scan reads a
//! whole kernel image at once, and the digest of the file is put together from what is known of its slices. One that
//! differs from what was remembered makes the whole file be read.

use super::tree::{Content, Identity};
use crate::clock::UnixSeconds;
use crate::decide::drift::finding::Digest;
use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};
use std::io;

const SLICE_BYTES_MIN: u64 = 1 << 20;
/// More slices than this in a file: they are longer in place of more, so that 1 TiB needs 32 KiB to be remembered.
const SLICES_MAX: u64 = 1024;
/// What is read at a time: fits a core's own cache, and is many times what blake3 hashes side by side.
pub const BUFFER_BYTES: usize = 128 << 10;
/// A file that is not in the image, or has another length there, is a finding already: its digest is for people.
pub const FOREIGN_BYTES_MAX: u64 = 16 << 20;
/// A hole of a petabyte takes no disk and days to hash. No image holds such a file.
pub const READ_BYTES_MAX: u64 = 1 << 40;

static ZEROS: [u8; BUFFER_BYTES] = [0; BUFFER_BYTES];

/// What is known of a file's content: one part (its digest), or the inner node of each slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts(Vec<Part>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Part {
    pub value: Digest,
    /// When it was read, by the host's clock.
    pub read_at: UnixSeconds,
}

impl Parts {
    /// `None`: not as many as a file of this length has.
    #[must_use]
    pub fn new(bytes: u64, parts: Vec<Part>) -> Option<Parts> {
        (parts.len() as u64 == slices(bytes)).then_some(Parts(parts))
    }

    #[must_use]
    pub fn as_slice(&self) -> &[Part] {
        &self.0
    }

    #[must_use]
    pub fn digest(&self) -> Digest {
        match self.0.as_slice() {
            [only] => only.value,
            parts => root(parts),
        }
    }

    /// The longest unread part was read then.
    #[must_use]
    pub fn oldest(&self) -> UnixSeconds {
        self.0.iter().map(|part| part.read_at).min().unwrap_or(0)
    }

    /// Which parts are to be read now, of a file that has so many bytes before it.
    #[must_use]
    pub fn due(&self, bytes: u64, before_bytes: u64, turn: Turn) -> Vec<usize> {
        let place = |at: usize| before_bytes.saturating_add((at as u64).saturating_mul(slice_bytes(bytes)));
        let is_due = |(at, part): (usize, &Part)| turn.is_due(place(at), part.read_at).then_some(at);
        self.0.iter().enumerate().filter_map(is_due).collect()
    }
}

fn slice_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(SLICES_MAX).max(SLICE_BYTES_MIN).checked_next_power_of_two().unwrap_or(1 << 63)
}

fn slices(bytes: u64) -> u64 {
    bytes.div_ceil(slice_bytes(bytes)).max(1)
}

/// The left half of a blake3 tree is the largest power of two that leaves something for the right one; slices are a
/// power of two long, so that this holds for them as for its chunks.
fn root(parts: &[Part]) -> Digest {
    let (left, right) = parts.split_at(left_count(parts.len()));
    *hazmat::merge_subtrees_root(&inner(left), &inner(right), Mode::Hash).as_bytes()
}

fn inner(parts: &[Part]) -> ChainingValue {
    match parts {
        [only] => only.value,
        parts => {
            let (left, right) = parts.split_at(left_count(parts.len()));
            hazmat::merge_subtrees_non_root(&inner(left), &inner(right), Mode::Hash)
        }
    }
}

fn left_count(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

/// When content is read though nothing tells that it changed.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    pub now: UnixSeconds,
    pub every: Every,
    /// Of all contents, as the last scan counted them.
    pub total_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
pub enum Every {
    Scan,
    /// Once in so many seconds.
    Cycle(u64),
    Never,
}

impl Turn {
    /// Each content has one instant in every cycle, by how many bytes of contents come before it in the tree: so that
    /// every scan reads about as much, to within one slice. It is due when that instant has passed since it was read.
    /// What changes earlier in the tree moves it; more than a cycle is never between two reads. A time in the future
    /// (the clock was set back) counts as never.
    #[must_use]
    pub fn is_due(self, before_bytes: u64, read_at: UnixSeconds) -> bool {
        if read_at == 0 || read_at > self.now {
            return true;
        }
        let cycle_seconds = match self.every {
            Every::Scan | Every::Cycle(0) => return true,
            Every::Never => return false,
            Every::Cycle(seconds) => seconds,
        };
        let total_bytes = u128::from(self.total_bytes.max(1));
        let turn = u128::from(before_bytes) % total_bytes * u128::from(cycle_seconds) / total_bytes;
        // Less than cycle_seconds.
        let (turn, at) = (turn as u64, self.now % cycle_seconds);
        let since = if at >= turn { at - turn } else { cycle_seconds - (turn - at) };
        self.now.saturating_sub(since) > read_at || self.now - read_at >= cycle_seconds
    }
}

/// Reads files into digests.
#[derive(Debug)]
pub struct Hashing {
    buffer: Vec<u8>,
    /// Bytes that were read; those in holes are not.
    pub read_bytes: u64,
}

impl Default for Hashing {
    fn default() -> Hashing {
        Hashing { buffer: vec![0; BUFFER_BYTES], read_bytes: 0 }
    }
}

impl Hashing {
    /// The whole file of this length; `None` when it ends before.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn whole(&mut self, file: &mut impl Content, bytes: u64, at: UnixSeconds) -> io::Result<Option<Parts>> {
        let mut parts = Vec::with_capacity(usize::try_from(slices(bytes)).unwrap_or(1));
        for slice in 0..slices(bytes) {
            let Some(value) = self.slice(file, bytes, slice)? else { return Ok(None) };
            parts.push(Part { value, read_at: at });
        }
        Ok(Some(Parts(parts)))
    }

    /// Only the slices that are `due`; the whole file when one of them is not as it was. `None` when it ends before.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn due(
        &mut self,
        file: &mut impl Content,
        identity: &Identity,
        mut known: Parts,
        due: &[usize],
        at: UnixSeconds,
    ) -> io::Result<Option<Parts>> {
        for slice in due {
            let Some(value) = self.slice(file, identity.bytes, *slice as u64)? else { return Ok(None) };
            match known.0.get_mut(*slice) {
                Some(part) if part.value == value => part.read_at = at,
                _ => return self.whole(file, identity.bytes, at),
            }
        }
        Ok(Some(known))
    }

    fn slice(&mut self, file: &mut impl Content, bytes: u64, slice: u64) -> io::Result<Option<Digest>> {
        let length = slice_bytes(bytes);
        let from = slice * length;
        let to = bytes.min(from.saturating_add(length));
        let mut hasher = blake3::Hasher::new();
        if from > 0 {
            hasher.set_input_offset(from);
        }
        let (mut at, mut data_from) = (from, file.next_data(from));
        while at < to {
            if data_from > at {
                // A hole is hashed as the zeros that it reads as.
                let count = (to - at).min(data_from - at).min(BUFFER_BYTES as u64);
                // At most BUFFER_BYTES.
                hasher.update(&ZEROS[..count as usize]);
                at += count;
                continue;
            }
            // A file with holes is asked where its data goes on after each of them, in steps of the buffer.
            let room = (to - at).min(BUFFER_BYTES as u64) as usize;
            let count = file.read_at(at, &mut self.buffer[..room])?;
            if count == 0 {
                return Ok(None);
            }
            hasher.update(&self.buffer[..count]);
            self.read_bytes += count as u64;
            at += count as u64;
            data_from = if at < to { file.next_data(at) } else { at };
        }
        let is_only = slices(bytes) == 1;
        Ok(Some(if is_only { *hasher.finalize().as_bytes() } else { hasher.finalize_non_root() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Bytes(Vec<u8>);

    impl Content for Bytes {
        fn identity(&self) -> io::Result<Identity> {
            Ok(Identity { bytes: self.0.len() as u64, ..Identity::default() })
        }

        fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
            let rest = &self.0[usize::try_from(offset).unwrap().min(self.0.len())..];
            let count = rest.len().min(buffer.len()).min(100_000);
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn slices_come_to_the_digest_of_the_whole() {
        for bytes in [0, 1, 1024, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB, 4 * MIB + 1, 5 * MIB, 7 * MIB + 9, 9 * MIB] {
            let content: Vec<u8> = (0..bytes).map(|at| (at / 7 % 251) as u8).collect();
            let expected = *blake3::hash(&content).as_bytes();
            let parts = Hashing::default().whole(&mut Bytes(content), bytes as u64, 5).unwrap().unwrap();
            assert_eq!(parts.digest(), expected, "{bytes} bytes");
            assert_eq!(parts.as_slice().len(), bytes.div_ceil(MIB).max(1));
        }
    }

    /// The promise that a change with faked times is found: a due slice that is not as it was makes all be read.
    #[test]
    fn a_slice_that_is_not_as_it_was_brings_the_digest_of_what_is_there() {
        let mut content = vec![7; 5 * MIB];
        let bytes = content.len() as u64;
        let known = Hashing::default().whole(&mut Bytes(content.clone()), bytes, 5).unwrap().unwrap();
        content[3 * MIB + 5] = 8;
        content[MIB] = 9;
        let mut file = Bytes(content.clone());
        let identity = file.identity().unwrap();
        let mut hashing = Hashing::default();
        let same = hashing.due(&mut file, &identity, known.clone(), &[0, 2], 9).unwrap().unwrap();
        assert_eq!((same.digest(), same.oldest(), hashing.read_bytes), (known.digest(), 5, 2 << 20));
        let other = hashing.due(&mut file, &identity, known, &[3], 9).unwrap().unwrap();
        assert_eq!((other.digest(), other.oldest()), (*blake3::hash(&content).as_bytes(), 9));
    }

    #[test]
    fn a_very_long_file_has_longer_slices_and_not_more_of_them() {
        for bytes in [1 << 30, (1 << 30) + 1, 1 << 40, READ_BYTES_MAX, u64::MAX] {
            assert!((1..=SLICES_MAX).contains(&slices(bytes)), "{bytes}");
        }
    }

    proptest! {
        /// Within one cycle each content is due once, whenever scans run; and it is never skipped.
        #[test]
        fn each_content_has_one_turn_in_a_cycle(
            before_bytes in 0u64..2_000_000, start in 1_700_000_000u64..1_700_100_000,
            steps in proptest::collection::vec(60u64..4000, 100..300)
        ) {
            let cycle_seconds = 86_400;
            let (mut now, mut read_at, mut reads) = (start, start, 0u64);
            for step in steps {
                now += step;
                if (Turn { now, every: Every::Cycle(cycle_seconds), total_bytes: 1_000_000 }).is_due(before_bytes, read_at) {
                    read_at = now;
                    reads += 1;
                }
                prop_assert!(now - read_at <= cycle_seconds);
            }
            let cycles = (now - start) / cycle_seconds;
            prop_assert!(reads >= cycles && reads <= cycles + 1, "{} reads in {} cycles", reads, cycles);
        }
    }
}
