//! The disk of the state folder: what is wrong with it, and a reserve of space, so that the journal
//! can still be written when the disk is full.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use parking_lot::{Mutex, MutexGuard};

use kernex_proto::v1;
use rustix::{
    fs::{FallocateFlags, StatVfsMountFlags, fallocate, statvfs},
    io::Errno,
};

/// Size of the reserve. An attempt takes a few kilobytes of the journal; this is room for many.
const RESERVE: u64 = 1024 * 1024;
/// With less free space than this the journal may fail to write.
const LOW: u64 = 128 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("state_dir: no space")]
    NoSpace,
    #[error("state_dir: read-only")]
    ReadOnly,
    #[error("state_dir: input/output error")]
    Io,
}

impl Fault {
    /// The fault that an error shows, if it is about the disk.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        let errno = Errno::from_io_error(error)?;
        Some(match errno {
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace,
            Errno::ROFS => Self::ReadOnly,
            // Also a file system that was shut down, a medium that was removed, a file system that
            // needs repair.
            Errno::IO
            | Errno::NODEV
            | Errno::NXIO
            | Errno::UCLEAN
            | Errno::STALE
            | Errno::BADMSG => Self::Io,
            _ => return None,
        })
    }
}

impl From<Fault> for v1::DiskFault {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NoSpace => Self::NoSpace,
            Fault::ReadOnly => Self::ReadOnly,
            Fault::Io => Self::IoError,
        }
    }
}

pub(crate) struct Disk {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    has_reserve: bool,
    /// Fault of the last write to the journal; none when that worked.
    last_fault: Option<Fault>,
}

impl Disk {
    /// Checks the disk, and fills the reserve if there is room.
    pub(crate) fn of(dir: &Path) -> Self {
        let disk = Self {
            dir: dir.to_owned(),
            state: Mutex::default(),
        };
        {
            let mut state = disk.lock();
            let kept = fs::metadata(disk.reserve()).is_ok_and(|meta| meta.len() >= RESERVE);
            state.has_reserve = kept;
        }
        disk.check();
        disk
    }

    /// For checks only: the reserve is neither filled nor freed.
    pub(crate) fn without_reserve(path: &Path) -> Self {
        Self {
            dir: path.to_owned(),
            state: Mutex::default(),
        }
    }

    /// The fault now, as a check or the last write shows.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.check().or_else(|| self.lock().last_fault)
    }

    /// The fault that a check shows. Fills the reserve again when there is room.
    pub(crate) fn check(&self) -> Option<Fault> {
        let stat = match statvfs(&self.dir) {
            Ok(stat) => stat,
            // A folder that does not exist yet is not a fault.
            Err(errno) => return Fault::of(&errno.into()),
        };
        if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Some(Fault::ReadOnly);
        }
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let mut state = self.lock();
        if !state.has_reserve && free >= RESERVE + LOW {
            match self.fill_reserve() {
                Ok(()) => state.has_reserve = true,
                Err(error) => {
                    tracing::warn!(%error, "cannot keep space back in the state folder");
                    return Fault::of(&error);
                }
            }
            return None;
        }
        (!state.has_reserve || free < LOW).then_some(Fault::NoSpace)
    }

    /// Frees the reserve if the journal needs the space now.
    pub(crate) fn free_reserve_if_low(&self) {
        let mut state = self.lock();
        let is_low = || {
            statvfs(&self.dir).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) < LOW)
        };
        if state.has_reserve && is_low() {
            self.free_reserve(&mut state);
        }
    }

    /// Notes how a write to the journal ended.
    pub(crate) fn note_result(&self, fault: Option<Fault>) {
        let mut state = self.lock();
        state.last_fault = fault;
        // A quota may be used up although the disk has space.
        if fault == Some(Fault::NoSpace) && state.has_reserve {
            self.free_reserve(&mut state);
        }
    }

    fn free_reserve(&self, state: &mut State) {
        state.has_reserve = false;
        tracing::warn!(dir = %self.dir.display(), "the disk of the state folder is full; using the space that was kept back");
        if let Err(error) = fs::remove_file(self.reserve()) {
            tracing::warn!(%error, "cannot give the space back that was kept");
        }
    }

    fn fill_reserve(&self) -> io::Result<()> {
        let path = self.reserve();
        let kept = (|| {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)?;
            match fallocate(&file, FallocateFlags::empty(), 0, RESERVE) {
                // Some file systems reserve only by writing.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => io::copy(
                    &mut io::Read::take(io::repeat(0), RESERVE),
                    &mut io::BufWriter::new(&file),
                )
                .map(drop)?,
                done => done?,
            }
            file.sync_all()
        })();
        if kept.is_err() {
            let _ = fs::remove_file(&path);
        }
        kept
    }

    fn reserve(&self) -> PathBuf {
        self.dir.join("reserve")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_is_wrong() {
        let table = [
            (Errno::NOSPC, Some(Fault::NoSpace)),
            (Errno::DQUOT, Some(Fault::NoSpace)),
            (Errno::ROFS, Some(Fault::ReadOnly)),
            (Errno::IO, Some(Fault::Io)),
            (Errno::UCLEAN, Some(Fault::Io)),
            (Errno::NOENT, None),
            (Errno::MFILE, None),
        ];
        for (errno, fault) in table {
            assert_eq!(Fault::of(&errno.into()), fault, "{errno}");
        }
        assert_eq!(Fault::of(&io::Error::other("x")), None);
    }

    #[test]
    fn space_is_kept_back_given_when_it_runs_out_and_kept_back_again() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::of(dir.path());
        let kept = || {
            fs::metadata(dir.path().join("reserve"))
                .map(|meta| meta.len())
                .ok()
        };
        assert_eq!(kept(), Some(RESERVE));
        assert_eq!(disk.fault(), None);
        disk.free_reserve_if_low();
        assert_eq!(kept(), Some(RESERVE), "there is room beside it");
        disk.note_result(Some(Fault::NoSpace));
        assert_eq!(kept(), None);
        assert_eq!(disk.fault(), Some(Fault::NoSpace), "it was met");
        disk.note_result(None);
        assert_eq!(disk.fault(), None);
        assert_eq!(kept(), Some(RESERVE));
        let again = Disk::of(dir.path());
        assert_eq!((again.fault(), kept()), (None, Some(RESERVE)));
    }

    #[test]
    fn what_the_journal_met_stays_until_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::of(dir.path());
        disk.note_result(Some(Fault::Io));
        assert_eq!((disk.fault(), disk.check()), (Some(Fault::Io), None));
        disk.note_result(None);
        assert_eq!(disk.fault(), None);
    }
}
