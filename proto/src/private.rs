//! Files and folders that are for their owner alone, whoever made them and with whatever rights.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

/// Removes every mode bit beyond `most`, also set-id and sticky bits. A path that does not exist,
/// or that belongs to another user, stays as it is; the latter is logged.
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
