//! The kernel's words about changes: fanotify(7) with directory handles and names, Linux 5.9 and newer.
//!
//! One mark covers a whole file system, so that a tree of any size costs one mark and nothing for each directory. An
//! event names the directory by a file handle and the entry by its name; the handle becomes a path by
//! open_by_handle_at(2), which wants CAP_DAC_READ_SEARCH, as the mark wants CAP_SYS_ADMIN.
//!
//! Asked for are creation, removal, renaming, change of attributes, and the end of writing. Not FAN_MODIFY: it is one
//! event for each write(2), paid by the process that writes, and a log or a database writes for ever. What it alone
//! would tell (a file that is written and never closed, truncate(2) by name) the next look at all metadata finds.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const FLAGS: libc::c_uint = libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_DFID_NAME | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
const MASK: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ATTRIB
    | libc::FAN_ONDIR;
/// struct fanotify_event_metadata.
const METADATA_BYTES: usize = 24;
/// The only layout that there has been since Linux 2.6.37.
const METADATA_VERSION: u8 = 3;
/// struct fanotify_event_info_fid up to the handle's own bytes: header, fsid, length and type of the handle.
const INFO_BYTES: usize = 20;
/// MAX_HANDLE_SZ.
const HANDLE_BYTES_MAX: usize = 128;

/// A file system as fanotify and statfs(2) name it.
pub(super) type FsId = [u8; 8];

/// A directory, for as long as it exists: never used again for another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Handle {
    pub fsid: FsId,
    pub kind: i32,
    pub bytes: Vec<u8>,
}

/// One change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event<'b> {
    /// The kernel's queue was full: changes are missing.
    Overflow,
    /// Bytes that are no event as we know them: to be taken as changes that are missing.
    Unclear,
    At {
        mask: u64,
        directory: Handle,
        name: &'b [u8],
    },
}

/// A group of marks. Its queue is the kernel's default, 16,384 events (fs.fanotify.max_queued_events).
#[derive(Debug)]
pub(super) struct Group(OwnedFd);

impl Group {
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN, EINVAL before Linux 5.9, ENOSYS where a sandbox forbids it.
    pub(super) fn new() -> io::Result<Group> {
        // SAFETY: takes two numbers and no memory of ours.
        let fd = unsafe { libc::fanotify_init(FLAGS, (libc::O_RDONLY | libc::O_CLOEXEC) as libc::c_uint) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
        Ok(Group(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches the whole file system that `path` lies on. Done twice it is done once.
    ///
    /// # Errors
    /// ENODEV and EOPNOTSUPP for a file system without an identity or handles (overlay, some network file systems),
    /// EXDEV for a part of one (btrfs subvolumes).
    pub(super) fn mark(&self, path: &Path) -> io::Result<()> {
        let path = c_path(path)?;
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM | libc::FAN_MARK_ONLYDIR;
        // SAFETY: the kernel reads the path up to its NUL, which lives until the call is over.
        let done = unsafe { libc::fanotify_mark(self.0.as_raw_fd(), flags, MASK, libc::AT_FDCWD, path.as_ptr()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits until there is something to read.
    ///
    /// # Errors
    /// What poll(2) says; a signal is none.
    pub(super) fn wait(&self) -> io::Result<()> {
        let mut wanted = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which lives until the call is over.
        let ready = unsafe { libc::poll(&raw mut wanted, 1, -1) };
        let error = io::Error::last_os_error();
        if ready < 0 && error.kind() != io::ErrorKind::Interrupted { Err(error) } else { Ok(()) }
    }

    /// Some events; 0 when there is none now.
    ///
    /// # Errors
    /// What read(2) says.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match rustix::io::read(&self.0, buffer) {
            Ok(count) => Ok(count),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// The events in what was read.
pub(super) fn events(mut bytes: &[u8]) -> impl Iterator<Item = Event<'_>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let (event, rest) = first(bytes).unwrap_or((Event::Unclear, &[]));
        bytes = rest;
        Some(event)
    })
}

fn first(bytes: &[u8]) -> Option<(Event<'_>, &[u8])> {
    let length = u32::from_ne_bytes(field(bytes, 0)?) as usize;
    let metadata_length = usize::from(u16::from_ne_bytes(field(bytes, 6)?));
    let mask = u64::from_ne_bytes(field(bytes, 8)?);
    if length < METADATA_BYTES || bytes.get(4) != Some(&METADATA_VERSION) {
        return None;
    }
    let (event, rest) = bytes.split_at_checked(length)?;
    if mask & libc::FAN_Q_OVERFLOW != 0 {
        return Some((Event::Overflow, rest));
    }
    let at = place(event.get(metadata_length..)?).map(|(directory, name)| Event::At { mask, directory, name });
    Some((at.unwrap_or(Event::Unclear), rest))
}

/// Directory and name out of the information records behind the metadata.
fn place(mut records: &[u8]) -> Option<(Handle, &[u8])> {
    loop {
        let length = usize::from(u16::from_ne_bytes(field(records, 2)?));
        if length < 4 {
            return None;
        }
        let (record, rest) = records.split_at_checked(length)?;
        if matches!(record[0], libc::FAN_EVENT_INFO_TYPE_DFID_NAME | libc::FAN_EVENT_INFO_TYPE_DFID) {
            let fsid = field(record, 4)?;
            let handle_length = u32::from_ne_bytes(field(record, 12)?) as usize;
            let kind = i32::from_ne_bytes(field(record, 16)?);
            let (bytes, name) = record.get(INFO_BYTES..)?.split_at_checked(handle_length)?;
            // Without a name it is about the directory itself, and with "." it is, too.
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = if name == b"." { &name[..0] } else { name };
            return Some((Handle { fsid, kind, bytes: bytes.to_vec() }, name));
        }
        records = rest;
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// What a directory is called now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Absolute, in our own view of the tree.
    At(Vec<u8>),
    /// It was removed. Its removal is a change in the directory that it was in, so nothing is lost.
    Gone,
}

/// The path of a directory, looked up on the mount `mount`.
///
/// # Errors
/// EPERM without CAP_DAC_READ_SEARCH; what else open_by_handle_at(2) says.
pub(super) fn locate(mount: &File, handle: &Handle) -> io::Result<Place> {
    let directory = match open(mount.as_raw_fd(), handle) {
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return Ok(Place::Gone),
        opened => opened?,
    };
    // A directory that was removed while somebody is in it still has a path of sorts, but no link.
    if rustix::fs::fstat(&directory)?.st_nlink == 0 {
        return Ok(Place::Gone);
    }
    let path = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    Ok(Place::At(path.as_os_str().as_bytes().to_vec()))
}

/// struct file_handle with the most that a handle can be.
#[repr(C)]
struct Raw {
    handle_bytes: libc::c_uint,
    handle_type: libc::c_int,
    bytes: [u8; HANDLE_BYTES_MAX],
}

fn open(mount: RawFd, handle: &Handle) -> io::Result<OwnedFd> {
    let mut raw = Raw { handle_bytes: 0, handle_type: handle.kind, bytes: [0; HANDLE_BYTES_MAX] };
    let room = raw.bytes.get_mut(..handle.bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
    room.copy_from_slice(&handle.bytes);
    // At most HANDLE_BYTES_MAX, which was just seen.
    raw.handle_bytes = handle.bytes.len() as libc::c_uint;
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: `Raw` is laid out as struct file_handle, followed by the `handle_bytes` bytes that the kernel reads.
    let fd = unsafe { libc::open_by_handle_at(mount, (&raw mut raw).cast(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The handle of a directory, as events name it; `None` where its file system has none.
pub(super) fn handle_of(path: &Path) -> io::Result<Handle> {
    let directory = File::open(path)?;
    let fsid = fsid_of(&directory)?;
    let path = c_path(path)?;
    let mut raw = Raw { handle_bytes: HANDLE_BYTES_MAX as libc::c_uint, handle_type: 0, bytes: [0; HANDLE_BYTES_MAX] };
    let mut mount_id = 0;
    // SAFETY: the path ends with NUL; `Raw` has the room that `handle_bytes` says, and the kernel writes no more.
    let done =
        unsafe { libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), (&raw mut raw).cast(), &raw mut mount_id, 0) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = raw.bytes.get(..raw.handle_bytes as usize).ok_or(io::ErrorKind::InvalidData)?.to_vec();
    Ok(Handle { fsid, kind: raw.handle_type, bytes })
}

/// The identity of the file system that an open file lies on.
pub(super) fn fsid_of(file: &File) -> io::Result<FsId> {
    let mut found = std::mem::MaybeUninit::<libc::statfs64>::zeroed();
    // SAFETY: the kernel writes one struct statfs64 into the room for one.
    if unsafe { libc::fstatfs64(file.as_raw_fd(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed bytes are a statfs64, and fsid_t is two 32-bit numbers, whose fields libc keeps private.
    Ok(unsafe { std::mem::transmute::<libc::fsid_t, FsId>(found.assume_init().f_fsid) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    let path: &OsStr = path.as_os_str();
    CString::new(path.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(mask: u64, records: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((METADATA_BYTES + records.len()) as u32).to_ne_bytes());
        bytes.extend([METADATA_VERSION, 0]);
        bytes.extend((METADATA_BYTES as u16).to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend((-1i32).to_ne_bytes());
        bytes.extend(7i32.to_ne_bytes());
        bytes.extend(records);
        bytes
    }

    fn record(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let length = (INFO_BYTES + handle.len() + name.len()).next_multiple_of(4);
        let mut bytes = vec![kind, 0];
        bytes.extend((length as u16).to_ne_bytes());
        bytes.extend([9; 8]);
        bytes.extend((handle.len() as u32).to_ne_bytes());
        bytes.extend(1i32.to_ne_bytes());
        bytes.extend(handle);
        bytes.extend(name);
        bytes.resize(length, 0);
        bytes
    }

    #[test]
    fn names_come_out_of_the_kernel_s_records() {
        let named = event(libc::FAN_CREATE, &record(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"12345678", b"passwd\0"));
        let itself = event(libc::FAN_ATTRIB, &record(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"12345678", b".\0"));
        let bytes = [named, itself, event(libc::FAN_Q_OVERFLOW, &[]), event(libc::FAN_CREATE, &[])].concat();
        let directory = || Handle { fsid: [9; 8], kind: 1, bytes: b"12345678".to_vec() };
        let expected = [
            Event::At { mask: libc::FAN_CREATE, directory: directory(), name: b"passwd" },
            Event::At { mask: libc::FAN_ATTRIB, directory: directory(), name: b"" },
            Event::Overflow,
            Event::Unclear,
        ];
        assert!(events(&bytes).eq(expected));
    }

    proptest! {
        /// What is no event is never silence: bytes that are not understood end as one that says so.
        #[test]
        fn no_bytes_are_passed_over(noise in proptest::collection::vec(any::<u8>(), 1..200), cut in 0usize..60) {
            prop_assert!(events(&noise).count() > 0);
            let whole = event(libc::FAN_CREATE, &record(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"12345678", b"a\0"));
            let cut = &whole[..cut.min(whole.len() - 1)];
            prop_assert!(cut.is_empty() || events(cut).last() == Some(Event::Unclear));
        }
    }
}
