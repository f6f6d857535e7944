//! Files on this platform: who may read and run them, and how writers take turns.
//!
//! Unix has modes. Elsewhere the user's own folder keeps others out, and the first bytes of a file
//! show whether it can be run.

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    path::Path,
};

/// Makes a folder, and those it is in, for its owner alone.
pub(crate) fn make_private_folder(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes a file that must not exist yet. The mode is used on Unix only.
pub(crate) fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    options.open(path)
}

/// Makes a file private to its owner.
#[cfg(unix)]
pub(crate) fn keep_private(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}

/// The folder makes the file private to its owner.
#[cfg(not(unix))]
pub(crate) fn keep_private(_: &File) -> io::Result<()> {
    Ok(())
}

/// Lets everybody read a file: temporary ones are private, but a bundle is no secret.
#[cfg(unix)]
pub(crate) fn share(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

/// The folder decides who may read the file.
#[cfg(not(unix))]
pub(crate) fn share(_: &Path) -> io::Result<()> {
    Ok(())
}

/// What the writers of a folder lock: the folder itself.
#[cfg(unix)]
pub(crate) fn lock_of(folder: &Path) -> io::Result<File> {
    File::open(folder)
}

/// What the writers of a folder lock: a file in it, as a folder cannot be opened.
#[cfg(not(unix))]
pub(crate) fn lock_of(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    options.open(folder.join(".lock"))
}

/// Mode of a file or folder, set-id and sticky bits among it.
#[cfg(unix)]
pub(crate) fn mode(_: &Path, metadata: &Metadata) -> io::Result<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(metadata.permissions().mode() & 0o7777)
}

/// The mode a file or folder would have: 0755 where it can be run, else 0644.
#[cfg(not(unix))]
pub(crate) fn mode(path: &Path, metadata: &Metadata) -> io::Result<u32> {
    use std::io::Read as _;
    if metadata.is_dir() {
        return Ok(0o755);
    }
    let mut start = Vec::new();
    if metadata.is_file() {
        File::open(path)?.take(4).read_to_end(&mut start)?;
    }
    Ok(if can_be_run(&start) { 0o755 } else { 0o644 })
}

/// Whether Linux would run a file with these first bytes: a script with `#!`, or a program.
#[cfg(any(not(unix), test))]
fn can_be_run(start: &[u8]) -> bool {
    start.starts_with(b"#!") || start.starts_with(b"\x7fELF")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_scripts_can_be_run_and_data_cannot() {
        for (start, can) in [
            (&b"#!/b"[..], true),
            (b"\x7fELF", true),
            (b"{\"na", false),
            (b"#", false),
            (b"", false),
        ] {
            assert_eq!(can_be_run(start), can, "{start:?}");
        }
    }

    #[test]
    fn a_folder_has_one_writer_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let turn = lock_of(folder.path()).unwrap();
        turn.lock().unwrap();
        let other = lock_of(folder.path()).unwrap();
        assert!(other.try_lock().is_err());
        drop(turn);
        assert!(other.try_lock().is_ok());
    }
}
