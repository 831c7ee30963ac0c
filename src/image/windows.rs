//! The windows of an image on their way through an import: read by the thread that imports, hashed by another one
//! meanwhile, and then placed by the first.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use super::source::Source;
use super::{ImportError, pack};
use crate::wire::manifest::{self, BLOCK_BYTES, Digest, WINDOW_BYTES};

/// Windows that are read and not yet placed: one is being read, one hashed, one placed. 3 MiB.
const AHEAD: usize = 2;

/// Up to 1 MiB of an image, from a multiple of that on.
#[derive(Debug)]
pub(super) struct Window {
    pub offset_bytes: u64,
    /// Shorter than [`WINDOW_BYTES`] only at the end of the image.
    pub image_bytes: u64,
    content: Content,
    /// Of each block; `None` for one of zeros. Empty before it is hashed, and for a hole.
    digests: Vec<Option<Digest>>,
}

#[derive(Debug)]
enum Content {
    /// Zeros throughout, which nobody has looked at one by one.
    Hole,
    /// Whole blocks, the last one padded with zeros.
    Blocks(Vec<u8>),
}

impl Window {
    /// As much as there is, up to 1 MiB. `buffer`: of a window that is done with, so that it need not be asked for again.
    pub fn read(source: &mut Source, offset_bytes: u64, buffer: Option<Window>) -> Result<Window, ImportError> {
        let zeros = source.zeros(WINDOW_BYTES).map_err(ImportError::from_read)?;
        let mut digests = Vec::new();
        let mut bytes = Vec::new();
        if let Some(Window { content: Content::Blocks(used), digests: given, .. }) = buffer {
            (bytes, digests) = (used, given);
            digests.clear();
        }
        if zeros == WINDOW_BYTES {
            return Ok(Window { offset_bytes, image_bytes: zeros, content: Content::Hole, digests });
        }
        // At most 1 MiB.
        let mut count = zeros as usize;
        bytes.resize(WINDOW_BYTES as usize, 0);
        bytes[..count].fill(0);
        count += read_full(source, &mut bytes[count..]).map_err(ImportError::from_read)?;
        let padded = count.next_multiple_of(BLOCK_BYTES);
        bytes[count..padded].fill(0);
        bytes.truncate(padded);
        Ok(Window { offset_bytes, image_bytes: count as u64, content: Content::Blocks(bytes), digests })
    }

    pub fn is_hole(&self) -> bool {
        matches!(self.content, Content::Hole)
    }

    /// Whole blocks; none for a hole.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Hole => &[],
            Content::Blocks(bytes) => bytes,
        }
    }

    /// Of each block of [`Window::bytes`]; `None` for one of zeros.
    pub fn digests(&self) -> &[Option<Digest>] {
        &self.digests
    }

    fn hash(&mut self) {
        if let Content::Blocks(bytes) = &self.content {
            let digest = |block: &[u8]| (!pack::is_zero(block)).then(|| manifest::digest(block));
            self.digests.extend(bytes.chunks(BLOCK_BYTES).map(digest));
        }
    }
}

/// As many bytes as there are, up to the length of `window`.
fn read_full(reader: &mut impl Read, window: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < window.len() {
        match reader.read(&mut window[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(count)
}

/// The thread that hashes, and what is on its way through it.
#[derive(Debug)]
pub(super) struct Hashing {
    sender: SyncSender<Window>,
    receiver: Receiver<Window>,
    on_the_way: usize,
}

impl Hashing {
    /// The thread ends when this is dropped.
    pub fn begin<'s>(scope: &'s Scope<'s, '_>) -> Hashing {
        let (sender, unhashed) = sync_channel::<Window>(AHEAD);
        let (hashed, receiver) = sync_channel(AHEAD);
        scope.spawn(move || {
            for mut window in unhashed {
                window.hash();
                if hashed.send(window).is_err() {
                    break;
                }
            }
        });
        Hashing { sender, receiver, on_the_way: 0 }
    }

    /// Gives a window to be hashed, and takes one that is, once enough are on their way. In the order of the image.
    pub fn exchange(&mut self, window: Window) -> Option<Window> {
        // The thread ends only with its channels. If it panicked the scope says so in the end.
        let sent = self.sender.send(window).is_ok();
        self.on_the_way += usize::from(sent);
        if self.on_the_way > AHEAD { self.take() } else { None }
    }

    /// The next one that is still on its way.
    pub fn take(&mut self) -> Option<Window> {
        self.on_the_way = self.on_the_way.checked_sub(1)?;
        self.receiver.recv().ok()
    }
}
