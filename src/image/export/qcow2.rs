//! A qcow2 file that grows in order, written by `imago`: version 3, clusters of 64 KiB, no compression.

use std::fs::File;
use std::io;

use imago::file::File as Storage;
use imago::qcow2::{Qcow2, Qcow2CreateBuilder};
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder};

/// Data is gathered up to here: with a request for each cluster most of the time would go into tables.
const GATHER_BYTES: usize = 4 << 20;

pub(super) struct Writer<'f> {
    image: FormatAccess<Storage>,
    file: &'f File,
    gathered: Vec<u8>,
    gathered_from: u64,
}

impl<'f> Writer<'f> {
    pub fn create(file: &'f File, image_bytes: u64) -> io::Result<Writer<'f>> {
        let storage = Storage::try_from(file.try_clone()?)?;
        let builder = Qcow2CreateBuilder::<Storage>::new(storage).size(image_bytes);
        let open = |storage| Ok(Qcow2::<Storage>::builder(storage).backing(None).write(true));
        let image = builder.create_open(DenyImplicitOpenGate::default(), open)?;
        Ok(Writer { image: FormatAccess::new(image), file, gathered: Vec::new(), gathered_from: 0 })
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.gathered.is_empty() {
            self.image.write(&self.gathered[..], self.gathered_from)?;
            self.gathered.clear();
        }
        Ok(())
    }

    /// What follows in ascending order; what is not written reads as zeros.
    pub fn put(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let follows = self.gathered_from + self.gathered.len() as u64 == offset;
        if !follows || self.gathered.len() + bytes.len() > GATHER_BYTES {
            self.flush()?;
            self.gathered_from = offset;
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    /// On stable storage afterwards.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.image.flush()?;
        self.image.sync()?;
        self.file.sync_all()
    }
}
