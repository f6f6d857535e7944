//! What really runs: what `current` names on the disk, not what the journal says.

use kernex_proto::v1;

use super::{BundleDir, activate};
use crate::{
    journal::{Journal, JournalError},
    removal::Remover,
};

/// The release that `current` names under each bundle name. Nothing is returned for a name whose
/// release folder or `current` is gone. A `current` that somebody else switched is returned as it
/// is, without a digest when the folder has no metadata.
pub(crate) fn running_releases(
    remover: &Remover,
    journal: &Journal,
) -> Result<Vec<v1::ActiveRelease>, JournalError> {
    let known = journal.releases()?;
    Ok(known
        .iter()
        .filter_map(|(name, release)| {
            let bundle_dir = BundleDir::at(remover, name);
            let folder = match activate::current(&bundle_dir) {
                Ok(folder) => folder?,
                Err(error) => {
                    // An error here says nothing about what runs.
                    tracing::warn!(bundle = name, %error, "cannot read what is current");
                    return Some(release.to_active(name));
                }
            };
            if !bundle_dir.release(&folder).is_dir() {
                return None;
            }
            if folder == release.folder {
                return Some(release.to_active(name));
            }
            let metadata = bundle_dir.metadata(&folder).unwrap_or_default();
            Some(v1::ActiveRelease {
                name: name.clone(),
                version: metadata.version,
                digest: metadata.digest,
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
        bundle::ReleaseMetadata,
        journal::{Release, ReleaseChange},
    };

    fn said(dir: &Path, journal: &Journal) -> Vec<(String, String)> {
        let running = running_releases(&Remover::new(dir), journal).unwrap();
        running
            .into_iter()
            .map(|release| (release.version, release.digest))
            .collect()
    }

    #[test]
    fn what_somebody_switched_or_removed_is_told_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let bundle_dir = BundleDir::open(&Remover::new(dir.path()), "app").unwrap();
        let (journal, _) = Journal::open(&dir.path().join("journal.redb")).unwrap();
        for version in ["1", "2"] {
            fs::create_dir(bundle_dir.release(version)).unwrap();
            let metadata = ReleaseMetadata {
                version: version.into(),
                digest: format!("d{version}"),
                order: 1,
            };
            bundle_dir.write_metadata(version, &metadata).unwrap();
        }
        activate::switch(&bundle_dir, Some("1")).unwrap();
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
        activate::switch(&bundle_dir, Some("2")).unwrap();
        assert_eq!(said(dir.path(), &journal), [pair("2")]);
        fs::create_dir(bundle_dir.release("3")).unwrap();
        activate::switch(&bundle_dir, Some("3")).unwrap();
        let unknown = [(String::new(), String::new())];
        assert_eq!(said(dir.path(), &journal), unknown);
        fs::remove_dir(bundle_dir.release("3")).unwrap();
        assert!(said(dir.path(), &journal).is_empty());
        activate::switch(&bundle_dir, None).unwrap();
        assert!(said(dir.path(), &journal).is_empty());
    }
}
