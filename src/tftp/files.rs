//! The table of boot files, and what async-tftp reads them through.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use async_tftp::packet::Error as TftpError;
use async_tftp::server::Handler;
use bytes::Bytes;
use futures_io::{AsyncRead, AsyncWrite};

use super::TftpCounters;
use super::filter::NAME_BYTES_MAX;

/// Each has a socket, a window of at most 94 KB and up to six seconds of patience with a silent client.
const TRANSFERS_MAX: usize = 1000;

/// Names and their bytes. Never changes: a new set is a new table, and who is fetching keeps the bytes that it began with.
#[derive(Debug, Clone, Default)]
pub struct BootFiles {
    by_name: BTreeMap<String, Bytes>,
}

impl BootFiles {
    /// A table of these files. Names are without a leading slash; of two equal names the later one stands.
    pub fn new(files: impl IntoIterator<Item = (String, Bytes)>) -> Self {
        let plain = |(name, bytes): (String, Bytes)| (without_leading_slash(&name).to_owned(), bytes);
        BootFiles { by_name: files.into_iter().map(plain).collect() }
    }

    /// The bytes of a name. Leading `/` and `\` do not count (GRUB writes the one, some ROMs the other);
    /// otherwise the name must be equal. No name is longer than the socket's filter looks for its end.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Bytes> {
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        self.by_name.get(without_leading_slash(name)).cloned()
    }
}

fn without_leading_slash(name: &str) -> &str {
    name.trim_start_matches(['/', '\\'])
}

/// What async-tftp asks for each request.
pub(super) struct FileHandler {
    pub(super) files: Arc<BootFiles>,
    pub(super) counters: Arc<TftpCounters>,
}

impl Handler for FileHandler {
    type Reader = Transfer;
    type Writer = NoWriter;

    async fn read_req_open(&mut self, client: &SocketAddr, path: &Path) -> Result<(Transfer, Option<u64>), TftpError> {
        let found = path.to_str().and_then(|name| self.files.get(name));
        let Some(bytes) = found else {
            count(&self.counters.not_found);
            // Debug format: the name comes from outside.
            tracing::debug!(%client, name = ?path, "no such boot file");
            return Err(TftpError::FileNotFound);
        };
        if self.counters.active.load(Ordering::Relaxed) >= TRANSFERS_MAX {
            count(&self.counters.too_busy);
            return Err(TftpError::Msg("too many transfers, try again".into()));
        }
        tracing::debug!(%client, name = ?path, bytes = bytes.len(), "sending");
        let size = bytes.len() as u64;
        Ok((Transfer::new(bytes, Arc::clone(&self.counters)), Some(size)))
    }

    async fn write_req_open(
        &mut self,
        client: &SocketAddr,
        path: &Path,
        _size: Option<u64>,
    ) -> Result<NoWriter, TftpError> {
        count(&self.counters.writes_refused);
        tracing::debug!(%client, name = ?path, "refused to be written to");
        Err(TftpError::PermissionDenied)
    }
}

/// One running transfer: reads from memory, and counts itself when it ends.
pub(super) struct Transfer {
    left: Bytes,
    counters: Arc<TftpCounters>,
}

impl Transfer {
    fn new(bytes: Bytes, counters: Arc<TftpCounters>) -> Self {
        count(&counters.started);
        counters.active.fetch_add(1, Ordering::Relaxed);
        Transfer { left: bytes, counters }
    }
}

impl AsyncRead for Transfer {
    /// Only writes to `buffer`, never reads it: async-tftp passes memory that was not initialised.
    fn poll_read(mut self: Pin<&mut Self>, _context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let length = buffer.len().min(self.left.len());
        let now = self.left.split_to(length);
        buffer[..length].copy_from_slice(&now);
        self.counters.bytes.fetch_add(length as u64, Ordering::Relaxed);
        Poll::Ready(Ok(length))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.counters.active.fetch_sub(1, Ordering::Relaxed);
        count(if self.left.is_empty() { &self.counters.read_to_end } else { &self.counters.cut_short });
    }
}

/// There is none: writing is refused before a writer is needed.
pub(super) enum NoWriter {}

impl AsyncWrite for NoWriter {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}

/// Counters order nothing, so relaxed is enough.
fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T1: a name is a key of the table or nothing; no spelling reaches a file.
    #[test]
    fn names_are_keys_and_only_leading_slashes_are_forgiven() {
        let files = BootFiles::new([
            ("ipxe.efi".to_owned(), Bytes::from_static(b"efi")),
            ("/grub/grub.cfg".to_owned(), Bytes::from_static(b"cfg")),
        ]);
        for name in ["ipxe.efi", "/ipxe.efi", "\\ipxe.efi", "//\\/ipxe.efi"] {
            assert_eq!(files.get(name).as_deref(), Some(b"efi".as_slice()), "{name}");
        }
        assert_eq!(files.get("grub/grub.cfg").as_deref(), Some(b"cfg".as_slice()));
        let long = "a".repeat(2000);
        let many_slashes = "/".repeat(NAME_BYTES_MAX) + "ipxe.efi";
        for name in [
            "",
            "/",
            "../ipxe.efi",
            "..\\ipxe.efi",
            "./ipxe.efi",
            "..%2fipxe.efi",
            "IPXE.EFI",
            "ipxe.efi/",
            "ipxe.efi ",
            "grub\\grub.cfg",
            "/etc/passwd",
            "Cargo.toml",
            &long,
            &many_slashes,
        ] {
            assert_eq!(files.get(name), None, "{name:?}");
        }
    }
}
