//! Which files of a partition differ: two sorted walks side by side. Only files that are alike but for their content are
//! read, each image in the order in which it lies in its packs.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{DiffError, Page, Side, partitions};
use crate::causes;
use crate::decide::drift::finding::{Aspect, Aspects, Digest, Kind, Node, compare as differ};
use crate::decide::drift::path::{order, to_text};
use crate::volume::{self, Format, Found, HOLE_BYTES_MAX, Section, Tree, VolumeError, fat};
use crate::wire::operator_diff::{FileCounts, FileDiff, FileSide, PartitionDiff};

/// Bounds on what waits for its content to be read: some 40 MB.
const PAIRS_MAX: usize = 1 << 15;
const PAIRS_BYTES_MAX: usize = 16 << 20;
/// Digests of files with more than one name that are remembered. One beyond it is read once more.
const LINKED_MAX: usize = 1 << 17;
/// Of names and targets in one list, so that an answer has a bound whatever an image calls its files.
const LIST_BYTES_MAX: usize = 32 << 20;

/// What was found, as far as the page goes.
pub(super) struct Listing {
    page: Page,
    pub files: Vec<FileDiff>,
    pub skipped: u64,
    pub cut: u64,
    list_bytes: usize,
}

/// How far a listing was.
struct Mark {
    files: usize,
    skipped: u64,
    cut: u64,
    list_bytes: usize,
}

impl Listing {
    pub fn new(page: Page) -> Listing {
        Listing { page, files: Vec::new(), skipped: 0, cut: 0, list_bytes: 0 }
    }

    fn add(&mut self, partition: u32, aspects: Aspects, [old, new]: &Pair) {
        if self.skipped < self.page.skip {
            self.skipped += 1;
            return;
        }
        let is_full = self.files.len() as u64 >= self.page.limit || self.list_bytes >= LIST_BYTES_MAX;
        // One that was cut is followed by none, so that a page ends where the next begins.
        let Some(path) = old.as_ref().or(new.as_ref()).map(|found| to_text(&found.path)).filter(|_| !is_full) else {
            self.cut += 1;
            return;
        };
        let what = aspects.iter().map(|aspect| aspect.word().to_owned()).collect();
        let side = |found: &Option<Found>| found.as_ref().map(|found| side(&found.node));
        let file = FileDiff { partition, path, what, from: side(old), to: side(new) };
        let side_bytes = |side: &Option<FileSide>| {
            let xattrs = side.iter().flat_map(|side| &side.xattrs).map(String::len).sum::<usize>();
            xattrs + side.as_ref().and_then(|side| side.target.as_ref()).map_or(0, String::len)
        };
        self.list_bytes += file.path.len() + side_bytes(&file.from) + side_bytes(&file.to) + 200;
        self.files.push(file);
    }

    fn mark(&self) -> Mark {
        Mark { files: self.files.len(), skipped: self.skipped, cut: self.cut, list_bytes: self.list_bytes }
    }

    fn back_to(&mut self, mark: Mark) {
        self.files.truncate(mark.files);
        (self.skipped, self.cut, self.list_bytes) = (mark.skipped, mark.cut, mark.list_bytes);
    }
}

/// The same path on both sides, as far as it is there.
type Pair = [Option<Found>; 2];

/// Compares the files of one partition, and says in it how.
pub(super) fn compare(
    old: &mut Side,
    new: &mut Side,
    partition: &mut PartitionDiff,
    listing: &mut Listing,
    is_stopped: &dyn Fn() -> bool,
) -> Result<(), DiffError> {
    if partitions::is_untouched(old, new, partition) {
        return Ok(());
    }
    partition.how = "blocks only".to_owned();
    partition.reason = unreadable(old, new, partition.number);
    if partition.reason.is_some() {
        return Ok(());
    }
    let mark = listing.mark();
    let mut counts = FileCounts::default();
    let number = partition.number;
    let mut unread = 0u64;
    // Our own readers have no panic that is known; an image that finds one costs its own files only.
    let walked = catch_unwind(AssertUnwindSafe(|| {
        let mut walk = Walk::open(old, new, number)?;
        let each = |aspects: Aspects, pair: &Pair| {
            unread += u64::from(is_undecided(pair));
            *match () {
                () if aspects.has(Aspect::Added) => &mut counts.added,
                () if aspects.has(Aspect::Removed) => &mut counts.removed,
                () => &mut counts.changed,
            } += 1;
            listing.add(number, aspects, pair);
        };
        walk.run(each, is_stopped)
    }));
    for side in [&*old, &*new] {
        if let Some(source) = side.reader.damaged() {
            return Err(DiffError::Damaged { image: side.record.image.clone(), source: source.clone() });
        }
    }
    if is_stopped() {
        return Err(DiffError::Stopped);
    }
    let reason = match walked {
        Ok(Ok(())) => {
            partition.how = "compared".to_owned();
            partition.files = counts;
            partition.reason = (unread > 0).then(|| {
                let bound = HOLE_BYTES_MAX >> 30;
                format!(
                    "{unread} with more than {bound} GiB of holes are not read, and listed as if their content differed"
                )
            });
            return Ok(());
        }
        Ok(Err((which, error))) => {
            format!("{} {}", ["the older one:", "the newer one:"][which], causes::in_one_line(&error))
        }
        Err(_) => "the reader of its file system broke off".to_owned(),
    };
    // Half of a comparison would tell files as added that only the other side's reader did not get to.
    listing.back_to(mark);
    partition.reason = Some(reason);
    Ok(())
}

/// Why nobody can look into a partition.
fn unreadable(old: &Side, new: &Side, number: u32) -> Option<String> {
    let formats = [old, new].map(|side| side.part(number).map(|part| part.detected.format));
    let unread = formats.into_iter().flatten().find(|format| !format.is_read_here())?;
    Some(match unread {
        Format::Swap => "swap space has no files".to_owned(),
        Format::Luks => "it is encrypted".to_owned(),
        Format::LvmMember | Format::RaidMember => "it is part of an LVM or RAID, which is not put together".to_owned(),
        Format::Verity => "it is a tree of digests (dm-verity)".to_owned(),
        Format::Blank => "nothing is in it".to_owned(),
        Format::Unknown => "it is not known what is in it".to_owned(),
        other => format!("{} is not read by the server", other.word()),
    })
}

/// An error and on which side it was.
type Failed = (usize, VolumeError);

/// Both trees, and what is ahead in each.
struct Walk<'t> {
    trees: [Option<Box<dyn Tree + 't>>; 2],
    ahead: [Option<Found>; 2],
    linked: [HashMap<u64, Option<Digest>>; 2],
}

impl<'t> Walk<'t> {
    fn open(old: &'t mut Side, new: &'t mut Side, number: u32) -> Result<Walk<'t>, Failed> {
        let trees = [tree(old, number).map_err(|error| (0, error))?, tree(new, number).map_err(|error| (1, error))?];
        let mut walk = Walk { trees, ahead: [None, None], linked: [HashMap::new(), HashMap::new()] };
        walk.step(0)?;
        walk.step(1)?;
        Ok(walk)
    }

    fn step(&mut self, which: usize) -> Result<Option<Found>, Failed> {
        let next = match &mut self.trees[which] {
            Some(tree) => tree.next_found().map_err(|error| (which, error))?,
            None => None,
        };
        Ok(std::mem::replace(&mut self.ahead[which], next))
    }

    /// The next path that is there on either side.
    fn pair(&mut self) -> Result<Option<Pair>, Failed> {
        let order = match &self.ahead {
            [None, None] => return Ok(None),
            [Some(_), None] => Ordering::Less,
            [None, Some(_)] => Ordering::Greater,
            [Some(old), Some(new)] => order(&old.path, &new.path),
        };
        let old = if order.is_le() { self.step(0)? } else { None };
        let new = if order.is_ge() { self.step(1)? } else { None };
        Ok(Some([old, new]))
    }

    fn run(&mut self, mut each: impl FnMut(Aspects, &Pair), is_stopped: &dyn Fn() -> bool) -> Result<(), Failed> {
        let mut is_over = false;
        while !is_over && !is_stopped() {
            let mut pairs: Vec<Pair> = Vec::new();
            let mut bytes = 0;
            while pairs.len() < PAIRS_MAX && bytes < PAIRS_BYTES_MAX && !is_stopped() {
                let Some(pair) = self.pair()? else {
                    is_over = true;
                    break;
                };
                if wants_content(&pair) || !aspects(&pair).is_empty() {
                    bytes += pair.iter().flatten().map(weight).sum::<usize>();
                    pairs.push(pair);
                }
            }
            for which in [0, 1] {
                self.read(&mut pairs, which, is_stopped)?;
            }
            for pair in &pairs {
                let mut aspects = aspects(pair);
                // Never told as the same unseen.
                if is_undecided(pair) {
                    aspects = aspects.with(Aspect::Content);
                }
                if !aspects.is_empty() {
                    each(aspects, pair);
                }
            }
        }
        Ok(())
    }

    /// Reads the content of one side's files, where it is wanted.
    fn read(&mut self, pairs: &mut [Pair], which: usize, is_stopped: &dyn Fn() -> bool) -> Result<(), Failed> {
        let Some(tree) = &mut self.trees[which] else { return Ok(()) };
        let linked = &mut self.linked[which];
        let mut wanted: Vec<&mut Found> =
            pairs.iter_mut().filter(|pair| wants_content(pair)).filter_map(|pair| pair[which].as_mut()).collect();
        wanted.sort_by_key(|found| found.place_bytes);
        for found in wanted {
            if is_stopped() {
                return Ok(());
            }
            let known = linked.get(&found.inode).copied().filter(|_| found.links > 1);
            let content = match known {
                Some(known) => known,
                None => tree.digest(found).map_err(|error| (which, error))?,
            };
            if found.links > 1 && linked.len() < LINKED_MAX {
                linked.insert(found.inode, content);
            }
            if let Kind::File { digest, .. } = &mut found.node.kind {
                *digest = content;
            }
        }
        Ok(())
    }
}

fn tree<'t>(side: &'t mut Side, number: u32) -> Result<Option<Box<dyn Tree + 't>>, VolumeError> {
    let Some(part) = side.parts.iter().find(|part| part.number == number) else { return Ok(None) };
    let section = Section::new(&mut side.reader, part.offset_bytes, part.length_bytes);
    volume::open(section, part.detected.format, fat::Options::default()).map(Some)
}

/// Roughly what a found thing takes in memory.
fn weight(found: &Found) -> usize {
    found.path.len() + node_bytes(&found.node) + found.content_bytes()
}

/// Of what a node holds beside itself.
pub(super) fn node_bytes(node: &Node) -> usize {
    let xattrs: usize = node.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    let target = match &node.kind {
        Kind::Symlink { target } => target.len(),
        _ => 0,
    };
    xattrs + target
}

fn aspects([old, new]: &Pair) -> Aspects {
    differ(old.as_ref().map(|found| &found.node), new.as_ref().map(|found| &found.node))
}

/// Two files of one length: only their content can say whether they are the same.
fn wants_content(pair: &Pair) -> bool {
    let length = |found: &Option<Found>| match found.as_ref().map(|found| &found.node.kind) {
        Some(Kind::File { bytes, .. }) => Some(*bytes),
        _ => None,
    };
    let (old, new) = (length(&pair[0]), length(&pair[1]));
    old == new && old.is_some_and(|bytes| bytes > 0)
}

/// Whether content was wanted and not to be had of both: more than [`HOLE_BYTES_MAX`] of holes are not read. Asked after
/// [`Walk::read`].
fn is_undecided(pair: &Pair) -> bool {
    let is_read = |found: &Found| matches!(found.node.kind, Kind::File { digest: Some(_), .. });
    wants_content(pair) && !pair.iter().flatten().all(is_read)
}

fn side(node: &Node) -> FileSide {
    let mut side = FileSide {
        kind: node.kind.word().to_owned(),
        mode: format!("{:04o}", node.mode),
        uid: node.uid,
        gid: node.gid,
        bytes: None,
        target: None,
        device: None,
        xattrs: node.xattrs.iter().map(|(name, _)| to_text(name)).collect(),
    };
    match &node.kind {
        Kind::File { bytes, .. } => side.bytes = Some(*bytes),
        Kind::Symlink { target } => side.target = Some(to_text(target)),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            side.device = Some(format!("{major}:{minor}"));
        }
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    }
    side
}
