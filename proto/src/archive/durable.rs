//! Making many files durable at once.
//!
//! The first ones are synced one by one: for a few files that is faster than `syncfs`, which also
//! writes the data of all other programs. Beyond that one `syncfs` replaces many `fsync`, where it
//! reports write errors: Linux 5.8 or later, and a file system that does on `syncfs` what it does
//! on `fsync`.

use std::{fs::File, io, path::Path, path::PathBuf};

use rustix::io::Errno;

/// Number of files and folders that are synced one by one.
const EACH: u64 = 128;

/// From this version on, Linux returns write errors from `syncfs`.
const TELLS: (u64, u64) = (5, 8);

/// File systems whose `syncfs` is trusted: ext2, ext3 and ext4; XFS; Btrfs; F2FS; tmpfs. FUSE may
/// leave out what only `fsync` asks of it. overlayfs may answer for another file system than the
/// one that failed.
const TRUSTED: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994];

/// How the files below one folder become durable.
pub(super) struct Durable {
    /// Opened before anything is written, so that it learns of every error since.
    volume: File,
    /// Whether one `syncfs` may replace many `fsync`.
    together: bool,
    /// Files and folders so far.
    count: u64,
}

impl Durable {
    /// For files that are going to be written below `folder`.
    pub(super) fn below(folder: &Path) -> io::Result<Self> {
        let volume = File::open(folder)?;
        let release = rustix::system::uname();
        let kind = u64::try_from(rustix::fs::fstatfs(&volume)?.f_type).unwrap_or(0);
        Ok(Self {
            together: tells(&release.release().to_string_lossy()) && TRUSTED.contains(&kind),
            volume,
            count: 0,
        })
    }

    /// Counts one more file or folder. Returns whether it has to be synced by itself.
    pub(super) fn takes_each(&mut self) -> bool {
        self.count += 1;
        !self.together || self.count <= EACH
    }

    /// Counts one more, and syncs it when it has to be by itself.
    pub(super) fn sync_now(&mut self, file: &File) -> io::Result<()> {
        match self.takes_each() {
            true => file.sync_all(),
            false => Ok(()),
        }
    }

    /// Makes the rest durable, and the entries of `folder`. `all` names every file and folder, for
    /// a kernel that does not do it at once.
    pub(super) fn finish(
        &self,
        folder: &Path,
        all: impl FnOnce() -> Vec<PathBuf>,
    ) -> io::Result<()> {
        if self.together && self.count > EACH {
            match rustix::fs::syncfs(&self.volume) {
                Ok(()) => {}
                // A filter of system calls refuses it.
                Err(Errno::NOSYS | Errno::PERM) => {
                    for path in all() {
                        File::open(path)?.sync_all()?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        // This also fails on a file system that was shut down, which some kernels do not report
        // from `syncfs`.
        File::open(folder)?.sync_all()
    }
}

/// Whether a kernel of this release, such as `6.1.0-13-amd64`, reports errors.
fn tells(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|text| text.parse().ok());
    match (number(), number()) {
        (Some(major), Some(minor)) => (major, minor) >= TELLS,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_keep_failures_to_themselves_are_not_trusted() {
        for (release, wanted) in [
            ("6.18.44-fc", true),
            ("5.8.0", true),
            ("5.10-rc1", true),
            ("10.0", true),
            ("5.7.19", false),
            ("4.18.0-553.el8_10.x86_64", false),
            ("5", false),
            ("", false),
            ("linux", false),
        ] {
            assert_eq!(tells(release), wanted, "{release}");
        }
    }

    #[test]
    fn only_the_first_of_many_are_synced_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut durable = Durable::below(folder.path()).unwrap();
        for together in [false, true] {
            (durable.together, durable.count) = (together, 0);
            let each = (0..2 * EACH).filter(|_| durable.takes_each()).count();
            assert_eq!(each as u64, if together { EACH } else { 2 * EACH });
        }
        durable.finish(folder.path(), Vec::new).unwrap();
    }
}
