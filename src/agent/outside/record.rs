//! The baseline of an image whose file systems the server cannot read: made here, from the disk that it was just written
//! to and read back from, and marked as made by this host.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::MemfdFlags;

use super::disk::ReadOnlyDisk;
use super::kernel::Mounted;
use super::tree::{Files, OutsideTree};
use super::volumes::{self, FSTAB_BYTES_MAX, OpenError};
use crate::agent::drift::record::{self, RecordError};
use crate::agent::drift::{LiveTree, Tree};
use crate::clock;
use crate::volume::Format;
use crate::volume::fat::Options;
use crate::volume::layout::fstab::Line;
use crate::volume::layout::parts::{self, Part};
use crate::volume::layout::{self, fstab};
use crate::wire::baseline::{Header, Known, Origin, Volume};
use crate::wire::manifest::{Digest, Manifest};

/// The list is kept in memory: four million files have this much.
const LIST_BYTES_MAX: u64 = 256 << 20;
/// Directories at the top of a btrfs that may be the subvolume with the root.
const SUBVOLUMES_MAX: usize = 64;
const TOP_NAMES_BYTES_MAX: usize = 1 << 20;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error("the disk cannot be read")]
    Read(#[source] io::Error),
    #[error("the disk cannot be opened to be read")]
    Open(#[source] io::Error),
    #[error("the disk cannot be made read-only, and so nothing of it is mounted")]
    Forbid(#[source] io::Error),
    #[error("no partition holds /etc/fstab or /usr, so none is known as the root (seen: {seen})")]
    NoRoot { seen: String },
    #[error(transparent)]
    Volumes(#[from] OpenError),
    #[error("not every file of the image can be told")]
    Record(#[from] RecordError),
    #[error("there is no memory for the list")]
    Memory(#[source] io::Error),
}

/// A baseline, and what the server cannot see in it.
#[derive(Debug)]
pub struct Made<W> {
    pub list: W,
    pub digest: Digest,
    pub entries: u64,
    pub os_release: Option<String>,
}

/// What is made of which disk.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub manifest: &'a Manifest,
    /// Hex digest of the manifest.
    pub image: &'a str,
    /// The host that the baseline is to name.
    pub host: &'a str,
    pub disk: &'a ReadOnlyDisk,
    /// Where file systems may be mounted.
    pub mounts: &'a Path,
}

/// Into memory: there is no other place that is not the disk.
///
/// # Errors
/// [`MakeError`]; nothing is mounted any more then.
pub fn make_in_memory(subject: Subject<'_>) -> Result<Made<File>, MakeError> {
    let list = rustix::fs::memfd_create("baseline", MemfdFlags::CLOEXEC).map_err(|e| MakeError::Memory(e.into()))?;
    make(subject, File::from(list))
}

/// Mounts, walks, unmounts.
///
/// # Errors
/// As [`make_in_memory`].
pub fn make<W: Write>(subject: Subject<'_>, to: W) -> Result<Made<W>, MakeError> {
    let Subject { manifest, image, host, disk, mounts } = subject;
    let parts = parts::list(manifest, &mut disk.reader()).map_err(MakeError::Read)?;
    let root = find_root(&parts, disk, mounts)?;
    let mut volumes = volumes_of(&parts, &root);
    let opened = volumes::open(disk, &volumes, Some(mounts))?;
    for volume in volumes.iter_mut().filter(|volume| volume.known == Known::Files) {
        let at = volume.mounted_at.as_deref().unwrap_or_default().as_bytes();
        if let Some((_, reason)) = opened.missing.iter().find(|(missing, _)| missing == at) {
            volume.known = Known::Not { reason: reason.clone() };
        }
    }
    let now = clock::now();
    let origin = Origin::Host { id: host.to_owned(), at: now };
    let header = Header { image: image.to_owned(), origin, volumes };
    let tree = OutsideTree::new(opened.root, opened.others, opened.missing);
    let to = Bounded { inner: to, left: LIST_BYTES_MAX };
    let recorded = record::record(&tree, &header, io::BufWriter::new(to), 2, now);
    // The trees hold directories of the mounts open.
    drop(tree);
    drop(opened.mounted);
    let (to, recorded) = recorded?;
    let list = to.into_inner().map_err(|error| MakeError::Memory(error.into_error()))?.inner;
    Ok(Made { list, digest: recorded.digest, entries: recorded.entries, os_release: root.os_release })
}

/// A writer that takes so much and no more.
struct Bounded<W> {
    inner: W,
    left: u64,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other(format!("the list is longer than {LIST_BYTES_MAX} bytes")));
        }
        let count = self.inner.write(bytes)?;
        self.left -= count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The root, and what it says.
struct Root {
    /// Which of the parts.
    at: usize,
    subvolume: Option<String>,
    lines: Vec<Line>,
    os_release: Option<String>,
}

/// Looks into every part that may hold it; of a btrfs also into what lies at its top, where Debian, Fedora and Ubuntu
/// keep the subvolume with the root.
fn find_root(parts: &[Part], disk: &ReadOnlyDisk, mounts: &Path) -> Result<Root, MakeError> {
    let mut best: Option<(u32, Root)> = None;
    let mut unread = Vec::new();
    for (at, part) in parts.iter().enumerate().filter(|(_, part)| may_be_root(part.detected.format)) {
        let volume = Volume {
            partition: part.number,
            format: part.detected.format.word().to_owned(),
            mounted_at: None,
            known: Known::Files,
        };
        let mut mounted: Vec<Mounted> = Vec::new();
        let files = match volumes::open_one(disk, &volume, Options::default(), Some(mounts), &mut mounted) {
            Ok(files) => files,
            Err(reason) => {
                unread.push(format!("partition {}: {reason}", part.number));
                continue;
            }
        };
        for top in std::iter::once(Vec::new()).chain(tops(&files, part.detected.format)) {
            if let Some((score, root)) = root_in(&files, part, at, &top)
                && best.as_ref().is_none_or(|(most, _)| score > *most)
            {
                best = Some((score, root));
            }
        }
    }
    best.map(|(_, root)| root).ok_or_else(|| {
        let seen = parts.iter().map(|part| part.detected.format.word().to_owned()).chain(unread);
        MakeError::NoRoot { seen: seen.collect::<Vec<_>>().join(", ") }
    })
}

fn may_be_root(format: Format) -> bool {
    is_read(format) && format != Format::Vfat
}

/// What is read without the kernel, and what the deploy environment has modules for.
fn is_read(format: Format) -> bool {
    format.is_read_here() || matches!(format, Format::Xfs | Format::Btrfs | Format::F2fs)
}

/// Absolute paths of what may be subvolumes.
fn tops(files: &Files, format: Format) -> Vec<Vec<u8>> {
    let (Files::Kernel(tree), Format::Btrfs) = (files, format) else { return Vec::new() };
    let names = |tree: &LiveTree| tree.names(&tree.root()?.0, TOP_NAMES_BYTES_MAX);
    let Ok(names) = names(tree) else { return Vec::new() };
    let all = (0..names.len()).filter_map(|at| names.get(at));
    all.take(SUBVOLUMES_MAX).map(|name| [b"/", name].concat()).collect()
}

/// How likely it is that the root lies there, and what it says. `top`: the directory in the file system; empty: its
/// own root.
fn root_in(files: &Files, part: &Part, at: usize, top: &[u8]) -> Option<(u32, Root)> {
    let place = |path: &[u8]| [top, path].concat();
    let fstab = volumes::small_file(files, &place(b"/etc/fstab"), FSTAB_BYTES_MAX);
    let likeness = layout::likeness_to_root(part, fstab.is_some(), volumes::has(files, &place(b"/usr")))?;
    let lines = fstab::parse(&fstab.unwrap_or_default());
    let top = String::from_utf8(top.strip_prefix(b"/").unwrap_or_default().to_vec()).ok()?;
    let own = lines.iter().find(|line| line.at == "/").and_then(|line| subvolume(&line.options));
    let is_named = own.as_deref() == Some(&top);
    let here = Some(top).filter(|top| !top.is_empty());
    let subvolume = if part.detected.format == Format::Btrfs { own.or(here) } else { None };
    let read = |path: &[u8], bytes_max| Ok::<_, Infallible>(volumes::small_file(files, &place(path), bytes_max));
    let os_release = layout::os_release(read).ok().flatten().and_then(|(_, text)| String::from_utf8(text).ok());
    // Several subvolumes may look like it (snapshots): the one that calls itself so is.
    Some((likeness * 2 + u32::from(is_named), Root { at, subvolume, lines, os_release }))
}

/// Which subvolume a line mounts, by its name without a slash in front; the top of all of them is `/`.
fn subvolume(options: &str) -> Option<String> {
    let named = options.split(',').find_map(|option| option.strip_prefix("subvol="))?;
    let name = named.trim_start_matches('/');
    Some(if name.is_empty() { "/" } else { name }.to_owned())
}

/// All of them as the root's fstab mounts them; a btrfs may be mounted in several places.
fn volumes_of(parts: &[Part], root: &Root) -> Vec<Volume> {
    let places = layout::places(parts, Some(root.at), &root.lines);
    let all = layout::volumes(parts, &places, layout::known(parts, &places, is_read));
    let mut volumes = Vec::new();
    for (at, (part, mut volume)) in parts.iter().zip(all).enumerate() {
        if part.detected.format != Format::Btrfs {
            volumes.push(volume);
            continue;
        }
        let own = places.get(at).and_then(Option::as_ref).and_then(|place| subvolume(&place.options));
        let own = if at == root.at { root.subvolume.clone() } else { own };
        let word = volume.format.clone();
        let format = |subvolume: Option<String>| subvolume.map_or(word.clone(), |name| format!("{word}:{name}"));
        volume.format = format(own);
        let (first, known) = (volume.mounted_at.clone(), volume.known.clone());
        volumes.push(volume);
        let more = root.lines.iter().filter(|line| fstab::means(&line.device, &layout::names(part)));
        for line in more.filter(|line| line.at != "/" && Some(&line.at) != first.as_ref()) {
            volumes.push(Volume {
                partition: part.number,
                format: format(subvolume(&line.options)),
                mounted_at: Some(line.at.clone()),
                known: known.clone(),
            });
        }
    }
    let mut taken = std::collections::BTreeSet::new();
    volumes.retain(|volume| volume.mounted_at.as_ref().is_none_or(|at| taken.insert(at.clone())));
    volumes
}
