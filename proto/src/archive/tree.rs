//! Every path of the archive so far: finds duplicates, wrong parents and too many entries.

use std::collections::BTreeMap;

use super::{
    ArchiveError, Finding, Findings, Inspected, Limits,
    path::{self, EntryPath},
    start::Start,
};
use crate::manifest::MANIFEST_FILE;

/// Most bytes of all paths together: they are held in memory until the walk ends.
const MAX_NAME_BYTES: u64 = 64 * 1024 * 1024;

/// Most steps taken to follow all symbolic links: a real bundle needs some ten for each.
const MAX_LINK_STEPS: u64 = 2_000_000;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// A folder, with its mode once its own entry came.
    Folder { mode: Option<u32> },
    /// A regular file. How it starts is known once its bytes were read.
    File {
        mode: u32,
        size: u64,
        #[cfg_attr(
            not(any(feature = "lint", feature = "unpack")),
            expect(dead_code, reason = "read when bundles are made")
        )]
        start: Start,
    },
    /// A symbolic link, not made before the end.
    Symlink { target: Vec<u8> },
}

/// All paths by name; parents come before what they hold.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<EntryPath, Node>,
    name_bytes: u64,
}

/// The result of a complete walk.
pub(super) struct Walked {
    pub(super) inspected: Inspected,
    #[cfg(feature = "unpack")]
    pub(super) tree: Tree,
    /// The folder of the archive that is the bundle.
    #[cfg(feature = "unpack")]
    pub(super) root: EntryPath,
}

/// The refusal when there are more entries than allowed.
pub(super) fn too_many_entries(limits: &Limits) -> ArchiveError {
    ArchiveError::TooLarge {
        what: "number of entries is",
        limit: limits.max_entries,
    }
}

/// Advice for an entry that came twice.
const ONCE: &str = "Name each file once when packing: `tar czf app.tar.gz .` has the manifest in it, \
                    `tar czf app.tar.gz manifest.json .` has it twice.";

/// Advice for links that lead out of the bundle.
const LINKS: &str = "Make links relative and let them stay inside, or ask for them as they are with \
                     `\"links\": \"any\"` in manifest.json.";

impl Tree {
    /// Adds an entry under a path that [`path::entry_path`] made, and returns the folders it
    /// implied, outermost first.
    pub(super) fn insert(
        &mut self,
        path: &EntryPath,
        node: Node,
        limits: &Limits,
    ) -> Result<Vec<EntryPath>, ArchiveError> {
        let refuse = |why: &str| ArchiveError::unsafe_entry(path.as_bytes(), why, ONCE);
        let mut implied = Vec::new();
        let mut above = path.parent();
        while let Some(parent) = above.filter(|parent| !parent.is_root()) {
            match self.nodes.get(&parent) {
                // The parents of a known folder were checked when it came.
                Some(Node::Folder { .. }) => break,
                Some(_) => return Err(refuse("is placed inside something that is not a folder")),
                None => {}
            }
            above = parent.parent();
            implied.push(parent);
        }
        implied.reverse();
        for folder in &implied {
            self.add(folder.clone(), Node::Folder { mode: None }, limits)?;
        }
        match (self.nodes.get_mut(path), node) {
            (None, node) => self.add(path.clone(), node, limits)?,
            // tar may name a folder after what is in it; only the second such entry is a duplicate.
            (Some(Node::Folder { mode: mode @ None }), Node::Folder { mode: Some(given) }) => {
                *mode = Some(given);
            }
            (Some(_), _) => return Err(refuse("is in the archive twice")),
        }
        Ok(implied)
    }

    fn add(&mut self, path: EntryPath, node: Node, limits: &Limits) -> Result<(), ArchiveError> {
        let link = match &node {
            Node::Symlink { target } => target.len(),
            Node::Folder { .. } | Node::File { .. } => 0,
        };
        self.name_bytes += (path.as_bytes().len() + link) as u64;
        if self.name_bytes > MAX_NAME_BYTES {
            return Err(ArchiveError::TooLarge {
                what: "names together have more bytes,",
                limit: MAX_NAME_BYTES,
            });
        }
        if self.len() >= limits.max_entries {
            return Err(too_many_entries(limits));
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    pub(super) fn get(&self, path: &EntryPath) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Notes how a file starts, once that is known.
    pub(super) fn note_start(&mut self, path: &EntryPath, seen: Start) {
        if let Some(Node::File { start, .. }) = self.nodes.get_mut(path) {
            *start = seen;
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// Everything, parents before what they hold.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&EntryPath, &Node)> {
        self.nodes.iter()
    }

    /// The folder that is the bundle: the root, or its only folder when the manifest is in there.
    pub(super) fn root(&self) -> Option<EntryPath> {
        let root = EntryPath::default();
        let manifest = MANIFEST_FILE.as_bytes();
        let is_file = |path: &EntryPath| matches!(self.get(path), Some(Node::File { .. }));
        if is_file(&root.join(manifest)) {
            return Some(root);
        }
        // macOS puts such things beside a folder; they do not hide it, and are left out with it.
        let is_litter = |path: &EntryPath| match path.as_bytes() {
            b"__MACOSX" => !is_file(path),
            b".DS_Store" => is_file(path),
            name => name.starts_with(b"._") && is_file(path),
        };
        let mut top = self
            .iter()
            .map(|(path, _)| path)
            .filter(|path| path.depth() == 1 && !is_litter(path));
        let only = top.next()?;
        (top.next().is_none() && is_file(&only.join(manifest))).then(|| only.clone())
    }

    /// Finds every symbolic link that is absolute or leads out of `root`.
    pub(super) fn check_links(&self, root: &EntryPath, refused: &mut Findings) {
        let link_at = |path: &EntryPath| match self.get(&root.join(path.as_bytes())) {
            Some(Node::Symlink { target }) => Some(target.as_slice()),
            _ => None,
        };
        let mut steps = MAX_LINK_STEPS;
        for (whole, node) in self.iter() {
            // What stands outside of the root is litter, and never made.
            let Some(path) = whole.below(root) else {
                continue;
            };
            if let Node::Symlink { .. } = node
                && let Err(why) = path::stays_inside(&path, link_at, &mut steps)
            {
                refused.push(Finding::entry(whole.as_bytes(), why, LINKS));
            }
        }
    }
}
