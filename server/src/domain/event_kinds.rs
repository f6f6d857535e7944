//! The kinds of events. A watcher may ask for some of them, or for all of a subject.

/// All kinds, such as `device.online`.
pub const ALL: &[&str] = &[
    "attempt.accepted",
    "attempt.cancelled",
    "attempt.expired",
    "attempt.failed",
    "attempt.late",
    "attempt.succeeded",
    "attempt.superseded",
    "bundle.deleted",
    "bundle.uploaded",
    "configuration.applied",
    "configuration.changed",
    "configuration.deleted",
    "configuration.refused",
    "deployment.awaiting_approval",
    "deployment.cancelled",
    "deployment.created",
    "deployment.finished",
    "deployment.halted",
    "deployment.joined",
    "deployment.paused",
    "deployment.phase_opened",
    "deployment.phase_passed",
    "deployment.promoted",
    "deployment.resumed",
    "deployment.retried",
    "deployment.rollback_refused",
    "deployment.rolled_back",
    "deployment.started",
    "device.conflicted",
    "device.deleted",
    "device.disk_fault",
    "device.disk_recovered",
    "device.drifted",
    "device.enrolled",
    "device.labelled",
    "device.offline",
    "device.online",
    "device.refused",
    "device.resolved",
    "device.settled",
];

/// Whether this is the name of a kind, or of the subject of a kind.
#[must_use]
pub fn exists(wanted: &str) -> bool {
    ALL.iter().any(|kind| is_of(kind, wanted))
}

/// Whether a kind is the wanted one, or of the wanted subject.
#[must_use]
pub fn is_of(kind: &str, wanted: &str) -> bool {
    kind == wanted
        || kind
            .split_once('.')
            .is_some_and(|(subject, _)| subject == wanted)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn a_subject_means_all_its_kinds() {
        assert!(is_of("device.online", "device") && is_of("device.online", "device.online"));
        assert!(!is_of("device.online", "dev") && !is_of("device.online", "device.offline"));
        assert!(exists("deployment") && !exists("deployments") && !exists(""));
    }

    /// The kinds that the code logs, read from its source.
    fn logged(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let code = fs::read_to_string(&path).unwrap();
            let code = code.split("#[cfg(test)]").next().unwrap_or_default();
            for text in code.split('"').skip(1).step_by(2) {
                let kind = text.split_once('.').is_some_and(|(subject, verb)| {
                    ["attempt", "bundle", "configuration", "deployment", "device"]
                        .contains(&subject)
                        && !verb.is_empty()
                        && verb.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                });
                if kind {
                    found.insert(text.to_owned());
                }
            }
        }
    }

    #[test]
    fn every_kind_that_is_logged_is_listed() {
        let mut found = BTreeSet::new();
        let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/write");
        logged(&store, &mut found);
        assert!(found.len() > 10, "{found:?}");
        let unlisted: Vec<_> = found
            .iter()
            .filter(|kind| !ALL.contains(&kind.as_str()))
            .collect();
        assert_eq!(unlisted, Vec::<&String>::new());
        assert!(ALL.is_sorted());
    }
}
