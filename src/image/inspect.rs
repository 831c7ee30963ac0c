//! What starts an image: its MBR, its partition table and its EFI system partition, read from the store's own
//! data. Nothing is mounted.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::import::ImportError;
use crate::gpt;
use crate::wire::manifest::{BootFacts, LOADERS_MAX, Loader, TEXT_BYTES_MAX, WINDOW_BYTES};

/// Boot code in front of the disk signature and the MBR's table.
const MBR_CODE_BYTES: usize = 440;
/// For all EFI system partitions of an image. Reading a few directories of a FAT takes some hundred KiB. A file system
/// whose cluster chains run in circles would be read for ever, and a table has room for a thousand of them.
const ESP_READ_BYTES_MAX: u64 = 64 << 20;
const ENTRIES_MAX: usize = 4096;

/// As the UEFI specification names the loaders that firmware starts without a boot entry.
const ARCHES: [&str; 5] = ["x64", "ia32", "aa64", "arm", "riscv64"];

/// Boot facts and sector size (512 where there is no GUID partition table).
///
/// # Errors
/// [`ImportError::Read`] when the store's data cannot be read, [`ImportError::PartitionTable`] when the table is
/// one that could not be fitted to a disk later.
pub(super) fn inspect(mut image: impl Read + Seek, image_bytes: u64) -> Result<(BootFacts, u32), ImportError> {
    let mut head = vec![0; WINDOW_BYTES.min(image_bytes) as usize];
    image.read_exact(&mut head).map_err(ImportError::Read)?;
    let mut facts = BootFacts {
        bios: head.get(510..512) == Some(&[0x55, 0xaa]) && head[..MBR_CODE_BYTES].iter().any(|byte| *byte != 0),
        ..BootFacts::default()
    };
    let Some(table) = gpt::read(&head)? else {
        return Ok((facts, 512));
    };
    // Better to hear now than at the first deploy that the table does not even fit its own image.
    table.fit(&head, image_bytes)?;
    facts.gpt = true;
    facts.partitions = table.partitions();
    let mut budget_bytes = ESP_READ_BYTES_MAX;
    for partition in facts.partitions.iter().filter(|p| p.type_guid == gpt::ESP_TYPE) {
        let sector = u64::from(table.sector_bytes);
        let length_bytes = (partition.last_lba - partition.first_lba + 1) * sector;
        let section = Section::new(&mut image, partition.first_lba * sector, length_bytes, &mut budget_bytes);
        facts.loaders.extend(find_loaders(section, partition.number));
    }
    // What starts an image stands on its first EFI system partition; a manifest takes no more than this.
    facts.loaders.truncate(LOADERS_MAX);
    Ok((facts, table.sector_bytes))
}

/// For which architectures there are loaders on one EFI system partition, wherever it was found.
pub(super) fn arches(mut image: impl Read + Seek, start: u64, length_bytes: u64) -> Vec<String> {
    let mut budget_bytes = ESP_READ_BYTES_MAX;
    let loaders = find_loaders(Section::new(&mut image, start, length_bytes, &mut budget_bytes), 0);
    loaders.into_iter().map(|loader| loader.arch).collect()
}

/// Loaders on one EFI system partition; none when it is no FAT, or damaged.
fn find_loaders<I: Read + Seek>(section: Section<'_, I>, partition: u32) -> Vec<Loader> {
    // fatfs is old and has never been fuzzed by its makers as far as is known; an image is outside text. A panic
    // in it means that this partition tells us nothing.
    let read = catch_unwind(AssertUnwindSafe(|| read_loaders(section)));
    let mut paths = read.unwrap_or(Ok(Vec::new())).unwrap_or_default();
    // The path that firmware tries by itself first.
    paths.sort_by_key(|(_, path)| !path.starts_with("\\EFI\\BOOT\\"));
    let mut loaders: Vec<Loader> = Vec::new();
    for (arch, path) in paths {
        if loaders.iter().all(|loader| loader.arch != arch) {
            loaders.push(Loader { arch: arch.to_owned(), path, partition });
        }
    }
    loaders
}

/// Every `\EFI\BOOT\BOOT<ARCH>.EFI`, and shim or GRUB in other directories for images without one.
fn read_loaders<I: Read + Seek>(section: Section<'_, I>) -> io::Result<Vec<(&'static str, String)>> {
    let fat = fatfs::FileSystem::new(section, fatfs::FsOptions::new())?;
    let efi = fat.root_dir().open_dir("EFI")?;
    let mut found = Vec::new();
    for vendor in efi.iter().take(ENTRIES_MAX) {
        let vendor = vendor?;
        let directory = vendor.file_name();
        if !vendor.is_dir() || directory.starts_with('.') {
            continue;
        }
        for file in vendor.to_dir().iter().take(ENTRIES_MAX) {
            let file = file?;
            let name = file.file_name();
            let path = format!("\\EFI\\{directory}\\{name}");
            // No operating system has a directory with a name so long that a manifest cannot hold it.
            if let Some(arch) = arch_of(&directory, &name).filter(|_| file.is_file() && path.len() <= TEXT_BYTES_MAX) {
                found.push((arch, path));
            }
        }
    }
    // Shim before GRUB: with Secure Boot only shim starts.
    found.sort_by_key(|(_, path)| path.to_ascii_lowercase().contains("\\grub"));
    Ok(found.into_iter().map(|(arch, path)| (arch, canonical(&path))).collect())
}

fn arch_of(directory: &str, file: &str) -> Option<&'static str> {
    let stem = file.to_ascii_lowercase();
    let stem = stem.strip_suffix(".efi")?;
    let prefixes: &[&str] = if directory.eq_ignore_ascii_case("BOOT") { &["boot"] } else { &["shim", "grub"] };
    ARCHES.into_iter().find(|arch| prefixes.iter().any(|prefix| stem.strip_prefix(prefix) == Some(arch)))
}

/// FAT keeps names in any case and compares without it; the fallback path has one spelling in the specification.
fn canonical(path: &str) -> String {
    let upper = path.to_ascii_uppercase();
    if upper.starts_with("\\EFI\\BOOT\\") { upper } else { path.to_owned() }
}

/// One partition as a read-only file.
struct Section<'i, I> {
    image: &'i mut I,
    start: u64,
    len_bytes: u64,
    position: u64,
    budget_bytes: &'i mut u64,
}

impl<'i, I> Section<'i, I> {
    fn new(image: &'i mut I, start: u64, len_bytes: u64, budget_bytes: &'i mut u64) -> Section<'i, I> {
        Section { image, start, len_bytes, position: 0, budget_bytes }
    }
}

impl<I: Read + Seek> Read for Section<'_, I> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.len_bytes.saturating_sub(self.position);
        let count = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        // A read costs at least a sector, so that endless reads of nothing end too.
        let cost = (count as u64).max(512);
        *self.budget_bytes = self.budget_bytes.checked_sub(cost).ok_or(io::ErrorKind::FileTooLarge)?;
        self.image.seek(SeekFrom::Start(self.start + self.position))?;
        let count = self.image.read(&mut out[..count])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl<I> Seek for Section<'_, I> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.len_bytes.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// fatfs asks for a writer; an image never changes.
impl<I> Write for Section<'_, I> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
