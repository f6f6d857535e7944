//! An upload on its way: a staged file until it is whole, then a blob or nothing.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::TryStreamExt;
use kernex_proto::{CHUNK_SIZE, ids::Digest};
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart, path::Path as Key};
use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufWriter},
};

use crate::crash::Act;

use super::{BlobError, Place, Turns, failed, pieces_of};

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
    pub(super) async fn begin(place: Arc<Place>) -> Result<Self, BlobError> {
        let path = place.staging.join(uuid::Uuid::now_v7().to_string());
        let file = File::create_new(&path)
            .await
            .map_err(failed("creating a file for an upload"))?;
        Ok(Self {
            place,
            file: BufWriter::with_capacity(CHUNK_SIZE, file),
            path: Staged(path),
        })
    }

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
            None => {
                send(
                    &self.path.0,
                    &*self.place.store,
                    &key,
                    self.place.turns.clone(),
                )
                .await
            }
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
    Act::BlobPlace.before();
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
    Act::BlobPlace.after();
    Ok(())
}

async fn send(
    staged: &Path,
    store: &dyn ObjectStore,
    key: &Key,
    turns: Turns,
) -> Result<(), BlobError> {
    let file = File::open(staged)
        .await
        .map_err(failed("reading an upload back"))?;
    let size = file
        .metadata()
        .await
        .map_err(failed("reading an upload back"))?
        .len();
    let file = file.into_std().await;
    let upload = store.put_multipart(key).await.map_err(BlobError::Store)?;
    let mut upload = WriteMultipart::new(upload);
    let mut pieces = std::pin::pin!(pieces_of(file, 0, size, turns));
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
