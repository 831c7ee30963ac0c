//! The write path inside one process, against disks and servers that fail.

mod disks;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use disks::faulty::{Fault, Faulty};
use disks::{Dice, Images, MIB, StoreSource, Watch, assert_same_disk, deployed, gpt_image, noise, read};
use regild::agent::write::write_to;
use regild::agent::{Expected, ImageSource, Outcome, SourceError, WriteError, WriteOptions, verify_image, write_image};
use regild::wire::agent::Step;
use regild::wire::manifest::Manifest;

const IMAGE_BYTES: u64 = 24 * MIB;
const DISK_BYTES: u64 = 32 * MIB;

fn quick() -> WriteOptions {
    WriteOptions { patience: Duration::from_secs(2), ..WriteOptions::default() }
}

/// A disk that was in use: another image is on it, and it boots.
fn old_disk(bytes: u64) -> Vec<u8> {
    let mut disk = gpt_image(bytes, 1000);
    disk[MIB as usize..2 * MIB as usize].copy_from_slice(&noise(3, MIB as usize));
    disk
}

#[test]
fn an_image_lands_on_a_larger_disk_byte_for_byte_with_its_table_fitted() {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    let manifest = images.import("a:1", &image);
    let before = old_disk(DISK_BYTES);
    let disk = images.disk("disk", &before);
    let source = StoreSource::new(&images.store);
    let watch = Watch::default();
    let outcome = write_image(&source, &manifest, &disk, &quick(), &watch).unwrap();
    assert_same_disk(&read(&disk), &deployed(&image, &before));
    assert!(!outcome.already_there && outcome.direct, "{outcome:?}");
    assert_eq!(
        watch.steps(),
        [Step::Survey, Step::ClearHead, Step::WriteBody, Step::VerifyBody, Step::WriteHead],
        "the order of a deploy"
    );
    let verified = verify_image(&source, &manifest, &disk, &quick(), &Watch::default()).unwrap();
    assert!(verified.is_right(), "{verified:?}");
}

/// The backup table then lies where the image's own one was, inside the last extents of the image.
#[test]
fn an_image_as_long_as_the_disk_lands_byte_for_byte() {
    let images = Images::new();
    for (version, extra) in [0, 512, 4096, 16896, 17408, MIB].into_iter().enumerate() {
        let image = gpt_image(IMAGE_BYTES, version as u64);
        let manifest = images.import(&format!("a:{version}"), &image);
        let before = old_disk(IMAGE_BYTES + extra);
        let disk = images.disk("disk", &before);
        let source = StoreSource::new(&images.store);
        write_image(&source, &manifest, &disk, &quick(), &Watch::default()).unwrap();
        assert_same_disk(&read(&disk), &deployed(&image, &before));
        let again = write_image(&source, &manifest, &disk, &quick(), &Watch::default()).unwrap();
        assert!(again.already_there);
    }
}

#[test]
fn images_without_a_partition_table_land_as_they_are() {
    let images = Images::new();
    for (version, len) in [512, 4096, MIB - 512, MIB, MIB + 512, 3 * MIB + 1536].into_iter().enumerate() {
        let mut image = noise(version as u64, len as usize);
        let middle = image.len() / 2;
        image[middle..][..(len / 4) as usize].fill(0);
        let manifest = images.import(&format!("raw:{version}"), &image);
        let before = old_disk(8 * MIB);
        let disk = images.disk("disk", &before);
        let source = StoreSource::new(&images.store);
        write_image(&source, &manifest, &disk, &quick(), &Watch::default()).unwrap();
        let mut wanted = before.clone();
        wanted[..MIB as usize].fill(0);
        wanted[7 * MIB as usize..].fill(0);
        wanted[..image.len()].copy_from_slice(&image);
        // What of the cleared head lies behind a tiny image stays zeros.
        assert_same_disk(&read(&disk), &wanted);
    }
}

/// P2: the power went between the last write and the report. Looking again must not write.
#[test]
fn a_disk_that_holds_the_image_is_not_written_again() {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    let manifest = images.import("a:1", &image);
    let disk = images.disk("disk", &old_disk(DISK_BYTES));
    let source = StoreSource::new(&images.store);
    write_image(&source, &manifest, &disk, &quick(), &Watch::default()).unwrap();
    let device = Faulty::open(&disk, |_| Fault::None);
    let writes = Arc::clone(&device.writes);
    let watch = Watch::default();
    let outcome = write_to(&source, &manifest, Box::new(device), &quick(), &watch).unwrap();
    assert!(outcome.already_there);
    assert_eq!((writes.load(Ordering::Relaxed), watch.steps()), (0, vec![Step::Survey]), "not one write");
    let head_only = manifest.frames.iter().map(|f| u64::from(f.compressed_bytes)).sum::<u64>() / 2;
    assert!(outcome.fetched_bytes < head_only, "{outcome:?}");
}

/// I7: refused before the first write, with the disk as it was.
#[test]
fn an_image_that_does_not_fit_is_refused_and_the_disk_is_as_it_was() {
    let images = Images::new();
    let manifest = images.import("a:1", &gpt_image(IMAGE_BYTES, 1));
    let source = StoreSource::new(&images.store);
    let before = old_disk(IMAGE_BYTES - 512);
    let disk = images.disk("small", &before);
    let refused = write_image(&source, &manifest, &disk, &quick(), &Watch::default()).unwrap_err();
    assert!(matches!(refused, WriteError::DoesNotFit { .. }), "{refused}");
    assert_same_disk(&read(&disk), &before);

    let before = old_disk(DISK_BYTES);
    let disk = images.disk("sectors", &before);
    let mut device = Faulty::open(&disk, |_| Fault::None);
    device.sector_bytes = Some(4096);
    let refused = write_to(&source, &manifest, Box::new(device), &quick(), &Watch::default()).unwrap_err();
    assert!(matches!(refused, WriteError::SectorSize { image: 512, disk: 4096, .. }), "{refused}");
    let expected = Some(Expected { size_bytes: DISK_BYTES - 512, sector_bytes: 512 });
    let options = WriteOptions { expected, ..quick() };
    let refused = write_image(&source, &manifest, &disk, &options, &Watch::default()).unwrap_err();
    assert!(matches!(refused, WriteError::Swapped { .. }), "A4: {refused}");
    assert_same_disk(&read(&disk), &before);
    let missing = images.dir.path().join("missing");
    assert!(matches!(write_image(&source, &manifest, &missing, &quick(), &Watch::default()), Err(WriteError::Open(_))));
    assert!(!missing.exists(), "a mistyped device name must not become a file");
}

/// Rule 2: an order that is closed ends the write before the next one, and the disk does not boot.
#[test]
fn a_closed_order_stops_the_write_and_the_next_one_goes_on_from_there() {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    let manifest = images.import("a:1", &image);
    let before = old_disk(DISK_BYTES);
    let disk = images.disk("disk", &before);
    let source = StoreSource::new(&images.store);
    let watch = Watch { stop_after_bytes: 8 * MIB, ..Watch::default() };
    let stopped = write_image(&source, &manifest, &disk, &quick(), &watch).unwrap_err();
    assert!(matches!(stopped, WriteError::Stopped), "{stopped}");
    assert!(read(&disk)[..MIB as usize].iter().all(|byte| *byte == 0));

    let outcome = write_image(&source, &manifest, &disk, &quick(), &Watch::default()).unwrap();
    assert!(outcome.kept_bytes >= 6 * MIB, "what was written is not fetched again: {outcome:?}");
    assert_same_disk(&read(&disk), &deployed(&image, &before));
}

/// Deploys `a:1` onto an old disk whose writes fail as `fault` says of (offset, how often it was written).
fn deploy_with(fault: impl Fn(u64, u64) -> Fault + Sync + 'static) -> (Result<Outcome, WriteError>, Vec<u8>, Vec<u8>) {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    let manifest = images.import("a:1", &image);
    let before = old_disk(DISK_BYTES);
    let disk = images.disk("disk", &before);
    let counts = Mutex::new(std::collections::HashMap::<u64, u64>::new());
    let device = Faulty::open(&disk, move |offset| {
        let mut counts = counts.lock().unwrap();
        let count = counts.entry(offset).or_default();
        *count += 1;
        fault(offset, *count)
    });
    let source = StoreSource::new(&images.store);
    let outcome = write_to(&source, &manifest, Box::new(device), &quick(), &Watch::default());
    (outcome, read(&disk), deployed(&image, &before))
}

/// A5: a write that fails now and then is tried again at the same place.
#[test]
fn a_disk_that_fails_now_and_then_is_written_all_the_same() {
    let (outcome, got, wanted) = deploy_with(|offset, count| match offset / 4096 % 23 {
        0 if count <= 3 && offset > 16 * MIB => Fault::Error,
        _ => Fault::None,
    });
    outcome.unwrap();
    assert_same_disk(&got, &wanted);
}

/// A5: a disk that keeps failing is named, with the place, and is left without a head.
#[test]
fn a_disk_that_keeps_failing_is_named_and_left_unbootable() {
    let (outcome, got, _) = deploy_with(|offset, _| if offset > 12 * MIB { Fault::Error } else { Fault::None });
    // The end of the disk is cleared first, so this is where it shows.
    let Err(WriteError::Disk(failed)) = outcome else { panic!("{outcome:?}") };
    assert!(failed.offset_bytes > 12 * MIB && failed.device.ends_with("disk"), "{failed}");
    assert!(got[..MIB as usize].iter().all(|byte| *byte == 0));

    let (outcome, got, _) =
        deploy_with(|offset, _| if (12 * MIB..20 * MIB).contains(&offset) { Fault::Error } else { Fault::None });
    let Err(WriteError::Disk(failed)) = outcome else { panic!("{outcome:?}") };
    assert!((12 * MIB..20 * MIB).contains(&failed.offset_bytes), "{failed}");
    assert!(got[..MIB as usize].iter().all(|byte| *byte == 0));
    assert!(got[(DISK_BYTES - MIB) as usize..].iter().all(|byte| *byte == 0), "no backup table either");
}

/// A6: what was read back is not what was written. Once is repaired; a disk that does it again is refused.
#[test]
fn a_bit_that_flips_on_its_way_to_the_disk_is_found_by_reading_back() {
    let (outcome, got, wanted) = deploy_with({
        let flips = AtomicU64::new(0);
        move |offset, _| match offset {
            offset if !(2 * MIB..=22 * MIB).contains(&offset) => Fault::None,
            _ if flips.fetch_add(1, Ordering::Relaxed) < 20 => Fault::Flip,
            _ => Fault::None,
        }
    });
    outcome.unwrap();
    assert_same_disk(&got, &wanted);

    let (outcome, got, _) =
        deploy_with(|offset, _| if (10 * MIB..11 * MIB).contains(&offset) { Fault::Flip } else { Fault::None });
    let Err(WriteError::ReadBack { offset_bytes, .. }) = outcome else { panic!("{outcome:?}") };
    assert!((10 * MIB..11 * MIB).contains(&offset_bytes));
    assert!(got[..MIB as usize].iter().all(|byte| *byte == 0), "no head without proof");
}

/// The head itself is read back, too, and taken away again when it is not right.
#[test]
fn a_head_that_is_not_what_was_written_is_cleared_again() {
    let (outcome, got, _) =
        deploy_with(|offset, count| if offset == 0 && count == 2 { Fault::Flip } else { Fault::None });
    assert!(matches!(outcome, Err(WriteError::BootArea { .. })), "{outcome:?}");
    assert!(got[..MIB as usize].iter().all(|byte| *byte == 0));
}

fn deploy_from(
    images: &Images,
    manifest: &Manifest,
    source: &dyn ImageSource,
    options: &WriteOptions,
) -> (Result<Outcome, WriteError>, Vec<u8>, Vec<u8>) {
    let before = old_disk(DISK_BYTES);
    let disk = images.disk("disk", &before);
    let outcome = write_image(source, manifest, &disk, options, &Watch::default());
    (outcome, read(&disk), before)
}

/// Rule 5: bytes that do not match are asked for once more and never written.
#[test]
fn wrong_bytes_from_the_server_are_asked_for_again_and_never_written() {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    let manifest = images.import("a:1", &image);
    let asked = Mutex::new(std::collections::HashSet::new());
    let flip = |mut bytes: Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        bytes
    };
    let once = StoreSource::with(&images.store, |_, range, bytes| {
        Ok(if asked.lock().unwrap().insert(range.clone()) { flip(bytes) } else { bytes })
    });
    let (outcome, got, before) = deploy_from(&images, &manifest, &once, &quick());
    outcome.unwrap();
    assert_same_disk(&got, &deployed(&image, &before));

    let last_range = manifest.frames.last().unwrap().offset_bytes;
    let always = StoreSource::with(&images.store, |_, range, bytes| {
        Ok(if range.contains(&last_range) { flip(bytes) } else { bytes })
    });
    let (outcome, got, _) = deploy_from(&images, &manifest, &always, &quick());
    let Err(WriteError::BadData { pack, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(pack, manifest.pack_id(manifest.frames.last().unwrap()));
    let head = &got[..MIB as usize];
    // The image's last blocks are read before the first write where they decide about the backup table.
    assert!(head.iter().all(|byte| *byte == 0) || got == before);
}

/// N3: a server that is away for a while is waited for; one that stays away ends the write with its name.
#[test]
fn a_server_that_is_away_is_waited_for_within_bounds() {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    let manifest = images.import("a:1", &image);
    let away = || SourceError::Unreachable {
        url: "http://server".to_owned(),
        source: io::Error::from(io::ErrorKind::ConnectionRefused).into(),
    };
    let count = AtomicU64::new(0);
    let shaky = StoreSource::with(&images.store, |_, _, bytes| {
        if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) { Err(away()) } else { Ok(bytes) }
    });
    let (outcome, got, before) = deploy_from(&images, &manifest, &shaky, &quick());
    outcome.unwrap();
    assert_same_disk(&got, &deployed(&image, &before));

    let count = AtomicU64::new(0);
    let dies = StoreSource::with(&images.store, |_, _, bytes| {
        if count.fetch_add(1, Ordering::Relaxed) < 2 { Ok(bytes) } else { Err(away()) }
    });
    let (outcome, got, _) = deploy_from(&images, &manifest, &dies, &quick());
    assert!(matches!(outcome, Err(WriteError::Source(SourceError::Unreachable { .. }))), "{outcome:?}");
    assert!(got[..MIB as usize].iter().all(|byte| *byte == 0));
}

/// Drift: one changed byte is found and costs one extent, not the image.
#[test]
fn a_disk_that_drifted_gets_back_only_what_changed() {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    let manifest = images.import("a:1", &image);
    let before = old_disk(DISK_BYTES);
    let disk = images.disk("disk", &before);
    let source = StoreSource::new(&images.store);
    write_image(&source, &manifest, &disk, &quick(), &Watch::default()).unwrap();
    let wanted = read(&disk);
    let mut dice = Dice::new("drift", 11);
    let mut drifted = wanted.clone();
    for _ in 0..3 {
        drifted[(2 * MIB + dice.below(20 * MIB)) as usize] ^= 0xff;
    }
    let disk = images.disk("disk", &drifted);
    let verified = verify_image(&source, &manifest, &disk, &quick(), &Watch::default()).unwrap();
    assert!(!verified.is_right() && verified.boot_area_right, "{verified:?}");
    assert!((1..=3).contains(&(verified.wrong_extents + verified.wrong_holes)), "{verified:?}");
    let outcome = write_image(&source, &manifest, &disk, &quick(), &Watch::default()).unwrap();
    assert_same_disk(&read(&disk), &wanted);
    assert!(outcome.written_bytes <= 3 * MIB, "{outcome:?}");
}

/// Section 6 of the design: what the old version has is not fetched, wherever it lies on the disk.
#[test]
fn a_second_version_fetches_only_what_the_disk_lacks() {
    let images = Images::new();
    let (first, second) = (gpt_image(IMAGE_BYTES, 1), gpt_image(IMAGE_BYTES, 2));
    let seed = images.import("a:1", &first);
    let manifest = images.import("a:2", &second);
    let source = StoreSource::new(&images.store);
    let disk = images.disk("disk", &old_disk(DISK_BYTES));
    let whole = write_image(&source, &seed, &disk, &quick(), &Watch::default()).unwrap();
    let before = read(&disk);
    let options = WriteOptions { seed: Some(seed), ..quick() };
    let outcome = write_image(&source, &manifest, &disk, &options, &Watch::default()).unwrap();
    assert_same_disk(&read(&disk), &deployed(&second, &before));
    eprintln!("whole {whole:?}\nupdate {outcome:?}");
    // Two fifths of the blocks are new in the second version; frames of 128 blocks are fetched whole.
    assert!(outcome.fetched_bytes < whole.fetched_bytes * 3 / 4, "{outcome:?}");
    assert!(outcome.copied_bytes > 4 * MIB, "moved content is copied: {outcome:?}");
}

/// The seed is a hint: a disk that does not hold it gets the image all the same.
#[test]
fn a_wrong_seed_costs_time_and_nothing_else() {
    let images = Images::new();
    let seed = images.import("a:1", &gpt_image(IMAGE_BYTES, 1));
    let image = gpt_image(IMAGE_BYTES, 2);
    let manifest = images.import("a:2", &image);
    let source = StoreSource::new(&images.store);
    let options = WriteOptions { seed: Some(seed), ..quick() };
    let (outcome, got, before) = deploy_from(&images, &manifest, &source, &options);
    assert_eq!(outcome.unwrap().copied_bytes, 0);
    assert_same_disk(&got, &deployed(&image, &before));
}

/// A seed that the disk does not hold is found out by a few reads, and not by a look at the whole disk; one of which the
/// disk holds a little is given up after as many ranges as the rules say.
#[test]
fn a_seed_that_is_not_on_the_disk_costs_a_few_reads() {
    let images = Images::new();
    let first = gpt_image(IMAGE_BYTES, 1);
    let seed = images.import("a:1", &first);
    let image = gpt_image(IMAGE_BYTES, 2);
    let manifest = images.import("a:2", &image);
    let source = StoreSource::new(&images.store);
    let run = |before: &[u8], seed: Option<&Manifest>| {
        let disk = images.disk("disk", before);
        let device = Faulty::open(&disk, |_| Fault::None);
        let read_bytes = Arc::clone(&device.read_bytes);
        let options = WriteOptions { seed: seed.cloned(), ..quick() };
        let outcome = write_to(&source, &manifest, Box::new(device), &options, &Watch::default()).unwrap();
        assert_same_disk(&read(&disk), &deployed(&image, before));
        (outcome, read_bytes.load(Ordering::Relaxed))
    };
    let foreign = old_disk(DISK_BYTES);
    let ((unseeded, without), (outcome, with)) = (run(&foreign, None), run(&foreign, Some(&seed)));
    assert_eq!((outcome.fetched_bytes, outcome.copied_bytes), (unseeded.fetched_bytes, 0), "{outcome:?}");
    assert!(with - without < 2 * MIB, "{with} bytes were read, {without} without the seed");

    // Its first MiB after the head is there, and nothing else: worth one look at the disk, and not a read of every block.
    let mut little = noise(12, DISK_BYTES as usize);
    little[MIB as usize..3 * MIB as usize].copy_from_slice(&first[MIB as usize..3 * MIB as usize]);
    let (outcome, read_bytes) = run(&little, Some(&seed));
    let look = IMAGE_BYTES + MIB;
    assert!(outcome.copied_bytes > 0, "{outcome:?}");
    let most = without + look + outcome.copied_bytes + (256 + 256) * 4096 + 2 * MIB;
    assert!(read_bytes < most, "{read_bytes} bytes were read, {most} are the most");
}

/// A seed that is on the disk and has nothing in common with the new image is no reason to look at the whole disk.
#[test]
fn a_seed_that_shares_nothing_with_the_new_image_costs_a_few_reads() {
    let images = Images::new();
    let seed = images.import("a:1", &gpt_image(IMAGE_BYTES, 1));
    let image = noise(21, IMAGE_BYTES as usize);
    let manifest = images.import("b:1", &image);
    let source = StoreSource::new(&images.store);
    let disk = images.disk("disk", &old_disk(DISK_BYTES));
    write_image(&source, &seed, &disk, &quick(), &Watch::default()).unwrap();
    let before = read(&disk);
    let run = |seed: Option<&Manifest>| {
        std::fs::write(&disk, &before).unwrap();
        let device = Faulty::open(&disk, |_| Fault::None);
        let read_bytes = Arc::clone(&device.read_bytes);
        let options = WriteOptions { seed: seed.cloned(), ..quick() };
        let outcome = write_to(&source, &manifest, Box::new(device), &options, &Watch::default()).unwrap();
        assert!(read(&disk)[..IMAGE_BYTES as usize] == image);
        assert_eq!((outcome.kept_bytes, outcome.copied_bytes), (0, 0), "{outcome:?}");
        read_bytes.load(Ordering::Relaxed)
    };
    let (without, with) = (run(None), run(Some(&seed)));
    assert!(with - without < 2 * MIB, "{with} bytes were read, {without} without the seed");
}

/// What cannot be read of an old image need not be: the disk may yet be written, and its controller replaces the place.
#[test]
fn a_place_of_the_old_image_that_cannot_be_read_does_not_end_a_deploy() {
    let images = Images::new();
    let (first, mut image) = (gpt_image(IMAGE_BYTES, 1), gpt_image(IMAGE_BYTES, 2));
    // Its own boot code: with the same one the disk could hold the image already, and is looked at for that.
    image[..16].fill(7);
    let seed = images.import("a:1", &first);
    let manifest = images.import("a:2", &image);
    let source = StoreSource::new(&images.store);
    let disk = images.disk("disk", &old_disk(DISK_BYTES));
    write_image(&source, &seed, &disk, &quick(), &Watch::default()).unwrap();
    let before = read(&disk);
    for (from, to) in [(9 * MIB, 10 * MIB), (MIB, 24 * MIB)] {
        std::fs::write(&disk, &before).unwrap();
        let mut device = Faulty::open(&disk, |_| Fault::None);
        device.unreadable = from..to;
        let options = WriteOptions { seed: Some(seed.clone()), ..quick() };
        write_to(&source, &manifest, Box::new(device), &options, &Watch::default()).unwrap();
        assert_same_disk(&read(&disk), &deployed(&image, &before));
    }
}

/// The worst case of moving in place: two halves change places, so that every write destroys what a later one reads.
#[test]
fn content_that_changes_places_is_copied_and_not_lost() {
    let images = Images::new();
    let half = 12 * MIB as usize;
    let mut first = noise(5, 2 * half);
    first[..4096].fill(0);
    let mut second = first.clone();
    second[2 * MIB as usize..half].copy_from_slice(&first[half + 2 * MIB as usize..]);
    second[half + 2 * MIB as usize..].copy_from_slice(&first[2 * MIB as usize..half]);
    let seed = images.import("a:1", &first);
    let manifest = images.import("a:2", &second);
    let source = StoreSource::new(&images.store);
    let disk = images.disk("disk", &old_disk(DISK_BYTES));
    write_image(&source, &seed, &disk, &quick(), &Watch::default()).unwrap();
    let options = WriteOptions { seed: Some(seed), ..quick() };
    let outcome = write_image(&source, &manifest, &disk, &options, &Watch::default()).unwrap();
    assert_eq!(outcome.copied_bytes, 20 * MIB, "{outcome:?}");
    assert!(outcome.fetched_bytes < 2 * MIB, "only the head: {outcome:?}");
    assert!(read(&disk)[..second.len()] == second);
}

/// A move in place that is cut at any point is continued, with the seed or without it.
#[test]
fn a_move_that_is_cut_is_completed_by_the_next_run() {
    let mut dice = Dice::new("cut moves", 7);
    let images = Images::new();
    let (first, second) = (gpt_image(IMAGE_BYTES, 1), gpt_image(IMAGE_BYTES, 2));
    let seed = images.import("a:1", &first);
    let manifest = images.import("a:2", &second);
    let source = StoreSource::new(&images.store);
    let disk = images.disk("disk", &old_disk(DISK_BYTES));
    write_image(&source, &seed, &disk, &quick(), &Watch::default()).unwrap();
    let before = read(&disk);
    let wanted = deployed(&second, &before);
    let options = WriteOptions { seed: Some(seed), ..quick() };
    for cut in 0..6 {
        std::fs::write(&disk, &before).unwrap();
        let stop_after_bytes = 1 + dice.below(12 * MIB);
        let watch = Watch { stop_after_bytes, ..Watch::default() };
        let stopped = write_image(&source, &manifest, &disk, &options, &watch).unwrap_err();
        assert!(matches!(stopped, WriteError::Stopped), "{stopped}");
        assert!(read(&disk)[..MIB as usize].iter().all(|byte| *byte == 0));
        let next = if cut % 2 == 0 { options.clone() } else { quick() };
        write_image(&source, &manifest, &disk, &next, &Watch::default()).unwrap();
        assert!(read(&disk) == wanted, "cut {cut} after {stop_after_bytes} bytes");
    }
}

/// Where the file system cannot go past the page cache, the outcome says so and the result is the same.
#[test]
fn a_target_in_memory_is_written_as_well() {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    let manifest = images.import("a:1", &image);
    let source = StoreSource::new(&images.store);
    let before = old_disk(DISK_BYTES);
    let memory = tempfile::NamedTempFile::new_in("/dev/shm").expect("Linux has a tmpfs at /dev/shm");
    std::fs::write(memory.path(), &before).unwrap();
    let outcome = write_image(&source, &manifest, memory.path(), &quick(), &Watch::default()).unwrap();
    eprintln!("O_DIRECT on tmpfs: {}", outcome.direct);
    assert_same_disk(&read(memory.path()), &deployed(&image, &before));
}

/// Requests overtake one another: that the first one of a cut write never arrived must not hide all the others.
#[test]
fn a_cut_write_is_continued_although_its_first_request_was_never_answered() {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    let manifest = images.import("a:1", &image);
    let before = old_disk(DISK_BYTES);
    let disk = images.disk("disk", &before);
    let first = manifest.frames[0];
    let held_back = StoreSource::with(&images.store, |_, range, bytes| {
        let is_head = range.end == first.offset_bytes + u64::from(first.compressed_bytes);
        if range.start == first.offset_bytes && !is_head {
            let source = io::Error::from(io::ErrorKind::TimedOut).into();
            return Err(SourceError::Unreachable { url: "http://server".to_owned(), source });
        }
        Ok(bytes)
    });
    let cut = write_image(&held_back, &manifest, &disk, &quick(), &Watch::default()).unwrap_err();
    assert!(matches!(cut, WriteError::Source(_)), "{cut}");
    let source = StoreSource::new(&images.store);
    let outcome = write_image(&source, &manifest, &disk, &quick(), &Watch::default()).unwrap();
    assert!(outcome.kept_bytes > 4 * MIB, "{outcome:?}");
    assert_same_disk(&read(&disk), &deployed(&image, &before));
}
