//! A request body as a blocking reader: the import runs on a thread of its own and takes the bytes as they come.

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use std::io::{self, Read};
use std::time::Duration;
use tokio::sync::mpsc;

/// Frames between the socket and the import: bounds memory, and slows the sender to the import's pace.
const FRAMES_MAX: usize = 16;
/// For a sender to see the answer and stop.
const HOLD: Duration = Duration::from_secs(2);

/// The reading end.
#[derive(Debug)]
pub struct BodyReader {
    frames: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

/// Pumps `body` into a reader. The reader fails when the body was cut, so that a cut upload can never look
/// like a short image (faults.md I1).
#[must_use]
pub fn reader(body: Body) -> BodyReader {
    // An operator's pipe may be silent for as long as it likes.
    reader_within(body, Duration::MAX)
}

/// As [`reader`], and fails when nothing came for `silence`: the other end may be gone without a word.
#[must_use]
pub fn reader_within(body: Body, silence: Duration) -> BodyReader {
    BodyReader { frames: pump(body, silence), rest: Bytes::new() }
}

/// The same for what comes behind `rest`; a body that has not come as a whole within a time is cut.
#[must_use]
pub fn reader_behind(rest: Bytes, body: Body, within: Duration) -> BodyReader {
    let whole = pump(body, Duration::MAX);
    let (sender, frames) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut whole = whole;
        let relayed = tokio::time::timeout(within, async {
            while let Some(piece) = whole.recv().await {
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
        });
        if relayed.await.is_err() {
            let late = io::Error::new(io::ErrorKind::TimedOut, "the body did not come in time");
            // Nobody reads any more, or the cut is seen.
            let _ = sender.send(Err(late)).await;
        }
    });
    BodyReader { frames, rest }
}

fn pump(mut body: Body, silence: Duration) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, frames) = mpsc::channel(FRAMES_MAX);
    tokio::spawn(async move {
        loop {
            let piece = match tokio::time::timeout(silence, body.frame()).await {
                Ok(None) => return,
                Err(_) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "nothing came for too long")),
                Ok(Some(frame)) => match frame {
                    Ok(frame) => frame.into_data().map_err(|_| io::Error::other("a body frame without data")),
                    Err(error) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, error)),
                },
            };
            let ended = piece.is_err();
            if sender.send(piece).await.is_err() {
                return hold(body).await;
            }
            if ended {
                return;
            }
        }
    });
    frames
}

/// A body that somebody may refuse before he has read it: then it is held open for a moment.
#[derive(Debug)]
pub struct Offered(Option<Body>);

impl Offered {
    #[must_use]
    pub fn new(body: Body) -> Offered {
        Offered(Some(body))
    }

    pub fn take(mut self) -> Body {
        self.0.take().unwrap_or_default()
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        if let Some(body) = self.0.take() {
            tokio::spawn(hold(body));
        }
    }
}

/// Keeps a body that nobody wants any more, unread. A connection that is closed with bytes unread is reset, and whoever is
/// still sending sees that instead of the answer that says why (RFC 9112 section 9.6); while it is open he only waits.
async fn hold(body: Body) {
    if !hyper::body::Body::is_end_stream(&body) {
        tokio::time::sleep(HOLD).await;
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.frames.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let length = self.rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}
