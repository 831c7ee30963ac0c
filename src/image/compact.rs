//! Packs of which little is needed are written anew, under the same name, with every needed frame at its old place.
//!
//! A pack's name is in manifests, a manifest's digest is in host records and orders, and agents are fetching ranges of it
//! at this moment: none of that may change. So the new file is as long as the old one, and where nothing is needed it has
//! holes, which cost no room. For everybody who reads by a manifest the two files are equal.
//!
//! First the index loses the frames, so that no import builds on them; then the file is replaced by one rename. A crash
//! between leaves frames that no index knows, and the next run finds them there.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::PoisonError;

use super::files::TempFile;
use super::gc::{Does, GcReport, PackFate, pack_digest};
use super::pack::{FrameSpan, PackIndex};
use super::uses::{Live, digests_in};
use super::{ImageStore, StoreError, io_error};
use crate::wire::manifest::PACK_HEADER_BYTES;

/// A pack is written anew when at least this part of it, one in so many bytes, is not needed: then what is copied is at
/// most three times what is freed.
const DEAD_ONE_IN: u64 = 4;
/// Less is not worth a file's syncing.
const DEAD_BYTES_MIN: u64 = 64 << 10;
const COPY_BYTES: usize = 1 << 20;

impl ImageStore {
    /// What is to become of each pack of which something is not needed.
    pub(super) fn pack_fates(&self, live: &Live, report: &mut GcReport) -> Result<Vec<PackFate>, StoreError> {
        let mut fates = Vec::new();
        for id in digests_in(&self.dir.join("packs"), ".pack")? {
            let live_bytes = live.bytes(&pack_digest(&id));
            if live_bytes == 0 {
                let path = self.pack_path(&id);
                let held_bytes = std::fs::metadata(&path).map_err(io_error("look at", &path))?.len();
                fates.push(PackFate { id, held_bytes, live_bytes, does: Does::Goes });
                continue;
            }
            match self.fate_of_needed(&id, live, live_bytes) {
                Ok(fate) => fates.extend(fate),
                Err(error) => report.failed.push(crate::causes::in_one_line(&error)),
            }
        }
        Ok(fates)
    }

    fn fate_of_needed(&self, id: &str, live: &Live, live_bytes: u64) -> Result<Option<PackFate>, StoreError> {
        let path = self.pack_path(id);
        let index = PackIndex::open_unchecked(&path.with_extension("idx"))?;
        let digest = pack_digest(id);
        let (mut held_bytes, mut is_cut) = (0, false);
        for number in 0..index.frames() {
            is_cut |= index.is_dropped(number);
            held_bytes += u64::from(index.frame(number).compressed_bytes);
        }
        let dead_bytes = held_bytes.saturating_sub(live_bytes);
        let is_worth_it = dead_bytes >= DEAD_BYTES_MIN && dead_bytes * DEAD_ONE_IN >= held_bytes;
        // A crash came between the index and the pack, if the index drops what is there still.
        let is_half_done = || -> Result<bool, StoreError> {
            let file = File::open(&path).map_err(io_error("open", &path))?;
            for number in (0..index.frames()).filter(|number| index.is_dropped(*number)) {
                let offset = index.frame(number).offset_bytes;
                if !live.holds(&digest, offset) && !is_hole(&file, offset, &path)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let does = if is_worth_it || (is_cut && is_half_done()?) { Does::Thinned } else { Does::Stays };
        if does == Does::Stays && dead_bytes == 0 {
            return Ok(None);
        }
        Ok(Some(PackFate { id: id.to_owned(), held_bytes: held_bytes.max(live_bytes), live_bytes, does }))
    }

    /// Takes out of a pack's index what is not needed.
    pub(super) fn drop_frames(&self, id: &str, live: &Live) -> Result<(), StoreError> {
        let path = self.pack_path(id).with_extension("idx");
        let index = PackIndex::open(&path)?;
        let pack = pack_digest(id);
        let unneeded =
            |number: &usize| !index.is_dropped(*number) && !live.holds(&pack, index.frame(*number).offset_bytes);
        let dropped: Vec<usize> = (0..index.frames()).filter(unneeded).collect();
        if dropped.is_empty() {
            return Ok(());
        }
        index.write_without(&self.dir, &path, &dropped)
    }

    /// Writes a pack anew with nothing but what its index has.
    pub(super) fn thin(&self, id: &str) -> Result<(), StoreError> {
        let _alone = self.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
        let index = PackIndex::open(&self.pack_path(id).with_extension("idx"))?;
        let frames = (0..index.frames()).filter(|number| !index.is_dropped(*number));
        let frames: Vec<FrameSpan> = frames.map(|number| index.frame(number)).collect();
        self.rewrite_pack(id, &frames, &[])
    }

    /// The frames of a pack at their places in a new file, some of them with other bytes of at most the same length; the
    /// new file takes the old one's name. Whoever calls this holds `rewriting`.
    pub(super) fn rewrite_pack(
        &self,
        id: &str,
        frames: &[FrameSpan],
        replaced: &[(u64, Vec<u8>)],
    ) -> Result<(), StoreError> {
        let path = self.pack_path(id);
        let old = OpenOptions::new().read(true).open(&path).map_err(io_error("open", &path))?;
        let new = TempFile::create(&self.dir)?;
        let length = old.metadata().map_err(io_error("look at", &path))?.len();
        new.file.set_len(length).map_err(io_error("lengthen", new.path()))?;
        copy(&old, &new.file, 0, PACK_HEADER_BYTES, &path)?;
        let mut run: Option<(u64, u64)> = None;
        for frame in frames.iter().filter(|frame| !replaced.iter().any(|(at, _)| *at == frame.offset_bytes)) {
            let end = frame.offset_bytes + u64::from(frame.compressed_bytes);
            run = match run {
                Some((start, before)) if before == frame.offset_bytes => Some((start, end)),
                Some((start, before)) => {
                    copy(&old, &new.file, start, before, &path)?;
                    Some((frame.offset_bytes, end))
                }
                None => Some((frame.offset_bytes, end)),
            };
        }
        if let Some((start, end)) = run {
            copy(&old, &new.file, start, end, &path)?;
        }
        for (offset, bytes) in replaced {
            new.file.write_all_at(bytes, *offset).map_err(io_error("write", new.path()))?;
        }
        new.publish(&path)?;
        self.packs.forget(id);
        Ok(())
    }
}

/// Whether nothing is there: a frame of zstd begins with its magic number, never with zeros.
fn is_hole(file: &File, offset: u64, path: &Path) -> Result<bool, StoreError> {
    let mut first = [0; 4];
    file.read_exact_at(&mut first, offset).map_err(io_error("read", path))?;
    Ok(first == [0; 4])
}

fn copy(from: &File, to: &File, start: u64, end: u64, path: &Path) -> Result<(), StoreError> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = start;
    while at < end {
        let piece = &mut buffer[..(end - at).min(COPY_BYTES as u64) as usize];
        from.read_exact_at(piece, at).map_err(io_error("read", path))?;
        to.write_all_at(piece, at).map_err(io_error("write a new", path))?;
        at += piece.len() as u64;
    }
    Ok(())
}
