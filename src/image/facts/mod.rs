//! What an image says of itself: partitions and their file systems, its distribution, kernels, processor, and what can
//! start it. Read at the import from the store's own data by the readers of [`crate::volume`]; nothing is mounted.
//!
//! None of it keeps an image out: what cannot be read is said to be so, in the place where it would stand. All reading
//! together has a bound, and every text and list has one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::baseline::MakeError;
use super::baseline::survey::{self, Shared, Survey};
use super::inspect;
use super::reader::ImageReader;
use super::{ImageRef, ImageStore, StoreError};
use crate::causes;
use crate::decide::drift::path;
use crate::volume::layout::{self, parts};
use crate::volume::{self, Format, Tree, fat};
use crate::wire::image_facts::{Facts, KernelFacts, OsFacts, PartitionFacts, text_of};
use crate::wire::manifest::{BootFacts, Manifest};
use parts::Part;

mod arch;
mod kernels;
mod kinds;
mod os_release;

/// What may be spent on one image: a frame of 512 KiB for each that is decompressed, and what is read. Debian 12 takes
/// some 20 MB.
const BUDGET_BYTES: u64 = 512 << 20;
/// An MBR's type of an EFI system partition (UEFI specification, 5.2.2).
const MBR_ESP: u8 = 0xef;

impl ImageStore {
    /// What a version says of itself: by its record, or from its data where it was imported before records had this.
    /// Nothing is written then: a record does not change.
    ///
    /// # Errors
    /// As [`ImageStore::show`]. Where its data cannot be read, the facts say so.
    pub fn facts(&self, image: &ImageRef) -> Result<Facts, StoreError> {
        let record = self.show(image)?;
        let unread = |error: StoreError| Facts { unread: Some(causes::in_one_line(&error)), ..Facts::default() };
        Ok(match record.facts {
            Some(facts) => *facts,
            None => self.manifest(&record.manifest).map_or_else(unread, |manifest| self.look_at(&manifest)),
        })
    }

    /// The same of an image whose packs are in the store.
    pub(super) fn look_at(&self, manifest: &Manifest) -> Facts {
        // One at a time: each holds 16 MiB of frames, and at worst 64 MiB of a directory's names or some 200 MB of a FAT's
        // entries. The lock guards no data.
        let _alone = self.looking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let look = || of(manifest, self.packs_of(manifest)?);
        // Our own readers have no panic that is known; an image that finds one costs its own facts only.
        let unread = match catch_unwind(AssertUnwindSafe(look)) {
            Ok(Ok(facts)) => return facts,
            Ok(Err(error)) => causes::in_one_line(&error),
            Err(_) => "the reader of its file systems broke off".to_owned(),
        };
        Facts { boot: boot(&manifest.boot, &[]), unread: Some(unread), ..Facts::default() }
    }
}

fn of(manifest: &Manifest, packs: super::read_files::Packs) -> Result<Facts, MakeError> {
    let mut image = Shared::new(ImageReader::new(manifest, packs).spending(BUDGET_BYTES));
    let parts = parts::list(manifest, &mut image).map_err(MakeError::Read)?;
    let mut loaders: Vec<String> = manifest.boot.loaders.iter().map(|loader| loader.arch.clone()).collect();
    // The manifest has those of a GUID partition table only.
    for part in parts.iter().filter(|part| part.mbr_type == Some(MBR_ESP)) {
        loaders.extend(inspect::arches(&mut image, part.offset_bytes, part.length_bytes));
    }
    let partitions = parts.iter().map(|part| partition(part, &image)).collect();
    let mut facts = Facts { table: table(manifest, &parts).to_owned(), partitions, ..Facts::default() };
    let told =
        survey::survey_parts(&parts, &image).map_err(no_root).and_then(|mut survey| tell(&mut facts, &mut survey));
    if let Err(why) = told {
        // A root that is not read here often has a /boot that is.
        facts.kernels = without_root(&parts, &image);
        facts.kernels_unread = Some(why.clone());
        facts.arch.evidence.clone_from(&why);
        facts.os.unknown = Some(why);
    }
    if facts.arch.name.is_none() {
        arch::by_loaders(&mut facts.arch, &loaders);
    }
    facts.boot = boot(&manifest.boot, &loaders);
    Ok(facts)
}

/// What its system's tree tells, or why it tells nothing.
fn tell(facts: &mut Facts, survey: &mut Survey<'_>) -> Result<(), String> {
    if survey.tree.find(b"/").map_err(|error| causes::in_one_line(&error))?.is_none() {
        return Err("its root is never written to: it is known by its blocks, and no file is looked at".to_owned());
    }
    facts.os = os(survey);
    facts.arch = arch::of_tree(&mut survey.tree);
    // Last, since a walk goes once.
    (facts.kernels, facts.kernels_unread) = match kernels::walk(&mut survey.tree) {
        Ok(kernels) => (kernels, None),
        Err((kernels, error)) => (kernels, Some(causes::in_one_line(&error))),
    };
    Ok(())
}

fn os(survey: &mut Survey<'_>) -> OsFacts {
    let read = layout::os_release(|place, bytes_max| {
        let found = survey.tree.find(place)?.filter(|found| found.node.kind.word() == "file");
        found.map(|found| survey.tree.read(&found, bytes_max)).transpose()
    });
    let why = match read {
        Ok(Some((place, text))) => return os_release::parse(&text, &path::to_text(place)),
        Ok(None) => "its root holds neither /usr/lib/os-release nor /etc/os-release".to_owned(),
        Err(error) => causes::in_one_line(&error),
    };
    OsFacts { unknown: Some(why), ..OsFacts::default() }
}

/// The kernels of a /boot whose root is not read.
fn without_root(parts: &[Part], image: &Shared<'_>) -> Vec<KernelFacts> {
    let mut all = Vec::new();
    for part in parts.iter().filter(|part| matches!(part.detected.format, Format::Ext2 | Format::Ext3 | Format::Ext4)) {
        let opened = volume::open(survey::section(part, image), part.detected.format, fat::Options::default());
        if let Ok(mut tree) = opened {
            all.extend(kernels::at_top(&mut *tree, part.number));
        }
    }
    all.truncate(kernels::KERNELS_MAX);
    all
}

fn no_root(error: MakeError) -> String {
    match error {
        MakeError::NeedsHost { partition, format, .. } => {
            format!("partition {partition} is {format}, which is not read without a kernel")
        }
        other => causes::in_one_line(&other),
    }
}

fn partition(part: &Part, image: &Shared<'_>) -> PartitionFacts {
    let detected = &part.detected;
    let unreadable = match detected.format.is_read_here() {
        true => volume::open(survey::section(part, image), detected.format, fat::Options::default()).err(),
        false => None,
    };
    let text = |text: &Option<String>| text.as_ref().map(|text| text_of(text.as_bytes()));
    PartitionFacts {
        number: part.number,
        name: text(&part.part_label),
        type_id: part.mbr_type.map_or_else(|| part.type_guid.clone(), |kind| format!("{kind:#04x}")),
        type_name: kinds::name(&part.type_guid, part.mbr_type).map(str::to_owned),
        part_uuid: text(&part.part_uuid),
        start_bytes: part.offset_bytes,
        bytes: part.length_bytes,
        file_system: detected.format.word().to_owned(),
        label: text(&detected.label),
        uuid: text(&detected.uuid),
        file_system_bytes: detected.bytes,
        unreadable: unreadable.map(|error| causes::in_one_line(&error)),
    }
}

fn table(manifest: &Manifest, parts: &[Part]) -> &'static str {
    match parts.first() {
        _ if manifest.boot.gpt => "gpt",
        Some(part) if part.number > 0 => "mbr",
        _ => "none",
    }
}

/// `loaders`: architectures as UEFI names them.
fn boot(facts: &BootFacts, loaders: &[String]) -> Vec<String> {
    let mut kinds: Vec<String> = Vec::new();
    kinds.extend(facts.bios.then(|| "BIOS".to_owned()));
    for arch in loaders.iter().map(String::as_str).chain(facts.loaders.iter().map(|loader| &*loader.arch)) {
        let kind = format!("UEFI {arch}");
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

#[cfg(test)]
pub(super) mod tests;
