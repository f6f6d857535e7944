//! A good history, and the same one broken by hand once per way of breaking a rule: each must be
//! caught by its rule.

use super::*;

const APP: &str = "aaaa";
const OLD: &str = "bbbb";

fn bundle(name: &str) -> BundleContents {
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

fn entry(target: &str, state: &str, reason: Option<&str>) -> JournalRow {
    JournalRow {
        target: target.to_owned(),
        number: 1,
        acknowledged: true,
        outcome: Some((state.to_owned(), reason.map(str::to_owned))),
    }
}

/// Two devices: on the first one deployment succeeded, on the second it was cut off; a later one
/// was taken back and the device had finished it all the same.
fn good() -> SettledWorld {
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

#[test]
fn a_good_history_passes_and_is_summed_up() {
    let summary = check(&good()).unwrap();
    assert_eq!(
        (summary.targets, summary.late, summary.journalled),
        (4, 1, 3)
    );
    assert_eq!(
        (summary.witness_lines, summary.sessions, summary.releases),
        (9, 3, 2)
    );
    assert_eq!(summary.endings["failed(interrupted)"], 1);
}

/// Breaks the good history and expects this rule to be among those named.
fn caught(rule: Rule, how: &str, break_it: impl FnOnce(&mut SettledWorld)) {
    let mut facts = good();
    break_it(&mut facts);
    assert_ne!(facts, good(), "{how}: nothing was broken");
    let violations = check(&facts).expect_err(how);
    let rules: BTreeSet<Rule> = violations.iter().map(|violation| violation.rule).collect();
    assert!(rules.contains(&rule), "{how}: {violations:?}");
}

#[test]
fn a_target_without_an_end_is_caught() {
    caught(Rule::Terminal, "open", |facts| {
        facts.attempts[3].state = "running".to_owned();
    });
    caught(Rule::Terminal, "closed, but still out there", |facts| {
        facts.attempts[3].unresolved = true;
    });
    caught(Rule::Terminal, "no attempt at all", |facts| {
        facts.attempts.remove(3);
    });
    caught(Rule::Terminal, "not the latest attempt", |facts| {
        facts.targets[0].latest_attempt = 2;
    });
}

#[test]
fn a_step_that_ran_twice_is_caught() {
    caught(Rule::OnceOnly, "started twice", |facts| {
        let line = facts.devices[1].witness[0].clone();
        facts.devices[1].witness.push(line);
    });
    caught(Rule::OnceOnly, "ended twice", |facts| {
        let line = facts.devices[0].witness[3].clone();
        facts.devices[0].witness.push(line);
    });
}

/// The second device goes back with both scripts of the release before.
fn going_back(facts: &mut SettledWorld, digest: &str) {
    for step in ["rollback.script", "rollback.post_hook"] {
        let lines = ["start", "end"].map(|word| format!("{word} d-1 1 {step} 1 {digest}"));
        facts.devices[1].witness.extend(lines);
    }
}

#[test]
fn going_back_runs_the_scripts_of_the_release_before_and_each_once() {
    let mut facts = good();
    going_back(&mut facts, OLD);
    check(&facts).unwrap();
    caught(Rule::OnceOnly, "went back twice", |facts| {
        going_back(facts, OLD);
        going_back(facts, OLD);
    });
    caught(Rule::NothingInvented, "an unknown bundle", |facts| {
        going_back(facts, "cccc");
    });
    caught(Rule::NothingInvented, "another name", |facts| {
        facts.bundles.insert("cccc".to_owned(), bundle("other"));
        going_back(facts, "cccc");
    });
}

#[test]
fn a_run_that_nobody_ordered_is_caught() {
    let edit = |from: &'static str, to: &'static str| {
        move |facts: &mut SettledWorld| {
            let line = &mut facts.devices[1].witness[0];
            *line = line.replace(from, to);
        }
    };
    caught(
        Rule::NothingInvented,
        "another deployment",
        edit("d-1", "d-9"),
    );
    caught(
        Rule::NothingInvented,
        "another attempt",
        edit("d-1 1", "d-1 2"),
    );
    caught(Rule::NothingInvented, "another bundle", edit(APP, OLD));
    caught(Rule::NothingInvented, "a torn line", edit(" aaaa", ""));
    caught(Rule::NothingInvented, "another device", |facts| {
        let line = facts.devices[1].witness[1].clone().replace("d-2", "d-3");
        facts.devices[0].witness.push(line);
    });
}

#[test]
fn a_success_without_its_complete_line_is_caught() {
    caught(Rule::SucceededIsTrue, "the script never ended", |facts| {
        facts.devices[0].witness.pop();
    });
    caught(Rule::SucceededIsTrue, "the hook never ran", |facts| {
        facts.devices[0].witness.drain(..2);
    });
    caught(Rule::SucceededIsTrue, "nor did a late one", |facts| {
        facts.devices[1].witness.pop();
    });
    caught(Rule::SucceededIsTrue, "of no known bundle", |facts| {
        facts.bundles.remove(APP);
    });
}

#[test]
fn an_outcome_lost_changed_doubled_or_made_up_is_caught() {
    caught(Rule::OutcomeRecorded, "lost", |facts| {
        facts.attempts[1].answered = false;
    });
    caught(Rule::OutcomeRecorded, "another state", |facts| {
        facts.devices[1].journal[0].outcome = Some(("succeeded".to_owned(), None));
    });
    caught(Rule::OutcomeRecorded, "another reason", |facts| {
        facts.attempts[1].reason = Some("script_failed".to_owned());
    });
    caught(Rule::OutcomeRecorded, "written twice", |facts| {
        facts.attempts[0].late_state = Some("failed".to_owned());
    });
    caught(Rule::OutcomeRecorded, "late and wrong", |facts| {
        facts.attempts[2].late_state = Some("failed".to_owned());
    });
    caught(Rule::OutcomeRecorded, "no such row", |facts| {
        facts.devices[0]
            .journal
            .push(entry("t9", "succeeded", None));
    });
    caught(Rule::OutcomeRecorded, "made up", |facts| {
        facts.devices[0].journal.clear();
    });
    caught(Rule::OutcomeRecorded, "kept aside", |facts| {
        facts.unknown_reports = 1;
    });
}

#[test]
fn an_outcome_that_still_waits_on_a_device_is_caught() {
    caught(Rule::Acknowledged, "unacknowledged", |facts| {
        facts.devices[0].journal[0].acknowledged = false;
    });
}

#[test]
fn a_closed_attempt_that_changed_is_caught() {
    let key = ("t2".to_owned(), 1);
    let other = ClosedState {
        state: "expired".to_owned(),
        reason: None,
        closed_at: Some(1),
    };
    caught(Rule::ClosedForGood, "another state before", |facts| {
        facts
            .closings
            .get_mut(&key)
            .unwrap()
            .insert(0, other.clone());
    });
    caught(Rule::ClosedForGood, "changed since", |facts| {
        facts.closings.insert(key.clone(), vec![other.clone()]);
    });
    caught(Rule::ClosedForGood, "gone", |facts| {
        facts
            .closings
            .insert(("t8".to_owned(), 1), vec![other.clone()]);
    });
    caught(Rule::ClosedForGood, "closed at another time", |facts| {
        facts.attempts[1].closed_at = Some(2);
    });
}

#[test]
fn two_sessions_of_one_epoch_are_caught() {
    caught(Rule::OneSession, "twice epoch 1", |facts| {
        facts.sessions.push(("two".to_owned(), 1));
    });
}

#[test]
fn a_current_release_that_is_not_the_bundle_is_caught() {
    let entries = |edit: fn(&mut BTreeMap<String, Entry>)| {
        move |facts: &mut SettledWorld| edit(facts.devices[0].currents[0].entries.as_mut().unwrap())
    };
    caught(Rule::CurrentComplete, "leads nowhere", |facts| {
        facts.devices[0].currents[0].entries = None;
    });
    caught(
        Rule::CurrentComplete,
        "a file is missing",
        entries(|entries| {
            entries.remove("run");
        }),
    );
    caught(
        Rule::CurrentComplete,
        "other bytes",
        entries(|entries| {
            entries.insert("run".to_owned(), Entry::file(b"y", true));
        }),
    );
    caught(
        Rule::CurrentComplete,
        "not executable",
        entries(|entries| {
            entries.insert("run".to_owned(), Entry::file(b"x", false));
        }),
    );
    caught(
        Rule::CurrentComplete,
        "another link",
        entries(|entries| {
            entries.insert("link".to_owned(), Entry::Link("log".to_owned()));
        }),
    );
    caught(Rule::CurrentComplete, "of no bundle", |facts| {
        facts.devices[0].currents[0].digest.clear();
    });
}

#[test]
fn a_server_that_does_not_know_what_is_current_is_caught() {
    caught(Rule::CurrentKnown, "another digest", |facts| {
        facts.devices[0]
            .known
            .insert("app".to_owned(), OLD.to_owned());
    });
    caught(Rule::CurrentKnown, "nothing known", |facts| {
        facts.devices[0].known.clear();
    });
    caught(Rule::CurrentKnown, "nothing there", |facts| {
        facts.devices[0].currents.clear();
    });
}

#[test]
fn whatever_is_left_is_caught() {
    caught(Rule::NothingLeft, "a process", |facts| {
        facts.devices[0].processes.push("7 sleep".to_owned());
    });
    caught(Rule::NothingLeft, "a file", |facts| {
        facts.devices[0].temporary.push("tmp/x".to_owned());
    });
    caught(Rule::NothingLeft, "a descriptor", |facts| {
        facts.devices[0].descriptors.push("bundles/x".to_owned());
    });
    caught(Rule::NothingLeft, "an upload", |facts| {
        facts.server_leftovers.push("bundles/x#1".to_owned());
    });
}
