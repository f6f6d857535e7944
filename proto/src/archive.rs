//! Reads bundles from untrusted sources. The server checks them on upload and the agent unpacks
//! them with the same code, so that a bundle the server accepted is one the agent accepts.
//!
//! Reading and checking work on every platform. Writing (feature `unpack`) is for Unix.
//!
//! Rejected, never skipped: anything but regular files, folders, relative symbolic links that stay
//! inside and hard links to an earlier file (unpacked as copies). Other symbolic links have to be
//! asked for by the manifest. [`fn@unpack`] keeps symbolic links back until every file is written,
//! so nothing is ever written through one. A refusal names every entry that is refused.

#[cfg(feature = "unpack")]
mod durable;
mod findings;
#[cfg(feature = "lint")]
mod lint;
mod path;
mod pax;
mod reader;
mod start;
mod tree;
#[cfg_attr(not(feature = "unpack"), path = "archive/no_unpack.rs")]
mod unpack;
mod walk;

use std::io;
#[cfg(feature = "unpack")]
use std::path::Path;

use tokio::io::AsyncRead;

pub use self::findings::{Finding, Findings};
#[cfg(feature = "lint")]
pub use self::lint::{Checked, check_manifest, check_upload};
#[cfg(feature = "unpack")]
use self::unpack::Disk;
use crate::{
    manifest::{MANIFEST_FILE, Manifest, ManifestError},
    v1,
};

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    TarGz,
    TarZst,
}

impl Format {
    /// Most bytes [`Format::sniff`] looks at.
    pub const MAGIC_LEN: usize = 4;

    /// Recognises the format by the first bytes of the archive.
    #[must_use]
    pub fn sniff(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Self::TarGz),
            // A frame of Zstandard, or a skippable one: parallel and seekable writers begin with
            // that.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Some(Self::TarZst)
            }
            _ => None,
        }
    }

    /// Usual ending of a file's name.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::TarGz => "tar.gz",
            Self::TarZst => "tar.zst",
        }
    }
}

impl From<Format> for v1::BundleFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::TarGz => Self::TarGz,
            Format::TarZst => Self::TarZst,
        }
    }
}

/// The format is missing, or this version does not know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bundle's format is not known")]
pub struct UnknownFormat;

impl TryFrom<v1::BundleFormat> for Format {
    type Error = UnknownFormat;

    fn try_from(format: v1::BundleFormat) -> Result<Self, UnknownFormat> {
        match format {
            v1::BundleFormat::TarGz => Ok(Self::TarGz),
            v1::BundleFormat::TarZst => Ok(Self::TarZst),
            v1::BundleFormat::Unspecified => Err(UnknownFormat),
        }
    }
}

/// Limits of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of the unpacked files together, and of the tar stream.
    pub max_unpacked_bytes: u64,
    /// Most files, folders and links, counting folders that are only implied by a path.
    pub max_entries: u64,
    /// Most bytes of the tar stream for each compressed byte, once the stream is longer than 1
    /// GiB.
    pub max_ratio: u64,
}

impl Limits {
    /// For an operator's own files. The server applies its limits later; here only memory has to be
    /// safe.
    #[must_use]
    pub const fn of_own_files() -> Self {
        Self {
            max_unpacked_bytes: u64::MAX,
            max_entries: 10_000_000,
            max_ratio: u64::MAX,
        }
    }
}

/// From what a server sent; a limit that it does not send has its default.
impl From<Option<v1::ArchiveLimits>> for Limits {
    fn from(sent: Option<v1::ArchiveLimits>) -> Self {
        let sent = sent.unwrap_or_default();
        let usual = Self::default();
        let or = |sent: u64, usual: u64| if sent == 0 { usual } else { sent };
        Self {
            max_unpacked_bytes: or(sent.max_unpacked_bytes, usual.max_unpacked_bytes),
            max_entries: or(sent.max_entries, usual.max_entries),
            max_ratio: or(sent.max_ratio, usual.max_ratio),
        }
    }
}

impl From<Limits> for v1::ArchiveLimits {
    fn from(limits: Limits) -> Self {
        Self {
            max_unpacked_bytes: limits.max_unpacked_bytes,
            max_entries: limits.max_entries,
            max_ratio: limits.max_ratio,
        }
    }
}

/// Enough for a large program with its assets; an archive bomb is far beyond.
impl Default for Limits {
    fn default() -> Self {
        Self {
            max_unpacked_bytes: 16 * 1024 * 1024 * 1024,
            max_entries: 250_000,
            max_ratio: 200,
        }
    }
}

/// What a valid archive holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspected {
    pub format: Format,
    /// The manifest, byte for byte.
    pub manifest_json: Vec<u8>,
    /// The manifest, parsed and checked.
    pub manifest: Manifest,
    /// Bytes of all files once unpacked; hard links count as the copies they become.
    pub unpacked_bytes: u64,
    /// Files, folders and links, counting folders that are only implied by a path.
    pub entries: u64,
}

/// Why an archive is refused or could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It holds something that is never unpacked. Before it is kept, what else is wrong with it is
    /// among these.
    #[error("unsafe archive: {0}")]
    Unsafe(Findings),
    /// A name in its manifest is mistyped, or its scripts cannot run.
    #[error("the bundle would not do what it says: {0}")]
    Mistaken(Findings),
    /// No manifest at the root, nor in the one top-level folder.
    #[error("the archive has no {MANIFEST_FILE} at its root, nor in its only top-level folder")]
    ManifestMissing,
    /// The manifest is not valid: a field is missing or has a wrong value.
    #[error(transparent)]
    ManifestInvalid(#[from] ManifestError),
    #[error("the archive is too large: its {what} above the limit of {limit}")]
    TooLarge {
        /// What is too much, with its verb ("unpacked bytes are").
        what: &'static str,
        limit: u64,
    },
    /// It cannot be read to its end.
    #[error("the archive is damaged or no tar.gz or tar.zst")]
    Corrupt(#[source] io::Error),
    /// Reading the source or writing to the disk failed.
    #[error("reading the archive or writing its files failed")]
    Io(#[source] io::Error),
}

impl ArchiveError {
    fn unsafe_entry(entry: &[u8], why: impl Into<String>, way_out: &'static str) -> Self {
        Self::Unsafe(Finding::entry(entry, why, way_out).into())
    }

    /// Everything that is wrong, when it is more than one sentence.
    #[must_use]
    pub fn findings(&self) -> Option<&Findings> {
        match self {
            Self::Unsafe(findings) | Self::Mistaken(findings) => Some(findings),
            _ => None,
        }
    }

    /// Whether the disk, or the quota on it, is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded))
    }

    /// The reason that a device reports.
    #[must_use]
    pub fn failure_reason(&self) -> v1::FailureReason {
        match self {
            Self::Unsafe(_) | Self::TooLarge { .. } | Self::Corrupt(_) => {
                v1::FailureReason::UnsafeArchive
            }
            Self::ManifestMissing => v1::FailureReason::ManifestMissing,
            Self::ManifestInvalid(_) | Self::Mistaken(_) => v1::FailureReason::ManifestInvalid,
            Self::Io(_) if self.is_disk_full() => v1::FailureReason::DiskFull,
            Self::Io(_) => v1::FailureReason::Internal,
        }
    }
}

/// Checks the whole archive and writes nothing.
pub async fn inspect<R>(reader: R, limits: &Limits) -> Result<Inspected, ArchiveError>
where
    R: AsyncRead + Unpin + Send,
{
    let seen = walk::walk(reader, limits, &mut None).await?;
    Ok(seen.accept()?.inspected)
}

/// Checks the whole archive and writes its files into `into`, which is empty or does not exist.
///
/// The one top-level folder that holds the manifest, if there is one, is left out. Files and
/// folders are synced before this returns; the caller syncs the parent of `into` (it will rename it
/// anyway). After an error, and when the future is dropped, the caller removes `into` with what was
/// written so far.
///
/// Blocks its thread, sometimes for long.
#[cfg(feature = "unpack")]
pub async fn unpack<R>(reader: R, into: &Path, limits: &Limits) -> Result<Inspected, ArchiveError>
where
    R: AsyncRead + Unpin + Send,
{
    let mut disk = Some(Disk::prepare(into).map_err(ArchiveError::Io)?);
    let seen = walk::walk(reader, limits, &mut disk).await;
    let walked = seen.and_then(walk::Seen::accept);
    let Some(mut disk) = disk else {
        unreachable!("the walk only borrows the disk");
    };
    let finished = match walked {
        Ok(walked) => disk
            .finish(&walked)
            .await
            .map(|()| walked.inspected)
            .map_err(ArchiveError::Io),
        Err(error) => Err(error),
    };
    if finished.is_err() {
        disk.abandon().await;
    }
    finished
}

#[cfg(all(test, feature = "unpack"))]
mod tests;
