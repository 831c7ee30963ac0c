//! FAT by its directories: all of it is listed when it is opened, and a file is opened anew for each read.
//!
//! fatfs keeps references that no other thread may have, so nothing of it is kept.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::{Fat, Options, caught, found};
use crate::decide::drift::finding::Kind;
use crate::volume::lookup::{Layout, Lookup, Names};
use crate::volume::{Fault, Found, VolumeError};

/// A FAT file system; its device can be read from several places at once.
#[derive(Debug)]
pub struct FatLookup<R> {
    device: R,
    options: Options,
    /// In the order of paths.
    all: Vec<Found>,
    /// Of all reads: each opens the file system anew.
    budget_bytes: Arc<AtomicU64>,
}

impl<R: Read + Seek + Clone> FatLookup<R> {
    /// # Errors
    /// It is no FAT, or a damaged one.
    pub fn open(device: R, options: Options) -> Result<FatLookup<R>, VolumeError> {
        let all = Fat::open(device.clone(), options)?.all;
        let budget_bytes = super::bounded(device.clone(), None).map_err(|fault| fault.at(b"/"))?.budget_bytes;
        Ok(FatLookup { device, options, all, budget_bytes })
    }

    fn numbered(&self, number: u64, path: &[u8]) -> Result<Found, VolumeError> {
        let found = usize::try_from(number).ok().and_then(|at| self.all.get(at)).cloned();
        found.ok_or_else(|| Fault::Damaged("it is not there".to_owned()).at(path))
    }

    fn read_from(&self, path: &[u8], bytes: u64, offset_bytes: u64, out: &mut [u8]) -> Result<usize, Fault> {
        let left = usize::try_from(bytes.saturating_sub(offset_bytes)).unwrap_or(usize::MAX).min(out.len());
        let name = std::str::from_utf8(path).unwrap_or_default().trim_start_matches('/');
        let bounded = super::bounded(self.device.clone(), Some(Arc::clone(&self.budget_bytes)))?;
        caught(|| {
            let files = fatfs::FileSystem::new(bounded, fatfs::FsOptions::new())?;
            let mut file = files.root_dir().open_file(name)?;
            file.seek(SeekFrom::Start(offset_bytes))?;
            let mut filled = 0;
            while let Some(room) = out.get_mut(filled..left).filter(|room| !room.is_empty()) {
                match file.read(room)? {
                    0 => return Fault::damaged("its clusters end before its size"),
                    count => filled += count,
                }
            }
            Ok(filled)
        })
    }
}

impl<R: Read + Seek + Clone + Send> Lookup for FatLookup<R> {
    fn root(&mut self) -> Result<Found, VolumeError> {
        Ok(found(b"/".to_vec(), Kind::Directory, 0, &self.options, false))
    }

    fn names(&mut self, directory: &Found, bytes_max: usize) -> Result<Names, VolumeError> {
        let top = directory.path.strip_suffix(b"/").unwrap_or(&directory.path);
        let name = |found: &Found| {
            let name = found.path.strip_prefix(top)?.strip_prefix(b"/")?;
            (!name.is_empty() && !name.contains(&b'/')).then(|| name.to_vec())
        };
        // All of it is in memory already, and has a bound.
        let names: Names = (0..).zip(&self.all).filter_map(|(at, found)| Some((name(found)?, at))).collect();
        let bytes: usize = names.iter().map(|(name, _)| name.len()).sum();
        if bytes > bytes_max {
            return Err(Fault::TooMuch(format!("more than {bytes_max} bytes of names")).at(&directory.path));
        }
        Ok(names)
    }

    fn at(&mut self, number: u64, path: &[u8]) -> Result<Found, VolumeError> {
        self.numbered(number, path)
    }

    fn find(&mut self, path: &[u8]) -> Result<Option<Found>, VolumeError> {
        Ok(self.all.iter().find(|found| found.path == path).cloned())
    }

    fn layout(&mut self, found: &Found) -> Result<Layout, VolumeError> {
        let Kind::File { bytes, .. } = found.node.kind else { return Ok(Layout::default()) };
        Ok(Layout { bytes, ..Layout::default() })
    }

    fn read_at(
        &mut self,
        found: &Found,
        layout: &Layout,
        offset_bytes: u64,
        out: &mut [u8],
    ) -> Result<usize, VolumeError> {
        let read = self.read_from(&found.path, layout.bytes, offset_bytes, out);
        read.map_err(|fault| fault.at(&found.path))
    }
}
