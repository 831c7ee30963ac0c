//! The body of an answer with image data: pieces of a file, each when its turn has come.

use super::Shared;
use super::outgoing::{Outgoing, Part};
use super::pace::{Counted, Limits, Turn};
use crate::image::mapped::MappedFile;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::fs::File;
use std::net::IpAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A piece, where no limit makes it smaller, and what is looked at whether it is in memory: what the agent asks for at once.
const WINDOW_BYTES: usize = 4 << 20;

/// A range of a file on its way.
#[derive(Debug)]
pub struct Sending {
    shared: Arc<Shared>,
    source: IpAddr,
    outgoing: Outgoing,
    file: MappedFile,
    left: Range<usize>,
    /// Up to where it was looked at.
    looked_at: usize,
    /// Of the window before that: it is not in memory, and read from here.
    cold: Option<Arc<File>>,
    limits: Option<Limits>,
    turn: Option<Turn>,
    _counted: Counted,
}

impl Sending {
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        source: IpAddr,
        outgoing: Outgoing,
        file: MappedFile,
        range: Range<usize>,
    ) -> Sending {
        let _counted = Counted::new(&shared.pacer);
        let looked_at = range.start;
        Sending {
            shared,
            source,
            outgoing,
            file,
            left: range,
            looked_at,
            cold: None,
            limits: None,
            turn: None,
            _counted,
        }
    }

    /// A cold page would stall a worker thread, and with it every other machine, while the disk seeks: so cold pieces are
    /// marked, and sent by a thread that may wait. Limits may change in the middle of a long answer.
    fn look_ahead(&mut self) {
        if self.left.start < self.looked_at {
            return;
        }
        self.looked_at = self.left.end.min(self.left.start.saturating_add(WINDOW_BYTES));
        self.limits = self.shared.limits_of(self.source);
        if self.file.is_in_memory(&(self.left.start..self.looked_at)) {
            self.cold = None;
        } else if self.cold.is_none() {
            self.cold = Some(self.file.opened_anew());
        }
    }

    /// How much may be sent now.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        let left = self.looked_at - self.left.start;
        let Some(limits) = &self.limits else { return Poll::Ready(left) };
        let (shared, source) = (&self.shared, self.source);
        let turn = self.turn.get_or_insert_with(|| shared.pacer.ask(source, limits, left));
        let bytes = ready!(Pin::new(turn).poll(context));
        self.turn = None;
        Poll::Ready(bytes.min(left))
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            return Poll::Ready(None);
        }
        this.look_ahead();
        let bytes = ready!(this.poll_turn(context));
        let piece = this.left.start..this.left.start + bytes;
        this.left.start = piece.end;
        this.shared.pacer.count_sent(bytes);
        let file = this.cold.as_ref().unwrap_or(this.file.file()).clone();
        let etag = this.file.shared_etag();
        let part = Part { file, etag, offset: piece.start as u64, is_cold: this.cold.is_some() };
        let outgoing = &this.outgoing;
        Poll::Ready(Some(Ok(Frame::data(this.file.piece(piece, |bytes| outgoing.note(bytes, part))))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
