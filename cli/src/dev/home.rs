//! The folder for everything: the one that was given, or a temporary one.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use crate::{
    error::{Exit, Failure},
    output::print_note,
};

/// What is mounted where, as this process sees it.
const MOUNTS: &str = "/proc/self/mountinfo";

/// A temporary folder is removed when this is dropped, unless something is mounted in it: a script
/// may have mounted a folder of the machine, whose files are not ours to remove.
pub(super) struct Home {
    path: PathBuf,
    is_temporary: bool,
}

impl Home {
    pub(super) fn new(given: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = given else {
            let made = tempfile::Builder::new().prefix("kernex-dev-").tempdir();
            // Mounts are named by paths without links.
            let path = made.and_then(|folder| fs::canonicalize(folder.keep()));
            let temporary = |path| Self {
                path,
                is_temporary: true,
            };
            return path
                .map(temporary)
                .map_err(|error| Failure::file("write in", &std::env::temp_dir(), &error));
        };
        let given = |path| Self {
            path,
            is_temporary: false,
        };
        fs::create_dir_all(&path)
            .and_then(|()| fs::canonicalize(&path))
            .map(given)
            .map_err(|error| Failure::file("create", &path, &error))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn remove(&self) -> Result<(), Failure> {
        let path = self.path.display();
        let mounts = fs::read(MOUNTS).map_err(|error| {
            Failure::new(
                Exit::Error,
                format!("`{path}` stays: {MOUNTS} cannot be read: {error}"),
                "Remove the folder once nothing is mounted in it.",
            )
        })?;
        match mounted_below(&mounts, &self.path).first() {
            Some(at) => Err(Failure::new(
                Exit::Error,
                format!(
                    "`{path}` stays: a file system is mounted at `{}`",
                    at.display()
                ),
                format!(
                    "Unmount it (`umount {}`), then remove the folder.",
                    at.display()
                ),
            )),
            None => fs::remove_dir_all(&self.path)
                .or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                })
                .map_err(|error| Failure::file("remove", &self.path, &error)),
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.is_temporary
            && let Err(failure) = self.remove()
        {
            let Failure { message, next, .. } = failure;
            print_note(&format!("warning: {message}\n{next}"));
        }
    }
}

/// Where something is mounted in a folder or on it, in the words of `/proc/self/mountinfo`.
fn mounted_below(mounts: &[u8], folder: &Path) -> Vec<PathBuf> {
    let lines = mounts.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points
        .map(unescaped)
        .filter(|point| point.starts_with(folder))
        .collect()
}

/// A path in which the kernel wrote blanks, line ends and backslashes as three octal digits.
fn unescaped(mut path: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(path.len());
    while let [first, rest @ ..] = path {
        path = match (first, rest) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..]) => {
                bytes.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest
            }
            _ => {
                bytes.push(*first);
                rest
            }
        };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_in_the_folder_is_found_and_nothing_else() {
        let mounts = b"22 1 254:0 / / rw - ext4 /dev/vda rw\n\
            30 22 0:25 / /tmp rw - tmpfs tmpfs rw\n\
            31 30 254:0 /srv /tmp/dev\\0401/bundles/app/data rw shared:1 - ext4 /dev/vda rw\n\
            32 30 254:0 /srv /tmp/dev\\04012/data rw - ext4 /dev/vda rw\n";
        let below = |folder: &str| mounted_below(mounts, Path::new(folder));
        assert_eq!(
            below("/tmp/dev 1"),
            [PathBuf::from("/tmp/dev 1/bundles/app/data")]
        );
        assert_eq!(
            below("/tmp/dev 1/bundles/app/data").len(),
            1,
            "on the folder itself, too"
        );
        assert!(below("/tmp/dev").is_empty());
        assert_eq!(below("/tmp").len(), 3);
        assert_eq!(unescaped(b"/a\\134b\\9"), PathBuf::from("/a\\b\\9"));
    }
}
