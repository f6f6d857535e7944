//! What is in a folder: everything but what `.kernexignore` names.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    path::{Path, PathBuf},
};

use ignore::WalkBuilder;
use kernex_proto::archive::{Finding, Findings};

use super::IGNORE_FILE;
use crate::{
    blocking::Stop,
    error::{Exit, Failure},
    files,
};

const LEAVE_OUT: &str = "Remove it, or leave it out with a line in `.kernexignore`.";
const BITS: &str =
    "Remove the bit with `chmod u-s,g-s,-t`, and set it in a script where it is needed.";

/// Path within the bundle, and metadata; sorted by the bytes of the path.
pub(super) type Entries = BTreeMap<PathBuf, Metadata>;

/// The entries to pack, and everything that no bundle may have.
pub(super) fn find(
    dir: &Path,
    leave_out: Option<&Path>,
    stop: &Stop,
) -> Result<(Entries, Findings), Failure> {
    let leave_out = leave_out.and_then(|path| fs::canonicalize(path).ok());
    let walk = WalkBuilder::new(dir)
        .standard_filters(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .filter_entry(|entry| entry.file_name() != ".git" && entry.file_name() != IGNORE_FILE)
        .build();
    let mut entries = Entries::new();
    let mut refused = Findings::default();
    for entry in walk {
        let entry = entry.map_err(|error| {
            Failure::new(
                Exit::Error,
                format!("cannot walk `{}`: {error}", dir.display()),
                "Check the folder.",
            )
        })?;
        let path = entry.path();
        stop.check()
            .map_err(|error| Failure::file("walk", dir, &error))?;
        let Ok(inside) = path.strip_prefix(dir) else {
            continue;
        };
        if inside.as_os_str().is_empty() {
            continue;
        }
        if leave_out.is_some() && fs::canonicalize(path).ok() == leave_out {
            continue;
        }
        let unreadable = |error: std::io::Error| Failure::file("read", path, &error);
        let metadata = fs::symlink_metadata(path).map_err(unreadable)?;
        let mut refuse = |why: &str, way_out| {
            refused.push(Finding {
                subject: inside.display().to_string(),
                why: why.to_owned(),
                way_out,
            });
        };
        let kind = metadata.file_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            refuse("is no file, folder or link", LEAVE_OUT);
            continue;
        }
        if kind.is_file() && files::mode(path, &metadata).map_err(unreadable)? & 0o7000 != 0 {
            refuse("has a set-user-id, set-group-id or sticky bit", BITS);
        }
        entries.insert(inside.to_owned(), metadata);
    }
    Ok((entries, refused))
}
