//! Bytes of bundles, by digest. Written to a temporary place first, so that an aborted upload leaves nothing and a blob
//! that exists is whole.
//!
//! In a folder a blob is `sha256/ab/ab12...`, made by a rename within the file system and synced with its folder; reads and
//! deletions go through `object_store`, so that another store only needs its URL.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use kernex_proto::{CHUNK_SIZE, ids::Digest};
use object_store::{
    GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt, WriteMultipart,
    local::LocalFileSystem, path::Path as Key,
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufWriter, SeekFrom},
};

/// Uploads under way are files in here.
const STAGING: &str = "tmp";

/// Why bytes could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The place cannot be used; the text says which and why.
    #[error("{0}")]
    Location(String),
    /// No such bytes.
    #[error("no blob has the digest {0}")]
    NotFound(Digest),
    /// The disk is full.
    #[error("no space is left for bundles")]
    NoSpace,
    /// The file system failed.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What came of it.
        #[source]
        source: io::Error,
    },
    /// The object store failed.
    #[error("the object store failed")]
    Store(#[source] object_store::Error),
}

/// Where blobs are. Clones share it.
#[derive(Debug, Clone)]
pub struct Blobs(Arc<Place>);

#[derive(Debug)]
struct Place {
    store: Arc<dyn ObjectStore>,
    /// Where the store's own root is within what the URL names.
    prefix: Key,
    /// The folder itself, when blobs are files here.
    folder: Option<PathBuf>,
    staging: PathBuf,
}

impl Blobs {
    /// Opens a folder (made when missing) or the URL of an object store.
    pub async fn open(location: &str) -> Result<Self, BlobError> {
        let place = match location.split_once("://") {
            Some(("file", folder)) => local(Path::new(folder)).await,
            Some(_) => remote(location).await,
            None => local(Path::new(location)).await,
        };
        let place = place.map_err(|why| {
            BlobError::Location(format!("bundles cannot be kept in `{location}`: {why}"))
        })?;
        Ok(Self(Arc::new(place)))
    }

    /// Whether the bytes are in this machine's file system, which no other replica sees.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.0.folder.is_some()
    }

    /// Starts an upload.
    pub async fn begin(&self) -> Result<BlobWriter, BlobError> {
        let path = self.0.staging.join(uuid::Uuid::now_v7().to_string());
        let file = File::create_new(&path)
            .await
            .map_err(failed("creating a file for an upload"))?;
        Ok(BlobWriter {
            place: Arc::clone(&self.0),
            file: BufWriter::with_capacity(CHUNK_SIZE, file),
            path: Staged(path),
        })
    }

    /// Size of a blob, if it is there.
    pub async fn size(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        match self.0.store.head(&self.0.key(digest)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(BlobError::Store(error)),
        }
    }

    /// Whether a blob is there.
    pub async fn exists(&self, digest: Digest) -> Result<bool, BlobError> {
        Ok(self.size(digest).await?.is_some())
    }

    /// The bytes from an offset, in pieces of up to 256 KiB; none when the offset is at or behind the end.
    pub async fn read(
        &self,
        digest: Digest,
        offset: u64,
    ) -> Result<impl Stream<Item = Result<Bytes, BlobError>> + Send + use<>, BlobError> {
        let size = self
            .size(digest)
            .await?
            .ok_or(BlobError::NotFound(digest))?;
        if offset >= size {
            return Ok(futures::stream::empty().left_stream());
        }
        let options = GetOptions {
            range: Some(GetRange::Offset(offset)),
            ..GetOptions::default()
        };
        let found = self
            .0
            .store
            .get_opts(&self.0.key(digest), options)
            .await
            .map_err(|error| match error {
                object_store::Error::NotFound { .. } => BlobError::NotFound(digest),
                error => BlobError::Store(error),
            })?;
        let stream = match found.payload {
            // Read in whole pieces: the store's own stream of a file is one of 8 KiB pieces.
            GetResultPayload::File(file, _) => {
                pieces_of(File::from_std(file), offset).left_stream()
            }
            GetResultPayload::Stream(stream) => {
                let pieces = stream.map_err(BlobError::Store).map_ok(split);
                pieces.try_flatten().right_stream()
            }
        };
        Ok(stream.right_stream())
    }

    /// Deletes a blob; one that is not there is fine.
    pub async fn delete(&self, digest: Digest) -> Result<(), BlobError> {
        match self.0.store.delete(&self.0.key(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(BlobError::Store(error)),
        }
    }

    /// Deletes what aborted uploads of an earlier process left; says how many. Call it before uploads begin.
    pub async fn sweep_temporary(&self) -> Result<u64, BlobError> {
        let failed = failed("sweeping unfinished uploads");
        let mut entries = tokio::fs::read_dir(&self.0.staging)
            .await
            .map_err(&failed)?;
        let mut swept = 0;
        while let Some(entry) = entries.next_entry().await.map_err(&failed)? {
            tokio::fs::remove_file(entry.path())
                .await
                .map_err(&failed)?;
            swept += 1;
        }
        Ok(swept)
    }
}

impl Place {
    fn key(&self, digest: Digest) -> Key {
        let name = digest.to_string();
        self.prefix
            .clone()
            .join("sha256")
            .join(&name[..2])
            .join(name.as_str())
    }
}

async fn local(folder: &Path) -> Result<Place, String> {
    let staging = folder.join(STAGING);
    tokio::fs::create_dir_all(&staging)
        .await
        .map_err(|error| error.to_string())?;
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| error.to_string())?;
    Ok(Place {
        store: Arc::new(store),
        prefix: Key::default(),
        folder: Some(folder.to_owned()),
        staging,
    })
}

async fn remote(location: &str) -> Result<Place, String> {
    let url = location
        .parse()
        .map_err(|error| format!("it is not a URL ({error})"))?;
    let (store, prefix) = object_store::parse_url(&url).map_err(|error| error.to_string())?;
    // Uploads are inspected before they are kept, so they stand in a file for a while even here.
    let staging = std::env::temp_dir().join(format!("kernex-uploads-{}", std::process::id()));
    tokio::fs::create_dir_all(&staging)
        .await
        .map_err(|error| error.to_string())?;
    Ok(Place {
        store: store.into(),
        prefix,
        folder: None,
        staging,
    })
}

/// An upload in progress; dropping it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    place: Arc<Place>,
    file: BufWriter<File>,
    path: Staged,
}

/// A file that goes with its owner.
#[derive(Debug)]
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename it is not there any more, and a sweep at start catches what stays.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl BlobWriter {
    /// The file that holds what was written so far; complete after [`flush`](Self::flush).
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path.0
    }

    /// Appends bytes.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.file
            .write_all(&bytes)
            .await
            .map_err(failed("writing an upload"))
    }

    /// Hands everything written to the operating system, so that readers of [`path`](Self::path) see it.
    pub async fn flush(&mut self) -> Result<(), BlobError> {
        self.file.flush().await.map_err(failed("writing an upload"))
    }

    /// Makes what was written the blob of this digest, durably. That it has this digest is the caller's word.
    pub async fn finish(mut self, digest: Digest) -> Result<(), BlobError> {
        self.flush().await?;
        self.file
            .get_ref()
            .sync_all()
            .await
            .map_err(failed("syncing an upload"))?;
        let key = self.place.key(digest);
        match &self.place.folder {
            Some(folder) => keep(&self.path.0, folder, &key).await,
            None => send(&self.path.0, &*self.place.store, &key).await,
        }
    }

    /// Gives up; nothing is left.
    pub async fn abort(self) {
        drop(self);
    }
}

/// Renames a staged file to its place and syncs the folders on the way, so that a power cut loses neither name.
async fn keep(staged: &Path, folder: &Path, key: &Key) -> Result<(), BlobError> {
    let target = folder.join(key.as_ref());
    let shard = target.parent().unwrap_or(folder).to_owned();
    tokio::fs::create_dir_all(&shard)
        .await
        .map_err(failed("making a folder for bundles"))?;
    tokio::fs::rename(staged, &target)
        .await
        .map_err(failed("putting an upload in its place"))?;
    for made in [Some(shard.as_path()), shard.parent(), Some(folder)]
        .into_iter()
        .flatten()
    {
        let opened = File::open(made)
            .await
            .map_err(failed("syncing the folder of bundles"))?;
        opened
            .sync_all()
            .await
            .map_err(failed("syncing the folder of bundles"))?;
    }
    Ok(())
}

async fn send(staged: &Path, store: &dyn ObjectStore, key: &Key) -> Result<(), BlobError> {
    let file = File::open(staged)
        .await
        .map_err(failed("reading an upload back"))?;
    let upload = store.put_multipart(key).await.map_err(BlobError::Store)?;
    let mut upload = WriteMultipart::new(upload);
    let mut pieces = std::pin::pin!(pieces_of(file, 0));
    while let Some(piece) = pieces.try_next().await? {
        upload
            .wait_for_capacity(4)
            .await
            .map_err(BlobError::Store)?;
        upload.put(piece);
    }
    upload.finish().await.map_err(BlobError::Store)?;
    Ok(())
}

/// A file from an offset in pieces of 256 KiB.
fn pieces_of(
    mut file: File,
    offset: u64,
) -> impl Stream<Item = Result<Bytes, BlobError>> + Send + use<> {
    async_stream::try_stream! {
        file.seek(SeekFrom::Start(offset)).await.map_err(failed("reading a bundle"))?;
        loop {
            let mut piece = BytesMut::with_capacity(CHUNK_SIZE);
            while piece.len() < CHUNK_SIZE {
                let limit = CHUNK_SIZE - piece.len();
                let mut rest = (&mut file).take(limit as u64);
                if rest.read_buf(&mut piece).await.map_err(failed("reading a bundle"))? == 0 {
                    break;
                }
            }
            if piece.is_empty() {
                break;
            }
            yield piece.freeze();
        }
    }
}

/// A large piece in pieces of up to 256 KiB, without copying.
fn split(mut bytes: Bytes) -> impl Stream<Item = Result<Bytes, BlobError>> + Send {
    let pieces = std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let length = bytes.len().min(CHUNK_SIZE);
        Some(Ok(bytes.split_to(length)))
    });
    futures::stream::iter(pieces)
}

/// Names what was being done; a full disk has a name of its own.
fn failed(doing: &'static str) -> impl Fn(io::Error) -> BlobError + Copy {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlobError::NoSpace,
        _ => BlobError::Io { doing, source },
    }
}

#[cfg(test)]
mod tests {
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
            writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        writer.flush().await.unwrap();
        assert_eq!(std::fs::read(writer.path()).unwrap(), bytes);
        writer.finish(digest).await.unwrap();
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
        writer.write(Bytes::from_static(b"half")).await.unwrap();
        writer.abort().await;
        drop(blobs.begin().await.unwrap());
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
}
