//! Files that survive a power cut: write a temporary file, sync it, rename it into place, sync the
//! folder.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use crate::crash::Act;

/// Temporary files end in this and an id.
const ASIDE: &str = "tmp-";

/// Makes the entries of a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a folder and its parents and makes each of them durable. Open to others whatever the
/// umask says: programs run by other users are started through `current`.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    create_dir_with(dir, 0o755)
}

/// Like [`create_dir`], but other users cannot enter the folder.
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    create_dir_with(dir, 0o700)
}

fn create_dir_with(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_dir(parent)?;
    match fs::create_dir(dir) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
        Err(_) => {}
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(mode))?,
    }
    sync_dir(parent)
}

/// Makes sure that a file is there and readable by nobody else.
pub(crate) fn touch_private(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

/// Writes a private file in one step, in place of whatever was there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = write_aside(path, bytes)?;
    Act::FileReplace.before();
    fs::rename(&aside, path)
        .and_then(|()| sync_parent(path))
        .inspect_err(|_| discard(&aside))?;
    Act::FileReplace.after();
    Ok(())
}

/// Writes a private file in one step, unless one is there already: then `AlreadyExists`, and
/// nothing changed.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = write_aside(path, bytes)?;
    // A hard link never replaces, not even in a race with another process; a rename would.
    Act::FileCreate.before();
    let linked = fs::hard_link(&aside, path);
    Act::FileCreate.after();
    discard(&aside);
    linked.and_then(|()| sync_parent(path))
}

fn write_aside(path: &Path, bytes: &[u8]) -> io::Result<std::path::PathBuf> {
    let aside = path.with_extension(format!("{ASIDE}{}", uuid::Uuid::new_v4().simple()));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()
    })();
    match written {
        Ok(()) => Ok(aside),
        Err(err) => {
            discard(&aside);
            Err(err)
        }
    }
}

/// Removes what a crash in the middle of [`replace`] or [`create`] left in a folder.
pub(crate) fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        let id = ending.and_then(|ending| ending.strip_prefix(ASIDE));
        if id.is_some_and(|id| uuid::Uuid::try_parse(id).is_ok()) {
            discard(&path);
        }
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Removes a temporary file. One that stays is harmless and swept at the next start. Folders are
/// removed by [`crate::removal`] alone.
pub(crate) fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "could not remove a temporary file");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_left_aside_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let aside = write_aside(&dir.path().join("1.0-a-1.json"), b"{").unwrap();
        let kept = ["1.0-a-1.json", "x.tmp-1", "tmp-y"].map(|name| dir.path().join(name));
        for path in &kept {
            fs::write(path, "").unwrap();
        }
        sweep(dir.path());
        assert!(!aside.exists());
        assert!(kept.iter().all(|path| path.exists()));
    }

    #[test]
    fn creating_never_replaces_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.key");
        create(&path, b"first").unwrap();
        let again = create(&path, b"second").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn replacing_replaces_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.json");
        replace(&path, b"1").unwrap();
        replace(&path, b"2").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
