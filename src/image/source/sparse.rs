//! The stream in which our own command sends a disk (`src/cli/sparse.rs`): a zstd frame with nothing compressed in it,
//! data as raw blocks and holes as run-length blocks.
//!
//! Every zstd reads it. Here it is read without one: a raw block goes from the socket to where it is wanted and is not
//! copied three times on the way, and holes stay holes. Of a Debian image of 3 GiB, three quarters of them holes, that is
//! a third of what an import costs when all blocks are there already.

use std::io::{self, Read};

use super::{Compression, Disk, SourceError};

/// Magic number; a frame header without content size, checksum or dictionary; a window of 128 KiB and 5/8 of that. 128 KiB
/// is what the blocks need; the eighths, which zstd's own compressor never says (RFC 8878 section 3.1.1.1.2), are
/// how this stream is told from what really is compressed.
pub const SPARSE_HEADER: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3 | 5];
/// Last block or not in bit 0, the kind in bits 1 and 2, the size from there on; little-endian.
const BLOCK_HEADER_BYTES: usize = 3;
/// The most that a block of any zstd frame stands for.
const BLOCK_BYTES_MAX: u64 = 128 << 10;
const RAW: u32 = 0;
const REPEATED: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// So many bytes that follow.
    Raw(u64),
    /// So many times this byte.
    Repeated(u64, u8),
    End,
}

/// Reads what [`SPARSE_HEADER`] begins.
pub(super) struct Sparse<R> {
    reader: R,
    block: Block,
    is_last: bool,
}

impl<R: Read> Sparse<R> {
    /// `reader` begins with the header.
    ///
    /// # Errors
    /// What the stream says, and [`SourceError::PackedDamaged`].
    pub fn open(mut reader: R) -> io::Result<Sparse<R>> {
        let mut header = [0; SPARSE_HEADER.len()];
        reader.read_exact(&mut header)?;
        if header != SPARSE_HEADER {
            return Err(damaged("it does not begin as it should"));
        }
        Ok(Sparse { reader, block: Block::Raw(0), is_last: false })
    }

    /// The block that bytes are left of; at the end [`Block::End`], behind which nothing may follow.
    fn block(&mut self) -> io::Result<Block> {
        while matches!(self.block, Block::Raw(0) | Block::Repeated(0, _)) {
            self.block = if self.is_last { self.end()? } else { self.next_block()? };
        }
        Ok(self.block)
    }

    fn next_block(&mut self) -> io::Result<Block> {
        let mut header = [0; BLOCK_HEADER_BYTES + 1];
        self.exact(&mut header[..BLOCK_HEADER_BYTES])?;
        let word = u32::from_le_bytes(header);
        self.is_last = word & 1 == 1;
        let bytes = u64::from(word >> 3);
        if bytes > BLOCK_BYTES_MAX {
            return Err(damaged("a block in it is too long"));
        }
        match word >> 1 & 3 {
            RAW => Ok(Block::Raw(bytes)),
            REPEATED => {
                let mut byte = [0];
                self.exact(&mut byte)?;
                Ok(Block::Repeated(bytes, byte[0]))
            }
            _ => Err(damaged("a block in it is of another kind than its header says")),
        }
    }

    fn end(&mut self) -> io::Result<Block> {
        match self.reader.read(&mut [0])? {
            0 => Ok(Block::End),
            _ => Err(damaged("something follows it")),
        }
    }

    fn exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact(out).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it is cut short"),
            _ => error,
        })
    }
}

impl<R: Read> Read for Sparse<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let at_most = |left: u64| usize::try_from(left).map_or(out.len(), |left| left.min(out.len()));
        match self.block()? {
            Block::End => Ok(0),
            Block::Raw(left) => {
                let want = at_most(left);
                let count = self.reader.read(&mut out[..want])?;
                if count == 0 && want > 0 {
                    return Err(damaged("it is cut short"));
                }
                self.block = Block::Raw(left - count as u64);
                Ok(count)
            }
            Block::Repeated(left, byte) => {
                let count = at_most(left);
                out[..count].fill(byte);
                self.block = Block::Repeated(left - count as u64, byte);
                Ok(count)
            }
        }
    }
}

impl<R: Read> Disk for Sparse<R> {
    fn zeros(&mut self, bytes_max: u64) -> io::Result<u64> {
        let mut zeros = 0;
        while zeros < bytes_max {
            let Block::Repeated(left, 0) = self.block()? else { break };
            let count = left.min(bytes_max - zeros);
            self.block = Block::Repeated(left - count, 0);
            zeros += count;
        }
        Ok(zeros)
    }
}

fn damaged(what: &'static str) -> io::Error {
    let source = io::Error::new(io::ErrorKind::InvalidData, what);
    let error = SourceError::PackedDamaged { compression: Compression::Zstd, source };
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(blocks: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut stream = SPARSE_HEADER.to_vec();
        for (number, (kind, bytes, content)) in (1..).zip(blocks) {
            let word = bytes << 3 | kind << 1 | u32::from(number == blocks.len());
            stream.extend_from_slice(&word.to_le_bytes()[..3]);
            stream.extend_from_slice(content);
        }
        stream
    }

    fn unpacked(stream: &[u8], asks: &[u64]) -> io::Result<Vec<u8>> {
        let (mut sparse, mut all) = (Sparse::open(stream)?, Vec::new());
        for ask in asks.iter().cycle() {
            let zeros = sparse.zeros(*ask)?;
            all.resize(all.len() + zeros as usize, 0);
            let mut piece = vec![1; *ask as usize + 1];
            let count = sparse.read(&mut piece)?;
            all.extend_from_slice(&piece[..count]);
            if zeros == 0 && count == 0 {
                return Ok(all);
            }
        }
        Ok(all)
    }

    proptest! {
        /// Promise: what zstd makes of such a stream is what is read here, whether zeros are asked for or not.
        #[test]
        fn zstd_reads_the_same(
            blocks in prop::collection::vec((any::<bool>(), 0u32..5000, 0u8..3), 1..20),
            asks in prop::collection::vec(0u64..9000, 1..5),
        ) {
            let contents: Vec<Vec<u8>> = blocks.iter().map(|(is_raw, bytes, byte)| {
                if *is_raw { (0..*bytes).map(|at| at as u8 ^ byte).collect() } else { vec![*byte] }
            }).collect();
            let listed: Vec<(u32, u32, &[u8])> = blocks.iter().zip(&contents)
                .map(|((is_raw, bytes, _), content)| (u32::from(!is_raw), *bytes, &content[..])).collect();
            let stream = stream(&listed);
            let expected = zstd::stream::decode_all(&stream[..]).unwrap();
            prop_assert_eq!(&unpacked(&stream, &asks).unwrap(), &expected);
            for cut in 0..stream.len() {
                prop_assert!(unpacked(&stream[..cut], &asks).is_err(), "cut at {}", cut);
            }
            let mut longer = stream.clone();
            longer.push(0);
            prop_assert!(unpacked(&longer, &asks).is_err());
        }
    }

    #[test]
    fn what_is_compressed_or_too_long_is_refused() {
        for block in [(2, 10, &[0; 10][..]), (3, 10, &[0; 10]), (1, 131_073, &[0])] {
            let error = unpacked(&stream(&[block]), &[10]).unwrap_err();
            assert!(error.to_string().contains("damaged"), "{error}");
        }
    }
}
