//! Tables of what a deployment does next.

use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::clock::Timestamp;

const NOW: Timestamp = Timestamp(1_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);

fn counts(states: &[State]) -> Counts {
    let mut counts = Counts::default();
    for state in states {
        counts.add(*state, 1);
    }
    counts
}

#[test]
fn results_follow_the_table() {
    use DeploymentResult as R;
    use State as S;
    let table: &[(&[State], bool, Option<R>)] = &[
        (&[S::Succeeded, S::Running], false, None),
        (&[S::Held], true, None),
        (&[S::Succeeded, S::Succeeded], false, Some(R::Succeeded)),
        (&[S::Succeeded], true, Some(R::Succeeded)),
        (&[S::Succeeded, S::Failed], false, Some(R::Failed)),
        (&[S::Succeeded, S::Expired], false, Some(R::Failed)),
        (&[S::Failed, S::Cancelled], true, Some(R::Cancelled)),
        (&[S::Superseded, S::Succeeded], false, Some(R::Cancelled)),
        (&[S::Cancelled], false, Some(R::Cancelled)),
        (&[], true, Some(R::Cancelled)),
    ];
    for (states, cancelled, expected) in table {
        assert_eq!(counts(states).result(*cancelled), *expected, "{states:?}");
    }
}

#[test]
fn every_target_is_counted_once() {
    let all = counts(State::ALL);
    assert_eq!(all.total() as usize, State::ALL.len());
}

fn percent(value: f64) -> Percent {
    Percent::from_f64(value).unwrap()
}

fn sized(size: Amount) -> Phase {
    Phase {
        size,
        ..Phase::REST
    }
}

fn count(count: u32) -> Phase {
    sized(Amount::Count(count))
}

fn share(value: f64) -> Phase {
    sized(Amount::Share(percent(value)))
}

fn rollout(phases: &[Phase]) -> Rollout {
    Rollout {
        phases: phases.to_vec(),
        ..Rollout::at_once()
    }
}

#[test]
fn percentages_have_two_decimals_at_most_and_round_up() {
    assert_eq!(percent(0.01).of(1), 1);
    assert_eq!(percent(10.0).of(101), 11);
    assert_eq!(percent(33.33).points(), 3333);
    assert_eq!(Percent::ALL.of(u32::MAX), u32::MAX);
    for refused in [-1.0, 100.01, 12.345, f64::NAN, f64::INFINITY] {
        assert_eq!(Percent::from_f64(refused), None, "{refused}");
    }
    assert!(percent(10.0).is_reached(1, 10) && !percent(10.0).is_exceeded(1, 10));
    assert!(percent(10.0).is_exceeded(2, 19));
    assert!(Percent::ALL.is_reached(0, 0));
}

#[test]
fn phases_are_cumulative_and_the_rest_follows() {
    let phases = [count(1), share(10.0), share(50.0), share(100.0)];
    let asked = rollout(&phases).checked().unwrap();
    assert_eq!(asked.phases, phases);
    assert_eq!(asked.bounds(95), [1, 10, 48, 95]);
    // Ten percent of a small fleet is the canary again: the phase has nobody.
    assert_eq!(asked.bounds(4), [1, 1, 2, 4]);
    assert_eq!(asked.bounds(1), [1, 1, 1, 1]);
    let soaking = Phase {
        soak: MINUTE,
        ..count(5)
    };
    let asked = rollout(&[soaking]).checked().unwrap();
    assert_eq!(asked.phases.len(), 2);
    assert_eq!(
        asked.phases[1].soak, MINUTE,
        "judged like the last that was named"
    );
    assert_eq!(asked.bounds(3), [3, 3]);
    assert_eq!(rollout(&[]).checked().unwrap(), Rollout::at_once());
}

#[test]
fn what_makes_no_sense_is_refused_with_its_field() {
    let budget = |label: &str, max| Budget {
        label: label.into(),
        max,
    };
    let table: Vec<(Rollout, &str)> = vec![
        (rollout(&[count(0)]), "phases[0].count"),
        (rollout(&[share(0.0)]), "phases[0].percent"),
        (rollout(&[count(5), count(5)]), "phases[1].count"),
        (rollout(&[share(50.0), share(10.0)]), "phases[1].percent"),
        (
            rollout(&[count(5), share(10.0), count(4)]),
            "phases[2].count",
        ),
        (rollout(&[share(100.0), count(5)]), "phases[1]"),
        (rollout(&(1..=101).map(count).collect::<Vec<_>>()), "phases"),
        (
            Rollout {
                budgets: vec![budget("", 1)],
                ..Rollout::at_once()
            },
            "budgets[0].label",
        ),
        (
            Rollout {
                budgets: vec![budget("rack", 0)],
                ..Rollout::at_once()
            },
            "budgets[0].max",
        ),
        (
            Rollout {
                budgets: vec![budget("rack", 1), budget("rack", 2)],
                ..Rollout::at_once()
            },
            "budgets[1].label",
        ),
    ];
    for (asked, field) in table {
        let refused = asked.clone().checked().unwrap_err();
        assert_eq!(refused.field, field, "{asked:?}");
    }
}

#[test]
fn every_target_has_a_phase_and_the_order_is_its_own_for_each_deployment() {
    let devices: Vec<Uuid> = (0..50).map(Uuid::from_u128).collect();
    let asked = rollout(&[count(1), share(10.0)]).checked().unwrap();
    let one = asked.places(Uuid::from_u128(1), devices.clone());
    assert_eq!(
        one,
        asked.places(Uuid::from_u128(1), devices.iter().rev().copied())
    );
    let of = |phase| one.iter().filter(|(_, place)| place.phase == phase).count();
    assert_eq!((of(1), of(2), of(3)), (1, 4, 45));
    assert!(one.is_sorted_by_key(|(_, place)| (place.phase, place.rank)));
    let first = |n| asked.places(Uuid::from_u128(n), devices.clone())[0].0;
    assert!(
        (2..20).any(|n| first(n) != first(1)),
        "always the same canary"
    );
}

fn phase(phase: Phase, states: &[State]) -> PhaseFacts {
    PhaseFacts {
        phase,
        counts: counts(states),
        passed_at: None,
        soaked_at: None,
        forgiven: 0,
    }
}

fn facts(open: u32, phases: Vec<PhaseFacts>) -> Facts {
    Facts {
        state: DeploymentState::Active,
        open,
        phases,
        max_in_flight: None,
        approval: false,
        on_failure: OnFailure::Pause,
        lingers: false,
    }
}

fn actions(facts: &Facts) -> Vec<Action> {
    plan(facts, Gate::Open, Some(NOW)).actions
}

const HELD: State = State::Held;
const SENT: State = State::Sent;
const DONE: State = State::Succeeded;
const FAILED: State = State::Failed;

fn release(through: u32, at_most: u32) -> Action {
    Action::Release { through, at_most }
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
    let onwards = || [passed(1).to_vec(), vec![Action::Open(2), release(2, 2)]].concat();
    let table: Vec<(&str, Facts, Vec<Action>)> = vec![
        (
            "the first phase opens at once",
            facts(0, vec![phase(count(1), &[HELD]), rest()]),
            vec![Action::Open(1), release(1, 1)],
        ),
        ("it is awaited", first(&[SENT]), vec![]),
        ("it passes", first(&[DONE]), onwards()),
        (
            "nobody is left in it",
            first(&[State::Superseded]),
            onwards(),
        ),
        (
            "a failure that is borne",
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
                vec![Action::Open(2)],
                passed(2).to_vec(),
                vec![Action::Open(3), release(3, 2)],
            ]
            .concat(),
        ),
        (
            "everything is closed",
            facts(
                2,
                vec![phase(count(1), &[DONE]), phase(Phase::REST, &[DONE, DONE])],
            ),
            vec![Action::Finish],
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
            "phase 1: 1 of 4 failed, more than the 20 % that are borne",
        ),
        (
            most,
            &[FAILED, FAILED, DONE, SENT],
            "phase 1: 2 of 4 failed, so 60 % can no longer succeed",
        ),
        // Who was cancelled is not there to be divided by.
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
    let pausing = Facts {
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
    let paused = Facts {
        state: DeploymentState::Paused,
        ..pausing.clone()
    };
    assert_eq!(actions(&paused), []);
    let ended = Facts {
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
fn failures_an_operator_went_on_over_no_longer_count() {
    let mut resumed = phase(count(2), &[FAILED, DONE]);
    resumed.forgiven = 1;
    let facts = facts(1, vec![resumed, phase(Phase::REST, &[HELD])]);
    assert!(actions(&facts).contains(&Action::Open(2)));
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
    let first = plan(&facts, Gate::Open, Some(NOW));
    assert_eq!(first.actions, [Action::Passed(1)]);
    assert_eq!(first.wake, Some(NOW.plus(MINUTE)));
    facts.phases[0].passed_at = Some(NOW);
    assert_eq!(
        plan(&facts, Gate::Open, Some(NOW.plus(MINUTE / 2))).actions,
        []
    );
    let over = plan(&facts, Gate::Open, Some(NOW.plus(MINUTE)));
    assert_eq!(
        over.actions,
        [Action::Soaked(1), Action::Open(2), release(2, 1)]
    );
    // One that fails while it soaks pauses all the same.
    facts.phases[0].counts.add(FAILED, 1);
    assert!(matches!(actions(&facts)[..], [Action::Pause(_)]));
}

#[test]
fn an_operator_is_asked_once_between_phases() {
    let mut facts = Facts {
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
fn limits_leave_room_for_what_is_in_flight() {
    let mut facts = Facts {
        max_in_flight: Some(2),
        ..facts(1, vec![phase(Phase::REST, &[HELD, HELD, HELD, SENT])])
    };
    assert_eq!(actions(&facts), [release(1, 1)]);
    facts.phases[0].counts.add(State::Running, 1);
    assert_eq!(actions(&facts), []);
}

#[test]
fn without_a_time_that_can_be_trusted_counts_decide_alone() {
    let unknown = |facts: &Facts| plan(facts, Gate::Open, None);
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
    assert_eq!(unknown(&soaks).actions, [Action::Open(2), release(2, 1)]);
    let at_once = two(phase(count(1), &[DONE]));
    assert_eq!(unknown(&at_once), plan(&at_once, Gate::Open, Some(NOW)));
    let failed = two(phase(soaking, &[FAILED]));
    assert_eq!(unknown(&failed), plan(&failed, Gate::Open, Some(NOW)));
    assert!(matches!(unknown(&failed).actions[..], [Action::Pause(_)]));
}

#[test]
fn a_closed_gate_begins_nothing_but_still_judges() {
    let until = Some(NOW.plus(MINUTE));
    let closed = Gate::Closed { until };
    let fresh = facts(
        0,
        vec![phase(count(1), &[HELD]), phase(Phase::REST, &[HELD])],
    );
    let waiting = plan(&fresh, closed, Some(NOW));
    assert_eq!((waiting.actions, waiting.wake), (vec![], until));
    let passed = facts(
        1,
        vec![phase(count(1), &[DONE]), phase(Phase::REST, &[HELD])],
    );
    let judged = plan(&passed, closed, Some(NOW));
    assert_eq!(judged.actions, [Action::Passed(1), Action::Soaked(1)]);
    let failed = facts(
        1,
        vec![phase(count(1), &[FAILED]), phase(Phase::REST, &[HELD])],
    );
    assert!(matches!(
        plan(&failed, closed, Some(NOW)).actions[..],
        [Action::Pause(_)]
    ));
    let scheduled = Facts {
        state: DeploymentState::Scheduled,
        ..fresh
    };
    assert_eq!(plan(&scheduled, closed, Some(NOW)).actions, []);
    let started = actions(&scheduled);
    assert_eq!(started, [Action::Start, Action::Open(1), release(1, 1)]);
}

#[test]
fn budgets_hold_together_and_devices_without_the_label_share_one() {
    let budgets = [("rack", 1), ("site", 2)].map(|(label, max)| Budget {
        label: label.into(),
        max,
    });
    let candidate = |n: u128, rack: Option<&str>, site: &str| Candidate {
        target: Uuid::from_u128(n),
        values: vec![rack.map(str::to_owned), Some(site.to_owned())],
    };
    let candidates = vec![
        candidate(1, Some("a"), "berlin"),
        candidate(2, Some("a"), "berlin"),
        candidate(3, None, "berlin"),
        candidate(4, None, "paris"),
        candidate(5, Some("b"), "berlin"),
        candidate(6, Some("b"), "paris"),
    ];
    let chosen = choose(candidates.clone(), &budgets, vec![], 10);
    assert_eq!(chosen, [1, 3, 6].map(Uuid::from_u128));
    let busy = vec![InFlight::from([(Some("a".to_owned()), 1)])];
    let chosen = choose(candidates.clone(), &budgets, busy, 2);
    assert_eq!(chosen, [3, 5].map(Uuid::from_u128));
    assert_eq!(choose(candidates, &[], vec![], 4).len(), 4);
}

#[test]
fn what_takes_devices_in_goes_on_when_every_target_is_closed() {
    let closed = facts(1, vec![phase(Phase::REST, &[DONE])]);
    assert!(actions(&closed).contains(&Action::Finish));
    let lingering = Facts {
        lingers: true,
        ..closed
    };
    assert!(!actions(&lingering).contains(&Action::Finish));
    let failed = Facts {
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
