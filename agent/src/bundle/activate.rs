//! Which release is `current`, changed by one rename, and which old ones may go.

use std::{fs, io, os::unix::fs::symlink, path::Path};

use super::Shelf;
use crate::{crash::Act, durable};

const CURRENT: &str = "current";

/// Folder name of the current release, if there is one.
pub(crate) fn current(shelf: &Shelf) -> io::Result<Option<String>> {
    match fs::read_link(shelf.root.join(CURRENT)) {
        Ok(target) => Ok(target
            .file_name()
            .and_then(|name| name.to_str())
            .map(str::to_owned)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Makes a release current, or none. Durable when it returns; at any cut `current` names the old or
/// the new one.
pub(crate) fn switch(shelf: &Shelf, folder: Option<&str>) -> io::Result<()> {
    let current = shelf.root.join(CURRENT);
    match folder {
        Some(folder) => {
            if !shelf.release(folder).is_dir() {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("release {folder} is gone"),
                ));
            }
            let aside = shelf.root.join("current.tmp");
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
    durable::sync_dir(&shelf.root)
}

/// Removes a release that is not current. One that cannot be removed stays without a description:
/// it does not count any more, nothing goes back to it, and [`collect`] tries again.
pub(crate) fn remove(shelf: &Shelf, folder: &str) -> io::Result<()> {
    if current(shelf)?.as_deref() == Some(folder) {
        shelf.remover.keep(&shelf.release(folder));
        return Ok(());
    }
    Act::ReleaseRemove.before();
    durable::discard(&shelf.about_path(folder));
    // What stays is remembered, and told.
    let _ = shelf.remover.remove(&shelf.release(folder));
    Act::ReleaseRemove.after();
    Ok(())
}

/// Removes all but the current release and the newest `keep` others, and those that were to go
/// before and had to stay.
pub(crate) fn collect(shelf: &Shelf, keep: usize) -> io::Result<()> {
    let current = current(shelf)?;
    let (mut others, to_go): (Vec<String>, Vec<String>) = fs::read_dir(shelf.releases())?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|folder| current.as_ref() != Some(folder))
        .partition(|folder| shelf.is_described(folder));
    let order = |folder: &String| shelf.about(folder).map_or(0, |about| about.order);
    others.sort_by_cached_key(|folder| std::cmp::Reverse((order(folder), folder.clone())));
    for folder in others.iter().skip(keep) {
        tracing::info!(release = folder, "removing an old release");
    }
    for folder in others.iter().skip(keep).chain(&to_go) {
        remove(shelf, folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bundle::About, removal::Remover};

    fn shelf_with(dir: &Path, folders: &[&str]) -> Shelf {
        let shelf = Shelf::open(&Remover::new(dir), "app").unwrap();
        for (order, folder) in folders.iter().enumerate() {
            fs::create_dir(shelf.release(folder)).unwrap();
            let about = About {
                version: String::new(),
                digest: String::new(),
                order: order as u64,
            };
            shelf.describe(folder, &about).unwrap();
        }
        shelf
    }

    #[test]
    fn switching_and_switching_back() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf_with(dir.path(), &["one", "two"]);
        assert_eq!(current(&shelf).unwrap(), None);
        switch(&shelf, Some("one")).unwrap();
        switch(&shelf, Some("two")).unwrap();
        assert_eq!(current(&shelf).unwrap().as_deref(), Some("two"));
        assert!(shelf.root.join("current").join(".").is_dir());
        switch(&shelf, Some("one")).unwrap();
        assert_eq!(current(&shelf).unwrap().as_deref(), Some("one"));
        switch(&shelf, None).unwrap();
        switch(&shelf, None).unwrap();
        assert_eq!(current(&shelf).unwrap(), None);
    }

    #[test]
    fn a_release_that_is_gone_cannot_become_current() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf_with(dir.path(), &["one"]);
        switch(&shelf, Some("one")).unwrap();
        assert!(switch(&shelf, Some("two")).is_err());
        assert_eq!(current(&shelf).unwrap().as_deref(), Some("one"));
    }

    #[test]
    fn old_releases_go_but_never_the_current_one() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf_with(dir.path(), &["a", "b", "c", "d", "e"]);
        switch(&shelf, Some("a")).unwrap();
        collect(&shelf, 2).unwrap();
        let mut left: Vec<_> = fs::read_dir(shelf.releases())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["a", "d", "e"]);
    }
}
