//! What really runs: what `current` names on the disk, not what the journal remembers of it.

use kernex_proto::v1;

use super::{Shelf, activate};
use crate::{
    journal::{Journal, JournalError},
    removal::Remover,
};

/// What each bundle name stands for now. A release whose folder is gone, or a `current` that is,
/// runs no more; one that somebody else switched is told as it is, without a digest when nothing
/// says what it holds.
pub(crate) fn running(
    remover: &Remover,
    journal: &Journal,
) -> Result<Vec<v1::ActiveRelease>, JournalError> {
    let known = journal.releases()?;
    Ok(known
        .iter()
        .filter_map(|(name, release)| {
            let shelf = Shelf::at(remover, name);
            let folder = match activate::current(&shelf) {
                Ok(folder) => folder?,
                Err(error) => {
                    // Not being able to look says nothing about what runs.
                    tracing::warn!(bundle = name, %error, "cannot read what is current");
                    return Some(release.to_active(name));
                }
            };
            if !shelf.release(&folder).is_dir() {
                return None;
            }
            if folder == release.folder {
                return Some(release.to_active(name));
            }
            let about = shelf.about(&folder).unwrap_or_default();
            Some(v1::ActiveRelease {
                name: name.clone(),
                version: about.version,
                digest: about.digest,
                ..v1::ActiveRelease::default()
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        bundle::About,
        journal::{Release, ReleaseChange},
    };

    fn said(dir: &Path, journal: &Journal) -> Vec<(String, String)> {
        let running = running(&Remover::new(dir), journal).unwrap();
        running
            .into_iter()
            .map(|release| (release.version, release.digest))
            .collect()
    }

    #[test]
    fn what_somebody_switched_or_removed_is_told_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(&Remover::new(dir.path()), "app").unwrap();
        let (journal, _) = Journal::open(&dir.path().join("journal.redb")).unwrap();
        for version in ["1", "2"] {
            fs::create_dir(shelf.release(version)).unwrap();
            let about = About {
                version: version.into(),
                digest: format!("d{version}"),
                order: 1,
            };
            shelf.describe(version, &about).unwrap();
        }
        activate::switch(&shelf, Some("1")).unwrap();
        let release = Release {
            version: "1".into(),
            digest: "d1".into(),
            folder: "1".into(),
            ..Release::default()
        };
        let change = ReleaseChange {
            name: "app".into(),
            release: Some(release),
        };
        journal.set_release(change).unwrap();
        let pair = |version: &str| (version.to_owned(), format!("d{version}"));
        assert_eq!(said(dir.path(), &journal), [pair("1")]);
        activate::switch(&shelf, Some("2")).unwrap();
        assert_eq!(said(dir.path(), &journal), [pair("2")]);
        fs::create_dir(shelf.release("3")).unwrap();
        activate::switch(&shelf, Some("3")).unwrap();
        let unknown = [(String::new(), String::new())];
        assert_eq!(said(dir.path(), &journal), unknown);
        fs::remove_dir(shelf.release("3")).unwrap();
        assert!(said(dir.path(), &journal).is_empty());
        activate::switch(&shelf, None).unwrap();
        assert!(said(dir.path(), &journal).is_empty());
    }
}
