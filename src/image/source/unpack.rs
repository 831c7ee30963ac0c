//! zstd, xz and gzip, each with the memory that it may take. How much comes out is bounded by whoever reads: by size,
//! never by ratio, since an honest image of 40 GiB of holes packs into some KiB.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Error as XzError, Stream};
use zstd::stream::read::Decoder as ZstdDecoder;

use super::{Compression, SourceError};

/// zstd: 128 MiB of window, which is what every level has without `--long=28` and more, and its own default limit.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// xz: a dictionary of 64 MiB is level 9, and needs 65 MiB.
const XZ_BYTES_MAX: u64 = 128 << 20;

/// The unpacked bytes of `packed`, which may be several streams behind one another, as these tools allow it.
///
/// # Errors
/// When the decoder cannot be made.
pub(super) fn unpack<'r>(packed: impl BufRead + 'r, compression: Compression) -> io::Result<Box<dyn Read + 'r>> {
    Ok(match compression {
        Compression::Zstd => {
            let mut decoder = ZstdDecoder::with_buffer(packed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(Explained { decoder, compression })
        }
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_BYTES_MAX, CONCATENATED)?;
            Box::new(Explained { decoder: XzDecoder::new_stream(packed, stream), compression })
        }
        Compression::Gzip => Box::new(Explained { decoder: MultiGzDecoder::new(packed), compression }),
    })
}

/// A decoder whose errors say what they mean.
struct Explained<D> {
    decoder: D,
    compression: Compression,
}

impl<D: Read> Read for Explained<D> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(out).map_err(|error| explained(error, self.compression))
    }
}

fn explained(error: io::Error, compression: Compression) -> io::Error {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    // From below the decoder: a cut upload, not damage. And what was explained there stays as it is.
    let from_below = matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted);
    if from_below || error.get_ref().is_some_and(|inner| inner.is::<SourceError>()) {
        return error;
    }
    let xz_error = error.get_ref().and_then(|inner| inner.downcast_ref::<XzError>());
    let wants_memory = match compression {
        Compression::Zstd => error.to_string().contains("too much memory"),
        Compression::Xz => xz_error.is_some_and(|error| matches!(error, XzError::MemLimit | XzError::Mem)),
        Compression::Gzip => false,
    };
    let what = if wants_memory {
        SourceError::PackedTooWide { compression }
    } else {
        SourceError::PackedDamaged { compression, source: error }
    };
    io::Error::new(io::ErrorKind::InvalidData, what)
}
