//! Reads a file piece by piece, from the page cache into the buffer that is sent, on blocking
//! threads.

use std::{fs::File, io, sync::Arc};

use bytes::Bytes;
use futures::Stream;
use kernex_proto::CHUNK_SIZE;
use rustix::{
    buffer::spare_capacity,
    io::{Errno, pread},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::{BlobError, failed};

/// Reads at once, over all downloads. That is enough for any disk, and hundreds of threads are not
/// needed. A download that waits for a slow peer is not counted.
const READS: usize = 16;

/// One permit for each read that may be under way.
#[derive(Debug, Clone)]
pub(super) struct ReadPermits(Arc<Semaphore>);

impl Default for ReadPermits {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(READS)))
    }
}

/// A read that is under way. Dropping it before it has begun cancels it.
type Reading = AbortOnDropHandle<io::Result<Vec<u8>>>;

/// A file from an offset to `size`, in pieces of 256 KiB. Each is read when it is asked for, and
/// the sender asks ahead. A file that is shorter ends where it ends.
pub(super) fn pieces_of(
    file: File,
    offset: u64,
    size: u64,
    turns: ReadPermits,
) -> impl Stream<Item = Result<Bytes, BlobError>> + Send + use<> {
    async_stream::try_stream! {
        let file = Arc::new(file);
        let mut at = offset;
        while at < size {
            let turn = Arc::clone(&turns.0).acquire_owned().await;
            let turn = turn.map_err(io::Error::other).map_err(failed(READING))?;
            let piece = begin_read(&file, at, size, turn).await.map_err(io::Error::other).and_then(|piece| piece);
            let piece = piece.map_err(failed(READING))?;
            if piece.is_empty() {
                break;
            }
            at += piece.len() as u64;
            yield Bytes::from(piece);
        }
    }
}

const READING: &str = "reading a bundle";

fn begin_read(file: &Arc<File>, at: u64, size: u64, turn: OwnedSemaphorePermit) -> Reading {
    let file = Arc::clone(file);
    AbortOnDropHandle::new(tokio::task::spawn_blocking(move || {
        let piece = read(&file, at, size);
        drop(turn);
        piece
    }))
}

/// One piece, read into memory that was not cleared before.
fn read(file: &File, at: u64, size: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(size - at).map_or(CHUNK_SIZE, |left| left.min(CHUNK_SIZE));
    let mut piece = Vec::with_capacity(length);
    while piece.len() < length {
        let from = at + piece.len() as u64;
        match pread(file, spare_capacity(&mut piece), from) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures::StreamExt as _;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("is written");
        file
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_ends_where_it_ends() {
        let bytes = vec![7; CHUNK_SIZE + 5];
        let pieces = pieces_of(file(&bytes), 0, u64::MAX, ReadPermits::default());
        let pieces: Vec<Bytes> = pieces.map(|piece| piece.expect("is read")).collect().await;
        assert_eq!(pieces.concat(), bytes);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = File::open(folder.path()).expect("opens");
        let mut pieces = Box::pin(pieces_of(folder, 0, 1, ReadPermits::default()));
        let error = pieces.next().await.expect("an item").unwrap_err();
        assert!(matches!(error, BlobError::Io { .. }), "{error}");
        assert!(pieces.next().await.is_none(), "it ends there");
    }

    #[tokio::test]
    async fn who_does_not_ask_holds_no_turn() {
        let turns = ReadPermits::default();
        let bytes = vec![1; 3 * CHUNK_SIZE];
        let size = bytes.len() as u64;
        let mut pieces = Box::pin(pieces_of(file(&bytes), 0, size, turns.clone()));
        pieces.next().await.expect("an item").expect("is read");
        let all = turns.0.try_acquire_many(READS as u32);
        assert!(all.is_ok(), "the turn came back with the piece");
    }

    #[tokio::test]
    async fn a_reader_who_leaves_gives_the_turn_and_the_file_back() {
        let turns = ReadPermits::default();
        let bytes = vec![7; 3 * CHUNK_SIZE];
        let size = bytes.len() as u64;
        let mut pieces = Box::pin(pieces_of(file(&bytes), 0, size, turns.clone()));
        pieces.next().await.expect("an item").expect("is read");
        drop(pieces);
        let all = turns.0.acquire_many(READS as u32).await;
        assert!(all.is_ok(), "every turn comes back");
    }
}
