//! A disk image on its way to the server: a zstd stream that compresses nothing but holes.
//!
//! A golden image is mostly holes. Read and sent as zeros they cost more than all the rest: the page cache fills up
//! with them, and they are copied five times until the server finds that they are zeros. So holes are asked for
//! (SEEK_DATA, lseek(2)) and sent as zstd's run-length blocks, four bytes for 128 KiB, and data as its raw blocks,
//! uncompressed (RFC 8878 section 3.1.1.2). The server knows such a stream by its header (`src/image/source/sparse.rs`); to all others
//! it is zstd like any.

use crate::image::{Compression, SPARSE_HEADER};
use bytes::Bytes;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::io;

const BLOCK_HEADER_BYTES: usize = 3;
const ZERO_BLOCK_BYTES: u64 = 128 << 10;
/// Zeros that are said at once: 16,384 blocks, 64 KiB.
const ZEROS_AT_ONCE: u64 = 16_384 * ZERO_BLOCK_BYTES;
/// glibc maps and unmaps what is larger than 128 KiB each time: with 256 KiB the page faults of that were a good part of
/// the CPU that this command needs.
const DATA_AT_ONCE: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Header,
    Blocks,
    /// A file that is compressed already, or none that could have holes.
    AsItIs,
    Nothing,
}

/// The pieces of the stream, in order.
#[derive(Debug)]
pub struct SparseStream {
    file: File,
    bytes: u64,
    position: u64,
    /// Up to here it is known to be data.
    data_end: u64,
    next: Next,
}

impl SparseStream {
    /// Begins at the start of `file`.
    ///
    /// # Errors
    /// What the system says to a look at its length and its first bytes.
    pub fn new(file: File) -> io::Result<SparseStream> {
        let metadata = file.metadata()?;
        let is_compressed = || {
            let mut head = [0; 8];
            let length = rustix::io::pread(&file, &mut head, 0)?;
            let kinds = [Compression::Zstd, Compression::Xz, Compression::Gzip];
            io::Result::Ok(kinds.iter().any(|kind| head[..length].starts_with(kind.magic())))
        };
        let next = if !metadata.is_file() || is_compressed()? { Next::AsItIs } else { Next::Header };
        Ok(SparseStream { file, bytes: metadata.len(), position: 0, data_end: 0, next })
    }

    /// The bytes of `file` from its start, or from where a pipe is, as they are.
    ///
    /// # Errors
    /// What the system says to a look at its length.
    pub fn plain(file: File) -> io::Result<SparseStream> {
        let bytes = file.metadata()?.len();
        Ok(SparseStream { file, bytes, position: 0, data_end: 0, next: Next::AsItIs })
    }

    /// Bytes of the file that the pieces so far stand for.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    fn piece(&mut self) -> io::Result<Bytes> {
        match self.next {
            Next::Header => {
                self.next = Next::Blocks;
                Ok(Bytes::from_static(&SPARSE_HEADER))
            }
            Next::Blocks if self.position >= self.bytes => {
                self.next = Next::Nothing;
                Ok(Bytes::copy_from_slice(&block_header(0, RAW, true)))
            }
            Next::Blocks => self.blocks(),
            Next::AsItIs => {
                let mut buffer = Vec::with_capacity(DATA_AT_ONCE);
                let read = || rustix::io::read(&self.file, rustix::buffer::spare_capacity(&mut buffer));
                self.position += rustix::io::retry_on_intr(read)? as u64;
                Ok(Bytes::from(buffer))
            }
            Next::Nothing => Ok(Bytes::new()),
        }
    }

    fn blocks(&mut self) -> io::Result<Bytes> {
        if self.position >= self.data_end {
            let data = self.begin_of(SeekFrom::Data(self.position), self.position)?;
            if data > self.position {
                let zeros = (data - self.position).min(ZEROS_AT_ONCE);
                self.position += zeros;
                return Ok(zero_blocks(zeros));
            }
            self.data_end = self.begin_of(SeekFrom::Hole(self.position), self.bytes)?;
        }
        let want = usize::try_from(self.data_end - self.position).map_or(DATA_AT_ONCE, |left| left.min(DATA_AT_ONCE));
        let mut block = vec![0; BLOCK_HEADER_BYTES + want];
        let read = || rustix::io::pread(&self.file, &mut block[BLOCK_HEADER_BYTES..], self.position);
        let length = rustix::io::retry_on_intr(read)?;
        if length == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read"));
        }
        block.truncate(BLOCK_HEADER_BYTES + length);
        // At most DATA_AT_ONCE.
        block[..BLOCK_HEADER_BYTES].copy_from_slice(&block_header(length as u32, RAW, false));
        self.position += length as u64;
        Ok(Bytes::from(block))
    }

    /// Where data or a hole begins, inside the file; `unknown` on a file system that cannot tell.
    fn begin_of(&self, place: SeekFrom, unknown: u64) -> io::Result<u64> {
        match rustix::fs::seek(&self.file, place) {
            Ok(found) => Ok(found.min(self.bytes)),
            // No data up to the end.
            Err(Errno::NXIO) => Ok(self.bytes),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(unknown),
            Err(error) => Err(error.into()),
        }
    }
}

impl Iterator for SparseStream {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.piece();
        match &piece {
            Ok(bytes) if bytes.is_empty() => None,
            _ => Some(piece),
        }
    }
}

const RAW: u32 = 0;
const REPEATED: u32 = 1;

/// Last block or not in bit 0, the kind in bits 1 and 2, the size from there on; little-endian.
const fn block_header(bytes: u32, kind: u32, is_last: bool) -> [u8; BLOCK_HEADER_BYTES] {
    let [a, b, c, _] = (bytes << 3 | kind << 1 | is_last as u32).to_le_bytes();
    [a, b, c]
}

fn zero_blocks(zeros: u64) -> Bytes {
    let full = zeros / ZERO_BLOCK_BYTES;
    let rest = zeros % ZERO_BLOCK_BYTES;
    // Both fit: a block is 128 KiB, and at most 16,384 of them are said at once.
    let block = |bytes: u64| {
        let [a, b, c] = block_header(bytes as u32, REPEATED, false);
        [a, b, c, 0]
    };
    let mut blocks = block(ZERO_BLOCK_BYTES).repeat(full as usize);
    if rest > 0 {
        blocks.extend(block(rest));
    }
    Bytes::from(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    fn stream_of(file: &File) -> Vec<u8> {
        let stream = SparseStream::new(file.try_clone().unwrap()).unwrap();
        stream.map(|piece| piece.unwrap().to_vec()).collect::<Vec<_>>().concat()
    }

    /// Promise: whatever is data and whatever is hole, and wherever the file ends, the server unpacks its very bytes.
    #[test]
    fn what_is_unpacked_is_what_is_in_the_file() {
        let block = |number: u64| -> Vec<u8> { (0..9000).map(|at| (at * 31 + number * 7 + 1) as u8).collect() };
        let mib = 1 << 20;
        for (bytes, data) in [
            (0, vec![]),
            (1, vec![]),
            (512, vec![0]),
            (9000, vec![0]),
            (4 * mib, vec![]),
            (4 * mib + 512, vec![3]),
            (4 * mib, vec![0, 9000, 2 * mib, 4 * mib - 9000]),
            (5 * mib + 1, vec![2 * mib - 100, 3 * mib + 17]),
            // More zeros than are said at once.
            (3 << 30, vec![mib, (3 << 30) - 9000]),
        ] {
            let file = tempfile::tempfile().unwrap();
            for (number, at) in (0..).zip(&data) {
                file.write_all_at(&block(number), *at).unwrap();
            }
            file.set_len(bytes).unwrap();
            let stream = stream_of(&file);
            let holes_are_known = rustix::fs::seek(&file, SeekFrom::Hole(0)).is_ok_and(|hole| hole < bytes);
            assert!(!holes_are_known || (stream.len() as u64) < bytes / 2 + 1024, "{bytes} {data:?}: {}", stream.len());
            let unpacked = zstd::stream::read::Decoder::new(&stream[..]).unwrap();
            same(unpacked, &file, bytes);
        }
    }

    fn same(mut unpacked: impl io::Read, file: &File, bytes: u64) {
        let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut at = 0;
        loop {
            let length = unpacked.read(&mut left).unwrap();
            if length == 0 {
                break;
            }
            file.read_exact_at(&mut right[..length], at).unwrap();
            assert!(left[..length] == right[..length], "differs behind byte {at} of {bytes}");
            at += length as u64;
        }
        assert_eq!(at, bytes);
    }

    #[test]
    fn a_file_that_is_compressed_already_goes_as_it_is() {
        let mut file = tempfile::tempfile().unwrap();
        let compressed = zstd::bulk::compress(&[7; 300_000], 3).unwrap();
        for packed in [&compressed[..], b"\xfd7zXZ\0 and so on", b"\x1f\x8b\x08 and so on"] {
            file.set_len(0).unwrap();
            rustix::fs::seek(&file, SeekFrom::Start(0)).unwrap();
            file.write_all(packed).unwrap();
            rustix::fs::seek(&file, SeekFrom::Start(0)).unwrap();
            assert_eq!(stream_of(&file), packed);
        }
    }

    #[test]
    fn a_file_that_becomes_shorter_is_an_error_and_no_short_image() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 300_000], 0).unwrap();
        let mut stream = SparseStream::new(file.try_clone().unwrap()).unwrap();
        assert!(stream.next().unwrap().is_ok());
        assert!(stream.next().unwrap().is_ok());
        file.set_len(100_000).unwrap();
        assert!(stream.any(|piece| piece.is_err()));
    }
}
