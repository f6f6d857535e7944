//! Tables of what holds a beginning back: limits, budgets and a closed gate.

use super::*;

#[test]
fn limits_leave_room_for_what_is_in_flight() {
    let mut facts = RolloutFacts {
        max_in_flight: Some(2),
        ..facts(1, vec![phase(Phase::REST, &[HELD, HELD, HELD, SENT])])
    };
    assert_eq!(actions(&facts), [open(1, 1)]);
    facts.phases[0].counts.add(State::Running, 1);
    assert_eq!(actions(&facts), []);
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
    let scheduled = RolloutFacts {
        state: DeploymentState::Scheduled,
        ..fresh
    };
    assert_eq!(plan(&scheduled, closed, Some(NOW)).actions, []);
    let started = actions(&scheduled);
    assert_eq!(started, [Action::Start, Action::OpenPhase(1), open(1, 1)]);
}

#[test]
fn budgets_hold_together_and_devices_without_the_label_share_one() {
    let budgets = [("rack", 1), ("site", 2)].map(|(label, max)| Budget {
        label: label.into(),
        max,
    });
    let target = |n| TargetId(Uuid::from_u128(n));
    let candidate = |n: u128, rack: Option<&str>, site: &str| Candidate {
        target: target(n),
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
    assert_eq!(chosen, [1, 3, 6].map(target));
    let busy = vec![RunningByValue::from([(Some("a".to_owned()), 1)])];
    let chosen = choose(candidates.clone(), &budgets, busy, 2);
    assert_eq!(chosen, [3, 5].map(target));
    assert_eq!(choose(candidates, &[], vec![], 4).len(), 4);
}
