//! An upload on its way. It is a file that is being written, then one that is whole and durable,
//! then a blob or nothing.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::TryStreamExt as _;
use kernex_proto::ids::Digest;
use object_store::{ObjectStoreExt as _, WriteMultipart, path::Path as Key};
use tokio::sync::OwnedSemaphorePermit;

use crate::crash::Act;

use super::{BlobError, BlobFolder, failed, pieces_of};

/// An upload that is under way. Dropping it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    place: Arc<BlobFolder>,
    file: File,
    path: Staged,
    turn: OwnedSemaphorePermit,
}

/// Bytes that are whole and durable, but no blob yet. Dropping it leaves nothing.
#[derive(Debug)]
pub struct StagedBlob {
    place: Arc<BlobFolder>,
    path: Staged,
    _turn: OwnedSemaphorePermit,
}

/// A file that is deleted with its owner.
#[derive(Debug)]
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        // After the rename there is no such file. A sweep at the next start deletes what stays.
        let _ = fs::remove_file(&self.0);
    }
}

impl BlobWriter {
    pub(super) async fn begin(place: Arc<BlobFolder>) -> Result<Self, BlobError> {
        let turn = Arc::clone(&place.uploads).try_acquire_owned();
        let turn = turn.map_err(|_| BlobError::Busy)?;
        let path = place.staging.join(uuid::Uuid::new_v4().to_string());
        blocking("creating a file for an upload", move || {
            let file = File::create_new(&path)?;
            Ok(Self {
                place,
                file,
                path: Staged(path),
                turn,
            })
        })
        .await
    }

    /// The file with what was written so far.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path.0
    }

    /// Appends bytes. Blocks while the disk is slow.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.file
            .write_all(bytes)
            .map_err(failed("writing an upload"))
    }

    /// Makes the written bytes durable. On their way to an object store they are only here for a
    /// moment, and are not synced.
    pub async fn sync(self) -> Result<StagedBlob, BlobError> {
        blocking("syncing an upload", move || {
            if self.place.folder.is_some() {
                self.file.sync_all()?;
            }
            Ok(StagedBlob {
                place: self.place,
                path: self.path,
                _turn: self.turn,
            })
        })
        .await
    }
}

impl StagedBlob {
    /// Makes the bytes the blob of this digest, durably. The caller vouches for the digest.
    pub async fn finish(self, digest: Digest) -> Result<(), BlobError> {
        let key = self.place.key(digest);
        if self.place.folder.is_none() {
            return send(&self.path.0, &self.place, &key).await;
        }
        blocking("putting an upload in its place", move || self.keep(&key)).await
    }

    /// Renames the file to its place and syncs the folders on the way, so that a power cut loses
    /// neither name.
    fn keep(self, key: &Key) -> io::Result<()> {
        let Some(folder) = &self.place.folder else {
            return Ok(());
        };
        let target = folder.join(key.as_ref());
        let shard = target.parent().unwrap_or(folder);
        fs::create_dir_all(shard)?;
        Act::BlobPlace.before();
        fs::rename(&self.path.0, &target)?;
        for made in [Some(shard), shard.parent(), Some(folder)]
            .into_iter()
            .flatten()
        {
            File::open(made)?.sync_all()?;
        }
        Act::BlobPlace.after();
        Ok(())
    }
}

/// Runs work on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BlobError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(io::Error::other).and_then(|done| done);
    done.map_err(failed(doing))
}

async fn send(staged: &Path, place: &BlobFolder, key: &Key) -> Result<(), BlobError> {
    let path = staged.to_owned();
    let opened = blocking("reading an upload back", move || {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok((file, size))
    });
    let (file, size) = opened.await?;
    let upload = place.store.put_multipart(key).await;
    let mut upload = WriteMultipart::new(upload.map_err(BlobError::Store)?);
    let mut pieces = std::pin::pin!(pieces_of(file, 0, size, place.turns.clone()));
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
