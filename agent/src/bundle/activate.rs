//! Which release is `current`, changed by one rename; and which old ones are removed.

use std::{cmp::Reverse, collections::BTreeSet, fs, io, os::unix::fs::symlink, path::Path};

use super::{BundleDir, ReleaseMetadata, archives};
use crate::{crash::Act, durable};

const CURRENT: &str = "current";

/// Folder name of the current release, if there is one.
pub(crate) fn current(bundle_dir: &BundleDir) -> io::Result<Option<String>> {
    match fs::read_link(bundle_dir.root.join(CURRENT)) {
        Ok(target) => Ok(target
            .file_name()
            .and_then(|name| name.to_str())
            .map(str::to_owned)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Makes a release current, or none. Durable when it returns; after a crash at any moment `current`
/// names the old or the new one.
pub(crate) fn switch(bundle_dir: &BundleDir, folder: Option<&str>) -> io::Result<()> {
    let current = bundle_dir.root.join(CURRENT);
    match folder {
        Some(folder) => {
            if !bundle_dir.release(folder).is_dir() {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("release {folder} is gone"),
                ));
            }
            let aside = bundle_dir.root.join("current.tmp");
            durable::discard(&aside);
            symlink(Path::new("releases").join(folder), &aside)?;
            Act::CurrentSwitch.before();
            fs::rename(&aside, &current)?;
            Act::CurrentSwitch.after();
        }
        None => {
            Act::CurrentClear.before();
            match fs::remove_file(&current) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                _ => {}
            }
            Act::CurrentClear.after();
        }
    }
    durable::sync_dir(&bundle_dir.root)
}

/// Removes a release that is not current. When that fails, the folder stays without metadata: it no
/// longer counts, nothing goes back to it, and [`remove_old`] tries again.
pub(crate) fn remove(bundle_dir: &BundleDir, folder: &str) -> io::Result<()> {
    if current(bundle_dir)?.as_deref() == Some(folder) {
        bundle_dir
            .remover
            .forget_leftover(&bundle_dir.release(folder));
        return Ok(());
    }
    let held = bundle_dir.metadata(folder);
    Act::ReleaseRemove.before();
    durable::discard(&bundle_dir.metadata_path(folder));
    // What cannot be removed is remembered by the remover, and heartbeats report it.
    let _ = bundle_dir.remover.remove(&bundle_dir.release(folder));
    Act::ReleaseRemove.after();
    if let Some(held) = held {
        archives::forget(bundle_dir, &held.digest);
    }
    Ok(())
}

/// Keeps the current release and the newest one of each of `keep` other digests. Removes the rest,
/// with those that could not be removed before. No attempt of the bundle name may be between its
/// switch and its end: it may go back to another release of the same digest.
pub(crate) fn remove_old(bundle_dir: &BundleDir, keep: usize) -> io::Result<()> {
    let current = current(bundle_dir)?;
    let (others, to_go) = beside(bundle_dir, current.as_deref())?;
    let described = |folder: String| Described {
        metadata: bundle_dir.metadata(&folder),
        folder,
    };
    let others = others.into_iter().map(described).collect();
    let old = surplus(current.map(described).as_ref(), others, keep);
    for folder in &old {
        tracing::info!(release = folder, "removing an old release");
    }
    for folder in old.iter().chain(&to_go) {
        remove(bundle_dir, folder)?;
    }
    Ok(())
}

/// Tries again to remove what could not be removed before.
pub(crate) fn retry_removals(bundle_dir: &BundleDir) -> io::Result<()> {
    let current = current(bundle_dir)?;
    let (_, to_go) = beside(bundle_dir, current.as_deref())?;
    for folder in &to_go {
        remove(bundle_dir, folder)?;
    }
    Ok(())
}

/// The releases beside the current one: those that are kept, and those that were to be removed.
fn beside(bundle_dir: &BundleDir, current: Option<&str>) -> io::Result<(Vec<String>, Vec<String>)> {
    let folders = fs::read_dir(bundle_dir.releases())?.flatten();
    Ok(folders
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|folder| current != Some(folder))
        .partition(|folder| bundle_dir.has_metadata(folder)))
}

/// A release folder, with its metadata where that can be read.
#[derive(Debug, Clone)]
struct Described {
    folder: String,
    metadata: Option<ReleaseMetadata>,
}

impl Described {
    fn order(&self) -> u64 {
        self.metadata.as_ref().map_or(0, |metadata| metadata.order)
    }

    /// What takes a place among the releases that are kept: a digest. A release without metadata
    /// counts as a digest of its own.
    fn content(&self) -> &str {
        let digest = self.metadata.as_ref().map(|metadata| &metadata.digest);
        digest
            .filter(|digest| !digest.is_empty())
            .unwrap_or(&self.folder)
    }
}

/// The releases that are removed. Going back needs one release of a digest, so distinct digests are
/// counted: deploying the same bundle again must not push out the one before it. A second release
/// of the current digest is kept only while it is newer, because its attempt is still under way.
fn surplus(current: Option<&Described>, mut others: Vec<Described>, keep: usize) -> Vec<String> {
    others.sort_by_cached_key(|other| Reverse((other.order(), other.folder.clone())));
    let mut kept = BTreeSet::new();
    let mut old = Vec::new();
    for other in &others {
        let content = other.content();
        let is_replaced = current.is_some_and(|current| {
            current.content() == content && other.order() <= current.order()
        });
        if is_replaced || kept.contains(content) || kept.len() >= keep {
            old.push(other.folder.clone());
        } else {
            kept.insert(content);
        }
    }
    old
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::removal::Remover;

    fn bundle_dir_with(dir: &Path, folders: &[&str]) -> BundleDir {
        let bundle_dir = BundleDir::open(&Remover::new(dir), "app").unwrap();
        for (order, folder) in folders.iter().enumerate() {
            fs::create_dir(bundle_dir.release(folder)).unwrap();
            let metadata = ReleaseMetadata {
                version: String::new(),
                digest: format!("digest of {folder}"),
                order: order as u64,
            };
            bundle_dir.write_metadata(folder, &metadata).unwrap();
        }
        bundle_dir
    }

    #[test]
    fn switching_and_switching_back() {
        let dir = tempfile::tempdir().unwrap();
        let bundle_dir = bundle_dir_with(dir.path(), &["one", "two"]);
        assert_eq!(current(&bundle_dir).unwrap(), None);
        switch(&bundle_dir, Some("one")).unwrap();
        switch(&bundle_dir, Some("two")).unwrap();
        assert_eq!(current(&bundle_dir).unwrap().as_deref(), Some("two"));
        assert!(bundle_dir.root.join("current").join(".").is_dir());
        switch(&bundle_dir, Some("one")).unwrap();
        assert_eq!(current(&bundle_dir).unwrap().as_deref(), Some("one"));
        switch(&bundle_dir, None).unwrap();
        switch(&bundle_dir, None).unwrap();
        assert_eq!(current(&bundle_dir).unwrap(), None);
    }

    #[test]
    fn a_release_that_is_gone_cannot_become_current() {
        let dir = tempfile::tempdir().unwrap();
        let bundle_dir = bundle_dir_with(dir.path(), &["one"]);
        switch(&bundle_dir, Some("one")).unwrap();
        assert!(switch(&bundle_dir, Some("two")).is_err());
        assert_eq!(current(&bundle_dir).unwrap().as_deref(), Some("one"));
    }

    #[test]
    fn old_releases_go_but_never_the_current_one() {
        let dir = tempfile::tempdir().unwrap();
        let bundle_dir = bundle_dir_with(dir.path(), &["a", "b", "c", "d", "e"]);
        switch(&bundle_dir, Some("a")).unwrap();
        remove_old(&bundle_dir, 2).unwrap();
        let mut left: Vec<_> = fs::read_dir(bundle_dir.releases())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["a", "d", "e"]);
    }

    #[test]
    fn places_are_counted_by_digest() {
        let release = |folder: &str, digest: &str, order| Described {
            folder: folder.to_owned(),
            metadata: Some(ReleaseMetadata {
                version: String::new(),
                digest: digest.to_owned(),
                order,
            }),
        };
        let unknown = |folder: &str| Described {
            folder: folder.to_owned(),
            metadata: None,
        };
        let old = |current: &Described, others: &[Described], keep| {
            let mut old = surplus(Some(current), others.to_vec(), keep);
            old.sort();
            old
        };
        let (one, two, again) = (
            release("one", "1", 1),
            release("two", "2", 2),
            release("again", "2", 3),
        );
        let now = release("now", "2", 4);
        let others = [one.clone(), two, again];
        assert_eq!(old(&now, &others, 2), ["again", "two"], "1 stays");
        assert_eq!(old(&now, &others, 0), ["again", "one", "two"]);
        let other = release("other", "3", 5);
        assert_eq!(old(&other, &others, 2), ["two"], "the newest of each");
        assert_eq!(old(&other, &others, 1), ["one", "two"]);
        // The attempt of the newest waits for its next run.
        let waiting = release("waiting", "2", 9);
        assert_eq!(old(&now, &[waiting, one], 2), [""; 0]);
        assert_eq!(old(&now, &[unknown("x"), unknown("y")], 1), ["x"]);
    }
}
