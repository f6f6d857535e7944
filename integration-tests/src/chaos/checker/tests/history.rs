//! A history in which all is well, for tests to break.

use crate::chaos::checker::*;

pub(super) const APP: &str = "aaaa";
pub(super) const OLD: &str = "bbbb";

pub(super) fn bundle(name: &str) -> BundleContents {
    BundleContents {
        name: name.to_owned(),
        version: "1".to_owned(),
        steps: ["pre_hook", "script"].map(str::to_owned).into(),
        entries: BTreeMap::from([
            ("manifest.json".to_owned(), Entry::file(b"{}", false)),
            ("run".to_owned(), Entry::file(b"x", true)),
            ("link".to_owned(), Entry::Link("run".to_owned())),
        ]),
    }
}

fn target(id: &str, deployment: &str, device: &str, digest: &str) -> TargetRow {
    TargetRow {
        id: id.to_owned(),
        deployment: deployment.to_owned(),
        device: device.to_owned(),
        digest: digest.to_owned(),
        latest_attempt: 1,
    }
}

fn attempt(target: &str, state: &str, reason: Option<&str>) -> AttemptRow {
    AttemptRow {
        target: target.to_owned(),
        number: 1,
        state: state.to_owned(),
        reason: reason.map(str::to_owned),
        answered: true,
        closed_at: Some(1),
        ..AttemptRow::default()
    }
}

pub(super) fn entry(target: &str, state: &str, reason: Option<&str>) -> JournalRow {
    JournalRow {
        target: target.to_owned(),
        number: 1,
        acknowledged: true,
        outcome: Some((state.to_owned(), reason.map(str::to_owned))),
    }
}

/// Two devices: on the first one deployment succeeded, on the second it was cut off; a later one
/// was taken back and the device had finished it all the same.
pub(super) fn good() -> SettledWorld {
    let attempts = vec![
        attempt("t1", "succeeded", None),
        attempt("t2", "failed", Some("interrupted")),
        AttemptRow {
            late_state: Some("succeeded".to_owned()),
            ..attempt("t3", "cancelled", None)
        },
        AttemptRow {
            answered: false,
            ..attempt("t4", "superseded", None)
        },
    ];
    let line = |word: &str, deployment: &str, step: &str, digest: &str| {
        format!("{word} {deployment} 1 {step} 1 {digest}")
    };
    let whole = |deployment: &str, digest: &str| {
        let steps = ["pre_hook", "script"].into_iter();
        steps
            .flat_map(|step| ["start", "end"].map(|word| line(word, deployment, step, digest)))
            .collect::<Vec<_>>()
    };
    let current = |digest: &str| Current {
        name: "app".to_owned(),
        digest: digest.to_owned(),
        // Files that scripts added are allowed.
        entries: Some(
            BTreeMap::from([("log".to_owned(), Entry::file(b"", false))])
                .into_iter()
                .chain(bundle("app").entries)
                .collect(),
        ),
    };
    let known = |digest: &str| BTreeMap::from([("app".to_owned(), digest.to_owned())]);
    let mut closings = BTreeMap::new();
    for attempt in &attempts {
        closings.insert(attempt.key(), vec![attempt.closing().unwrap()]);
    }
    SettledWorld {
        bundles: BTreeMap::from([
            (APP.to_owned(), bundle("app")),
            (OLD.to_owned(), bundle("app")),
        ]),
        targets: vec![
            target("t1", "d-1", "one", APP),
            target("t2", "d-1", "two", APP),
            target("t3", "d-2", "two", OLD),
            target("t4", "d-2", "one", OLD),
        ]
        .into_iter()
        .map(|target| TargetRow {
            deployment: target.deployment.replace('-', ""),
            ..target
        })
        .collect(),
        attempts,
        closings,
        unknown_reports: 0,
        sessions: [("one", 1), ("one", 2), ("two", 1)]
            .map(|(device, epoch)| (device.to_owned(), epoch))
            .into(),
        devices: vec![
            SettledDevice {
                id: "one".to_owned(),
                name: "edge-1".to_owned(),
                witness: whole("d-1", APP),
                journal: vec![entry("t1", "succeeded", None)],
                currents: vec![current(APP)],
                known: known(APP),
                ..SettledDevice::default()
            },
            SettledDevice {
                id: "two".to_owned(),
                name: "edge-2".to_owned(),
                witness: [
                    vec![line("start", "d-1", "pre_hook", APP)],
                    whole("d-2", OLD),
                ]
                .concat(),
                journal: vec![
                    entry("t2", "failed", Some("interrupted")),
                    entry("t3", "succeeded", None),
                ],
                currents: vec![current(OLD)],
                known: known(OLD),
                ..SettledDevice::default()
            },
        ],
        server_leftovers: Vec::new(),
    }
}
