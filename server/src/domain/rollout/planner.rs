//! What a deployment does next: a pure function of what was asked for, counts and time.
//!
//! Only the planner opens phases, opens targets, pauses after failures and finishes a deployment
//! with phases. The store applies its actions in the transaction that read the facts.

use super::{
    Counts, DeploymentState, Phase,
    shape::{Amount, OnFailure, Percent},
};
use crate::{clock::Timestamp, domain::schedule::Gate};

/// What is known about a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseFacts {
    pub phase: Phase,
    pub counts: Counts,
    /// When it reached its success threshold.
    pub passed_at: Option<Timestamp>,
    /// When it had soaked as well.
    pub soaked_at: Option<Timestamp>,
    /// Failures that an operator has accepted by resuming. They do not count any more.
    pub forgiven: u32,
}

/// What is known about a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutFacts {
    pub state: DeploymentState,
    /// Number of the newest open phase; 0 before the first.
    pub open: u32,
    /// In order.
    pub phases: Vec<PhaseFacts>,
    /// Most targets that may be in flight; `None` for no limit.
    pub max_in_flight: Option<u32>,
    /// Whether an operator promotes each phase after the first.
    pub approval: bool,
    /// What happens when too many targets failed.
    pub on_failure: OnFailure,
    /// More devices may still join, so it is not finished when all targets are closed.
    pub lingers: bool,
}

/// A step of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A scheduled deployment becomes active.
    Start,
    OpenPhase(u32),
    /// Up to `at_most` held targets of the phases up to `through` may begin, those of earlier
    /// phases first.
    OpenTargets {
        /// Number of the newest phase to take from.
        through: u32,
        /// Budgets may leave room for fewer, or for none.
        at_most: u32,
    },
    /// The phase reached its success threshold.
    Passed(u32),
    /// The phase has soaked, too.
    Soaked(u32),
    /// Nothing more is opened until an operator decides.
    Pause(PauseReason),
    /// Devices that were updated return to what they ran before.
    RollBack(PauseReason),
    /// An operator is asked to promote the next phase.
    AwaitApproval,
    Finish,
}

/// Why a deployment pauses by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseReason {
    /// More targets failed than are allowed.
    TooManyFailures {
        /// Number of the phase.
        phase: u32,
        /// Targets of it that failed or expired.
        failed: u32,
        /// Targets that count.
        of: u32,
        allowed: Amount,
    },
    /// So many failed that the success threshold is out of reach.
    OutOfReach {
        /// Number of the phase.
        phase: u32,
        /// Targets that failed or expired.
        failed: u32,
        /// Targets that count.
        of: u32,
        /// Share that has to succeed.
        success: Percent,
    },
}

impl std::fmt::Display for PauseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooManyFailures {
                phase,
                failed,
                of,
                allowed,
            } => match allowed {
                Amount::Count(0) => write!(f, "phase {phase}: {failed} of {of} failed"),
                _ => write!(
                    f,
                    "phase {phase}: {failed} of {of} failed, more than the {allowed} allowed"
                ),
            },
            Self::OutOfReach {
                phase,
                failed,
                of,
                success,
            } => write!(
                f,
                "phase {phase}: {failed} of {of} failed, so {success} can no longer succeed"
            ),
        }
    }
}

/// What to do now, and when to plan again if nothing happens before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// When time alone changes the plan.
    pub wake: Option<Timestamp>,
}

impl PhaseFacts {
    /// How many targets the thresholds count, and how many of them failed.
    #[must_use]
    pub fn judged(&self) -> (u32, u32) {
        let counts = &self.counts;
        let failed = counts.failed + counts.expired;
        let forgiven = self.forgiven.min(failed);
        let left = counts.cancelled + counts.superseded + counts.penalised;
        let of = counts.total() - left - forgiven;
        (of, failed - forgiven)
    }

    /// Why this phase, with the number `phase`, has failed.
    fn failure(&self, phase: u32) -> Option<PauseReason> {
        let (of, failed) = self.judged();
        if failed == 0 {
            return None;
        }
        let allowed = self.phase.max_failures;
        if allowed.is_exceeded(failed, of) {
            return Some(PauseReason::TooManyFailures {
                phase,
                failed,
                of,
                allowed,
            });
        }
        let success = self.phase.success?;
        (!success.is_reached(of - failed, of)).then_some(PauseReason::OutOfReach {
            phase,
            failed,
            of,
            success,
        })
    }

    /// Whether it soaks after its success.
    const fn soaks(&self) -> bool {
        !self.phase.soak.is_zero()
    }

    /// Whether the success threshold is reached. Only asked about a phase that has not failed.
    fn is_reached(&self) -> bool {
        match self.phase.success {
            Some(success) => success.is_reached(self.counts.succeeded, self.judged().0),
            None => self.counts.open() == 0,
        }
    }
}

impl RolloutFacts {
    /// All targets by state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for phase in &self.phases {
            all.merge(&phase.counts);
        }
        all
    }

    fn opened(&self) -> &[PhaseFacts] {
        &self.phases[..self.phases.len().min(self.open as usize)]
    }

    fn failure(&self) -> Option<PauseReason> {
        (1..)
            .zip(self.opened())
            .find_map(|(number, phase)| phase.failure(number))
    }
}

/// What a deployment does next. The gate says whether time allows targets to begin: a scheduled
/// start and maintenance windows decide that, and not the phases. Without a time that can be
/// trusted, counts decide alone, and no phase soaks.
#[must_use]
pub fn plan(facts: &RolloutFacts, gate: Gate, now: Option<Timestamp>) -> Plan {
    use DeploymentState as S;
    let all_closed = facts.counts().open() == 0 && !facts.lingers;
    let mut plan = Plan::default();
    match facts.state {
        S::Finished => return plan,
        S::Active | S::AwaitingApproval => {
            if let Some(reason) = facts.failure() {
                if !all_closed {
                    plan.actions.push(Action::Pause(reason));
                }
                match facts.on_failure {
                    OnFailure::Pause => {}
                    OnFailure::Rollback => plan.actions.push(Action::RollBack(reason)),
                }
                if all_closed {
                    plan.actions.push(Action::Finish);
                }
                return plan;
            }
        }
        S::Scheduled | S::Paused | S::Stopping => {}
    }
    if all_closed {
        if matches!(facts.state, S::Active | S::AwaitingApproval) {
            pass_last(facts, &mut plan);
        }
        plan.actions.push(Action::Finish);
        return plan;
    }
    match facts.state {
        S::Paused | S::Stopping | S::Finished => return plan,
        S::Scheduled => {
            if let Gate::Closed { until } = gate {
                plan.wake = until;
                return plan;
            }
            plan.actions.push(Action::Start);
        }
        S::Active | S::AwaitingApproval => {}
    }
    let open = advance(facts, gate, now, &mut plan);
    open_targets(facts, gate, open, &mut plan);
    plan
}

/// Marks the phase that its deployment ends with, which no round may have found in time.
fn pass_last(facts: &RolloutFacts, plan: &mut Plan) {
    let last = facts.opened().last();
    let Some(phase) = last.filter(|phase| phase.is_reached()) else {
        return;
    };
    if phase.passed_at.is_none() {
        plan.actions.push(Action::Passed(facts.open));
    }
    if phase.soaked_at.is_none() && !phase.soaks() {
        plan.actions.push(Action::Soaked(facts.open));
    }
}

/// Marks what the newest phase has reached, and opens the phases that may open. Returns the number
/// of the newest phase then.
fn advance(facts: &RolloutFacts, gate: Gate, now: Option<Timestamp>, plan: &mut Plan) -> u32 {
    let last = facts.phases.len() as u32;
    let mut open = facts.open;
    loop {
        if let Some(phase) = open
            .checked_sub(1)
            .and_then(|index| facts.phases.get(index as usize))
        {
            if phase.passed_at.is_none() {
                // A soak is measured from an instant that is known.
                if !phase.is_reached() || (phase.soaks() && now.is_none()) {
                    return open;
                }
                plan.actions.push(Action::Passed(open));
            }
            if phase.soaked_at.is_none() {
                let soaked = phase.passed_at.or(now).map(|at| at.plus(phase.phase.soak));
                if phase.soaks() && (now.is_none() || now < soaked) {
                    plan.wake = soaked.filter(|_| now.is_some());
                    return open;
                }
                plan.actions.push(Action::Soaked(open));
            }
            if open == last {
                return open;
            }
            if facts.approval {
                if facts.state != DeploymentState::AwaitingApproval {
                    plan.actions.push(Action::AwaitApproval);
                }
                return open;
            }
        }
        if let Gate::Closed { until } = gate {
            plan.wake = until;
            return open;
        }
        open += 1;
        plan.actions.push(Action::OpenPhase(open));
    }
}

/// Opens as many targets as the limit on targets in flight leaves room for.
fn open_targets(facts: &RolloutFacts, gate: Gate, through: u32, plan: &mut Plan) {
    if let Gate::Closed { until } = gate {
        plan.wake = plan.wake.into_iter().chain(until).min();
        return;
    }
    let all = facts.counts();
    let in_flight = all.pending + all.in_progress;
    let room = facts
        .max_in_flight
        .map_or(u32::MAX, |most| most.saturating_sub(in_flight));
    let held: u32 = facts
        .phases
        .iter()
        .take(through as usize)
        .map(|phase| phase.counts.held)
        .sum();
    let at_most = held.min(room);
    if at_most > 0 {
        plan.actions.push(Action::OpenTargets { through, at_most });
    }
}
