//! A manifest from anyone: as bytes, as a hostile body in a right frame, and as a right one that was spoiled.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use regild::wire::manifest::{
    BLOCK_BYTES, BootFacts, Extent, FRAME_BLOCKS, FRAME_BYTES, Frame, Loader, Manifest, Partition, WINDOW_BYTES,
};
use regild_fuzz::{Patch, spoil};

#[derive(Debug, Arbitrary)]
enum Input {
    Raw(Vec<u8>),
    Body(Vec<u8>),
    Made { made: Made, patches: Vec<Patch>, said_bytes: Option<u32> },
}

#[derive(Debug, Arbitrary)]
struct Made {
    extents: Vec<(u8, u8, u8)>,
    packs: u8,
    partitions: Vec<(String, u32, u32)>,
    loaders: Vec<(String, u32)>,
}

fuzz_target!(|input: Input| {
    let encoded = match input {
        Input::Raw(bytes) => bytes,
        Input::Body(body) => framed(&body, body.len() as u32),
        Input::Made { made, patches, said_bytes } => {
            let mut body = postcard::to_stdvec(&made.manifest()).expect("plain data");
            spoil(&mut body, &patches);
            framed(&body, said_bytes.unwrap_or(body.len() as u32))
        }
    };
    let Ok(manifest) = Manifest::decode(&encoded, None) else { return };
    let again = Manifest::decode(&manifest.encode().expect("what was read can be written"), None);
    assert_eq!(again.expect("and read again"), manifest);
    let (mut before, padded_bytes) = (0, manifest.image_bytes.next_multiple_of(BLOCK_BYTES as u64));
    for extent in &manifest.extents {
        let target = extent.target();
        assert!(before <= target.start && target.start < target.end && target.end <= padded_bytes);
        assert!(extent.extent_bytes as u64 <= WINDOW_BYTES);
        before = target.end;
        let frames = &manifest.frames[manifest.frames_of(extent)];
        let held: u64 = frames.iter().map(|frame| u64::from(frame.raw_bytes)).sum();
        assert!(held >= u64::from(extent.extent_bytes) + u64::from(extent.frame_block) * BLOCK_BYTES as u64);
        assert!(frames.iter().all(|frame| frame.raw_bytes as usize <= FRAME_BYTES));
        frames.iter().for_each(|frame| assert_eq!(manifest.pack_id(frame).len(), 64));
    }
    // Packs that end before they begin: every user of the manifest comes to an end without them.
    let none = vec![Vec::new(); manifest.packs.len()];
    assert!(regild::agent::fuzzing::unpack(&manifest, &none).iter().all(Option::is_none));
    let none = vec![bytes::Bytes::new(); manifest.packs.len()];
    assert!(regild::image::fuzzing::read_extents(&manifest, &none).iter().all(Result::is_err));
});

fn framed(body: &[u8], said_bytes: u32) -> Vec<u8> {
    let mut encoded = b"RGLDMAN1\x01\x00".to_vec();
    encoded.extend(said_bytes.to_le_bytes());
    encoded.extend(zstd::bulk::compress(body, 1).expect("memory"));
    encoded
}

impl Made {
    /// Extents of these blocks after gaps of these windows, each in frames of its own.
    fn manifest(&self) -> Manifest {
        let packs = 1 + u32::from(self.packs % 3);
        let mut manifest = Manifest {
            image_bytes: 1 << 40,
            sector_bytes: 512,
            content_digest: [7; 32],
            boot: BootFacts { bios: true, gpt: true, loaders: Vec::new(), partitions: Vec::new() },
            packs: (0..packs).map(|number| [number as u8; 32]).collect(),
            frames: Vec::new(),
            extents: Vec::new(),
        };
        let (mut window, mut offset_bytes) = (0, 16);
        for (gap, blocks, frame_block) in self.extents.iter().take(200) {
            window += u64::from(*gap) + 1;
            let blocks = 1 + u32::from(*blocks);
            let frame_block = u32::from(*frame_block) % FRAME_BLOCKS as u32;
            let first = manifest.frames.len() as u32;
            for _ in 0..(blocks + frame_block).div_ceil(FRAME_BLOCKS as u32) {
                let compressed_bytes = 100 + u32::from(*gap);
                manifest.frames.push(Frame {
                    pack: packs - 1,
                    offset_bytes,
                    compressed_bytes,
                    raw_bytes: FRAME_BYTES as u32,
                });
                offset_bytes += u64::from(compressed_bytes);
            }
            manifest.extents.push(Extent {
                target_offset_bytes: window * WINDOW_BYTES,
                extent_bytes: blocks * BLOCK_BYTES as u32,
                frame: first,
                frame_block,
                digest: [9; 32],
            });
        }
        let numbered = (1..).zip(&self.partitions);
        manifest.boot.partitions.extend(numbered.map(|(number, (name, first, more))| Partition {
            number,
            name: name.clone(),
            type_guid: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b".to_owned(),
            unique_guid: String::new(),
            first_lba: u64::from(*first),
            last_lba: u64::from(*first) + u64::from(*more),
        }));
        let loader = |(path, partition): &(String, u32)| Loader {
            arch: "x64".to_owned(),
            path: path.clone(),
            partition: *partition,
        };
        manifest.boot.loaders.extend(self.loaders.iter().map(loader));
        manifest
    }
}
