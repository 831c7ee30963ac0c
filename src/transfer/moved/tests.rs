//! Promises: what is read in vain and what is remembered have bounds, and a seed is used where it has something to give.

use std::convert::Infallible;

use super::*;
use crate::wire::manifest::{BootFacts, Digest, FRAME_BYTES, Frame};

const BLOCK: u32 = BLOCK_BYTES as u32;
const FRAME_BLOCKS: u32 = (FRAME_BYTES / BLOCK_BYTES) as u32;

/// An image whose extents of so many blocks each lie one behind another in this pack, and from this block of the disk on.
fn manifest(pack: Digest, from_block: u64, extent_blocks: &[u32]) -> Manifest {
    let (mut extents, mut at) = (Vec::new(), 0);
    for &blocks in extent_blocks {
        extents.push(Extent {
            target_offset_bytes: (from_block + u64::from(at)) * BLOCK_BYTES as u64,
            extent_bytes: blocks * BLOCK,
            frame: at / FRAME_BLOCKS,
            frame_block: at % FRAME_BLOCKS,
            digest: [0; 32],
        });
        at += blocks;
    }
    let frame = |number: u32| Frame {
        pack: 0,
        offset_bytes: 16 + u64::from(number) * 1000,
        compressed_bytes: 1000,
        raw_bytes: FRAME_BYTES as u32,
    };
    Manifest {
        image_bytes: 1 << 40,
        sector_bytes: 512,
        content_digest: [0; 32],
        boot: BootFacts::default(),
        packs: vec![pack],
        frames: (0..at.div_ceil(FRAME_BLOCKS)).map(frame).collect(),
        extents,
    }
}

/// A disk that holds what its seed says up to this byte.
struct HeldUpTo {
    end: u64,
    vain_reads: usize,
}

impl Surface for HeldUpTo {
    type Held = ();
    type Error = Infallible;

    fn read(&mut self, _: usize, sources: &[Range<u64>]) -> Result<Option<()>, Infallible> {
        let is_held = sources.iter().all(|source| source.end <= self.end);
        self.vain_reads += usize::from(!is_held);
        Ok(is_held.then_some(()))
    }

    fn write(&mut self, _: usize, (): ()) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Rule 9: much that was found at the beginning of a disk is no reason to look long for the rest.
#[test]
fn reads_in_vain_end_however_much_was_found_before() {
    let blocks = vec![1; 4000];
    let (seed, new) = (manifest([1; 32], 0, &blocks), manifest([1; 32], 1 << 20, &blocks));
    let mut disk = HeldUpTo { end: 2000 * BLOCK_BYTES as u64, vain_reads: 0 };
    let missing = copy(&new, &seed, (0..4000).collect(), &mut disk).unwrap();
    assert_eq!((missing.len(), disk.vain_reads), (2000, VAIN_RANGES_MAX));
}

/// Rule 9: the table of places has its bound, to the block.
#[test]
fn no_more_blocks_are_looked_up_than_there_is_memory_for() {
    // With a first extent of one block, the bound lies inside of a later one.
    let mut blocks = vec![EXTENT_BLOCKS_MAX as u32; BLOCKS_MAX / EXTENT_BLOCKS_MAX + 2];
    blocks[0] = 1;
    let (seed, new) = (manifest([1; 32], 0, &blocks), manifest([1; 32], 1 << 24, &blocks));
    let (copies, missing) = find::<()>(&new, &seed, (0..blocks.len()).collect());
    let copied: u32 = copies.iter().map(|copy| blocks[copy.extent]).sum();
    assert!(copied as usize <= BLOCKS_MAX && copied as usize > BLOCKS_MAX - EXTENT_BLOCKS_MAX, "{copied}");
    assert_eq!(copies.len() + missing.len(), blocks.len());
}

#[test]
fn a_seed_is_worth_a_look_from_a_quarter_in_common_on() {
    let new = manifest([1; 32], 0, &[200; 4]);
    let all: Vec<usize> = (0..4).collect();
    let common = |seed: &Manifest| (common_bytes(&new, seed, &all), is_worth_a_look(&new, seed, &all));
    let block = BLOCK_BYTES as u64;
    assert_eq!(common(&manifest([1; 32], 77, &[199])), (199 * block, false));
    assert_eq!(common(&manifest([1; 32], 77, &[200])), (200 * block, true));
    assert_eq!(common(&new), (800 * block, true));
    assert_eq!(common(&manifest([2; 32], 0, &[200; 4])), (0, false), "another pack");
    // Many extents of the seed with the same content are one place.
    let mut same = manifest([1; 32], 0, &[100; 4]);
    same.extents.iter_mut().for_each(|extent| (extent.frame, extent.frame_block) = (0, 0));
    assert_eq!(common(&same), (100 * block, false));
    assert!(!is_worth_a_look(&new, &new, &[]), "nothing is to be written");
}
