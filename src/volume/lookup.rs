//! A file system gone through by its directories, in any order: what a walk that somebody else leads asks for.

use super::{Found, VolumeError};

/// Longest list of where one file lies. A file in more pieces than this is not read.
pub const RUNS_MAX: usize = 1 << 20;

/// Names of a directory, sorted bytewise; each with the number by which [`Lookup::at`] finds it.
pub type Names = Vec<(Vec<u8>, u64)>;

pub trait Lookup: Send {
    /// # Errors
    /// [`VolumeError`].
    fn root(&mut self) -> Result<Found, VolumeError>;

    /// The names take at most `bytes_max`. A directory may be asked once: one that is reached twice is a loop.
    ///
    /// # Errors
    /// [`VolumeError`], with the path.
    fn names(&mut self, directory: &Found, bytes_max: usize) -> Result<Names, VolumeError>;

    /// What a name's number stands for; `path` is what it is called then.
    ///
    /// # Errors
    /// [`VolumeError`], with the path.
    fn at(&mut self, number: u64, path: &[u8]) -> Result<Found, VolumeError>;

    /// Looks one path up, as [`super::Tree::find`].
    ///
    /// # Errors
    /// [`VolumeError`], with the path.
    fn find(&mut self, path: &[u8]) -> Result<Option<Found>, VolumeError>;

    /// Where a file's content lies.
    ///
    /// # Errors
    /// [`VolumeError`], with the path.
    fn layout(&mut self, found: &Found) -> Result<Layout, VolumeError>;

    /// Content of a file from `offset_bytes` on; as much as fits and is there, 0 at its end.
    ///
    /// # Errors
    /// [`VolumeError`], with the path.
    fn read_at(
        &mut self,
        found: &Found,
        layout: &Layout,
        offset_bytes: u64,
        out: &mut [u8],
    ) -> Result<usize, VolumeError>;
}

/// Where a file's content lies.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    pub(super) bytes: u64,
    /// In order; what none covers is a hole. Empty where the reader finds its way by itself.
    pub(super) runs: Vec<Run>,
    /// Between two runs, and behind the last, are holes.
    pub(super) has_holes: bool,
}

/// In bytes of the file, and of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub start: u64,
    pub length: u64,
    pub block: u64,
}

impl Layout {
    /// Where the next byte lies that is in no hole, at or after `offset_bytes`; `u64::MAX`: nowhere.
    #[must_use]
    pub fn next_data(&self, offset_bytes: u64) -> u64 {
        if !self.has_holes {
            return offset_bytes;
        }
        let next = self.runs.partition_point(|run| run.start + run.length <= offset_bytes);
        self.runs.get(next).map_or(u64::MAX, |run| run.start.max(offset_bytes))
    }

    /// The run that holds this byte, or how far the hole goes in which it lies.
    pub(super) fn run_at(&self, offset_bytes: u64) -> Result<Run, u64> {
        let next = self.runs.partition_point(|run| run.start + run.length <= offset_bytes);
        match self.runs.get(next) {
            Some(run) if run.start <= offset_bytes => Ok(*run),
            Some(run) => Err(run.start),
            None => Err(self.bytes),
        }
    }
}
