//! Which release is `current`, changed by one rename; and which old ones are removed.

use std::{fs, io, os::unix::fs::symlink, path::Path};

use super::BundleDir;
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

/// Removes a release that is not current. One that cannot be removed stays without metadata: it is
/// no longer counted, nothing goes back to it, and [`remove_old`] tries again.
pub(crate) fn remove(bundle_dir: &BundleDir, folder: &str) -> io::Result<()> {
    if current(bundle_dir)?.as_deref() == Some(folder) {
        bundle_dir
            .remover
            .forget_leftover(&bundle_dir.release(folder));
        return Ok(());
    }
    Act::ReleaseRemove.before();
    durable::discard(&bundle_dir.metadata_path(folder));
    // What cannot be removed is remembered by the remover, and heartbeats report it.
    let _ = bundle_dir.remover.remove(&bundle_dir.release(folder));
    Act::ReleaseRemove.after();
    Ok(())
}

/// Keeps the current release and the newest `keep` others; removes the rest, also those that could
/// not be removed before.
pub(crate) fn remove_old(bundle_dir: &BundleDir, keep: usize) -> io::Result<()> {
    let current = current(bundle_dir)?;
    let (mut others, to_go): (Vec<String>, Vec<String>) = fs::read_dir(bundle_dir.releases())?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|folder| current.as_ref() != Some(folder))
        .partition(|folder| bundle_dir.has_metadata(folder));
    let order = |folder: &String| {
        bundle_dir
            .metadata(folder)
            .map_or(0, |metadata| metadata.order)
    };
    others.sort_by_cached_key(|folder| std::cmp::Reverse((order(folder), folder.clone())));
    for folder in others.iter().skip(keep) {
        tracing::info!(release = folder, "removing an old release");
    }
    for folder in others.iter().skip(keep).chain(&to_go) {
        remove(bundle_dir, folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bundle::ReleaseMetadata, removal::Remover};

    fn bundle_dir_with(dir: &Path, folders: &[&str]) -> BundleDir {
        let bundle_dir = BundleDir::open(&Remover::new(dir), "app").unwrap();
        for (order, folder) in folders.iter().enumerate() {
            fs::create_dir(bundle_dir.release(folder)).unwrap();
            let metadata = ReleaseMetadata {
                version: String::new(),
                digest: String::new(),
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
}
