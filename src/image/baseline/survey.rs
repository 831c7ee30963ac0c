//! An image as the one tree that its system will see.

use std::cell::RefCell;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use super::MakeError;
use crate::causes;
use crate::image::blocks::Blocks;
use crate::image::read_files::Packs;
use crate::image::reader::ImageReader;
use crate::volume::layout::parts::{self, Part};
use crate::volume::layout::{self, Place, fstab, volumes};
use crate::volume::merged::Merged;
use crate::volume::{self, Format, Section, Tree, fat};
use crate::wire::baseline::{Known, Volume};
use crate::wire::manifest::Manifest;

/// 16 MiB: inode tables and directories of a walk are read again and again, here and there.
const FRAMES_KEPT: usize = 32;
const FSTAB_BYTES_MAX: usize = 256 << 10;

/// The image's bytes, read by several file systems in turn.
#[derive(Clone)]
pub(in crate::image) struct Shared<'m>(Rc<RefCell<ImageReader<'m>>>);

impl<'m> Shared<'m> {
    pub fn new(reader: ImageReader<'m>) -> Shared<'m> {
        Shared(Rc::new(RefCell::new(reader.keeping(FRAMES_KEPT))))
    }
}

impl Read for Shared<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(out)
    }
}

impl Seek for Shared<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.borrow_mut().seek(to)
    }
}

/// What was found.
pub(in crate::image) struct Survey<'m> {
    pub tree: Merged<'m>,
    pub volumes: Vec<Volume>,
    /// Partition of each mount of `tree`.
    partitions: Vec<u32>,
}

impl Survey<'_> {
    /// Says in which partition.
    pub fn error(&self, source: volume::VolumeError) -> MakeError {
        let mount = source.path.as_ref().map_or(0, |path| self.tree.holder(path));
        MakeError::Volume { partition: self.partitions.get(mount).copied().unwrap_or(0), source }
    }
}

/// Looks at every part of an image; `packs` in the manifest's order. With `blocks` every frame that is read is checked.
pub(super) fn survey<'m>(
    manifest: &'m Manifest,
    packs: Packs,
    blocks: Option<&Rc<Blocks<'m>>>,
) -> Result<Survey<'m>, MakeError> {
    let reader = ImageReader::new(manifest, packs).spending_by_data();
    let reader = match blocks {
        Some(blocks) => reader.checked_by(blocks),
        None => reader,
    };
    let mut image = Shared::new(reader);
    let parts = parts::list(manifest, &mut image).map_err(MakeError::Read)?;
    survey_parts(&parts, &image)
}

/// The same on parts that are listed already.
pub(in crate::image) fn survey_parts<'m>(parts: &[Part], image: &Shared<'m>) -> Result<Survey<'m>, MakeError> {
    let mut unread = Vec::new();
    let mut root = find_root(parts, image, &mut unread);
    let lines = match &mut root {
        Some((at, tree)) => root_lines(&parts[*at], tree)?,
        None => Vec::new(),
    };
    let root_at = root.as_ref().map(|(at, _)| *at);
    let places = layout::places(parts, root_at, &lines);
    let known = layout::known(parts, &places, Format::is_read_here);
    let root_tree = root.and_then(|(at, tree)| (known.get(at) == Some(&Known::Files)).then_some(tree));
    let is_root_covered = |at: usize| match root_at {
        Some(root) => root == at,
        // Beside one that a host's kernel may find the root in, a squashfs is any.
        None => {
            let is_only = !parts.iter().any(|part| layout::needs_host(part.detected.format));
            layout::is_declared_root(&parts[at]) || (is_only && parts[at].detected.format.is_read_only())
        }
    };
    let has_root = root_tree.is_some()
        || known.iter().enumerate().any(|(at, known)| matches!(known, Known::Blocks { .. }) && is_root_covered(at));
    if !has_root {
        return Err(no_root(parts, volumes(parts, &places, known), unread));
    }
    let start = root_at.map_or(0, |at| parts[at].offset_bytes);
    let root_number = root_at.map_or(0, |at| parts[at].number);
    let mut survey = Survey {
        tree: Merged::new(root_tree, start),
        volumes: volumes(parts, &places, known),
        partitions: vec![root_number],
    };
    mount_all(&mut survey, parts, &places, root_at, image);
    Ok(survey)
}

type Root<'m> = (usize, Box<dyn Tree + 'm>);

/// The part with /etc/fstab or /usr in it. `unread`: those that cannot be opened, and why.
fn find_root<'m>(parts: &[Part], image: &Shared<'m>, unread: &mut Vec<String>) -> Option<Root<'m>> {
    let mut best: Option<(u32, usize, Box<dyn Tree + 'm>)> = None;
    for (at, part) in parts.iter().enumerate() {
        if !matches!(part.detected.format, Format::Ext2 | Format::Ext3 | Format::Ext4) {
            continue;
        }
        let look = || {
            let mut tree = volume::open(section(part, image), part.detected.format, fat::Options::default())?;
            let (has_fstab, has_usr) = (tree.find(b"/etc/fstab")?.is_some(), tree.find(b"/usr")?.is_some());
            Ok::<_, volume::VolumeError>((tree, layout::likeness_to_root(part, has_fstab, has_usr)))
        };
        match look() {
            Ok((tree, Some(score))) if best.as_ref().is_none_or(|(most, ..)| score > *most) => {
                best = Some((score, at, tree));
            }
            Ok(_) => {}
            Err(error) => unread.push(format!("partition {}: {}", part.number, causes::in_one_line(&error))),
        }
    }
    best.map(|(_, at, tree)| (at, tree))
}

pub(in crate::image) fn section<'m>(part: &Part, image: &Shared<'m>) -> Section<Shared<'m>> {
    Section::new(image.clone(), part.offset_bytes, part.length_bytes)
}

fn root_lines(part: &Part, tree: &mut Box<dyn Tree + '_>) -> Result<Vec<fstab::Line>, MakeError> {
    let failed = |source| MakeError::Volume { partition: part.number, source };
    let Some(file) = tree.find(b"/etc/fstab").map_err(failed)? else {
        return Ok(Vec::new());
    };
    Ok(fstab::parse(&tree.read(&file, FSTAB_BYTES_MAX).map_err(failed)?))
}

/// Outer mount points before inner ones. What cannot be mounted is stated, and the rest goes on.
fn mount_all<'m>(
    survey: &mut Survey<'m>,
    parts: &[Part],
    places: &[Option<Place>],
    root: Option<usize>,
    image: &Shared<'m>,
) {
    let placed = parts.iter().zip(places).enumerate().filter(|(at, _)| Some(*at) != root);
    let mut placed: Vec<(usize, &Part, &Place)> =
        placed.filter_map(|(at, (part, place))| Some((at, part, place.as_ref()?))).collect();
    placed.sort_by_key(|(_, _, place)| place.at.len());
    for (at, part, place) in placed {
        let is_walked = survey.volumes.get(at).is_some_and(|volume| volume.known == Known::Files);
        let options = fat::Options::from_fstab(&place.options);
        let opened = match is_walked {
            true => volume::open(section(part, image), part.detected.format, options).map(Some),
            false => Ok(None),
        };
        let (tree, mut reason) = match opened {
            Ok(tree) => (tree, None),
            Err(error) => (None, Some(causes::in_one_line(&error))),
        };
        match survey.tree.mount(place.at.as_bytes(), tree, part.offset_bytes) {
            Ok(_) => survey.partitions.push(part.number),
            Err(error) => reason = reason.or_else(|| is_walked.then(|| causes::in_one_line(&error))),
        }
        if let (Some(reason), Some(volume)) = (reason, survey.volumes.get_mut(at)) {
            volume.known = Known::Not { reason };
        }
    }
}

fn no_root(parts: &[Part], volumes: Vec<Volume>, unread: Vec<String>) -> MakeError {
    if let Some(part) = parts.iter().find(|part| layout::needs_host(part.detected.format)) {
        return MakeError::NeedsHost { partition: part.number, format: part.detected.format.word(), volumes };
    }
    let formats: Vec<&str> = parts.iter().map(|part| part.detected.format.word()).collect();
    let unread = if unread.is_empty() { String::new() } else { format!("; {}", unread.join("; ")) };
    MakeError::NoRoot { seen: formats.join(", ") + &unread }
}
