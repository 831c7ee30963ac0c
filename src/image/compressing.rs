//! The threads that compress an import's new blocks: some that compress frames, and one that writes them in their order.
//!
//! Frames do not depend on one another, so the pack is the same to the byte however many threads there are. Nearly all
//! the time of a first import is zstd's: one thread takes 3.6 s for a Debian of 829 MB, three times as long as all
//! else.

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::files::TempFile;
use super::pack::{self, FrameSpan};
use super::{StoreError, files, io_error};
use crate::wire::manifest::{Digest, PACK_HEADER_BYTES};

/// A server has more to do than an import: not all of many cores.
const THREADS_MAX: usize = 4;
/// Frames that wait for each thread, and behind it: 2 MiB a thread.
const WAITING: usize = 2;
/// What is written is sent on its way to the disk in pieces of this, so that the sync in the end does not wait for all.
const WRITEBACK_BYTES: u64 = 8 << 20;

/// Takes frames, gives a pack.
#[derive(Debug)]
pub(super) struct Compressing {
    /// One for each thread; they take turns. None once a thread was seen to fail, or all is said.
    senders: Vec<SyncSender<Vec<u8>>>,
    next: usize,
    writer: Option<JoinHandle<Result<Compressed, StoreError>>>,
}

/// A pack without its index.
#[derive(Debug)]
pub(super) struct Compressed {
    pub temp: TempFile,
    pub id: Digest,
    pub frames: Vec<FrameSpan>,
    pub pack_bytes: u64,
}

/// One frame: compressed, and its length before.
type Frame = io::Result<(Vec<u8>, u32)>;

impl Compressing {
    pub fn begin(temp: TempFile) -> Compressing {
        let count = thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX));
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (sender, raw) = sync_channel(WAITING);
            let (compressed, receiver) = sync_channel(WAITING);
            // They end with their channels; nobody needs to wait for them but the writer, who does.
            thread::spawn(move || compress(&raw, &compressed));
            senders.push(sender);
            receivers.push(receiver);
        }
        let writer = thread::spawn(move || write(temp, &receivers));
        Compressing { senders, next: 0, writer: Some(writer) }
    }

    /// Takes the next frame, as soon as there is room.
    pub fn take(&mut self, frame: Vec<u8>) -> Result<(), StoreError> {
        let sent = self.senders.get(self.next).is_some_and(|sender| sender.send(frame).is_ok());
        self.next = (self.next + 1) % self.senders.len().max(1);
        // A thread ends early only because of an error; that error is what the caller must see.
        if sent { Ok(()) } else { self.join().map(|_| ()) }
    }

    /// The pack, synced.
    pub fn join(&mut self) -> Result<Compressed, StoreError> {
        self.senders.clear();
        let gone = || io_error("write", Path::new("pack"))(io::Error::other("a compressing thread panicked"));
        let writer = self.writer.take().ok_or_else(gone)?;
        writer.join().map_err(|_| gone())?
    }
}

impl Drop for Compressing {
    /// An import that is given up waits for its threads, which then remove the unfinished file.
    fn drop(&mut self) {
        if self.writer.is_some() {
            let _ = self.join();
        }
    }
}

/// One of the threads that compress.
fn compress(raw: &Receiver<Vec<u8>>, compressed: &SyncSender<Frame>) {
    let mut compressor = pack::compressor();
    for frame in raw {
        let packed = match &mut compressor {
            // A frame has 512 KiB.
            Ok(compressor) => compressor.compress(&frame).map(|packed| (packed, frame.len() as u32)),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        if compressed.send(packed).is_err() {
            return;
        }
    }
}

/// The thread that writes: frames in turn from each of the others, and the digest of the file as it grows.
fn write(mut temp: TempFile, compressed: &[Receiver<Frame>]) -> Result<Compressed, StoreError> {
    let path = temp.path().to_owned();
    let mut hasher = blake3::Hasher::new();
    let mut frames = Vec::new();
    let header = pack::header();
    hasher.update(&header);
    temp.file.write_all(&header).map_err(io_error("write", &path))?;
    let mut pack_bytes = PACK_HEADER_BYTES;
    let mut sent_bytes = 0;
    // The first that has none is the one whose turn it would be: all were given all.
    for frame in compressed.iter().cycle().map_while(|receiver| receiver.recv().ok()) {
        let (packed, raw_bytes) = frame.map_err(io_error("compress for", &path))?;
        hasher.update(&packed);
        temp.file.write_all(&packed).map_err(io_error("write", &path))?;
        // Bounded by a frame of 512 KiB.
        frames.push(FrameSpan { offset_bytes: pack_bytes, compressed_bytes: packed.len() as u32, raw_bytes });
        pack_bytes += packed.len() as u64;
        if pack_bytes - sent_bytes >= WRITEBACK_BYTES {
            files::begin_writeback(&temp.file, sent_bytes, pack_bytes - sent_bytes);
            sent_bytes = pack_bytes;
        }
    }
    temp.file.sync_all().map_err(io_error("sync", &path))?;
    Ok(Compressed { temp, id: *hasher.finalize().as_bytes(), frames, pack_bytes })
}
