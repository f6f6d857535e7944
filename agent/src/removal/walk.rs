//! The only walk over a tree: it checks whether all of it can be removed, or removes it, from the
//! leaves up.
//!
//! It works without recursion and with a bounded number of descriptors, however deep the tree is:
//! folders far above are closed and opened again by `..`, and must be the same then.

use std::ffi::{CStr, CString};

use rustix::{
    fd::{AsFd as _, BorrowedFd, OwnedFd},
    fs::{Access, AtFlags, Dir, FileType},
    io::Errno,
    process::geteuid,
};

use super::{
    Stuck, StuckReason,
    guard::{FileId, Guard, Stat, open_to_read, set_mode, stat_of},
};

/// Folders that are open at once.
pub(super) const OPEN: usize = 32;

/// What a walk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To see whether all of it can be removed, and how large it is. Changes nothing.
    Measure,
    /// The same, and adds missing rights where it needs them; they are taken back afterwards.
    Look,
    Remove,
}

/// A walk over one entry of a folder and everything below it.
pub(super) struct Walk<'a> {
    pub(super) guard: Guard,
    pub(super) purpose: Purpose,
    /// The folder that holds the entry.
    pub(super) above: BorrowedFd<'a>,
    /// Bytes of the files that were looked at.
    pub(super) bytes: u64,
}

/// A folder between the top of the tree and where the walk is.
struct Level {
    /// Its name in the folder above.
    name: CString,
    /// `None` while the walk is far below it.
    fd: Option<OwnedFd>,
    id: FileId,
    /// Folders in it that are still to be walked.
    folders: Vec<CString>,
    was: Option<u32>,
}

/// Why a folder cannot be walked, and which of its entries is the cause, if it is not the folder
/// itself.
struct WalkError(Option<CString>, StuckReason);

impl From<StuckReason> for WalkError {
    fn from(why: StuckReason) -> Self {
        Self(None, why)
    }
}

impl From<Errno> for WalkError {
    fn from(error: Errno) -> Self {
        Self(None, error.into())
    }
}

impl Walk<'_> {
    /// Walks. An entry that does not exist is no failure.
    pub(super) fn run(&mut self, name: &CStr) -> Result<(), Stuck> {
        let mut levels = Vec::new();
        let walked = self.walk_levels(name, &mut levels);
        self.unwind(levels);
        match walked {
            Err(stuck) if matches!(stuck.why, StuckReason::Gone) => Ok(()),
            walked => walked,
        }
    }

    fn walk_levels(&mut self, name: &CStr, levels: &mut Vec<Level>) -> Result<(), Stuck> {
        let opened = self.guard.open(self.above, name).map_err(Stuck::itself)?;
        let seen = stat_of(opened.as_fd()).map_err(Stuck::itself)?;
        drop(opened);
        if !seen.is_folder() {
            return self.file(self.above, None, name).map_err(Stuck::itself);
        }
        let level = self.enter_folder(self.above, name);
        levels.push(level.map_err(|WalkError(inner, why)| match &inner {
            Some(inner) => Stuck::below(&[inner], why),
            None => Stuck::itself(why),
        })?);
        while let Some(level) = levels.last_mut() {
            let Some(child) = level.folders.pop() else {
                self.leave_folder(levels)?;
                continue;
            };
            let entered = match &level.fd {
                Some(fd) => self.enter_folder(fd.as_fd(), &child),
                None => Err(StuckReason::Changing.into()),
            };
            match entered {
                Ok(level) => levels.push(level),
                // Somebody else has removed it.
                Err(WalkError(None, StuckReason::Gone)) => {}
                Err(WalkError(inner, why)) => {
                    let mut names = below(levels);
                    names.push(&child);
                    names.extend(inner.as_deref());
                    return Err(Stuck::below(&names, why));
                }
            }
            let far = levels.len().checked_sub(OPEN + 1);
            if let Some(level) = far.and_then(|far| levels.get_mut(far)) {
                level.fd = None;
            }
        }
        Ok(())
    }

    /// Opens a folder and does what can be done with its files.
    fn enter_folder(&mut self, above: BorrowedFd<'_>, name: &CStr) -> Result<Level, WalkError> {
        let fd = self.guard.open(above, name)?;
        let seen = stat_of(fd.as_fd())?;
        if !seen.is_folder() {
            return Err(StuckReason::Changing.into());
        }
        if seen.is_fixed {
            return Err(StuckReason::Fixed.into());
        }
        let was = self.rights(fd.as_fd(), &seen)?;
        let folders = self.files(fd.as_fd(), &seen);
        let folders = folders.inspect_err(|_| give_back(Some(&fd), was))?;
        Ok(Level {
            name: name.to_owned(),
            fd: Some(fd),
            id: seen.id,
            folders,
            was,
        })
    }

    /// Makes sure that the entries of a folder can be read and removed; returns the mode to give
    /// back.
    fn rights(&self, folder: BorrowedFd<'_>, seen: &Stat) -> Result<Option<u32>, StuckReason> {
        let own = seen.uid == geteuid().as_raw();
        let mut needed = Access::READ_OK | Access::EXEC_OK;
        if self.purpose != Purpose::Measure || !own {
            needed |= Access::WRITE_OK;
        }
        match rustix::fs::accessat(folder, c".", needed, AtFlags::EACCESS) {
            Ok(()) => Ok(None),
            Err(Errno::ACCESS) if own && self.purpose != Purpose::Measure => {
                set_mode(folder, seen.mode | 0o700)?;
                Ok((self.purpose == Purpose::Look).then_some(seen.mode))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the files of a folder, or looks at them; returns its folders.
    fn files(&mut self, folder: BorrowedFd<'_>, seen: &Stat) -> Result<Vec<CString>, WalkError> {
        // Read all names first: removing entries while reading a folder may hide others.
        let mut entries = Vec::new();
        for entry in Dir::new(open_to_read(folder)?)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                entries.push((entry.file_name().to_owned(), entry.file_type()));
            }
        }
        let mut folders = Vec::new();
        for (name, kind) in entries {
            let is_folder = match kind {
                FileType::Directory => Ok(true),
                FileType::Unknown => self.is_folder(folder, &name),
                _ => Ok(false),
            };
            let done = match is_folder {
                Ok(true) => {
                    folders.push(name);
                    continue;
                }
                Ok(false) => self.file(folder, Some(seen), &name),
                Err(why) => Err(why),
            };
            match done {
                Ok(()) | Err(StuckReason::Gone) => {}
                Err(why) => return Err(WalkError(Some(name), why)),
            }
        }
        Ok(folders)
    }

    fn is_folder(&self, folder: BorrowedFd<'_>, name: &CStr) -> Result<bool, StuckReason> {
        let opened = self.guard.open(folder, name)?;
        Ok(stat_of(opened.as_fd())?.is_folder())
    }

    /// Removes what is not a folder, or looks at it.
    fn file(
        &mut self,
        folder: BorrowedFd<'_>,
        holder: Option<&Stat>,
        name: &CStr,
    ) -> Result<(), StuckReason> {
        if self.purpose == Purpose::Remove {
            return match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => Err(StuckReason::Changing),
                unlinked => Ok(unlinked?),
            };
        }
        let opened = self.guard.open(folder, name)?;
        let seen = stat_of(opened.as_fd())?;
        if seen.is_folder() {
            return Err(StuckReason::Changing);
        }
        if seen.is_fixed {
            return Err(StuckReason::Fixed);
        }
        let user = geteuid();
        let owners = |holder: &&Stat| holder.is_sticky() && !user.is_root();
        if let Some(holder) = holder.filter(owners)
            && ![holder.uid, seen.uid].contains(&user.as_raw())
        {
            return Err(StuckReason::NotPermitted);
        }
        if seen.is_file() {
            self.bytes = self.bytes.saturating_add(seen.size);
        }
        Ok(())
    }

    /// Leaves a folder after everything below it is done, and removes it.
    fn leave_folder(&self, levels: &mut Vec<Level>) -> Result<(), Stuck> {
        let Some(done) = levels.pop() else {
            return Ok(());
        };
        let opened = self.open_last(&done, levels);
        give_back(done.fd.as_ref(), done.was);
        let removed = opened.and_then(|()| {
            if self.purpose != Purpose::Remove {
                return Ok(());
            }
            let above = match levels.last() {
                Some(level) => level.fd.as_ref().ok_or(StuckReason::Changing)?.as_fd(),
                None => self.above,
            };
            match rustix::fs::unlinkat(above, &done.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST) => Err(StuckReason::Changing),
                Err(error) => Err(error.into()),
            }
        });
        removed.map_err(|why| {
            let mut names = below(levels);
            names.extend((!levels.is_empty()).then_some(done.name.as_c_str()));
            Stuck::below(&names, why)
        })
    }

    /// Opens the last level again, by `..` from the one below it.
    fn open_last(&self, from: &Level, levels: &mut [Level]) -> Result<(), StuckReason> {
        if let Some(last) = levels.last_mut()
            && last.fd.is_none()
        {
            let from = from.fd.as_ref().ok_or(StuckReason::Changing)?;
            last.fd = Some(self.guard.up(from.as_fd(), last.id)?);
        }
        Ok(())
    }

    /// Takes added rights back all the way up, after a walk that ended early.
    fn unwind(&self, mut levels: Vec<Level>) {
        while let Some(done) = levels.pop() {
            // When the way up is gone, nothing is left to restore.
            let _ = self.open_last(&done, &mut levels);
            give_back(done.fd.as_ref(), done.was);
        }
    }
}

/// Names from the top of the tree, which has none here, to where the walk is.
fn below(levels: &[Level]) -> Vec<&CStr> {
    let names = levels.iter().skip(1);
    names.map(|level| level.name.as_c_str()).collect()
}

fn give_back(folder: Option<&OwnedFd>, was: Option<u32>) {
    if let (Some(folder), Some(mode)) = (folder, was)
        && let Err(error) = set_mode(folder.as_fd(), mode)
    {
        tracing::warn!(%error, "cannot give a folder its mode back");
    }
}
