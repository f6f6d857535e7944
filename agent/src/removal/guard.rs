//! Opening what lies below the state folder without ever leaving its file system.
//!
//! Every step opens one name below an open folder. A name that leads over a mount (also one of the
//! same file system) or through a symbolic link is refused. The descriptor (`O_PATH`) serves only
//! for looking and for further steps, so opening changes nothing.

use std::{ffi::CStr, fs, os::fd::AsRawFd as _};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags},
    io::Errno,
};

use super::StuckReason;

/// A way to find out where another file system begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    /// The kernel refuses to go over a mount (Linux 5.6).
    Openat2,
    /// `/proc` says which mount a file was opened on.
    MountId,
}

/// All lookups; the best is tried first.
pub(super) const LOOKUPS: &[Lookup] = &[Lookup::Openat2, Lookup::MountId];

/// One mount, below which everything is opened.
#[derive(Debug, Clone, Copy)]
pub(super) enum Guard {
    Openat2,
    MountId(u64),
}

/// Identity of a file.
pub(super) type FileId = (u32, u32, u64);

/// What is known of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stat {
    pub(super) id: FileId,
    pub(super) uid: u32,
    pub(super) mode: u32,
    pub(super) size: u64,
    /// Set immutable or append-only.
    pub(super) is_fixed: bool,
}

const FOLDER: u32 = 0o040_000;
const KIND: u32 = 0o170_000;

impl Stat {
    pub(super) fn is_folder(&self) -> bool {
        self.mode & KIND == FOLDER
    }

    pub(super) fn is_link(&self) -> bool {
        self.mode & KIND == 0o120_000
    }

    pub(super) fn is_file(&self) -> bool {
        self.mode & KIND == 0o100_000
    }

    /// Whether only owners may remove what is in it.
    pub(super) fn is_sticky(&self) -> bool {
        self.mode & 0o1000 != 0
    }
}

const FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Guard {
    /// The first lookup that works for the mount this folder is on.
    pub(super) fn of(folder: &OwnedFd, lookups: &[Lookup]) -> Result<Self, StuckReason> {
        let guards = lookups.iter().filter_map(|lookup| match lookup {
            Lookup::Openat2 => Some(Self::Openat2),
            Lookup::MountId => mount_id(folder.as_fd()).map(Self::MountId),
        });
        for guard in guards {
            match guard.open(folder.as_fd(), c".") {
                Ok(_) => return Ok(guard),
                // A lack of descriptors says nothing about the kernel.
                Err(why @ StuckReason::Shortage(_)) => return Err(why),
                // An old kernel does not know it, or a filter of system calls refuses it.
                Err(_) => {}
            }
        }
        Err(StuckReason::Unguarded)
    }

    /// Opens one entry of a folder, or the folder itself by the name `.`.
    pub(super) fn open(self, folder: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, StuckReason> {
        match self {
            Self::Openat2 => {
                let resolve = ResolveFlags::BENEATH
                    | ResolveFlags::NO_XDEV
                    | ResolveFlags::NO_SYMLINKS
                    | ResolveFlags::NO_MAGICLINKS;
                openat2(folder, name, resolve)
            }
            Self::MountId(_) => {
                let opened = rustix::fs::openat(folder, name, FLAGS, Mode::empty());
                self.same_mount(opened.map_err(StuckReason::from)?)
            }
        }
    }

    /// Opens the folder above, if it is still the one it was.
    pub(super) fn up(self, folder: BorrowedFd<'_>, wanted: FileId) -> Result<OwnedFd, StuckReason> {
        let above = match self {
            Self::Openat2 => openat2(
                folder,
                c"..",
                ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
            )?,
            Self::MountId(_) => {
                let opened = rustix::fs::openat(folder, c"..", FLAGS, Mode::empty());
                self.same_mount(opened.map_err(StuckReason::from)?)?
            }
        };
        match stat_of(above.as_fd())?.id == wanted {
            true => Ok(above),
            false => Err(StuckReason::Changing),
        }
    }

    fn same_mount(self, opened: OwnedFd) -> Result<OwnedFd, StuckReason> {
        match (self, mount_id(opened.as_fd())) {
            (Self::Openat2, _) => Ok(opened),
            (Self::MountId(wanted), Some(found)) if wanted == found => Ok(opened),
            (Self::MountId(_), Some(_)) => Err(StuckReason::Mounted),
            (Self::MountId(_), None) => Err(StuckReason::Unguarded),
        }
    }
}

fn openat2(
    folder: BorrowedFd<'_>,
    name: &CStr,
    resolve: ResolveFlags,
) -> Result<OwnedFd, StuckReason> {
    // A rename or mount elsewhere makes the kernel return EAGAIN: try again.
    const TRIES: usize = 64;
    let mut tries = 0;
    loop {
        tries += 1;
        match rustix::fs::openat2(folder, name, FLAGS, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < TRIES => {}
            Err(Errno::AGAIN) => return Err(StuckReason::Changing),
            // For a single name this means: it is the root of another mount.
            Err(Errno::XDEV) => return Err(StuckReason::Mounted),
            opened => return Ok(opened?),
        }
    }
}

/// The mount a file was opened on; none when `/proc` does not say.
fn mount_id(file: BorrowedFd<'_>) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mut lines = info.lines();
    lines.find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// Looks at what was opened.
pub(super) fn stat_of(file: BorrowedFd<'_>) -> Result<Stat, StuckReason> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::statx(file, c"", flags, StatxFlags::BASIC_STATS) {
        Ok(stat) => Ok(Stat {
            id: (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino),
            uid: stat.stx_uid,
            mode: u32::from(stat.stx_mode),
            size: stat.stx_size,
            is_fixed: stat
                .stx_attributes
                .intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND),
        }),
        // Then an immutable file is noticed only when it is removed.
        Err(Errno::NOSYS | Errno::PERM) => {
            let stat = rustix::fs::fstat(file)?;
            Ok(Stat {
                id: (
                    rustix::fs::major(stat.st_dev),
                    rustix::fs::minor(stat.st_dev),
                    stat.st_ino,
                ),
                uid: stat.st_uid,
                mode: stat.st_mode,
                size: u64::try_from(stat.st_size).unwrap_or(0),
                is_fixed: false,
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// Changes the mode of what was opened, also when it was renamed meanwhile.
pub(super) fn set_mode(file: BorrowedFd<'_>, mode: u32) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(mode & 0o7777);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::chmodat(CWD, path, mode, AtFlags::empty()) {
        // Without `/proc` it has to be opened for reading, which the folder has to allow.
        Err(Errno::NOENT) => rustix::fs::fchmod(open_to_read(file)?, mode),
        changed => changed,
    }
}

/// Opens a folder that was opened for looking, so that its entries can be read.
pub(super) fn open_to_read(folder: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The name `.` stays on the very folder, whatever has been mounted over it.
    rustix::fs::openat(folder, c".", flags, Mode::empty())
}
