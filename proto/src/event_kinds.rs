//! The kinds of events. A watcher may ask for some of them, or for all of a subject. The server
//! logs no other; `kernexctl` names them where a kind is typed.

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

/// Each subject with what may happen to it: `bundle` with `deleted` and `uploaded`.
#[must_use]
pub fn by_subject() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut subjects: Vec<(&str, Vec<&str>)> = Vec::new();
    for (subject, verb) in ALL.iter().filter_map(|kind| kind.split_once('.')) {
        match subjects.last_mut() {
            Some((last, verbs)) if *last == subject => verbs.push(verb),
            _ => subjects.push((subject, vec![verb])),
        }
    }
    subjects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_means_all_its_kinds() {
        assert!(is_of("device.online", "device") && is_of("device.online", "device.online"));
        assert!(!is_of("device.online", "dev") && !is_of("device.online", "device.offline"));
        assert!(exists("deployment") && !exists("deployments") && !exists(""));
    }

    #[test]
    fn kinds_are_told_by_their_subject() {
        assert!(ALL.is_sorted());
        let told = by_subject();
        let subjects: Vec<&str> = told.iter().map(|(subject, _)| *subject).collect();
        assert_eq!(
            subjects,
            ["attempt", "bundle", "configuration", "deployment", "device"]
        );
        assert_eq!(told[1].1, ["deleted", "uploaded"]);
        let all: usize = told.iter().map(|(_, verbs)| verbs.len()).sum();
        assert_eq!(all, ALL.len());
    }
}
