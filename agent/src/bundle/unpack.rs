//! From an archive to a release folder:
//!
//! 1. read the whole archive and check it; nothing is written yet;
//! 2. make room on the disk;
//! 3. check the requirements of the manifest;
//! 4. unpack into a temporary folder, sync it, and rename it into place.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use kernex_proto::{
    archive::{ArchiveError, Limits, inspect, unpack as unpack_archive},
    error::chain,
    manifest::{Manifest, Unmet},
    v1,
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    runtime::Handle,
};
use tokio_util::sync::CancellationToken;

use super::{BundleDir, NoRoom, ReleaseMetadata, fetch::is_full, make_room};
use crate::{crash::Act, durable};

/// Bytes of disk that a file takes beside its content.
pub(crate) const PER_ENTRY: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The archive is refused.
    #[error("{}", chain(.0))]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The device is not what the bundle asks for.
    #[error(transparent)]
    Unmet(#[from] Unmet),
    #[error("cannot unpack: {0}")]
    Io(#[from] io::Error),
}

impl UnpackError {
    pub(crate) fn reason(&self) -> v1::FailureReason {
        match self {
            Self::Archive(err) => err.failure_reason(),
            Self::NoRoom(_) => v1::FailureReason::DiskFull,
            Self::Unmet(_) => v1::FailureReason::Requirements,
            Self::Io(err) if is_full(err) => v1::FailureReason::DiskFull,
            Self::Io(_) => v1::FailureReason::Internal,
        }
    }
}

/// Where a release goes.
pub(crate) struct Place<'a> {
    /// The bundle directory of the bundle name.
    pub(crate) bundle_dir: &'a BundleDir,
    /// Folder name of the release.
    pub(crate) folder: &'a str,
    /// Temporary folder on the same file system; does not exist yet. The caller removes what is
    /// left of it.
    pub(crate) aside: &'a Path,
    /// How much the archive may hold.
    pub(crate) limits: Limits,
    /// Ends the unpacking. Dropping the future is not enough: a blocking thread would go on writing
    /// files behind the sweep.
    pub(crate) halt: &'a CancellationToken,
}

/// Bytes of the archive that are in memory at once.
const BUFFER: usize = 64 * 1024;

/// An archive whose reads fail once it is halted. Reads block, so it is used on a blocking thread
/// only.
struct Halting {
    file: File,
    halt: CancellationToken,
}

impl Halting {
    fn open(archive: &Path, halt: &CancellationToken) -> io::Result<Self> {
        let file = File::open(archive)?;
        let halt = halt.clone();
        Ok(Self { file, halt })
    }
}

impl AsyncRead for Halting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.halt.is_cancelled() {
            return Poll::Ready(Err(io::Error::other("the unpacking was halted")));
        }
        let room = buffer.remaining().min(BUFFER);
        let read = self.file.read(buffer.initialize_unfilled_to(room))?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

/// Walks an archive on a blocking thread, which also inflates it and writes small files. Large
/// files, and syncing single files, use another blocking thread. The runtime has two, so only one
/// archive may be walked at a time. The executor runs one attempt at a time, so that holds.
async fn walking<T, F>(
    walk: impl FnOnce() -> io::Result<F> + Send + 'static,
) -> Result<T, UnpackError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ArchiveError>>,
{
    let runtime = Handle::current();
    let walked = tokio::task::spawn_blocking(move || Ok(runtime.block_on(walk()?)?));
    walked.await.map_err(io::Error::other)?
}

/// Unpacks an archive into a release folder and returns its manifest. Nothing is written before the
/// whole archive was checked.
pub(crate) async fn unpack(
    archive: &Path,
    place: &Place<'_>,
    metadata: &ReleaseMetadata,
) -> Result<Manifest, UnpackError> {
    let remover = &place.bundle_dir.remover;
    let limits = place.limits;
    let source = (archive.to_owned(), place.halt.clone());
    let seen = walking(move || {
        let reader = Halting::open(&source.0, &source.1)?;
        Ok(async move { inspect(reader, &limits).await })
    });
    let seen = seen.await?;
    let needed = seen
        .unpacked_bytes
        .saturating_add(seen.entries.saturating_mul(PER_ENTRY));
    // Old releases also make room for the space that `requires` asks for; the check below decides
    // whether it is enough.
    let beside = seen.manifest.requires.disk_bytes.unwrap_or(0);
    if beside != 0 {
        let _ = make_room(remover, needed.saturating_add(beside)).await?;
    }
    make_room(remover, needed).await??;
    let free = crate::host::disk_space(remover.state_dir())?
        .free
        .saturating_sub(needed);
    seen.manifest
        .requires
        .check(std::env::consts::OS, std::env::consts::ARCH, free)?;

    let source = (archive.to_owned(), place.halt.clone());
    let aside = place.aside.to_owned();
    let unpacked = walking(move || {
        let reader = Halting::open(&source.0, &source.1)?;
        Ok(async move { unpack_archive(reader, &aside, &limits).await })
    });
    unpacked.await?;
    place.bundle_dir.write_metadata(place.folder, metadata)?;
    let (aside, releases) = (place.aside.to_owned(), place.bundle_dir.releases());
    let release = place.bundle_dir.release(place.folder);
    let remover = remover.clone();
    tokio::task::spawn_blocking(move || {
        // Left by an earlier try of the same attempt that ended before a script ran.
        remover.remove(&release).map_err(io::Error::other)?;
        Act::ReleasePlace.before();
        fs::rename(aside, release)?;
        durable::sync_dir(&releases)?;
        Act::ReleasePlace.after();
        Ok::<_, io::Error>(())
    })
    .await
    .map_err(io::Error::other)??;
    Ok(seen.manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_halted_archive_reads_no_further() {
        use tokio::io::AsyncReadExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "ab").unwrap();
        let halt = CancellationToken::new();
        let mut reader = Halting::open(file.path(), &halt).unwrap();
        assert_eq!(reader.read_u8().await.unwrap(), b'a');
        halt.cancel();
        assert!(reader.read_u8().await.is_err());
    }
}
