//! The body of an answer with image data: pieces of a mapped file, each when its pages are in memory and its turn has come.

use super::Shared;
use super::pace::{Counted, Limits, Turn};
use crate::image::mapped::MappedFile;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::task::JoinHandle;

/// What is asked of the disk at a time, and what is looked at whether it is in memory: what the agent asks for at once.
pub const WINDOW_BYTES: usize = 4 << 20;
/// What of the files is mapped at once, of all streams together: the largest pieces are the cheapest, but what is mapped
/// counts as this process's memory.
const MAPPED_BYTES_MAX: usize = 64 << 20;
const PIECE_BYTES_MIN: usize = 256 << 10;
const PIECE_BYTES_MAX: usize = 4 << 20;

/// A range of a file on its way.
#[derive(Debug)]
pub struct Sending {
    shared: Arc<Shared>,
    source: IpAddr,
    file: MappedFile,
    left: Range<usize>,
    /// Up to where it was in memory when that was looked at.
    in_memory: usize,
    coming: Option<JoinHandle<io::Result<()>>>,
    limits: Option<Limits>,
    turn: Option<Turn>,
    _counted: Counted,
}

impl Sending {
    /// Its first window is in memory; `was_cold`: only now.
    #[must_use]
    pub fn new(shared: Arc<Shared>, source: IpAddr, file: MappedFile, range: Range<usize>, was_cold: bool) -> Sending {
        let _counted = Counted::new(&shared.pacer);
        let limits = shared.limits_of(source);
        let in_memory = window(&range).end;
        let coming = if was_cold { next(&file, in_memory) } else { None };
        Sending { shared, source, file, left: range, in_memory, coming, limits, turn: None, _counted }
    }

    /// A cold page would stall a worker thread, and with it every other machine, while the disk seeks: so pages are brought
    /// in on a blocking thread first.
    fn poll_in_memory(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.left.start < self.in_memory {
            return Poll::Ready(Ok(()));
        }
        let window = window(&self.left);
        if self.coming.is_none() {
            if self.file.is_in_memory(&window) {
                self.arrived(window.end);
                return Poll::Ready(Ok(()));
            }
            self.coming = Some(bring_in(self.file.clone(), window.clone()));
        }
        if let Some(coming) = &mut self.coming {
            let came = ready!(Pin::new(coming).poll(context));
            self.coming = None;
            came.map_err(io::Error::other)??;
        }
        self.coming = next(&self.file, window.end);
        self.arrived(window.end);
        Poll::Ready(Ok(()))
    }

    /// Limits may change in the middle of a long answer.
    fn arrived(&mut self, end: usize) {
        self.in_memory = end;
        self.limits = self.shared.limits_of(self.source);
    }

    /// How much may be sent now.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        let left = self.in_memory - self.left.start;
        let Some(limits) = &self.limits else {
            let piece = MAPPED_BYTES_MAX / self.shared.pacer.streams().max(1);
            return Poll::Ready(left.min(piece.clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)));
        };
        let (shared, source) = (&self.shared, self.source);
        let turn = self.turn.get_or_insert_with(|| shared.pacer.ask(source, limits, left));
        let bytes = ready!(Pin::new(turn).poll(context));
        self.turn = None;
        Poll::Ready(bytes.min(left))
    }
}

/// The next part of a range that is brought in at once.
pub fn window(range: &Range<usize>) -> Range<usize> {
    range.start..range.end.min(range.start.saturating_add(WINDOW_BYTES))
}

/// While one window is sent the disk reads the next one, also past the end of the range: whoever fetches what is cold goes on
/// there.
fn next(file: &MappedFile, end: usize) -> Option<JoinHandle<io::Result<()>>> {
    let next = window(&(end..file.length()));
    (!next.is_empty() && !file.is_in_memory(&next)).then(|| bring_in(file.clone(), next))
}

/// Has a window read on a blocking thread.
pub fn bring_in(file: MappedFile, window: Range<usize>) -> JoinHandle<io::Result<()>> {
    tokio::task::spawn_blocking(move || file.bring_in(window))
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            return Poll::Ready(None);
        }
        if let Err(error) = ready!(this.poll_in_memory(context)) {
            // The answer ends before its length is reached, which no client takes for a whole one.
            tracing::error!(%error, etag = this.file.etag(), "image data cannot be read");
            return Poll::Ready(Some(Err(error)));
        }
        let bytes = ready!(this.poll_turn(context));
        let piece = this.left.start..this.left.start + bytes;
        this.left.start = piece.end;
        this.shared.pacer.count_sent(bytes);
        Poll::Ready(Some(Ok(Frame::data(this.file.piece(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
