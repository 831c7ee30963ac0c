//! Import: a stream of raw bytes becomes blocks, a pack of those that are new, and a manifest.
//!
//! Memory is bounded whatever comes in: a few windows of 1 MiB, some frames, the block index, and about 70 bytes
//! for each extent.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::PoisonError;

use thiserror::Error;

use super::block_index::{BlockIndex, Location};
use super::mend::Blocks;
use super::pack::{self, FinishedPack, FrameSpan, PackWriter};
use super::reader::ImageReader;
use super::source::{self, Declared, Source, SourceError};
use super::windows::{Hashing, Window};
use super::{ImageRef, ImageStore, RECORD_FORMAT, Record, StoreError, files, inspect};
use crate::clock::UnixSeconds;
use crate::gpt::GptError;
use crate::wire::manifest::{
    self, BLOCK_BYTES, BootFacts, ContentDigest, Digest, Extent, Frame, Manifest, ManifestError, WINDOW_BYTES,
};

/// What an image must be a multiple of: the smallest sector.
const SECTOR_BYTES: u64 = 512;

/// Most extents of an image. A disk of files has some ten thousand; one that repeats a single block is cut at each of its
/// blocks. With so many the encoded manifest stays below its own bound, and an import below 200 MB.
const EXTENTS_MAX: usize = 1 << 20;

/// What to import as.
#[derive(Debug, Clone)]
pub struct ImportRequest<'a> {
    pub image: &'a ImageRef,
    pub now: UnixSeconds,
    /// Where it comes from, for people.
    pub source: &'a str,
    /// An image that unpacks to more is refused, so that a small file cannot fill the disk.
    pub max_image_bytes: u64,
}

/// What became of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    New(Record),
    /// This version was there with the same content. Nothing changed.
    AlreadyThere(Record),
    /// The same, and what of the store was damaged is whole again by it, in part at least.
    Mended(Record),
}

impl Imported {
    #[must_use]
    pub fn record(&self) -> &Record {
        match self {
            Imported::New(record) | Imported::AlreadyThere(record) | Imported::Mended(record) => record,
        }
    }
}

/// Why an image was not imported. Nothing of it is listed, and nothing is kept.
#[derive(Debug, Error)]
pub enum ImportError {
    #[error("the image cannot be read to its end")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the image is larger than the {max_image_bytes} bytes that are allowed")]
    TooLarge { max_image_bytes: u64 },
    #[error("the image is empty")]
    Empty,
    #[error("the image has {image_bytes} bytes, which is no multiple of 512: it is no disk image, or cut short")]
    NotWholeSectors { image_bytes: u64 },
    #[error(
        "{image} exists with other content (content digest {existing}, offered {offered}): \
             a version never changes, import this as another version"
    )]
    OtherContent { image: ImageRef, existing: String, offered: String },
    #[error(
        "{image} was removed, and had other content (content digest {existing}, offered {offered}): \
             a version never changes, import this as another version"
    )]
    OtherContentBefore { image: ImageRef, existing: String, offered: String },
    #[error(
        "the manifest of {image} is damaged, and this import of the same content is packed in another way: take it from \
             another store (`regild image scrub --from`), or remove {image} and import it again"
    )]
    OtherwisePacked { image: ImageRef },
    #[error(
        "the image is cut into more than {extents_max} pieces: it repeats the same block of data all over; overwrite \
             unused room with zeros and import it again"
    )]
    TooManyPieces { extents_max: usize },
    #[error(transparent)]
    PartitionTable(#[from] GptError),
    #[error("the image is cut into more pieces than a manifest can list")]
    Manifest(#[source] ManifestError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImportError {
    /// What a stream said while it was read.
    pub(super) fn from_read(error: io::Error) -> ImportError {
        match error.downcast::<SourceError>() {
            Ok(source) => ImportError::Source(source),
            Err(error) => ImportError::Read(error),
        }
    }
}

impl ImageStore {
    /// Imports a disk image, raw or qcow2, plain or packed, by its magic; see [`ImageStore::import_declared`].
    ///
    /// # Errors
    /// [`ImportError`]; the store is then as it was before.
    pub fn import(
        &self,
        reader: impl Read,
        request: &ImportRequest,
        progress: &dyn Fn(u64),
    ) -> Result<Imported, ImportError> {
        self.import_declared(reader, &Declared::default(), request, progress)
    }

    /// Imports a disk image of which something is known before: that must hold. `progress` is told the raw bytes so
    /// far, about once for each MiB.
    ///
    /// # Errors
    /// [`ImportError`]; the store is then as it was before.
    pub fn import_declared(
        &self,
        reader: impl Read,
        declared: &Declared,
        request: &ImportRequest,
        progress: &dyn Fn(u64),
    ) -> Result<Imported, ImportError> {
        let mut source = source::open(reader, declared, request.max_image_bytes, &self.dir)?;
        // The lock guards no data, so one that a panic left poisoned is as good as any.
        let _alone = self.importing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scan = Scan::new(self)?;
        scan.read_all(&mut source, request.max_image_bytes, progress)?;
        source.finish()?;
        let content_digest = scan.content.clone().finish(scan.image_bytes);
        let Scan { index, writer, runs, image_bytes, .. } = scan;
        let new_pack = writer.finish()?;
        let is_mended = self.mend_by(&index, new_pack.as_ref())?;
        let existing = self.existing(request.image)?;
        if let Some(existing) = &existing {
            let offered = manifest::to_hex(&content_digest);
            if existing.content_digest != offered {
                let (image, existing) = (request.image.clone(), existing.content_digest.clone());
                return Err(ImportError::OtherContent { image, existing, offered });
            }
            if self.manifest(&existing.manifest).is_ok() {
                let existing = existing.clone();
                return Ok(if is_mended { Imported::Mended(existing) } else { Imported::AlreadyThere(existing) });
            }
        }
        if let Some(gone) = self.gone(request.image)? {
            let offered = manifest::to_hex(&content_digest);
            if gone.content_digest != offered {
                let existing = gone.content_digest;
                return Err(ImportError::OtherContentBefore { image: request.image.clone(), existing, offered });
            }
        }
        let mut manifest = describe(&index, new_pack.as_ref(), runs, image_bytes, content_digest);
        (manifest.boot, manifest.sector_bytes) = self.look_into(&manifest, new_pack.as_ref())?;
        if let Some(existing) = existing {
            return self.mend_manifest(existing, &manifest, new_pack);
        }
        let record = self.publish(request, declared, &manifest, new_pack)?;
        self.want_baseline(&record.manifest);
        Ok(Imported::New(record))
    }

    fn existing(&self, image: &ImageRef) -> Result<Option<Record>, StoreError> {
        match self.show(image) {
            Ok(record) => Ok(Some(record)),
            Err(StoreError::NoImage(_)) => Ok(None),
            // Damaged, but there is a copy.
            Err(StoreError::Damaged { .. }) if self.record_from_copy(image, &self.copy_path(&image.to_string()))? => {
                self.show(image).map(Some)
            }
            Err(e) => Err(e),
        }
    }

    /// Whether blocks of this import made damaged frames whole.
    fn mend_by(&self, index: &BlockIndex, new: Option<&FinishedPack>) -> Result<bool, StoreError> {
        if self.bad_list().packs.is_empty() {
            return Ok(false);
        }
        let packs = self.dir.join("packs");
        let said = self.mend(&mut Blocks { index, packs, new, last: HashMap::new() })?;
        said.iter().for_each(|said| tracing::info!(said, "an import mended the store"));
        Ok(!said.is_empty())
    }

    /// A manifest that cannot be read is written anew, if this import makes the very same one: its digest is in host
    /// records and orders.
    fn mend_manifest(
        &self,
        existing: Record,
        manifest: &Manifest,
        new_pack: Option<FinishedPack>,
    ) -> Result<Imported, ImportError> {
        let encoded = manifest.encode().map_err(ImportError::Manifest)?;
        if manifest::digest_hex(&encoded) != existing.manifest {
            return Err(ImportError::OtherwisePacked { image: existing.image });
        }
        self.publish_pack(new_pack)?;
        files::write_whole(&self.dir, &self.manifest_path(&existing.manifest), &encoded)?;
        self.keep_copy(&existing.manifest, &encoded)?;
        self.uses.forget(&existing.manifest);
        self.update_bad(|list| drop(list.manifests.remove(&existing.manifest)))?;
        Ok(Imported::Mended(existing))
    }

    fn publish_pack(&self, new_pack: Option<FinishedPack>) -> Result<(), StoreError> {
        let Some(pack) = new_pack else { return Ok(()) };
        let id = manifest::to_hex(&pack.id);
        // A pack of this name may be there and just being thinned; the new one must be the last.
        let _last = self.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
        pack.publish(&self.dir)?;
        self.pack_is_whole(&id)
    }

    /// Boot facts and sector size, read from the blocks themselves.
    fn look_into(&self, manifest: &Manifest, new: Option<&FinishedPack>) -> Result<(BootFacts, u32), ImportError> {
        let open = |id: &Digest| match new {
            Some(new) if new.id == *id => new.to_read(),
            _ => self.read_pack(&manifest::to_hex(id)),
        };
        let packs = manifest.packs.iter().map(open).collect::<Result<_, _>>()?;
        inspect::inspect(ImageReader::new(manifest, packs), manifest.image_bytes)
    }

    /// Pack, manifest, name: in this order, each on stable storage before the next.
    fn publish(
        &self,
        request: &ImportRequest,
        declared: &Declared,
        manifest: &Manifest,
        new_pack: Option<FinishedPack>,
    ) -> Result<Record, ImportError> {
        let encoded = manifest.encode().map_err(ImportError::Manifest)?;
        let manifest_digest = manifest::digest_hex(&encoded);
        let added_bytes = new_pack.as_ref().map_or(0, |pack| pack.pack_bytes);
        self.publish_pack(new_pack)?;
        files::write_whole(&self.dir, &self.manifest_path(&manifest_digest), &encoded)?;
        let record = Record {
            format: RECORD_FORMAT,
            image: request.image.clone(),
            manifest: manifest_digest,
            content_digest: manifest::to_hex(&manifest.content_digest),
            image_bytes: manifest.image_bytes,
            data_bytes: manifest.data_bytes(),
            added_bytes,
            imported_at: request.now,
            source: request.source.chars().take(1024).collect(),
            provenance: declared.provenance.clone(),
            facts: Some(Box::new(self.look_at(manifest))),
        };
        let place = self.record_path(request.image);
        files::create_dir(&self.dir.join("names").join(request.image.name()))?;
        let json = serde_json::to_vec_pretty(&record)
            .map_err(|e| StoreError::Damaged { path: place.clone(), reason: e.to_string() })?;
        files::write_whole(&self.dir, &place, &json)?;
        // The version is listed by now: that there is no second copy of its record yet is no failure of the import.
        if let Err(error) = self.keep_copies(&record, &encoded) {
            let error = crate::causes::in_one_line(&error);
            tracing::warn!(image = %record.image, error, "a version has no copy of its record and manifest; scrub the store");
        }
        Ok(record)
    }
}

/// A run of blocks as it was found: on the image and in a pack.
#[derive(Debug)]
struct Run {
    target_offset_bytes: u64,
    location: Location,
    blocks: u32,
    digest: Digest,
}

/// A run that may go on: which blocks of the window, and where they lie.
struct OpenRun {
    window_blocks: Range<usize>,
    location: Location,
}

/// One pass over the image.
struct Scan {
    index: BlockIndex,
    writer: PackWriter,
    content: ContentDigest,
    zero_digest: Digest,
    runs: Vec<Run>,
    runs_max: usize,
    image_bytes: u64,
}

impl Scan {
    fn new(store: &ImageStore) -> Result<Scan, StoreError> {
        Ok(Scan {
            index: BlockIndex::load(&store.dir, &store.bad_list())?,
            writer: PackWriter::create(&store.dir)?,
            content: ContentDigest::new(),
            zero_digest: manifest::digest(&[0; BLOCK_BYTES]),
            runs: Vec::new(),
            runs_max: EXTENTS_MAX,
            image_bytes: 0,
        })
    }

    fn read_all(&mut self, source: &mut Source, max: u64, progress: &dyn Fn(u64)) -> Result<(), ImportError> {
        std::thread::scope(|scope| {
            let mut hashing = Hashing::begin(scope);
            let mut done = None;
            loop {
                let window = Window::read(source, self.image_bytes, done.take())?;
                self.image_bytes += window.image_bytes;
                if self.image_bytes > max.min(manifest::IMAGE_BYTES_MAX) {
                    return Err(ImportError::TooLarge { max_image_bytes: max });
                }
                progress(self.image_bytes);
                let is_last = window.image_bytes < WINDOW_BYTES;
                done = hashing.exchange(window);
                if let Some(window) = &done {
                    self.place_window(window)?;
                }
                if is_last {
                    break;
                }
            }
            while let Some(window) = hashing.take() {
                self.place_window(&window)?;
            }
            Ok(())
        })?;
        match self.image_bytes {
            0 => Err(ImportError::Empty),
            image_bytes if !image_bytes.is_multiple_of(SECTOR_BYTES) => {
                Err(ImportError::NotWholeSectors { image_bytes })
            }
            _ => Ok(()),
        }
    }

    /// Runs end at window borders, so that head and body never share an extent.
    fn place_window(&mut self, window: &Window) -> Result<(), ImportError> {
        if window.is_hole() {
            for _ in 0..window.image_bytes / BLOCK_BYTES as u64 {
                self.content.add_block(&self.zero_digest);
            }
        }
        let mut open: Option<OpenRun> = None;
        for (number, (block, digest)) in window.bytes().chunks(BLOCK_BYTES).zip(window.digests()).enumerate() {
            self.content.add_block(digest.as_ref().unwrap_or(&self.zero_digest));
            let location = digest.as_ref().map(|digest| self.place(block, digest)).transpose()?;
            match (&mut open, location) {
                (Some(run), Some(location)) if run.is_continued_at(location) => run.window_blocks.end += 1,
                (_, location) => {
                    let next = location.map(|location| OpenRun { window_blocks: number..number + 1, location });
                    self.close_run(window, std::mem::replace(&mut open, next))?;
                }
            }
        }
        self.close_run(window, open)
    }

    fn close_run(&mut self, window: &Window, run: Option<OpenRun>) -> Result<(), ImportError> {
        let Some(OpenRun { window_blocks, location }) = run else { return Ok(()) };
        if self.runs.len() >= self.runs_max {
            return Err(ImportError::TooManyPieces { extents_max: self.runs_max });
        }
        let bytes = window_blocks.start * BLOCK_BYTES..window_blocks.end * BLOCK_BYTES;
        self.runs.push(Run {
            target_offset_bytes: window.offset_bytes + bytes.start as u64,
            location,
            // A window has 256 blocks.
            blocks: window_blocks.len() as u32,
            // In one piece: blake3 is twice as fast with 1 MiB as with 4 KiB at a time.
            digest: manifest::digest(&window.bytes()[bytes]),
        });
        Ok(())
    }

    /// Where this content lies, in this store or, new, in the pack that is being written.
    fn place(&mut self, block: &[u8], digest: &Digest) -> Result<Location, StoreError> {
        if let Some(found) = self.index.candidate(digest) {
            let is_same = match self.index.packs.get(found.pack as usize) {
                Some(known) => known.digest(found.block) == Some(*digest),
                None => self.writer.digest(found.block)?.as_ref() == Some(digest),
            };
            if is_same {
                return Ok(found);
            }
        }
        let location = Location {
            // Packs are files of one directory: far fewer than 2^32.
            pack: self.index.packs.len() as u32,
            block: self.writer.next_block(),
        };
        self.writer.push(block, *digest)?;
        self.index.insert(digest, location);
        Ok(location)
    }
}

impl OpenRun {
    fn is_continued_at(&self, location: Location) -> bool {
        let next_block = self.location.block + self.window_blocks.len() as u32;
        location.pack == self.location.pack && location.block == next_block
    }
}

/// The manifest of what was scanned: only the packs and frames that the image needs, in order.
fn describe(
    index: &BlockIndex,
    new_pack: Option<&FinishedPack>,
    runs: Vec<Run>,
    image_bytes: u64,
    content_digest: Digest,
) -> Manifest {
    let frame_of = |pack: u32, block: u32| match index.packs.get(pack as usize) {
        Some(known) => known.index.frame_of(block),
        None => pack::frame_of(block),
    };
    let frames_of = |run: &Run| {
        let pack = run.location.pack;
        let (first, _) = frame_of(pack, run.location.block);
        let (last, _) = frame_of(pack, run.location.block + run.blocks - 1);
        (first..=last).map(move |frame| (pack, frame))
    };
    let mut numbers: BTreeMap<(u32, u32), u32> = runs.iter().flat_map(frames_of).map(|key| (key, 0)).collect();
    let mut packs: Vec<Digest> = Vec::new();
    let mut frames: Vec<Frame> = Vec::with_capacity(numbers.len());
    let mut pack_before = None;
    for ((pack, frame), number) in &mut numbers {
        let known = index.packs.get(*pack as usize);
        if pack_before != Some(*pack) {
            pack_before = Some(*pack);
            packs.extend(known.map(|known| known.id).or(new_pack.map(|new| new.id)));
        }
        let new_span = || new_pack.and_then(|new| new.frames.get(*frame as usize).copied());
        let span: Option<FrameSpan> = known.map(|known| known.index.frame(*frame as usize)).or_else(new_span);
        *number = frames.len() as u32;
        frames.extend(span.map(|span| Frame {
            pack: packs.len() as u32 - 1,
            offset_bytes: span.offset_bytes,
            compressed_bytes: span.compressed_bytes,
            raw_bytes: span.raw_bytes,
        }));
    }
    let extents = runs.into_iter().map(|run| {
        let (frame, frame_block) = frame_of(run.location.pack, run.location.block);
        Extent {
            target_offset_bytes: run.target_offset_bytes,
            extent_bytes: run.blocks * BLOCK_BYTES as u32,
            frame: numbers[&(run.location.pack, frame)],
            frame_block,
            digest: run.digest,
        }
    });
    Manifest {
        image_bytes,
        sector_bytes: SECTOR_BYTES as u32,
        content_digest,
        boot: BootFacts::default(),
        extents: extents.collect(),
        packs,
        frames,
    }
}

#[cfg(test)]
mod tests;
