//! A good history, and the same one broken by hand once per way of breaking a rule: each must be
//! caught by its rule.

mod history;

use history::{APP, OLD, bundle, entry, good};

use super::*;

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
fn processes_files_and_descriptors_that_are_left_are_caught() {
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
