use proptest::prelude::*;

use super::*;

/// Two packs, three frames (the first two adjacent), extents over a frame border, a hole, a padded tail.
fn sample() -> Manifest {
    let block = BLOCK_BYTES as u32;
    let frame =
        |pack, offset_bytes, compressed_bytes, raw_bytes| Frame { pack, offset_bytes, compressed_bytes, raw_bytes };
    let extent = |target_offset_bytes, blocks: u32, frame, frame_block| Extent {
        target_offset_bytes,
        extent_bytes: blocks * block,
        frame,
        frame_block,
        digest: [7; 32],
    };
    Manifest {
        image_bytes: (4 << 20) + 512,
        sector_bytes: 512,
        content_digest: [9; 32],
        boot: BootFacts {
            bios: true,
            gpt: true,
            loaders: vec![Loader { arch: "x64".to_owned(), path: "\\EFI\\BOOT\\BOOTX64.EFI".to_owned(), partition: 1 }],
            partitions: vec![Partition {
                number: 1,
                name: "esp".to_owned(),
                type_guid: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b".to_owned(),
                unique_guid: "00000000-0000-0000-0000-000000000001".to_owned(),
                first_lba: 2048,
                last_lba: 4095,
            }],
        },
        packs: vec![[1; 32], [2; 32]],
        frames: vec![
            frame(0, 16, 1000, FRAME_BYTES as u32),
            frame(0, 1016, 1000, FRAME_BYTES as u32),
            frame(1, 16, 20, block),
        ],
        extents: vec![
            extent(0, 3, 0, 0),
            extent(1 << 20, 140, 0, 3),
            extent((2 << 20) - 4096, 1, 1, 60),
            extent(4 << 20, 1, 2, 0),
        ],
    }
}

#[test]
fn a_manifest_comes_back_as_it_was_and_its_digest_names_it() {
    let manifest = sample();
    let encoded = manifest.encode().unwrap();
    let name = digest_hex(&encoded);
    assert_eq!(Manifest::decode(&encoded, Some(&name)).unwrap(), manifest);
    assert_eq!(manifest.frames_of(&manifest.extents[1]), 0..2, "140 blocks from block 3 reach into the next frame");
    assert_eq!(encoded[8..10], [2, 0]);
    // An image whose frames a program of before knows has the manifest, and the digest, that it would give it.
    let mut former = manifest;
    former.frames.iter_mut().for_each(|frame| frame.raw_bytes = frame.raw_bytes.min(256 << 10));
    former.extents.remove(1);
    let encoded = former.encode().unwrap();
    assert_eq!((&encoded[8..10], Manifest::decode(&encoded, None).unwrap()), (&[1, 0][..], former));
    assert_eq!(from_hex(&to_hex(&[0xab; 32])), Some([0xab; 32]));
    assert_eq!(from_hex(&"AB".repeat(32)), None, "one spelling only, as it is a file name");
}

/// Rule 5: a manifest that is not the one that was asked for is refused before it is parsed.
#[test]
fn another_manifest_than_the_one_asked_for_is_refused() {
    let encoded = sample().encode().unwrap();
    let other = digest_hex(b"another");
    assert!(matches!(Manifest::decode(&encoded, Some(&other)), Err(ManifestError::Digest { .. })));
}

#[test]
fn unknown_magic_version_and_trailing_bytes_are_refused() {
    let encoded = sample().encode().unwrap();
    assert!(matches!(Manifest::decode(b"", None), Err(ManifestError::Magic)));
    assert!(matches!(Manifest::decode(&[0; 40], None), Err(ManifestError::Magic)));
    let mut newer = encoded.clone();
    newer[8] = 3;
    assert!(matches!(Manifest::decode(&newer, None), Err(ManifestError::Version(3))));
    let mut longer = encoded.clone();
    longer.push(0);
    assert!(Manifest::decode(&longer, None).is_err());
    let mut claims_huge = encoded;
    claims_huge[10..14].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Manifest::decode(&claims_huge, None), Err(ManifestError::TooLarge { .. })));
}

/// I3: overlapping, out of range, 2^63: each lie alone makes the manifest unusable.
#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    type Lie = (&'static str, fn(&mut Manifest));
    let lies: &[Lie] = &[
        ("image of no bytes", |m| m.image_bytes = 0),
        ("image not of whole sectors", |m| m.image_bytes -= 1),
        ("image of 2^63 bytes", |m| m.image_bytes = 1 << 63),
        ("sector of 520 bytes", |m| m.sector_bytes = 520),
        ("overlapping extents", |m| m.extents[1].target_offset_bytes = 4096),
        ("unsorted extents", |m| m.extents.swap(0, 1)),
        ("unaligned extent", |m| m.extents[0].target_offset_bytes = 512),
        ("empty extent", |m| m.extents[0].extent_bytes = 0),
        ("odd extent", |m| m.extents[0].extent_bytes = 4097),
        ("extent over the end", |m| m.extents[3].target_offset_bytes += 4096),
        ("extent at 2^64", |m| m.extents[3].target_offset_bytes = u64::MAX - 4095),
        ("extent over a window border", |m| m.extents[2].extent_bytes = 8192),
        ("no such frame", |m| m.extents[0].frame = 3),
        ("block behind the frame", |m| m.extents[3].frame_block = 1),
        ("extent runs into another pack", |m| m.extents[1].frame = 1),
        ("frames not adjacent", |m| m.frames[1].offset_bytes += 1),
        ("frame in the pack's header", |m| m.frames[0].offset_bytes = 15),
        ("no such pack", |m| m.frames[2].pack = 2),
        ("pack twice", |m| m.packs[1] = m.packs[0]),
        ("frames unsorted", |m| m.frames.swap(0, 1)),
        ("frame at 2^64", |m| m.frames[2].offset_bytes = u64::MAX),
        ("frame of no bytes", |m| m.frames[2].compressed_bytes = 0),
        ("frame too long", |m| m.frames[2].raw_bytes = 2 * FRAME_BYTES as u32),
        ("partition backwards", |m| m.boot.partitions[0].last_lba = 1),
        ("endless name", |m| m.boot.partitions[0].name = "x".repeat(10_000)),
    ];
    for (lie, tell) in lies {
        let mut manifest = sample();
        tell(&mut manifest);
        assert!(matches!(manifest.encode(), Err(ManifestError::Invalid(_))), "{lie}");
        let body = postcard::to_stdvec(&manifest).unwrap();
        assert!(matches!(Manifest::decode(&framed(&body), None), Err(ManifestError::Invalid(_))), "{lie}");
    }
}

/// A body with a right header in front, whatever the body says.
fn framed(body: &[u8]) -> Vec<u8> {
    let mut encoded = MAGIC.to_vec();
    encoded.extend_from_slice(&VERSION.to_le_bytes());
    encoded.extend_from_slice(&(body.len() as u32).to_le_bytes());
    encoded.extend_from_slice(&zstd::bulk::compress(body, 1).unwrap());
    encoded
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rule 10: random bytes as a body never panic.
    #[test]
    fn random_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Manifest::decode(&framed(&body), None);
    }

    /// Rule 10: a valid manifest with some bytes changed is refused or is valid, and its users do not panic on it.
    #[test]
    fn mutated_manifests_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut body = postcard::to_stdvec(&sample()).unwrap();
        for (at, byte) in &changes {
            let at = at.index(body.len());
            body[at] = *byte;
        }
        if let Ok(manifest) = Manifest::decode(&framed(&body), None) {
            for extent in &manifest.extents {
                prop_assert!(!manifest.frames_of(extent).is_empty());
                prop_assert!(extent.target().end <= manifest.image_bytes.next_multiple_of(4096));
            }
        }
        let mut encoded = sample().encode().unwrap();
        for (at, byte) in &changes {
            let at = at.index(encoded.len());
            encoded[at] = *byte;
        }
        let _ = Manifest::decode(&encoded, None);
    }
}
