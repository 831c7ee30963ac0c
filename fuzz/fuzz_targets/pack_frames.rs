//! Packs from a hostile or damaged server, for a manifest that is right: what the agent and the server's own reader
//! take is what the manifest says, or nothing.
#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use regild::wire::manifest::{self, BLOCK_BYTES, BootFacts, Extent, FRAME_BLOCKS, Frame, Manifest, WINDOW_BYTES};

#[derive(Debug, Arbitrary)]
struct Input {
    /// Blocks of each frame, and what they are filled with.
    frames: Vec<(u8, [u8; 3])>,
    /// First block in the pack, and how many.
    extents: Vec<(u16, u8)>,
    patches: Vec<(u16, u8)>,
    length: Option<u16>,
    /// Lies of the manifest about one frame.
    raw_blocks: Option<(u8, u8)>,
    compressed_bytes: Option<(u8, u16)>,
}

fuzz_target!(|input: Input| {
    let (mut pack, mut frames, mut blocks, mut place) = (vec![0; 16], Vec::new(), Vec::new(), Vec::new());
    for (number, (count, fill)) in (0..).zip(input.frames.iter().take(8)) {
        let count = 1 + usize::from(*count) % FRAME_BLOCKS;
        let raw: Vec<u8> =
            (0..count * BLOCK_BYTES).map(|at| fill[at % 3].wrapping_mul((at / BLOCK_BYTES) as u8)).collect();
        let compressed = zstd::bulk::compress(&raw, 1).expect("memory");
        frames.push(Frame {
            pack: 0,
            offset_bytes: pack.len() as u64,
            compressed_bytes: compressed.len() as u32,
            raw_bytes: raw.len() as u32,
        });
        place.extend((0..count as u32).map(|block| (number, block)));
        pack.extend(compressed);
        blocks.extend(raw);
    }
    let mut extents = Vec::new();
    for (window, (first, count)) in (0..).zip(input.extents.iter().take(16)) {
        let Some(first) = usize::from(*first).checked_rem(place.len()) else { return };
        let count = (1 + usize::from(*count)).min(place.len() - first);
        let bytes = &blocks[first * BLOCK_BYTES..(first + count) * BLOCK_BYTES];
        let (frame, frame_block) = place[first];
        let (target_offset_bytes, extent_bytes) = (window * WINDOW_BYTES, bytes.len() as u32);
        extents.push(Extent { target_offset_bytes, extent_bytes, frame, frame_block, digest: manifest::digest(bytes) });
    }
    if let Some((frame, blocks)) = input.raw_blocks {
        lie(&mut frames, frame, |frame| frame.raw_bytes = u32::from(blocks) * BLOCK_BYTES as u32);
    }
    if let Some((frame, bytes)) = input.compressed_bytes {
        lie(&mut frames, frame, |frame| frame.compressed_bytes = u32::from(bytes));
    }
    let manifest = Manifest {
        image_bytes: 16 * WINDOW_BYTES,
        sector_bytes: 512,
        content_digest: [0; 32],
        boot: BootFacts::default(),
        packs: vec![manifest::digest(&pack)],
        frames,
        extents,
    };
    // Only what passes the manifest's own check is ever used.
    if manifest.encode().is_err() {
        return;
    }
    let sound = input.patches.is_empty()
        && input.length.is_none()
        && input.raw_blocks.is_none()
        && input.compressed_bytes.is_none();
    for (at, byte) in &input.patches {
        let at = usize::from(*at) % pack.len();
        pack[at] = *byte;
    }
    pack.truncate(input.length.map_or(usize::MAX, usize::from));
    check(&manifest, pack, sound);
});

fn lie(frames: &mut [Frame], which: u8, change: impl FnOnce(&mut Frame)) {
    let count = frames.len();
    if count > 0 {
        change(&mut frames[usize::from(which) % count]);
    }
}

fn check(manifest: &Manifest, pack: Vec<u8>, sound: bool) {
    let answers = regild::agent::fuzzing::unpack(manifest, std::slice::from_ref(&pack));
    assert!(!sound || answers.iter().all(Option::is_some), "a sound pack was refused");
    let taken: Vec<_> = answers.into_iter().flatten().flatten().collect();
    assert!(!sound || taken.len() == manifest.extents.len());
    for (target, bytes) in taken {
        let extent =
            manifest.extents.iter().find(|extent| extent.target() == target).expect("an extent of the manifest");
        assert_eq!(manifest::digest(&bytes), extent.digest);
    }
    let read = regild::image::fuzzing::read_extents(manifest, &[Bytes::from(pack)]);
    assert!(!sound || read.iter().all(Result::is_ok), "a sound pack cannot be read");
    for (extent, bytes) in manifest.extents.iter().zip(read) {
        assert!(bytes.is_err() || manifest::digest(&bytes.expect("just looked")) == extent.digest);
    }
}
