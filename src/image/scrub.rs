//! Scrub: everything is read again and compared with its digest, slowly, and from the disk, not from the page cache.
//!
//! What is bad is written down as it is found (`bad`); versions that need it are refused from then on. What can be put back
//! is put back: manifests and records from their copies, an index from the pack and its manifests, and all of it from
//! another store, if one is named. Frames are also mended by an import of the same content (`mend`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::bad::BadPack;
use super::pack::{FrameSpan, PackIndex, read_frame, rebuild_index};
use super::uses::digests_in;
use super::{ImageRef, ImageStore, Record, StoreError, io_error};
use crate::causes::in_one_line;
use crate::clock::{self, UnixSeconds};
use crate::wire::manifest::{self, BLOCK_BYTES, Extent, FRAME_BYTES, Frame, Manifest};

/// Bytes between two looks at the clock.
const PIECE_BYTES: u64 = 1 << 20;
/// How long it is waited for an import before it is looked whether the scrub should end.
const WAIT: Duration = Duration::from_secs(1);

/// What to read, and how.
#[derive(Debug)]
pub struct ScrubRequest<'a> {
    /// One version; everything without it.
    pub image: Option<&'a ImageRef>,
    /// Another store to take from what is damaged here.
    pub from: Option<&'a Path>,
    /// 0: as fast as the disk.
    pub bytes_per_second: u64,
    pub now: UnixSeconds,
}

/// What was read, found and mended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    pub records: u64,
    pub manifests: u64,
    pub packs: u64,
    pub frames: u64,
    pub read_bytes: u64,
    /// A sentence for each damaged thing, as it is after the mending.
    pub bad: Vec<String>,
    pub mended: Vec<String>,
    /// It was told to end before its end.
    pub is_cut: bool,
}

/// A scrub that is under way.
struct Pass<'a> {
    store: &'a ImageStore,
    request: &'a ScrubRequest<'a>,
    stop: &'a dyn Fn() -> bool,
    began: std::time::Instant,
    report: ScrubReport,
}

impl ImageStore {
    /// Reads everything, or one version, again. `stop` is asked between pieces.
    ///
    /// # Errors
    /// [`StoreError`] when directories cannot be read or the findings cannot be written down.
    pub fn scrub(&self, request: &ScrubRequest<'_>, stop: &dyn Fn() -> bool) -> Result<ScrubReport, StoreError> {
        let mut pass = Pass { store: self, request, stop, began: clock::instant(), report: ScrubReport::default() };
        let manifests = match request.image {
            Some(image) => pass.record(image)?.into_iter().map(|record| record.manifest).collect(),
            None => pass.records()?,
        };
        let mut packs = Vec::new();
        for digest in &manifests {
            packs.extend(pass.manifest(digest)?);
        }
        if request.image.is_none() {
            packs = digests_in(&self.dir.join("packs"), ".pack")?.into_iter().chain(packs).collect();
        }
        packs.sort();
        packs.dedup();
        for id in &packs {
            if stop() {
                pass.report.is_cut = true;
                break;
            }
            pass.pack(id)?;
        }
        if let Some(other) = request.from {
            pass.report.mended.extend(self.packs_from(other)?);
            let mended = self.mend_from(other)?;
            pass.report.mended.extend(mended);
        }
        let mut report = pass.report;
        if request.image.is_none() && !report.is_cut {
            self.update_bad(|list| {
                list.scrubbed_at = request.now;
                // What is not there any more is not damaged.
                list.packs.retain(|id, _| packs.contains(id));
                list.manifests.retain(|digest, _| manifests.contains(digest));
                list.records.retain(|image, _| self.record_path(image).exists());
            })?;
        }
        report.bad = sentences(&self.bad_list());
        Ok(report)
    }

    /// When the last scrub of everything came to its end.
    #[must_use]
    pub fn scrubbed_at(&self) -> UnixSeconds {
        self.bad_list().scrubbed_at
    }

    /// Versions that cannot be counted on, and why, as far as is known.
    ///
    /// # Errors
    /// When the list of names cannot be read.
    pub fn damaged(&self) -> Result<Vec<(ImageRef, String)>, StoreError> {
        let list = self.bad_list();
        let mut damaged = Vec::new();
        for image in self.names()? {
            let why = match self.show(&image) {
                Err(StoreError::NoImage(_)) => continue,
                Err(error) => Some(in_one_line(&error)),
                Ok(_) if list.is_empty() => None,
                Ok(record) => match list.manifests.get(&record.manifest) {
                    Some(why) => Some(format!("its manifest is damaged: {why}")),
                    None => {
                        self.uses(&record.manifest).map_or_else(|e| Some(in_one_line(&e)), |uses| list.concerns(&uses))
                    }
                },
            };
            damaged.extend(why.map(|why| (image, format!("it is damaged ({why}); import the same content again"))));
        }
        Ok(damaged)
    }

    /// Whole packs that are missing here, from a store that has them as they were written.
    fn packs_from(&self, other: &Path) -> Result<Vec<String>, StoreError> {
        let mut said = Vec::new();
        for (id, _) in self.bad_list().packs {
            let theirs = other.join("packs").join(format!("{id}.pack"));
            if self.pack_path(&id).exists() || !theirs.exists() {
                continue;
            }
            // Its name is its digest, unless it was thinned there: then its frames would have to be told apart.
            let mut hasher = blake3::Hasher::new();
            let mut file = File::open(&theirs).map_err(io_error("open", &theirs))?;
            std::io::copy(&mut file, &mut hasher).map_err(io_error("read", &theirs))?;
            if hasher.finalize().to_hex().as_str() != id {
                continue;
            }
            let index = fs::read(theirs.with_extension("idx")).map_err(io_error("read", &theirs))?;
            super::files::write_whole(&self.dir, &self.pack_path(&id).with_extension("idx"), &index)?;
            let temp = super::files::TempFile::create(&self.dir)?;
            fs::copy(&theirs, temp.path()).map_err(io_error("copy", &theirs))?;
            temp.publish(&self.pack_path(&id))?;
            self.pack_is_whole(&id)?;
            said.push(format!("pack {id} was taken from {}", other.display()));
        }
        Ok(said)
    }
}

fn sentences(list: &super::bad::BadList) -> Vec<String> {
    let records = list.records.iter().map(|(image, why)| format!("the record of {image}: {why}"));
    let manifests = list.manifests.iter().map(|(digest, why)| format!("manifest {digest}: {why}"));
    let packs = list.packs.iter().map(|(id, bad)| match (&bad.whole, bad.frames.first_key_value()) {
        (Some(why), _) => format!("pack {id}: {why}"),
        (None, Some((at, why))) => format!("pack {id}: {} frames, the first one at {at}: {why}", bad.frames.len()),
        (None, None) => format!("pack {id}"),
    });
    records.chain(manifests).chain(packs).collect()
}

impl Pass<'_> {
    /// Every record; the digests of every manifest that is there or should be.
    fn records(&mut self) -> Result<Vec<String>, StoreError> {
        let mut manifests = digests_in(&self.store.dir.join("manifests"), "")?;
        for image in self.store.names()? {
            manifests.extend(self.record(&image)?.map(|record| record.manifest));
        }
        manifests.sort();
        manifests.dedup();
        Ok(manifests)
    }

    fn record(&mut self, image: &ImageRef) -> Result<Option<Record>, StoreError> {
        let store = self.store;
        self.report.records += 1;
        let mut read = store.show(image);
        if let Err(StoreError::Damaged { .. }) = &read {
            let copies = [
                Some(store.copy_path(&image.to_string())),
                self.request.from.map(|other| other.join("names").join(image.name()).join(image.version())),
            ];
            for copy in copies.into_iter().flatten() {
                if store.record_from_copy(image, &copy)? {
                    self.report.mended.push(format!("the record of {image} was taken from {}", copy.display()));
                    read = store.show(image);
                    break;
                }
            }
        }
        if read.is_ok()
            && let Ok(json) = fs::read(store.record_path(image))
        {
            store.keep_copy(&image.to_string(), &json)?;
        }
        store.update_bad(|list| {
            match &read {
                Ok(_) | Err(StoreError::NoImage(_)) => list.records.remove(image),
                Err(error) => list.records.insert(image.clone(), in_one_line(error)),
            };
        })?;
        match read {
            Err(error) if self.request.image.is_some() && error.is_missing() => Err(error),
            read => Ok(read.ok()),
        }
    }

    /// Its packs.
    fn manifest(&mut self, digest: &str) -> Result<Vec<String>, StoreError> {
        let store = self.store;
        self.report.manifests += 1;
        store.uses.forget(digest);
        let mut read = store.manifest(digest);
        if read.is_err() {
            let copies =
                [Some(store.copy_path(digest)), self.request.from.map(|other| other.join("manifests").join(digest))];
            for copy in copies.into_iter().flatten() {
                if store.manifest_from_copy(digest, &copy)? {
                    self.report.mended.push(format!("manifest {digest} was taken from {}", copy.display()));
                    read = store.manifest(digest);
                    break;
                }
            }
        } else if let Ok(encoded) = store.manifest_bytes(digest) {
            store.keep_copy(digest, &encoded)?;
        }
        store.update_bad(|list| {
            match &read {
                Ok(_) => list.manifests.remove(digest),
                Err(error) => list.manifests.insert(digest.to_owned(), in_one_line(error)),
            };
        })?;
        Ok(read.map(|manifest| manifest.packs.iter().map(manifest::to_hex).collect()).unwrap_or_default())
    }

    fn pack(&mut self, id: &str) -> Result<(), StoreError> {
        self.report.packs += 1;
        let found = match self.look_at_pack(id) {
            Ok(found) => found,
            Err(error) => BadPack { whole: Some(in_one_line(&error)), ..BadPack::default() },
        };
        let is_cut = self.report.is_cut;
        self.store.update_bad(|list| {
            // Of what was not read again it holds what was known before.
            if !is_cut {
                list.packs.remove(id);
            }
            if let Some(why) = found.whole {
                list.packs.insert(id.to_owned(), BadPack { whole: Some(why), ..BadPack::default() });
            }
            for (offset, why) in found.frames {
                list.add_frame(id, offset, why);
            }
        })
    }

    fn look_at_pack(&mut self, id: &str) -> Result<BadPack, StoreError> {
        let path = self.store.pack_path(id);
        let file = File::open(&path).map_err(io_error("open", &path))?;
        // What lies in the page cache says nothing about the disk. Where this is not heeded, the read is still a check.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let index = match PackIndex::open(&path.with_extension("idx")) {
            Ok(index) => index,
            Err(StoreError::Damaged { .. }) => return self.without_index(id),
            Err(error) => return Err(error),
        };
        let mut bad = BadPack::default();
        let mut since_pause = 0;
        for number in (0..index.frames()).filter(|number| !index.is_dropped(*number)) {
            let span = index.frame(number);
            if let Err(why) = frame(&file, &index, number) {
                bad.frames.insert(span.offset_bytes, why);
            }
            self.report.frames += 1;
            self.report.read_bytes += u64::from(span.compressed_bytes);
            since_pause += u64::from(span.compressed_bytes);
            if since_pause >= PIECE_BYTES {
                since_pause = 0;
                self.pause();
                if (self.stop)() {
                    self.report.is_cut = true;
                    break;
                }
            }
        }
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        Ok(bad)
    }

    /// Keeps to the rate.
    fn pause(&self) {
        if let Some(rate) = std::num::NonZeroU64::new(self.request.bytes_per_second) {
            let due = Duration::from_millis(self.report.read_bytes.saturating_mul(1000) / rate);
            clock::sleep(due.saturating_sub(self.began.elapsed()));
        }
    }

    /// The index is made again from what the manifests say of this pack; what of the pack is damaged their digests say.
    ///
    /// Imports wait meanwhile: one that knows the pack by its former index would build on frames, and on numbers of
    /// blocks, that the new one has not.
    fn without_index(&mut self, id: &str) -> Result<BadPack, StoreError> {
        let store = self.store;
        let _alone = loop {
            if let Some(alone) = store.alone(WAIT) {
                break alone;
            }
            if (self.stop)() {
                self.report.is_cut = true;
                return Ok(BadPack::default());
            }
        };
        let path = store.pack_path(id);
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let mut frames: Vec<Frame> = Vec::new();
        let mut bad = BadPack::default();
        for digest in all_manifests(store)? {
            // Nothing is written when one of them cannot be read: the new index would lack what it needs, and what no
            // index has is thinned away.
            let manifest = match store.manifest(&digest) {
                Err(_) if store.manifest_from_copy(&digest, &store.copy_path(&digest))? => store.manifest(&digest)?,
                read => read?,
            };
            let of_it = manifest.frames.iter().filter(|frame| manifest.pack_id(frame) == id);
            frames.extend(of_it);
            bad.frames.extend(damaged_frames(&file, &manifest, id));
        }
        frames.sort_by_key(|frame| frame.offset_bytes);
        frames.dedup_by_key(|frame| frame.offset_bytes);
        self.report.frames += frames.len() as u64;
        rebuild_index(&store.dir, &path, &frames, &bad.frames)?;
        // What only the lost index knew of would lie in the pack for ever. No manifest needs it, and no import runs.
        store.thin(id)?;
        self.report.mended.push(format!("the index of pack {id} was made again from the pack and its manifests"));
        Ok(bad)
    }
}

/// Digests of the manifests that are there and of those that a listed version names.
fn all_manifests(store: &ImageStore) -> Result<BTreeSet<String>, StoreError> {
    let mut all: BTreeSet<String> = digests_in(&store.dir.join("manifests"), "")?.into_iter().collect();
    all.extend(store.list()?.into_iter().map(|record| record.manifest));
    Ok(all)
}

/// By the digests of a manifest's extents: which frames of this pack are not what they should be, and why.
fn damaged_frames(pack: &File, manifest: &Manifest, id: &str) -> BTreeMap<u64, String> {
    // The frames of an extent are of one pack and follow one another (checked when the manifest was read); in the order
    // of frames each is unpacked once, and at most those of one extent are kept.
    let is_of_it = |extent: &&Extent| {
        manifest.frames.get(extent.frame as usize).is_some_and(|frame| manifest.pack_id(frame) == id)
    };
    let mut extents: Vec<&Extent> = manifest.extents.iter().filter(is_of_it).collect();
    extents.sort_by_key(|extent| (extent.frame, extent.frame_block));
    let mut unpacked: BTreeMap<usize, Result<Vec<u8>, String>> = BTreeMap::new();
    let mut bad = BTreeMap::new();
    for extent in extents {
        let numbers = manifest.frames_of(extent);
        unpacked = unpacked.split_off(&numbers.start);
        let mut raw = Ok(Vec::new());
        for number in numbers.clone() {
            let frame = &manifest.frames[number];
            let (offset_bytes, compressed_bytes, raw_bytes) =
                (frame.offset_bytes, frame.compressed_bytes, frame.raw_bytes);
            let read =
                || read_frame(pack, FrameSpan { offset_bytes, compressed_bytes, raw_bytes }).map_err(|e| e.to_string());
            match (unpacked.entry(number).or_insert_with(read), &mut raw) {
                (Ok(one), Ok(all)) => all.extend_from_slice(one),
                (Err(why), _) => raw = Err(why.clone()),
                (Ok(_), Err(_)) => {}
            }
        }
        let first = extent.frame_block as usize * BLOCK_BYTES;
        let why = match raw.map(|raw| raw.get(first..first + extent.extent_bytes as usize).map(manifest::digest)) {
            Ok(Some(digest)) if digest == extent.digest => continue,
            Ok(_) => "a block in it is not what was stored".to_string(),
            Err(why) => why,
        };
        bad.extend(manifest.frames[numbers].iter().map(|frame| (frame.offset_bytes, why.clone())));
    }
    bad
}

/// One frame, read from the disk and compared with the digests of its blocks.
fn frame(file: &File, index: &PackIndex, number: usize) -> Result<(), String> {
    let span = index.frame(number);
    let mut compressed = vec![0; span.compressed_bytes as usize];
    file.read_exact_at(&mut compressed, span.offset_bytes).map_err(|error| format!("it cannot be read: {error}"))?;
    let raw =
        zstd::bulk::decompress(&compressed, FRAME_BYTES).map_err(|error| format!("it does not unpack: {error}"))?;
    if raw.len() != span.raw_bytes as usize {
        return Err("it is shorter than its index says".to_string());
    }
    for (number, block) in index.blocks_of(number).zip(raw.chunks(BLOCK_BYTES)) {
        let known = index.digest(number).map_err(|error| crate::causes::in_one_line(&error))?;
        if known != Some(manifest::digest(block)) {
            return Err("a block in it is not what was stored".to_string());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
