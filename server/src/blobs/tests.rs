//! Blobs on a real folder.

use futures::TryStreamExt as _;
use kernex_proto::CHUNK_SIZE;

use super::*;

async fn stored(blobs: &Blobs, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let mut writer = blobs.begin().await.expect("begins");
    for piece in bytes.chunks(CHUNK_SIZE) {
        writer
            .write(Bytes::copy_from_slice(piece))
            .await
            .expect("writes");
    }
    writer.finish(digest).await.expect("finishes");
    digest
}

async fn read(blobs: &Blobs, digest: Digest, offset: u64) -> Vec<u8> {
    let pieces: Vec<Bytes> = blobs
        .read(digest, offset)
        .await
        .expect("is there")
        .try_collect()
        .await
        .expect("reads");
    assert!(pieces.iter().all(|piece| piece.len() <= CHUNK_SIZE));
    pieces.concat()
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).expect("a folder").count()
}

#[tokio::test]
async fn bytes_come_back_from_any_offset() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(&folder.path().to_string_lossy())
        .await
        .expect("opens");
    let bytes: Vec<u8> = (0..CHUNK_SIZE * 2 + 17).map(|i| (i % 251) as u8).collect();
    let digest = stored(&blobs, &bytes).await;
    for offset in [
        0,
        1,
        CHUNK_SIZE,
        CHUNK_SIZE + 3,
        bytes.len() - 1,
        bytes.len(),
        bytes.len() + 9,
    ] {
        let rest = bytes.get(offset..).unwrap_or_default();
        assert_eq!(
            read(&blobs, digest, offset as u64).await,
            rest,
            "from {offset}"
        );
    }
    assert_eq!(
        blobs.size(digest).await.expect("answers"),
        Some(bytes.len() as u64)
    );
}

#[tokio::test]
async fn an_upload_that_ends_early_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(&folder.path().to_string_lossy())
        .await
        .expect("opens");
    let mut writer = blobs.begin().await.expect("begins");
    writer
        .write(Bytes::from_static(b"half"))
        .await
        .expect("writes");
    drop(writer);
    blobs.begin().await.expect("begins").abort().await;
    assert_eq!(files(&folder.path().join("tmp")), 0);
}

#[tokio::test]
async fn what_a_killed_process_left_is_swept() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(&folder.path().to_string_lossy())
        .await
        .expect("opens");
    std::fs::write(folder.path().join("tmp/upload-x"), b"half").expect("writes");
    assert_eq!(blobs.sweep_temporary().await.expect("sweeps"), 1);
    assert_eq!(files(&folder.path().join("tmp")), 0);
}

#[tokio::test]
async fn a_deleted_blob_is_gone_and_may_be_deleted_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(&folder.path().to_string_lossy())
        .await
        .expect("opens");
    let digest = stored(&blobs, b"bytes").await;
    blobs.delete(digest).await.expect("deletes");
    blobs.delete(digest).await.expect("is fine with that");
    assert!(!blobs.exists(digest).await.expect("answers"));
    assert!(matches!(
        blobs.read(digest, 0).await.err(),
        Some(BlobError::NotFound(_))
    ));
}

#[tokio::test]
async fn a_store_this_build_does_not_know_is_named() {
    let error = Blobs::open("gopher://x/y").await.expect_err("is refused");
    assert!(error.to_string().contains("gopher://x/y"), "{error}");
}
