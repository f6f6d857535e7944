//! Files and folders that are for their owner alone, whoever made them and with whatever rights.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

/// Takes away every right beyond `most`, set-id and sticky bits among them. A path that is gone, or
/// that only somebody else can change, is left as it is; the latter is said in the log.
///
/// # Errors
/// When the path cannot be looked at, or its file system refuses.
pub fn restrict(path: &Path, most: u32) -> io::Result<()> {
    let mode = match fs::symlink_metadata(path) {
        Ok(meta) => meta.permissions().mode() & 0o7777,
        // Temporary files come and go.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if mode & most == mode {
        return Ok(());
    }
    match fs::set_permissions(path, Permissions::from_mode(mode & most)) {
        // Its owner decides.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!(
                path = %path.display(),
                mode = format!("{mode:o}"),
                "others may look into it, and only its owner can change that: chmod it"
            );
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
