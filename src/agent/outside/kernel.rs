//! File systems that only the kernel reads (xfs, btrfs, ...): mounted read-only, without replaying their journal, on a
//! disk that the kernel was told not to write.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use super::disk::ReadOnlyDisk;
use crate::volume::Format;

/// One that is mounted, for as long as this is there.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
}

/// A partition as the disk's table has it.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// As in `vda1`; 0: the whole disk.
    pub partition: u32,
    pub start_bytes: u64,
}

impl Mounted {
    /// Mounts a partition, or a subvolume of it, at `path`, which is made.
    ///
    /// # Errors
    /// One line: another format than these, no node for the partition, a node of something else, or the kernel's word.
    pub fn new(
        disk: &ReadOnlyDisk,
        place: Place,
        format: Format,
        subvolume: Option<&str>,
        path: PathBuf,
    ) -> Result<Mounted, String> {
        // A dirty log stays as it is: what it holds is not seen, and nothing of it is written.
        let options = match format {
            // nouuid: a copy of the same image may be mounted from another disk.
            Format::Xfs => "norecovery,nouuid",
            Format::Btrfs => "rescue=nologreplay",
            Format::F2fs => "norecovery",
            Format::Squashfs | Format::Erofs | Format::Iso9660 => "",
            other => return Err(format!("{} is not mounted to be looked at", other.word())),
        };
        let options = with_subvolume(options, format, subvolume)?;
        if !disk.is_block() {
            return Err(format!("{} is mounted from a disk only, not from a file", format.word()));
        }
        let node = node_of(disk.name(), place.partition);
        let failed = |what: &str, error: io::Error| format!("{} cannot be {what}: {error}", node.display());
        if let Some(known) = kernels_start(&node).map_err(|error| failed("looked at", error))? {
            check_start(&node, known, place.start_bytes)?;
        }
        std::fs::create_dir_all(&path).map_err(|error| failed("given a place", error))?;
        let flags =
            MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NOATIME;
        let options = CString::new(options).map_err(|error| failed("mounted", error.into()))?;
        let mounted = rustix::mount::mount(&node, &path, format.word(), flags, Some(options.as_c_str()));
        mounted.map_err(|error| failed("mounted read-only", error.into()))?;
        Ok(Mounted { path })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The machine reboots in a moment; a mount that stays is read-only.
        if let Err(error) = rustix::mount::unmount(&self.path, UnmountFlags::DETACH) {
            tracing::warn!(path = %self.path.display(), %error, "a volume stays mounted");
        }
    }
}

/// Where the kernel has the partition behind a node, in bytes; `None` for a node that is no partition.
fn kernels_start(node: &Path) -> io::Result<Option<u64>> {
    let device = std::fs::metadata(node)?.rdev();
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    match std::fs::read_to_string(Path::new("/sys/dev/block").join(number).join("start")) {
        // In sectors of 512 bytes, whatever the disk has (Documentation/ABI/stable/sysfs-block).
        Ok(text) => text.trim().parse::<u64>().map(|start| Some(start * 512)).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// While one partition of a disk is in use, the kernel keeps all of them as they were before the disk was written: what
/// it would mount there is not the image's.
fn check_start(node: &Path, known_bytes: u64, table_bytes: u64) -> Result<(), String> {
    if known_bytes == table_bytes {
        return Ok(());
    }
    let node = node.display();
    Err(format!("the kernel has {node} at byte {known_bytes}, the disk's table at {table_bytes}: it is not mounted"))
}

/// The name is outside text, and becomes one option.
fn with_subvolume(options: &str, format: Format, subvolume: Option<&str>) -> Result<String, String> {
    let Some(subvolume) = subvolume else { return Ok(options.to_owned()) };
    if format != Format::Btrfs
        || subvolume.is_empty()
        || subvolume.chars().any(|c| c == ',' || c == '\\' || c.is_control())
    {
        return Err(format!("{} has no subvolume of that name that could be mounted", format.word()));
    }
    Ok(format!("{options},subvol={subvolume}"))
}

/// `/dev/vda2`, `/dev/nvme0n1p2`: a name that ends in a digit takes a `p`.
fn node_of(disk: &str, partition: u32) -> PathBuf {
    if partition == 0 {
        return PathBuf::from(disk);
    }
    let separator =
        if Path::new(disk).as_os_str().as_bytes().last().is_some_and(u8::is_ascii_digit) { "p" } else { "" };
    PathBuf::from(format!("{disk}{separator}{partition}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name out of an image's fstab cannot become another option, such as one that writes.
    #[test]
    fn a_subvolumes_name_stays_a_name() {
        let named = |name| with_subvolume("rescue=nologreplay", Format::Btrfs, Some(name));
        assert_eq!(named("@home").as_deref(), Ok("rescue=nologreplay,subvol=@home"));
        for name in ["", "a,rw", "a\\054rw", "a\nb"] {
            assert!(named(name).is_err(), "{name:?}");
        }
        assert!(with_subvolume("norecovery", Format::Xfs, Some("a")).is_err());
    }

    #[test]
    fn a_partition_that_the_kernel_has_elsewhere_is_not_mounted() {
        let node = Path::new("/dev/vda2");
        assert_eq!(check_start(node, 1 << 20, 1 << 20), Ok(()));
        assert!(check_start(node, 1 << 20, 2 << 20).unwrap_err().contains("/dev/vda2 at byte 1048576"));
        assert_eq!(kernels_start(Path::new("/dev/null")).unwrap(), None, "no partition");
    }

    #[test]
    fn partitions_are_called_as_the_kernel_calls_them() {
        for (disk, number, node) in
            [("/dev/vda", 2, "/dev/vda2"), ("/dev/nvme0n1", 3, "/dev/nvme0n1p3"), ("/dev/sdb", 0, "/dev/sdb")]
        {
            assert_eq!(node_of(disk, number), PathBuf::from(node));
        }
    }
}
