//! Makes a bundle of a folder. The same files give the same bytes, on any machine and at any time.
//!
//! Entries are sorted by path; owners, times and the gzip header are fixed. Modes are those of the
//! files, without write permission for group and others, which depends on the umask of a checkout.
//! The archive is read back with the code of the server and the agents, so a bundle that they would
//! refuse is never written. Everything that is wrong with it is said at once.

mod entries;
mod gzip;
mod tar;

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use kernex_proto::{
    archive::{
        self, ArchiveError, Finding, Findings, Format, Inspected, Limits, check_manifest,
        check_upload,
    },
    digest::{Digest, Hasher},
    error::chain,
    manifest::MANIFEST_FILE,
};
use tempfile::{NamedTempFile, TempPath};

use crate::{
    args::pack::PackArgs,
    blocking::{self, Stop},
    error::{Exit, Failure},
    files,
    output::{print_note, progress::transfer},
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
    /// What the author should look at.
    pub(crate) notes: Vec<Finding>,
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
        let (name, version) = (manifest.name_or_default(), &manifest.version);
        format!("{name}-{version}.{}", self.inspected.format.extension())
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
    args: PackArgs,
) -> Result<Packed, Failure> {
    read_manifest(dir, args.allow_unknown)?;
    let format = if args.zstd {
        Format::TarZst
    } else {
        Format::TarGz
    };
    let (root, left_out) = (dir.to_owned(), leave_out.map(Path::to_owned));
    let found = blocking::run(move |stop| entries::find(&root, left_out.as_deref(), stop));
    let (entries, mut refused) = found.await??;
    // Made only now: `near` may be the folder itself.
    let file =
        NamedTempFile::new_in(near).map_err(|error| Failure::file("write in", near, &error))?;
    let (file, path) = file.into_parts();
    let root = dir.to_owned();
    blocking::run(move |stop| tar::write(&root, &entries, format, file, stop)).await??;
    let (digest, size) = digest(&path).await?;
    let checked = check(&path, args.allow_unknown).await;
    let (inspected, notes) = match checked {
        Ok(checked) if refused.is_empty() => (checked.inspected, checked.notes),
        Ok(_) => return Err(self::refused(&ArchiveError::Unsafe(refused))),
        Err(ArchiveError::Unsafe(more) | ArchiveError::Mistaken(more)) if !refused.is_empty() => {
            refused.append(more);
            return Err(self::refused(&ArchiveError::Unsafe(refused)));
        }
        Err(error) => return Err(self::refused(&error)),
    };
    Ok(Packed {
        file: path,
        digest,
        size,
        inspected,
        notes,
    })
}

/// Reads a bundle with the code of the server and the agents, and prints its notes.
pub(crate) async fn inspect(path: &Path, allow_unknown: bool) -> Result<Inspected, Failure> {
    let checked = check(path, allow_unknown)
        .await
        .map_err(|error| refused(&error))?;
    print_notes(&checked.notes);
    Ok(checked.inspected)
}

async fn check(path: &Path, allow_unknown: bool) -> Result<archive::Checked, ArchiveError> {
    let path = path.to_owned();
    let checked = blocking::run(move |stop| {
        let file = fs::File::open(&path).map_err(ArchiveError::Io)?;
        let bar = transfer("checking", file.metadata().map_or(0, |file| file.len()));
        let file = io::BufReader::with_capacity(256 * 1024, stop.reader(file));
        let reader = tar::Blocking(bar.wrap_read(file));
        // The server has the limits; this machine only reads its own files.
        let limits = Limits::of_own_files();
        let checked = check_upload(reader, &limits, allow_unknown);
        let checked = tokio::runtime::Handle::current().block_on(checked);
        bar.finish_and_clear();
        checked
    });
    let broke_off = |failure: Failure| Err(ArchiveError::Io(io::Error::other(failure)));
    checked.await.unwrap_or_else(broke_off)
}

/// Prints what the author of a bundle should look at.
pub(crate) fn print_notes(notes: &[Finding]) {
    for note in notes {
        print_note(&printable(&format!("note: {}", note.with_way_out())));
    }
}

/// SHA-256 and size of a file.
pub(crate) async fn digest(path: &Path) -> Result<(Digest, u64), Failure> {
    let place = path.to_owned();
    let read = move |stop: &Stop| -> io::Result<(Digest, u64)> {
        let mut file = stop.reader(fs::File::open(&place)?);
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
    let read = blocking::run(read).await?;
    read.map_err(|error| Failure::file("read", path, &error))
}

/// Checks the manifest before anything is packed: mistakes in it are the most likely ones.
fn read_manifest(dir: &Path, allow_unknown: bool) -> Result<(), Failure> {
    let path = dir.join(MANIFEST_FILE);
    let bytes = fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            Exit::Error,
            format!("there is no {MANIFEST_FILE} in `{}`", dir.display()),
            format!("Write one with `kernexctl bundle init {}`.", dir.display()),
        ),
        _ => Failure::file("read", &path, &error),
    })?;
    check_manifest(&bytes, allow_unknown).map_err(|error| refused(&error))?;
    Ok(())
}

/// The encoder or the disk does not take what is written.
fn unwritten(error: io::Error) -> Failure {
    Failure::new(
        Exit::Error,
        format!("cannot write the archive: {error}"),
        "Check the disk, then try again.",
    )
}

fn refused(error: &ArchiveError) -> Failure {
    if let Some(findings) = error.findings() {
        return all_refused(findings);
    }
    let next = match error {
        ArchiveError::ManifestMissing => {
            "Put a manifest.json at its top; `kernexctl bundle init` writes one."
        }
        ArchiveError::TooLarge { .. } => "Leave files out with `.kernexignore`.",
        ArchiveError::Corrupt(_) => "Pack it again with `kernexctl bundle pack DIR`.",
        ArchiveError::Io(_) => "Check the disk, then try again.",
        ArchiveError::ManifestInvalid(_) | ArchiveError::Unsafe(_) | ArchiveError::Mistaken(_) => {
            "Correct that field of manifest.json."
        }
    };
    Failure::new(Exit::Error, printable(&chain(error)), next)
}

/// Everything that is wrong, a line each, and all ways out.
fn all_refused(findings: &Findings) -> Failure {
    let mut message = match findings.kept() {
        [one] => format!("this bundle is refused: {}", printable(&one.to_string())),
        all => {
            let mut message = "this bundle is refused:".to_owned();
            for finding in all {
                message.push_str("\n  ");
                message.push_str(&printable(&finding.to_string()));
            }
            message
        }
    };
    let left = findings.total() - findings.kept().len() as u64;
    if left > 0 {
        message.push_str(&format!("\n  and {left} more"));
    }
    Failure::new(Exit::Error, message, findings.ways_out().join("\n        "))
}

#[cfg(all(test, unix))]
mod tests;
