//! The thread of an upload. It hashes, writes and inspects the bytes in one pass, apart from the
//! threads that serve calls.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::FutureExt as _;
use kernex_proto::{
    archive::{ArchiveError, Checked, Limits, check_upload},
    digest::{Digest, Hasher},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::mpsc,
    task::JoinHandle,
};

use crate::blobs::{BlobError, BlobWriter};

/// Pieces that wait for the thread: one is received while another is worked on.
const WAITING: usize = 2;

enum Part {
    Bytes(Bytes),
    End,
}

/// What is known of the bytes once all have come.
pub(super) struct ReceivedBytes {
    /// Has written the bytes and not synced them.
    pub(super) writer: BlobWriter,
    pub(super) size: u64,
    pub(super) digest: Digest,
    /// What is in the archive. It is read in the same way as on devices, so that no device finds
    /// what the server did not see.
    pub(super) checked: Result<Checked, ArchiveError>,
}

/// The channel to the thread. When it is dropped, the thread ends and leaves nothing behind.
pub(super) struct Intake {
    parts: mpsc::Sender<Part>,
    received: JoinHandle<Result<ReceivedBytes, BlobError>>,
}

impl Intake {
    pub(super) fn start(writer: BlobWriter, limits: Limits, allow_unknown: bool) -> Self {
        let (parts, incoming) = mpsc::channel(WAITING);
        let received =
            tokio::task::spawn_blocking(move || receive(writer, incoming, &limits, allow_unknown));
        Self { parts, received }
    }

    /// Hands bytes over; `false` when the thread has given up, and [`end`](Self::end) says why.
    pub(super) async fn give(&self, bytes: Bytes) -> bool {
        // Empty bytes would mean the end.
        bytes.is_empty() || self.parts.send(Part::Bytes(bytes)).await.is_ok()
    }

    /// Ends the bytes and waits for what the thread found.
    pub(super) async fn end(self) -> Result<ReceivedBytes, BlobError> {
        // If the thread has ended, its result says why.
        let _ = self.parts.send(Part::End).await;
        joined(self.received).await
    }

    /// Gives up; nothing is left when this returns.
    pub(super) async fn abort(self) {
        drop(self.parts);
        // The thread fails, because the channel is closed.
        let _ = joined(self.received).await;
    }
}

async fn joined(
    received: JoinHandle<Result<ReceivedBytes, BlobError>>,
) -> Result<ReceivedBytes, BlobError> {
    let received = received.await.map_err(|error| BlobError::Io {
        doing: "taking an upload in",
        source: io::Error::other(error),
    });
    received?
}

/// Receives an upload, on a thread that may block.
fn receive(
    writer: BlobWriter,
    parts: mpsc::Receiver<Part>,
    limits: &Limits,
    allow_unknown: bool,
) -> Result<ReceivedBytes, BlobError> {
    let mut tee = Tee {
        writer,
        parts,
        hash: Hasher::new(),
        size: 0,
        rest: Bytes::new(),
        ended: false,
        failure: None,
    };
    // The reader blocks instead of waiting, so the first poll walks the whole archive.
    let walk = check_upload(&mut tee, limits, allow_unknown).now_or_never();
    let checked = walk.unwrap_or_else(|| {
        let error = io::Error::other("the walk through an archive waited");
        Err(ArchiveError::Io(error))
    });
    // A refused archive is read to its end as well, because wrong bytes are reported before a wrong
    // archive.
    while tee.failure.is_none() && !tee.ended {
        // The failure is kept and reported below.
        let _ = tee.next();
    }
    if let Some(failure) = tee.failure {
        return Err(failure);
    }
    Ok(ReceivedBytes {
        writer: tee.writer,
        size: tee.size,
        digest: tee.hash.finish(),
        checked,
    })
}

/// Hashes and writes the bytes that the inspection of the archive reads. Reading from it blocks the
/// thread.
struct Tee {
    writer: BlobWriter,
    parts: mpsc::Receiver<Part>,
    hash: Hasher,
    size: u64,
    /// The part of the last piece that was not read yet.
    rest: Bytes,
    ended: bool,
    failure: Option<BlobError>,
}

impl Tee {
    /// The next piece; empty at the end.
    fn next(&mut self) -> io::Result<Bytes> {
        if self.ended {
            return Ok(Bytes::new());
        }
        let bytes = match self.parts.blocking_recv() {
            Some(Part::Bytes(bytes)) => bytes,
            Some(Part::End) => {
                self.ended = true;
                return Ok(Bytes::new());
            }
            None => return Err(self.fail(gave_up())),
        };
        self.hash.update(&bytes);
        self.size += bytes.len() as u64;
        match self.writer.write(&bytes) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Keeps the failure, which is reported later; the inspection only has to end.
    fn fail(&mut self, failure: BlobError) -> io::Error {
        self.failure = Some(failure);
        io::Error::other("the upload ended")
    }
}

fn gave_up() -> BlobError {
    BlobError::Io {
        doing: "taking an upload in",
        source: io::Error::new(io::ErrorKind::ConnectionAborted, "the caller gave up"),
    }
}

impl AsyncRead for Tee {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            self.rest = match self.next() {
                Ok(bytes) => bytes,
                Err(error) => return Poll::Ready(Err(error)),
            };
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest.split_to(length));
        Poll::Ready(Ok(()))
    }
}
