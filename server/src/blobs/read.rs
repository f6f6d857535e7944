//! Bytes of a blob in pieces of the size that travels best.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream::BoxStream};
use kernex_proto::CHUNK_SIZE;

use super::{BlobError, failed};

const DOING: &str = "reading the bundle";

/// A file from an offset on. Each piece is one blocking read; nothing is held between pieces but the open file.
pub(super) fn file(file: File, offset: u64) -> impl Stream<Item = Result<Bytes, BlobError>> + Send {
    futures::stream::try_unfold((file, Some(offset)), |(file, seek)| async move {
        let read = tokio::task::spawn_blocking(move || piece(file, seek)).await;
        let (file, bytes) = read
            .map_err(io::Error::other)
            .and_then(|read| read)
            .map_err(failed(DOING))?;
        Ok((!bytes.is_empty()).then_some((bytes, (file, None))))
    })
}

fn piece(mut file: File, seek: Option<u64>) -> io::Result<(File, Bytes)> {
    if let Some(offset) = seek {
        file.seek(SeekFrom::Start(offset))?;
    }
    let mut bytes = Vec::with_capacity(CHUNK_SIZE);
    (&file).take(CHUNK_SIZE as u64).read_to_end(&mut bytes)?;
    Ok((file, bytes.into()))
}

/// Pieces of a remote store, cut to the size a message may have.
pub(super) fn pieces(
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
) -> impl Stream<Item = Result<Bytes, BlobError>> + Send {
    pieces.flat_map(|piece| {
        let (rest, error) = match piece {
            Ok(bytes) => (bytes, None),
            Err(error) => (Bytes::new(), Some(Err(BlobError::Store(error)))),
        };
        futures::stream::iter(cut(rest).map(Ok).chain(error))
    })
}

fn cut(mut rest: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        (!rest.is_empty()).then(|| rest.split_to(rest.len().min(CHUNK_SIZE)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_are_cut_and_nothing_is_lost() {
        let bytes = Bytes::from(vec![7; CHUNK_SIZE * 2 + 1]);
        let lengths: Vec<_> = cut(bytes).map(|piece| piece.len()).collect();
        assert_eq!(lengths, [CHUNK_SIZE, CHUNK_SIZE, 1]);
    }
}
