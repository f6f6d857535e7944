//! Every path an archive has named so far: the place where duplicates, wrong parents and too many entries show.

use std::{
    collections::BTreeMap,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::{ArchiveError, Limits, path};
use crate::manifest::MANIFEST_FILE;

/// Most bytes of all paths together: they are held in memory until the walk ends.
const MAX_NAME_BYTES: u64 = 64 * 1024 * 1024;

/// Most steps taken to follow all symbolic links: a real bundle needs some ten for each.
const MAX_LINK_STEPS: u64 = 2_000_000;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// A folder, with its mode once its own entry came.
    Folder { mode: Option<u32> },
    /// A regular file.
    File { mode: u32, size: u64 },
    /// A symbolic link, not made before the end.
    Symlink { target: PathBuf },
}

/// All paths by name; parents come before what they hold.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
    name_bytes: u64,
}

impl Tree {
    /// Adds an entry under a path that [`path::entry_path`] made, and returns the folders it implied, outermost first.
    pub(super) fn insert(
        &mut self,
        path: &Path,
        node: Node,
        limits: &Limits,
    ) -> Result<Vec<PathBuf>, ArchiveError> {
        let refuse = |why: &str| ArchiveError::unsafe_entry(bytes(path), why);
        let mut implied = Vec::new();
        for parent in path
            .ancestors()
            .skip(1)
            .filter(|p| !p.as_os_str().is_empty())
        {
            match self.nodes.get(parent) {
                // Whatever is above a known folder was checked when that came.
                Some(Node::Folder { .. }) => break,
                Some(_) => return Err(refuse("is placed inside something that is not a folder")),
                None => implied.push(parent.to_path_buf()),
            }
        }
        implied.reverse();
        for folder in &implied {
            self.add(folder.clone(), Node::Folder { mode: None }, limits)?;
        }
        match (self.nodes.get_mut(path), node) {
            (None, node) => self.add(path.to_path_buf(), node, limits)?,
            // tar may name a folder after what is in it; only the second such entry is a duplicate.
            (Some(Node::Folder { mode: mode @ None }), Node::Folder { mode: Some(given) }) => {
                *mode = Some(given);
            }
            (Some(_), _) => return Err(refuse("is in the archive twice")),
        }
        Ok(implied)
    }

    fn add(&mut self, path: PathBuf, node: Node, limits: &Limits) -> Result<(), ArchiveError> {
        let link = match &node {
            Node::Symlink { target } => target.as_os_str().len(),
            Node::Folder { .. } | Node::File { .. } => 0,
        };
        self.name_bytes += (path.as_os_str().len() + link) as u64;
        if self.name_bytes > MAX_NAME_BYTES {
            return Err(ArchiveError::TooLarge {
                what: "names together have more bytes,",
                limit: MAX_NAME_BYTES,
            });
        }
        if self.len() >= limits.max_entries {
            return Err(ArchiveError::TooLarge {
                what: "number of entries is",
                limit: limits.max_entries,
            });
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    pub(super) fn get(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub(super) fn len(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// Everything, parents before what they hold.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Path, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_path(), node))
    }

    /// The folder that is the bundle: the root, or its only folder when the manifest is in there.
    pub(super) fn root(&self) -> Option<PathBuf> {
        let is_file = |path: &Path| matches!(self.get(path), Some(Node::File { .. }));
        if is_file(Path::new(MANIFEST_FILE)) {
            return Some(PathBuf::new());
        }
        let top: Vec<&Path> = self
            .iter()
            .map(|(path, _)| path)
            .filter(|path| path.components().count() == 1)
            .collect();
        // macOS puts a file `._app` with attributes beside a folder `app`; it goes the way of the folder.
        let only = *top
            .iter()
            .find(|path| !(is_file(path) && bytes(path).starts_with(b"._")))?;
        let companion = [b"._", bytes(only)].concat();
        let alone = top
            .iter()
            .all(|path| *path == only || (is_file(path) && bytes(path) == companion));
        (alone && is_file(&only.join(MANIFEST_FILE))).then(|| only.to_path_buf())
    }

    /// Checks that no symbolic link leads out of `root`.
    pub(super) fn check_links(&self, root: &Path) -> Result<(), ArchiveError> {
        let link_at = |path: &Path| match self.get(&root.join(path)) {
            Some(Node::Symlink { target }) => Some(target.as_path()),
            _ => None,
        };
        let mut steps = MAX_LINK_STEPS;
        for (whole, node) in self.iter() {
            if let Node::Symlink { .. } = node {
                // Nothing but the companion file stands outside of the root.
                let path = whole.strip_prefix(root).unwrap_or(whole);
                path::stays_inside(path, link_at, &mut steps)
                    .map_err(|why| ArchiveError::unsafe_entry(bytes(whole), why))?;
            }
        }
        Ok(())
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
