//! From compressed bytes to the tar stream. Both sides are counted, so that an archive bomb is
//! noticed while it is read, and an error of the disk or network is not taken for a damaged
//! archive.

use std::{
    io::{self, Cursor},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader, Chain, ReadBuf};

use super::{ArchiveError, Format, Limits};

/// Below this size the ratio is not checked: an empty image of a disk shrinks very well.
const RATIO_FLOOR: u64 = 1024 * 1024 * 1024;

const REPACK: &str = "Pack it again with `kernexctl bundle pack DIR`.";

/// Most zero bytes after the last entry; GNU tar pads to 10 KiB.
const MAX_PADDING: u64 = 1024 * 1024;

const NO_LIMIT_HIT: u8 = 0;
const BYTES_HIT: u8 = 1;
const RATIO_HIT: u8 = 2;
const ALLOWANCE_HIT: u8 = 3;

/// Counts both sides of the decoder. Atomics only because the parts of one future share it.
#[derive(Debug)]
pub(super) struct Meter {
    limits: Limits,
    compressed: AtomicU64,
    unpacked: AtomicU64,
    allowed: AtomicU64,
    ended: AtomicBool,
    source_failed: AtomicBool,
    hit: AtomicU8,
}

impl Meter {
    fn new(limits: &Limits) -> Self {
        Self {
            limits: *limits,
            compressed: AtomicU64::new(0),
            unpacked: AtomicU64::new(0),
            allowed: AtomicU64::new(u64::MAX),
            ended: AtomicBool::new(false),
            source_failed: AtomicBool::new(false),
            hit: AtomicU8::new(NO_LIMIT_HIT),
        }
    }

    /// Allows this many more bytes of the tar stream. The tar reader collects long names in memory;
    /// this limits them.
    pub(super) fn allow(&self, bytes: u64) {
        let now = self.unpacked.load(Relaxed);
        self.allowed.store(now.saturating_add(bytes), Relaxed);
    }

    /// Whether the tar stream came to its end.
    fn ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// The real cause behind an error of the tar reader.
    pub(super) fn explain(&self, error: io::Error) -> ArchiveError {
        match self.hit.load(Relaxed) {
            BYTES_HIT => too_many_bytes(&self.limits),
            RATIO_HIT => ArchiveError::TooLarge {
                what: "compression ratio is",
                limit: self.limits.max_ratio,
            },
            ALLOWANCE_HIT => {
                ArchiveError::unsafe_entry(b"header", "is larger than any real one", REPACK)
            }
            _ if self.source_failed.load(Relaxed) => ArchiveError::Io(error),
            _ => ArchiveError::Corrupt(error),
        }
    }

    fn count_unpacked(&self, bytes: u64) -> io::Result<()> {
        let unpacked = self.unpacked.fetch_add(bytes, Relaxed) + bytes;
        let compressed = self.compressed.load(Relaxed).max(1);
        let hit = if unpacked > self.limits.max_unpacked_bytes {
            BYTES_HIT
        } else if unpacked > RATIO_FLOOR && unpacked / compressed >= self.limits.max_ratio {
            RATIO_HIT
        } else if unpacked > self.allowed.load(Relaxed) {
            ALLOWANCE_HIT
        } else {
            return Ok(());
        };
        self.hit.store(hit, Relaxed);
        Err(io::Error::other("the archive hit a limit"))
    }
}

/// The refusal when the files together are too much.
pub(super) fn too_many_bytes(limits: &Limits) -> ArchiveError {
    ArchiveError::TooLarge {
        what: "unpacked size in bytes is",
        limit: limits.max_unpacked_bytes,
    }
}

/// The compressed side.
pub(super) struct Source<R> {
    inner: R,
    meter: Arc<Meter>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Source<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        match &result {
            Ok(()) => {
                let read = buf.filled().len() - before;
                self.meter.compressed.fetch_add(read as u64, Relaxed);
            }
            Err(_) => self.meter.source_failed.store(true, Relaxed),
        }
        Poll::Ready(result)
    }
}

type Whole<R> = BufReader<Chain<Cursor<Vec<u8>>, Source<R>>>;

enum Decoder<R> {
    Gz(GzipDecoder<Whole<R>>),
    Zst(ZstdDecoder<Whole<R>>),
}

pub(super) struct TarStream<R> {
    decoder: Decoder<R>,
    meter: Arc<Meter>,
}

impl<R: AsyncRead + Unpin + Send> TarStream<R> {
    /// Recognises the format and starts decoding.
    pub(super) async fn open(
        reader: R,
        limits: &Limits,
    ) -> Result<(Self, Format, Arc<Meter>), ArchiveError> {
        let meter = Arc::new(Meter::new(limits));
        let mut source = Source {
            inner: reader,
            meter: meter.clone(),
        };
        let mut start = Vec::with_capacity(Format::MAGIC_LEN);
        (&mut source)
            .take(Format::MAGIC_LEN as u64)
            .read_to_end(&mut start)
            .await
            .map_err(|error| meter.explain(error))?;
        let format = Format::sniff(&start).ok_or_else(|| corrupt("it is neither gzip nor zstd"))?;
        let whole = BufReader::with_capacity(64 * 1024, Cursor::new(start).chain(source));
        // Parallel compressors write several members or frames, which together are one file.
        let decoder = match format {
            Format::TarGz => {
                let mut decoder = GzipDecoder::new(whole);
                decoder.multiple_members(true);
                Decoder::Gz(decoder)
            }
            Format::TarZst => {
                let mut decoder = ZstdDecoder::new(whole);
                decoder.multiple_members(true);
                Decoder::Zst(decoder)
            }
        };
        let stream = Self {
            decoder,
            meter: meter.clone(),
        };
        Ok((stream, format, meter))
    }

    /// Reads what follows the last entry: zeros only, then nothing, neither here nor behind the
    /// last member or frame.
    pub(super) async fn finish(mut self) -> Result<(), ArchiveError> {
        let meter = self.meter.clone();
        if meter.ended() {
            return Err(corrupt("it ends without the closing zero block"));
        }
        let trailing =
            || ArchiveError::unsafe_entry(b"end of archive", "is followed by more data", REPACK);
        meter.allow(u64::MAX);
        let mut buffer = vec![0; 16 * 1024];
        let mut padding = 0;
        loop {
            let read = self.read(&mut buffer).await;
            let read = read.map_err(|error| meter.explain(error))?;
            padding += read as u64;
            match buffer.get(..read) {
                None | Some([]) => break,
                Some(zeros) if padding <= MAX_PADDING && zeros.iter().all(|b| *b == 0) => {}
                Some(_) => return Err(trailing()),
            }
        }
        let mut rest = match self.decoder {
            Decoder::Gz(decoder) => decoder.into_inner(),
            Decoder::Zst(decoder) => decoder.into_inner(),
        };
        match rest.fill_buf().await {
            Ok([]) => Ok(()),
            Ok(_) => Err(trailing()),
            Err(error) => Err(ArchiveError::Io(error)),
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for TarStream<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(match &mut self.decoder {
            Decoder::Gz(decoder) => Pin::new(decoder).poll_read(cx, buf),
            Decoder::Zst(decoder) => Pin::new(decoder).poll_read(cx, buf),
        })?;
        let read = buf.filled().len() - before;
        if read == 0 && buf.remaining() > 0 {
            self.meter.ended.store(true, Relaxed);
        }
        Poll::Ready(self.meter.count_unpacked(read as u64))
    }
}

/// Damage that is noticed here and not by a decoder.
pub(super) fn corrupt(why: &'static str) -> ArchiveError {
    ArchiveError::Corrupt(io::Error::new(io::ErrorKind::InvalidData, why))
}
