//! At the start of the agent: the journal is made to agree with what is on the disk.

use std::fs;

use super::{BundleDir, activate};
use crate::{
    journal::{Journal, JournalError, Release, ReleaseChange, Stage},
    removal::Remover,
};

/// Makes the journal agree with what `current` really names; after damage to the journal this finds
/// everything again. It also sweeps the bundle directories, so no attempt may be running.
///
/// Names with an attempt that continues after a restart, or goes back, are left out: there the
/// outcome will say what the device runs.
pub(crate) fn reconcile(remover: &Remover, journal: &Journal) -> Result<(), JournalError> {
    let known = journal.releases()?;
    let under_way = names_under_way(journal)?;
    let mut names: Vec<String> = known.iter().map(|(name, _)| name.clone()).collect();
    if let Ok(entries) = fs::read_dir(remover.state_dir().join("bundles")) {
        names.extend(
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok()),
        );
    }
    names.sort();
    names.dedup();
    for name in names {
        let Ok(bundle_dir) = BundleDir::open(remover, &name) else {
            continue;
        };
        bundle_dir.sweep();
        if under_way.contains(&name) {
            continue;
        }
        let folder = activate::current(&bundle_dir)?;
        let recorded = known.iter().find(|(n, _)| *n == name).map(|(_, r)| r);
        if recorded.map(|release| release.folder.as_str()) == folder.as_deref() {
            continue;
        }
        let release = folder.and_then(|folder| {
            let metadata = bundle_dir.metadata(&folder)?;
            Some(Release {
                version: metadata.version,
                digest: metadata.digest,
                folder,
                ..Release::default()
            })
        });
        tracing::warn!(
            bundle = name,
            "the journal did not know what is current; corrected"
        );
        journal.set_release(ReleaseChange { name, release })?;
    }
    Ok(())
}

/// Bundle names with an attempt that continues after the switch, or goes back.
fn names_under_way(journal: &Journal) -> Result<Vec<String>, JournalError> {
    let live = journal.live()?.into_iter();
    let under_way = live.filter(|(_, record)| {
        matches!(
            record.stage(),
            Some(Stage::GoingBack(_) | Stage::Restarted(_))
        )
    });
    Ok(under_way
        .filter_map(|(_, record)| Some(record.deploy()?.name.clone()))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kernex_proto::ids::AttemptId;

    use super::*;
    use crate::bundle::ReleaseMetadata;

    fn attempt() -> AttemptId {
        AttemptId {
            target: kernex_proto::ids::TargetId::generate(),
            number: 1,
        }
    }

    #[test]
    fn a_fresh_journal_finds_the_current_release_again() {
        let dir = tempfile::tempdir().unwrap();
        let bundle_dir = BundleDir::open(&Remover::new(dir.path()), "app").unwrap();
        let metadata = ReleaseMetadata {
            version: "1".into(),
            digest: "d".into(),
            order: 1,
        };
        fs::create_dir(bundle_dir.release("one")).unwrap();
        bundle_dir.write_metadata("one", &metadata).unwrap();
        activate::switch(&bundle_dir, Some("one")).unwrap();
        let (journal, _) = Journal::open(&dir.path().join("journal.redb")).unwrap();
        reconcile(&Remover::new(dir.path()), &journal).unwrap();
        let releases = journal.releases().unwrap();
        assert_eq!(releases.len(), 1);
        assert_eq!(
            (releases[0].0.as_str(), releases[0].1.folder.as_str()),
            ("app", "one")
        );
    }

    #[test]
    fn a_release_that_is_about_to_be_left_is_not_taken_for_the_current_one() {
        use kernex_proto::v1::{Command, Deploy, Outcome, command::Action};

        let dir = tempfile::tempdir().unwrap();
        let bundle_dir = BundleDir::open(&Remover::new(dir.path()), "app").unwrap();
        fs::create_dir(bundle_dir.release("failed")).unwrap();
        bundle_dir
            .write_metadata("failed", &ReleaseMetadata::default())
            .unwrap();
        activate::switch(&bundle_dir, Some("failed")).unwrap();
        let (journal, _) = Journal::open(&dir.path().join("journal.redb")).unwrap();
        let id = attempt();
        let deploy = Deploy {
            name: "app".into(),
            ..Deploy::default()
        };
        let command = Command {
            action: Some(Action::Deploy(deploy)),
            ..Command::default()
        };
        journal.accept(id, &command, Default::default()).unwrap();
        journal.note_failure(id, Outcome::default()).unwrap();
        reconcile(&Remover::new(dir.path()), &journal).unwrap();
        assert_eq!(journal.releases().unwrap(), []);
        // Once the attempt is over, what is still there is what runs.
        let outcome = Outcome::default();
        journal.finish(id, outcome, None, String::new()).unwrap();
        reconcile(&Remover::new(dir.path()), &journal).unwrap();
        assert_eq!(journal.releases().unwrap().len(), 1);
    }

    #[test]
    fn what_a_crash_left_in_a_bundle_dir_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let bundle_dir = BundleDir::open(&Remover::new(dir.path()), "app").unwrap();
        let metadata = ReleaseMetadata {
            version: "1".into(),
            digest: "d".into(),
            order: 1,
        };
        fs::create_dir(bundle_dir.release("here")).unwrap();
        for folder in ["here", "never-came"] {
            bundle_dir.write_metadata(folder, &metadata).unwrap();
        }
        let half = bundle_dir
            .metadata_dir()
            .join(format!("here.tmp-{}", uuid::Uuid::nil().simple()));
        fs::write(half, "{").unwrap();
        std::os::unix::fs::symlink("releases/here", bundle_dir.root.join("current.tmp")).unwrap();
        let (journal, _) = Journal::open(&dir.path().join("journal.redb")).unwrap();
        reconcile(&Remover::new(dir.path()), &journal).unwrap();
        let names = |folder: &Path| {
            let entries = fs::read_dir(folder).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&bundle_dir.metadata_dir()), ["here.json"]);
        assert_eq!(names(&bundle_dir.root), ["about", "releases", "state"]);
    }
}
