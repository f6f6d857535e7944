//! Random fleets under the planner: limits always hold, no phase opens over a failed gate, and all
//! deployments end.

use std::time::Duration;

use kernex_proto::ids::{DeploymentId, DeviceId, TargetId};
use proptest::{prelude::*, sample::Index};
use uuid::Uuid;

use super::*;
use crate::{clock::Timestamp, domain::schedule::Gate};

#[derive(Debug, Clone)]
struct Asked {
    rollout: Rollout,
    racks: Vec<u8>,
    fates: Vec<(Index, State, u8)>,
}

fn amount() -> impl Strategy<Value = Amount> {
    prop_oneof![
        (0u32..6).prop_map(Amount::Count),
        (0u32..=100).prop_map(|n| Amount::Share(Percent::from_points(n * 100))),
    ]
}

fn phase() -> impl Strategy<Value = Phase> {
    let success = proptest::option::of((0u32..=100).prop_map(|n| Percent::from_points(n * 100)));
    (success, amount(), 0u64..5).prop_map(|(success, max_failures, soak)| Phase {
        size: Phase::REST.size,
        success,
        max_failures,
        soak: Duration::from_secs(soak),
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    let fate = prop_oneof![
        8 => Just(State::Succeeded),
        1 => Just(State::Failed),
        1 => Just(State::Expired),
        1 => Just(State::Cancelled),
        1 => Just(State::Superseded),
    ];
    (
        proptest::collection::btree_set(1u32..40, 0..4),
        proptest::collection::vec(phase(), 5),
        proptest::option::of(1u32..6),
        proptest::option::of(1u32..3),
        any::<bool>(),
        proptest::collection::vec(0u8..4, 1..40),
        proptest::collection::vec((any::<Index>(), fate, 0u8..8), 400),
    )
        .prop_map(
            |(sizes, shapes, max_in_flight, rack, approval, racks, fates)| {
                let phases = sizes.into_iter().zip(shapes).map(|(size, shape)| Phase {
                    size: Amount::Count(size),
                    ..shape
                });
                let budgets = rack.map(|max| Budget {
                    label: "rack".into(),
                    max,
                });
                let phases: Vec<Phase> = phases.collect();
                let rollout = Rollout {
                    approval: approval && !phases.is_empty(),
                    phases,
                    max_in_flight,
                    budgets: budgets.into_iter().collect(),
                    on_failure: OnFailure::Pause,
                };
                Asked {
                    rollout: rollout.checked().expect("growing counts are fine"),
                    racks,
                    fates,
                }
            },
        )
}

struct Target {
    id: TargetId,
    phase: u32,
    rack: Option<String>,
    state: State,
}

struct World {
    asked: Asked,
    targets: Vec<Target>,
    facts: RolloutFacts,
    now: Timestamp,
}

impl World {
    fn new(asked: Asked) -> Self {
        let devices = (0..asked.racks.len()).map(|n| DeviceId(Uuid::from_u128(n as u128)));
        let places = asked.rollout.places(DeploymentId(Uuid::nil()), devices);
        let targets = places
            .into_iter()
            .map(|(device, place)| Target {
                id: TargetId(device.0),
                phase: place.phase,
                rack: match asked.racks[device.0.as_u128() as usize] {
                    0 => None,
                    rack => Some(rack.to_string()),
                },
                state: State::Held,
            })
            .collect();
        let phases = asked.rollout.phases.iter().map(|phase| PhaseFacts {
            phase: *phase,
            counts: Counts::default(),
            passed_at: None,
            soaked_at: None,
            forgiven: 0,
        });
        let facts = RolloutFacts {
            state: DeploymentState::Active,
            open: 0,
            phases: phases.collect(),
            max_in_flight: asked.rollout.max_in_flight,
            approval: asked.rollout.approval,
            on_failure: OnFailure::Pause,
            lingers: false,
        };
        Self {
            asked,
            targets,
            facts,
            now: Timestamp(0),
        }
    }

    fn count(&mut self) {
        for (number, phase) in (1..).zip(&mut self.facts.phases) {
            phase.counts = Counts::default();
            for target in self.targets.iter().filter(|target| target.phase == number) {
                phase.counts.add(target.state, 1);
            }
        }
    }

    fn in_flight(&self, rack: Option<&Option<String>>) -> usize {
        let flying = |target: &&Target| target.state.is_open() && target.state != State::Held;
        let here = |target: &&Target| rack.is_none_or(|rack| target.rack == *rack);
        self.targets.iter().filter(flying).filter(here).count()
    }

    /// Judges an opened phase by what an operator asked for, not by the planner's arithmetic.
    fn may_follow(&self, phase: &PhaseFacts) -> bool {
        let counts = &phase.counts;
        let failed = counts.failed + counts.expired;
        let of = counts.total() - counts.cancelled - counts.superseded;
        let allowed = match phase.phase.max_failures {
            Amount::Count(most) => failed <= most,
            Amount::Share(share) => f64::from(failed) * 100.0 <= f64::from(of) * share.to_f64(),
        };
        let enough = match phase.phase.success {
            Some(share) => f64::from(counts.succeeded) * 100.0 >= f64::from(of) * share.to_f64(),
            None => counts.open() == 0,
        };
        (failed == 0 || allowed) && enough
    }

    fn apply(&mut self, action: &Action) {
        match action {
            Action::OpenPhase(number) => {
                assert_eq!(*number, self.facts.open + 1, "phases open one by one");
                for before in &self.facts.phases[..self.facts.open as usize] {
                    assert!(before.passed_at.is_some(), "over one that did not pass");
                }
                if let Some(before) = self.facts.phases[..self.facts.open as usize].last() {
                    assert!(self.may_follow(before), "over a failed gate: {before:?}");
                    let soaked = before.passed_at.expect("it passed").plus(before.phase.soak);
                    assert!(self.now >= soaked, "before it soaked");
                    assert!(!self.facts.approval, "without an operator");
                }
                self.facts.open = *number;
            }
            Action::OpenTargets { through, at_most } => {
                assert!(*through <= self.facts.open);
                let candidates = self
                    .targets
                    .iter()
                    .filter(|target| target.state == State::Held && target.phase <= *through)
                    .map(|target| Candidate {
                        target: target.id,
                        values: vec![target.rack.clone()],
                    });
                let mut racks = RunningByValue::new();
                for target in &self.targets {
                    if target.state.is_open() && target.state != State::Held {
                        *racks.entry(target.rack.clone()).or_default() += 1;
                    }
                }
                let budgets = &self.asked.rollout.budgets;
                let chosen = choose(candidates.collect(), budgets, vec![racks], *at_most);
                for target in self.targets.iter_mut().filter(|t| chosen.contains(&t.id)) {
                    target.state = State::Pending;
                }
            }
            Action::Passed(number) => {
                self.facts.phases[*number as usize - 1].passed_at = Some(self.now);
            }
            Action::Soaked(number) => {
                self.facts.phases[*number as usize - 1].soaked_at = Some(self.now);
            }
            Action::Pause(_) => self.facts.state = DeploymentState::Paused,
            Action::AwaitApproval => self.facts.state = DeploymentState::AwaitingApproval,
            Action::Finish => self.facts.state = DeploymentState::Finished,
            Action::Start | Action::RollBack(_) => panic!("nobody asked for {action:?}"),
        }
    }

    /// Plans until nothing is left to do, and checks the limits after each action.
    fn plan_until_done(&mut self) -> Option<Timestamp> {
        for _ in 0..2 * self.asked.rollout.phases.len() + 4 {
            self.count();
            let plan = plan(&self.facts, Gate::ALWAYS_OPEN, Some(self.now));
            let before = self.in_flight(None);
            for action in &plan.actions {
                self.apply(action);
                let limits = &self.asked.rollout;
                if let Some(most) = limits.max_in_flight {
                    assert!(self.in_flight(None) <= most as usize, "too many in flight");
                }
                for budget in &limits.budgets {
                    for target in &self.targets {
                        let there = self.in_flight(Some(&target.rack));
                        assert!(
                            there <= budget.max as usize,
                            "too many in {:?}",
                            target.rack
                        );
                    }
                }
            }
            let opened = self.in_flight(None) - before;
            // Budgets may leave no room for what the planner would open.
            let idle = matches!(plan.actions[..], [] | [Action::OpenTargets { .. }]);
            if idle && opened == 0 {
                return plan.wake;
            }
        }
        panic!("the planner never settles");
    }
}

proptest! {
    #[test]
    fn limits_hold_gates_hold_and_every_deployment_ends(asked in asked()) {
        let fates = asked.fates.clone();
        let mut world = World::new(asked);
        let mut wake = world.plan_until_done();
        for (which, fate, waits) in fates {
            match world.facts.state {
                DeploymentState::Finished | DeploymentState::Paused => break,
                DeploymentState::AwaitingApproval => {
                    // As an operator does who promotes it.
                    world.facts.state = DeploymentState::Active;
                    world.facts.open += 1;
                    wake = world.plan_until_done();
                    continue;
                }
                _ => {}
            }
            let flying: Vec<usize> = (0..world.targets.len())
                .filter(|n| world.targets[*n].state.is_open() && world.targets[*n].state != State::Held)
                .collect();
            if flying.is_empty() || waits == 0 {
                // Nothing is under way, so time has to be what it waits for.
                prop_assert!(!flying.is_empty() || wake.is_some(), "stuck: {:?}", world.facts);
                world.now = wake.unwrap_or(world.now).max(world.now.plus(Duration::from_secs(1)));
            } else {
                let target = *which.get(&flying);
                world.targets[target].state = fate;
            }
            wake = world.plan_until_done();
        }
        // Four hundred steps are more than forty targets, their phases and their soaking need.
        let ended = matches!(world.facts.state, DeploymentState::Finished | DeploymentState::Paused);
        prop_assert!(ended, "it never ends: {:?}", world.facts);
    }
}
