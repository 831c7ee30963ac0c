//! A machine's connection on which pieces of files go from the page cache to the network without a copy.
//!
//! hyper writes slices of memory and knows no files. So a piece of a file is handed to it as the addresses at which the
//! file is mapped, which nobody ever looks at: when hyper writes them, [`Socket`] sees whose they are and has the kernel send
//! that part of the file instead (sendfile(2)). Measured over a veth cable with cubic (kernel 6.18, 2 cores): 0.26 s of
//! processor time a GB when the mapping itself was written, nearly half of it for the copy, and 0.13 by sendfile.
//!
//! A disk that fails, or a file that is cut short, is an error of that system call; a mapping that is read would raise
//! SIGBUS and end the server.

use crate::clock;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use socket2::SockRef;
use std::any::Any;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A piece that was in memory is sent by a worker for so long. What a slow client takes later may have left memory, and is sent
/// by a thread that may wait.
const WARM_FOR: Duration = Duration::from_secs(1);

/// The pieces of files that one connection still has to send.
#[derive(Debug, Clone, Default)]
pub struct Outgoing(Arc<Mutex<Vec<Piece>>>);

#[derive(Debug, Clone)]
struct Piece {
    addresses: Range<usize>,
    part: Part,
    noted: Instant,
}

/// Some of a file, from a place on.
#[derive(Debug, Clone)]
pub struct Part {
    pub file: Arc<File>,
    /// What it is called when it cannot be read.
    pub etag: Arc<str>,
    pub offset: u64,
    /// Not in memory: whoever sends it waits for the disk.
    pub is_cold: bool,
}

/// The addresses mean this part as long as this is there.
#[derive(Debug)]
pub struct Noted {
    outgoing: Outgoing,
    addresses: Range<usize>,
}

impl Outgoing {
    /// Whoever writes these bytes to the connection means `part`. They must stay mapped until what is returned is dropped.
    #[must_use]
    pub fn note(&self, bytes: &[u8], part: Part) -> Noted {
        let start = bytes.as_ptr().addr();
        let addresses = start..start + bytes.len();
        self.pieces().push(Piece { addresses: addresses.clone(), part, noted: clock::instant() });
        Noted { outgoing: self.clone(), addresses }
    }

    /// Which part of a file these bytes stand for, and how many of them.
    fn find(&self, bytes: &[u8]) -> Option<(Part, usize)> {
        let at = bytes.as_ptr().addr();
        let pieces = self.pieces();
        let Piece { addresses, part, noted } = pieces.iter().find(|piece| piece.addresses.contains(&at))?;
        let offset = part.offset + (at - addresses.start) as u64;
        let is_cold = part.is_cold || noted.elapsed() > WARM_FOR;
        Some((Part { offset, is_cold, ..part.clone() }, bytes.len().min(addresses.end - at)))
    }

    fn pieces(&self) -> MutexGuard<'_, Vec<Piece>> {
        // A list that is whole at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut pieces = self.outgoing.pieces();
        // Two with the same addresses are the same part of the same file: the mapping is the same.
        if let Some(at) = pieces.iter().position(|piece| piece.addresses == self.addresses) {
            pieces.swap_remove(at);
        }
    }
}

/// The connection.
#[derive(Debug)]
pub struct Socket {
    stream: TokioIo<TcpStream>,
    outgoing: Outgoing,
    /// Its place among those that there may be, given back when nobody works for it any more.
    place: Arc<dyn Any + Send + Sync>,
    /// A part that waits for the disk, on a thread that may.
    cold: Option<JoinHandle<io::Result<usize>>>,
    /// Whether the kernel holds back what fills no segment (tcp(7), TCP_CORK). Where it does not, an acknowledgement that
    /// comes between two pages sends what is there by then, and the client is woken for less: 0.92 of the throughput.
    is_corked: bool,
}

impl Socket {
    #[must_use]
    pub fn new(stream: TcpStream, outgoing: Outgoing, place: Arc<dyn Any + Send + Sync>) -> Socket {
        Socket { stream: TokioIo::new(stream), outgoing, place, cold: None, is_corked: false }
    }

    fn cork(&mut self, is_corked: bool) {
        if self.is_corked != is_corked {
            self.is_corked = SockRef::from(self.stream.inner()).set_tcp_cork(is_corked).is_ok() && is_corked;
        }
    }

    /// Sends some of a part, as much as there is room for.
    fn poll_send(&mut self, part: &Part, length: usize, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.cork(true);
        let stream = self.stream.inner();
        loop {
            if let Some(cold) = &mut self.cold {
                let sent = ready!(Pin::new(cold).poll(context));
                self.cold = None;
                match sent.map_err(io::Error::other)? {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    sent => return Poll::Ready(sent.inspect_err(|error| say(error, part))),
                }
            }
            ready!(stream.poll_write_ready(context))?;
            let asked = if part.is_cold {
                stream.try_io(Interest::WRITABLE, || has_room(stream.as_fd()).map(|()| None))
            } else {
                stream.try_io(Interest::WRITABLE, || send(stream.as_fd(), part, length).map(Some))
            };
            match asked {
                Ok(Some(sent)) => return Poll::Ready(Ok(sent)),
                Ok(None) => {
                    let socket: OwnedFd = stream.as_fd().try_clone_to_owned()?;
                    let (part, place) = (part.clone(), self.place.clone());
                    self.cold = Some(tokio::task::spawn_blocking(move || {
                        let sent = send(socket.as_fd(), &part, length);
                        drop((socket, part, place));
                        sent
                    }));
                }
                // What is waited for above.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    say(&error, part);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl Drop for Socket {
    /// What waits for a thread is not begun for a client that is gone.
    fn drop(&mut self) {
        if let Some(cold) = &self.cold {
            cold.abort();
        }
    }
}

/// A client that went away is daily life; a file that cannot be read is for whoever keeps the disks.
fn say(error: &io::Error, part: &Part) {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    let is_of_the_client =
        [BrokenPipe, ConnectionAborted, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut];
    if !is_of_the_client.contains(&error.kind()) {
        // The answer ends before its length is reached, which no client takes for a whole one.
        tracing::error!(%error, etag = %part.etag, offset = part.offset, "image data cannot be read");
    }
}

/// sendfile(2) to a socket that does not block.
fn send(socket: BorrowedFd<'_>, part: &Part, length: usize) -> io::Result<usize> {
    let mut offset = part.offset;
    match rustix::fs::sendfile(socket, &*part.file, Some(&mut offset), length)? {
        0 => {
            let reason = format!("the file ends at byte {offset}, and was longer");
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason))
        }
        sent => Ok(sent),
    }
}

/// Asked by a system call of its own, so that `try_io` knows of it: that the other thread found no room is no news that the
/// reactor may be told, since room may have come meanwhile.
fn has_room(socket: BorrowedFd<'_>) -> io::Result<()> {
    match nix::poll::poll(&mut [PollFd::new(socket, PollFlags::POLLOUT)], PollTimeout::ZERO)? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.as_mut().poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let found = slices.iter().enumerate().find_map(|(at, bytes)| Some((at, self.outgoing.find(bytes)?)));
        match found {
            None => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
            Some((0, (part, length))) => self.poll_send(&part, length, context),
            // The head of an answer: together with what follows it, or its client is woken twice.
            Some(_) => {
                let stream = self.stream.inner();
                loop {
                    ready!(stream.poll_write_ready(context))?;
                    let send = || SockRef::from(stream).send_with_flags(&slices[0], libc::MSG_MORE);
                    match stream.try_io(Interest::WRITABLE, send) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        sent => return Poll::Ready(sent),
                    }
                }
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has nothing more to write for now.
        self.cork(false);
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    const BYTES: usize = 12 << 20;

    fn content() -> Vec<u8> {
        (0..BYTES).map(|at| (at / 251) as u8).collect()
    }

    /// Addresses that stand for a file, and hold something else: whoever looks at them is found out.
    fn addresses() -> Vec<u8> {
        vec![0xee; BYTES]
    }

    fn file(content: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Arc::new(file)
    }

    fn part(file: &Arc<File>, offset: u64, is_cold: bool) -> Part {
        Part { file: file.clone(), etag: "x".into(), offset, is_cold }
    }

    /// A connection, and the client's end of it.
    async fn connection(outgoing: &Outgoing) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Socket::new(accepted.unwrap().0, outgoing.clone(), Arc::new(())), client.unwrap())
    }

    /// As hyper writes what it has.
    async fn write_all(socket: &mut Socket, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        while !slices.is_empty() {
            let write = |context: &mut Context<'_>| Pin::new(&mut *socket).poll_write_vectored(context, slices);
            let wrote = std::future::poll_fn(write).await?;
            assert_ne!(wrote, 0);
            IoSlice::advance_slices(&mut slices, wrote);
        }
        std::future::poll_fn(|context| Pin::new(&mut *socket).poll_flush(context)).await
    }

    /// Promise: what arrives is the file, whoever waits for the disk or for the client, and what stands before, between and
    /// behind its pieces is in its place.
    #[tokio::test]
    async fn pieces_of_files_arrive_in_their_order_between_what_is_no_piece() {
        let (content, addresses) = (content(), addresses());
        let file = file(&content);
        let outgoing = Outgoing::default();
        let (mut socket, mut client) = connection(&outgoing).await;
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            let mut some = vec![0; 300_000];
            // Slower than what is sent, so that its socket fills up.
            loop {
                match client.read(&mut some).await.unwrap() {
                    0 => return all,
                    length => all.extend_from_slice(&some[..length]),
                }
                if all.len() % 7 == 0 {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
        });
        let half = BYTES / 2;
        let warm = outgoing.note(&addresses[..half], part(&file, 5, false));
        let cold = outgoing.note(&addresses[half..BYTES - 5], part(&file, 5 + half as u64, true));
        let parts: [&[u8]; 6] =
            [b"head", b" more", &addresses[..half], b"between", &addresses[half..BYTES - 5], b"behind"];
        write_all(&mut socket, &mut parts.map(IoSlice::new)).await.unwrap();
        drop((warm, cold));
        assert!(outgoing.pieces().is_empty());
        assert!(!SockRef::from(socket.stream.inner()).tcp_cork().unwrap(), "what is left would wait for 200 ms");
        drop(socket);
        let expected = [&b"head more"[..], &content[5..5 + half], b"between", &content[5 + half..], b"behind"].concat();
        assert!(reading.await.unwrap() == expected, "something else arrived");
    }

    /// Promise: a file that is shorter than it was is an error, for whoever waits for the disk too.
    #[tokio::test]
    async fn a_file_that_ends_too_early_ends_the_connection() {
        let addresses = addresses();
        let file = file(&content()[..1000]);
        for is_cold in [false, true] {
            let outgoing = Outgoing::default();
            let (mut socket, mut client) = connection(&outgoing).await;
            let _noted = outgoing.note(&addresses[..5000], part(&file, 0, is_cold));
            let error = write_all(&mut socket, &mut [IoSlice::new(&addresses[..5000])]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            drop(socket);
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            assert_eq!(all.len(), 1000);
        }
    }

    /// A body of one piece, whose addresses hold something else.
    struct OnePiece {
        addresses: Arc<Vec<u8>>,
        noted: Option<Noted>,
    }

    struct Held(Arc<Vec<u8>>, #[expect(dead_code, reason = "dropped with the bytes")] Noted);

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl hyper::body::Body for OnePiece {
        type Data = bytes::Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
            let noted = self.noted.take();
            let bytes = noted.map(|noted| bytes::Bytes::from_owner(Held(self.addresses.clone(), noted)));
            Poll::Ready(bytes.map(|bytes| Ok(hyper::body::Frame::data(bytes))))
        }

        fn size_hint(&self) -> hyper::body::SizeHint {
            hyper::body::SizeHint::with_exact(BYTES as u64)
        }
    }

    /// Promise of issue 5: no copy in user space. Whatever hyper, the stall's watch or this would copy is not the file.
    #[tokio::test]
    async fn nobody_on_the_way_looks_at_the_addresses() {
        let (content, addresses) = (content(), Arc::new(addresses()));
        let file = file(&content);
        let outgoing = Outgoing::default();
        let (socket, mut client) = connection(&outgoing).await;
        let noting = outgoing.clone();
        let answer = move || {
            let noted = noting.note(&addresses, part(&file, 0, false));
            let body = OnePiece { addresses: addresses.clone(), noted: Some(noted) };
            async move { axum::body::Body::new(body) }
        };
        let routes = axum::Router::new().route("/", axum::routing::get(answer));
        let serving = tokio::spawn(crate::http::listen::serve(socket, routes, Duration::from_secs(20)));
        // Two at once, and the second one's head comes after the first one's piece.
        let asked = "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut client, asked.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        serving.await.unwrap();
        for _ in 0..2 {
            let head = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
            assert!(all[..head].starts_with(b"HTTP/1.1 200"));
            assert!(all[head..head + BYTES] == content, "a copy was sent");
            all.drain(..head + BYTES);
        }
        assert!(all.is_empty() && outgoing.pieces().is_empty());
    }

    #[test]
    fn addresses_mean_a_file_only_as_long_as_somebody_has_them() {
        let addresses = addresses();
        let outgoing = Outgoing::default();
        let file = file(b"some");
        let noted = outgoing.note(&addresses[10..20], part(&file, 100, false));
        let found =
            |from: usize, to: usize| outgoing.find(&addresses[from..to]).map(|(part, length)| (part.offset, length));
        assert_eq!((found(10, 20), found(13, 15), found(19, 400)), (Some((100, 10)), Some((103, 2)), Some((109, 1))));
        assert_eq!((found(9, 20), found(20, 21)), (None, None));
        let is_cold = || outgoing.find(&addresses[10..20]).map(|(part, _)| part.is_cold);
        assert_eq!(is_cold(), Some(false));
        outgoing.pieces()[0].noted = clock::instant().checked_sub(2 * WARM_FOR).expect("this machine runs for longer");
        assert_eq!(is_cold(), Some(true), "what was in memory then may not be now");
        drop(noted);
        assert_eq!(found(10, 20), None);
        assert_eq!(Arc::strong_count(&file), 1, "a pack that was removed gives its space back");
    }
}
