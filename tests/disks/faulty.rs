//! A real file as a disk that fails.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use regild::agent::device::{Access, Device, DirectDevice};

use super::MIB;

/// What a fault does to one access.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// EIO.
    Error,
    /// One bit of what reaches the disk is another.
    Flip,
}

/// A real file as a disk, with faults on writes.
pub struct Faulty {
    device: DirectDevice,
    pub sector_bytes: Option<u32>,
    pub fault: Box<dyn Fn(u64) -> Fault + Sync>,
    pub writes: Arc<AtomicU64>,
    /// Bytes that were read.
    pub read_bytes: Arc<AtomicU64>,
    /// Reads that begin in these bytes fail, in each MiB until something was written or zeroed there.
    pub unreadable: Range<u64>,
    replaced: Mutex<HashSet<u64>>,
}

impl Faulty {
    pub fn open(path: &std::path::Path, fault: impl Fn(u64) -> Fault + Sync + 'static) -> Faulty {
        let device = DirectDevice::open(path, Access::Write).unwrap();
        Faulty {
            device,
            sector_bytes: None,
            fault: Box::new(fault),
            writes: Arc::default(),
            read_bytes: Arc::default(),
            unreadable: 0..0,
            replaced: Mutex::default(),
        }
    }

    fn replace(&self, range: &Range<u64>) {
        self.replaced.lock().unwrap().extend(range.start / MIB..range.end.div_ceil(MIB));
    }
}

impl Device for Faulty {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn sector_bytes(&self) -> Option<u32> {
        self.sector_bytes
    }

    fn is_direct(&self) -> bool {
        self.device.is_direct()
    }

    fn read(&self, offset_bytes: u64, out: &mut [u8]) -> io::Result<()> {
        if self.unreadable.contains(&offset_bytes) && !self.replaced.lock().unwrap().contains(&(offset_bytes / MIB)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.read_bytes.fetch_add(out.len() as u64, Ordering::Relaxed);
        self.device.read(offset_bytes, out)
    }

    fn write(&self, offset_bytes: u64, bytes: &[u8]) -> io::Result<usize> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.replace(&(offset_bytes..offset_bytes + bytes.len() as u64));
        match (self.fault)(offset_bytes) {
            Fault::None => self.device.write(offset_bytes, bytes),
            // EIO
            Fault::Error => Err(io::Error::from_raw_os_error(5)),
            Fault::Flip => {
                // Through the page cache: what matters is what is on the file when it is read back.
                let mut flipped = bytes.to_vec();
                let middle = flipped.len() / 2;
                flipped[middle] ^= 1;
                let file = std::fs::OpenOptions::new().write(true).open(self.device.name())?;
                std::os::unix::fs::FileExt::write_all_at(&file, &flipped, offset_bytes)?;
                file.sync_all()?;
                Ok(bytes.len())
            }
        }
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.replace(&range);
        self.device.zero(range)
    }

    fn sync(&self) -> io::Result<()> {
        self.device.sync()
    }
}
