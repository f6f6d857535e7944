//! Makes a bundle of a folder. The same files give the same bytes, on any machine and at any time.
//!
//! Entries are sorted by path; owners, times and the gzip header are fixed. Modes are those of the
//! files, without write permission for group and others, which depends on the umask of a checkout.
//! The archive is read back with the code of the server and the agents, so a bundle that they would
//! refuse is never written.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use async_compression::{Level, tokio::write::GzipEncoder};
use ignore::WalkBuilder;
use kernex_proto::{
    archive::{self, ArchiveError, Inspected, Limits},
    digest::{Digest, Hasher},
    error::chain,
    manifest::{MANIFEST_FILE, Manifest},
};
use tempfile::{NamedTempFile, TempPath};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tar::{Builder, EntryType, Header};

use crate::{
    error::{Exit, Failure},
    files,
    text::printable,
};

/// File with patterns (as in .gitignore) of files to leave out of a bundle.
pub(crate) const IGNORE_FILE: &str = ".kernexignore";

/// A checked archive on disk.
#[derive(Debug)]
pub(crate) struct Packed {
    /// Where it is; removed when dropped.
    pub(crate) file: TempPath,
    /// SHA-256 of its bytes.
    pub(crate) digest: Digest,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// What is in it.
    pub(crate) inspected: Inspected,
}

impl Packed {
    /// "name:version"
    pub(crate) fn reference(&self) -> String {
        let manifest = &self.inspected.manifest;
        format!("{}:{}", manifest.name_or_default(), manifest.version)
    }

    /// The usual file name.
    pub(crate) fn file_name(&self) -> String {
        let manifest = &self.inspected.manifest;
        format!("{}-{}.tar.gz", manifest.name_or_default(), manifest.version)
    }

    /// Moves the archive to its path and replaces what was there.
    pub(crate) fn move_to(self, path: &Path) -> Result<(), Failure> {
        files::share(&self.file)
            .and_then(|()| self.file.persist(path).map_err(|error| error.error))
            .map_err(|error| Failure::file("write", path, &error))
    }
}

/// Packs `dir` into a temporary file in `near`, so that it can be renamed into place there.
/// `leave_out` is the file that will be written, which must not become part of itself.
pub(crate) async fn pack(
    dir: &Path,
    near: &Path,
    leave_out: Option<&Path>,
) -> Result<Packed, Failure> {
    check_manifest(dir)?;
    let (root, left_out) = (dir.to_owned(), leave_out.map(Path::to_owned));
    let entries = tokio::task::spawn_blocking(move || entries(&root, left_out.as_deref()))
        .await
        .map_err(|error| {
            Failure::new(
                Exit::Error,
                format!("packing broke off: {error}"),
                "Try again.",
            )
        })??;

    let file =
        NamedTempFile::new_in(near).map_err(|error| Failure::file("write in", near, &error))?;
    let (file, path) = file.into_parts();
    write(dir, entries, tokio::fs::File::from_std(file)).await?;
    let (digest, size) = digest(&path)?;
    let inspected = inspect(&path).await?;
    Ok(Packed {
        file: path,
        digest,
        size,
        inspected,
    })
}

/// Reads a bundle with the code of the server and the agents.
pub(crate) async fn inspect(path: &Path) -> Result<Inspected, Failure> {
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|error| Failure::file("read", path, &error))?;
    let reader = tokio::io::BufReader::new(file);
    archive::inspect(reader, &Limits::default())
        .await
        .map_err(|error| refused(&error))
}

/// SHA-256 and size of a file.
pub(crate) fn digest(path: &Path) -> Result<(Digest, u64), Failure> {
    let read = || -> io::Result<(Digest, u64)> {
        let mut file = fs::File::open(path)?;
        let mut hash = Hasher::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut size = 0;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok((hash.finish(), size));
            }
            hash.update(&buffer[..count]);
            size += count as u64;
        }
    };
    read().map_err(|error| Failure::file("read", path, &error))
}

/// The manifest is checked first: mistakes in it are the most likely.
fn check_manifest(dir: &Path) -> Result<(), Failure> {
    let path = dir.join(MANIFEST_FILE);
    let bytes = fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            Exit::Error,
            format!("there is no {MANIFEST_FILE} in `{}`", dir.display()),
            format!("Write one with `kernexctl bundle init {}`.", dir.display()),
        ),
        _ => Failure::file("read", &path, &error),
    })?;
    Manifest::parse(&bytes).map_err(|error| refused(&ArchiveError::from(error)))?;
    Ok(())
}

fn refused(error: &ArchiveError) -> Failure {
    let next = match error {
        ArchiveError::Unsafe { .. } => {
            "Remove it or leave it out with `.kernexignore`; links have to be relative and stay inside."
        }
        ArchiveError::ManifestMissing => {
            "Put a manifest.json at its top; `kernexctl bundle init` writes one."
        }
        ArchiveError::ManifestInvalid(_) => "Correct that field of manifest.json.",
        ArchiveError::TooLarge { .. } => "Leave files out with `.kernexignore`.",
        ArchiveError::Corrupt(_) => "Pack it again with `kernexctl bundle pack DIR`.",
        ArchiveError::Io(_) => "Check the disk, then try again.",
    };
    Failure::new(Exit::Error, printable(&chain(error)), next)
}

/// The entries to pack: path within the bundle, and metadata. Sorted by the bytes of the path.
fn entries(dir: &Path, leave_out: Option<&Path>) -> Result<BTreeMap<PathBuf, Metadata>, Failure> {
    let leave_out = leave_out.and_then(|path| fs::canonicalize(path).ok());
    let walk = WalkBuilder::new(dir)
        .standard_filters(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .filter_entry(|entry| entry.file_name() != ".git" && entry.file_name() != IGNORE_FILE)
        .build();
    let mut entries = BTreeMap::new();
    for entry in walk {
        let entry = entry.map_err(|error| {
            Failure::new(
                Exit::Error,
                format!("cannot walk `{}`: {error}", dir.display()),
                "Check the folder.",
            )
        })?;
        let path = entry.path();
        let Ok(inside) = path.strip_prefix(dir) else {
            continue;
        };
        if inside.as_os_str().is_empty() {
            continue;
        }
        if leave_out.is_some() && fs::canonicalize(path).ok() == leave_out {
            continue;
        }
        let metadata =
            fs::symlink_metadata(path).map_err(|error| Failure::file("read", path, &error))?;
        let kind = metadata.file_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            return Err(Failure::new(
                Exit::Error,
                format!(
                    "`{}` is no file, folder or link and cannot be part of a bundle",
                    path.display()
                ),
                format!("Remove it, or leave it out with a line in `{IGNORE_FILE}`."),
            ));
        }
        if kind.is_file()
            && files::mode(path, &metadata).map_err(|error| Failure::file("read", path, &error))?
                & 0o7000
                != 0
        {
            return Err(Failure::new(
                Exit::Error,
                format!(
                    "`{}` has a set-user-id, set-group-id or sticky bit, which no bundle may have",
                    path.display()
                ),
                format!(
                    "Remove it with `chmod u-s,g-s,-t`, or leave the file out with a line in `{IGNORE_FILE}`."
                ),
            ));
        }
        entries.insert(inside.to_owned(), metadata);
    }
    Ok(entries)
}

async fn write(
    dir: &Path,
    entries: BTreeMap<PathBuf, Metadata>,
    file: tokio::fs::File,
) -> Result<(), Failure> {
    // The level is part of what makes the bytes the same; the encoder writes no time and no name.
    let gzip = GzipEncoder::with_quality(file, Level::Precise(6));
    let mut tar = Builder::new_non_terminated(gzip);
    for (inside, metadata) in entries {
        let path = dir.join(&inside);
        add(&mut tar, &inside, &path, &metadata)
            .await
            .map_err(|error| Failure::file("pack", &path, &error))?;
    }
    let finish = async {
        let mut gzip = tar.into_inner().await?;
        gzip.shutdown().await?;
        gzip.into_inner().sync_all().await
    };
    finish.await.map_err(|error| {
        Failure::new(
            Exit::Error,
            format!("cannot write the archive: {error}"),
            "Check the disk, then try again.",
        )
    })
}

async fn add(
    tar: &mut Builder<GzipEncoder<tokio::fs::File>>,
    inside: &Path,
    path: &Path,
    metadata: &Metadata,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    if metadata.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_mode(mode(path, metadata)?);
        tar.append_data(&mut header, inside, io_empty()).await
    } else if metadata.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_link_name(tokio::fs::read_link(path).await?)?;
        tar.append_data(&mut header, inside, io_empty()).await
    } else {
        let mut file = tokio::fs::File::open(path).await?;
        let size = file.metadata().await?.len();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(mode(path, metadata)?);
        header.set_size(size);
        tar.append_data(&mut header, inside, (&mut file).take(size))
            .await?;
        // A file that changed its size meanwhile would damage the archive.
        if file.metadata().await?.len() != size {
            return Err(io::Error::other("it changed while it was packed"));
        }
        Ok(())
    }
}

/// The mode to pack: 0600 stays 0600, 0664 becomes 0644.
fn mode(path: &Path, metadata: &Metadata) -> io::Result<u32> {
    Ok(files::mode(path, metadata)? & 0o755)
}

fn io_empty() -> tokio::io::Empty {
    tokio::io::empty()
}

#[cfg(all(test, unix))]
mod tests;
