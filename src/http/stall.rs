//! A connection whose other end takes nothing for a while is ended: its stream holds memory, a place and a descriptor.

use crate::clock;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Passes everything through. The time runs only while there is something to be sent and the socket takes none of it:
/// neither a turn that is waited for (pace.rs) nor a client that thinks about its next request is a stall. A disk that does not
/// give what is to be sent for so long is one, too.
#[derive(Debug)]
pub struct Stalling<IO> {
    io: IO,
    timeout: Duration,
    /// There since the first stall.
    timer: Option<Pin<Box<Sleep>>>,
    is_stalled: bool,
}

impl<IO> Stalling<IO> {
    pub fn new(io: IO, timeout: Duration) -> Stalling<IO> {
        Stalling { io, timeout, timer: None, is_stalled: false }
    }

    /// What writing came to; an error when it came to nothing for too long.
    fn judge<T>(&mut self, wrote: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.is_stalled = false;
            return wrote;
        }
        let ends = || Instant::from_std(clock::instant() + self.timeout);
        if !self.is_stalled {
            let ends = ends();
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(ends),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(ends))),
            }
            self.is_stalled = true;
        }
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        ready!(timer.as_mut().poll(context));
        let reason = format!("nothing could be sent for {} s", self.timeout.as_secs());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)))
    }
}

impl<IO: Read + Unpin> Read for Stalling<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<IO: Write + Unpin> Write for Stalling<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(context, bytes);
        self.judge(wrote, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.judge(wrote, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.judge(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.io).poll_shutdown(context);
        self.judge(closed, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncReadExt;

    async fn write<IO: Write + Unpin>(io: &mut IO, bytes: &[u8]) -> io::Result<usize> {
        std::future::poll_fn(|context| Pin::new(&mut *io).poll_write(context, bytes)).await
    }

    #[tokio::test]
    async fn who_takes_nothing_is_left() {
        let (client, mut server_end) = tokio::io::duplex(10);
        let mut io = Stalling::new(TokioIo::new(client), Duration::from_millis(50));
        assert_eq!(write(&mut io, &[1; 10]).await.unwrap(), 10);
        let error = write(&mut io, &[2]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // One that takes something after all begins anew.
        server_end.read_u8().await.unwrap();
        assert_eq!(write(&mut io, &[3]).await.unwrap(), 1);
        assert_eq!(write(&mut io, &[4]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
