//! The mounted tree: by descriptors, never through a symlink, never into a file system that is not the image's.

use super::mounts::{self, Mounts};
use super::tree::{Content, Identity, Names, Seen, Tree};
use crate::decide::drift::finding::{self, Kind, Node};
use rustix::fs::{self, Advice, AtFlags, OFlags, RawDir, Statx, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};
use std::collections::HashSet;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Names and values of all attributes of one file that are compared; `wire::baseline` takes no more.
const XATTRS_BYTES_MAX: usize = 128 << 10;
const STAT_FLAGS: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

#[derive(Debug)]
pub struct LiveTree {
    root: PathBuf,
    /// Where the image's volumes are mounted, beside `/`.
    declared: HashSet<Vec<u8>>,
    mounts: Mounts,
    has_proc: bool,
}

/// An open directory.
#[derive(Debug)]
pub struct LiveDirectory {
    fd: OwnedFd,
    device: (u32, u32),
    /// `None` before Linux 5.8.
    mount: Option<u64>,
}

#[derive(Debug)]
pub struct LiveFile {
    fd: OwnedFd,
    identity: Identity,
    is_sparse: bool,
    cache: Cache,
    is_asked: bool,
}

/// Whether the page cache held the file before it was read.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cache {
    /// So far.
    Holds,
    /// Not from this byte on.
    EndsAt(u64),
    /// The file system cannot say.
    Unknown,
}

impl LiveTree {
    /// `declared`: where the image's volumes are mounted (`wire::baseline::Volume::mounted_at` of those whose files are
    /// in the baseline). Mounts are looked at now: a tree is made for each scan.
    ///
    /// # Errors
    /// The root is not there.
    pub fn new<'p>(root: &Path, declared: impl IntoIterator<Item = &'p [u8]>) -> io::Result<LiveTree> {
        let root = root.canonicalize()?;
        let mountinfo = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        let mounts = Mounts::parse(&mountinfo, &root);
        let declared = declared.into_iter().filter(|path| *path != b"/").map(<[u8]>::to_vec).collect();
        Ok(LiveTree { root, declared, mounts, has_proc: Path::new("/proc/self/fd").exists() })
    }

    /// Why a directory is not entered, or what lies over a file.
    fn closed(&self, parent: &LiveDirectory, path: &[u8], stat: &Statx) -> Option<String> {
        let (device, mount) = (device_of(stat), mount_of(stat));
        let listed = self.mounts.at(path);
        let other_mount = mount.zip(parent.mount).map(|(own, parent)| own != parent);
        let is_declared = self.declared.contains(path);
        match (listed, other_mount) {
            // Another device without a mount is a subvolume (btrfs): part of the tree.
            (None, Some(false)) if !is_declared => None,
            (None, None) if !is_declared && device == parent.device => None,
            (None, Some(false) | None) if is_declared => Some("the image's volume is not mounted here".to_owned()),
            (None, _) => Some("mounted after the scan began".to_owned()),
            (Some(kind), _) if is_declared && mounts::is_on_disk(kind) => None,
            (Some(kind), _) if is_declared => Some(format!("{kind} is mounted here in place of the image's volume")),
            (Some(kind), _) => Some(format!("{kind} is mounted here, not a part of the image")),
        }
    }

    fn seen(&self, fd: &LiveDirectory, name: &[u8], path: &[u8], stat: &Statx) -> io::Result<Seen> {
        let mut seen = without_more(stat);
        if let Kind::Symlink { target } = &mut seen.node.kind {
            *target = fs::readlinkat(&fd.fd, name, Vec::new())?.into_bytes();
        }
        seen.node.xattrs = self.xattrs(fd, name, path)?;
        Ok(seen)
    }

    /// Linux before 6.13 has no call with a directory's descriptor; the way through /proc does the same, and is as safe
    /// against a directory that is swapped for a symlink. Without /proc: by path.
    fn way(&self, fd: &LiveDirectory, name: &[u8], path: &[u8]) -> Vec<u8> {
        if self.has_proc {
            let mut way = format!("/proc/self/fd/{}/", fd.fd.as_raw_fd()).into_bytes();
            way.extend_from_slice(name);
            way
        } else {
            [self.root.as_os_str().as_bytes(), path].concat()
        }
    }

    fn xattrs(&self, fd: &LiveDirectory, name: &[u8], path: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let way = self.way(fd, name, path);
        // The list of names; the kernel bounds it to 64 KiB. Most files have none: one call.
        let mut few = [MaybeUninit::<u8>::uninit(); 512];
        let mut many = Vec::new();
        let names: &[u8] = match fs::llistxattr(&way, &mut few) {
            Ok((names, _)) => names,
            Err(Errno::RANGE) => {
                many.reserve_exact(64 << 10);
                fs::llistxattr(&way, rustix::buffer::spare_capacity(&mut many))?;
                &many
            }
            Err(Errno::OPNOTSUPP) => &[],
            Err(error) => return Err(error.into()),
        };
        let mut found = Vec::new();
        let mut taken_bytes = 0;
        for name in names.split(|byte| *byte == 0).filter(|name| finding::xattr_counts(name)) {
            let mut value = Vec::with_capacity(64 << 10);
            match fs::lgetxattr(&way, name, rustix::buffer::spare_capacity(&mut value)) {
                Ok(_) => {}
                Err(Errno::NODATA) => continue,
                Err(error) => return Err(error.into()),
            }
            value.shrink_to_fit();
            taken_bytes += name.len() + value.len();
            if taken_bytes > XATTRS_BYTES_MAX {
                return Err(io::Error::other(format!(
                    "its extended attributes are longer than {XATTRS_BYTES_MAX} bytes"
                )));
            }
            found.push((name.to_vec(), value));
        }
        found.sort();
        Ok(found)
    }
}

impl Tree for LiveTree {
    type Directory = LiveDirectory;
    type File = LiveFile;

    fn root(&self) -> io::Result<(LiveDirectory, Seen)> {
        let fd = open(fs::CWD, self.root.as_os_str().as_bytes(), OFlags::DIRECTORY)?;
        let stat = fs::statx(&fd, "", AtFlags::EMPTY_PATH, STAT_FLAGS)?;
        let directory = LiveDirectory { fd, device: device_of(&stat), mount: mount_of(&stat) };
        let seen = self.seen(&directory, b".", b"/", &stat)?;
        Ok((directory, seen))
    }

    fn names(&self, directory: &LiveDirectory, room_bytes: usize) -> io::Result<Names> {
        let mut names = Names::new(room_bytes);
        let mut buffer = [MaybeUninit::<u8>::uninit(); 16 << 10];
        let mut entries = RawDir::new(&directory.fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name)?;
            }
        }
        names.sort();
        Ok(names)
    }

    fn look(&self, directory: &LiveDirectory, name: &[u8], path: &[u8]) -> io::Result<Seen> {
        // An automount is a gap, not something that a scan should mount.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = fs::statx(&directory.fd, name, flags, STAT_FLAGS)?;
        let closed = self.closed(directory, path, &stat);
        if closed.is_some() && u32::from(stat.stx_mode) & 0o170_000 == 0o040_000 {
            // Nothing more is asked of what lies there: a network file system may not answer.
            return Ok(Seen { links: 1, closed, ..without_more(&stat) });
        }
        Ok(Seen { closed, ..self.seen(directory, name, path, &stat)? })
    }

    /// One call, and another one for a program.
    fn look_lightly(&self, directory: &LiveDirectory, name: &[u8], path: &[u8]) -> io::Result<Seen> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = fs::statx(&directory.fd, name, flags, STAT_FLAGS)?;
        let mut seen = without_more(&stat);
        match seen.node.kind {
            Kind::Directory => seen.closed = self.closed(directory, path, &stat),
            // Capabilities of a file that nobody may execute give nobody anything.
            Kind::File { .. } if seen.node.mode & 0o111 != 0 => {
                let mut value = [MaybeUninit::<u8>::uninit(); 64];
                match fs::lgetxattr(self.way(directory, name, path), finding::CAPABILITY, &mut value) {
                    Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                    // What it is, a thorough look says.
                    Ok(_) | Err(Errno::RANGE) => seen.node.xattrs.push((finding::CAPABILITY.to_vec(), Vec::new())),
                    Err(error) => return Err(error.into()),
                }
            }
            _ => {}
        }
        Ok(seen)
    }

    fn enter(&self, directory: &LiveDirectory, name: &[u8], path: &[u8]) -> io::Result<LiveDirectory> {
        let fd = open(&directory.fd, name, OFlags::DIRECTORY)?;
        let stat = fs::statx(&fd, "", AtFlags::EMPTY_PATH, STAT_FLAGS)?;
        // Something may have been mounted since it was looked at.
        match self.closed(directory, path, &stat) {
            Some(reason) => Err(io::Error::other(reason)),
            None => Ok(LiveDirectory { fd, device: device_of(&stat), mount: mount_of(&stat) }),
        }
    }

    fn open(&self, directory: &LiveDirectory, name: &[u8], _path: &[u8]) -> io::Result<LiveFile> {
        // NONBLOCK: a FIFO that took the file's place since it was looked at does not hold us.
        let fd = open(&directory.fd, name, OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = fs::fstat(&fd)?;
        if stat.st_mode & 0o170_000 != 0o100_000 {
            return Err(io::Error::other("no longer a regular file"));
        }
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        let is_sparse = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < bytes;
        let identity = Identity {
            device: fs::makedev(fs::major(stat.st_dev), fs::minor(stat.st_dev)),
            inode: stat.st_ino,
            ctime_ns: nanoseconds(stat.st_ctime, u32::try_from(stat.st_ctime_nsec).unwrap_or(0)),
            mtime_ns: nanoseconds(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            bytes,
        };
        Ok(LiveFile { fd, identity, is_sparse, cache: Cache::Holds, is_asked: false })
    }
}

/// Reading changes no access time where the kernel lets us choose (own files, or root's capability).
fn open(directory: impl AsFd, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat(&directory, name, flags | OFlags::NOATIME, fs::Mode::empty()) {
        Err(Errno::PERM) => Ok(fs::openat(&directory, name, flags, fs::Mode::empty())?),
        opened => Ok(opened?),
    }
}

impl Content for LiveFile {
    fn identity(&self) -> io::Result<Identity> {
        // The first question is answered by what `open` asked.
        if !self.is_asked {
            return Ok(self.identity);
        }
        let stat = fs::statx(&self.fd, "", AtFlags::EMPTY_PATH, STAT_FLAGS)?;
        Ok(identity_of(&stat))
    }

    /// What lies in the page cache is taken from there. From the first byte on that does not, the rest of the file is
    /// read ahead and leaves the cache again when the file is closed: a scan of everything must not throw out what the
    /// host works with. (Pages that programs have mapped stay, whatever we say.)
    fn read_at(&mut self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.is_asked = true;
        if self.cache == Cache::Holds {
            let now =
                rustix::io::preadv2(&self.fd, &mut [IoSliceMut::new(buffer)], offset_bytes, ReadWriteFlags::NOWAIT);
            match now {
                Ok(count) => return Ok(count),
                Err(Errno::AGAIN) => {
                    self.cache = Cache::EndsAt(offset_bytes);
                    // A hint; where it is not taken, reading is as right.
                    let _ = fs::fadvise(&self.fd, offset_bytes, None, Advice::Sequential);
                }
                Err(Errno::OPNOTSUPP) => self.cache = Cache::Unknown,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        loop {
            match rustix::io::pread(&self.fd, &mut *buffer, offset_bytes) {
                Err(Errno::INTR) => {}
                read => return Ok(read?),
            }
        }
    }

    fn next_data(&mut self, offset_bytes: u64) -> u64 {
        if !self.is_sparse {
            return offset_bytes;
        }
        match fs::seek(&self.fd, fs::SeekFrom::Data(offset_bytes)) {
            Ok(at) => at,
            Err(Errno::NXIO) => u64::MAX,
            // It cannot say: everything is read.
            Err(_) => offset_bytes,
        }
    }
}

impl Drop for LiveFile {
    fn drop(&mut self) {
        if let Cache::EndsAt(from) = self.cache {
            // A hint, too.
            let rest = self.identity.bytes.checked_sub(from).and_then(NonZeroU64::new);
            let _ = fs::fadvise(&self.fd, from, rest, Advice::DontNeed);
        }
    }
}

/// What the one call tells: neither the target of a symlink nor extended attributes, and not what lies over it.
fn without_more(stat: &Statx) -> Seen {
    let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
    let kind = match u32::from(stat.stx_mode) & 0o170_000 {
        0o100_000 => Kind::File { bytes: stat.stx_size, digest: None },
        0o040_000 => Kind::Directory,
        0o120_000 => Kind::Symlink { target: Vec::new() },
        0o020_000 => Kind::CharDevice { major, minor },
        0o060_000 => Kind::BlockDevice { major, minor },
        0o010_000 => Kind::Fifo,
        _ => Kind::Socket,
    };
    let (uid, gid) = (stat.stx_uid, stat.stx_gid);
    let (mode, modified) = (stat.stx_mode & 0o7777, stat.stx_mtime.tv_sec);
    let node = Node { kind, mode, uid, gid, modified, xattrs: Vec::new() };
    Seen { node, identity: identity_of(stat), links: u64::from(stat.stx_nlink), closed: None }
}

fn device_of(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

fn mount_of(stat: &Statx) -> Option<u64> {
    (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
}

fn identity_of(stat: &Statx) -> Identity {
    Identity {
        device: fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        ctime_ns: nanoseconds(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        mtime_ns: nanoseconds(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        bytes: stat.stx_size,
    }
}

fn nanoseconds(seconds: i64, nanoseconds: u32) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(nanoseconds))
}
