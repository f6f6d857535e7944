//! Tables of what a deployment does next.

use kernex_proto::ids::TargetId;

use super::*;
use crate::{clock::Timestamp, domain::schedule::Gate};

mod limits;

const NOW: Timestamp = Timestamp(1_000_000_000);

fn phase(phase: Phase, states: &[State]) -> PhaseFacts {
    PhaseFacts {
        phase,
        counts: counts(states),
        passed_at: None,
        soaked_at: None,
        forgiven: 0,
    }
}

fn facts(open: u32, phases: Vec<PhaseFacts>) -> RolloutFacts {
    RolloutFacts {
        state: DeploymentState::Active,
        open,
        phases,
        max_in_flight: None,
        approval: false,
        on_failure: OnFailure::Pause,
        lingers: false,
    }
}

fn actions(facts: &RolloutFacts) -> Vec<Action> {
    plan(facts, Gate::ALWAYS_OPEN, Some(NOW)).actions
}

const HELD: State = State::Held;
const SENT: State = State::Sent;
const DONE: State = State::Succeeded;
const FAILED: State = State::Failed;

fn open(through: u32, at_most: u32) -> Action {
    Action::OpenTargets { through, at_most }
}

#[test]
fn the_next_step_follows_the_table() {
    let lenient = Phase {
        max_failures: Amount::Count(1),
        ..count(3)
    };
    let most = Phase {
        success: Some(percent(60.0)),
        max_failures: Amount::Share(percent(50.0)),
        ..count(3)
    };
    let rest = || phase(Phase::REST, &[HELD, HELD]);
    let first = |states: &[State]| facts(1, vec![phase(count(1), states), rest()]);
    let of_three = |how, states: &[State]| facts(1, vec![phase(how, states), rest()]);
    let passed = |n| [Action::Passed(n), Action::Soaked(n)];
    let onwards = || [passed(1).to_vec(), vec![Action::OpenPhase(2), open(2, 2)]].concat();
    let table: Vec<(&str, RolloutFacts, Vec<Action>)> = vec![
        (
            "the first phase opens at once",
            facts(0, vec![phase(count(1), &[HELD]), rest()]),
            vec![Action::OpenPhase(1), open(1, 1)],
        ),
        ("it is awaited", first(&[SENT]), vec![]),
        ("it passes", first(&[DONE]), onwards()),
        (
            "nobody is left in it",
            first(&[State::Superseded]),
            onwards(),
        ),
        (
            "a failure that is allowed",
            of_three(lenient, &[DONE, FAILED, DONE]),
            onwards(),
        ),
        (
            "one that is awaited beside it",
            of_three(lenient, &[DONE, FAILED, SENT]),
            vec![],
        ),
        (
            "enough succeeded",
            of_three(most, &[DONE, DONE, SENT]),
            onwards(),
        ),
        (
            "a phase without anybody is passed through",
            facts(
                1,
                vec![phase(count(1), &[DONE]), phase(share(10.0), &[]), rest()],
            ),
            [
                passed(1).to_vec(),
                vec![Action::OpenPhase(2)],
                passed(2).to_vec(),
                vec![Action::OpenPhase(3), open(3, 2)],
            ]
            .concat(),
        ),
        (
            "everything is closed",
            facts(
                2,
                vec![phase(count(1), &[DONE]), phase(Phase::REST, &[DONE, DONE])],
            ),
            [passed(2).to_vec(), vec![Action::Finish]].concat(),
        ),
        (
            "a failure with nobody left to spare",
            facts(
                2,
                vec![
                    phase(count(1), &[DONE]),
                    phase(Phase::REST, &[FAILED, DONE]),
                ],
            ),
            vec![Action::Finish],
        ),
    ];
    for (name, facts, expected) in table {
        assert_eq!(actions(&facts), expected, "{name}");
    }
}

#[test]
fn a_failed_gate_pauses_and_says_why() {
    let share_of_failures = Phase {
        max_failures: Amount::Share(percent(20.0)),
        ..count(4)
    };
    let most = Phase {
        success: Some(percent(60.0)),
        max_failures: Amount::Count(5),
        ..count(4)
    };
    let table: Vec<(Phase, &[State], &str)> = vec![
        (
            count(4),
            &[FAILED, SENT, SENT, SENT],
            "phase 1: 1 of 4 failed",
        ),
        (count(4), &[State::Expired, DONE], "phase 1: 1 of 2 failed"),
        (
            share_of_failures,
            &[FAILED, SENT, SENT, SENT],
            "phase 1: 1 of 4 failed, more than the 20 % allowed",
        ),
        (
            most,
            &[FAILED, FAILED, DONE, SENT],
            "phase 1: 2 of 4 failed, so 60 % can no longer succeed",
        ),
        // Cancelled targets do not count in the share.
        (
            count(4),
            &[FAILED, State::Cancelled, State::Superseded],
            "phase 1: 1 of 1 failed",
        ),
    ];
    for (how, states, why) in table {
        let facts = facts(1, vec![phase(how, states), phase(Phase::REST, &[HELD])]);
        match &actions(&facts)[..] {
            [Action::Pause(reason)] => assert_eq!(reason.to_string(), why),
            other => panic!("{states:?}: {other:?}"),
        }
    }
}

#[test]
fn going_back_is_asked_for_once_also_when_nothing_is_left_to_pause() {
    let pausing = RolloutFacts {
        on_failure: OnFailure::Rollback,
        ..facts(
            1,
            vec![phase(count(1), &[FAILED]), phase(Phase::REST, &[HELD])],
        )
    };
    let steps = actions(&pausing);
    assert!(
        matches!(steps[..], [Action::Pause(_), Action::RollBack(_)]),
        "{steps:?}"
    );
    let paused = RolloutFacts {
        state: DeploymentState::Paused,
        ..pausing.clone()
    };
    assert_eq!(actions(&paused), []);
    let ended = RolloutFacts {
        phases: vec![phase(Phase::REST, &[FAILED, DONE])],
        ..pausing
    };
    let steps = actions(&ended);
    assert!(
        matches!(steps[..], [Action::RollBack(_), Action::Finish]),
        "{steps:?}"
    );
}

#[test]
fn what_stops_can_only_finish() {
    let stopping = |states: &[State], lingers| RolloutFacts {
        state: DeploymentState::Stopping,
        on_failure: OnFailure::Rollback,
        lingers,
        ..facts(1, vec![phase(count(1), states), phase(Phase::REST, &[])])
    };
    for open in [HELD, SENT, State::Running] {
        assert_eq!(actions(&stopping(&[FAILED, open], false)), []);
    }
    assert_eq!(actions(&stopping(&[FAILED, DONE], true)), []);
    assert_eq!(actions(&stopping(&[FAILED, DONE], false)), [Action::Finish]);
}

#[test]
fn failures_an_operator_went_on_over_no_longer_count() {
    let mut resumed = phase(count(2), &[FAILED, DONE]);
    resumed.forgiven = 1;
    let facts = facts(1, vec![resumed, phase(Phase::REST, &[HELD])]);
    assert!(actions(&facts).contains(&Action::OpenPhase(2)));
    let mut worse = facts;
    worse.phases[0].counts.add(FAILED, 1);
    assert!(matches!(actions(&worse)[..], [Action::Pause(_)]));
}

#[test]
fn a_phase_soaks_after_it_passed() {
    let soaking = Phase {
        soak: MINUTE,
        ..count(1)
    };
    let mut facts = facts(
        1,
        vec![phase(soaking, &[DONE]), phase(Phase::REST, &[HELD])],
    );
    let first = plan(&facts, Gate::ALWAYS_OPEN, Some(NOW));
    assert_eq!(first.actions, [Action::Passed(1)]);
    assert_eq!(first.wake, Some(NOW.plus(MINUTE)));
    facts.phases[0].passed_at = Some(NOW);
    assert_eq!(
        plan(&facts, Gate::ALWAYS_OPEN, Some(NOW.plus(MINUTE / 2))).actions,
        []
    );
    let over = plan(&facts, Gate::ALWAYS_OPEN, Some(NOW.plus(MINUTE)));
    assert_eq!(
        over.actions,
        [Action::Soaked(1), Action::OpenPhase(2), open(2, 1)]
    );
    // A failure while the phase soaks pauses it all the same.
    facts.phases[0].counts.add(FAILED, 1);
    assert!(matches!(actions(&facts)[..], [Action::Pause(_)]));
}

#[test]
fn an_operator_is_asked_once_between_phases() {
    let mut facts = RolloutFacts {
        approval: true,
        ..facts(
            1,
            vec![phase(count(1), &[DONE]), phase(Phase::REST, &[HELD])],
        )
    };
    let asked = [Action::Passed(1), Action::Soaked(1), Action::AwaitApproval];
    assert_eq!(actions(&facts), asked);
    facts.phases[0].passed_at = Some(NOW);
    facts.phases[0].soaked_at = Some(NOW);
    facts.state = DeploymentState::AwaitingApproval;
    assert_eq!(actions(&facts), []);
}

#[test]
fn without_a_time_that_can_be_trusted_counts_decide_alone() {
    let unknown = |facts: &RolloutFacts| plan(facts, Gate::ALWAYS_OPEN, None);
    let soaking = Phase {
        soak: MINUTE,
        ..count(1)
    };
    let two = |first: PhaseFacts| facts(1, vec![first, phase(Phase::REST, &[HELD])]);
    let mut soaks = two(phase(soaking, &[DONE]));
    assert_eq!(
        unknown(&soaks),
        Plan::default(),
        "nobody knows since when it soaks"
    );
    soaks.phases[0].passed_at = Some(Timestamp(0));
    assert_eq!(unknown(&soaks), Plan::default(), "nor for how long it has");
    soaks.phases[0].soaked_at = Some(NOW);
    assert_eq!(unknown(&soaks).actions, [Action::OpenPhase(2), open(2, 1)]);
    let at_once = two(phase(count(1), &[DONE]));
    assert_eq!(
        unknown(&at_once),
        plan(&at_once, Gate::ALWAYS_OPEN, Some(NOW))
    );
    let failed = two(phase(soaking, &[FAILED]));
    assert_eq!(
        unknown(&failed),
        plan(&failed, Gate::ALWAYS_OPEN, Some(NOW))
    );
    assert!(matches!(unknown(&failed).actions[..], [Action::Pause(_)]));
}

#[test]
fn what_takes_devices_in_goes_on_when_every_target_is_closed() {
    let closed = facts(1, vec![phase(Phase::REST, &[DONE])]);
    assert!(actions(&closed).contains(&Action::Finish));
    let lingering = RolloutFacts {
        lingers: true,
        ..closed
    };
    assert!(!actions(&lingering).contains(&Action::Finish));
    let failed = RolloutFacts {
        lingers: true,
        ..facts(1, vec![phase(Phase::REST, &[FAILED])])
    };
    assert!(
        matches!(actions(&failed)[..], [Action::Pause(_)]),
        "and pauses over a failure"
    );
}

#[test]
fn devices_that_failed_the_bundle_before_count_for_no_threshold() {
    let mut boxed = phase(Phase::REST, &[DONE, DONE]);
    boxed.counts.penalised = 5;
    assert_eq!(boxed.judged(), (2, 0));
    let together = facts(1, vec![boxed]);
    assert!(actions(&together).contains(&Action::Finish));
    assert_eq!(
        together.counts().result(false),
        Some(DeploymentResult::Failed)
    );
}
