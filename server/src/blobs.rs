//! The bytes of bundles, by digest. They are written to a temporary place first, so that an aborted
//! upload leaves nothing and a blob that exists is whole.
//!
//! In a folder a blob is `sha256/ab/ab12...`. It is renamed within the file system, and its folders
//! are synced. Reads and deletions go through `object_store`, so that another store only needs its
//! URL.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kernex_proto::{CHUNK_SIZE, ids::Digest};
use object_store::{
    GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt as _,
    local::LocalFileSystem, path::Path as Key,
};
use tokio::sync::Semaphore;

use crate::crash::Act;

mod pieces;
mod upload;

use pieces::{ReadPermits, pieces_of};
pub use upload::{BlobWriter, StagedBlob};

/// Folder of uploads that are under way.
const STAGING: &str = "tmp";

/// Uploads at once. Each has a thread and a file. Operators send few; further ones are told to come
/// back.
const UPLOADS: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The place cannot be used. The text names it and says why.
    #[error("{0}")]
    Location(String),
    #[error("no blob has the digest {0}")]
    NotFound(Digest),
    /// There are as many uploads as there may be.
    #[error("too many bundles are being uploaded")]
    Busy,
    #[error("no space is left for bundles")]
    NoSpace,
    #[error("{doing}")]
    Io {
        /// What was being done, such as `writing an upload`.
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the object store failed")]
    Store(#[source] object_store::Error),
}

/// The size of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// What this user may still write.
    pub free: u64,
    pub size: u64,
}

/// Where blobs are. Clones share everything.
#[derive(Debug, Clone)]
pub struct Blobs(Arc<BlobFolder>);

#[derive(Debug)]
struct BlobFolder {
    store: Arc<dyn ObjectStore>,
    /// Path of the store's root within what the URL names.
    prefix: Key,
    /// The folder, when blobs are files.
    folder: Option<PathBuf>,
    staging: PathBuf,
    turns: ReadPermits,
    uploads: Arc<Semaphore>,
}

impl Blobs {
    /// Opens a folder, which is made when it is missing, or the URL of one. Of the stores that the
    /// crate knows only folders are built in.
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

    /// Whether the bytes are in this machine's file system, where no other replica sees them.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.0.folder.is_some()
    }

    /// The disk that bundles are on. `None` when they are no files, or when the disk cannot be
    /// read. Blocks.
    #[must_use]
    pub fn disk(&self) -> Option<Disk> {
        let seen = rustix::fs::statvfs(self.0.folder.as_ref()?).ok()?;
        Some(Disk {
            free: seen.f_bavail.saturating_mul(seen.f_frsize),
            size: seen.f_blocks.saturating_mul(seen.f_frsize),
        })
    }

    pub async fn begin(&self) -> Result<BlobWriter, BlobError> {
        BlobWriter::begin(Arc::clone(&self.0)).await
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

    /// The bytes from an offset, in pieces of up to 256 KiB. `None` when the offset is at the end
    /// or behind it.
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
            // In whole pieces: the store's own stream of a file has pieces of 8 KiB.
            GetResultPayload::File(file, _) => {
                pieces_of(file, offset, size, self.0.turns.clone()).left_stream()
            }
            GetResultPayload::Stream(stream) => {
                let pieces = stream.map_err(BlobError::Store).map_ok(split);
                pieces.try_flatten().right_stream()
            }
        };
        Ok(stream.right_stream())
    }

    /// Deletes a blob. It is no error when there is none.
    pub async fn delete(&self, digest: Digest) -> Result<(), BlobError> {
        Act::BlobDelete.before();
        match self.0.store.delete(&self.0.key(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(BlobError::Store(error)),
        }
        Act::BlobDelete.after();
        Ok(())
    }

    /// Deletes what aborted uploads of an earlier process left, and returns how many. Call it
    /// before uploads begin.
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

impl BlobFolder {
    fn key(&self, digest: Digest) -> Key {
        let name = digest.to_string();
        self.prefix
            .clone()
            .join("sha256")
            .join(&name[..2])
            .join(name.as_str())
    }
}

async fn local(folder: &Path) -> Result<BlobFolder, String> {
    let staging = folder.join(STAGING);
    tokio::fs::create_dir_all(&staging)
        .await
        .map_err(|error| error.to_string())?;
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| error.to_string())?;
    Ok(BlobFolder {
        store: Arc::new(store),
        prefix: Key::default(),
        folder: Some(folder.to_owned()),
        staging,
        turns: ReadPermits::default(),
        uploads: Arc::new(Semaphore::new(UPLOADS)),
    })
}

async fn remote(location: &str) -> Result<BlobFolder, String> {
    let url = location
        .parse()
        .map_err(|error| format!("it is not a URL ({error})"))?;
    let (store, prefix) = object_store::parse_url(&url).map_err(|error| error.to_string())?;
    // Uploads are inspected before they are kept, so each is a file for a while even here.
    let staging = std::env::temp_dir().join(format!("kernex-uploads-{}", std::process::id()));
    tokio::fs::create_dir_all(&staging)
        .await
        .map_err(|error| error.to_string())?;
    Ok(BlobFolder {
        store: store.into(),
        prefix,
        folder: None,
        staging,
        turns: ReadPermits::default(),
        uploads: Arc::new(Semaphore::new(UPLOADS)),
    })
}

/// Splits a large piece into pieces of up to 256 KiB, without copying.
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

/// An error with what was being done. A full disk has an error of its own.
fn failed(doing: &'static str) -> impl Fn(io::Error) -> BlobError + Copy {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlobError::NoSpace,
        _ => BlobError::Io { doing, source },
    }
}

#[cfg(test)]
mod tests;
