//! The file systems of a disk, opened: those that this program reads, and those that the kernel is asked to mount.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::{DiskReader, ReadOnlyDisk};
use super::kernel::{Mounted, Place};
use super::table;
use super::tree::{Files, Volume};
use crate::agent::drift::{Content, LiveTree, Tree};
use crate::causes;
use crate::decide::drift::finding::Kind;
use crate::decide::drift::path;
use crate::volume::fat::Options;
use crate::volume::layout::fstab::{self, Line};
use crate::volume::lookup::Lookup;
use crate::volume::{Format, Section, detect};
use crate::wire::baseline::{self, Known};
use crate::wire::manifest::WINDOW_BYTES;

/// The most of a file that is read as an fstab.
pub const FSTAB_BYTES_MAX: usize = 64 << 10;

/// Why a disk's tree cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the root file system (partition {partition}) cannot be read: {reason}")]
    Root { partition: u32, reason: String },
    #[error("no root file system is known whose files could be looked at")]
    NoRoot,
}

/// The volumes whose files are known.
pub struct Opened {
    pub root: Volume,
    pub others: Vec<Volume>,
    /// Where a volume belongs that is not looked into, and why: nothing under it is this tree's.
    pub missing: Vec<(Vec<u8>, String)>,
    /// Unmounted when this goes, after the trees in them.
    pub mounted: Vec<Mounted>,
}

/// Opens all whose files are to be looked at; `mounts`: where the kernel may mount what only it reads.
///
/// # Errors
/// [`OpenError`]. Another volume than the root that cannot be opened is missing.
pub fn open(disk: &ReadOnlyDisk, volumes: &[baseline::Volume], mounts: Option<&Path>) -> Result<Opened, OpenError> {
    let mut placed: Vec<(&baseline::Volume, Vec<u8>)> =
        volumes.iter().filter_map(|volume| Some((volume, volume.mounted_at.clone()?.into_bytes()))).collect();
    // The root first: its fstab says how the others are mounted.
    placed.sort_by(|a, b| path::order(&a.1, &b.1));
    let (mut root, mut others, mut missing, mut mounted) = (None, Vec::new(), Vec::new(), Vec::new());
    let mut fstab = Vec::new();
    for (volume, at) in placed {
        let is_root = at == b"/";
        let reason = match &volume.known {
            Known::Files => None,
            Known::Blocks { .. } => Some("compared block by block, not by its files".to_owned()),
            Known::Not { reason } => Some(reason.clone()),
        };
        if let Some(reason) = reason {
            missing.extend((!is_root).then_some((at, reason)));
            continue;
        }
        let files = open_one(disk, volume, fat_options(&fstab, &at), mounts, &mut mounted);
        match (is_root, files) {
            (true, Err(reason)) => return Err(OpenError::Root { partition: volume.partition, reason }),
            (true, Ok(files)) => {
                fstab = fstab::parse(&small_file(&files, b"/etc/fstab", FSTAB_BYTES_MAX).unwrap_or_default());
                root = Some(Volume { mounted_at: at, partition: volume.partition, files });
            }
            (false, Err(reason)) => missing.push((at, reason)),
            (false, Ok(files)) => others.push(Volume { mounted_at: at, partition: volume.partition, files }),
        }
    }
    Ok(Opened { root: root.ok_or(OpenError::NoRoot)?, others, missing, mounted })
}

/// Opens one, as it should be there.
///
/// # Errors
/// One line.
pub fn open_one(
    disk: &ReadOnlyDisk,
    volume: &baseline::Volume,
    options: Options,
    mounts: Option<&Path>,
    mounted: &mut Vec<Mounted>,
) -> Result<Files, String> {
    let range = range_of(disk, volume.partition)?;
    let section = Section::new(disk.reader(), range.start, range.end - range.start);
    let found = detect::detect(section.clone()).map_err(|error| format!("the disk cannot be read: {error}"))?;
    if found.format.is_read_here() {
        return read_here(section, found.format, options);
    }
    if found.format.word() != volume.format_word() {
        return Err(format!("the image has {} there, the disk {}", volume.format, found.format.word()));
    }
    let Some(place) = mounts else { return Err(format!("{} is not read by hand", volume.format)) };
    // Of one partition several subvolumes may be mounted.
    let path = place.join(format!("volume-{}-{}", volume.partition, mounted.len()));
    let mount = Mounted::new(
        disk,
        Place { partition: volume.partition, start_bytes: range.start },
        found.format,
        volume.subvolume(),
        path,
    )?;
    let tree =
        LiveTree::new(mount.path(), std::iter::empty()).map_err(|error| format!("it cannot be looked at: {error}"))?;
    mounted.push(mount);
    Ok(Files::Kernel(tree))
}

fn read_here(section: Section<DiskReader>, format: Format, options: Options) -> Result<Files, String> {
    let opened = crate::volume::open_lookup(section, format, options);
    opened.map(|files| Files::Read(Arc::new(Mutex::new(files)))).map_err(|error| causes::in_one_line(&error))
}

/// Where the disk has that partition now: it may have grown.
fn range_of(disk: &ReadOnlyDisk, partition: u32) -> Result<Range<u64>, String> {
    if partition == 0 {
        return Ok(0..disk.size_bytes());
    }
    // A disk is at least as long as the image that was written to it.
    let mut head = vec![0; WINDOW_BYTES.min(disk.size_bytes()) as usize];
    disk.read(0, &mut head).map_err(|error| format!("the disk cannot be read: {error}"))?;
    let table = table::read(&head)?;
    let part = table.parts.into_iter().find(|part| part.number == partition);
    Ok(part.ok_or_else(|| format!("the disk has no partition {partition}"))?.range)
}

/// Whether there is something at a path, no symlink followed. What cannot be read is not there.
pub fn has(files: &Files, at: &[u8]) -> bool {
    match files {
        Files::Read(shared) => {
            let mut reader = shared.lock().unwrap_or_else(PoisonError::into_inner);
            reader.find(at).is_ok_and(|found| found.is_some())
        }
        Files::Kernel(tree) => parent_of(tree, at).and_then(|(parent, name)| tree.look(&parent, name, at)).is_ok(),
    }
}

/// The first bytes of a regular file, no symlink followed.
pub fn small_file(files: &Files, at: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    match files {
        Files::Read(shared) => {
            let mut reader = shared.lock().unwrap_or_else(PoisonError::into_inner);
            read_small(&mut **reader, at, bytes_max)
        }
        Files::Kernel(tree) => {
            let (parent, name) = parent_of(tree, at).ok()?;
            let mut file = tree.open(&parent, name, at).ok()?;
            let mut bytes = vec![0; bytes_max];
            let mut filled = 0;
            while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
                match file.read_at(filled as u64, room).ok()? {
                    0 => break,
                    count => filled += count,
                }
            }
            bytes.truncate(filled);
            Some(bytes)
        }
    }
}

fn read_small(reader: &mut dyn Lookup, at: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let found = reader.find(at).ok()??;
    if !matches!(found.node.kind, Kind::File { .. }) {
        return None;
    }
    let layout = reader.layout(&found).ok()?;
    let mut bytes = vec![0; bytes_max];
    let count = reader.read_at(&found, &layout, 0, &mut bytes).ok()?;
    bytes.truncate(count);
    Some(bytes)
}

/// The directory that a path lies in, gone to step by step: an absolute symlink of the image would lead into our own
/// tree.
fn parent_of<'p, T: Tree>(tree: &T, at: &'p [u8]) -> io::Result<(T::Directory, &'p [u8])> {
    let mut names = at.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
    let (mut directory, _) = tree.root()?;
    let mut walked = Vec::new();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            return Ok((directory, name));
        }
        walked.push(b'/');
        walked.extend_from_slice(name);
        directory = tree.enter(&directory, name, &walked)?;
    }
    Err(io::ErrorKind::NotFound.into())
}

/// What `stat` says of files on a FAT depends on how it is mounted.
fn fat_options(fstab: &[Line], at: &[u8]) -> Options {
    let own = fstab.iter().find(|line| line.at.as_bytes() == at);
    own.map(|line| Options::from_fstab(&line.options)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Debian's installer writes above the line of the ESP: the mode of every file on it would be another one.
    #[test]
    fn a_comment_of_the_fstab_mounts_nothing() {
        let fstab = fstab::parse(
            b"# /boot/efi was on /dev/sda1 during installation\nUUID=1A2B-3C4D /boot/efi vfat umask=0077 0 1\n",
        );
        assert_eq!(fat_options(&fstab, b"/boot/efi"), Options::from_fstab("umask=0077"));
        assert_eq!(fat_options(&fstab, b"/mnt"), Options::default());
    }
}
