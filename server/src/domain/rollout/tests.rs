//! Tables of what a rollout may ask for, and of how targets are counted.

use std::time::Duration;

use kernex_proto::ids::{DeploymentId, DeviceId};
use uuid::Uuid;

use super::*;

mod planning;

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
        (&[S::Superseded, S::Succeeded], false, Some(R::Superseded)),
        (&[S::Superseded, S::Failed], false, Some(R::Failed)),
        (&[S::Superseded, S::Cancelled], true, Some(R::Cancelled)),
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
                approval: true,
                ..Rollout::at_once()
            },
            "approval",
        ),
        (
            rollout(&[Phase {
                soak: MINUTE,
                ..Phase::REST
            }]),
            "phases[0].soak_seconds",
        ),
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
    let deployment = |n| DeploymentId(Uuid::from_u128(n));
    let devices = (0..50).map(|n| DeviceId(Uuid::from_u128(n)));
    let devices: Vec<DeviceId> = devices.collect();
    let asked = rollout(&[count(1), share(10.0)]).checked().unwrap();
    let one = asked.places(deployment(1), devices.clone());
    assert_eq!(
        one,
        asked.places(deployment(1), devices.iter().rev().copied())
    );
    let of = |phase| one.iter().filter(|(_, place)| place.phase == phase).count();
    assert_eq!((of(1), of(2), of(3)), (1, 4, 45));
    assert!(one.is_sorted_by_key(|(_, place)| (place.phase, place.rank)));
    let first = |n| asked.places(deployment(n), devices.clone())[0].0;
    assert!(
        (2..20).any(|n| first(n) != first(1)),
        "always the same canary"
    );
}
