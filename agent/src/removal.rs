//! The only way trees are removed:
//!
//! 1. walk the tree and check that all of it can be removed;
//! 2. move it into the trash as a whole, by one rename;
//! 3. remove it there, from the leaves up.
//!
//! Scripts leave more in a release than files: they mount folders of the machine in it, make files
//! immutable, take their own rights away. So no step leaves the tree, neither over a mount nor
//! through a link. A tree of which anything cannot be removed stays as a whole, each heartbeat
//! reports it, and it is tried again later.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, OsStr},
    fmt, fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use kernex_proto::v1;
use rustix::{
    fd::{AsFd as _, OwnedFd},
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::crash::Act;

mod guard;
mod walk;

use guard::{Guard, LOOKUPS, Lookup, Stat, set_mode, stat_of};
use walk::{Purpose, Walk};

/// Where trees are removed, in the state folder.
const TRASH: &str = "trash";

/// Most leftovers that a heartbeat names.
const NAMED: usize = 16;

/// Longest path and reason in a heartbeat, in bytes.
const LONGEST: usize = 512;

/// Removes trees of one state folder and remembers what could not be removed. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Remover(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state_dir: PathBuf,
    lookups: &'static [Lookup],
    /// What could not be removed, by path in the state folder, and why.
    left: Mutex<BTreeMap<String, String>>,
}

/// Why something cannot be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StuckReason {
    Gone,
    Mounted,
    Fixed,
    NotPermitted,
    Link,
    Changing,
    Unguarded,
    Shortage(Errno),
    Io(Errno),
}

impl From<Errno> for StuckReason {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT => Self::Gone,
            // `unlink` returns this for a mount point.
            Errno::BUSY => Self::Mounted,
            Errno::ACCESS | Errno::PERM => Self::NotPermitted,
            Errno::LOOP => Self::Link,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => Self::Shortage(error),
            error => Self::Io(error),
        }
    }
}

/// What stays of a tree that was to be removed, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}", reason = self.reason())]
pub(crate) struct Stuck {
    /// Path in the state folder.
    path: String,
    /// The entry that cannot be removed, below that; empty for the tree itself.
    at: String,
    why: StuckReason,
}

impl Stuck {
    /// The entry with these names below the tree is stuck.
    fn below(names: &[&CStr], why: StuckReason) -> Self {
        let names = names.iter().map(|name| name.to_string_lossy());
        Self {
            path: String::new(),
            at: names.collect::<Vec<_>>().join("/"),
            why,
        }
    }

    fn itself(why: StuckReason) -> Self {
        Self::below(&[], why)
    }

    /// Whether it can probably be removed in a moment: descriptors or memory were short.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self.why, StuckReason::Shortage(_))
    }

    fn reason(&self) -> impl fmt::Display {
        let it = match self.at.as_str() {
            "" => "it".to_owned(),
            at => format!("`{at}`"),
        };
        match self.why {
            StuckReason::Gone => format!("{it} is gone"),
            StuckReason::Mounted => format!("a file system is mounted at {it}"),
            StuckReason::Fixed => format!("{it} is immutable or append-only (see chattr)"),
            StuckReason::NotPermitted => format!("the agent may not remove {it}"),
            StuckReason::Link => "a symbolic link leads there".to_owned(),
            StuckReason::Changing => format!("something is still changing {it}"),
            StuckReason::Unguarded => {
                "cannot tell where other file systems begin: neither openat2 nor /proc is to be had"
                    .to_owned()
            }
            StuckReason::Shortage(error) | StuckReason::Io(error) => {
                format!("{it} cannot be removed: {error}")
            }
        }
    }
}

impl Remover {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self::with(state_dir, LOOKUPS)
    }

    fn with(state_dir: &Path, lookups: &'static [Lookup]) -> Self {
        Self(Arc::new(Inner {
            state_dir: state_dir.to_owned(),
            lookups,
            left: Mutex::default(),
        }))
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.0.state_dir
    }

    /// Removes a file or a tree of the state folder. What does not exist counts as removed; what
    /// cannot be removed is remembered.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), Stuck> {
        let inside = path.strip_prefix(self.state_dir()).unwrap_or(path);
        let removed = self.try_remove(inside);
        let mut left = self.left();
        let name = inside.to_string_lossy().into_owned();
        match removed {
            Ok(()) => {
                left.remove(&name);
                Ok(())
            }
            Err(stuck) => {
                let stuck = match stuck.path.is_empty() {
                    true => Stuck {
                        path: name,
                        ..stuck
                    },
                    false => {
                        left.remove(&name);
                        stuck
                    }
                };
                let reason = stuck.to_string();
                if left.get(&stuck.path) != Some(&reason) {
                    tracing::warn!(
                        path = stuck.path,
                        reason,
                        "cannot remove what is not needed any more; it stays"
                    );
                }
                left.insert(stuck.path.clone(), reason);
                Err(stuck)
            }
        }
    }

    /// Removes everything in a folder of the state folder. Tries all of it, then returns the first
    /// failure.
    pub(crate) fn clear(&self, folder: &str) -> Result<(), Stuck> {
        let path = self.state_dir().join(folder);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Stuck::itself(reason_of(&error))),
        };
        let mut result = Ok(());
        for entry in entries.flatten() {
            let removed = self.remove(&entry.path());
            result = result.and(removed);
        }
        result
    }

    /// Removes temporary files, and what a crash left in the trash.
    pub(crate) fn sweep(&self) -> Result<(), Stuck> {
        // Somebody may have removed it by hand.
        let is_gone = |path: &String| {
            let found = fs::symlink_metadata(self.state_dir().join(path));
            found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        self.left().retain(|path, _| !is_gone(path));
        let (tmp, trash) = (self.clear("tmp"), self.clear(TRASH));
        tmp.and(trash)
    }

    /// Forgets that something could not be removed: it is needed again.
    pub(crate) fn forget_leftover(&self, path: &Path) {
        if let Ok(inside) = path.strip_prefix(self.state_dir()) {
            self.left().remove(&*inside.to_string_lossy());
        }
    }

    /// Bytes of a file or tree that can be removed; none when it cannot be.
    pub(crate) fn removable(&self, path: &Path) -> Option<u64> {
        let inside = path.strip_prefix(self.state_dir()).ok()?;
        let (state, guard) = self.state().ok()?;
        let (above, name) = below(guard, &state, inside).ok()?;
        let mut walk = Walk {
            guard,
            purpose: Purpose::Measure,
            above: above.as_fd(),
            bytes: 0,
        };
        walk.run(&name).ok()?;
        Some(walk.bytes)
    }

    /// What could not be removed, as heartbeats report it; none when there is nothing.
    pub(crate) fn leftovers(&self) -> Option<v1::Leftovers> {
        let left = self.left();
        let short = |text: &String| text[..text.floor_char_boundary(LONGEST)].to_owned();
        let named = left.iter().take(NAMED).map(|(path, reason)| v1::Leftover {
            path: short(path),
            reason: short(reason),
        });
        (!left.is_empty()).then(|| v1::Leftovers {
            count: u32::try_from(left.len()).unwrap_or(u32::MAX),
            named: named.collect(),
        })
    }

    fn left(&self) -> parking_lot::MutexGuard<'_, BTreeMap<String, String>> {
        self.0.left.lock()
    }

    /// The state folder, which may be reached through links: that is the operator's choice.
    fn state(&self) -> Result<(OwnedFd, Guard), StuckReason> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let state = rustix::fs::open(self.state_dir(), flags, Mode::empty())?;
        let guard = Guard::of(&state, self.0.lookups)?;
        Ok((state, guard))
    }

    fn try_remove(&self, inside: &Path) -> Result<(), Stuck> {
        let (state, guard) = self.state().map_err(Stuck::itself)?;
        let (above, name) = match below(guard, &state, inside) {
            Ok(found) => found,
            Err(StuckReason::Gone) => return Ok(()),
            Err(why) => return Err(Stuck::itself(why)),
        };
        let walk = |purpose, above: &OwnedFd, name: &CString| {
            let above = above.as_fd();
            let bytes = 0;
            let mut walk = Walk {
                guard,
                purpose,
                above,
                bytes,
            };
            walk.run(name)
        };
        walk(Purpose::Look, &above, &name)?;
        let seen = match look_at(guard, &above, &name) {
            Ok((_, seen)) => seen,
            Err(StuckReason::Gone) => return Ok(()),
            Err(why) => return Err(Stuck::itself(why)),
        };
        if !seen.is_folder() || inside.starts_with(TRASH) {
            return walk(Purpose::Remove, &above, &name);
        }
        let trash = trash(guard, &state).map_err(Stuck::itself)?;
        let trash_name = trash_name(inside);
        Act::TrashMove.before();
        match rename(guard, (&above, &name), (&trash, &trash_name)) {
            Ok(()) => {}
            Err(StuckReason::Gone) => return Ok(()),
            // The disk has no room for the new name: remove the tree where it is.
            Err(StuckReason::Io(Errno::NOSPC | Errno::DQUOT)) => {
                return walk(Purpose::Remove, &above, &name);
            }
            Err(why) => return Err(Stuck::itself(why)),
        }
        Act::TrashMove.after();
        walk(Purpose::Remove, &trash, &trash_name).map_err(|stuck| Stuck {
            path: format!("{TRASH}/{}", trash_name.to_string_lossy()),
            ..stuck
        })
    }
}

/// The folder that holds an entry, and the entry's name.
fn below(guard: Guard, state: &OwnedFd, inside: &Path) -> Result<(OwnedFd, CString), StuckReason> {
    let mut folder = guard.open(state.as_fd(), c".")?;
    let mut names = Vec::new();
    for component in inside.components() {
        match component {
            Component::Normal(name) => names.push(name),
            // Only what is in the state folder is removed.
            _ => return Err(StuckReason::Io(Errno::INVAL)),
        }
    }
    let last = names.pop().ok_or(StuckReason::Io(Errno::INVAL))?;
    for name in names {
        let (opened, seen) = look_at(guard, &folder, &text(name)?)?;
        match seen {
            seen if seen.is_folder() => folder = opened,
            seen if seen.is_link() => return Err(StuckReason::Link),
            _ => return Err(StuckReason::Io(Errno::NOTDIR)),
        }
    }
    Ok((folder, text(last)?))
}

fn look_at(guard: Guard, folder: &OwnedFd, name: &CString) -> Result<(OwnedFd, Stat), StuckReason> {
    let opened = guard.open(folder.as_fd(), name)?;
    let seen = stat_of(opened.as_fd())?;
    Ok((opened, seen))
}

/// The trash of the state folder, made when it is missing.
fn trash(guard: Guard, state: &OwnedFd) -> Result<OwnedFd, StuckReason> {
    match rustix::fs::mkdirat(state, TRASH, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    match look_at(guard, state, &text(OsStr::new(TRASH))?)? {
        (trash, seen) if seen.is_folder() => Ok(trash),
        _ => Err(StuckReason::Io(Errno::NOTDIR)),
    }
}

/// A unique name in the trash that still shows what it was.
fn trash_name(inside: &Path) -> CString {
    let was = inside.file_name().unwrap_or_default().to_string_lossy();
    let was = &was[..was.floor_char_boundary(180)];
    CString::new(format!("{}-{was}", uuid::Uuid::now_v7())).unwrap_or_default()
}

/// Moves a tree. Moving a folder changes its `..`, which needs the right to write into it.
fn rename(
    guard: Guard,
    from: (&OwnedFd, &CString),
    to: (&OwnedFd, &CString),
) -> Result<(), StuckReason> {
    let again = || rustix::fs::renameat(from.0, from.1, to.0, to.1);
    match again() {
        Err(Errno::ACCESS) => {}
        renamed => return Ok(renamed?),
    }
    let (folder, seen) = look_at(guard, from.0, from.1)?;
    set_mode(folder.as_fd(), seen.mode | 0o700)?;
    again().map_err(|error| {
        if let Err(error) = set_mode(folder.as_fd(), seen.mode) {
            tracing::warn!(%error, "cannot give a folder its mode back");
        }
        error.into()
    })
}

fn text(name: &OsStr) -> Result<CString, StuckReason> {
    CString::new(name.as_bytes()).map_err(|_| StuckReason::Io(Errno::INVAL))
}

fn reason_of(error: &io::Error) -> StuckReason {
    Errno::from_io_error(error).map_or(StuckReason::Io(Errno::IO), StuckReason::from)
}

#[cfg(test)]
mod tests;
