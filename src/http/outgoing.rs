//! A machine's connection on which pieces of files go from the page cache to the network without a copy.
//!
//! hyper writes slices of memory and knows no files. So a piece of a file is handed to it as the addresses at which the
//! file is mapped, which nobody ever looks at: when hyper writes them, [`Socket`] sees whose they are and has the kernel send
//! that part of the file instead (sendfile(2)). Measured over a veth cable with cubic (kernel 6.18, 2 cores): 0.26 s of
//! processor time a GB when the mapping itself was written, nearly half of it for the copy, and 0.13 by sendfile.
//!
//! A disk that fails, or a file that is cut short, is an error of that system call; a mapping that is read would raise
//! SIGBUS and end the server.

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use socket2::SockRef;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// The pieces of files that one connection still has to send.
#[derive(Debug, Clone, Default)]
pub struct Outgoing(Arc<Mutex<Vec<Piece>>>);

#[derive(Debug, Clone)]
struct Piece {
    addresses: Range<usize>,
    part: Part,
}

/// Some of a file, from a place on.
#[derive(Debug, Clone)]
pub struct Part {
    pub file: Arc<File>,
    pub offset: u64,
    /// Not in memory: whoever sends it waits for the disk.
    pub is_cold: bool,
}

/// The addresses mean this part as long as this is there.
#[derive(Debug)]
pub struct Noted {
    outgoing: Outgoing,
    start: usize,
}

impl Outgoing {
    /// Whoever writes these bytes to the connection means `part`. They must stay mapped until what is returned is dropped.
    #[must_use]
    pub fn note(&self, bytes: &[u8], part: Part) -> Noted {
        let start = bytes.as_ptr().addr();
        self.pieces().push(Piece { addresses: start..start + bytes.len(), part });
        Noted { outgoing: self.clone(), start }
    }

    /// Which part of a file these bytes stand for, and how many of them.
    fn find(&self, bytes: &[u8]) -> Option<(Part, usize)> {
        let at = bytes.as_ptr().addr();
        let pieces = self.pieces();
        let Piece { addresses, part } = pieces.iter().find(|piece| piece.addresses.contains(&at))?;
        let offset = part.offset + (at - addresses.start) as u64;
        Some((Part { offset, ..part.clone() }, bytes.len().min(addresses.end - at)))
    }

    fn pieces(&self) -> MutexGuard<'_, Vec<Piece>> {
        // A list that is whole at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut pieces = self.outgoing.pieces();
        // Two with the same start are the same part of the same file: the mapping is the same.
        if let Some(at) = pieces.iter().position(|piece| piece.addresses.start == self.start) {
            pieces.swap_remove(at);
        }
    }
}

/// The connection.
#[derive(Debug)]
pub struct Socket {
    stream: TokioIo<TcpStream>,
    outgoing: Outgoing,
    /// A part that waits for the disk, on a thread that may.
    cold: Option<JoinHandle<io::Result<usize>>>,
    /// Whether the kernel holds back what fills no segment (tcp(7), TCP_CORK). Where it does not, an acknowledgement that
    /// comes between two pages sends what is there by then, and the client is woken for less: 0.92 of the throughput.
    is_corked: bool,
}

impl Socket {
    #[must_use]
    pub fn new(stream: TcpStream, outgoing: Outgoing) -> Socket {
        Socket { stream: TokioIo::new(stream), outgoing, cold: None, is_corked: false }
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
                    sent => return Poll::Ready(sent),
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
                    let part = part.clone();
                    self.cold = Some(tokio::task::spawn_blocking(move || send(socket.as_fd(), &part, length)));
                }
                // What is waited for above.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
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

    /// A connection, and the client's end of it.
    async fn connection(outgoing: &Outgoing) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Socket::new(accepted.unwrap().0, outgoing.clone()), client.unwrap())
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
        let part = |offset, is_cold| Part { file: file.clone(), offset, is_cold };
        let warm = outgoing.note(&addresses[..half], part(5, false));
        let cold = outgoing.note(&addresses[half..BYTES - 5], part(5 + half as u64, true));
        let parts: [&[u8]; 6] =
            [b"head", b" more", &addresses[..half], b"between", &addresses[half..BYTES - 5], b"behind"];
        write_all(&mut socket, &mut parts.map(IoSlice::new)).await.unwrap();
        drop((warm, cold));
        assert!(outgoing.pieces().is_empty());
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
            let _noted = outgoing.note(&addresses[..5000], Part { file: file.clone(), offset: 0, is_cold });
            let error = write_all(&mut socket, &mut [IoSlice::new(&addresses[..5000])]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            drop(socket);
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            assert_eq!(all.len(), 1000);
        }
    }

    #[test]
    fn addresses_mean_a_file_only_as_long_as_somebody_has_them() {
        let addresses = addresses();
        let outgoing = Outgoing::default();
        let file = file(b"some");
        let noted = outgoing.note(&addresses[10..20], Part { file: file.clone(), offset: 100, is_cold: false });
        let found =
            |from: usize, to: usize| outgoing.find(&addresses[from..to]).map(|(part, length)| (part.offset, length));
        assert_eq!((found(10, 20), found(13, 15), found(19, 400)), (Some((100, 10)), Some((103, 2)), Some((109, 1))));
        assert_eq!((found(9, 20), found(20, 21)), (None, None));
        drop(noted);
        assert_eq!(found(10, 20), None);
        assert_eq!(Arc::strong_count(&file), 1, "a pack that was removed gives its space back");
    }
}
