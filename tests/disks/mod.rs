//! Images, disks and servers for the tests of the write path: small, made by other hands (gptman) than the code
//! under test, and broken in every way that a test asks for.
#![allow(dead_code)]

pub mod faulty;
pub mod server;

use std::io::Cursor;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use regild::agent::{ImageSource, Observer, SourceError};
use regild::image::{ImageStore, ImportRequest};
use regild::wire::agent::{Progress, Step};
use regild::wire::manifest::Manifest;
use regild::wire::reference::ImageRef;

pub const MIB: u64 = 1 << 20;
pub const SECTOR: u64 = 512;

/// Bytes that do not compress and are the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Numbers for one test, from a seed that is printed.
pub struct Dice(u64);

impl Dice {
    pub fn new(test: &str, default_seed: u64) -> Dice {
        let seed = std::env::var("REGILD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(default_seed);
        eprintln!("{test}: REGILD_SEED={seed}");
        Dice(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 += 1;
        let drawn = noise(self.0, 8);
        u64::from_le_bytes(drawn.try_into().expect("eight bytes")) % limit.max(1)
    }
}

/// A bootable-looking GPT image: boot code, a boot loader in the gap, two partitions with data and holes.
/// Versions share what `shared_seed` makes; a third of the blocks are their own.
pub fn gpt_image(bytes: u64, version: u64) -> Vec<u8> {
    let mut disk = vec![0; bytes as usize];
    let block = 4096;
    let (first, last) = (MIB as usize / block + 256, (bytes as usize - MIB as usize) / block);
    for number in first..last {
        let content = match number % 6 {
            // A hole of its own in every few blocks, and a long one in the middle.
            0 => continue,
            _ if (first + last) / 2 < number && number < (first + last) / 2 + 700 => continue,
            1 | 2 => noise(version << 32 | number as u64, block),
            // The same content as in the other version, some blocks further on.
            _ => noise(number as u64 + version * 6, block),
        };
        disk[number * block..][..block].copy_from_slice(&content);
    }
    disk[64 * 512..200 * 512].copy_from_slice(&noise(77, 136 * 512));
    disk[..440].copy_from_slice(&noise(78, 440));
    let mut disk = Cursor::new(disk);
    let mut gpt = gptman::GPT::new_from(&mut disk, SECTOR, [9; 16]).expect("a new partition table");
    let end = bytes / SECTOR;
    for (number, (from, to)) in
        [(2 * MIB / SECTOR, 4 * MIB / SECTOR - 1), (4 * MIB / SECTOR, end - 35)].into_iter().enumerate()
    {
        gpt[number as u32 + 1] = gptman::GPTPartitionEntry {
            partition_type_guid: [number as u8 + 1; 16],
            unique_partition_guid: [number as u8 + 7; 16],
            starting_lba: from,
            ending_lba: to,
            attribute_bits: 0,
            partition_name: "part".into(),
        };
    }
    gpt.write_into(&mut disk).expect("writing the partition table");
    gptman::GPT::write_protective_mbr_into(&mut disk, SECTOR).expect("writing the protective MBR");
    disk.into_inner()
}

/// What a disk that held `before` must hold after a deploy of `image`, worked out with gptman alone.
pub fn deployed(image: &[u8], before: &[u8]) -> Vec<u8> {
    let mut disk = before.to_vec();
    let len = disk.len();
    disk[len - MIB as usize..].fill(0);
    disk[..image.len()].copy_from_slice(image);
    let mut disk = Cursor::new(disk);
    let Ok(mut gpt) = gptman::GPT::read_from(&mut Cursor::new(image), SECTOR) else {
        return disk.into_inner();
    };
    let first_usable_lba = gpt.header.first_usable_lba;
    gpt.header.update_from(&mut disk, SECTOR).expect("fitting the table");
    gpt.header.first_usable_lba = first_usable_lba;
    gpt.write_into(&mut disk).expect("writing the fitted table");
    gptman::GPT::write_protective_mbr_into(&mut disk, SECTOR).expect("writing the protective MBR");
    disk.into_inner()
}

/// The first place where two disks differ, for a message that can be read.
pub fn first_difference(got: &[u8], wanted: &[u8]) -> Option<usize> {
    if got.len() != wanted.len() {
        return Some(got.len().min(wanted.len()));
    }
    got.iter().zip(wanted).position(|(a, b)| a != b)
}

#[track_caller]
pub fn assert_same_disk(got: &[u8], wanted: &[u8]) {
    assert!(got == wanted, "the disk differs at byte {:?} of {}", first_difference(got, wanted), wanted.len());
}

/// A store in a directory of its own.
pub struct Images {
    pub dir: tempfile::TempDir,
    pub store: ImageStore,
}

impl Images {
    pub fn new() -> Images {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = ImageStore::open(&dir.path().join("store")).expect("a new store");
        Images { dir, store }
    }

    /// Imports and gives the manifest back.
    pub fn import(&self, name: &str, image: &[u8]) -> Manifest {
        let request =
            ImportRequest { image: &name.parse().expect("a name"), now: 1, source: "test", max_image_bytes: 1 << 32 };
        let imported = self.store.import(image, &request, &|_| ()).expect("importing");
        self.store.manifest(&imported.record().manifest).expect("the manifest just written")
    }

    /// A file that holds these bytes.
    pub fn disk(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).expect("writing a disk");
        path
    }
}

pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("reading a disk")
}

/// The store as a source without a network; a test may come between.
pub struct StoreSource<'s> {
    pub store: &'s ImageStore,
    /// Called with pack, range and the right answer before each answer.
    pub answer: Box<Answer<'s>>,
    pub range_bytes: AtomicU64,
}

pub type Answer<'s> = dyn Fn(&str, &Range<u64>, Vec<u8>) -> Result<Vec<u8>, SourceError> + Sync + 's;

impl<'s> StoreSource<'s> {
    pub fn new(store: &'s ImageStore) -> StoreSource<'s> {
        StoreSource::with(store, |_, _, bytes| Ok(bytes))
    }

    pub fn with(
        store: &'s ImageStore,
        answer: impl Fn(&str, &Range<u64>, Vec<u8>) -> Result<Vec<u8>, SourceError> + Sync + 's,
    ) -> StoreSource<'s> {
        StoreSource { store, answer: Box::new(answer), range_bytes: AtomicU64::new(0) }
    }
}

impl ImageSource for StoreSource<'_> {
    fn resolve(&self, image: &ImageRef) -> Result<String, SourceError> {
        Ok(self.store.resolve(image).expect("a known image"))
    }

    fn manifest(&self, digest: &str) -> Result<Vec<u8>, SourceError> {
        Ok(self.store.manifest_bytes(digest).expect("a known manifest").to_vec())
    }

    fn range(&self, pack: &str, range: Range<u64>) -> Result<Vec<u8>, SourceError> {
        let bytes =
            self.store.pack_file(pack).expect("a known pack").piece(range.start as usize..range.end as usize, |_| ());
        self.range_bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
        (self.answer)(pack, &range, bytes.to_vec())
    }
}

/// Remembers the steps; says stop when a test wants so.
#[derive(Default)]
pub struct Watch {
    pub steps: std::sync::Mutex<Vec<Step>>,
    /// Stops when more than so many bytes of the body are written; 0 never stops.
    pub stop_after_bytes: u64,
    pub written_bytes: AtomicU64,
}

impl Watch {
    pub fn steps(&self) -> Vec<Step> {
        self.steps.lock().expect("no test panics here").clone()
    }
}

impl Observer for Watch {
    fn step(&self, step: Step) {
        self.steps.lock().expect("no test panics here").push(step);
    }

    fn progress(&self, progress: Progress) {
        assert!(progress.done_bytes <= progress.total_bytes + MIB, "{progress:?}");
        if progress.step == Step::WriteBody {
            self.written_bytes.store(progress.done_bytes, Ordering::Relaxed);
        }
    }

    fn may_go_on(&self) -> bool {
        self.stop_after_bytes == 0 || self.written_bytes.load(Ordering::Relaxed) < self.stop_after_bytes
    }
}
