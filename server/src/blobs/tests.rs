//! Blobs are written, read from any offset, aborted and swept.

use super::*;

async fn collect(blobs: &Blobs, digest: Digest, offset: u64) -> Vec<u8> {
    let stream = blobs.read(digest, offset).await.unwrap();
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert!(
        pieces
            .iter()
            .all(|piece| piece.len() <= CHUNK_SIZE && !piece.is_empty())
    );
    pieces.concat()
}

#[tokio::test]
async fn what_was_written_is_read_from_any_offset() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path().to_str().unwrap()).await.unwrap();
    let bytes: Vec<u8> = (0..CHUNK_SIZE * 2 + 77).map(|n| (n % 251) as u8).collect();
    let digest = Digest::of(&bytes);
    let mut writer = blobs.begin().await.unwrap();
    for piece in bytes.chunks(100_000) {
        writer.write(piece).unwrap();
    }
    assert_eq!(std::fs::read(writer.path()).unwrap(), bytes);
    writer.sync().await.unwrap().finish(digest).await.unwrap();
    assert_eq!(blobs.size(digest).await.unwrap(), Some(bytes.len() as u64));
    for offset in [
        0,
        1,
        CHUNK_SIZE,
        bytes.len() - 1,
        bytes.len(),
        bytes.len() + 5,
    ] {
        let rest = bytes.get(offset..).unwrap_or_default();
        assert_eq!(
            collect(&blobs, digest, offset as u64).await,
            rest,
            "{offset}"
        );
    }
    assert_eq!(blobs.sweep_temporary().await.unwrap(), 0);
    blobs.delete(digest).await.unwrap();
    blobs.delete(digest).await.unwrap();
    assert!(matches!(
        blobs.read(digest, 0).await,
        Err(BlobError::NotFound(_))
    ));
}

#[tokio::test]
async fn an_aborted_upload_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path().to_str().unwrap()).await.unwrap();
    let mut writer = blobs.begin().await.unwrap();
    writer.write(b"half").unwrap();
    drop(writer);
    drop(blobs.begin().await.unwrap().sync().await.unwrap());
    let staging = folder.path().join(STAGING);
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0);
    std::fs::write(staging.join("left-by-a-crash"), b"x").unwrap();
    assert_eq!(blobs.sweep_temporary().await.unwrap(), 1);
}

#[tokio::test]
async fn places_that_do_not_work_are_named() {
    for place in ["/proc/nowhere/bundles", "gopher://x/y"] {
        let error = Blobs::open(place).await.unwrap_err();
        assert!(error.to_string().contains(place), "{error}");
    }
}

#[tokio::test]
async fn more_uploads_than_there_may_be_are_told_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path().to_str().unwrap()).await.unwrap();
    let mut uploads = Vec::new();
    for _ in 0..UPLOADS {
        uploads.push(blobs.begin().await.unwrap());
    }
    assert!(matches!(blobs.begin().await, Err(BlobError::Busy)));
    // The place is taken until the bytes are a blob, or gone.
    let last = uploads.pop().unwrap().sync().await.unwrap();
    assert!(matches!(blobs.begin().await, Err(BlobError::Busy)));
    last.finish(Digest::of(b"")).await.unwrap();
    blobs.begin().await.unwrap();
}
